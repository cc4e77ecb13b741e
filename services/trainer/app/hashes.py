"""The trainer's hashes at the broker, beside the batches."""

from typing import Final

from common.runtime import streams

CANDIDATE: Final = streams.side_key(streams.BATCHES, "candidate")
LAST: Final = "last"  # a field of it: the id of the candidate sent last
GROWN: Final = "grown"  # another: the names of the merges in it
JOB: Final = "job"  # a third: which job of RunPod's makes the next one (runpod.py)
FAILED: Final = streams.side_key(streams.BATCHES, "failed")  # merges that failed, by name (proposals.py)
