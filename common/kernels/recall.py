"""What a memory expects, compiled: look-ups in its tables for one context over the whole vocabulary, or along a text.

Knows tables as columns of numbers (memory.py says what they mean) and is strict in its floating point, since what a
crystal is worth or a gate has learned is computed from it in more than one place. `tables` is always a tuple of ORDERS
tables, the missing ones empty, so that every memory runs the same compiled code.
"""

from typing import Any

import numpy as np

from common.kernels.compiled import compiled


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
        rows[order] = find(table.contexts, packed, 0, len(table.contexts))
        if rows[order] < 0:
            return order
    return len(tables)


@compiled
def expect(tables: Any, rows: Any, orders: Any, weight: float, discount: float, p: Any) -> float:
    """Adds weight * (what the orders from orders[0] up to orders[1] say) to p (V,); returns the weight left below."""
    for order in range(orders[1] - 1, orders[0] - 1, -1):
        table, row = tables[order], rows[order]
        start, stop, total = table.starts[row], table.starts[row + 1], float(table.totals[row])
        share = weight / total
        for i in range(start, stop):
            token = np.int64(table.keys[i] & np.uint64(0x7FFF))
            assert token < len(p)  # compiled code would write what lies beyond
            p[token] += max(table.counts[i] - discount, 0.0) * share
        weight = (total - table.known[row] + discount * (stop - start)) * share
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
            row = find(table.contexts, key >> np.uint64(15), 0, len(table.contexts))
            if row < 0:
                break
            start, stop, mass = table.starts[row], table.starts[row + 1], float(table.totals[row])
            at = find(table.keys, key, start, stop)
            hit = max(table.counts[at] - discount, 0.0) if at >= 0 else 0.0
            p[i] = (hit + (mass - table.known[row] + discount * (stop - start)) * p[i]) / mass
            order[i], total[i] = n, table.totals[row]
