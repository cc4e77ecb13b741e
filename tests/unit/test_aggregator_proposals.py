import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Corrupt
from common.wire.fields import MAX_MERGE_EDGES, MAX_MERGES
from common.wire.messages import Merge
from services.aggregator import proposals as room
from services.aggregator.proposals import MERGES_LEAST, PROPOSED_MAX, from_bytes, gather, left_with, name_of, to_bytes
from services.aggregator.quota import NODE_MERGES

KEYS = [bytes([n]) * 8 for n in range(12)]
NODES = {key: f"edge-{n}" for n, key in enumerate(KEYS)}
MANY = [(n, n + 1) for n in range(MERGES_LEAST)]


def said(*brought, before=None, known=(), nodes=NODES, edges=3):
    """brought: number of the edge and the merges that it says, packet after packet."""
    told = [(KEYS[edge], [(*pair, 20 + edge) for pair in pairs]) for edge, pairs in brought]
    return gather(before or {}, told, known=known, nodes=nodes, edges=edges)


def pairs(found):
    return [(merge.left, merge.right) for merge in found.merges]


@pytest.mark.parametrize(("edges", "ready"), [(2, True), (3, True), (4, False)])
def test_a_merge_is_ready_once_as_many_edges_have_said_it(edges, ready):
    found = said((0, MANY), (1, MANY), (2, MANY), edges=edges)
    assert sorted(pairs(found)) == (MANY if ready else [])


@pytest.mark.parametrize(("number", "ready"), [(MERGES_LEAST - 1, False), (MERGES_LEAST, True)])
def test_merges_leave_in_handfuls(number, ready):
    some = [(n, n + 1) for n in range(number)]
    found = said(*[(edge, some) for edge in range(3)])
    assert sorted(pairs(found)) == (some if ready else [])
    assert sorted(found.noted) == some


def test_what_is_ready_says_who_saw_it_how_often():
    (first, *_) = said((2, MANY), (0, MANY), (1, MANY)).merges
    assert first == Merge(left=0, right=1, edges=((KEYS[0], 20), (KEYS[1], 21), (KEYS[2], 22)))


def test_an_edge_counts_once_however_often_it_says_a_merge():
    assert said((0, MANY), (0, MANY), (1, MANY), (0, MANY)).merges == ()


def test_an_edge_that_is_enrolled_no_more_does_not_count():
    others = {key: node for key, node in NODES.items() if key != KEYS[0]}
    assert said((0, MANY), (1, MANY), (2, MANY), nodes=others).merges == ()


def test_a_node_of_several_keys_has_one_vote():
    of_two = NODES | {KEYS[1]: NODES[KEYS[0]]}
    assert said((0, MANY), (1, MANY), (2, MANY), nodes=of_two).merges == ()
    found = said((0, MANY), (1, MANY), (2, MANY), (3, MANY), nodes=of_two)
    assert [key for key, _ in found.merges[0].edges] == KEYS[1:4]


@pytest.mark.parametrize(("most", "left"), [(2, 2), (3, 3), (4, 3)])
def test_of_a_node_s_proposals_those_that_most_others_said_stay(monkeypatch, most, left):
    monkeypatch.setattr(room, "NODE_MERGES", most)
    found = said((0, [(1, 2), (3, 4), (5, 6)]), (1, [(5, 6)]))
    assert sum(KEYS[0] in votes for votes in found.noted.values()) == left
    assert sorted(found.noted[(5, 6)]) == KEYS[:2]


@pytest.mark.parametrize(("most", "noted"), [(2, 2), (3, 3), (4, 3)])
def test_a_cut_changes_so_many_merges_at_once_those_that_most_said_first(monkeypatch, most, noted):
    monkeypatch.setattr(room, "CHANGED_MAX", most)
    found = said((0, [(1, 2), (3, 4), (5, 6)]), (1, [(5, 6)]))
    assert len(found.noted) == noted
    assert (5, 6) in found.noted
    assert len(said(before=found.noted, known={(1, 2), (3, 4), (5, 6)}).gone) == min(most, noted)


def test_one_node_leaves_room_for_the_proposals_of_others():
    flood = [(n, n + 1) for n in range(PROPOSED_MAX)]
    found = said((0, flood), (1, [(9000, 9001)]))
    assert (9000, 9001) in found.noted
    assert len(found.noted) == NODE_MERGES + 1


def test_a_merge_that_the_vocabulary_has_is_noted_no_more():
    before = said((0, MANY), (1, MANY)).noted
    found = said((2, MANY), before=before, known=set(MANY))
    assert (found.noted, found.merges) == ({}, ())
    assert sorted(found.gone) == MANY


def test_what_left_with_a_batch_is_forgotten_and_what_did_not_waits():
    before = said((0, MANY), (1, [*MANY, (90, 91)])).noted
    found = left_with(said((2, MANY), before=before))
    assert sorted(found.gone) == sorted(pairs(found)) == MANY
    assert found.noted == {}


def test_without_a_batch_everything_waits():
    found = said((0, MANY), (1, MANY), (2, MANY))
    assert sorted(pairs(said((3, []), before=found.noted))) == MANY


def test_a_batch_takes_those_that_were_seen_most():
    some = [(n, n + 1) for n in range(MAX_MERGES + 5)]
    found = said((0, some), (1, some), (2, some), (3, some[5:]))
    assert sorted(pairs(found)) == some[5:]


def test_who_said_a_merge_is_noted_of_some_edges_only():
    found = said(*[(edge, MANY) for edge in range(12)])
    assert {len(merge.edges) for merge in found.merges} == {MAX_MERGE_EDGES}


def test_at_the_limit_those_that_fewest_said_go(monkeypatch):
    monkeypatch.setattr(room, "PROPOSED_MAX", 3)
    found = said((0, [(1, 2), (3, 4), (5, 6)]), (1, [(5, 6), (7, 8)]))
    assert sorted(found.noted) == [(1, 2), (3, 4), (5, 6)]
    again = said((2, [(7, 8)]), (1, [(7, 8)]), before=found.noted)
    assert (again.gone, sorted(again.noted)) == (((3, 4),), [(7, 8)])
    assert PROPOSED_MAX > 3


PACKETS = st.lists(
    st.tuples(st.integers(0, 4), st.lists(st.sampled_from(MANY), max_size=6, unique=True)), min_size=1, max_size=8
)


@given(PACKETS, PACKETS)
def test_one_cut_after_the_other_leaves_what_one_cut_of_both_leaves(first, second):
    held = said(*first).noted
    after = said(*second, before=held)
    assert {**held, **after.noted} == said(*first, *second).noted
    assert pairs(after) == pairs(said(*first, *second))


@given(st.dictionaries(st.sampled_from(KEYS), st.integers(1, 65535), min_size=1))
def test_what_the_broker_keeps_comes_back(votes):
    assert from_bytes(name_of((7, 300)), to_bytes(votes)) == ((7, 300), votes)


@pytest.mark.parametrize(
    ("name", "data"), [("7", bytes(10)), ("7 x", bytes(10)), ("-1 2", bytes(10)), ("7 8", bytes(9))]
)
def test_what_no_aggregator_wrote_is_corrupt(name, data):
    with pytest.raises(Corrupt, match="proposed"):
        from_bytes(name, data)
