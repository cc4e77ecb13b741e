"""Making a memory small: an n-gram stays if it saves enough bits over the text that it was counted in; and light: what
was counted long ago weighs half, before counts have no room.

Its worth is (c - d) log2(p / p_lower): what its c occurrences cost less with it than by backing off, the absolute
discount d standing for the occurrence that taught it. Orders are judged from below, each against the pruned one under
it, so that what is thrown away is known to what decides (relative-entropy pruning, Stolcke 1998, with absolute
discounting and the counts as they are). A context keeps its total: what was thrown away backs off, as unsent mass does.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from common.kernels.memory import DISCOUNT, TOKEN_BITS, Floats, Keys, Memory, Table, mask, merge, predict_grams, raised

WEIGHT_MAX: Final = (1 << 32) - 1  # of one order: counts have 32 bits, and so have the sums of a memory's file


def joined(memories: Sequence[Memory], weight_max: int = WEIGHT_MAX) -> Memory:
    """The memories as one: `merge`; where an order of it would weigh more than `weight_max`, of the halves, or theirs.

    weight_max: at least their n-grams.
    """
    while sum(map(_weight, memories)) > weight_max:
        memories = [halved(memory) for memory in memories]
    return merge(memories)


def halved(memory: Memory) -> Memory:
    """Every count half of what it was, a half rounded up, so that no n-gram goes; and what a total has beyond its
    counts, or is short of them, a half rounded to 0.
    """
    return Memory(tuple(map(_halved, memory.tables)))


def _halved(table: Table) -> Table:
    counts = table.counts - (table.counts >> 1)
    light = Table.of(table.keys, counts, table.contexts, table.totals)
    rest = table.totals.astype(np.int64) - table.known
    return light._replace(totals=(light.known + np.sign(rest) * (np.abs(rest) >> 1)).astype(np.uint32))


def _weight(memory: Memory) -> int:
    """The most that the counts, or the totals, of one order add up to."""
    return max((int(np.maximum(t.totals, t.known).sum()) for t in memory.tables), default=0)


def prune(memory: Memory, floor: Floats, bits: float) -> Memory:
    """The n-grams of order 1 and up that save more than `bits` each, and all of order 0. floor (V,): as in `predict`.

    0 bits keep every n-gram that helps at all. A context without a follower stays only where a longer one ends
    with it: a look-up goes from context to longer context, and ends at the first that is missing.
    """
    tables = [raised(table) for table in memory.tables]
    kept = tables[:1]
    for order, table in enumerate(tables[1:], 1):
        worth = _worth(table, order, Memory(tuple(kept)), floor)
        kept.append(_kept(table, worth > bits, np.zeros(0, np.uint64)))
    for order in range(len(kept) - 2, 0, -1):
        needed = kept[order + 1].contexts & mask(order - 1)
        kept[order] = _kept(tables[order], np.isin(tables[order].keys, kept[order].keys), needed)
    return Memory(tuple(kept))


def _worth(table: Table, order: int, lower: Memory, floor: Floats) -> Floats:
    """Bits saved by each n-gram, (N,)."""
    backed_off = predict_grams(lower, table.keys & mask(order - 1), order - 1, floor).probability
    followers = np.diff(table.starts)
    left = np.repeat(table.totals - table.known + DISCOUNT * followers, followers)
    explicit = table.counts.astype(np.float64) - DISCOUNT
    p = (explicit + left * backed_off) / np.repeat(table.totals, followers)
    worth: Floats = explicit * np.log2(p / backed_off)
    return worth


def _kept(table: Table, keep: npt.NDArray[np.bool_], needed: Keys) -> Table:
    """The part of a table with these n-grams and their contexts, and with those that are needed besides."""
    keys = table.keys[keep]
    contexts = np.union1d(keys >> TOKEN_BITS, needed)
    return Table.of(keys, table.counts[keep], contexts, table.totals[np.searchsorted(table.contexts, contexts)])
