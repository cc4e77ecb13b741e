import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Corrupt
from common.runtime.effects import Send
from common.wire.codec import unpack
from common.wire.mentions import SPACE, decode
from common.wire.messages import COMMON_MAX_HASHES, Common
from services.aggregator import tally as room
from services.aggregator.app.batches import tally_effects
from services.aggregator.tally import Counted, Tally, from_bytes, tally, to_bytes

KEYS = [bytes([n]) * 8 for n in range(5)]
NOTHING = Tally({}, {})


def hashes(*values):
    return np.array(values, np.uint32)


def counted(*brought, before=NOTHING, enrolled=KEYS, edges=3):
    """brought: number of the edge and what it mentions, packet after packet."""
    told = [(KEYS[edge], hashes(*values)) for edge, values in brought]
    return tally(before, told, enrolled=enrolled, edges=edges)


def after(before, found, number):
    """The tally that the broker holds then."""
    common = {n: old for n, old in before.common.items() if n not in found.forgotten}
    return Tally(
        {**before.mentioned, **found.mentioned}, common | ({number: found.common} if len(found.common) else {})
    )


@pytest.mark.parametrize(("edges", "common"), [(2, [7]), (3, [7]), (4, [])])
def test_a_hash_is_common_once_as_many_edges_have_mentioned_it(edges, common):
    found = counted((0, [7, 1]), (1, [7, 2]), (2, [3, 7]), edges=edges)
    assert found.common.tolist() == found.told.tolist() == common


def test_an_edge_counts_once_however_often_it_mentions():
    found = counted((0, [7]), (0, [7]), (1, [7]), (0, [7]))
    assert found.common.tolist() == []
    again = counted((0, [7]), before=after(NOTHING, found, 0))
    assert again.common.tolist() == []
    assert again.mentioned[KEYS[0]].tolist() == [7]


def test_edges_may_mention_in_different_cuts():
    held = after(NOTHING, counted((0, [7]), (1, [7, 8])), 0)
    found = counted((2, [7]), before=held)
    assert found.common.tolist() == [7]


def test_an_edge_that_is_enrolled_no_more_does_not_count():
    found = counted((0, [7]), (1, [7]), (2, [7]), enrolled=KEYS[1:])
    assert found.common.tolist() == []


def test_who_mentions_what_is_common_already_is_told_again_and_nothing_is_counted_anew():
    held = after(NOTHING, counted((0, [7]), (1, [7]), (2, [7])), 0)
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
    second = counted(*brought[cut_at:], before=after(NOTHING, first, 0))
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
