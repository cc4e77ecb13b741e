"""Whether a text goes round in a loop: one token, or a phrase, said again and again.

Kappa sees the first kind alone: the state turns with the phrase, and its directions spread. But given the place in the
phrase they do not: there the state is held without end, and kappa is that of a perfect loop.

>>> import numpy as np
>>> phrase = np.arange(20, dtype=np.int32)
>>> looping(np.tile(phrase, 3)), looping(np.arange(60, dtype=np.int32))
(True, False)
"""

from typing import Any, Final

from common.kernels.compiled import compiled

LOOP_TOKENS: Final = 32  # chosen: no held-out text of 1,022 loops for longer (docs/experiments.md)
LOOP_PERIOD_MAX: Final = 32
LOOP_READS: Final = LOOP_TOKENS + LOOP_PERIOD_MAX


@compiled
def looping(ids: Any) -> bool:
    """Whether each of the last 32 tokens of a text (N,) is the one that stood p before it, for one p up to 32."""
    size = len(ids)
    for period in range(1, min(LOOP_PERIOD_MAX, size - LOOP_TOKENS) + 1):
        at = size - 1
        while at >= size - LOOP_TOKENS and ids[at] == ids[at - period]:
            at -= 1
        if at < size - LOOP_TOKENS:
            return True
    return False
