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
1994). Below the highest order c counts by *continuation* (Kneser & Ney 1995): how many different tokens came before
(h, w), and besides each occurrence that no longer n-gram of the memory accounts for, as a packet's have none. And there
T - S counts a third, for contexts of 0 and 1 tokens: a kernel mixes its memories with others that know better what one
has not been told. These are derived from the stored counts when a memory is first asked, so that the stored ones stay
additive.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from common.kernels.compiled import address
from common.kernels.recall import FIELDS, expect, explain, follow, locate
from common.kernels.spec import ORDERS

Ids = npt.NDArray[np.int32]
Keys = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.uint32]
Floats = npt.NDArray[np.float64]
Addresses = npt.NDArray[np.int64]

TOKEN_BITS: Final = np.uint64(15)
TOKEN_MASK: Final = np.uint64((1 << 15) - 1)
_BYTES: Final = (8, 4, 8, 4, 8, 8)  # of a number in each of a table's columns
UNSENT_PARTS: Final = (3, 3, 1)  # chosen, by lower order: one part in so many of T - S backs off (docs/experiments.md)
DISCOUNT: Final = 0.75  # chosen: best of 0.5-0.9 on the validation split (docs/experiments.md)


class Table(NamedTuple):
    """The n-grams of one order. keys (N,) and contexts (C,) ascend strictly; totals (C,) >= sum of the context's
    counts, but for what is left after a subtraction: there a part of them may be in the total that was taken away.

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
        """A table from its columns."""
        starts = np.searchsorted(keys >> TOKEN_BITS, np.append(contexts, contexts[-1:] + np.uint64(1)))
        summed = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        known = np.diff(summed[starts]) if len(contexts) else np.zeros(0, np.int64)
        return cls(keys, counts, contexts, totals, starts, known)

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
    """Tables of ascending order, from 0 context tokens up.

    A million n-grams take 28 MB, the `columns` included, at 4,096 ids and 2 million tokens (benchmarks/memory.py).
    """

    tables: tuple[Table, ...]
    _ready: list[tuple[tuple[Table, ...], Addresses]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )

    def __reduce__(self) -> tuple[object, ...]:
        return Memory, (self.tables,)  # a copy's columns lie elsewhere

    @property
    def columns(self) -> tuple[Table, ...]:
        """What predicts, made when first asked for: ORDERS tables, the missing ones empty, all but the highest counted
        by continuation, with a share of the mass they do not name; totals below the sum of their counts raised to it.
        """
        return self._made()[0]

    @property
    def addresses(self) -> Addresses:
        """Where the `columns` lie, (ORDERS, 8), as compiled code takes them (recall.py); while the memory is kept."""
        return self._made()[1]

    def _made(self) -> tuple[tuple[Table, ...], Addresses]:
        if not self._ready:
            tables = [raised(table) for table in self.tables]
            lower = [_continued(tables[n], tables[n + 1], n) for n in range(len(tables) - 1)]
            columns = (*lower, *tables[-1:], *(_EMPTY,) * (ORDERS - len(tables)))
            self._ready.append((columns, addresses_of(columns)))
        return self._ready[0]

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
    keys: Keys = np.zeros(size, np.uint64)
    for offset in range(order + 1):
        keys = keys << TOKEN_BITS | tokens[offset : offset + size]
    return keys


def merge(memories: Sequence[Memory]) -> Memory:
    """The memory of all texts together: counts and totals add, whatever the order of the arguments. No sum of counts of
    one order may reach 2^32.
    """
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
    """`memory` without `other`: counts and totals fall, never below zero; what reaches zero is dropped.

    A context whose followers stay does too, whatever is left of its total: where all of it was taken with a part of
    the followers, the others' mass was in it, and is not there to be taken again.
    """
    tables = []
    for table, less in zip(memory.tables, other.tables + (_EMPTY,) * ORDERS, strict=False):
        counts = _less(table.keys, table.counts, less.keys, less.counts)
        totals = _less(table.contexts, table.totals, less.contexts, less.totals)
        keep = counts > 0
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
    longest = min(ORDERS - 1, max(len(ids) - 1, 0))
    early = [pack(ids[: n + 1], n) for n in range(longest)]  # too near the beginning for a context of three
    reach = np.minimum(np.arange(len(ids)), longest)
    return _follow(memory, np.concatenate([*early, pack(ids, longest)]), reach, floor, discount)


def mask(order: int) -> np.uint64:
    """The bits of a key of this order: its last order + 1 tokens."""
    return (np.uint64(1) << np.uint64(15 * (order + 1))) - np.uint64(1)


def predict_grams(memory: Memory, keys: Keys, order: int, floor: Floats, discount: float = DISCOUNT) -> Prediction:
    """Probability of each n-gram's last token given its `order` context tokens, for packed keys of one order."""
    return _follow(memory, keys, np.full(len(keys), order), floor, discount)


def _follow(memory: Memory, grams: Keys, reach: npt.NDArray[np.int64], floor: Floats, discount: float) -> Prediction:
    size = len(grams)
    p = floor[(grams & TOKEN_MASK).astype(np.int64)].astype(np.float64)
    found = Prediction(p, np.empty(size, np.int64), np.empty(size, np.int64))
    follow(memory.addresses, grams, reach, discount, found.probability, found.order, found.total)
    return found


def raised(table: Table) -> Table:
    """The table with no total below the sum of its counts."""
    return table._replace(totals=np.maximum(table.totals, table.known).astype(np.uint32))


def _continued(table: Table, longer: Table, order: int) -> Table:
    kinds, seen = np.zeros((2, len(table.keys)), np.int64)
    explain(table.keys, longer.keys, longer.counts, mask(order), kinds, seen)
    counts = kinds + np.maximum(table.counts - seen, 0)
    known = np.add.reduceat(np.append(counts, 0), table.starts[:-1]) * (table.starts[1:] > table.starts[:-1])
    unsent = table.totals - table.known
    totals = known + -(-unsent // UNSENT_PARTS[order])
    return table._replace(counts=counts.astype(np.uint32), known=known, totals=totals.astype(np.uint32))


def addresses_of(tables: Sequence[Table]) -> Addresses:
    """Where the columns of ORDERS tables lie, as compiled code takes them (recall.py); while the tables are kept."""
    found = np.zeros((ORDERS, FIELDS), np.int64)
    for order, table in enumerate(tables):
        columns: list[npt.NDArray[Any]] = [*table]
        assert [column.itemsize for column in columns] == [*_BYTES], [column.dtype for column in columns]
        found[order] = *map(address, columns), len(table.keys), len(table.contexts)
    return found


def distribution(
    memory: Memory, context: Sequence[int], floor: Floats, discount: float = DISCOUNT
) -> tuple[Floats, int, int]:
    """P (V,) over the next token, the longest known context's order (-1: none), and its total.

    Sums to one as floor does. `predict` gives the same numbers for the tokens of a text (tested).
    """
    tables, rows, p = memory.addresses, np.zeros(ORDERS, np.int64), np.zeros(len(floor))
    known = locate(tables, np.asarray(context, np.int32), rows)
    rest = expect(tables, rows, (0, known), 1.0, discount, p)
    total = int(memory.columns[known - 1].totals[rows[known - 1]]) if known else 0
    return p + rest * floor, known - 1, total
