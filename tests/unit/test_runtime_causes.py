"""Which trace a message is in, from its name alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.runtime import causes, streams
from common.wire.bundle import candidate_id
from common.wire.messages import Batch, Candidate, Correction, Evidence, PacketRef, Part, batch_id, correction_id

REF = PacketRef(key=bytes(range(8)), epoch=7, sequence=3)
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)


def batch(**change):
    fields = {"id": batch_id([REF]), "base_version": 1, "base_digest": "", "domains": (), "packets": (REF,)}
    return Batch(**(fields | change))


def candidate(name):
    parts = {"p": Part(digest="ab" * 32, size_bytes=1)}
    return Candidate(id=name, parent=0, parent_digest="", parts=parts, evidence=Evidence())


def test_the_ids_are_those_that_every_release_gives():
    packet = causes.packet(REF)
    assert packet.name == "0001020304050607:7:3"
    assert (packet.trace_id, packet.span_id) == ("a791d666afaa344e478b510fdd80f591", "2376dc1a01aeda83")
    assert causes.query("kiosk-7", "q-1").trace_id == "c4327198a872d8803fb47975db00c231"
    assert causes.batch(batch()).trace_id == "d02d3908783f3c090f1218f3c7c6a422"


def test_a_batch_and_its_candidate_are_in_one_trace_even_where_it_is_called_otherwise():
    correction = Correction(batch="ab" * 32, name="heart", was=b"", now=b"")
    corrections = batch(id=correction_id([correction]), packets=(), corrections=(correction,))
    for one in (batch(), corrections):
        assert causes.batch(one).trace_id == causes.candidate(candidate(candidate_id(one))).trace_id


def test_what_makes_a_message_is_the_first_of_its_trace():
    cause = causes.batch(batch())
    assert (cause.root.trace_id, cause.root.span_id) == (cause.trace_id, "")


@given(names, names, names, names)
def test_two_queries_share_a_trace_only_if_client_and_id_are_the_same(a, b, c, d):
    assert (causes.query(a, b).trace_id == causes.query(c, d).trace_id) == ((a, b) == (c, d))


@given(names)
def test_a_message_published_on_two_streams_was_sent_by_two_spans(name):
    assert causes.span_of(streams.QUERIES, name) != causes.span_of(streams.PACKETS, name)


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("03", True)])
def test_an_asker_s_trace_is_taken_over(flags, sampled):
    cause = causes.query("kiosk-7", "q-1", f"00-{TRACE}-{SPAN}-{flags}".encode())
    assert (cause.trace_id, cause.span_id, cause.sampled) == (TRACE, SPAN, sampled)
    assert causes.query("kiosk-7", "q-1", f"01-{TRACE}-{SPAN}-{flags}-more".encode()).trace_id == TRACE


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01\n",
        "\xff" * 55,
    ],
)
def test_what_is_no_traceparent_is_passed_over(header):
    assert causes.query("kiosk-7", "q-1", header.encode("latin-1")) == causes.query("kiosk-7", "q-1")
