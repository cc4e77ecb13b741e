"""The quorum: an n-gram counts once enough nodes have brought it to its domain, now or before.

    what nodes brought, now and in earlier cuts ─┬▶ said    known, or brought by `edges` different nodes: counts
                                                 └▶ waits   comes again with the next cut, until it is too old

One node alone can then teach the fleet no phrase: not one that it made up, and not one that is its client's alone. A
node is one however many keys and packets it has. It is asked of each n-gram by itself, a pair as a triple, after the
shorter ones that a packet implies were counted in (ngrams.implied): what a triple may say its pair may say too.

Every n-gram takes its share of its context's total along, so that nothing is lost and nothing counts twice: of each
node, said and waiting together are what was brought, to the count (tested). Knows no clock and no broker; the same
things brought, in any order, are said and wait.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from common.wire.ngrams import ORDERS, SHIFT, Crystals, Keys, Order, context_starts, group_sums

ENROLLED_LEAST: Final = 5  # nodes; with fewer no rule is worth much, and who is enrolled is all the defence there is

Known = tuple[Keys, Keys, Keys]
"""The n-grams that need no quorum any more, by their order, each ascending: of an opened domain its own memory's, which
only a quorum brought there. What a role's memory knows needs one: wrong followers that it knows are as wrong.
"""

Marks = npt.NDArray[np.bool_]


class Brought(NamedTuple):
    """What one node brought of a domain by the cut of this number, with the shorter n-grams that it implies."""

    node: str
    cut: int
    crystals: Crystals


def needed(edges: int, enrolled: int) -> int:
    """How many nodes must bring an n-gram where so many are enrolled: `edges`, but 1 below ENROLLED_LEAST."""
    return edges if enrolled >= ENROLLED_LEAST else 1


def parted(brought: Sequence[Brought], *, edges: int, known: Known | None = None) -> list[tuple[Crystals, Crystals]]:
    """Of each, in the order given, what is said and what waits; their merge is what was brought.

    known: what counts whoever says it; None: nothing.
    """
    agreed = [_agreed([(one.node, one.crystals.orders[n].keys) for one in brought], edges) for n in range(ORDERS)]
    return [_split(one.crystals, agreed, known or agreed) for one in brought]


def _agreed(brought: Sequence[tuple[str, Keys]], edges: int) -> Keys:
    """The keys that at least `edges` different nodes brought, ascending."""
    of_node: dict[str, list[Keys]] = {}
    for node, keys in brought:
        of_node.setdefault(node, []).append(keys)
    each = [np.unique(np.concatenate(keys)) for keys in of_node.values()]
    found, nodes = np.unique(np.concatenate([*each, np.zeros(0, np.uint64)]), return_counts=True)
    agreed: Keys = found[nodes >= edges]
    return agreed


def _split(found: Crystals, agreed: Sequence[Keys], known: Sequence[Keys]) -> tuple[Crystals, Crystals]:
    marks = [
        _among(order.keys, mine) | _among(order.keys, theirs)
        for order, mine, theirs in zip(found.orders, agreed, known, strict=True)
    ]
    return split(found, marks)


def split(found: Crystals, chosen: Sequence[Marks]) -> tuple[Crystals, Crystals]:
    """The chosen n-grams and the others, each with its share of its context's total; their merge is what was split.

    chosen: by order.
    """
    one, two, three = (_split_order(order, marks) for order, marks in zip(found.orders, chosen, strict=True))
    return Crystals((one[0], two[0], three[0])), Crystals((one[1], two[1], three[1]))


def _among(keys: Keys, others: Keys) -> Marks:
    """Which keys are among the others, which ascend and may be many more."""
    at = np.searchsorted(others, keys)
    found: Marks = np.append(others, np.zeros(1, np.uint64))[at] == keys
    return found & (at < len(others))


def _split_order(order: Order, said: Marks) -> tuple[Order, Order]:
    """An n-gram's share of its context's total is total x count / sum of the counts, rounded down: at least its count.

    What is said keeps the rest of the total. Products stay below 2^64.
    """
    if said.all() or not said.any():
        nothing = _of(order, np.zeros(len(said), np.bool_), order.totals)
        return (order, nothing) if said.all() else (nothing, order)
    starts = context_starts(order.keys)
    followers = np.diff(np.append(starts, len(order.keys)))
    sums, totals = group_sums(order.counts, starts), order.totals.astype(np.uint64)
    shares = order.counts.astype(np.uint64) * np.repeat(totals, followers) // np.repeat(sums, followers)
    waiting = np.add.reduceat(np.where(said, 0, shares).astype(np.uint64), starts)
    none_said = ~np.logical_or.reduceat(said, starts)
    waiting = np.where(none_said, totals, waiting)
    return _of(order, said, totals - waiting), _of(order, ~said, waiting)


def _of(order: Order, chosen: Marks, totals: npt.NDArray[np.unsignedinteger]) -> Order:
    """The chosen n-grams with these totals, one for each context of the order."""
    keys = order.keys[chosen]
    contexts = keys[context_starts(keys)] >> SHIFT
    there = np.isin(order.contexts, contexts)
    return Order(keys, order.counts[chosen], contexts, totals[there].astype(np.uint32))
