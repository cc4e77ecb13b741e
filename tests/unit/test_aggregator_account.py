"""What a node brought is taken out of the memories, to the count."""

import numpy as np
import pytest
from aggregator_packets import BASES, KEYS, NODES, VOCAB, base, domain, ledger, ngrams, packet, peak
from hypothesis import given, settings
from hypothesis import strategies as st
from test_aggregator_quorum import packets

from common.errors import Corrupt
from common.kernels import memory
from common.kernels.memory import Memory, Table
from common.wire.crystals import decode, encode
from common.wire.fields import CRYSTALS_MAX_BYTES, MAX_CORRECTIONS
from common.wire.messages import Correction
from common.wire.ngrams import crystals, entry
from common.wire.packet import key_id
from services.aggregator import account, shares
from services.aggregator.account import ROOM_BYTES, Note, fits, outdated, without
from services.aggregator.cut import Fleet, Limits, cut
from services.aggregator.merge import combined
from services.aggregator.quorum import Brought, parted

LIMITS = Limits(packets=8, age_s=60.0, mass_cap=100_000)
IDS = [key_id(key.verify_key) for key in KEYS]
BATCH = "ab" * 32
NUMBER = 3


def memory_of(blob):
    """As the trainer reads crystals."""
    if not blob:
        return memory.count([], 3)
    orders = decode(blob, VOCAB, 1 << 16).orders
    return Memory(tuple(Table.of(order.keys, order.counts, order.contexts, order.totals) for order in orders))


def corrected(held, corrections):
    """As the trainer corrects a memory."""
    for each in corrections:
        held = memory.subtract(memory.merge([held, memory_of(each.now)]), memory_of(each.was))
    return held


def alike(one, other):
    return all(
        np.array_equal(mine, theirs)
        for a, b in zip(one.tables, other.tables, strict=True)
        for mine, theirs in zip(a[:4], b[:4], strict=True)
    )


def cut_of(*raws, nodes=NODES):
    return cut(ledger(*raws), bases=BASES, pending={}, limits=LIMITS, fleet=Fleet(nodes, {}, NUMBER))


def said_of(brought):
    """What a batch says of a domain."""
    return encode(combined(brought, NUMBER), VOCAB)


def counting(brought, edges):
    """What of it counts where so many nodes must bring an n-gram."""
    found = zip(brought, parted(brought, edges=edges), strict=True)
    return [one._replace(crystals=said) for one, (said, _) in found if said.entries]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(packets(), max_size=5), min_size=1, max_size=4), packets(), st.integers(1, 3))
def test_a_memory_without_a_node_is_the_one_that_it_never_reached(batches, genesis, edges):
    batches = [counting(brought, edges) for brought in batches]
    before = memory_of(said_of([genesis]))
    kept = [[one for one in brought if one.node != "a"] for brought in batches]
    held = memory.merge([before, *(memory_of(said_of(brought)) for brought in batches if brought)])
    wanted = memory.merge([before, *(memory_of(said_of(brought)) for brought in kept if brought)])
    for brought in batches:
        corrections, left = without(Note(BATCH, NUMBER, VOCAB, {"heart": brought}), "a")
        held = corrected(held, corrections)
        assert all(one.node != "a" for each in left.shares.values() for one in each)
    assert alike(held, wanted)


@settings(max_examples=40, deadline=None)
@given(st.lists(packets(), min_size=1, max_size=6))
def test_a_second_node_is_taken_out_of_what_is_left(brought):
    note = Note(BATCH, NUMBER, VOCAB, {"heart": brought})
    held = memory_of(said_of(brought))
    for node in "ab":
        corrections, note = without(note, node)
        held = corrected(held, corrections)
    others = [one for one in brought if one.node not in "ab"]
    assert alike(held, memory_of(said_of(others)))


def test_a_cut_notes_what_its_batch_is_made_of():
    found = cut_of(*[packet(key=n, crystals=ngrams(((7,), 9 + n, 3, 4))) for n in range(3)])
    back = Note.unpack(found.note.packed)
    assert (back.batch, back.number, back.vocab, [one.node for one in back.shares["percept"]]) == (
        found.batch.id,
        NUMBER,
        VOCAB,
        [NODES[key] for key in sorted(IDS[:3])],
    )
    assert said_of(back.shares["percept"]) == found.batch.domains[0].crystals


def test_a_batch_without_a_node_says_what_one_says_that_the_node_was_not_in():
    raws = [packet(key=n, crystals=ngrams(((7,), 9, 3 + n, 40 + n), ((), 11 + n, 5, 50))) for n in range(4)]
    (correction,), _ = without(cut_of(*raws).note, NODES[IDS[2]])
    assert correction.was == cut_of(*raws).batch.domains[0].crystals
    assert correction.now == cut_of(*raws[:2], raws[3]).batch.domains[0].crystals


def test_a_node_that_alone_spoke_beside_what_others_had_waiting_takes_none_of_theirs_along():
    """They are few n-grams of each of many: nobody is held against how many another had."""

    def words(many, count):
        return crystals([entry((), 9 + n, count=count, total=many * count) for n in range(many)])

    waited = [Brought(f"w{n}", 0, words(1 if n < 6 else 60, 2)) for n in range(10)]
    note = Note(BATCH, NUMBER, VOCAB, {"percept": [*waited, Brought("liar", NUMBER, words(1, 50))]})
    (correction,), left = without(Note.unpack(note.packed), "liar")
    assert memory_of(correction.now).tokens == pytest.approx(6 * 2 + 4 * 60 * 2, rel=0.05)  # counts go to levels
    assert left.packed == Note(BATCH, NUMBER, VOCAB, {"percept": waited}).packed


def test_a_note_from_before_notes_had_numbers_is_of_its_newest_shares():
    note = cut_of(packet(key=0), packet(key=1)).note
    assert Note.unpack(bytes.fromhex(note.batch) + shares.to_bytes(note.vocab, note.shares)).packed == note.packed


def test_a_node_of_several_keys_is_taken_out_with_all_of_them():
    of_one = NODES | {IDS[1]: NODES[IDS[0]]}
    found = cut_of(*[packet(key=n) for n in range(3)], nodes=of_one)
    (correction,), left = without(found.note, NODES[IDS[0]])
    assert [one.node for one in left.shares["percept"]] == [NODES[IDS[2]]]
    assert correction.now == cut_of(packet(key=2)).batch.domains[0].crystals


def test_of_a_batch_that_the_node_has_no_part_of_nothing_is_said():
    note = cut_of(packet(key=0)).note
    corrections, left = without(note, "edge-5")
    assert corrections == []
    assert left.packed == note.packed


def test_each_domain_is_corrected_by_itself():
    far = domain("d-1", peak(60))
    current = base(6, far)
    raws = [packet(key=0, on=current), packet(key=0, sequence=2, domain="d-1", on=current), packet(key=1, on=current)]
    found = cut(ledger(*raws), bases=(current,), pending={}, limits=LIMITS, fleet=Fleet(NODES, {}))
    corrections, left = without(found.note, NODES[IDS[0]])
    assert sorted(each.name for each in corrections) == ["d-1", "percept"]
    assert list(left.shares) == ["percept"]


@pytest.mark.parametrize(("limit", "gone"), [(2, [3, 5]), (3, [3]), (4, []), (5, [])])
def test_the_newest_batches_are_noted(monkeypatch, limit, gone):
    monkeypatch.setattr(account, "ACCOUNT_BATCHES", limit)
    assert outdated({3: 10, 9: 10, 5: 10, 7: 10}) == gone


@pytest.mark.parametrize(("limit", "gone"), [(39, [3]), (40, []), (41, []), (9, [3, 5, 7, 9])])
def test_and_no_more_of_them_than_so_many_bytes(monkeypatch, limit, gone):
    monkeypatch.setattr(account, "ACCOUNT_BYTES", limit)
    assert outdated({3: 10, 9: 10, 5: 10, 7: 10}) == gone


def test_corrections_go_into_a_message_while_they_fit():
    large = Correction(batch=BATCH, name="heart", was=bytes(CRYSTALS_MAX_BYTES), now=bytes(CRYSTALS_MAX_BYTES))
    most = ROOM_BYTES // (2 * CRYSTALS_MAX_BYTES + 256)
    assert fits([large] * most)
    assert not fits([large] * (most + 1))
    small = Correction(batch=BATCH, name="heart", was=b"", now=b"")
    assert [fits([small] * n) for n in (MAX_CORRECTIONS, MAX_CORRECTIONS + 1)] == [True, False]


@pytest.mark.parametrize("data", [b"", bytes(32), bytes(36), bytes(37)])
def test_a_note_that_no_aggregator_wrote_is_corrupt(data):
    with pytest.raises(Corrupt, match="shares"):
        Note.unpack(data)
