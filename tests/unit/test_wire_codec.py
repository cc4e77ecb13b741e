import json
import tracemalloc

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from common.errors import Rejected
from common.wire import export
from common.wire.bundle import part_of, sign
from common.wire.codec import (
    CODES,
    MAX_COMPLAINTS,
    MAX_JSON_VALUES,
    MAX_LIST,
    MAX_VALUES,
    canonical,
    pack,
    unpack,
    unpack_reply,
)
from common.wire.fields import MAX_BUNDLE_PACKETS, MAX_DOMAINS, MAX_FIGURES, MAX_PARTS, NAME_MAX_CHARS
from common.wire.inference import Answer, Piece, Query
from common.wire.messages import Batch, Bundle, Common, DeadLetter, Evidence, Figure, Heartbeat, PacketRef, Returned

GOLDEN = export.golden()


def outcome(cls, body):
    try:
        unpack(cls, body)
    except Rejected as error:
        return error.code
    return "read"


def code_of(cls, body):
    with pytest.raises(Rejected) as caught:
        unpack(cls, body)
    return caught.value.code


@pytest.mark.parametrize("message", GOLDEN, ids=lambda m: type(m).__name__)
def test_every_message_survives_msgpack_and_json(message):
    assert unpack(type(message), pack(message)) == message
    assert unpack(type(message), message.model_dump_json().encode()) == message


@pytest.mark.parametrize("message", GOLDEN, ids=lambda m: type(m).__name__)
def test_a_message_cut_off_anywhere_is_garbage(message):
    body = pack(message)
    for end in range(0, len(body), max(1, len(body) // 50)):
        assert code_of(type(message), body[:end]) == "garbage"


@pytest.mark.parametrize(("cls", "body", "code"), list(export.refused()))
def test_what_every_reader_must_refuse_is_refused_with_its_code(cls, body, code):
    assert code_of(cls, body) == code


def test_one_value_has_one_byte_form():
    one = Heartbeat(node="n", service="edge", at_s=1.0, bundle=0, ready=True, phi={"a": 0.5, "b": None})
    other = Heartbeat(node="n", service="edge", at_s=1.0, bundle=0, ready=True, phi={"b": None, "a": 0.5})
    assert pack(one) == pack(other)
    assert list(msgpack.unpackb(pack(one))) == sorted(msgpack.unpackb(pack(one)))


def test_a_query_by_hand_needs_its_text_only():
    assert unpack(Query, b'{"text": "hello"}') == Query(text="hello")


@pytest.mark.parametrize("cls", [Query, Answer, Heartbeat, DeadLetter])
def test_the_size_is_checked_before_anything_is_parsed(cls):
    assert code_of(cls, b"\xc1" * cls.max_bytes) == "garbage"
    assert code_of(cls, b"\xc1" * (cls.max_bytes + 1)) == "oversized"
    assert code_of(cls, b"{" * (cls.max_bytes + 1)) == "oversized"


def test_a_batch_too_large_to_travel_is_not_packed():
    batch = next(message for message in GOLDEN if isinstance(message, Batch))
    domains = tuple(batch.domains[0].model_copy(update={"name": f"d{n}", "crystals": bytes(190_000)}) for n in range(6))
    assert len(pack(batch.model_copy(update={"domains": domains[:5]}))) < Batch.max_bytes
    with pytest.raises(Rejected, match="oversized"):
        pack(batch.model_copy(update={"domains": domains}))


def test_a_heartbeat_about_every_domain_that_may_be_fits():
    names = [f"{number:02}-".ljust(NAME_MAX_CHARS, "x") for number in range(MAX_DOMAINS)]
    figures = dict.fromkeys(names, 0.123456789)
    told = Heartbeat(
        node=names[0], service=names[1], at_s=1e10, bundle=2**31, ready=True, phases=dict.fromkeys(names, "FRACTURE"),
        phi=figures, kappa=figures, bits_per_byte=figures, local_bits_per_byte=figures, fresh_bytes=2**40,
    )  # fmt: skip
    assert unpack(Heartbeat, pack(told)) == told


def test_a_dead_letter_can_hold_any_other_message():
    others = [type(message).max_bytes for message in GOLDEN if not isinstance(message, DeadLetter)]
    letter = next(message for message in GOLDEN if isinstance(message, DeadLetter))
    full = letter.model_copy(update={"body": bytes(max(others)), "reason": "🌊" * 512, "stream": "🌊" * 128})
    assert unpack(DeadLetter, pack(full)) == full


def test_the_longest_query_fits_even_as_escaped_json():
    body = json.dumps({"text": "🌊" * 16_384, "client": "a" * 64, "id": "b" * 64}).encode()
    assert unpack(Query, body).text == "🌊" * 16_384


def test_an_error_names_the_field_and_the_number_but_not_what_was_written():
    with pytest.raises(Rejected, match=r"Query.max_tokens: .* got 9999") as caught:
        unpack(Query, canonical({"text": "my secret", "max_tokens": 9999}))
    assert "secret" not in caught.value.message
    with pytest.raises(Rejected, match="a str of length 20000") as caught:
        unpack(Query, canonical({"text": "s" * 20_000}))
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    "head", [b"\xdd" + MAX_LIST.to_bytes(4, "big"), b"\xdd\x00\x0f\x00\x00", b"\xdf\x00\x0f\x00\x00", b"\x91"]
)
def test_nested_lists_cannot_take_the_memory(head):
    body = (head * (1 << 20))[: 1 << 20]
    assert code_of(Batch, body) == "garbage"
    assert peak_bytes(Batch, body) < 2 << 20


def peak_bytes(cls, body):
    tracemalloc.start()
    try:
        code_of(cls, body)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_lists_in_lists_that_are_announced_and_not_there_take_no_memory():
    assert peak_bytes(Returned, b"\xdc\x10\x00" * 1000) < 100_000


@pytest.mark.parametrize("piece", [b"\x80", b"\xa2ab", b"\x91\x80"])
def test_a_megabyte_of_small_values_takes_twice_its_size(piece):
    row = b"\xdc\x01\x00" + piece * 256
    body = b"\xdc\x10\x00" + row * 4096
    assert peak_bytes(Returned, body[: Returned.max_bytes]) < 2 * Returned.max_bytes


@pytest.mark.parametrize(("more", "code"), [(-1, "bad_field"), (0, "bad_field"), (1, "garbage")])
def test_so_many_values_are_read_and_no_more(more, code):
    lists = [[0] * 3000] * 12  # with the outer list and its own: 36,013
    body = msgpack.packb([*lists, [0] * (MAX_VALUES - 36_014 + more)])
    assert code_of(Returned, body) == code


@pytest.mark.parametrize(("more", "code"), [(-1, "bad_field"), (0, "bad_field"), (1, "garbage")])
def test_so_many_values_are_read_of_json_and_no_more(more, code):
    begin = b'{"packets":['  # three marks
    assert code_of(Returned, begin + b",".join([b"0"] * (MAX_JSON_VALUES - 2 + more)) + b"]}") == code


def test_the_fullest_bundle_has_fewer_values_than_are_read():
    refs = tuple(PacketRef(key=bytes(8), epoch=1, sequence=n) for n in range(MAX_BUNDLE_PACKETS))
    candidate = export.golden_candidate(refs)
    figures = tuple(
        Figure(name=f"f{n}", domain="d", before=1.0, after=1.0, unit="b", low=0.0, high=0.0) for n in range(MAX_FIGURES)
    )
    parts = {f"p{n}": part_of(b"") for n in range(MAX_PARTS)}
    guards = tuple(f"g{n}" for n in range(MAX_DOMAINS))
    full = candidate.model_copy(
        update={"parts": parts, "evidence": Evidence(figures=figures, guards=guards, seconds=1.0)}
    )
    bundle = sign(full, version=1, released_at_s=1.0, signing_key=SigningKey(export.SEED))
    assert unpack(Bundle, pack(bundle)) == bundle


@pytest.mark.parametrize(
    ("fields", "told"), [(MAX_COMPLAINTS - 2, "has no field"), (MAX_COMPLAINTS, "fields are wrong")]
)
def test_of_many_complaints_none_is_looked_at(fields, told):
    body = canonical({f"f{n:03d}": n for n in range(fields)})
    with pytest.raises(Rejected, match=told):
        unpack(Returned, body)
    assert peak_bytes(Returned, canonical({f"f{n:03d}": n for n in range(1024)})) < 300_000


@settings(max_examples=60, deadline=None)
@given(body=st.binary(max_size=64) | st.binary(max_size=64).map(lambda b: b"{" + b))
def test_arbitrary_bytes_only_ever_raise_rejected(body):
    for message in GOLDEN:
        is_whole = type(message) is Common and body in {b"\x80", b"{}"}  # it needs no field
        assert outcome(type(message), body) in ({"read"} if is_whole else CODES)


@settings(max_examples=60, deadline=None)
@given(
    index=st.integers(0, len(GOLDEN) - 1),
    places=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=4),
)
def test_a_mutated_message_is_read_or_rejected(index, places):
    body = bytearray(pack(GOLDEN[index]))
    for place, value in places:
        body[int(place * len(body))] = value
    assert outcome(type(GOLDEN[index]), bytes(body)) in {"read", *CODES}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_message_with_any_field_replaced_by_anything_is_read_or_rejected(data):
    message = data.draw(st.sampled_from(GOLDEN))
    fields = message.model_dump()
    fields[data.draw(st.sampled_from(sorted(fields)))] = data.draw(json_values)
    try:
        body = msgpack.packb(fields)
    except OverflowError:  # msgpack holds no larger integer: such a body cannot arrive
        return
    assert outcome(type(message), body) in {"read", *CODES}


def test_a_reply_is_a_piece_or_the_answer_whichever_was_packed():
    replies = [message for message in GOLDEN if isinstance(message, Piece | Answer)]
    assert len(replies) == 2
    assert [unpack_reply(pack(each)) for each in replies] == replies


@pytest.mark.parametrize("body", [b"", b"\x01", b"\x80", msgpack.packb({"index": 0}), msgpack.packb(["index"])])
def test_what_is_no_reply_is_rejected(body):
    with pytest.raises(Rejected):
        unpack_reply(body)
