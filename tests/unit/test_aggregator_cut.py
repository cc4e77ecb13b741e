"""A batch is a function of its packets: the same ones make the same bytes."""

import random
from dataclasses import replace

import numpy as np
import pytest
from aggregator_packets import AT_MS, BASES, ENROLLED, KEYS, MERGES, VOCAB, base, domain, ledger, ngrams, packet, peak
from hypothesis import given, settings
from hypothesis import strategies as st

from common.coordizer.artifacts import FIRST_MERGE, lineage
from common.geometry.simplex import distance
from common.kernels import gate
from common.wire import basin, crystals, mentions, proposals
from common.wire.codec import pack, unpack
from common.wire.fields import CRYSTALS_MAX_BYTES, MAX_BATCH_PACKETS
from common.wire.messages import Batch, batch_id
from common.wire.packet import key_id
from services.aggregator import cut as module
from services.aggregator.admit import admit, open_packet
from services.aggregator.cut import Limits, awaited, chosen, cut, due
from services.aggregator.merge import levelled
from services.aggregator.territories import PENDING_CUTS

LIMITS = Limits(packets=8, age_s=60.0, mass_cap=100_000)


def cut_of(*raws, bases=BASES, pending=None, mass_cap=LIMITS.mass_cap):
    return cut(ledger(*raws), bases=bases, pending=pending or {}, limits=Limits(8, 60.0, mass_cap))


def decoded(update):
    return crystals.decode(update.crystals, VOCAB, 1 << 16)


def gate_bytes(experts, tokens):
    return gate.to_bytes(np.full((gate.BUCKETS, experts), tokens / experts))


MIXED = [
    packet(key=n % 5, sequence=n, domain=name, kernel="percept" if name is None else name, at=at, fresh_bits=0.1 * n)
    for n, (name, at) in enumerate(
        [("heart", peak(24)), (None, peak(60)), ("percept", peak(16)), (None, peak(60)), (None, peak(33))] * 3
    )
]


@given(st.permutations(MIXED))
@settings(max_examples=25, deadline=None)
def test_the_same_packets_in_any_order_make_the_same_batch_byte_for_byte(order):
    assert pack(cut_of(*order).batch) == pack(cut_of(*MIXED).batch)


def test_what_was_read_when_it_was_admitted_makes_the_same_batch_and_is_not_read_again(monkeypatch):
    terms = {"enrolled": ENROLLED, "replay": None, "entry_ms": AT_MS, "bases": BASES}
    admitted = {raw: admit(open_packet(raw), **terms) for raw in MIXED}
    expected = pack(cut_of(*MIXED).batch)
    monkeypatch.setattr(module, "read_crystals", None)
    found = cut(ledger(*MIXED), bases=BASES, pending={}, limits=LIMITS, admitted=admitted)
    assert pack(found.batch) == expected


def test_a_batch_names_its_base_its_packets_and_crosses_the_wire():
    found = cut_of(*MIXED)
    batch = unpack(Batch, pack(found.batch))
    assert (batch.base_version, batch.base_digest) == (6, BASES[-1].digest)
    assert found.taken == tuple(ref.packed for ref in batch.packets)
    assert batch.id == batch_id(batch.packets)
    assert batch.vocabulary == lineage(MERGES)
    assert [one.packets for one in batch.domains if not one.opened] == [3, 3]
    assert sorted(one.packets for one in batch.domains if one.opened) == [3, 6]


def test_crystals_scores_and_basins_of_a_domain_add_up():
    one = packet(key=0, crystals=ngrams(((), 7, 4, 64), ((7,), 9, 3, 4)), tokens=100, fresh_bytes=400, fresh_bits=900.0)
    two = packet(key=1, crystals=ngrams(((), 7, 2, 32), ((), 8, 1, 32)), tokens=50, fresh_bytes=200, fresh_bits=300.0)
    (update,) = cut_of(one, two).batch.domains
    assert (update.packets, update.tokens, update.fresh_bytes, update.fresh_bits) == (2, 150, 600, 1200.0)
    orders = decoded(update).orders
    assert dict(zip(orders[0].keys.tolist(), orders[0].counts.tolist(), strict=True)) == {7: 6, 8: 1, 9: 3}
    assert orders[1].keys.tolist() == [7 << 15 | 9]


def test_a_merge_has_the_shorter_ngrams_that_each_packet_implies():
    sent = [packet(key=n, crystals=ngrams(((7, 8), 9, 3, 12)), tokens=100) for n in range(2)]
    (update,) = cut_of(*sent).batch.domains
    orders = decoded(update).orders
    assert orders[1].keys.tolist() == [7 << 15 | 8, 8 << 15 | 9]
    assert orders[1].counts.tolist() == [24, 6]
    assert dict(zip(orders[0].keys.tolist(), orders[0].counts.tolist(), strict=True)) == {7: 24, 8: 24, 9: 6}


def test_a_liars_basin_does_not_move_the_domain():
    honest = [packet(key=n, at=peak(16)) for n in range(3)]
    (update,) = cut_of(*honest, packet(key=3, at=peak(2, 0.95)), packet(key=4, at=peak(2, 0.95))).batch.domains
    assert float(distance(basin.from_bytes16(update.basin), peak(16))) < 0.02


def test_gate_statistics_add_and_those_over_other_experts_are_left_out():
    raws = [packet(key=n, gate=gate_bytes(2, 100.0)) for n in range(2)] + [packet(key=2, gate=gate_bytes(3, 100.0))]
    (update,) = cut_of(*raws).batch.domains
    assert gate.from_bytes(update.gate, 2).sum(1) == pytest.approx(np.full(gate.BUCKETS, 200.0), rel=0.1)


def test_packets_without_crystals_or_gate_make_a_batch_too():
    (update,) = cut_of(packet(crystals=b"")).batch.domains
    assert decoded(update).entries == 0
    assert update.gate == b""


@pytest.mark.parametrize(
    ("count", "even", "odd"), [(4, 4, 4), (5, 4, 6), (6, 6, 6), (7, 6, 8), (9, 8, 8), (11, 12, 12)]
)
def test_a_merged_count_goes_to_the_nearest_level_and_from_the_middle_either_way(count, even, odd):
    entries = [crystals.entry((), token, count=count, total=60) for token in (8, 9)]
    found = levelled(crystals.crystals(entries))
    assert found.orders[0].counts.tolist() == [even, odd]


@given(st.lists(st.integers(1, (1 << 32) - 1), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_encoding_changes_no_levelled_count(counts):
    entries = [crystals.entry((n,), n, count=c, total=c) for n, c in enumerate(counts)]
    found = crystals.check(levelled(crystals.crystals(entries)), VOCAB)
    back = crystals.decode(crystals.encode(found, VOCAB), VOCAB, len(counts))
    assert back.orders[1].counts.tolist() == found.orders[1].counts.tolist()


@pytest.mark.parametrize("packets", [2, 4, 8, 32])
def test_a_merge_keeps_its_mass(packets):
    counts = np.random.default_rng(packets).geometric(0.5, (packets, 400)).sum(0) + packets
    entries = [crystals.entry((), n, count=int(c), total=int(counts.sum())) for n, c in enumerate(counts)]
    kept = int(levelled(crystals.crystals(entries)).orders[0].counts.sum()) / int(counts.sum())
    assert kept == pytest.approx(1.0, abs=0.025)  # rounded down it would be 0.84-0.91


def test_a_packet_whose_base_left_the_window_is_refused_alone():
    bases = (BASES[1], BASES[2], base(7))
    found = cut_of(packet(key=0, on=BASES[0]), packet(key=1), bases=bases)
    assert [(one.code, one.ref[:8]) for one in found.refused] == [("base_window", ledger_ref(0)[:8])]
    assert [ref[:8] for ref in found.taken] == [ledger_ref(1)[:8]]
    assert found.batch.base_version == 7


def ledger_ref(key):
    return next(iter(ledger(packet(key=key))))


def test_when_every_packet_is_refused_there_is_no_batch():
    found = cut_of(packet(on=BASES[0]), bases=BASES[1:])
    assert (found.batch, found.taken, len(found.refused)) == (None, (), 1)


def test_a_domain_opened_by_one_batch_is_the_same_in_the_next():
    (place,) = cut_of(packet(key=0, domain=None, at=peak(60))).opened
    second = cut_of(packet(key=1, domain=None, at=peak(60)), pending={place.name: place})
    assert [(one.name, one.basin is place.basin) for one in second.opened] == [(place.name, True)]
    assert [(one.name, one.opened) for one in second.batch.domains] == [(place.name, True)]


def test_what_does_not_fit_into_a_batch_waits_for_the_next(monkeypatch):
    monkeypatch.setattr("services.aggregator.merge.MAX_DOMAIN_ENTRIES", 8)
    raws = [packet(key=n, crystals=ngrams(*[((), 10 * n + i, 1, 3) for i in range(3)])) for n in range(4)]
    first = cut_of(*raws)
    assert len(first.taken) == 2  # four have 12 n-grams, two have 6: the oldest two go
    rest = [raw for raw in raws if next(iter(ledger(raw))) not in first.taken]
    assert rest == raws[2:]
    assert len(cut_of(*rest).taken) == 2


def test_a_full_batch_of_full_packets_fits_into_a_message():
    rng = random.Random(5)
    raws = []
    for n in range(MAX_BATCH_PACKETS):
        tokens = rng.sample(range(VOCAB), 170)
        blob = ngrams(*[((t, t2), t3, 2, 4) for t, t2, t3 in zip(tokens, tokens[5:], tokens[9:], strict=False)])
        raws.append(packet(key=n % len(KEYS), sequence=n, crystals=blob, at=peak(16)))
    batch = cut_of(*raws).batch
    assert len(pack(batch)) < Batch.max_bytes
    assert len(batch.domains[0].crystals) <= CRYSTALS_MAX_BYTES
    assert len(batch.packets) >= 64


def test_room_is_shared_out_domain_by_domain(monkeypatch):
    two = [packet(key=0, domain="heart", kernel="heart"), packet(key=1)]
    size = len(cut_of(*two).batch.domains[0].crystals)
    monkeypatch.setattr(module, "FRAME_BYTES", module.MESSAGE_MAX_BYTES - size)
    assert [one.name for one in cut_of(*two).batch.domains] == ["heart"]


@pytest.mark.parametrize(("waiting", "expected"), [(0, False), (7, False), (8, True), (9, True)])
def test_a_batch_is_due_by_count(waiting, expected):
    assert due({bytes([n]): 1000 for n in range(waiting)}, 1000, LIMITS) is expected


@pytest.mark.parametrize(("age_ms", "expected"), [(59_999, False), (60_000, True), (60_001, True)])
def test_a_batch_is_due_by_the_age_of_its_oldest_packet(age_ms, expected):
    assert due({b"a": 5000, b"b": 5000 + age_ms}, 5000 + age_ms, LIMITS) is expected


def test_the_oldest_packets_are_chosen_first_and_256_at_most():
    accepted = {bytes([n // 256, n % 256]): 10_000 - n for n in range(300)}
    assert len(chosen(accepted)) == MAX_BATCH_PACKETS
    assert chosen(accepted)[0] == bytes([1, 43])
    assert chosen({b"b": 1, b"a": 1}) == (b"a", b"b")


@pytest.mark.parametrize(
    ("later", "waits"), [(PENDING_CUTS - 1, True), (PENDING_CUTS, False), (PENDING_CUTS + 1, False)]
)
def test_a_place_that_no_bundle_brings_is_given_up_some_batches_after_the_last_that_named_it(later, waits):
    (place,) = cut_of(packet(domain=None, at=peak(60))).opened
    assert awaited({place.name: (place, 5)}, BASES[-1], 5 + later) == ({place.name: place} if waits else {})


@pytest.mark.parametrize("formerly", [(), ("d-1",)])
def test_a_place_that_a_bundle_brought_or_brought_an_heir_of_is_awaited_no_more(formerly):
    (place,) = cut_of(packet(domain=None, at=peak(60))).opened
    name = "d-9" if formerly else place.name
    brought = domain(name, peak(60)).model_copy(update={"formerly": (place.name,) if formerly else ()})
    assert awaited({place.name: (place, 5)}, base(7, brought), 6) == {}


def test_packets_of_two_domains_that_became_one_are_one_update():
    old = base(
        5, domain("d-1", peak(60), memories=("percept", "d-1")), domain("d-2", peak(60), memories=("percept", "d-2"))
    )
    heir = old.domains["d-1"].model_copy(update={"formerly": ("d-2",)})
    raws = [packet(key=n, domain=f"d-{n + 1}", on=old, at=peak(60)) for n in range(2)]
    (one,) = cut_of(*raws, bases=(old, base(6, heir))).batch.domains
    assert (one.name, one.packets, one.opened) == ("d-1", 2, False)


# Mentions


def mention(*hashes):
    return mentions.encode(np.array(hashes, np.uint32))


def test_a_packet_that_only_mentions_is_in_no_batch_and_is_named_to_its_edge():
    silent, speaking = packet(key=1, crystals=b"", mentions=mention(3, 9)), packet(key=0, mentions=mention(5))
    found = cut_of(silent, speaking)
    assert [ref.key for ref in found.batch.packets] == [key_id(KEYS[0].verify_key)]
    assert [ref.key for ref in found.silent] == [key_id(KEYS[1].verify_key)]
    assert [(key, hashes.tolist()) for key, hashes in found.mentions] == [
        (key_id(KEYS[1].verify_key), [3, 9]),
        (key_id(KEYS[0].verify_key), [5]),
    ]


def test_where_all_only_mention_there_is_no_batch():
    found = cut_of(packet(crystals=b"", mentions=mention(3), domain=None, at=peak(60)))
    assert (found.batch, found.taken, len(found.silent), found.opened) == (None, (), 1, ())


def test_a_packet_of_figures_alone_is_in_the_batch_as_ever():
    found = cut_of(packet(crystals=b""))
    assert (len(found.batch.packets), found.silent, found.mentions) == (1, (), ())


def test_what_a_packet_mentions_that_waits_for_the_next_batch_is_counted_then(monkeypatch):
    monkeypatch.setattr("services.aggregator.merge.MAX_DOMAIN_ENTRIES", 8)
    grams = [ngrams(*[((), 10 * n + i, 1, 3) for i in range(3)]) for n in range(4)]
    raws = [packet(key=n, crystals=grams[n], mentions=mention(n)) for n in range(4)]
    found = cut_of(*raws)
    assert len(found.taken) == 2
    assert [hashes.tolist() for _, hashes in found.mentions] == [[0], [1]]


def test_a_refused_packet_s_mentions_are_not_counted():
    found = cut_of(packet(key=0, on=base(1), mentions=mention(1)), packet(key=1, mentions=mention(2)))
    assert [refusal.code for refusal in found.refused] == ["base_window"]
    assert [hashes.tolist() for _, hashes in found.mentions] == [[2]]


# Growth

SMALL = 500
SMALLER = (base(4, vocab=SMALL), base(5, vocab=SMALL), BASES[-1])
HALVES = MERGES[SMALL - FIRST_MERGE]  # what token SMALL is made of
UNMERGED = ngrams(((), HALVES[0], 6, 20), ((), HALVES[1], 6, 20), ((HALVES[0],), HALVES[1], 4, 4), vocab=SMALL)


def test_a_packet_over_a_smaller_vocabulary_of_the_window_is_counted_anew():
    (update,) = cut_of(packet(on=SMALLER[0], crystals=UNMERGED), bases=SMALLER).batch.domains
    orders = decoded(update).orders
    counts = dict(zip(orders[0].keys.tolist(), orders[0].counts.tolist(), strict=True))
    assert counts == {HALVES[0]: 2, HALVES[1]: 2, SMALL: 4}
    assert orders[0].totals.tolist() == [16]
    assert len(orders[1].keys) == 0


def test_packets_over_both_vocabularies_are_merged_in_the_larger_one():
    whole = ngrams(((), SMALL, 4, 16), ((), HALVES[0], 2, 16))
    old, new = packet(key=0, on=SMALLER[0], crystals=UNMERGED), packet(key=1, on=SMALLER[-1], crystals=whole)
    (update,) = cut_of(old, new, bases=SMALLER).batch.domains
    order = decoded(update).orders[0]
    assert dict(zip(order.keys.tolist(), order.counts.tolist(), strict=True))[SMALL] == 8


@pytest.mark.parametrize("merges", [MERGES[: SMALL - FIRST_MERGE], MERGES[::-1]], ids=["fewer", "others"])
def test_a_packet_over_tokens_that_the_current_bundle_has_not_is_refused_alone(merges):
    current = replace(BASES[-1], version=7, vocab_size=FIRST_MERGE + len(merges), merges=merges)
    found = cut_of(packet(on=BASES[-1]), bases=(BASES[-1], current))
    assert [one.code for one in found.refused] == ["base_window"]
    assert found.batch is None


def test_merges_are_read_of_what_is_in_a_batch_and_of_what_only_mentions():
    rows = proposals.encode([(7, 9, 5)])
    silent = mentions.encode(np.array([7], np.uint32))
    found = cut_of(
        packet(key=0, merges=rows), packet(key=1, sequence=2, merges=rows, crystals=b"", mentions=silent), packet(key=2)
    )
    assert found.proposals == ((key_id(KEYS[0].verify_key), ((7, 9, 5),)), (key_id(KEYS[1].verify_key), ((7, 9, 5),)))
    assert found.batch.merges == ()


def test_the_spread_of_a_domain_is_between_its_nodes_and_not_within_one():
    near, far = packet(key=0, at=peak(16)), packet(key=0, sequence=2, at=peak(16, 0.6))
    assert cut_of(near, far).spreads == {}
    spreads = cut_of(near, packet(key=1, at=peak(16, 0.6)), packet(key=2, domain="heart", at=peak(24))).spreads
    assert spreads == {"percept": pytest.approx(float(distance(peak(16), peak(16, 0.6))) / 2, abs=0.01)}
