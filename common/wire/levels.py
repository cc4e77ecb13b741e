"""Counts and totals as the crystals' forms write them: rounded to levels and doublings, node by node of a trie.

    level   0: no n-gram of its own; else a count, rounded DOWN to 1 2 3 4 6 8 12 16 24 ..., as its place in LEVELS + 1
    shift   one for each context that has n-grams: s, where total = (sum of its rounded counts) << s is the nearest

A count is never overstated (at most a third under; what is left over can wait for the next sleep); a total is never
below the sum of its counts as decoded, and total / sum is right within a factor of sqrt 2. Whole numbers only.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from common.errors import Rejected
from common.wire.compiled import compiled
from common.wire.ngrams import MAX_TOTAL, SHIFT, Counts, Keys, Order, Wide, context_starts

Bytes = npt.NDArray[np.uint8]

LEVELS: Final = np.array([1, *(c for n in range(1, 32) for c in (1 << n, 3 << (n - 1)))], np.uint64)
VALUES: Final = LEVELS.astype(np.int64)
SHIFTS: Final = 32  # a total has 32 bits


@dataclass(frozen=True, slots=True, eq=False)
class Depth:
    """The nodes at one depth of a trie. paths, levels: (N,); shifts: (contexts that have n-grams,), below SHIFTS."""

    paths: Keys  # the tokens from the root, packed like a key; ascending
    levels: Bytes
    shifts: Bytes


def rounded(paths: Keys, order: Order) -> Depth:
    """The n-grams of one order among the nodes of a depth, which hold them all."""
    of_entries = np.searchsorted(LEVELS, order.counts.astype(np.uint64), side="right").astype(np.uint8)
    levels = np.zeros(len(paths), np.uint8)
    levels[np.searchsorted(paths, order.keys)] = of_entries
    sums: Keys = np.zeros(0, np.uint64)
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

    Takes no memory besides the order's. Raises Rejected("bad_crystals") for a total above max_total.
    """
    nodes, contexts = _sizes(depth.paths, depth.levels)
    found = Order(
        np.zeros(nodes, np.uint64), np.zeros(nodes, np.uint32),
        np.zeros(contexts, np.uint64), np.zeros(contexts, np.uint32),
    )  # fmt: skip
    highest = _fill(depth.paths, depth.levels, depth.shifts, found.keys, found.counts, found.contexts, found.totals)
    if highest > max_total:
        raise Rejected("bad_crystals", f"a context seen {highest} times; at most {max_total} are allowed")
    return found


def contexts_of(paths: Keys, levels: Bytes) -> int:
    """In how many contexts there are nodes with a level."""
    return int(_sizes(paths, levels)[1])


@compiled
def _sizes(paths: Any, levels: Any) -> Any:
    """How many nodes have a level, and in how many contexts."""
    nodes, contexts, last = 0, 0, np.uint64(0)
    for i in range(len(paths)):
        if levels[i]:
            context = paths[i] >> SHIFT
            contexts += 1 if nodes == 0 or context != last else 0
            nodes += 1
            last = context
    return nodes, contexts


@compiled
def _fill(paths: Any, levels: Any, shifts: Any, keys: Any, counts: Any, contexts: Any, totals: Any) -> Any:
    """Returns the highest total, and ends with it where it is above MAX_TOTAL."""
    n, c, summed, highest = 0, -1, 0, 0
    for i in range(len(paths)):
        if not levels[i]:
            continue
        context = paths[i] >> SHIFT
        if c < 0 or context != contexts[c]:
            c += 1
            contexts[c] = context
            summed = 0
        keys[n], counts[n] = paths[i], VALUES[levels[i] - 1]
        summed += VALUES[levels[i] - 1]
        total = summed << np.int64(shifts[c])  # 2^44 << 31 would not fit: a sum of 2^32 is refused before
        if summed > MAX_TOTAL or total > MAX_TOTAL:
            return max(summed, total)
        totals[c] = total
        highest = max(highest, total)
        n += 1
    return highest
