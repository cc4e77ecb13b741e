"""Basins: where tokens lie among the 64 cells.

A token's basin is P(cell | token), from probabilistic latent semantic analysis (PLSA; Hofmann 1999) over windows of
labelled documents: each window is a mixture of cells, each cell a distribution over tokens. The domains give it its
structure: a window of a role mixes only that role's faculties and the shared ones, so the cells of a faculty learn
only from the roles that own it. Every role counts the same, however much text it has.

The same pass, over bytes and their neighbours, with all cells open, gives bytes the basins that merging starts from.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from common.constants import CELLS, CELLS_PER_FACULTY, FACULTIES, ROLE_FACULTIES, ROLES, SHARED_FACULTIES, Role
from common.coordizer.compiled import compiled
from common.errors import Rejected
from common.geometry.simplex import Array, from_float16, normalise, slerp, to_float16

WINDOW_TOKENS: Final = 256
ITERATIONS: Final = 10  # chosen: 10 to 30 route alike within noise
FLOOR: Final = 0.01  # chosen: share of the uniform basin in every token's, so that no cell is impossible
BROADNESS: Final = 0.7  # chosen, measured: share of a role's part of a token that spreads over all of the role's cells
PRIOR_TOKENS: Final = 1.0  # chosen: a token's midpoint weighs as much as one occurrence
BYTE_FLOOR: Final = 0.5  # chosen: the same for bytes; without it most lie near π apart, and λ costs compression
_BYTE_ITERATIONS: Final = 30
_STEPS_MAX: Final = 30
_TINY: Final = np.float32(1e-30)

Cells = npt.NDArray[np.int64]


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


def _cells_of(faculties: Collection[str]) -> Cells:
    firsts = [CELLS_PER_FACULTY * place for place, faculty in enumerate(FACULTIES) if faculty in faculties]
    return np.concatenate([np.arange(first, first + CELLS_PER_FACULTY) for first in firsts])


def own_cells(role: Role) -> Cells:
    """The cells of the faculties that a role owns alone, ascending."""
    return _cells_of(ROLE_FACULTIES[role])


def role_cells(role: Role) -> Cells:
    """The cells that a role's text may speak of: its own faculties' and the shared ones', ascending."""
    return _cells_of({*ROLE_FACULTIES[role], *SHARED_FACULTIES})


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
    threads: int = 1,
    progress: Callable[[float], None] | None = None,
) -> Array:
    """P(cell | token) = sum over roles of P(role | token) P(cell | token, role), from windows by role.

    data: token counts of each role's windows; start: (V, 64) first basins (midpoints): where EM starts, and what a rare
    token keeps leaning to; seed breaks the symmetry of the cells. Returns (V, 64) float64 rows on the simplex.
    Deterministic, whatever the number of threads. Raises Rejected("no_documents").
    """
    groups = [(data[role], role_cells(role)) for role in ROLES if role in data and len(data[role].token)]
    if not groups:
        raise Rejected("no_documents", "basins are learned from text: give at least one document that is not empty")
    rng = np.random.default_rng(seed)
    first = start * rng.uniform(0.1, 1.1, start.shape)
    joint = np.zeros_like(start)
    for (part, cells), counted in zip(groups, _fit(groups, first, rng, iterations, threads, progress), strict=True):
        occurrence = 1.0 / part.counts.sum(dtype=np.float64)
        share = counted.sum(axis=1, keepdims=True) / len(cells)
        joint[:, cells] += (1.0 - BROADNESS) * counted + BROADNESS * share
        joint += PRIOR_TOKENS * occurrence / len(groups) * start
    return floored(joint)


def _fit(
    groups: Sequence[tuple[Windows, Cells]],
    first: Array,
    rng: np.random.Generator,
    iterations: int,
    threads: int = 1,
    progress: Callable[[float], None] | None = None,
) -> list[Array]:
    """Expectation maximisation: P(token, cell | group) as (V, K) for each group, whose windows mix its K cells only.

    Groups weigh the same. first: (V, 64), > 0, proportional to P(cell | token) before anything is known.
    """
    mixtures = [rng.uniform(0.5, 1.5, (len(part.starts) - 1, len(cells))).astype(np.float32) for part, cells in groups]
    scaled = [part._replace(counts=part.counts / part.counts.sum(dtype=np.float32)) for part, _ in groups]
    expected = [np.empty((len(first), len(cells)), np.float32) for _, cells in groups]
    blocks = [cells[::CELLS_PER_FACULTY].tolist() for _, cells in groups]  # slices of a faculty copy faster than cells
    given = first.astype(np.float32)

    def expect(number: int) -> None:
        open_ = np.concatenate([given[:, at : at + CELLS_PER_FACULTY] for at in blocks[number]], axis=1)
        expected[number].fill(0.0)
        _expect(scaled[number], mixtures[number], open_, expected[number])

    pool = ThreadPoolExecutor(threads)  # a group a thread: no sum is ever split, so any number gives the same bits
    for iteration in range(iterations):
        given /= given.sum(axis=0) + _TINY
        list(pool.map(expect, range(len(groups))))
        given.fill(0.0)
        for starts, counted in zip(blocks, expected, strict=True):
            for place, at in enumerate(starts):
                own = slice(place * CELLS_PER_FACULTY, (place + 1) * CELLS_PER_FACULTY)
                given[:, at : at + CELLS_PER_FACULTY] += counted[:, own]
        if progress is not None:
            progress((iteration + 1) / iterations)
    pool.shutdown()
    return [counted.astype(np.float64) for counted in expected]


def floored(weights: Array, floor: float = FLOOR) -> Array:
    """Rows divided by their sum, then mixed with a share `floor` of the uniform basin."""
    return np.asarray((1.0 - floor) * normalise(weights) + floor / CELLS)


def byte_basins(
    raw: npt.NDArray[np.uint8], lengths: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], *, seed: int
) -> Array:
    """First basins of the 256 bytes: PLSA over each byte's left and right neighbours inside words, all cells open.

    raw: all words behind one another; lengths, counts: (words,). A byte that never has a neighbour keeps its random
    start. Returns (256, 64) rows on the simplex; exact counts, so the words' order does not matter.
    """
    rng = np.random.default_rng(seed)
    first = rng.gamma(1.0, 1.0, (256, CELLS)) + 1e-3
    left = np.ones(len(raw), bool)
    left[np.cumsum(lengths) - 1] = False
    at = np.flatnonzero(left)
    pair = raw[at].astype(np.int64) << 8 | raw[at + 1]
    follows = np.bincount(pair, weights=np.repeat(counts, lengths)[at], minlength=1 << 16).reshape(256, 256)
    contexts = np.log1p(np.concatenate([follows, follows.T])).astype(np.float32)
    rows, columns = np.nonzero(contexts)
    if len(rows) == 0:
        return floored(first, BYTE_FLOOR)
    starts = np.searchsorted(rows, np.arange(len(contexts) + 1)).astype(np.int64)
    data = Windows(starts, columns.astype(np.int32), contexts[rows, columns])
    (counted,) = _fit([(data, np.arange(CELLS))], first, rng, _BYTE_ITERATIONS)
    return floored(counted + 1e-6 * first, BYTE_FLOOR)


def distinct(basins: Array) -> npt.NDArray[np.float16]:
    """Basins as stored, float16, no two rows equal.

    Of equal rows the first stays. Each later one moves 1 % of the way along the geodesic to the vertex of cell
    (id mod 64); then, where that did not part all, of cell (id / 64 mod 64), then (id / 4096): ids differ in one of
    the three. No randomness, and never far: a step is at most 0.01 π rad; steps grow if three were not enough.
    """
    stored = to_float16(basins)
    for step in range(_STEPS_MAX):
        seen: dict[bytes, int] = {}
        twins = np.array([at for at, row in enumerate(map(bytes, stored)) if seen.setdefault(row, at) != at])
        if len(twins) == 0:
            return stored
        vertices = np.eye(CELLS)[twins // CELLS ** (step % 3) % CELLS]
        stored[twins] = to_float16(slerp(from_float16(stored[twins]), vertices, 0.01 * (1 + step // 3)))
    raise AssertionError("ids below 64^3 part within three steps, or within a few more when they meet other rows")
