"""Whatever bytes come as a packet, from strangers or signed by an edge gone bad, they are read or refused by name.

benchmarks/packet.py fuzz does the same for as many minutes as it is given.
"""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import QigError
from common.wire import adaptive, crystals, mentions, packet, packet_vectors, plain, proposals, varints
from common.wire.codec import canonical, parse
from common.wire.crystals import ENTRY_BYTES, LEVELS, PACKET_MAX_ENTRIES, PACKET_MAX_TOTAL, _with_header
from common.wire.packet import DOMAIN_SEPARATION
from common.wire.plain import COLUMNS
from common.wire.rice import pack

KEY = packet_vectors.KEY
TELLING = ["golden", "dense", "plain", "based", "sparse", "largest"]
CASES = [*TELLING, "smallest", "proposing", "mentioning"]
FIXED_BYTES = 50_000  # of any input: an array as long as its header announces, validators, exceptions, buffers
CODES = {
    "packet_too_large", "garbage", "bad_field", "wrong_version", "not_canonical", "bad_signature", "bad_crystals",
    "wrong_vocabulary", "too_many_entries", "unknown_base", "bad_mentions", "bad_merges",
}  # fmt: skip


def outcome(raw, vocab, prior=None):
    """As admit.py reads it: "read", or the code of the refusal; anything else that is raised fails the test."""
    try:
        body = packet.verify(packet.open_envelope(raw), KEY.verify_key)
        if body.crystals:
            crystals.decode(body.crystals, vocab, PACKET_MAX_ENTRIES, max_total=PACKET_MAX_TOTAL, prior=prior)
        mentions.decode(body.mentions, mentions.PACKET_MAX_MENTIONS)
        proposals.decode(body.merges, vocab)
    except QigError as error:
        return error.code
    return "read"


@pytest.fixture(scope="module", autouse=True)
def golden():
    """Packets by name, each read: what is made once, at the first packet of its kind, is nobody's input."""
    golden = packet_vectors.cases()
    assert golden.keys() == set(CASES)
    assert {name for name, case in golden.items() if case.body.crystals} == set(TELLING)
    for case in golden.values():
        assert outcome(case.raw, case.vocab_size, case.prior) == "read"
    for raw, _, _ in packet_vectors.refusals():
        outcome(raw, 2048)
    return golden


def check_outcome(raw, vocab, prior=None):
    tracemalloc.start()
    try:
        assert outcome(raw, vocab, prior) in {"read", *CODES}
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    prior_bytes = 0 if prior is None else 2 * vocab
    assert peak <= 10 * len(raw) + ENTRY_BYTES * min(PACKET_MAX_ENTRIES, 4 * len(raw)) + prior_bytes + FIXED_BYTES


def signed(fields):
    return canonical((*fields, KEY.sign(DOMAIN_SEPARATION + canonical(fields)).signature))


def with_crystals(case, blob):
    fields = parse("packet", case.raw)
    return signed((*fields[:7], canonical((*parse("body", fields[7])[:12], blob[:2900]))))


@st.composite
def mutated(draw, data):
    """Flipped, cut, with a piece doubled or overwritten."""
    found = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at, size = draw(st.integers(0, max(len(found) - 1, 0))), draw(st.integers(1, 80))
        kind = draw(st.sampled_from(["flip", "cut", "double", "write"]))
        if kind == "flip" and found:
            found[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            found[at : at + size] = b""
        elif kind == "double":
            found[at:at] = found[at : at + size]
        else:
            found[at : at + size] = draw(st.binary(max_size=size))
    return bytes(found)


def columns(rng):
    """Sizes, tables and columns that nearly agree with each other."""
    count = int(rng.integers(0, 200))
    lists = [rng.geometric(rng.uniform(0.05, 0.99), count).astype(np.int64) - 1 for _ in range(COLUMNS)]
    ks, unary_bits, data = pack(lists)
    sizes = [count, int(rng.choice([count, 1, 2**28 - 1])), int(rng.choice([unary_bits, unary_bits, 0, 2**28 - 1]))]
    nibbles = bytes(first << 4 | second for first, second in zip(ks[::2], ks[1::2], strict=True))
    tables = [bytes([size, *rng.integers(0, len(LEVELS) + 2, size)]) for size in rng.integers(1, 9, 3).tolist()]
    return b"".join([varints.write(sizes), nibbles, *tables, data, rng.bytes(int(rng.integers(0, 2)))])


def test_an_array_header_that_announces_more_than_there_is():
    check_outcome(bytes.fromhex("dc0bbe") + bytes(40), 2048)


@given(raw=st.binary(max_size=5000))
def test_random_bytes(raw):
    check_outcome(raw, 2048)


@settings(max_examples=150)
@given(data=st.data())
@pytest.mark.parametrize("name", CASES)
def test_a_mutated_packet(golden, name, data):
    case = golden[name]
    check_outcome(data.draw(mutated(case.raw)), case.vocab_size, case.prior)


@settings(max_examples=60)
@given(data=st.data())
@pytest.mark.parametrize("name", CASES)
def test_a_mutated_body_rightly_signed(golden, name, data):
    case = golden[name]
    fields = parse("packet", case.raw)
    check_outcome(signed((*fields[:7], data.draw(mutated(fields[7])) or b"\0")), case.vocab_size, case.prior)


@settings(max_examples=60)
@given(data=st.data())
@pytest.mark.parametrize("name", TELLING)
def test_mutated_crystals_behind_a_right_crc32_and_signature(golden, name, data):
    case = golden[name]
    rest, form = data.draw(mutated(case.body.crystals[7:])), case.body.crystals[0]
    prior = b"" if case.prior is None else case.prior.name
    check_outcome(
        with_crystals(case, _with_header(form, case.vocab_size, rest[:2800], prior)), case.vocab_size, case.prior
    )


@settings(max_examples=200)
@given(seed=st.integers(0, 2**32 - 1))
def test_made_up_columns_behind_a_right_crc32_and_signature(golden, seed):
    rest = columns(np.random.default_rng(seed))
    check_outcome(with_crystals(golden["golden"], _with_header(plain.FORM, 2048, rest[:2800])), 2048)


@settings(max_examples=200)
@given(sizes=st.tuples(*[st.integers(0, 9) | st.integers(0, 2**28 - 1)] * 3), code=st.binary(max_size=300))
def test_any_code_of_any_number_of_nodes_behind_a_right_crc32_and_signature(golden, sizes, code):
    rest = varints.write(sizes) + code
    check_outcome(with_crystals(golden["golden"], _with_header(adaptive.FORM, 2048, rest)), 2048)


@settings(max_examples=60)
@given(
    tokens=st.integers(0, 12_289), pairs=st.integers(0, 8193), triples=st.integers(0, 4097), fill=st.binary(min_size=1)
)
def test_a_code_of_as_many_nodes_as_are_read_behind_a_right_crc32_and_signature(golden, tokens, pairs, triples, fill):
    rest = varints.write((tokens, pairs, triples)) + (fill * 2800)[:2700]
    check_outcome(with_crystals(golden["golden"], _with_header(adaptive.FORM, 32_768, rest)), 32_768)
