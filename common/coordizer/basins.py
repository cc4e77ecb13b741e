"""Basins: where tokens and texts lie among the 64 cells.

A token's basin is P(cell | token), from probabilistic latent semantic analysis (PLSA; Hofmann 1999) over windows of
labelled documents: each window is a mixture of cells, each cell a distribution over tokens. The domains give it its
structure: a window of a role mixes only that role's faculties and the shared ones, so the cells of a faculty learn
only from the roles that own it. Every role counts the same, however much text it has.

The same pass, over bytes and their neighbours, with all cells open, gives bytes the basins that merging starts from.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from common.constants import CELLS, CELLS_PER_FACULTY, FACULTIES, ROLE_FACULTIES, ROLES, SHARED_FACULTIES, Role
from common.coordizer.artifacts import count_distinct
from common.coordizer.merges import compiled
from common.errors import Rejected
from common.geometry.means import frechet_mean
from common.geometry.simplex import Array, from_float16, normalise, slerp, to_float16

WINDOW_TOKENS: Final = 256
ITERATIONS: Final = 30
FLOOR: Final = 0.02  # share of the uniform basin in every token's: no cell is impossible
PRIOR_TOKENS: Final = 1.0  # chosen: a token's midpoint weighs as much as one occurrence
_BYTE_ITERATIONS: Final = 30
_TINY: Final = np.float32(1e-30)


class Windows(NamedTuple):
    """Token counts by window, sparse: window i holds entries starts[i] to starts[i + 1]."""

    starts: npt.NDArray[np.int64]  # (N + 1,)
    token: npt.NDArray[np.int32]  # (entries,)
    counts: npt.NDArray[np.float32]  # (entries,)


def windows(ids: npt.NDArray[np.int32], size: int = WINDOW_TOKENS) -> Windows:
    """Count the tokens of each window of `size` tokens; the last may be shorter."""
    key = (np.arange(len(ids), dtype=np.int64) // size << 32) | ids
    entries, count = np.unique(key, return_counts=True)
    number = -(-len(ids) // size)
    starts = np.searchsorted(entries >> 32, np.arange(number + 1))
    return Windows(starts.astype(np.int64), (entries & 0xFFFFFFFF).astype(np.int32), count.astype(np.float32))


def role_cells(role: Role) -> npt.NDArray[np.int64]:
    """The cells that a role's text may speak of: its own faculties' and the shared ones', ascending."""
    open_ = {*ROLE_FACULTIES[role], *SHARED_FACULTIES}
    firsts = [CELLS_PER_FACULTY * place for place, faculty in enumerate(FACULTIES) if faculty in open_]
    return np.concatenate([np.arange(first, first + CELLS_PER_FACULTY) for first in firsts])


@compiled
def _expect(data: Windows, mixture: Any, given: Any, expected: Any) -> None:
    """One EM pass: fill `expected` (V, K) with the expected counts, and move each window's mixture (N, K).

    given: (V, K) P(token | cell), float32. K is a multiple of 8: eight sums side by side keep the order of the
    additions, and with it every bit, the same on every machine.
    """
    cells = given.shape[1]
    moved = np.empty(cells, np.float32)
    for window in range(len(data.starts) - 1):
        old = mixture[window]
        moved[:] = 0.0
        for entry in range(data.starts[window], data.starts[window + 1]):
            row = given[data.token[entry]]
            s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = np.float32(0.0)
            for k in range(0, cells, 8):
                s0 += old[k] * row[k]
                s1 += old[k + 1] * row[k + 1]
                s2 += old[k + 2] * row[k + 2]
                s3 += old[k + 3] * row[k + 3]
                s4 += old[k + 4] * row[k + 4]
                s5 += old[k + 5] * row[k + 5]
                s6 += old[k + 6] * row[k + 6]
                s7 += old[k + 7] * row[k + 7]
            share = data.counts[entry] / (((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7)) + _TINY)
            target = expected[data.token[entry]]
            for k in range(cells):
                part = share * old[k] * row[k]
                target[k] += part
                moved[k] += part
        total = np.float32(0.0)
        for k in range(cells):
            total += moved[k]
        for k in range(cells):
            old[k] = moved[k] / (total + _TINY)


def plsa(
    data: Mapping[Role, Windows],
    start: Array,
    *,
    seed: int,
    iterations: int = ITERATIONS,
    progress: Callable[[float], None] | None = None,
) -> Array:
    """P(cell | token) from windows by role: (V, 64) float64 rows on the simplex.

    start: (V, 64) first basins (midpoints): where EM starts, and what a rare token keeps leaning to. seed breaks the
    symmetry of the cells. Deterministic. Raises Rejected("no_documents").
    """
    data = {role: data[role] for role in ROLES if role in data and len(data[role].token)}
    if not data:
        raise Rejected("no_documents", "basins are learned from text: give at least one document that is not empty")
    rng = np.random.default_rng(seed)
    given = (start * rng.uniform(0.1, 1.1, start.shape)).astype(np.float32)
    mixture = {
        role: rng.uniform(0.5, 1.5, (len(part.starts) - 1, len(role_cells(role)))).astype(np.float32)
        for role, part in data.items()
    }
    scale = {role: np.float32(len(start) / part.counts.sum(dtype=np.float64)) for role, part in data.items()}
    expected = np.zeros_like(given)
    for iteration in range(iterations):
        given /= given.sum(axis=0, keepdims=True, dtype=np.float64) + 1e-30
        expected = np.zeros_like(given)
        for role, part in data.items():
            cells = role_cells(role)
            counted = np.zeros((len(start), len(cells)), np.float32)
            _expect(part, mixture[role], np.ascontiguousarray(given[:, cells]), counted)
            expected[:, cells] += counted * scale[role]
        given = expected.copy()
        if progress is not None:
            progress((iteration + 1) / iterations)
    occurrence = np.mean([float(scale[role]) for role in data])
    joint = expected + PRIOR_TOKENS * occurrence * start
    return floored(joint)


def floored(weights: npt.NDArray[Any]) -> Array:
    """Rows divided by their sum, then mixed with FLOOR of the uniform basin."""
    return (1.0 - FLOOR) * normalise(np.asarray(weights, np.float64)) + FLOOR / CELLS


def byte_basins(
    raw: npt.NDArray[np.uint8], lengths: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], *, seed: int
) -> Array:
    """First basins of the 256 bytes: PLSA over each byte's left and right neighbours inside words.

    raw: all words behind one another; lengths, counts: (words,). A byte that never has a neighbour keeps its random
    start. Returns (256, 64) rows on the simplex; exact counts, so the words' order does not matter.
    """
    rng = np.random.default_rng(seed)
    given = rng.gamma(1.0, 1.0, (256, CELLS)).astype(np.float32)
    start = given.astype(np.float64)
    ends = np.zeros(len(raw), bool)
    ends[np.cumsum(lengths) - 1] = True
    left = np.flatnonzero(~ends)
    pair = raw[left].astype(np.int64) << 8 | raw[left + 1]
    follows = np.bincount(pair, weights=np.repeat(counts, lengths)[left], minlength=1 << 16).reshape(256, 256)
    contexts = np.log1p(np.concatenate([follows, follows.T])).astype(np.float32)
    rows, columns = np.nonzero(contexts)
    starts = np.searchsorted(rows, np.arange(len(contexts) + 1)).astype(np.int64)
    data = Windows(starts, columns.astype(np.int32), contexts[rows, columns])
    mixture = rng.uniform(0.5, 1.5, (len(contexts), CELLS)).astype(np.float32)
    expected = np.zeros_like(given)
    for _ in range(_BYTE_ITERATIONS):
        given /= given.sum(axis=0, keepdims=True, dtype=np.float64) + 1e-30
        expected = np.zeros_like(given)
        _expect(data, mixture, given, expected)
        given = expected.copy()
    return floored(expected + 1e-3 * start)


def distinct(basins: Array) -> npt.NDArray[np.float16]:
    """Basins as stored, float16, no two rows equal.

    Of equal rows the first stays; each later one moves along the geodesic to the vertex of cell (id mod 64), by 1 % of
    the way at the first try, 2 % at the second, and so on until it is alone: no randomness, and never far.
    """
    stored = to_float16(basins)
    step = 0
    while count_distinct(stored) < len(stored):
        step += 1
        assert step < 100, "equal rows move to 64 different vertices and by growing steps"
        _, first, inverse = np.unique(stored, axis=0, return_index=True, return_inverse=True)
        twins = np.flatnonzero(first[inverse.reshape(-1)] != np.arange(len(stored)))
        vertices = np.eye(CELLS)[twins % CELLS]
        stored[twins] = to_float16(slerp(from_float16(stored[twins]), vertices, 0.01 * step))
    return stored


def text_basin(
    ids: npt.NDArray[np.int32], basins: npt.NDArray[np.float16], weights: npt.NDArray[np.float64] | None = None
) -> Array:
    """The weighted Fréchet mean of the tokens' basins, (64,).

    ids: (T,); basins: (V, 64); weights: (V,) >= 0, how much each token counts, 1 by default. Raises
    Rejected("no_tokens") for an empty text, which lies nowhere.
    """
    if len(ids) == 0:
        raise Rejected("no_tokens", "an empty text has no basin: give at least one character")
    tokens, counts = np.unique(ids, return_counts=True)
    share = counts if weights is None else counts * weights[tokens]
    return frechet_mean(from_float16(basins[tokens]), share.astype(np.float64))
