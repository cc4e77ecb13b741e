import numpy as np
import pytest

from common.kernels import gate
from common.kernels.kernel import Kernel
from common.kernels.memory import count, look_up, merge, predict
from common.wire import crystals as codec
from common.wire.ngrams import check, implied, take
from services.edge.balance import NOTHING
from services.edge.crystals import COUNT_MIN, IMPLIED_MIN, SHARDS, _per_bit, select, unimplied
from services.edge.sleep import as_memory

NEW = "The king spake unto the people, and the people answered the king. "


@pytest.fixture
def kernel(micro):
    return micro.kernel("heart")


@pytest.fixture
def opening(micro):
    heart = micro.kernel("heart")
    return Kernel(heart.state, (*heart.memories, NOTHING), gate.prior(3))


def residue(micro, text, times=1):
    return count([micro.encoder.encode(text)] * times, 3)


def best(found, number, vocab=320):
    mask = np.zeros(found.crystals.entries, bool)
    mask[found.ranking[:number]] = True
    return take(found.crystals, mask)


def bits(kernel, memory, ids):
    """Code length under a kernel's memories when the last one is `memory`."""
    floors = kernel.floors()
    known = predict(memory, ids, floors[-1])
    first = predict(kernel.memories[0], ids, floors[0]).probability
    experts = [first, *(predict(m, ids, f).probability for m, f in zip(kernel.memories[:-1], floors[:-1], strict=True))]
    weights = kernel.gate[gate.bucket(known.order, known.total)]
    return float(-np.log2((weights * np.stack([*experts, known.probability], 1)).sum(1)).sum())


def test_what_was_seen_once_is_no_candidate(micro, kernel):
    once, twice = select(residue(micro, NEW), kernel), select(residue(micro, NEW, 2), kernel)
    assert all((order.counts >= COUNT_MIN).all() for order in once.crystals.orders)
    assert twice.crystals.entries > once.crystals.entries
    assert COUNT_MIN == 2


def test_nothing_read_is_nothing_chosen(kernel):
    found = select(NOTHING, kernel)
    assert (found.crystals.entries, len(found.ranking)) == (0, 0)


@pytest.mark.parametrize("which", ["kernel", "opening"])
def test_the_chosen_keep_the_rules_of_crystals_and_are_ranked_once_each(micro, request, which):
    found = select(residue(micro, NEW, 3), request.getfixturevalue(which))
    check(found.crystals, 320)
    assert sorted(found.ranking) == list(range(found.crystals.entries))
    assert found.crystals.entries > 20


def test_counts_and_totals_are_those_of_the_residue(micro, kernel):
    memory = residue(micro, NEW, 2)
    for order, table in zip(select(memory, kernel).crystals.orders, memory.tables, strict=True):
        assert np.isin(order.keys, table.keys).all()
        assert (order.counts == table.counts[np.searchsorted(table.keys, order.keys)]).all()
        assert (order.totals == table.totals[np.searchsorted(table.contexts, order.contexts)]).all()


def test_what_the_kernel_knows_well_ranks_behind_what_is_new_to_it(micro, kernel):
    old = residue(micro, "and let the rhythm of the rain return to everything. ", 2)
    first = best(select(merge([old, residue(micro, NEW, 2)]), kernel), 20)
    known = sum(np.isin(order.keys, table.keys).sum() for order, table in zip(first.orders, old.tables, strict=True))
    assert known <= 6


def test_frequent_surprises_come_before_rare_ones(micro, kernel):
    memory = merge([residue(micro, "qqzzqqzz", 30), residue(micro, NEW, 2)])
    found = select(memory, kernel)
    first = best(found, 1)
    assert max(int(order.counts.max(initial=0)) for order in first.orders) >= 30


@pytest.mark.parametrize("which", ["kernel", "opening"])
@pytest.mark.parametrize("number", [5, 20, 80])
def test_every_beginning_of_the_ranking_can_be_reached_by_its_shorter_contexts(micro, request, which, number):
    target = request.getfixturevalue(which)
    added = as_memory(best(select(residue(micro, NEW, 4), target), number))
    grown = merge([target.memories[-1], added])
    for order in (1, 2):
        short = added.tables[order].contexts & np.uint64((1 << 15 * (order - 1)) - 1)
        assert np.isin(short, grown.tables[order - 1].contexts).all()


@pytest.mark.parametrize("which", ["kernel", "opening"])
def test_more_crystals_predict_the_text_better(micro, request, which):
    target, ids = request.getfixturevalue(which), micro.encoder.encode(NEW * 2)
    found = select(count([ids] * 2, 3), target)
    known = [bits(target, merge([target.memories[-1], as_memory(best(found, n))]), ids) for n in (0, 10, 40, 200)]
    assert known == sorted(known, reverse=True)
    assert known[-1] < 0.8 * known[0]


def test_the_ranking_is_better_than_any_order(micro, opening):
    ids = micro.encoder.encode(NEW * 2)
    found = select(count([ids] * 2, 3), opening)
    shuffled = np.random.default_rng(1).permutation(found.ranking)
    chosen, _ = codec.fit(found.crystals, found.ranking, vocab_size=320, budget_bytes=40)
    random, _ = codec.fit(found.crystals, shuffled, vocab_size=320, budget_bytes=40)
    assert bits(opening, as_memory(chosen), ids) < bits(opening, as_memory(random), ids)


def test_accepted_text_ranks_higher_and_is_not_counted_higher(micro, kernel):
    praised, other = residue(micro, "qqzzqqzz", 2), residue(micro, NEW, 2)
    memory = merge([other, praised])
    plain, weighed = select(memory, kernel), select(memory, kernel, praised)
    for one, two in zip(plain.crystals.orders, weighed.crystals.orders, strict=True):
        assert np.array_equal(one.keys, two.keys)
        assert np.array_equal(one.counts, two.counts)
        assert np.array_equal(one.totals, two.totals)
    shares = [praised_share(found, praised, 12) for found in (plain, weighed)]
    assert shares[0] < shares[1]


def test_what_was_accepted_and_is_no_more_in_the_residue_weighs_nothing(micro, kernel):
    memory = residue(micro, NEW, 2)
    gone = residue(micro, "qqzzqqzz", 2)
    assert np.array_equal(select(memory, kernel, gone).ranking, select(memory, kernel).ranking)


def praised_share(found, praised, number):
    orders = zip(best(found, number).orders, praised.tables, strict=True)
    return sum(int(np.isin(order.keys, table.keys).sum()) for order, table in orders) / number


@pytest.mark.parametrize("turn", range(SHARDS))
def test_the_contexts_whose_turn_it_is_come_first(micro, opening, turn):
    memory = residue(micro, NEW, 2)
    found = select(memory, opening, turn=turn)
    pairs = found.crystals.orders[1]
    mine = (pairs.keys >> np.uint64(15)) * np.uint64(40503) // np.uint64(8) % np.uint64(SHARDS) == turn
    places = np.argsort(found.ranking)[len(found.crystals.orders[0].keys) :][: len(pairs.keys)]
    assert mine.any()
    assert places[mine].mean() < places[~mine].mean()
    assert np.array_equal(select(memory, opening, turn=turn + SHARDS).ranking, found.ranking)


def test_another_s_turn_sends_other_ngrams_and_in_the_end_all_have_had_theirs(micro, opening):
    memory = residue(micro, NEW, 2)
    firsts = [set(best(select(memory, opening, turn=turn), 12).orders[1].keys.tolist()) for turn in range(SHARDS)]
    assert len(set.union(*firsts)) > 2 * max(map(len, firsts))


def test_a_context_that_is_paid_for_lets_more_of_its_entries_in():
    contexts = np.array([1, 2, 2, 2], np.uint64)
    alone, first, second, third = _per_bit(np.array([4.0, 4.0, 3.0, 0.5]), contexts, 1)
    assert (first, second) == (7 / 30, 7 / 30)
    assert alone == 4 / 20 < second
    assert third == 0.5 / 10


def test_worth_without_contexts_is_worth_by_the_bit():
    assert _per_bit(np.array([4.0, 2.0]), np.zeros(2, np.uint64), 0).tolist() == [0.5, 0.25]
    assert _per_bit(np.zeros(0), np.zeros(0, np.uint64), 2).tolist() == []


def test_what_the_packet_implies_is_not_named(micro, opening):
    found = select(residue(micro, NEW, 3), opening)
    every = take(found.crystals, np.ones(found.crystals.entries, bool))
    left = unimplied(found, every)
    mask = np.zeros(found.crystals.entries, bool)
    mask[left] = True
    rest = take(found.crystals, mask)
    assert len(left) < 0.8 * len(found.ranking)
    assert left.tolist() == [place for place in found.ranking if mask[place]]
    assert rest.orders[2].keys.tolist() == every.orders[2].keys.tolist()
    for told, order in zip(implied(rest).orders, every.orders, strict=True):
        counts = look_up(told.keys, told.counts, order.keys)
        assert (counts >= IMPLIED_MIN * order.counts).all()


def test_where_nothing_is_sent_nothing_is_implied(micro, opening):
    found = select(residue(micro, NEW, 3), opening)
    assert unimplied(found, best(found, 0)).tolist() == found.ranking.tolist()


def test_selection_is_deterministic(micro, kernel):
    one, other = (select(residue(micro, NEW, 3), kernel) for _ in range(2))
    assert np.array_equal(one.ranking, other.ranking)
