"""Crystals: which n-grams of the residue are worth their bytes.

Candidates are n-grams of 0 to 2 context tokens that were seen at least twice. For each, under the memories of the
kernel that will receive it:

    before   p of the token as things stand
    after    p once (count, total) is added to the domain's memory
    worth    max(weight - 0.9, 0.02) * min(log2(after / before), 2)
    weight   count, where an occurrence in a text whose answer was accepted and ended in CRYSTAL stands for two
    score    worth per bit that the entry takes in a packet, its context's own bits shared by all that are sent with it

in ascending order of context length, so that a chosen lower order is the back-off of the higher. The gain of one
occurrence is capped: what surprises most (a name said ten times in one chapter) recurs least elsewhere. A memory looks
a context up only through its shorter contexts; an n-gram whose shorter context nobody knows yet ranks below the
crystals that would bring it. The state cannot be asked about an n-gram without its text: the role's memory speaks.
Weights steer the ranking alone: what is sent are counts.

Edges that read alike would send alike. So the contexts are in SHARDS shares, by their last token; one share goes first
in each packet, another one each time and on each edge, and what waits grows until its turn comes.

Pure and vectorised; knows nothing of packets (common/wire/crystals.py turns a ranking into bytes).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from common.kernels import gate as gates
from common.kernels.kernel import Kernel
from common.kernels.memory import (
    DISCOUNT,
    TOKEN_BITS,
    TOKEN_MASK,
    Counts,
    Floats,
    Keys,
    Memory,
    Table,
    look_up,
    predict_grams,
)
from common.wire.ngrams import ORDERS, Crystals, Order, context_starts, empty, group_sums, implied

COUNT_MIN: Final = 2  # settled (privacy): what was said once stays
CERTAIN_COUNT: Final = 0.9  # of the count: part of the first sighting is luck (packets.md, 4)
WORTH_MIN: Final = 0.02
ACCEPTED_WEIGHT: Final = 2.0  # chosen (docs/experiments.md): 95 of 100 crystals from accepted text that is half of all
# Chosen on ten rounds of eight edges, as what follows (docs/experiments.md); in one packet 1 was a little better.
GAIN_MAX_BITS: Final = 2.0
ENTRY_BITS: Final = (8.0, 10.0, 9.0)  # by context length, as crystals.py codes them
CONTEXT_BITS: Final = (0.0, 10.0, 12.0)  # for the first entry of a context: the nodes on the way, and the total
SHARDS: Final = 5  # chosen; a prime, so that two or four domains which take turns all reach every share
ELSEWHERE: Final = 0.3  # chosen: of the worth, for what is not of this packet's share
IMPLIED_MIN: Final = 0.6  # of its count: an n-gram that the packet implies so far is not named
CANDIDATES_MAX: Final = 1 << 16  # n-grams of one order that are looked at: the most frequent

_NONE: Final = np.zeros(0, np.uint64)
_NOTHING: Final = Memory(())


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """Every candidate that would help; ranking: their places (order after order, in key order), best first."""

    crystals: Crystals
    ranking: npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class _Chosen:
    """The candidates of one order that would help. after: p with the crystal; score: worth per bit, > 0."""

    keys: Keys
    counts: Counts
    after: Floats
    score: Floats

    def best(self, contexts: Keys) -> Floats:
        """The highest score among each context's entries, 0 where it has none. contexts: any order."""
        own = self.keys >> TOKEN_BITS
        found, first = np.unique(own, return_index=True)
        peaks = np.maximum.reduceat(self.score, first) if len(first) else np.zeros(0)
        return _at(found, peaks, contexts)


def select(residue: Memory, kernel: Kernel, accepted: Memory = _NOTHING, turn: int | None = None) -> Selection:
    """Ranks what a residue could bring to the kernel whose last memory will take it (empty for new territory).

    accepted: the counts of the texts that weigh up; those that the residue has no more weigh nothing. turn: whose share
    of the contexts goes first, >= 0; None: nobody's.
    """
    floors = kernel.floors()
    chosen: list[_Chosen] = []
    for order in range(ORDERS):
        table = residue.tables[order] if order < len(residue.tables) else Table.counted(_NONE)
        praised = _grams(accepted, order)
        chosen.append(_choose(table, praised, kernel, floors, order, turn, chosen[-1] if chosen else None))
    orders = [_order(residue, n, one) for n, one in enumerate(chosen)]
    # A stable sort: among equals the lower order, which the higher one needs, goes first.
    ranking = np.argsort(-np.concatenate([one.score for one in chosen]), kind="stable")
    return Selection(Crystals((orders[0], orders[1], orders[2])), ranking)


def _choose(
    table: Table,
    praised: tuple[Keys, Counts],
    kernel: Kernel,
    floors: list[Floats],
    order: int,
    turn: int | None,
    below: _Chosen | None,
) -> _Chosen:
    keys, counts = _candidates(table)
    contexts = keys >> TOKEN_BITS
    added = np.maximum(look_up(table.contexts, table.totals, contexts), counts).astype(np.float64)
    target, floor = kernel.memories[-1], floors[-1]
    lower, reach = _lower(target, floor, keys, order, below)
    now, place = predict_grams(target, keys, order, floor), _place(target, order, contexts)
    seen = look_up(*_grams(target, order), keys).astype(np.float64)
    reached = np.where(now.order == order, place.total, 0.0)
    before = _interpolate(seen, reached, place.known, place.distinct, lower)
    grown_total = place.total + added
    grown = _interpolate(seen + counts, grown_total, place.known + counts, place.distinct + (seen == 0), lower)
    others = _others(kernel, floors, keys, order)
    unaided = _mix(kernel, others, before, gates.bucket(now.order, now.total))
    aided = _mix(kernel, others, grown, gates.bucket(order, grown_total))
    gain = np.minimum(np.log2(aided / unaided), GAIN_MAX_BITS)
    weight = counts + (ACCEPTED_WEIGHT - 1.0) * np.minimum(look_up(*praised, keys), counts)
    mine = turn is None or _shard(contexts if order else keys) == turn % SHARDS
    worth = np.maximum(weight - CERTAIN_COUNT, WORTH_MIN) * gain * np.where(mine, 1.0, ELSEWHERE)
    score = np.minimum(_per_bit(worth, contexts, order), reach)
    keep = score > 0
    return _Chosen(keys[keep], counts[keep], grown[keep], score[keep])


def _shard(keys: Keys) -> Keys:
    """By the last token, so that a context and what it backs off to have their turn together."""
    spread: Keys = ((keys & TOKEN_MASK) * np.uint64(40503) >> np.uint64(3)) % np.uint64(SHARDS)
    return spread


def _per_bit(worth: Floats, contexts: Keys, order: int) -> Floats:
    """Worth per bit. A context's best entries up to where their common rate is highest share its bits, at that rate.

    contexts: of each entry. What follows is there already paid for, and worth less per bit.
    """
    if not len(worth):
        return worth
    places = np.lexsort((-worth, contexts))
    ordered, sums = worth[places], np.cumsum(worth[places])
    starts = context_starts(contexts[places] << TOKEN_BITS)
    sizes = np.diff(starts, append=len(worth))
    before = np.repeat(sums[starts] - ordered[starts], sizes)
    number = np.arange(len(worth)) - np.repeat(starts, sizes) + 1
    rate = (sums - before) / (CONTEXT_BITS[order] + ENTRY_BITS[order] * number)
    best = np.repeat(np.maximum.reduceat(rate, starts), sizes)
    found = np.empty(len(worth))
    found[places] = np.minimum(best, ordered / ENTRY_BITS[order])
    return found


def unimplied(selection: Selection, sent: Crystals) -> npt.NDArray[np.intp]:
    """The ranking without the n-grams that a packet with `sent` implies, IMPLIED_MIN of their count and more.

    sent: what the whole ranking brings into the packet. Now there is room for others.
    """
    nothing, (_, pairs, triples) = empty().orders[0], sent.orders
    tellers = ((nothing, pairs, triples), (nothing, nothing, triples))
    stay: list[npt.NDArray[np.bool_]] = [np.ones(len(order.keys), np.bool_) for order in selection.crystals.orders]
    for n, (order, teller) in enumerate(zip(selection.crystals.orders, tellers, strict=False)):
        told = implied(Crystals(teller)).orders[n]
        stay[n] = look_up(told.keys, told.counts, order.keys) < IMPLIED_MIN * order.counts
    left: npt.NDArray[np.intp] = selection.ranking[np.concatenate(stay)[selection.ranking]]
    return left


def _candidates(table: Table) -> tuple[Keys, Counts]:
    recurred = np.flatnonzero(table.counts >= COUNT_MIN)
    if len(recurred) > CANDIDATES_MAX:
        frequent = np.argsort(-table.counts[recurred].astype(np.int64), kind="stable")[:CANDIDATES_MAX]
        recurred = np.sort(recurred[frequent])
    return table.keys[recurred], table.counts[recurred]


def _lower(target: Memory, floor: Floats, keys: Keys, order: int, below: _Chosen | None) -> tuple[Floats, Floats]:
    """P of the token one context shorter, chosen crystals included, and how sure the way there is.

    The second is infinity where the memory knows the shorter context, else the best score among the crystals that
    would make it known: an entry ranks no higher than what it stands on. 0: there is no way.
    """
    if below is None:
        return floor[keys.astype(np.int64)], np.full(len(keys), np.inf)
    short = keys & ((np.uint64(1) << np.uint64(15 * order)) - np.uint64(1))
    known = predict_grams(target, short, order - 1, floor)
    lower = np.maximum(known.probability, _at(below.keys, below.after, short))
    reach = np.where(known.order == order - 1, np.inf, below.best(short >> TOKEN_BITS))
    return lower, reach


@dataclass(frozen=True, slots=True)
class _Place:
    total: Floats
    known: Floats
    distinct: Floats


def _place(memory: Memory, order: int, contexts: Keys) -> _Place:
    """Total, sum and number of known followers of each context; 0 where it is not known."""
    if order >= len(memory.tables) or not len(memory.tables[order].contexts):
        return _Place(*(np.zeros(len(contexts)) for _ in range(3)))
    table = memory.tables[order]
    columns = (table.totals, table.known, np.diff(table.starts))
    return _Place(*(_at(table.contexts, column.astype(np.float64), contexts) for column in columns))


def _interpolate(count: Floats, total: Floats, known: Floats, distinct: Floats, lower: Floats) -> Floats:
    """[max(c - d, 0) + (T - S + d u) p_lower] / T, and p_lower where the context is not known (memory.py)."""
    hits = np.maximum(count - DISCOUNT, 0.0) + (total - known + DISCOUNT * distinct) * lower
    return np.divide(hits, total, out=lower.copy(), where=total > 0)


def _others(kernel: Kernel, floors: list[Floats], keys: Keys, order: int) -> list[Floats]:
    """P of each n-gram under every expert but the last memory. The first memory speaks for the state."""
    known = [
        predict_grams(memory, keys, order, floor).probability
        for memory, floor in zip(kernel.memories, floors, strict=True)
    ]
    return [known[0], *known[:-1]]


def _mix(kernel: Kernel, others: list[Floats], last: Floats, bucket: gates.Buckets) -> Floats:
    """The kernel's p of each n-gram when its last memory says `last`. bucket: (N,), or one for all."""
    mixed: Floats = (kernel.gate[bucket] * np.stack([*others, last], 1)).sum(1)
    return mixed


def _grams(memory: Memory, order: int) -> tuple[Keys, Counts]:
    if order >= len(memory.tables):
        return _NONE, np.zeros(0, np.uint32)
    return memory.tables[order].keys, memory.tables[order].counts


def _at(keys: Keys, values: Floats, wanted: Keys) -> Floats:
    """The value at each wanted key, 0 where there is none. keys ascend."""
    if not len(keys):
        return np.zeros(len(wanted))
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    found: Floats = np.where(keys[at] == wanted, values[at], 0.0)
    return found


def _order(residue: Memory, order: int, chosen: _Chosen) -> Order:
    starts = context_starts(chosen.keys)
    contexts = chosen.keys[starts] >> TOKEN_BITS
    if order >= len(residue.tables):
        return Order(chosen.keys, chosen.counts, contexts, np.zeros(0, np.uint32))
    table = residue.tables[order]
    # Less than the counts where an earlier packet's total held them already (memory.subtract).
    totals = np.maximum(look_up(table.contexts, table.totals, contexts), group_sums(chosen.counts, starts))
    return Order(chosen.keys, chosen.counts, contexts, totals.astype(np.uint32))
