import pytest
from nacl.signing import SigningKey

from common.errors import Corrupt, Rejected
from common.wire import export
from common.wire.bundle import check_part, digest, part_of, sign, verify
from common.wire.codec import pack, unpack
from common.wire.messages import Bundle, Evidence, PacketRef

KEY, OTHER = SigningKey(export.SEED), SigningKey(bytes(32))
REF = PacketRef(key=bytes(8), epoch=1, sequence=1)
CANDIDATE = export.golden_candidate((REF,))
BUNDLE = sign(CANDIDATE, version=1, released_at_s=1.5, signing_key=KEY)
CHANGES = {
    "version": 2,
    "id": "other",
    "parent_digest": "0" * 64,
    "parts": {"domains.json": part_of(b"[]")},
    "evidence": Evidence(),
    "packets": (),
    "released_at_s": 2.5,
}


def test_a_signed_bundle_keeps_the_candidate_and_verifies():
    verify(BUNDLE, KEY.verify_key)
    verify(unpack(Bundle, pack(BUNDLE)), KEY.verify_key)
    assert (BUNDLE.id, BUNDLE.parts, BUNDLE.packets) == (CANDIDATE.id, CANDIDATE.parts, (REF,))


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_is_covered_by_the_signature(field):
    with pytest.raises(Corrupt, match="bad_signature"):
        verify(BUNDLE.model_copy(update={field: CHANGES[field]}), KEY.verify_key)


def test_every_signed_field_has_its_test():
    assert {*CHANGES, "v", "parent", "key", "signature"} == set(Bundle.model_fields)


def test_another_parent_breaks_the_signature():
    second = sign(CANDIDATE, version=2, released_at_s=1.5, signing_key=KEY)
    with pytest.raises(Corrupt, match="bad_signature"):
        verify(second.model_copy(update={"parent": 1}), KEY.verify_key)


def test_a_bundle_of_another_publisher_is_corrupt():
    with pytest.raises(Corrupt, match="the trusted publisher is"):
        verify(sign(CANDIDATE, version=1, released_at_s=1.5, signing_key=OTHER), KEY.verify_key)


def test_a_bundle_signed_by_another_under_the_publisher_s_key_id_is_corrupt():
    forged = sign(CANDIDATE, version=1, released_at_s=1.5, signing_key=OTHER).model_copy(update={"key": BUNDLE.key})
    with pytest.raises(Corrupt, match="was not signed by"):
        verify(forged, KEY.verify_key)


def test_no_byte_of_a_bundle_can_be_changed():
    body = pack(BUNDLE)
    for place in range(len(body)):
        with pytest.raises((Corrupt, Rejected)):
            verify(unpack(Bundle, body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]), KEY.verify_key)


def test_the_digest_names_one_bundle_and_its_signature():
    again = sign(CANDIDATE, version=1, released_at_s=1.5, signing_key=KEY)
    assert digest(again) == digest(BUNDLE)
    assert (
        len({digest(BUNDLE.model_copy(update={name: value})) for name, value in CHANGES.items()} | {digest(BUNDLE)})
        == 8
    )
    assert digest(BUNDLE.model_copy(update={"signature": bytes(64)})) != digest(BUNDLE)


def test_a_version_that_does_not_follow_its_parent_is_not_signed():
    child = CANDIDATE.model_copy(update={"parent": 3})
    assert sign(child, version=4, released_at_s=1.5, signing_key=KEY).version == 4
    with pytest.raises(Rejected, match="does not follow"):
        sign(child, version=3, released_at_s=1.5, signing_key=KEY)


@pytest.mark.parametrize("data", [b"wavez", b"wave", b"waves!", b""])
def test_a_part_of_other_bytes_is_corrupt(data):
    check_part(b"waves", part_of(b"waves"))
    with pytest.raises(Corrupt, match="part_digest"):
        check_part(data, part_of(b"waves"))


def test_a_part_of_another_size_is_corrupt_even_under_the_same_digest():
    with pytest.raises(Corrupt, match="part_digest"):
        check_part(b"waves", part_of(b"waves").model_copy(update={"size_bytes": 6}))
