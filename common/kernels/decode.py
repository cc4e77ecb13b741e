"""The state's decoder as one compiled function: some tokens further in one text, or one in each of several.

    input row -> [ attention over the cache -> MLP ] x depth -> hidden, basin

Knows plain arrays only; engine.py lays them out. Each matrix is stored (in, out), so that a product adds scaled rows:
vector code without a reduction, and an input that is zero (half of a squared-ReLU layer) costs nothing. Matrices whose
every number is a float16, as a released state's are, are kept as float16: a step is as fast as they can be fetched.
Keys and values lie (head_width, context): long rows, whatever the width of a head.
Shapes: B rows (texts), D width, S slots of a cache.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from common.kernels.compiled import compiled_fast, exp32, peak, widen

Array = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Ids = npt.NDArray[np.int32]
M = npt.NDArray[np.float32] | npt.NDArray[np.uint16]

NORM_EPSILON: Final = np.float32(np.finfo(np.float32).eps)
UNIT_EPSILON: Final = np.float32(1e-12)
BLOCK: Final = 64  # tokens read at a time: the working set of more would leave the processor's nearest caches
WHOLE: Final = 64  # places attended to at a time: what one turn of a vector loop takes
NEVER: Final = np.float32(-1e30)  # the score of a place that is not there yet


class Body(NamedTuple):
    """From tokens to what a state holds (L layers, V vocab, H heads, W head_width, T context).

    M: a matrix, float32 or the uint16 bits of float16; all of a body and its head alike. The rest is float32.
    """

    inputs: Array  # (V, D) embedding and basin projection of each token, added up
    cos: Array  # (T, W/2)
    sin: Array
    tau: Array  # (L, H), exponentiated
    qkv: M  # (L, D, 3D)
    out: M  # (L, D, D)
    up: M  # (L, D, 4D)
    down: M  # (L, 4D, D)
    basin: M  # (D, 64)
    basin_bias: Array  # (64,)


class Head(NamedTuple):
    """From what a state holds to the next token's logits."""

    leave: M  # (D, D)
    table: M  # (D+64, V) embeddings, and below them the roots of the tokens' basins
    bias: Array  # (V,)
    gain: np.float32  # of the root of the basin: the coupling


@compiled_fast
def advance(
    w: Body,
    keys: Array,
    values: Array,
    known: Ids,
    lengths: Indices,
    slots: Indices,
    places: Indices,
    ids: Ids,
) -> tuple[Array, Array]:
    """Reads ids (B,) into slots (B,) of the cache at places (B,). Rows of one slot are consecutive tokens, in order.

    keys, values: (S, depth, H, W, T), the layers in turn, finite beyond what was read too. known (S, T), lengths (S,):
    the ids in the cache and their number, set to what was read. Returns hidden (B, D) and basins (B, 64).
    """
    rows, width = len(ids), w.inputs.shape[1]
    x, normal = np.empty((rows, width), np.float32), np.empty((rows, width), np.float32)
    qkv, seen = np.empty((rows, 3 * width), np.float32), np.empty((rows, width), np.float32)
    inner = np.empty((rows, 4 * width), np.float32)
    positive, every = np.empty(4 * width, np.int64), np.arange(max(4 * width, keys.shape[4]))
    for b in range(rows):
        # Nothing else would stop an id or a place from outside: compiled code reads what lies beyond.
        assert 0 <= ids[b] < len(w.inputs)
        assert 0 <= places[b] < min(keys.shape[4], len(w.cos))
        assert 0 <= slots[b] < len(keys)
        known[slots[b], places[b]], lengths[slots[b]] = ids[b], places[b] + 1
        for i in range(width):
            x[b, i] = w.inputs[ids[b], i]
    for depth in range(keys.shape[1]):
        layer = depth % len(w.qkv)
        _rms_norm(x, normal)
        qkv.fill(0)
        _add_product(normal, w.qkv[layer], qkv, every)
        for b in range(rows):
            s = slots[b]
            _attend(w, w.tau[layer], qkv[b], keys[s, depth], values[s, depth], places[b], seen[b], every)
        _add_product(seen, w.out[layer], x, every)
        _rms_norm(x, normal)
        inner.fill(0)
        _add_product(normal, w.up[layer], inner, every)
        for b in range(rows):
            count = _square_positive(inner[b], positive)
            add_rows(inner[b, :count], positive, w.down[layer], x[b])
    _rms_norm(x, normal)
    basins = np.empty((rows, w.basin.shape[1]), np.float32)
    for b in range(rows):
        for i in range(len(w.basin_bias)):
            basins[b, i] = w.basin_bias[i]
    _add_product(normal, w.basin, basins, every)
    for b in range(rows):
        softmax(basins[b], basins[b])
    return normal, basins


@compiled_fast
def speak(w: Head, hidden: Array, basin: Array, logits: Array) -> None:
    """Writes the next token's logits of one place to logits (V,), coupling included."""
    width, every = len(hidden), np.arange(len(hidden) + len(basin))
    spoken = np.zeros(len(every), np.float32)
    add_rows(hidden, every, w.leave, spoken[:width])
    for i in range(len(basin)):
        spoken[width + i] = w.gain * np.sqrt(basin[i])
    for i in range(len(logits)):
        logits[i] = w.bias[i]
    add_rows(spoken, every, w.table, logits)


@compiled_fast
def read_on(
    w: Body, keys: Array, values: Array, known: Ids, lengths: Indices, slot: int, ids: Ids
) -> tuple[Array, Array]:
    """`advance` by ids (N,) in one text, BLOCK at a time: hidden (N, D) and basins (N, 64). There is room for them."""
    hidden, basins = np.empty((len(ids), w.inputs.shape[1]), np.float32), np.empty((len(ids), 64), np.float32)
    for low in range(0, len(ids), BLOCK):
        high = min(low + BLOCK, len(ids))
        places = np.arange(lengths[slot], lengths[slot] + high - low)
        h, b = advance(w, keys, values, known, lengths, np.full(high - low, slot), places, ids[low:high])
        for i in range(low, high):
            hidden[i], basins[i] = h[i - low], b[i - low]
    return hidden, basins


@compiled_fast
def listen(
    w: Body, head: Head, keys: Array, values: Array, known: Ids, lengths: Indices, ids: Ids
) -> tuple[Array, Floats, Array]:
    """Reads ids (N,), N >= 1, into an empty cache's first text, which has room for them: basins (N, 64), the log
    probability of each id after the first as what comes next, (N-1,), and what comes after the last, logits (V,).
    """
    hidden, basins = read_on(w, keys, values, known, lengths, 0, ids)
    rates, logits = np.empty(len(ids) - 1), np.empty(len(head.bias), np.float32)
    for n in range(len(ids)):
        speak(head, hidden[n], basins[n], logits)
        if n + 1 < len(ids):
            largest, total = peak(logits), np.float32(0.0)
            for i in range(len(logits)):
                total += exp32(logits[i] - largest)
            rates[n] = np.float64(logits[ids[n + 1]] - largest) - np.log(np.float64(total))
    return basins, rates, logits


@compiled_fast
def make_room(w: Body, keys: Array, values: Array, known: Ids, lengths: Indices, slot: int) -> None:
    """Forgets the older half of a full window, and reads the newer again as if it were all."""
    length, half = lengths[slot], keys.shape[4] // 2
    kept = known[slot, length - half : length].copy()
    lengths[slot] = 0
    read_on(w, keys, values, known, lengths, slot, kept)


@compiled_fast
def _attend(
    w: Body,
    tau: Array,
    qkv: Array,
    keys: Array,
    values: Array,
    length: int,
    seen: Array,
    every: Indices,
) -> None:
    """One text's attention in one block: writes key and value at place `length`, what its heads saw to seen (D,)."""
    heads, head_width = keys.shape[0], keys.shape[1]
    width, half, stop = heads * head_width, head_width // 2, length + 1
    q, k = np.empty(head_width, np.float32), np.empty(head_width, np.float32)
    past = np.empty(min(stop + -stop % WHOLE, keys.shape[2]), np.float32)
    for head in range(heads):
        at = head * head_width
        for i in range(half):
            c, s = w.cos[length, i], w.sin[length, i]
            a, b = qkv[at + i], qkv[at + half + i]
            q[i], q[half + i] = a * c - b * s, b * c + a * s
            a, b = qkv[width + at + i], qkv[width + at + half + i]
            k[i], k[half + i] = a * c - b * s, b * c + a * s
        scale_q, scale_k = tau[head] / _length(q), np.float32(1.0) / _length(k)
        for i in range(head_width):
            q[i] *= scale_q
            keys[head, i, length] = k[i] * scale_k
            values[head, i, length] = qkv[2 * width + at + i]
        past.fill(0)
        add_rows(q, every, keys[head], past)
        for i in range(stop, len(past)):
            past[i] = NEVER
        softmax(past, past)
        _weigh(past, values[head], seen[at : at + head_width])


@compiled_fast
def _length(z: Array) -> np.float32:
    total = np.float32(0.0)
    for i in range(len(z)):
        total += z[i] * z[i]
    return max(np.sqrt(total), UNIT_EPSILON)


@compiled_fast
def _rms_norm(x: Array, out: Array) -> None:
    for b in range(len(x)):
        total = np.float32(0.0)
        for i in range(x.shape[1]):
            total += x[b, i] * x[b, i]
        scale = np.float32(1.0) / np.sqrt(total / np.float32(x.shape[1]) + NORM_EPSILON)
        for i in range(x.shape[1]):
            out[b, i] = x[b, i] * scale


@compiled_fast
def softmax(x: Array, out: Array) -> None:
    """Writes the softmax of x (N,) to out (N,), which may be the same array."""
    largest, total = peak(x), np.float32(0.0)
    for i in range(len(x)):
        e = exp32(x[i] - largest)
        out[i] = e
        total += e
    scale = np.float32(1.0) / total
    for i in range(len(x)):
        out[i] *= scale


@compiled_fast
def _add_product(x: Array, m: M, y: Array, every: Indices) -> None:
    """Adds x (B, K) @ m (K, N) to y (B, N), text by text: at these widths m stays in the cache meanwhile."""
    for b in range(len(x)):
        add_rows(x[b], every, m, y[b])


@compiled_fast
def _weigh(x: Array, m: Array, y: Array) -> None:
    """Writes m (N, >= K) @ x (K,) to y (N,), eight sums at a time: for few and long rows."""
    size = len(y) - len(y) % 8
    for n in range(0, size, 8):
        s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = np.float32(0.0)
        for i in range(len(x)):
            s0, s1, s2, s3 = (
                s0 + x[i] * m[n, i],
                s1 + x[i] * m[n + 1, i],
                s2 + x[i] * m[n + 2, i],
                s3 + x[i] * m[n + 3, i],
            )
            s4, s5, s6, s7 = (
                s4 + x[i] * m[n + 4, i],
                s5 + x[i] * m[n + 5, i],
                s6 + x[i] * m[n + 6, i],
                s7 + x[i] * m[n + 7, i],
            )
        y[n], y[n + 1], y[n + 2], y[n + 3], y[n + 4], y[n + 5], y[n + 6], y[n + 7] = s0, s1, s2, s3, s4, s5, s6, s7
    for n in range(size, len(y)):
        total = np.float32(0.0)
        for i in range(len(x)):
            total += x[i] * m[n, i]
        y[n] = total


@compiled_fast
def _square_positive(x: Array, at: Indices) -> int:
    """Squared ReLU: how many of x (N,) are positive; their squares and places move to the front of x and at (N,)."""
    count = 0
    for i in range(len(x)):
        value = x[i]
        x[count], at[count] = value * value, i
        count += value > 0
    return count


@compiled_fast
def add_rows(x: Array, at: Indices, m: M, y: Array) -> None:
    """Adds the sum of x[i] m[at[i]], x (K,), to y (N,), m (K, >= N): eight rows at a time, y read and written once."""
    size = len(x) - len(x) % 8
    for i in range(0, size, 8):
        a0, a1, a2, a3, a4, a5, a6, a7 = x[i], x[i + 1], x[i + 2], x[i + 3], x[i + 4], x[i + 5], x[i + 6], x[i + 7]
        r0, r1, r2, r3 = m[at[i]], m[at[i + 1]], m[at[i + 2]], m[at[i + 3]]
        r4, r5, r6, r7 = m[at[i + 4]], m[at[i + 5]], m[at[i + 6]], m[at[i + 7]]
        for j in range(len(y)):
            low = (a0 * widen(r0[j]) + a1 * widen(r1[j])) + (a2 * widen(r2[j]) + a3 * widen(r3[j]))
            high = (a4 * widen(r4[j]) + a5 * widen(r5[j])) + (a6 * widen(r6[j]) + a7 * widen(r7[j]))
            y[j] += low + high
    for i in range(size, len(x)):
        a, r = x[i], m[at[i]]
        for j in range(len(y)):
            y[j] += a * widen(r[j])
