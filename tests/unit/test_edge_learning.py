import hashlib

import numpy as np
import pytest
from nacl.signing import SigningKey

from common.errors import Corrupt, Rejected
from common.kernels.memory import merge
from common.wire.bundle import part_of, sign
from common.wire.codec import pack, unpack
from common.wire.mentions import encode
from common.wire.messages import Candidate, Common, Evidence, PacketRef
from common.wire.packet import PacketBody, base_prefix
from services.edge.answer import Interaction, Serving
from services.edge.balance import EMPTY
from services.edge.learning import (
    due_domains,
    fold_domain,
    forget,
    give_up,
    go_home,
    hear_common,
    relearned,
    reopen,
    settle_bundle,
    take_back,
    unsettle,
)
from services.edge.local import TERRITORY
from services.edge.mentions import DECOYS, Private, decoys
from services.edge.sleep import LOST_AFTER_S, Rhythm

TEXT = "The king spake unto the people, and the people answered the king. " * 4
RHYTHM = Rhythm(after_bytes=1000, idle_s=5.0, max_s=3600.0)
KEY = b"k" * 8


@pytest.fixture
def serving(micro):
    return Serving(micro, 4, "cd" * 32, "node-1")


def read(record, micro, domain, number, at_s=100.0, first=0):
    ids = micro.encoder.encode(TEXT)
    for n in range(first, first + number):
        each = Interaction(
            f"{domain}{n}", "c", TEXT, at_s, domain, micro.basin(ids), len(ids), len(TEXT), 9.0, None, None
        )
        record.texts.add(each, b"", probe=False)


def folded(record, serving, domain):
    return fold_domain(record, serving, domain, gauges={}, crystal_bytes=300, now_s=200.0)


def bundle_naming(*sequences, epoch=1000):
    refs = tuple(PacketRef(key=KEY, epoch=epoch, sequence=sequence) for sequence in sequences)
    candidate = Candidate(
        id="c", parent=0, parent_digest="", parts={"p": part_of(b"")}, evidence=Evidence(), packets=refs
    )
    return sign(candidate, version=1, released_at_s=1.0, signing_key=SigningKey(bytes(32)))


def settled(record, serving, bundle):
    return settle_bundle(record, serving, bundle, key=KEY, entry_id="5-0", now_s=300.0)


def test_each_domain_is_due_by_itself(record, serving, micro):
    read(record, micro, "heart", 5)
    read(record, micro, "vocab", 1)
    assert due_domains(record, serving, RHYTHM, asked_s=0.0, now_s=115.0) == ["heart"]
    assert due_domains(record, serving, RHYTHM, asked_s=0.0, now_s=3700.0) == ["heart", "vocab"]


@pytest.mark.parametrize(("asked_s", "past_s", "due"), [(0.0, -0.01, []), (0.0, 0.01, ["heart"]), (101.0, 0.01, [])])
def test_idle_counts_from_the_last_query_of_this_life_or_the_one_before(record, serving, micro, asked_s, past_s, due):
    read(record, micro, "heart", 5)
    now_s = 100.0 + RHYTHM.of("node-1", "heart").idle_s + past_s
    assert due_domains(record, serving, RHYTHM, asked_s=asked_s, now_s=now_s) == due


@pytest.mark.parametrize(("idle_s", "due"), [(-0.01, []), (0.01, ["heart"])])
def test_idle_counts_from_the_last_query_though_another_came_by_a_clock_that_was_ahead(
    record, serving, micro, idle_s, due
):
    read(record, micro, "heart", 5)
    asked_s = 50.0
    now_s = asked_s + RHYTHM.of("node-1", "heart").idle_s + idle_s
    assert due_domains(record, serving, RHYTHM, asked_s=asked_s, now_s=now_s, awake_s=-100.0) == due


@pytest.mark.parametrize("crowded", [True, False])
@pytest.mark.parametrize(("awake_s", "now_s"), [(0.0, 200.0), (199.0, 200.0)])
def test_load_and_waking_put_off_what_is_due(record, serving, micro, crowded, awake_s, now_s):
    read(record, micro, "heart", 5)
    found = due_domains(record, serving, RHYTHM, asked_s=0.0, now_s=now_s, crowded=crowded, awake_s=awake_s)
    assert found == ([] if crowded or awake_s else ["heart"])


def test_a_nap_folds_the_oldest_text_and_leaves_the_rest(record, serving, micro):
    read(record, micro, "heart", 8)
    limit = 3 * len(TEXT)
    body = fold_domain(record, serving, "heart", gauges={}, crystal_bytes=300, now_s=200.0, max_bytes=limit).body
    assert body.fresh_bytes == limit
    assert [each.query_id for _, each in record.texts.unfolded("heart")] == [f"heart{n}" for n in range(3, 8)]


def test_a_domain_with_a_packet_away_or_that_no_bundle_knows_waits(record, serving, micro):
    read(record, micro, "heart", 5)
    read(record, micro, "atlantis", 5)
    folded(record, serving, "heart")
    read(record, micro, "heart", 9, at_s=101.0)
    assert due_domains(record, serving, RHYTHM, asked_s=0.0, now_s=9e9) == []


def test_a_fold_leaves_a_pending_packet_against_the_bundle_that_served(record, serving, micro):
    read(record, micro, "heart", 3)
    body = folded(record, serving, "heart").body
    (packet,) = record.packets("pending")
    assert unpack(PacketBody, packet.body) == body
    assert (packet.base_version, packet.base, packet.sequence) == (4, base_prefix("cd" * 32), 0)
    assert record.texts.fresh() == []


def test_settling_twice_is_settling_once(record, serving, micro):
    read(record, micro, "heart", 3)
    folded(record, serving, "heart")
    assert settled(record, serving, bundle_naming(0)) == (0,)
    tokens = record.residue("heart").tokens
    assert settled(record, serving, bundle_naming(0)) == ()
    assert record.residue("heart").tokens == tokens
    assert record.cursor == "5-0"


def test_a_packet_given_up_leaves_its_counts_to_the_next(record, serving, micro):
    read(record, micro, "heart", 3)
    folded(record, serving, "heart")
    record.sent(0, b"raw", at_s=200.0)
    tokens = record.residue("heart").tokens
    late_s = 200.0 + LOST_AFTER_S
    assert (give_up(record, now_s=late_s - 1.0), give_up(record, now_s=late_s)) == ([], [0])
    assert record.residue("heart").tokens == tokens
    assert settled(record, serving, bundle_naming(0)) == (0,)


def refs(*sequences, key=KEY, epoch=1000):
    return [PacketRef(key=key, epoch=epoch, sequence=sequence) for sequence in sequences]


@pytest.mark.parametrize(
    ("refs", "back"),
    [(refs(0), (0,)), (refs(0, 1, 7), (0,)), (refs(0, key=b"o" * 8), ()), (refs(0, epoch=999), ()), ([], ())],
    ids=["its own", "others too", "another edge's", "of another life", "none"],
)
@pytest.mark.parametrize("noted", [True, False])
def test_what_the_centre_dropped_is_waited_for_no_longer(record, serving, micro, refs, back, noted):
    read(record, micro, "heart", 3)
    folded(record, serving, "heart")
    record.leaving(0, b"raw")
    if noted:
        record.sent(0, b"raw", at_s=200.0)
    read(record, micro, "heart", 9, first=3)
    residue = record.residue("heart").tokens
    assert take_back(record, refs, key=KEY, entry_id="7-0", now_s=300.0) == back
    assert record.returned == "7-0"
    assert record.residue("heart").tokens == residue
    assert due_domains(record, serving, RHYTHM, asked_s=0.0, now_s=9e9) == (["heart"] if back else [])


def test_what_has_not_left_cannot_have_been_dropped(record, serving, micro):
    read(record, micro, "heart", 3)
    folded(record, serving, "heart")
    assert take_back(record, refs(0), key=KEY, entry_id="7-0", now_s=300.0) == ()
    assert [packet.status for packet in record.packets("pending")] == ["pending"]


def test_what_a_bundle_named_is_not_taken_back(record, serving, micro):
    read(record, micro, "heart", 3)
    folded(record, serving, "heart")
    record.leaving(0, b"raw")
    settled(record, serving, bundle_naming(0))
    assert take_back(record, refs(0), key=KEY, entry_id="7-0", now_s=300.0) == ()
    assert [packet.status for packet in record.packets("acknowledged", "lost")] == ["acknowledged"]


def test_what_a_release_had_that_is_taken_back_goes_again(record, serving, micro):
    read(record, micro, "heart", 3)
    folded(record, serving, "heart")
    record.leaving(0, b"raw")
    whole = record.residue("heart")
    settled(record, serving, bundle_naming(0))
    for _ in range(2):
        take_back(record, refs(0), key=KEY, entry_id="7-0", now_s=300.0, undone=True)
        assert [packet.sequence for packet in record.packets("taken_back")] == [0]
        assert [table.counts.tolist() for table in record.residue("heart").tables] == [
            table.counts.tolist() for table in whole.tables
        ]


@pytest.mark.parametrize("waited_for", [True, False])
def test_a_release_that_is_met_after_it_was_taken_back_settles_nothing(record, serving, micro, waited_for):
    read(record, micro, "heart", 3)
    folded(record, serving, "heart")
    record.sent(0, b"raw", at_s=200.0)
    whole = tables(record.residue("heart"))
    if not waited_for:
        assert give_up(record, now_s=200.0 + LOST_AFTER_S) == [0]
    take_back(record, refs(0), key=KEY, entry_id="7-0", now_s=300.0, undone=True)
    assert settled(record, serving, bundle_naming(0)) == ()
    assert tables(record.residue("heart")) == whole


# A broker that was restored from an older copy


def once_settled(record, serving, micro, domain="heart"):
    """A packet that a bundle has named, and the residue before it did."""
    read(record, micro, domain, 3)
    folded(record, serving, domain)
    record.sent(0, b"raw", at_s=200.0)
    whole = tables(record.residue(domain))
    settled(record, serving, bundle_naming(0))
    return whole


def release_of(bundle):
    return hashlib.sha256(pack(bundle)).hexdigest()


BEYOND = {0: "ab" * 32, 2: "cd" * 32}  # of the releases from 0 to 2 there is no 1


@pytest.mark.parametrize("listed", [BEYOND, {1: "ab" * 32}], ids=["nothing in its place", "another in its place"])
def test_what_a_release_settled_that_is_none_any_more_goes_again_under_its_name(record, serving, micro, listed):
    whole = once_settled(record, serving, micro)
    left = tables(record.residue("heart"))
    assert unsettle(record, bundle_naming(), listed, key=KEY) == (0,)
    assert unsettle(record, bundle_naming(), listed, key=KEY) == ()
    assert [(packet.sequence, packet.raw) for packet in record.packets("pending")] == [(0, b"raw")]
    assert tables(record.residue("heart")) == whole
    assert settled(record, serving, bundle_naming(0)) == (0,)
    assert tables(record.residue("heart")) == left != whole


@pytest.mark.parametrize("listed", [{}, {0: "ab" * 32}, {2: "ab" * 32}], ids=["no list", "its end", "its beginning"])
def test_what_a_list_does_not_reach_stays_settled(record, serving, micro, listed):
    once_settled(record, serving, micro)
    assert unsettle(record, bundle_naming(), listed, key=KEY) == ()


def test_what_is_released_still_stays_settled(record, serving, micro):
    once_settled(record, serving, micro)
    assert unsettle(record, bundle_naming(), {0: "ab" * 32, 1: release_of(bundle_naming(0))}, key=KEY) == ()


def test_what_the_release_in_its_place_names_too_stays_settled_by_that_one(record, serving, micro):
    once_settled(record, serving, micro)
    other = bundle_naming(0, 7)
    listed = {1: release_of(other)}
    assert unsettle(record, other, listed, key=KEY) == ()
    assert record.settlings()[0] == (1, release_of(other))
    assert unsettle(record, bundle_naming(), listed, key=KEY) == ()


def test_what_only_such_a_release_had_opened_is_new_territory_again(record, serving, micro):
    read(record, micro, None, 3)
    folded(record, serving, None)
    whole = tables(record.residue(None))
    opened = {None: EMPTY, "scripture": record.balance(None)}
    record.settle((), opened, {}, opened="scripture", cursor=None, at_s=1.0)
    read(record, micro, "scripture", 2)
    assert reopen(record, micro) == ["scripture"]
    assert tables(record.residue(None)) == whole
    assert [packet.domain for packet in record.packets("pending")] == [None]
    assert [each.domain for each in record.texts.fresh()] == [None]
    assert reopen(record, micro) == []


@pytest.mark.parametrize(("number", "gone"), [(3, 3), (4, 0)])
def test_a_handful_of_strange_texts_goes_home(record, serving, micro, number, gone):
    read(record, micro, None, number)
    assert go_home(record, serving, RHYTHM) == gone
    nearest = micro.route(micro.basin(micro.encoder.encode(TEXT))).steps[0].name
    assert [each.domain for each in record.texts.fresh()] == [nearest if gone else None]


# What answers here


def tables(memory):
    return [(table.keys.tolist(), table.counts.tolist(), table.totals.tolist()) for table in memory.tables]


def test_while_nothing_was_folded_the_bundle_answers(record, serving, micro):
    read(record, micro, "heart", 3)
    assert relearned(record, serving).answering is micro


def test_what_was_folded_answers_at_once_and_again_after_a_restart(record, serving, micro):
    read(record, micro, "heart", 3)
    folded(record, serving, "heart")
    at_once = relearned(record, serving, ["heart"])
    again = relearned(record, serving)
    expected = merge([micro.memories["heart"], record.residue("heart")])
    assert tables(at_once.answering.memories["heart"]) == tables(again.answering.memories["heart"]) == tables(expected)
    assert (again.constellation, again.bundle) == (micro, 4)


def test_new_territory_answers_from_a_domain_of_its_own(record, serving, micro):
    read(record, micro, None, 3)
    folded(record, serving, None)
    local = relearned(record, serving, [None]).answering
    assert set(local.domains) - set(micro.domains) == {TERRITORY}
    assert tables(local.memories[TERRITORY]) == tables(record.residue(None))


def test_what_a_bundle_took_answers_from_the_bundle_alone(record, serving, micro):
    read(record, micro, "heart", 3)
    folded(record, serving, "heart")
    before = relearned(record, serving)
    settled(record, before, bundle_naming(0))
    after = relearned(record, before)
    expected = merge([micro.memories["heart"], record.residue("heart")])
    assert tables(after.answering.memories["heart"]) == tables(expected)


def test_settling_without_an_entry_leaves_the_cursor_and_is_done_once(record, serving, micro):
    read(record, micro, "heart", 3)
    folded(record, serving, "heart")
    named = settle_bundle(record, serving, bundle_naming(0), key=KEY, entry_id=None, now_s=300.0)
    assert (named, record.cursor) == ((0,), None)
    assert settled(record, serving, bundle_naming(0)) == ()
    assert record.cursor == "5-0"


@pytest.mark.parametrize("domain", ["heart", None])
def test_what_is_forgotten_answers_no_more(record, serving, micro, domain):
    read(record, micro, domain, 1)
    folded(record, serving, domain)
    before = relearned(record, serving)
    assert before.answering is not micro
    forget(record, "c", f"{domain}0")
    after = relearned(record, before, [domain])
    assert set(after.answering.domains) == set(micro.domains)
    assert all(after.answering.memories[name] is micro.memories[name] for name in micro.memories)


def test_a_gate_learned_here_serves_once_it_has_proved_itself(record, serving, micro):
    own = micro.domains["heart"].gate_array
    for number, at_s in enumerate((100.0, 200.0)):
        read(record, micro, "heart", 4, at_s=at_s, first=4 * number)
        folded(record, serving, "heart")
        serving = relearned(record, serving, ["heart"])
        assert np.array_equal(serving.answering.domains["heart"].gate_array, own) == (number == 0)
    assert np.array_equal(micro.domains["heart"].gate_array, own)


# Private mode


def private(record):
    fresh, first = decoys(KEY, [record.sequence]), decoys(KEY, [0])
    return Private(
        bytes(32), record.mentions.common(), record.mentions.mentioned(), strict=True, decoys=fresh, again=first
    )


def common(*sequences, hashes=(), epoch=1000):
    refs = tuple(PacketRef(key=KEY, epoch=epoch, sequence=sequence) for sequence in sequences)
    return Common(hashes=encode(np.array(hashes, np.uint32)), packets=refs)


def slept(record, serving):
    return fold_domain(record, serving, "heart", gauges={}, crystal_bytes=300, now_s=200.0, private=private(record))


def heard(record, told):
    return hear_common(record, told, key=KEY, own=KEY, entry_id="6-0", now_s=300.0)


def test_a_packet_that_only_mentioned_is_settled_by_the_centre_s_word_and_the_next_one_says(record, serving, micro):
    read(record, micro, "heart", 3)
    first = slept(record, serving)
    assert (first.carried.entries, record.mentions.mentioned().tolist()) == (0, first.mentioned.tolist())
    record.sent(0, b"raw", at_s=200.0)
    made_up = np.sort(decoys(KEY, [0]))
    true = np.setdiff1d(first.mentioned, made_up)
    assert heard(record, common(0, hashes=true)) == (0,)
    assert (record.mentions.mentioned().tolist(), record.mentions.common().tolist()) == (
        made_up.tolist(),
        true.tolist(),
    )
    read(record, micro, "heart", 3, first=3)
    assert slept(record, serving).carried.entries > 0


def test_another_edge_s_or_another_life_s_packet_is_not_settled(record, serving, micro):
    read(record, micro, "heart", 3)
    slept(record, serving)
    other = PacketRef(key=b"x" * 8, epoch=1000, sequence=0)
    assert heard(record, common(0, epoch=999)) == heard(record, Common(packets=(other,))) == ()
    assert len(record.packets("pending")) == 1


def test_a_packet_that_carries_counts_is_settled_by_no_such_word(record, serving, micro):
    read(record, micro, "heart", 3)
    folded(record, serving, "heart")
    tokens = record.residue("heart").tokens
    assert heard(record, common(0)) == ()
    assert (record.residue("heart").tokens, len(record.packets("pending"))) == (tokens, 1)


def test_a_word_that_cannot_be_read_changes_nothing(record):
    with pytest.raises(Rejected, match="bad_mentions"):
        heard(record, Common(hashes=b"\1\0"))
    assert record.mentions.common_cursor is None


@pytest.mark.parametrize(("false", "believed"), [(0, True), (3, True), (4, False), (DECOYS, False)])
def test_a_centre_that_calls_four_decoys_common_is_not_believed(record, serving, micro, false, believed):
    read(record, micro, "heart", 3)
    first = slept(record, serving)
    made_up = decoys(KEY, [0])
    told = common(0, hashes=np.union1d(np.setdiff1d(first.mentioned, made_up), made_up[:false]))
    if believed:
        assert heard(record, told) == (0,)
        return
    with pytest.raises(Corrupt, match=f"false_common: {false} hashes"):
        heard(record, told)
    assert (record.mentions.common().tolist(), record.mentions.common_cursor) == ([], None)
    assert len(record.packets("pending")) == 1


def test_whoever_lies_of_all_that_an_edge_mentions_learns_nothing(record, serving, micro):
    for number in range(4):
        read(record, micro, "heart", 3, first=3 * number)
        done = slept(record, serving)
        assert done.carried.entries == 0
        with pytest.raises(Corrupt, match="false_common"):
            heard(record, common(number, hashes=done.mentioned))


def test_a_lie_in_small_pieces_adds_up(record, serving, micro):
    for number in range(2):
        read(record, micro, "heart", 3, first=3 * number)
        slept(record, serving)
        record.lose([number], at_s=1.0)
    heard(record, common(hashes=np.sort(decoys(KEY, [0])[:3])))
    with pytest.raises(Corrupt, match="false_common: 4 hashes"):
        heard(record, common(hashes=decoys(KEY, [1])[:1]))
    assert heard(record, common(1)) == (1,)
