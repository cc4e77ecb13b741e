"""Memory: interpolated n-gram counts over a kernel's token ids.

A memory is one table an order n = 0..3, the number of context tokens. N-grams are packed into 60 bits, 15 a token, the
oldest highest:

    key     = context << 15 | token          context = w[t-n] << 15(n-1) | ... | w[t-1]

and kept sorted, so that every look-up is a binary search, a merge is a sorted union with added counts (exact,
commutative, associative), and undoing a merge is a subtraction. A context's *total* may exceed the sum of its known
followers: a packet sends only the followers that matter, and the unsent mass backs off to the lower order, so that a
partial table stays honest.

    p(w | h) = [max(c - d, 0) + (T - S + d u) p(w | h')] / T        h' = h without its oldest token

c count of (h, w); T total of h; S sum and u number of h's known followers; d the absolute discount (Ney, Essen & Kneser
1994).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]
Keys = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.uint32]
Floats = npt.NDArray[np.float64]

TOKEN_BITS: Final = np.uint64(15)
TOKEN_MASK: Final = np.uint64((1 << 15) - 1)
ORDERS: Final = 4  # contexts of 0 to 3 tokens
DISCOUNT: Final = 0.75  # chosen: best of 0.5-0.9 on the validation split (docs/experiments.md)


@dataclass(frozen=True, slots=True)
class Table:
    """The n-grams of one order. keys (N,) and contexts (C,) ascend strictly; totals (C,) >= sum of the context's
    counts.

    starts (C+1,), known (C,) and distinct (C,) are derived: where a context's followers lie, their sum and their
    number.
    """

    keys: Keys
    counts: Counts
    contexts: Keys
    totals: Counts
    starts: npt.NDArray[np.int64]
    known: npt.NDArray[np.int64]

    @classmethod
    def of(cls, keys: Keys, counts: Counts, contexts: Keys, totals: Counts) -> "Table":
        """A table from its columns. Totals below the sum of their counts are raised to it."""
        starts = np.searchsorted(keys >> TOKEN_BITS, np.append(contexts, contexts[-1:] + np.uint64(1)))
        summed = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        known = np.diff(summed[starts]) if len(contexts) else np.zeros(0, np.int64)
        return cls(keys, counts, contexts, np.maximum(totals, known).astype(np.uint32), starts, known)

    @classmethod
    def counted(cls, keys: Keys) -> "Table":
        """The table of a list of n-gram occurrences, in any order."""
        unique, counts = np.unique(keys, return_counts=True)
        return cls.complete(unique, counts.astype(np.uint32))

    @classmethod
    def complete(cls, keys: Keys, counts: Counts) -> "Table":
        """A table whose totals are the sums of its counts. keys ascend strictly."""
        contexts, first = np.unique(keys >> TOKEN_BITS, return_index=True)
        totals = np.add.reduceat(counts, first) if len(first) else np.zeros(0)
        return cls.of(keys, counts, contexts, totals.astype(np.uint32))


@dataclass(frozen=True, slots=True)
class Memory:
    """Tables of ascending order, from 0 context tokens up."""

    tables: tuple[Table, ...]

    @property
    def entries(self) -> int:
        """N-grams of all orders."""
        return sum(len(table.keys) for table in self.tables)

    @property
    def tokens(self) -> int:
        """Tokens that were counted in."""
        return int(self.tables[0].totals.sum()) if self.tables else 0


def count(documents: Iterable[Ids], orders: int = ORDERS) -> Memory:
    """Counts every n-gram of each document; none spans two documents."""
    keys: list[list[Keys]] = [[] for _ in range(orders)]
    for ids in documents:
        for order in range(orders):
            keys[order].append(pack(ids, order))
    return Memory(tuple(Table.counted(np.concatenate(found) if found else np.zeros(0, np.uint64)) for found in keys))


def pack(ids: Ids, order: int) -> Keys:
    """The keys of a text's n-grams with `order` context tokens, shape (len(ids) - order,) or empty."""
    size = max(len(ids) - order, 0)
    tokens = ids.astype(np.uint64)
    keys = np.zeros(size, np.uint64)
    for offset in range(order + 1):
        keys = keys << TOKEN_BITS | tokens[offset : offset + size]
    return keys


def merge(memories: Sequence[Memory]) -> Memory:
    """The memory of all texts together: counts and totals add, whatever the order of the arguments."""
    orders = max((len(memory.tables) for memory in memories), default=0)
    return Memory(
        tuple(_add([m.tables[order] for m in memories if order < len(m.tables)]) for order in range(orders)),
    )


def _add(tables: Sequence[Table]) -> Table:
    keys, counts = _sum([t.keys for t in tables], [t.counts for t in tables])
    contexts, totals = _sum([t.contexts for t in tables], [t.totals for t in tables])
    return Table.of(keys, counts, contexts, totals)


def _sum(keys: Sequence[Keys], values: Sequence[Counts]) -> tuple[Keys, Counts]:
    unique, inverse = np.unique(np.concatenate(keys), return_inverse=True)
    return unique, np.bincount(inverse, np.concatenate(values), len(unique)).astype(np.uint32)


def subtract(memory: Memory, other: Memory) -> Memory:
    """`memory` without `other`: counts and totals fall, never below zero; what reaches zero is dropped."""
    tables = []
    for table, less in zip(memory.tables, other.tables + (_EMPTY,) * ORDERS, strict=False):
        counts = _less(table.keys, table.counts, less.keys, less.counts)
        totals = _less(table.contexts, table.totals, less.contexts, less.totals)
        keep = counts > 0
        # A total that was stated too high may fall to nothing before its followers do: `of` raises it to their sum.
        left = (totals > 0) | np.isin(table.contexts, table.keys[keep] >> TOKEN_BITS)
        tables.append(Table.of(table.keys[keep], counts[keep], table.contexts[left], totals[left]))
    return Memory(tuple(tables))


def _less(keys: Keys, values: Counts, other: Keys, amounts: Counts) -> Counts:
    amount = look_up(other, amounts, keys)
    return np.where(values > amount, values - amount, 0).astype(np.uint32)


def look_up(keys: Keys, values: Counts, wanted: Keys) -> Counts:
    """The value at each wanted key, 0 where there is none."""
    if not len(keys):
        return np.zeros(len(wanted), np.uint32)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0).astype(np.uint32)


_EMPTY: Final = Table.counted(np.zeros(0, np.uint64))


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a memory says of each position: probability of the token there, the longest known context, and its total."""

    probability: Floats
    order: npt.NDArray[np.int64]  # -1 where the memory knows nothing
    total: npt.NDArray[np.int64]


def predict(memory: Memory, ids: Ids, floor: Floats, discount: float = DISCOUNT) -> Prediction:
    """Probability of every token of a text given the up to three before it. floor (V,) ends the recursion and sums to
    one.
    """
    size = len(ids)
    found = Prediction(floor[ids].astype(np.float64), np.full(size, -1), np.zeros(size, np.int64))
    alive = np.ones(size, bool)
    for n, table in enumerate(memory.tables):
        if n >= size:
            break
        alive[:n] = False  # too near the beginning for a context this long
        _deepen(found, alive, table, n, np.concatenate([np.zeros(n, np.uint64), pack(ids, n)]), discount)
    return found


def predict_grams(memory: Memory, keys: Keys, order: int, floor: Floats, discount: float = DISCOUNT) -> Prediction:
    """Probability of each n-gram's last token given its `order` context tokens, for packed keys of one order."""
    tokens = (keys & TOKEN_MASK).astype(np.int64)
    found = Prediction(floor[tokens].astype(np.float64), np.full(len(keys), -1), np.zeros(len(keys), np.int64))
    alive = np.ones(len(keys), bool)
    for n, table in enumerate(memory.tables[: order + 1]):
        suffix = keys & ((np.uint64(1) << np.uint64(15 * (n + 1))) - np.uint64(1))
        _deepen(found, alive, table, n, suffix, discount)
    return found


def _deepen(found: Prediction, alive: npt.NDArray[np.bool_], table: Table, n: int, keys: Keys, discount: float) -> None:
    """One step of the recursion, in place: places whose context of n tokens is known move to it, the others are
    done.
    """
    if len(table.contexts):
        context = keys >> TOKEN_BITS
        at = np.minimum(np.searchsorted(table.contexts, context), len(table.contexts) - 1)
        alive &= table.contexts[at] == context
    else:
        alive[:] = False
    where = np.flatnonzero(alive)
    if len(where):
        at = at[where]
        mass = table.totals[at].astype(np.float64)
        hits = np.maximum(look_up(table.keys, table.counts, keys[where]) - discount, 0.0)
        found.probability[where] = (hits + _back_off(table, at, discount) * found.probability[where]) / mass
        found.order[where], found.total[where] = n, table.totals[at]


def _back_off(table: Table, at: npt.NDArray[np.int64], discount: float) -> Floats:
    """The mass that a context leaves to the lower order: its unsent part and the discounts of its known followers."""
    distinct = table.starts[at + 1] - table.starts[at]
    back_off: Floats = table.totals[at] - table.known[at] + discount * distinct
    return back_off


def distribution(
    memory: Memory, context: Sequence[int], floor: Floats, discount: float = DISCOUNT
) -> tuple[Floats, int, int]:
    """P (V,) over the next token, the longest known context's order (-1: none), and its total.

    Sums to one as floor does. `predict` gives the same numbers for the tokens of a text (tested).
    """
    p, order, total = floor, -1, 0
    for n, table in enumerate(memory.tables):
        if n > len(context) or not len(table.contexts):
            break
        packed = np.uint64(0)
        for token in context[len(context) - n :]:
            packed = packed << TOKEN_BITS | np.uint64(token)
        at = int(np.searchsorted(table.contexts, packed))
        if at == len(table.contexts) or table.contexts[at] != packed:
            break
        start, stop = table.starts[at], table.starts[at + 1]
        mass = float(table.totals[at])
        p = p * ((mass - table.known[at] + discount * (stop - start)) / mass)
        p[(table.keys[start:stop] & TOKEN_MASK).astype(np.int64)] += (table.counts[start:stop] - discount) / mass
        order, total = n, int(table.totals[at])
    return p, order, total
