"""Re-counting: a memory of texts as if these had been encoded with some merges more.

A merge turns each (a, b) of a text into one token c. What n-grams alone say of that is counted anew:

    (x c)  as often as (x a b)         (c y)  as often as (a b y)         (c)  as often as (a b)
    (x a)  without those of (x a b)    (b y)  without those of (a b y)    (a b)  no more

and so at every length, at both ends of an n-gram, and for contexts and their totals alike. Where the longer n-gram is
not in the memory, because it is longer than the memory's n-grams or was thought not worth keeping, its count is what
the memory itself expects: the shorter one's, times the probability of the token that is missing, by counts alone and
without a discount. So from a text's every n-gram, where each document ends with a token that is no half of a merge,
come the counts of the text encoded anew, as far as its longest n-grams reach (tested); what they cannot say backs off.

An encoder merges within the pieces of its pattern only; n-grams do not say where these end. Two tokens that make a
piece, and stand beside each other in two, are taken for merged: line ends, mostly.

Merges are taken in their order, as an encoder takes them, one after the other: so whoever counts anew twice, for one
growth and for the next, has what somebody has who missed the first (tested). A merge of a token with itself overlaps
itself in a run of three and more: there it is counted too often, never too seldom.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from common.kernels.memory import (
    TOKEN_BITS,
    TOKEN_MASK,
    Addresses,
    Counts,
    Floats,
    Keys,
    Memory,
    Table,
    addresses_of,
    look_up,
    mask,
    raised,
)
from common.kernels.recall import follow
from common.kernels.spec import MAX_VOCAB, ORDERS

Pairs = Sequence[tuple[int, int]]
Wide = npt.NDArray[np.int64]
Marks = npt.NDArray[np.bool_]

_EMPTY: Final = Table.counted(np.zeros(0, np.uint64))


def recount(memory: Memory, pairs: Pairs, first: int, *, at_once: bool = False) -> Memory:
    """The memory over a vocabulary that grew by these merges: pair i became token `first` + i.

    The halves of a pair are any earlier ids; the memory holds none from `first` on. at_once: take merges that share no
    token in one pass, ten times as fast, for a memory that nobody else counts anew: what the memory does not say, where
    two merges meet, is then rounded once and not twice (2 of 75,000 counts of scripture differ).
    """
    for together in _rounds(pairs, first) if at_once else ([number] for number in range(len(pairs))):
        memory = _recounted(memory, _Merges.of([(*pairs[i], first + i) for i in together]))
    return memory


def _rounds(pairs: Pairs, first: int) -> Iterator[list[int]]:
    """The places of merges that share no token, one list after the other; of two that share one, the earlier first."""
    latest: dict[int, int] = {}
    rounds: list[list[int]] = []
    for place, pair in enumerate(pairs):
        number = 1 + max(latest.get(token, -1) for token in pair)
        if number == len(rounds):
            rounds.append([])
        rounds[number].append(place)
        latest |= dict.fromkeys((*pair, first + place), number)
    yield from rounds


@dataclass(frozen=True, slots=True)
class _Merges:
    """Merges that share no token, by token: what completes it behind it and before it (-1: nothing), and what the merge
    makes that it is the first half of.
    """

    behind: Wide
    before: Wide
    made: Wide

    @classmethod
    def of(cls, merges: Sequence[tuple[int, int, int]]) -> "_Merges":
        left, right, whole = np.array(merges, np.int64).T
        behind, before, made = np.full((3, MAX_VOCAB), -1, np.int64)
        behind[left], before[right], made[left] = right, left, whole
        return cls(behind, before, made)


def _recounted(memory: Memory, merges: _Merges) -> Memory:
    memory = Memory(tuple(map(raised, memory.tables)))
    known, orders = _Known.of(memory), len(memory.tables)
    grams, contexts = _Pile(orders + 1), _Pile(orders)
    for order, table in enumerate(memory.tables):
        _sort(grams, order + 1, table.keys, table.counts, known, merges)
        if order:
            _sort(contexts, order, table.contexts, table.totals, known, merges)
    tables: list[Table] = []
    needed: Keys = np.zeros(0, np.uint64)
    for order in range(orders - 1, 0, -1):
        tables.insert(0, _table(*grams.of(order + 1), *contexts.of(order), needed))
        needed = tables[0].contexts & mask(order - 2) if order > 1 else needed[:0]
    return Memory((*(_first(table, *grams.of(1), merges) for table in memory.tables[:1]), *tables))


class _Pile:
    """N-grams by their number of tokens, with their counts. One that lies there twice was counted in two ways."""

    def __init__(self, lengths: int) -> None:
        self._keys: list[list[Keys]] = [[np.zeros(0, np.uint64)] for _ in range(lengths)]
        self._counts: list[list[Wide]] = [[np.zeros(0, np.int64)] for _ in range(lengths)]

    def add(self, length: int, keys: Keys, counts: Wide) -> None:
        self._keys[length].append(keys[counts > 0])
        self._counts[length].append(counts[counts > 0])

    def of(self, length: int) -> tuple[Keys, Counts]:
        """Those of one length, ascending."""
        keys, counts = np.concatenate(self._keys[length]), np.concatenate(self._counts[length])
        ascending = np.argsort(keys, kind="stable")
        keys, counts = keys[ascending], counts[ascending]
        first = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[: len(keys)])
        highest = np.maximum.reduceat(counts, first) if len(first) else counts
        return keys[first], highest.astype(np.uint32)


def _sort(pile: _Pile, length: int, keys: Keys, counts: Counts, known: "_Known", merges: _Merges) -> None:
    """Puts n-grams of `length` tokens on the pile as the merges leave them."""
    tokens = np.stack([keys >> TOKEN_BITS * np.uint64(place) & TOKEN_MASK for place in range(length - 1, -1, -1)])
    tokens = tokens.astype(np.int64)
    ends = np.zeros(tokens.shape, np.bool_)  # whether a merge ends with this token
    for i in range(1, length):
        ends[i] = (merges.behind[tokens[i - 1]] == tokens[i]) & ~ends[i - 1]
    left = (merges.before[tokens[0]] >= 0) & ~ends[1:2].any(0)
    right = (merges.behind[tokens[-1]] >= 0) & ~ends[-1]
    if length == 1:
        right &= ~left  # a token that is merged with itself: one half of it, not both at once
    touched = left | right | ends.any(0)
    pile.add(length, keys[~touched], counts[~touched].astype(np.int64))
    at = np.flatnonzero(touched)
    _split(pile, tokens[:, at], ends[:, at], left[at], right[at], counts[at].astype(np.int64), known, merges)


def _split(
    pile: _Pile, tokens: Wide, ends: Marks, left: Marks, right: Marks, counts: Wide, known: "_Known", merges: _Merges
) -> None:
    """N-grams (L, N) that merges touch. ends: see _sort; left, right: whether the first token may end a merge that
    begins before it, and the last begin one that ends behind it: then the n-gram's occurrences are of up to four kinds.
    """
    keys, sizes = _joined(tokens, ends, merges)
    a, b = merges.before[tokens[0]], merges.behind[tokens[-1]]
    fore, aft, both = np.zeros((3, len(counts)), np.int64)
    fore[left] = _whole(known.before(np.stack([a, *tokens])[:, left]), counts[left])
    aft[right] = _whole(known.after(np.stack([*tokens, b])[:, right], counts[right]), counts[right])
    two = left & right
    both[two] = _whole(known.after(np.stack([a, *tokens, b])[:, two], fore[two]), np.minimum(fore, aft)[two])
    shift = TOKEN_BITS * (sizes - 1).astype(np.uint64)
    begun = np.where(left, merges.made[a] - tokens[0], 0).astype(np.uint64) << shift
    ended = np.where(right, merges.made[tokens[-1]] - tokens[-1], 0).astype(np.uint64)
    kinds = (
        (keys, counts - fore - aft + both),
        (keys + begun, fore - both),
        (keys + ended, aft - both),
        (keys + begun + ended, both),
    )
    for found, number in kinds:
        for size in range(1, len(tokens) + 1):
            pile.add(size, found[sizes == size], number[sizes == size])


def _joined(tokens: Wide, ends: Marks, merges: _Merges) -> tuple[Keys, Wide]:
    """N-grams with the merges inside them made, packed, and their number of tokens."""
    begins = np.concatenate([ends[1:], np.zeros_like(ends[:1])])
    made = np.where(begins, merges.made[tokens], tokens).astype(np.uint64)
    keys: Keys = np.zeros(tokens.shape[1], np.uint64)
    for row, end in zip(made, ends, strict=True):
        keys = np.where(end, keys, keys << TOKEN_BITS | row)
    return keys, np.sum(~ends, axis=0)


def _whole(expected: Floats, most: Wide) -> Wide:
    return np.minimum(np.rint(expected).astype(np.int64), most)


@dataclass(frozen=True, slots=True)
class _Known:
    """What a memory expects, by counts alone. tables: ORDERS of them, at `addresses`; longest: tokens of its longest
    context.
    """

    tables: tuple[Table, ...]
    addresses: Addresses
    longest: int

    @classmethod
    def of(cls, memory: Memory) -> "_Known":
        tables = (*memory.tables, *(_EMPTY,) * (ORDERS - len(memory.tables)))
        return cls(tables, addresses_of(tables), len(memory.tables) - 1)

    def after(self, tokens: Wide, counts: Wide | Floats) -> Floats:
        """How often the first L of L + 1 tokens, (L + 1, N), were followed by the last; counts (N,): of the first L."""
        reach, size = min(len(tokens) - 1, self.longest), tokens.shape[1]
        grams = np.zeros(size, np.uint64)
        for row in tokens[-1 - reach :]:
            grams = grams << TOKEN_BITS | row.astype(np.uint64)
        p, order, total = np.zeros(size), np.empty(size, np.int64), np.empty(size, np.int64)
        follow(self.addresses, grams, np.full(size, reach), 0.0, p, order, total)
        whole = order == len(tokens) - 1  # the whole n-gram is a context that the memory knows
        kept = look_up(self.tables[reach].keys, self.tables[reach].counts, grams) * whole
        return np.where(kept > 0, kept, np.where(whole, total, counts) * p)

    def before(self, tokens: Wide) -> Floats:
        """How often the last L of L + 1 tokens, (L + 1, N), came after the first."""
        found = look_up(self.tables[0].keys, self.tables[0].counts, tokens[0].astype(np.uint64)).astype(np.float64)
        for length in range(2, len(tokens) + 1):
            found = self.after(tokens[:length], found)
        return found


def _table(keys: Keys, counts: Counts, contexts: Keys, totals: Counts, needed: Keys) -> Table:
    """A context without a follower stays only where a longer one ends with it: a look-up goes on from there."""
    own = np.union1d(keys >> TOKEN_BITS, np.intersect1d(contexts, needed))
    return raised(Table.of(keys, counts, own, look_up(contexts, totals, own)))


def _first(table: Table, keys: Keys, counts: Counts, merges: _Merges) -> Table:
    """Order 0: as many tokens fewer as merges were made."""
    made = int(counts[np.isin(keys, merges.made[merges.made >= 0].astype(np.uint64))].sum())
    totals = np.maximum(table.totals.astype(np.int64) - made, 0).astype(np.uint32)
    return raised(Table.of(keys, counts, table.contexts, totals))
