"""Crystals as values: n-gram counts of context length 0, 1 and 2, and their exact merge.

    key of "the cat sat" (order 2)     63      45 44      30 29      15 14       0
                                      +----------+----------+----------+----------+
                                      |    0     |   the    |   cat    |   sat    |     context = key >> 15
                                      +----------+----------+----------+----------+

An order holds its keys, ascending, with a count each, and the contexts of those keys, ascending, with a total each: how
often the context was seen, with whatever followed. Total minus the counts is the mass of followers that are not named;
it backs off to the lower order, so that a partial table is honest. Knows nothing of bytes (crystals.py), of kernels or
of selection. Rules it keeps: keys and contexts are unique; every context has a key and every key its context; a count
is at least 1; a total is at least the sum of its counts.

>>> one = crystals([entry((), 7, count=2, total=5), entry((7,), 9, count=2, total=2)])
>>> merge([one, one]).orders[0].totals
array([10], dtype=uint32)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from common.errors import Rejected
from common.wire.compiled import compiled, woven

Keys = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.uint32]
Wide = npt.NDArray[np.uint64]

TOKEN_BITS: Final = 15
MAX_VOCAB: Final = 1 << TOKEN_BITS
ORDERS: Final = 3
MAX_TOTAL: Final = (1 << 32) - 1
SHIFT: Final = np.uint64(TOKEN_BITS)
TOKEN_MASK: Final = np.uint64(MAX_VOCAB - 1)
END: Final = np.uint64((1 << 64) - 1)  # beyond every key


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """The n-grams of one context length. keys, counts: (N,); contexts, totals: (C,)."""

    keys: Keys
    counts: Counts
    contexts: Keys
    totals: Counts


@dataclass(frozen=True, slots=True, eq=False)
class Crystals:
    """Orders 0, 1 and 2."""

    orders: tuple[Order, Order, Order]

    @property
    def entries(self) -> int:
        """How many n-grams are counted, over all orders."""
        return sum(len(order.keys) for order in self.orders)


@dataclass(frozen=True, slots=True)
class Entry:
    """One n-gram, for building crystals by hand and for showing them."""

    context: tuple[int, ...]  # oldest token first
    token: int
    count: int
    total: int


def entry(context: Sequence[int], token: int, *, count: int, total: int) -> Entry:
    """`token` was seen `count` times after `context`, which was seen `total` times."""
    return Entry(tuple(context), token, count, total)


def entries(found: Crystals) -> list[Entry]:
    """Every n-gram, order after order, in ascending order of its tokens: the inverse of `crystals`."""
    listed = []
    for n, order in enumerate(found.orders):
        totals = order.totals[np.searchsorted(order.contexts, order.keys >> SHIFT)]
        columns = [(order.keys >> np.uint64(TOKEN_BITS * place) & TOKEN_MASK).tolist() for place in range(n, -1, -1)]
        for *context, token, count, total in zip(*columns, order.counts.tolist(), totals.tolist(), strict=True):
            listed.append(Entry(tuple(context), token, count, total))
    return listed


def pack_key(tokens: Iterable[int]) -> int:
    """The tokens of an n-gram as one number, oldest highest."""
    key = 0
    for token in tokens:
        key = key << TOKEN_BITS | token
    return key


def crystals(entries: Iterable[Entry]) -> Crystals:
    """The crystals of these n-grams. Raises Rejected("bad_crystals") when they contradict each other."""
    keys: list[dict[int, int]] = [{} for _ in range(ORDERS)]
    totals: list[dict[int, int]] = [{} for _ in range(ORDERS)]
    for item in entries:
        order, context = len(item.context), pack_key(item.context)
        key = context << TOKEN_BITS | item.token
        if key in keys[order] or totals[order].setdefault(context, item.total) != item.total:
            raise Rejected("bad_crystals", f"n-gram {(*item.context, item.token)} is given twice, or two totals")
        keys[order][key] = item.count
    built = [_order(keys[n], totals[n]) for n in range(ORDERS)]
    return check(Crystals((built[0], built[1], built[2])), MAX_VOCAB)


def _order(counts: dict[int, int], totals: dict[int, int]) -> Order:
    keys, contexts = sorted(counts), sorted(totals)
    return Order(
        np.array(keys, np.uint64),
        np.array([counts[key] for key in keys], np.uint32),
        np.array(contexts, np.uint64),
        np.array([totals[context] for context in contexts], np.uint32),
    )


def check(found: Crystals, vocab_size: int) -> Crystals:
    """The crystals, if they keep this file's rules. Raises Rejected("bad_crystals")."""
    if not 1 <= vocab_size <= MAX_VOCAB:
        raise Rejected("bad_crystals", f"a vocabulary of {vocab_size}; keys hold tokens below {MAX_VOCAB}")
    for n, order in enumerate(found.orders):
        problem = _problem(order, n, vocab_size)
        if problem:
            raise Rejected("bad_crystals", f"order {n}, {len(order.keys)} keys: {problem}")
    return found


def _problem(order: Order, n: int, vocab_size: int) -> str | None:
    if len(order.counts) != len(order.keys) or len(order.totals) != len(order.contexts):
        return "a key without its count, or a context without its total"
    if (order.keys[1:] <= order.keys[:-1]).any():
        return "keys are not ascending"
    if (order.keys >> np.uint64(TOKEN_BITS * (n + 1)) != 0).any() or max_token(order, n) >= vocab_size:
        return f"a token is not below the vocabulary size, {vocab_size}"
    starts = context_starts(order.keys)
    if not np.array_equal(order.keys[starts] >> SHIFT, order.contexts):
        return "the contexts are not those of the keys"
    if (order.counts == 0).any() or (group_sums(order.counts, starts) > order.totals).any():
        return "a count of 0, or a total below the sum of its counts"
    return None


def max_token(order: Order, n: int) -> int:
    """The highest token id in the keys of order n; -1 when there is none."""
    return max(int(((order.keys >> np.uint64(TOKEN_BITS * i)) & TOKEN_MASK).max(initial=0)) for i in range(n + 1))


def context_starts(keys: Keys) -> npt.NDArray[np.intp]:
    """Where each context begins among ascending keys."""
    contexts = keys >> SHIFT
    return np.flatnonzero(np.diff(contexts, prepend=~contexts[:1]) != 0)


def group_sums(values: Counts, starts: npt.NDArray[np.intp]) -> Wide:
    """The sums of the runs that begin at `starts`, in 64 bits: 32768 counts of 32 bits do not overflow."""
    wide = values.astype(np.uint64)
    sums: Wide = np.add.reduceat(wide, starts) if len(starts) else wide[:0]
    return sums


def empty() -> Crystals:
    """No n-gram at all: the neutral element of merge."""
    return crystals(())


def take(found: Crystals, chosen: npt.NDArray[np.bool_]) -> Crystals:
    """Only the chosen n-grams, with their contexts' totals. chosen: (entries,), order after order, in key order."""
    ends = np.cumsum([len(order.keys) for order in found.orders])[:-1]
    picked = [_take(order, mask) for order, mask in zip(found.orders, np.split(chosen, ends), strict=True)]
    return Crystals((picked[0], picked[1], picked[2]))


def _take(order: Order, mask: npt.NDArray[np.bool_]) -> Order:
    keys = order.keys[mask]
    contexts = keys[context_starts(keys)] >> SHIFT
    totals = order.totals[np.searchsorted(order.contexts, contexts)]
    return Order(keys, order.counts[mask], contexts, totals)


def implied(found: Crystals) -> Crystals:
    """The crystals, with the shorter n-grams that the longer ones imply.

    A context was seen as often as its total, and what ends an n-gram at least as often as the n-grams that it ends: the
    count of (a, b) is at least the total of context (a, b) and the sum of the counts of all (x, a, b). What is counted
    by itself counts as the highest of the three says. A context that only implied n-grams have gets their sum as total.
    A total that was coded is right within a factor of sqrt 2 (levels.py), and so is what it implies: unlike a named
    count it may overstate, as often as it understates.

    Raises Rejected("count_overflow") above MAX_TOTAL.
    """
    one, two, three = found.orders
    two = _implied(two, three, 2)
    return Crystals((_implied(one, two, 1), two, three))


def _implied(lower: Order, higher: Order, order: int) -> Order:
    ends = higher.keys & np.uint64((1 << TOKEN_BITS * order) - 1)
    ascending = np.argsort(ends)
    size = len(lower.keys) + len(higher.contexts) + len(ends)
    keys, contexts = np.zeros((2, size), np.uint64)
    counts, totals = np.zeros((2, size), np.uint32)
    n, c, highest = _gathered(
        (lower.keys, lower.counts, lower.contexts, lower.totals),
        (higher.contexts, higher.totals),
        (ends[ascending], higher.counts[ascending]),
        (keys, counts, contexts, totals),
    )
    _check_fit(int(highest))
    return Order(keys[:n].copy(), counts[:n].copy(), contexts[:c].copy(), totals[:c].copy())


@compiled
def _gathered(own: Any, heads: Any, ends: Any, found: Any) -> Any:
    """Fills the columns of an order with what its own, the contexts and the ends of the higher one say; how many keys,
    how many contexts, and the highest total, with which it ends above MAX_TOTAL. Keys ascend; of the ends some twice.
    """
    keys, counts, contexts, totals = found
    i, j, k, n, c, at = 0, 0, 0, 0, -1, 0
    summed, highest = np.int64(0), np.int64(0)
    while i < len(own[0]) or j < len(heads[0]) or k < len(ends[0]):
        key = min(_key(own[0], i), _key(heads[0], j), _key(ends[0], k))
        count, ending = np.int64(0), np.int64(0)
        if _key(own[0], i) == key:
            count = np.int64(own[1][i])
            i += 1
        if _key(heads[0], j) == key:
            count = max(count, np.int64(heads[1][j]))
            j += 1
        while _key(ends[0], k) == key:
            ending += np.int64(ends[1][k])
            k += 1
        count = max(count, ending)
        if c < 0 or contexts[c] != key >> SHIFT:
            c += 1
            contexts[c], summed = key >> SHIFT, np.int64(0)
            if _key(own[2], at) == contexts[c]:
                totals[c] = own[3][at]
                at += 1
        summed += count
        highest = max(highest, summed)
        if highest > MAX_TOTAL:
            break
        keys[n], counts[n], totals[c] = key, count, max(np.int64(totals[c]), summed)
        n += 1
    return n, c + 1, highest


@woven
def _key(keys: Any, at: Any) -> Any:
    return keys[at] if at < len(keys) else END


def capped(found: Crystals, mass_cap: int) -> Crystals:
    """The crystals with a mass of at most `mass_cap`, but for counts that are 1 already. mass_cap: up to 2^32.

    Mass is the most that the totals add up to over the contexts of one length; for true counts it is the number of
    tokens behind them. Heavier ones are scaled down, counts and totals alike, rounding down, but never a count below 1.
    """
    mass = max(int(order.totals.sum(dtype=np.uint64)) for order in found.orders)
    if mass <= mass_cap:
        return found
    one, two, three = (_scaled(order, mass_cap, mass) for order in found.orders)
    return Crystals((one, two, three))


def _scaled(order: Order, share: int, of: int) -> Order:
    """Whole numbers throughout: the same on every machine. Products stay below 2^32 * 2^32, inside 64 bits."""
    up, down = np.uint64(share), np.uint64(of)
    counts = np.maximum(order.counts * up // down, np.uint64(1)).astype(np.uint32)
    sums = group_sums(counts, context_starts(order.keys))
    totals = np.maximum(order.totals * up // down, sums).astype(np.uint32)
    return Order(order.keys, counts, order.contexts, totals)


def merge(several: Sequence[Crystals]) -> Crystals:
    """The crystals of all the text together: counts and totals add. Commutative, associative, exact.

    Raises Rejected("count_overflow") above MAX_TOTAL: bound what one packet may claim (decode's max_total) first.
    """
    merged = [_merge([one.orders[n] for one in several]) for n in range(ORDERS)]
    return Crystals((merged[0], merged[1], merged[2]))


def _merge(orders: Sequence[Order]) -> Order:
    keys, counts = _add([order.keys for order in orders], [order.counts for order in orders])
    contexts, totals = _add([order.contexts for order in orders], [order.totals for order in orders])
    return Order(keys, counts, contexts, totals)


def _add(keys: Sequence[Keys], values: Sequence[Counts]) -> tuple[Keys, Counts]:
    if not keys:
        return np.zeros(0, np.uint64), np.zeros(0, np.uint32)
    every = np.concatenate(keys)
    ascending = np.argsort(every, kind="stable")
    every = every[ascending]
    starts = np.flatnonzero(np.diff(every, prepend=~every[:1]) != 0)
    sums = group_sums(np.concatenate(values)[ascending], starts)
    _check_fit(int(sums.max(initial=0)))
    return every[starts], sums.astype(np.uint32)


def _check_fit(highest: int) -> None:
    if highest > MAX_TOTAL:
        raise Rejected("count_overflow", f"counts add up to {highest}; the limit is {MAX_TOTAL}: cap their mass first")
