import numpy as np
import pytest

from common.kernels import gate
from common.kernels.kernel import Kernel
from common.kernels.memory import count, merge, predict
from common.wire import crystals as codec
from common.wire.ngrams import check, take
from services.edge.crystals import COUNT_MIN, select
from services.edge.sleep import EMPTY, as_memory

NEW = "The king spake unto the people, and the people answered the king. "


@pytest.fixture
def kernel(micro):
    return micro.kernel("heart")


@pytest.fixture
def opening(micro):
    heart = micro.kernel("heart")
    return Kernel(heart.state, (*heart.memories, EMPTY), gate.prior(3))


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
    found = select(EMPTY, kernel)
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


def test_selection_is_deterministic(micro, kernel):
    one, other = (select(residue(micro, NEW, 3), kernel) for _ in range(2))
    assert np.array_equal(one.ranking, other.ranking)
