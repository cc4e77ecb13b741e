"""Counts and totals as the crystals' forms write them: rounded to levels and doublings, node by node of a trie.

    level   0: no n-gram of its own; else a count, rounded DOWN to 1 2 3 4 6 8 12 16 24 ..., as its place in LEVELS + 1
    shift   one for each context that has n-grams: s, where total = (sum of its rounded counts) << s is the nearest

A count is never overstated (at most a third under; what is left over can wait for the next sleep); a total is never
below the sum of its counts as decoded, and total / sum is right within a factor of sqrt 2. Whole numbers only.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from common.errors import Rejected
from common.wire.ngrams import MAX_TOTAL, SHIFT, Counts, Keys, Order, Wide, context_starts

Bytes = npt.NDArray[np.uint8]

LEVELS: Final = np.array([1, *(c for n in range(1, 32) for c in (1 << n, 3 << (n - 1)))], np.uint64)
SHIFTS: Final = 32  # a total has 32 bits


@dataclass(frozen=True, slots=True, eq=False)
class Depth:
    """The nodes at one depth of a trie. paths, levels: (N,); shifts: (contexts that have n-grams,)."""

    paths: Keys  # the tokens from the root, packed like a key; ascending
    levels: Bytes
    shifts: Bytes


def rounded(paths: Keys, order: Order) -> Depth:
    """The n-grams of one order among the nodes of a depth, which hold them all."""
    of_entries = np.searchsorted(LEVELS, order.counts.astype(np.uint64), side="right").astype(np.uint8)
    levels = np.zeros(len(paths), np.uint8)
    levels[np.searchsorted(paths, order.keys)] = of_entries
    sums = np.zeros(0, np.uint64)
    if len(order.keys):
        sums = np.add.reduceat(LEVELS[of_entries - 1], context_starts(order.keys))
    return Depth(paths, levels, _shifts(sums, order.totals))


def _shifts(sums: Wide, totals: Counts) -> Bytes:
    """The s for which sum << s is nearest to the total in ratio: the least with total^2 <= 2 (sum << s)^2, in 32 bits.

    Half of total^2, rounded up, fits 64 bits; so does (sum << s)^2, because sum << s is kept within 32.
    """
    reached, half = sums.copy(), (totals.astype(np.uint64) ** np.uint64(2) + np.uint64(1)) >> np.uint64(1)
    shifts = np.zeros(len(sums), np.uint8)
    while True:
        short = (half > reached * reached) & (reached <= np.uint64(MAX_TOTAL >> 1))
        if not short.any():
            return shifts
        reached = np.where(short, reached << np.uint64(1), reached)
        shifts += short


def counted(depth: Depth, max_total: int) -> Order:
    """The order whose n-grams are the nodes with a level, every level one of LEVELS.

    Raises Rejected("bad_crystals") for a total above max_total.
    """
    own = depth.levels > 0
    keys, counts = depth.paths[own], LEVELS[depth.levels[own] - 1]
    starts = context_starts(keys)
    sums = np.add.reduceat(counts, starts) if len(starts) else counts[:0]
    if depth.shifts.max(initial=0) >= SHIFTS or sums.max(initial=0) > MAX_TOTAL:
        raise Rejected("bad_crystals", f"a context seen more than {MAX_TOTAL} times")
    totals = sums << depth.shifts.astype(np.uint64)
    if totals.max(initial=0) > max_total:
        raise Rejected("bad_crystals", f"a context seen {totals.max()} times; at most {max_total} are allowed")
    return Order(keys, counts.astype(np.uint32), keys[starts] >> SHIFT, totals.astype(np.uint32))
