"""From logits and memories to a token, compiled: the mixture under the gate, its logarithm, and the draw.

Each passes over the vocabulary a few times in vector code, and costs a small part of what made the logits.
Shapes: V vocabulary, K memories, (K, ORDERS, 8): each a table of addresses (Memory.addresses).
"""

from typing import Any, Final

import numpy as np

from common.kernels.bearing import mean_direction
from common.kernels.compiled import compiled_fast, exp32, log32, peak
from common.kernels.decode import add_rows
from common.kernels.gate import OCTAVES
from common.kernels.memory import DISCOUNT
from common.kernels.recall import expect, locate, total_of
from common.kernels.spec import ORDERS

LEAST: Final = np.float32(1e-30)  # a probability's logarithm is taken of this at least
BLOCK: Final = 64  # tokens added up at a time where one is drawn: its block is found first
COLDEST: Final = 1e-30  # a temperature below is 0: long before, all but the likeliest have no mass; 1e-39 is no divisor


@compiled_fast
def mix(logits: Any, memories: Any, bases: Any, gate: Any, context: Any, share: float, p: Any) -> None:
    """Adds share * [g_0 softmax(logits) + g_1 p_1(. | context) + ... + g_K p_K(. | context)] to p (V,) float64.

    g: the gate's row (1+K,) for what the last memory knows of the context. logits (V,) float32; bases (K, V): what each
    memory says without a context; context: the last tokens.
    """
    rows, orders = np.empty((len(memories), ORDERS), np.int64), np.empty(len(memories), np.int64)
    for k in range(len(memories)):
        orders[k] = locate(memories[k], context, rows[k])
    last = len(memories) - 1
    known = orders[last]
    total = total_of(memories[last, known - 1], rows[last, known - 1]) if known else 0
    weights = gate[_bucket(known - 1, total)]
    for k in range(len(memories)):
        below = expect(memories[k], rows[k], (1, orders[k]), share * weights[k + 1], DISCOUNT, p)
        base = bases[k]
        for i in range(len(p)):
            p[i] += below * base[i]
    _add_softmax(logits, share * weights[0], p)


@compiled_fast
def _bucket(order: int, total: int) -> int:
    """gate.bucket, of one place."""
    octave = 0
    while total > 1 and octave < OCTAVES - 1:
        total >>= 1
        octave += 1
    return 1 + order * OCTAVES + octave if order >= 0 else 0


@compiled_fast
def _add_softmax(logits: Any, weight: float, p: Any) -> None:
    raised, largest, total = np.empty(len(logits), np.float32), peak(logits), np.float32(0.0)
    for i in range(len(logits)):
        e = exp32(logits[i] - largest)
        raised[i] = e
        total += e
    scale = np.float32(weight / total)
    for i in range(len(logits)):
        p[i] += scale * raised[i]


@compiled_fast
def steered(p: Any, roots: Any, held: Any, gain: float, reach: float, out: Any) -> None:
    """Writes log p + gain * along to out (V,) float32, within 3e-7 of the larger term; but a gain above 0 raises no
    token whose p is under reach times the largest.

    along: how far each token lies along the mean of the directions held (T, 64); roots (64, V): of the tokens' basins.
    """
    along, heading = np.zeros(len(p), np.float32), mean_direction(held).astype(np.float32)
    add_rows(heading, np.arange(len(heading)), roots, along)
    strength = np.float32(gain)
    least = reach * peak(p) if gain > 0 else 0.0
    for i in range(len(p)):
        push = strength * along[i]
        out[i] = log32(max(np.float32(p[i]), LEAST)) + (push if p[i] >= least else min(push, np.float32(0.0)))


@compiled_fast
def pick(log_p: Any, temperature: float, top_p: float, uniform: float) -> Any:
    """`draw` from log p (V,) float32, or from its nucleus; the likeliest token (lowest id on ties) at temperature 0,
    as at any below COLDEST.

    top_p: in (0, 1]; below 1 only the likeliest tokens whose mass reaches it are drawn from (nucleus sampling, Holtzman
    et al. 2020), at least one.
    """
    if temperature < COLDEST:
        token = 0
        for i in range(len(log_p)):
            token = i if log_p[i] > log_p[token] else token
        return token
    return draw(log_p if top_p >= 1 else _nucleus(log_p, temperature, top_p), temperature, uniform)


@compiled_fast
def _nucleus(log_p: Any, temperature: float, top_p: float) -> Any:
    """Log p, and -inf for what is not among the likeliest tokens that together hold top_p of the heated mass."""
    raised, kept = np.empty(len(log_p), np.float32), np.full(len(log_p), -np.inf, np.float32)
    largest, sharpness, total = peak(log_p), np.float32(1.0 / temperature), 0.0
    for i in range(len(log_p)):
        raised[i] = exp32((log_p[i] - largest) * sharpness)
        total += raised[i]
    # All tokens under `least` hold less than what may be missing: few are left to be put in order.
    least, count, some = (1.0 - top_p) * total / len(log_p), 0, np.empty(len(log_p), np.int64)
    for i in range(len(log_p)):
        some[count] = i
        count += raised[i] >= least
    before = 0.0
    for at in np.argsort(-raised[some[:count]], kind="mergesort"):
        if before >= top_p * total * (1.0 - 1e-6):  # what is raised is exact to 3e-7
            break
        kept[some[at]] = log_p[some[at]]
        before += raised[some[at]]
    return kept


@compiled_fast
def draw(log_p: Any, temperature: float, uniform: float) -> int:
    """The token at the share `uniform`, in [0, 1), of the mass of exp(log_p / temperature), log_p (V,) float32."""
    blocks = (len(log_p) + BLOCK - 1) // BLOCK
    raised, mass = np.empty(len(log_p), np.float32), np.empty(blocks, np.float64)
    largest, sharpness, total = peak(log_p), np.float32(1.0 / temperature), 0.0
    for block in range(blocks):
        some, low, high = np.float32(0.0), block * BLOCK, min((block + 1) * BLOCK, len(log_p))
        logs, masses = log_p[low:high], raised[low:high]  # counted from 0, or LLVM 15 makes no vector code of it
        for i in range(len(logs)):
            e = exp32((logs[i] - largest) * sharpness)
            masses[i] = e
            some += e
        mass[block] = some
        total += mass[block]
    left, block = uniform * total, 0
    while block < blocks - 1 and left >= mass[block]:
        left -= mass[block]
        block += 1
    token, stop = block * BLOCK, min((block + 1) * BLOCK, len(log_p)) - 1
    while token < stop and left >= raised[token]:
        left -= raised[token]
        token += 1
    while token > 0 and raised[token] == 0:  # where rounding has led past the last mass
        token -= 1
    return token
