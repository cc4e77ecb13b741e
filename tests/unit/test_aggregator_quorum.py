import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.wire.ngrams import Crystals, check, crystals, entries, entry, implied, merge
from services.aggregator.quorum import ENROLLED_LEAST, Brought, needed, parted

VOCAB = 16


def grams(*told):
    """Crystals with the shorter n-grams that they imply, of (tokens, count, total)."""
    return implied(crystals([entry(tokens[:-1], tokens[-1], count=c, total=t) for tokens, c, t in told]))


def brought(*of_nodes):
    return [Brought(node, cut, found) for node, cut, found in of_nodes]


def named(found):
    """The n-grams of more than one token."""
    return [(*each.context, each.token) for each in entries(found) if each.context]


def said_by(several, **given):
    return [named(said) for said, _ in parted(several, **given)]


def rows(found):
    return [[column.tolist() for column in (o.keys, o.counts, o.contexts, o.totals)] for o in found.orders]


@functools.cache
def common():
    return grams(((1, 2), 2, 2))


@pytest.mark.parametrize(("edges", "said"), [(2, [(1, 2)]), (3, [(1, 2)]), (4, [])])
def test_an_n_gram_is_said_once_as_many_nodes_have_brought_it(edges, said):
    several = brought(("a", 0, common()), ("b", 3, common()), ("c", 7, common()))
    assert said_by(several, edges=edges) == [said] * 3


def test_a_node_is_one_however_often_it_brings_an_n_gram():
    assert said_by(brought(("a", 0, common()), ("a", 1, common()), ("b", 1, common())), edges=3) == [[]] * 3


def test_what_one_node_alone_brings_waits_and_what_others_bring_too_does_not():
    own = grams(((1, 2), 2, 6), ((1, 9), 3, 6), ((4, 5, 9), 2, 2))
    (said, waits), *_ = parted(brought(("a", 0, own), ("b", 0, common()), ("c", 0, common())), edges=3)
    assert (named(said), named(waits)) == ([(1, 2)], [(1, 9), (4, 5), (5, 9), (4, 5, 9)])


def test_an_n_gram_takes_its_share_of_its_context_s_total_along():
    own = crystals([entry((1,), 2, count=2, total=20), entry((1,), 9, count=6, total=20)])
    (said, waits), _ = parted(brought(("a", 0, own), ("b", 0, common())), edges=2)
    assert [found.orders[1].totals.tolist() for found in (said, waits)] == [[5], [15]]


def test_where_nothing_of_a_context_is_said_all_of_its_total_waits():
    (said, waits), *_ = parted(brought(("a", 0, grams(((1, 9), 3, 50)))), edges=2)
    assert (said.entries, waits.orders[1].totals.tolist()) == (0, [50])


def test_what_the_memories_know_is_said_by_one_node_alone():
    known = tuple(order.keys for order in grams(((1, 9), 1, 1)).orders)
    own = grams(((1, 9), 3, 6), ((1, 8), 3, 6))
    assert said_by(brought(("a", 0, own)), edges=3, known=known) == [[(1, 9)]]


def test_with_one_node_everything_is_said_and_nothing_waits():
    (said, waits), *_ = parted(brought(("a", 0, common())), edges=1)
    assert (rows(said), waits.entries) == (rows(common()), 0)


def test_nothing_brought_is_nothing_said():
    assert parted([], edges=3) == []
    (said, waits), *_ = parted(brought(("a", 0, crystals(()))), edges=3)
    assert said.entries == waits.entries == 0


@pytest.mark.parametrize(("enrolled", "nodes"), [(ENROLLED_LEAST - 1, 1), (ENROLLED_LEAST, 3), (ENROLLED_LEAST + 1, 3)])
def test_a_quorum_is_asked_for_where_enough_nodes_are_enrolled(enrolled, nodes):
    assert needed(3, enrolled) == nodes


told = st.lists(
    st.tuples(st.lists(st.integers(0, 5), min_size=1, max_size=3), st.integers(1, 9), st.integers(0, 20)), max_size=12
)


@st.composite
def packets(draw):
    """A node's n-grams, each context with one total."""
    counts, rest = {}, {}
    for tokens, count, more in draw(told):
        counts[tuple(tokens)] = count
        rest[tuple(tokens[:-1]), len(tokens)] = more
    sums = {}
    for tokens, count in counts.items():
        context = (tokens[:-1], len(tokens))
        sums[context] = sums.get(context, 0) + count
    found = [
        entry(t[:-1], t[-1], count=c, total=sums[t[:-1], len(t)] + rest[t[:-1], len(t)]) for t, c in counts.items()
    ]
    return Brought(draw(st.sampled_from("abcd")), draw(st.integers(0, 3)), implied(crystals(found)))


@settings(max_examples=100, deadline=None)
@given(st.lists(packets(), max_size=6), st.integers(1, 4), st.randoms())
def test_said_and_waiting_are_what_was_brought_in_whatever_order(several, edges, random):
    shuffled = several[:]
    random.shuffle(shuffled)
    found, again = parted(several, edges=edges), parted(shuffled, edges=edges)
    for one, (said, waits) in zip(several, found, strict=True):
        assert rows(merge([check(said, VOCAB), check(waits, VOCAB)])) == rows(one.crystals)
    assert [rows(merge([two[n] for two in found])) for n in (0, 1)] == [
        rows(merge([two[n] for two in again])) for n in (0, 1)
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(packets(), max_size=6), st.integers(1, 4))
def test_what_a_triple_may_say_its_pair_may_say_too(several, edges):
    for said, _ in parted(several, edges=edges):
        one, two, three = (np.array(order.keys) for order in Crystals(said.orders).orders)
        assert set((three & np.uint64((1 << 30) - 1)).tolist()) <= set(two.tolist())
        assert set((two & np.uint64((1 << 15) - 1)).tolist()) <= set(one.tolist())
