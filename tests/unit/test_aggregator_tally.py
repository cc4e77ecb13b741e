import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Corrupt
from common.runtime.effects import EFFECTS_MAX, Send, check
from common.runtime.streams import PACKETS
from common.wire.codec import unpack
from common.wire.fields import COMMON_MAX_HASHES
from common.wire.mentions import SPACE, decode
from common.wire.messages import Common
from services.aggregator import tally as room
from services.aggregator.app.batches import tally_effects
from services.aggregator.tally import DROPPED_MAX, Counted, Tally, counted_in, from_bytes, tally, to_bytes

KEYS = [bytes([n]) * 8 for n in range(5)]
NODES = {key: f"edge-{n}" for n, key in enumerate(KEYS)}
NOTHING = Tally({}, {})


def hashes(*values):
    return np.array(values, np.uint32)


def counted(*brought, before=NOTHING, nodes=NODES, edges=3):
    """brought: number of the edge and what it mentions, packet after packet."""
    told = [(KEYS[edge], hashes(*values)) for edge, values in brought]
    return tally(before, told, nodes=nodes, edges=edges)


@pytest.mark.parametrize(("edges", "common"), [(2, [7]), (3, [7]), (4, [])])
def test_a_hash_is_common_once_as_many_edges_have_mentioned_it(edges, common):
    found = counted((0, [7, 1]), (1, [7, 2]), (2, [3, 7]), edges=edges)
    assert found.common.tolist() == found.told.tolist() == common


def test_an_edge_counts_once_however_often_it_mentions():
    found = counted((0, [7]), (0, [7]), (1, [7]), (0, [7]))
    assert found.common.tolist() == []
    again = counted((0, [7]), before=counted_in(NOTHING, found, 0))
    assert again.common.tolist() == []
    assert again.mentioned[KEYS[0]].tolist() == [7]


def test_edges_may_mention_in_different_cuts():
    held = counted_in(NOTHING, counted((0, [7]), (1, [7, 8])), 0)
    found = counted((2, [7]), before=held)
    assert found.common.tolist() == [7]


def test_an_edge_that_is_enrolled_no_more_does_not_count():
    others = {key: node for key, node in NODES.items() if key != KEYS[0]}
    assert counted((0, [7]), (1, [7]), (2, [7]), nodes=others).common.tolist() == []


def test_what_an_edge_mentioned_that_is_enrolled_no_more_is_dropped():
    held = counted_in(NOTHING, counted((0, [7]), (1, [7])), 0)
    others = {key: node for key, node in NODES.items() if key != KEYS[0]}
    found = counted((2, [8]), before=held, nodes=others)
    assert found.gone == (KEYS[0],)
    assert sorted(counted_in(held, found, 1).mentioned) == KEYS[1:3]


def test_an_edge_of_several_keys_is_one_edge():
    of_two = NODES | {KEYS[1]: NODES[KEYS[0]]}
    assert counted((0, [7]), (1, [7]), (2, [7]), nodes=of_two).common.tolist() == []
    assert counted((0, [7]), (1, [7]), (2, [7]), (3, [7]), nodes=of_two).common.tolist() == [7]


def test_who_mentions_what_is_common_already_is_told_again_and_nothing_is_counted_anew():
    held = counted_in(NOTHING, counted((0, [7]), (1, [7]), (2, [7])), 0)
    found = counted((3, [7, 9]), before=held)
    assert (found.common.tolist(), found.told.tolist()) == ([], [7])
    assert found.mentioned[KEYS[3]].tolist() == [9]


def test_what_became_common_takes_no_room_among_the_mentions():
    found = counted((0, [7, 1]), (1, [7]), (2, [7]))
    assert {key: own.tolist() for key, own in found.mentioned.items()} == {KEYS[0]: [1], KEYS[1]: [], KEYS[2]: []}


@pytest.mark.parametrize(("many", "left"), [(4, [0, 1, 2, 3]), (5, [0, 1, 2, 3, 4]), (6, [1, 2, 3, 4, 5])])
def test_of_an_edge_s_mentions_the_oldest_go_first(monkeypatch, many, left):
    monkeypatch.setattr(room, "MENTIONED_MAX", 5)
    found = counted(*[(0, [n]) for n in range(many)])
    assert found.mentioned[KEYS[0]].tolist() == left


@pytest.mark.parametrize("left", [DROPPED_MAX - 1, DROPPED_MAX, DROPPED_MAX + 1])
def test_however_many_keys_are_enrolled_no_more_one_cut_drops_what_a_transaction_has_room_for(left):
    strangers = {(1000 + number).to_bytes(8, "big"): hashes(7) for number in range(left)}
    found = counted((0, [7]), before=Tally(strangers, {}))
    assert len(found.gone) == min(left, DROPPED_MAX)
    assert len(counted((0, [9]), before=counted_in(Tally(strangers, {}), found, 1)).gone) == left - len(found.gone)


def test_what_became_common_one_by_one_goes_over_several_cuts_where_much_comes_at_once(monkeypatch):
    monkeypatch.setattr(room, "COMMON_MAX", 2 * EFFECTS_MAX)
    now = Tally({}, {number: hashes(number) for number in range(2 * EFFECTS_MAX)})
    many = list(range(SPACE - 2 * EFFECTS_MAX, SPACE))
    for number in range(2 * EFFECTS_MAX, 2 * EFFECTS_MAX + 2 * EFFECTS_MAX // DROPPED_MAX):
        found = counted(*((edge, many) for edge in range(3)), before=now)
        check(PACKETS, tally_effects(found, (), number))
        now = counted_in(now, found, number)
    assert len(now.common) == 1


@pytest.mark.parametrize(("limit", "forgotten"), [(4, (3,)), (5, (3,)), (6, ()), (7, ()), (2, (3, 8))])
def test_of_what_is_common_the_oldest_goes_first(monkeypatch, limit, forgotten):
    monkeypatch.setattr(room, "COMMON_MAX", limit)
    before = Tally({}, {3: hashes(1, 2), 8: hashes(3, 4)})
    assert counted((0, [7, 9]), (1, [7, 9]), (2, [9, 7]), before=before).forgotten == forgotten


packets = st.lists(st.tuples(st.integers(0, 4), st.lists(st.integers(0, 9), unique=True, max_size=6)), max_size=12)


@given(brought=packets, cut_at=st.integers(0, 12))
def test_one_cut_or_two_find_the_same_to_be_common(brought, cut_at):
    whole = counted(*brought)
    first = counted(*brought[:cut_at])
    second = counted(*brought[cut_at:], before=counted_in(NOTHING, first, 0))
    assert sorted([*first.common.tolist(), *second.common.tolist()]) == whole.common.tolist()


@given(brought=packets)
def test_what_is_common_is_what_counting_by_hand_says(brought):
    holders = {}
    for edge, values in brought:
        for value in values:
            holders.setdefault(value, set()).add(edge)
    assert counted(*brought).common.tolist() == sorted(v for v, edges in holders.items() if len(edges) >= 3)


def test_hashes_come_back_from_the_broker_s_bytes():
    assert from_bytes(to_bytes(hashes(3, 1, 2**32 - 1))).tolist() == [3, 1, 2**32 - 1]
    with pytest.raises(Corrupt, match="tally"):
        from_bytes(b"abc")


def test_what_a_cut_tells_fits_its_messages_however_much_it_is():
    told = np.unique(np.random.default_rng(0).integers(0, SPACE, 3 * COMMON_MAX_HASHES)).astype(np.uint32)
    effects = tally_effects(Counted({}, told, (), told), (), 7)
    sent = [unpack(Common, effect.message) for effect in effects if isinstance(effect, Send)]
    assert len(sent) == 3
    assert np.concatenate([decode(each.hashes, COMMON_MAX_HASHES) for each in sent]).tolist() == told.tolist()
