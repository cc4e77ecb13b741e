"""A bundle on trial: loaded, made to speak, and held against text that taught nobody anything.

Pure. The probe texts are the interactions that were kept out of learning. A candidate that does not load or does not
speak is refused with its reason; one that reads the probes worse than the constellation it would replace, by more than
WORSE_LIMIT, is refused too. With too little probe text to tell, the publisher's gates are believed, and that is said.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from common.constellation import parts as bundle_parts
from common.constellation.constellation import Constellation
from common.coordizer.artifacts import EOS
from common.errors import Corrupt, Rejected
from services.edge.pairs import read_both

WORSE_LIMIT: Final = 0.01  # settled (issue: old domains must not get worse by more than 1 %)
PROBE_MIN_BYTES: Final = 2048  # chosen: below it the noise between two readings is larger than the limit
PROBE_MAX_BYTES: Final = 32_768  # bounds a trial to seconds; the newest texts are read
SMOKE_TOKENS: Final = 2


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """before, after: bits per byte on the probes, None when not read. constellation: the candidate's, if it loads."""

    verdict: Literal["applied", "refused"]
    reason: str
    before: float | None
    after: float | None
    constellation: Constellation | None


def try_bundle(current: Constellation | None, parts: Mapping[str, bytes], probes: Sequence[str]) -> Trial:
    """Whether to swap `current` (None: there is none yet) for the constellation of `parts`. probes: newest first."""
    try:
        candidate = bundle_parts.load(parts, current)
        _smoke(candidate)
    except (Rejected, Corrupt) as error:
        return Trial("refused", f"the bundle does not work here: {error}", None, None, None)
    texts = enough(probes)
    size_bytes = sum(len(text.encode()) for text in texts)
    if current is None or size_bytes < PROBE_MIN_BYTES:
        believed = "no bundle to compare with" if current is None else f"{size_bytes} bytes of probe text"
        return Trial("applied", f"{believed}: on the publisher's gates", None, None, candidate)
    before, after = bits_per_byte(current, candidate, texts)
    if not after <= before * (1.0 + WORSE_LIMIT):
        reason = (
            f"{after:.4f} bits per byte on own probe text, {before:.4f} before; the limit is {WORSE_LIMIT:.0%} worse"
        )
        return Trial("refused", reason, before, after if math.isfinite(after) else None, candidate)
    return Trial("applied", f"tried on {size_bytes} bytes of own probe text", before, after, candidate)


def enough(probes: Sequence[str]) -> list[str]:
    """The newest probes, up to PROBE_MAX_BYTES."""
    taken, size_bytes = [], 0
    for text in probes:
        size_bytes += len(text.encode())
        if size_bytes > PROBE_MAX_BYTES:
            break
        taken.append(text)
    return taken


def bits_per_byte(before: Constellation, after: Constellation, texts: Sequence[str]) -> tuple[float, float]:
    """Code length of texts under each (read_both); one that was asked again and again is read once, and counts as often
    as it was asked.
    """
    read = {text: read_both(before, after, text) for text in dict.fromkeys(texts)}
    size_bytes = sum(len(text.encode()) for text in texts)
    return sum(read[text][0] for text in texts) / size_bytes, sum(read[text][1] for text in texts) / size_bytes


def _smoke(candidate: Constellation) -> None:
    """Every domain reads and speaks a token or two. Raises Rejected("bad_constellation")."""
    prompt = np.array([EOS, ord("a")], np.int32)
    rng = np.random.default_rng(0)
    for name in sorted(candidate.domains):
        said = list(candidate.speak(prompt, {name: 1.0}, max_tokens=SMOKE_TOKENS, temperature=1.0, rng=rng))
        if not math.isfinite(candidate.bits(prompt, name)) or not all(np.isfinite(step.basin).all() for step in said):
            raise Rejected("bad_constellation", f"domain {name} does not read or speak: its kernel gives no number")
