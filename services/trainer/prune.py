"""Making a memory small: an n-gram stays if it saves enough bits over the text that it was counted in.

Its worth is (c - d) log2(p / p_lower): what its c occurrences cost less with it than by backing off, the absolute
discount d standing for the occurrence that taught it. Orders are judged from below, each against the pruned one under
it, so that what is thrown away is known to what decides (relative-entropy pruning, Stolcke 1998, with absolute
discounting and the counts as they are). A context keeps its total: what was thrown away backs off, as unsent mass does.
"""

import numpy as np
import numpy.typing as npt

from common.kernels.memory import DISCOUNT, TOKEN_BITS, Floats, Keys, Memory, Table, mask, predict_grams


def prune(memory: Memory, floor: Floats, bits: float) -> Memory:
    """The n-grams of order 1 and up that save more than `bits` each, and all of order 0. floor (V,): as in `predict`.

    0 bits keep every n-gram that helps at all. A context without a follower stays only where a longer one ends
    with it: a look-up goes from context to longer context, and ends at the first that is missing.
    """
    kept = list(memory.tables[:1])
    for order, table in enumerate(memory.tables[1:], 1):
        worth = _worth(table, order, Memory(tuple(kept)), floor)
        kept.append(_kept(table, worth > bits, np.zeros(0, np.uint64)))
    for order in range(len(kept) - 2, 0, -1):
        needed = kept[order + 1].contexts & mask(order - 1)
        kept[order] = _kept(memory.tables[order], np.isin(memory.tables[order].keys, kept[order].keys), needed)
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
