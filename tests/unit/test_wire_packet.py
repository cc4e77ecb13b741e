from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from common.constants import PACKET_MAX_BYTES
from common.errors import Corrupt, Rejected
from common.wire import export
from common.wire.codec import canonical, parse
from common.wire.packet import (
    PACKET_MERGES_MAX_BYTES,
    ROOM_BYTES,
    PacketBody,
    base_prefix,
    key_id,
    open_envelope,
    seal,
    verify,
)

KEY, OTHER = SigningKey(export.SEED), SigningKey(bytes(32))
RAW = (Path(__file__).resolve().parents[2] / "docs" / "wire" / "vectors" / "packet.msgpack").read_bytes()
BODY = verify(open_envelope(RAW), KEY.verify_key)
TERMS = {"signing_key": KEY, "epoch": 1, "sequence": 2, "base_version": 3, "base": bytes(range(8)), "at_s": 1.5}


def sized(crystals_bytes):
    return seal(BODY.model_copy(update={"crystals": bytes(crystals_bytes)}), **TERMS)


def refusal(raw):
    with pytest.raises(Rejected) as caught:
        verify(open_envelope(raw), KEY.verify_key)
    return caught.value.code


def test_a_sealed_packet_opens_to_the_same_body_and_terms():
    envelope = open_envelope(seal(BODY, **TERMS))
    assert verify(envelope, KEY.verify_key) == BODY
    assert (envelope.epoch, envelope.sequence, envelope.base_version, envelope.at_s) == (1, 2, 3, 1.5)
    assert envelope.ref.key == key_id(KEY.verify_key) == envelope.key


def test_sealing_is_deterministic():
    assert seal(BODY, **TERMS) == seal(BODY, **TERMS)


def test_a_packet_of_4096_bytes_is_sealed_and_one_of_4097_is_not():
    fixed = len(sized(1000)) - 1000
    most = PACKET_MAX_BYTES - fixed
    assert len(sized(most)) == PACKET_MAX_BYTES
    assert verify(open_envelope(sized(most)), KEY.verify_key).crystals == bytes(most)
    with pytest.raises(Rejected, match="packet_too_large: packet of 4097 bytes"):
        sized(most + 1)


@pytest.mark.parametrize(("crystals", "mentions"), [(2900, ROOM_BYTES - 2900), (0, ROOM_BYTES), (1024, 1024)])
def test_a_packet_that_says_and_mentions_all_it_may_with_every_field_at_its_longest_fits(crystals, mentions):
    terms = {**TERMS, "epoch": 2**32 - 1, "sequence": 2**32 - 1, "base_version": 2**53 - 1}
    most = 2**53 - 1
    update = {"crystals": bytes(crystals), "mentions": bytes(mentions), "gate": bytes(128), "domain": "d" * 64}
    update |= {"kernel": "strategy", "kappa": 1.5, "merges": bytes(PACKET_MERGES_MAX_BYTES)}
    update |= dict.fromkeys(("interactions", "tokens", "fresh_bytes"), most) | {"phases": (most,) * 4, "phi": 0.5}
    assert len(seal(BODY.model_copy(update=update), **terms)) <= PACKET_MAX_BYTES
    assert len(seal(BODY.model_copy(update={**update, "mentions": b"", "merges": b""}), **terms)) <= 3500


def test_a_packet_that_mentions_nothing_has_the_form_that_packets_had_before_there_were_mentions():
    fields = parse("packet", RAW)
    assert len(parse("body", fields[7])) == 13
    mentioning = seal(BODY.model_copy(update={"mentions": b"\1"}), **TERMS)
    assert len(parse("body", parse("packet", mentioning)[7])) == 14
    assert verify(open_envelope(mentioning), KEY.verify_key).mentions == b"\1"


def test_raw_bytes_above_the_limit_are_refused_unread():
    assert refusal(bytes(PACKET_MAX_BYTES + 1)) == "packet_too_large"
    assert refusal(b"\xc1" * PACKET_MAX_BYTES) == "garbage"


def test_a_packet_cut_off_anywhere_is_garbage():
    for end in range(len(RAW)):
        assert refusal(RAW[:end]) == "garbage"
    assert refusal(RAW + b"\xc0") == "garbage"


def test_no_byte_of_a_packet_can_be_changed():
    for place in range(len(RAW)):
        for flip in (1, 128):
            raw = RAW[:place] + bytes([RAW[place] ^ flip]) + RAW[place + 1 :]
            with pytest.raises((Corrupt, Rejected)):
                verify(open_envelope(raw), KEY.verify_key)


@pytest.mark.parametrize(("place", "value"), [(2, 2), (3, 1), (3, 3), (4, 4), (5, bytes(8)), (6, 1e9), (7, b"\x90")])
def test_every_signed_field_is_covered_by_the_signature(place, value):
    fields = list(msgpack.unpackb(RAW))
    fields[place] = value
    with pytest.raises(Corrupt, match="bad_signature"):
        verify(open_envelope(canonical(tuple(fields))), KEY.verify_key)


def test_a_packet_held_against_another_key_is_corrupt():
    with pytest.raises(Corrupt, match="bad_signature"):
        verify(open_envelope(RAW), OTHER.verify_key)


def test_a_packet_signed_by_another_key_under_this_key_s_name_is_corrupt():
    forged = list(msgpack.unpackb(seal(BODY, **{**TERMS, "signing_key": OTHER})))
    forged[1] = key_id(KEY.verify_key)
    with pytest.raises(Corrupt, match="was not signed by key"):
        verify(open_envelope(canonical(tuple(forged))), KEY.verify_key)


def test_a_packet_signed_by_this_key_under_another_s_name_is_corrupt():
    fields = list(msgpack.unpackb(RAW))[:-1]
    fields[1] = key_id(OTHER.verify_key)
    signature = KEY.sign(b"qig/packet/1\0" + canonical(tuple(fields))).signature
    with pytest.raises(Corrupt, match="held against key"):
        verify(open_envelope(canonical((*fields, signature))), KEY.verify_key)


def test_a_bundle_s_signature_is_no_packet_s():
    fields = msgpack.unpackb(RAW, use_list=False)
    elsewhere = KEY.sign(b"qig/bundle/1\0" + canonical(fields[:-1])).signature
    with pytest.raises(Corrupt, match="bad_signature"):
        verify(open_envelope(canonical((*fields[:-1], elsewhere))), KEY.verify_key)


@pytest.mark.parametrize(
    ("place", "value", "code"),
    [
        (0, 2, "wrong_version"),
        (1, bytes(7), "bad_field"),
        (2, -1, "bad_field"),
        (2, 2**32, "bad_field"),
        (3, -1, "bad_field"),
        (4, "3", "bad_field"),
        (5, bytes(9), "bad_field"),
        (6, float("nan"), "bad_field"),
        (6, -1.0, "bad_field"),
        (6, 5, "not_canonical"),
        (7, b"", "bad_field"),
        (8, bytes(63), "bad_field"),
    ],
)
def test_a_field_out_of_its_bounds_is_rejected_before_any_signature(place, value, code):
    fields = list(msgpack.unpackb(RAW))
    fields[place] = value
    assert refusal(msgpack.packb(fields)) == code


@pytest.mark.parametrize("count", [0, 8, 10])
def test_an_envelope_of_another_number_of_fields_is_rejected(count):
    assert refusal(canonical((1,) * count)) == "bad_field"


def test_another_byte_form_of_the_same_packet_is_refused():
    assert RAW[0] == 0x99
    assert refusal(b"\xdc\x00\x09" + RAW[1:]) == "not_canonical"


@pytest.mark.parametrize("body", [b"\xc1", canonical({"kernel": "heart"}), canonical((1,) * 13), canonical((2,) * 13)])
def test_a_signed_body_that_is_no_body_is_rejected(body):
    fields = msgpack.unpackb(RAW, use_list=False)[:7]
    signature = KEY.sign(b"qig/packet/1\0" + canonical((*fields, body))).signature
    assert refusal(canonical((*fields, body, signature))) in {"garbage", "bad_field", "wrong_version"}


@pytest.mark.parametrize(
    ("field", "value"), [("phi", float("nan")), ("phi", 1.1), ("kappa", -1.0), ("tokens", -1), ("domain", "")]
)
def test_a_body_refuses_what_is_out_of_its_bounds(field, value):
    with pytest.raises(ValueError, match=field):
        PacketBody.model_validate({**BODY.model_dump(), field: value})


def test_terms_that_do_not_fit_are_rejected_when_sealing():
    with pytest.raises(Rejected, match="sequence"):
        seal(BODY, **{**TERMS, "sequence": 2**32})


def test_a_base_is_named_by_the_first_8_bytes_of_its_digest_and_the_genesis_by_zeros():
    assert base_prefix("0102030405060708" + "ff" * 24) == bytes(range(1, 9))
    assert base_prefix("") == bytes(8)


@settings(max_examples=60, deadline=None)
@given(
    crystals=st.binary(max_size=2900),
    mentions=st.binary(max_size=ROOM_BYTES),
    merges=st.binary(max_size=PACKET_MERGES_MAX_BYTES),
    gate=st.binary(max_size=128),
    numbers=st.lists(st.integers(0, 2**53 - 1), min_size=8, max_size=8),
)
def test_whatever_the_edge_s_state_the_packet_stays_within_4096_bytes(crystals, mentions, merges, gate, numbers):
    update = {
        "crystals": crystals,
        "mentions": mentions[: ROOM_BYTES - len(crystals)],
        "merges": merges,
        "gate": gate,
        "tokens": numbers[0],
        "fresh_bytes": numbers[1],
        "phases": tuple(numbers[2:6]),
    }
    body = BODY.model_copy(update=update)
    terms = {**TERMS, "epoch": numbers[6] % 2**32, "base_version": numbers[7]}
    raw = seal(body, **terms)
    assert len(raw) <= PACKET_MAX_BYTES
    assert verify(open_envelope(raw), KEY.verify_key) == body


@settings(max_examples=60, deadline=None)
@given(raw=st.binary(max_size=200), seed=st.integers(0, 2**32 - 1), flips=st.integers(0, 6))
def test_fuzzed_packets_only_ever_raise_rejected_or_corrupt(raw, seed, flips):
    rng = np.random.default_rng(seed)
    mutated = np.frombuffer(RAW, np.uint8).copy()
    mutated[rng.integers(0, len(RAW), flips)] = rng.integers(0, 256, flips)
    for attempt in (raw, mutated.tobytes(), b"\x99" + raw):
        if attempt != RAW:
            with pytest.raises((Rejected, Corrupt)):
                verify(open_envelope(attempt), KEY.verify_key)
