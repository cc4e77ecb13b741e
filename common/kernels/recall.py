"""What a memory expects, compiled: look-ups in its tables for one context over the whole vocabulary, or along a text.

Knows tables as columns of numbers (memory.py says what they mean) and is strict in its floating point, since what a
crystal is worth or a gate has learned is computed from it in more than one place.

`tables` is (ORDERS, 8) int64, a row a table, all zeros for one that is missing: where its columns lie, and how long
they are (Memory.addresses). To hand over 24 arrays instead costs as much as to use them, and each number of memories
would be a type of its own, to be compiled anew.
"""

from typing import Any, Final

import numpy as np

from common.kernels.compiled import at32, at64, compiled

# A row of `tables`: the columns by their addresses, then the number of n-grams and of contexts.
KEYS, COUNTS, CONTEXTS, TOTALS, STARTS, KNOWN, GRAMS, SIZE = range(8)
FIELDS: Final = 8


@compiled
def find(keys: Any, wanted: np.uint64, start: int, stop: int) -> int:
    """Where `wanted` lies in keys[start:stop], which ascend; -1 where it does not."""
    low, high = start, stop
    while low < high:
        middle = (low + high) // 2
        if keys[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low if low < stop and keys[low] == wanted else -1


@compiled
def explain(keys: Any, longer: Any, counts: Any, mask: np.uint64, kinds: Any, seen: Any) -> None:
    """Of each n-gram in keys (N,), ascending: how many of the n-grams one token longer end in it, added to kinds (N,),
    and how often they occurred, added to seen (N,). longer, counts: (M,); mask: the bits that keys keep of them.
    """
    for i in range(len(longer)):
        at = find(keys, longer[i] & mask, 0, len(keys))
        if at >= 0:
            kinds[at] += 1
            seen[at] += counts[i]


@compiled
def locate(tables: Any, context: Any, rows: Any) -> int:
    """The context's rows in the tables of order 0, 1, ... into rows (ORDERS,); returns how many orders know it.

    context: the last tokens, (N,), the newest last; longer ones are cut.
    """
    for order in range(len(tables)):
        if order > len(context):
            return order
        packed = np.uint64(0)
        for i in range(len(context) - order, len(context)):
            packed = packed << np.uint64(15) | np.uint64(context[i])
        table = tables[order]
        rows[order] = find(at64(table[CONTEXTS], table[SIZE]), packed, 0, table[SIZE])
        if rows[order] < 0:
            return order
    return len(tables)


@compiled
def _followers(table: Any, row: int) -> Any:
    """Of a context: where its followers begin and end, its total, and the sum of their counts."""
    starts, known = at64(table[STARTS], table[SIZE] + 1), at64(table[KNOWN], table[SIZE])
    total = at32(table[TOTALS], table[SIZE])[row]
    return np.int64(starts[row]), np.int64(starts[row + 1]), float(total), float(known[row])


@compiled
def total_of(table: Any, row: int) -> Any:
    """How often a context occurred."""
    return np.int64(at32(table[TOTALS], table[SIZE])[row])


@compiled
def expect(tables: Any, rows: Any, orders: Any, weight: float, discount: float, p: Any) -> float:
    """Adds weight * (what the orders from orders[0] up to orders[1] say) to p (V,); returns the weight left below."""
    for order in range(orders[1] - 1, orders[0] - 1, -1):
        start, stop, total, known = _followers(tables[order], rows[order])
        keys, counts = at64(tables[order, KEYS], stop), at32(tables[order, COUNTS], stop)
        share = weight / total
        for i in range(start, stop):
            token = np.int64(keys[i] & np.uint64(0x7FFF))
            assert token < len(p)  # compiled code would write what lies beyond
            p[token] += max(counts[i] - discount, 0.0) * share
        weight = (total - known + discount * (stop - start)) * share
    return weight


@compiled
def follow(tables: Any, grams: Any, reach: Any, discount: float, p: Any, order: Any, total: Any) -> None:
    """For each n-gram: p (N,) from the floor of its last token to its interpolated probability, in place; the longest
    known order into order (N,), -1 for none, and its context's total into total (N,).

    grams: (N,) packed tokens, the oldest highest; reach: (N,) how many tokens before the last are its context.
    """
    for i in range(len(grams)):
        order[i], total[i] = -1, 0
        for n in range(min(len(tables), reach[i] + 1)):
            table = tables[n]
            key = grams[i] & ((np.uint64(1) << np.uint64(15 * (n + 1))) - np.uint64(1))
            row = find(at64(table[CONTEXTS], table[SIZE]), key >> np.uint64(15), 0, table[SIZE])
            if row < 0:
                break
            start, stop, mass, known = _followers(table, row)
            at = find(at64(table[KEYS], stop), key, start, stop)
            hit = max(at32(table[COUNTS], stop)[at] - discount, 0.0) if at >= 0 else 0.0
            p[i] = (hit + (mass - known + discount * (stop - start)) * p[i]) / mass
            order[i], total[i] = n, np.int64(mass)
