"""The gate: how much of the next token comes from the state and how much from each memory.

One row of weights a bucket. The bucket is what the most specific memory knows of the place: the order of its longest
known context and the octave of that context's total, so that a well-known context is trusted and an unknown one is not.
Learned by EM on fresh text, before that text is counted (Jelinek & Mercer 1980: deleted interpolation).
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from common.errors import Rejected
from common.kernels.spec import ORDERS

Floats = npt.NDArray[np.float64]
Buckets = npt.NDArray[np.int64]

OCTAVES: Final = 8
BUCKETS: Final = 1 + ORDERS * OCTAVES  # 0: the memory knows nothing
PRIOR_TOKENS: Final = 8.0  # chosen: pseudo-counts that hold a bucket to its prior until it has seen text
EM_ROUNDS: Final = 8
LEVELS_PER_OCTAVE: Final = 8.0  # of a row's token count on the wire: one byte reaches 2^31


def bucket(order: npt.ArrayLike, total: npt.ArrayLike) -> Buckets:
    """0 for order -1, else 1 + 8*order + floor(log2 total), the octave capped at 7."""
    octave = np.clip(np.floor(np.log2(np.maximum(total, 1))), 0, OCTAVES - 1)
    found: Buckets = np.where(np.asarray(order) < 0, 0, 1 + np.asarray(order) * OCTAVES + octave).astype(np.int64)
    return found


def prior(experts: int) -> Floats:
    """(BUCKETS, experts) weights before any text. Experts: the state first, then memories, the most specific last.

    Where the last memory knows nothing it gets 2 %, elsewhere its share grows with the order of its context.
    """
    gate = np.empty((BUCKETS, experts))
    for row in range(BUCKETS):
        last = 0.02 if row == 0 else 0.3 + 0.1 * ((row - 1) // OCTAVES)
        rest = 1.0 - last
        gate[row] = (
            [0.4 * rest, *([0.6 * rest / max(experts - 2, 1)] * (experts - 2)), last] if experts > 2 else [rest, last]
        )
    return gate


def responsibilities(experts_NK: Floats, buckets: Buckets, gate: Floats) -> Floats:
    """(BUCKETS, K) sums, over the places of each bucket, of every expert's share in predicting them. Rows add up to
    token counts.
    """
    shares = gate[buckets] * experts_NK
    shares /= shares.sum(1, keepdims=True)
    sums = np.zeros_like(gate)
    np.add.at(sums, buckets, shares)
    return sums


def update(gate: Floats, sums: Floats, prior_tokens: float = PRIOR_TOKENS) -> Floats:
    """One M-step: the gate that the responsibilities ask for, each bucket held by prior_tokens of `gate`, by default
    the one that they were measured under.
    """
    weights = sums + prior_tokens * gate
    learned: Floats = weights / weights.sum(1, keepdims=True)
    return learned


def learn(experts_NK: Floats, buckets: Buckets, gate: Floats, rounds: int = EM_ROUNDS) -> Floats:
    """EM from `gate`; the likelihood of the text never falls (tested), but for the pull of the prior tokens."""
    for _ in range(rounds):
        gate = update(gate, responsibilities(experts_NK, buckets, gate))
    return gate


def to_bytes(sums: Floats) -> bytes:
    """Responsibilities (BUCKETS, K) as BUCKETS * K bytes, row after row: what a packet and a batch carry.

        level | share of expert 0 | ... | share of expert K-2        level = round(8 log2(1 + n)), n the row's tokens

    1 + n up to 2^31 within 4.5 %; shares, each in 1/255 of the row, within 0.2 %, the last expert's, which is what they
    leave, within as much for each of the others.
    """
    tokens = sums.sum(1)
    level = np.minimum(np.rint(LEVELS_PER_OCTAVE * np.log2(1.0 + tokens)), 255)
    shares = np.divide(sums[:, :-1], tokens[:, None], out=np.zeros_like(sums[:, :-1]), where=tokens[:, None] > 0)
    return np.column_stack([level, np.rint(255 * shares)]).astype(np.uint8).tobytes()


def from_bytes(data: bytes, experts: int) -> Floats:
    """The inverse of `to_bytes`, (BUCKETS, experts). Raises Rejected("bad_gate"): another size, shares above one."""
    if experts < 1 or len(data) != BUCKETS * experts:
        raise Rejected("bad_gate", f"{len(data)} bytes of gate statistics; {experts} experts take {BUCKETS * experts}")
    rows = np.frombuffer(data, np.uint8).reshape(BUCKETS, experts).astype(np.float64)
    tokens, shares = 2.0 ** (rows[:, 0] / LEVELS_PER_OCTAVE) - 1.0, rows[:, 1:] / 255
    # Each of the rounded shares may be half a step too large.
    if (shares.sum(1) > 1.0 + 0.5 * experts / 255).any():
        raise Rejected("bad_gate", "the shares of a bucket's experts add up to more than one: they split its tokens")
    last = np.maximum(1.0 - shares.sum(1), 0.0)
    split = np.column_stack([shares, last])
    found: Floats = tokens[:, None] * split / split.sum(1, keepdims=True)
    return found
