"""A packet counts when an enrolled edge signed it, now, on a current base, and it can be true."""

import dataclasses
import re

import msgpack
import numpy as np
import pytest
from aggregator_packets import AT_MS, BASES, ENROLLED, KEYS, VOCAB, base, body, ngrams, packet, peak
from aggregator_packets import domain as domain_of
from hypothesis import given, settings
from hypothesis import strategies as st

from common.constellation.priors import prior_of
from common.errors import Corrupt, QigError, Rejected
from common.kernels import gate
from common.kernels.memory import count
from common.wire.crystals import PACKET_MAX_COUNTED, crystals, encode, entry, fit
from common.wire.ngrams import entries
from common.wire.packet import key_id
from services.aggregator import admit as room
from services.aggregator.admit import CLOCK_WINDOW_S, KAPPA_MAX, admit, open_packet, read_crystals
from services.aggregator.app.packets import REFUSALS
from services.aggregator.bases import with_base
from services.aggregator.replay import ReplayWindow

HEARD = {"percept": [7, 9, 7, 9], "heart": [9, 7, 7], "sea": [8, 7, 8]}
# Counts of one order that add up to exactly 48 more than may have waited (both are levels of the coder).
HEAVY = [((), token, count, PACKET_MAX_COUNTED + 48) for token, count in ((7, PACKET_MAX_COUNTED), (8, 48))]


def admitted(raw, *, replay=None, entry_ms=AT_MS, bases=BASES, enrolled=ENROLLED):
    return admit(open_packet(raw), enrolled=enrolled, replay=replay, entry_ms=entry_ms, bases=bases)


def refused(raw, **given_):
    with pytest.raises(QigError) as caught:
        admitted(raw, **given_)
    assert len(caught.value.message) > 30  # a person can understand it
    return caught.value.code


def test_a_good_packet_counts_and_moves_its_keys_window():
    one = admitted(packet(key=2, sequence=9))
    assert (one.node, one.base.version, one.window) == ("edge-2", 6, ReplayWindow(1, 9, 1))
    assert one.ref.packed == key_id(KEYS[2].verify_key) + bytes([0, 0, 0, 1, 0, 0, 0, 9])


@pytest.mark.parametrize("raw", [b"", b"\x93\x01\x02\x03", b"{}", packet()[:-1], packet() + b"\0", msgpack.packb([])])
def test_bytes_that_are_no_packet_are_malformed(raw):
    assert refused(raw) == "malformed"


def test_4096_bytes_are_opened_and_4097_are_oversized():
    assert refused(bytes(4096)) == "malformed"
    assert refused(bytes(4097)) == "oversized"


def test_a_key_that_is_not_enrolled_is_refused():
    others = {key: value for key, value in ENROLLED.items() if value[0] != "edge-0"}
    assert refused(packet(key=0), enrolled=others) == "unknown_key"


@given(st.integers(0, len(packet()) - 1), st.integers(0, 7))
@settings(max_examples=60)
def test_no_bit_of_a_packet_can_be_flipped_unnoticed(place, bit):
    raw = bytearray(packet())
    raw[place] ^= 1 << bit
    assert refused(bytes(raw)) in {"malformed", "oversized", "unknown_key", "bad_signature"}


def test_a_signature_by_another_enrolled_edge_is_corrupt():
    mine, theirs = open_packet(packet(key=0)), open_packet(packet(key=1))
    forged = mine.model_copy(update={"signature": theirs.signature})
    with pytest.raises(Corrupt, match="bad_signature"):
        admit(forged, enrolled=ENROLLED, replay=None, entry_ms=AT_MS, bases=BASES)


def test_a_replay_an_older_epoch_and_a_forgotten_sequence_are_refused():
    window = admitted(packet(sequence=100, epoch=2)).window
    assert refused(packet(sequence=100, epoch=2), replay=window) == "replayed"
    assert refused(packet(sequence=101, epoch=1), replay=window) == "stale_epoch"
    assert refused(packet(sequence=36, epoch=2), replay=window) == "stale_sequence"
    assert admitted(packet(sequence=37, epoch=2), replay=window).window.highest == 100


@pytest.mark.parametrize("version", [4, 5, 6])
def test_each_of_the_last_three_bundles_is_a_base(version):
    assert admitted(packet(on=base(version))).base.version == version


@pytest.mark.parametrize(
    "on", [base(3), base(7), dataclasses.replace(BASES[-1], digest="f" * 64)], ids=["older", "newer", "another"]
)
def test_any_other_base_is_outside_the_window(on):
    assert refused(packet(on=on)) == "base_window"


def test_the_window_keeps_the_three_newest_bases_whatever_order_they_come_in():
    bases = ()
    for version in (6, 2, 5, 3, 4, 5):
        bases = with_base(bases, base(version))
    assert [one.version for one in bases] == [4, 5, 6]


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_clock_may_be_off_by_300_s_and_no_more(sign):
    at_s = AT_MS / 1000 + sign * CLOCK_WINDOW_S
    assert admitted(packet(at_s=at_s))
    assert admitted(packet(at_s=at_s - sign))
    assert refused(packet(at_s=at_s + sign)) == "clock"


@pytest.mark.parametrize(
    "change",
    [
        {"domain": "nowhere"},
        {"kappa": KAPPA_MAX * 1.01},
        {"fresh_bytes": 10, "fresh_bits": 641.0},
        {"fresh_bytes": 0, "fresh_bits": 1.0},
        {"fresh_bytes": (1 << 28) + 1},
        {"tokens": 1 << 24},
        {"basin": bytes(64)},
        {"gate": b"\1" * 32},
        {"gate": gate.to_bytes(np.full((gate.BUCKETS, 2), 1e6)), "tokens": 1000},
        {"crystals": b"no crystals"},
        {"crystals": encode(crystals([entry((), 7, count=1, total=1)]), VOCAB * 2)},
        {"crystals": ngrams(*HEAVY), "tokens": 47},
        {"crystals": ngrams(*(((token,), 7, 3, 3 << 22) for token in range(8, 408)))},  # implies 5 billion tokens
    ],
)
def test_what_cannot_be_true_is_refused(change):
    assert refused(packet(**change)) == "implausible"


@pytest.mark.parametrize(
    "change",
    [
        {"domain": None},
        {"kappa": KAPPA_MAX},
        {"kappa": None, "phi": None},
        {"fresh_bytes": 10, "fresh_bits": 640.0},
        {"tokens": (1 << 24) - 1, "fresh_bytes": 1 << 28},
        {"crystals": b"", "tokens": 0},
        {"crystals": ngrams(*HEAVY), "tokens": 48},
        {"crystals": ngrams(*HEAVY), "tokens": 49},
    ],
)
def test_what_may_just_be_true_is_taken(change):
    assert admitted(packet(**change)).body == body(**change)


def based(prior):
    """One n-gram, told by what a base expects."""
    found = crystals([entry((), 7, count=4, total=64)])
    return fit(found, np.arange(1), vocab_size=VOCAB, budget_bytes=100, prior=prior)[1]


@pytest.mark.parametrize(("domain", "kernel"), [("percept", "percept"), ("sea", "heart"), (None, "percept")])
def test_n_grams_told_by_what_the_domain_or_for_new_territory_the_role_expects_are_read(domain, kernel):
    priors = {name: prior_of([count([np.array(ids, np.int32)])], VOCAB) for name, ids in HEARD.items()}
    newest = dataclasses.replace(base(6, domain_of("sea", peak(50), "heart")), priors=priors)
    bases, terms = (*BASES[:2], newest), {"domain": domain, "kernel": kernel, "at": peak(50), "on": newest}
    expected = priors[domain or kernel]
    one = admitted(packet(crystals=based(expected), **terms), bases=bases)
    assert entries(read_crystals(one.body, one.base)) == [entry((), 7, count=4, total=64)]
    other = next(prior for name, prior in priors.items() if name != (domain or kernel))
    assert refused(packet(crystals=based(other), **terms), bases=bases) == "implausible"
    assert refused(packet(crystals=based(expected), **{**terms, "on": None})) == "implausible"


def test_a_signed_body_of_another_version_is_malformed_not_a_bug():
    alien = msgpack.packb([1, 2, 3])
    envelope = open_packet(packet()).model_copy(update={"body": alien})
    from common.wire import packet as wire  # noqa: PLC0415 -- only to sign what `seal` would refuse

    signed = envelope.model_copy(update={"signature": KEYS[0].sign(wire._signed_part(envelope)).signature})
    with pytest.raises(Rejected, match="malformed"):
        admit(signed, enrolled=ENROLLED, replay=None, entry_ms=AT_MS, bases=BASES)


def test_every_reason_for_a_refusal_is_counted_from_the_start():
    told = re.findall(r"^    (?:open_packet|admit| +) {2,}(\S+(?:, \S+)*)  ", room.__doc__, re.MULTILINE)
    reasons = {code for line in told for code in line.split(", ")}
    beyond = {"too_many_packets", "too_many_domains", "too_many_territories", "replay_window"}
    assert set(REFUSALS) == reasons | beyond
