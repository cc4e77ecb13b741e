"""What a base expects a packet to say: the tokens and pairs of the memories of its domain, as the coder takes them.

The edge that writes a packet and the centre that reads it make this from the same parts of the same bundle.
"""

from collections.abc import Sequence

import numpy as np

from common.kernels.memory import Memory, merge
from common.wire.expected import Expected, Prior
from common.wire.levels import LEVELS, Bytes
from common.wire.ngrams import SHIFT, TOKEN_MASK, Counts


def prior_of(memories: Sequence[Memory], vocab_size: int) -> Prior:
    """memories: a domain's, over this vocabulary; new territory's are those of its role."""
    known = merge([Memory(memory.tables[:2]) for memory in memories])
    levels = np.zeros(vocab_size, np.uint8)
    if not known.tables:
        return Prior.of(Expected(levels, np.zeros(vocab_size + 1, np.uint32), np.zeros(0, np.uint16), levels[:0]))
    tokens, pairs = known.tables[0], known.tables[1]
    levels[tokens.keys.astype(np.int64)] = _levels(tokens.counts)
    starts = np.searchsorted(pairs.keys >> SHIFT, np.arange(vocab_size + 1, dtype=np.uint64)).astype(np.uint32)
    followers = (pairs.keys & TOKEN_MASK).astype(np.uint16)
    return Prior.of(Expected(levels, starts, followers, _levels(pairs.counts)))


def _levels(counts: Counts) -> Bytes:
    return np.searchsorted(LEVELS.astype(np.uint32), counts, side="right").astype(np.uint8)
