"""Crystals cut, flipped and forged: read within their bounds, or refused."""

import tracemalloc
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_wire_crystals import ADAPTIVE, BLOB, GOLDEN, PLAIN, TEXT, adaptively, fitted, in_both_forms

from common.errors import Rejected
from common.wire import varints
from common.wire.crystals import (
    ENTRY_BYTES,
    _with_header,
    crystals,
    decode,
    encode,
    entry,
)
from common.wire.fields import CRYSTALS_MAX_BYTES
from common.wire.ngrams import check
from common.wire.rice import pack

CODES = {"oversized", "bad_crystals", "wrong_vocabulary", "too_many_entries"}


@in_both_forms
def test_a_blob_cut_off_anywhere_or_with_any_bit_flipped_is_refused(write):
    blob = write(GOLDEN, 2048)
    for end in range(len(blob)):
        with pytest.raises(Rejected):
            decode(blob[:end], 2048, 100)
    for bit in range(8 * len(blob)):
        flipped = bytearray(blob)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Rejected):
            decode(bytes(flipped), 2048, 100)


def test_a_blob_cut_off_anywhere_is_refused_even_with_the_right_crc():
    for end in range(7, len(BLOB)):
        with pytest.raises(Rejected):
            decode(_with_header(PLAIN, 2048, BLOB[7:end]), 2048, 100)
    with pytest.raises(Rejected, match="left after"):
        decode(_with_header(PLAIN, 2048, BLOB[7:] + b"\0"), 2048, 100)


def test_no_two_adaptive_codes_say_the_same():
    for end in range(7, len(fitted(TEXT))):
        cut = check_reading(_with_header(ADAPTIVE, 2048, fitted(TEXT)[7:end]))
        assert cut is None or adaptively(cut, 2048) != fitted(TEXT)
    for more in (b"\0", b"\1", b"\xff", bytes(5), b"\0\0\0\0\1"):
        with pytest.raises(Rejected, match="are not the code of"):
            decode(_with_header(ADAPTIVE, 2048, fitted(TEXT)[7:] + more), 2048, TEXT.entries)


def check_reading(blob, vocab=2048, limit=4096):
    """What is read is crystals, and comes to exactly these bytes again; they, or None for a refusal."""
    try:
        found = decode(blob, vocab, limit)
    except Rejected as error:
        assert error.code in CODES  # noqa: PT017 - both outcomes are right
        return None
    assert check(found, vocab).entries <= limit
    assert decode(encode(found, vocab), vocab, limit).entries == found.entries
    assert blob[0] == PLAIN or adaptively(found, vocab) == blob
    return found


@settings(max_examples=60, deadline=None)
@given(rest=st.binary(max_size=120), vocab=st.sampled_from([0, 1, 300, 2048, 32_768, 65_535]))
def test_arbitrary_bytes_behind_a_right_crc_are_read_or_rejected(rest, vocab):
    check_reading(rest)
    check_reading(_with_header(PLAIN, vocab, rest))
    check_reading(_with_header(PLAIN, 2048, BLOB[7 : 7 + len(rest) % 30] + rest))
    check_reading(_with_header(ADAPTIVE, vocab, rest), vocab)
    check_reading(_with_header(ADAPTIVE, 2048, varints.write((len(rest) % 7, len(rest) % 5, len(rest) % 3)) + rest))


@in_both_forms
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), flips=st.integers(1, 8), text=st.booleans())
def test_mutations_behind_a_right_crc_are_read_or_rejected(write, seed, flips, text):
    rng = np.random.default_rng(seed)
    blob = write(TEXT if text else GOLDEN, 2048)
    rest = np.frombuffer(blob, np.uint8)[7:].copy()
    places = rng.integers(0, min(len(rest), rng.integers(1, len(rest) + 1)), flips)
    rest[places] = rng.integers(0, 256, flips)
    check_reading(_with_header(blob[0], 2048, rest.tobytes()))


def forged(*, tokens=(3,), gaps=(0,), ranks=(0,), kids=(0,), totals=(0,), tables=(b"\1\1", b"\0", b"\0")):
    """A blob behind a right crc whose columns of depth 1 say what we like."""
    lists = [tokens, gaps, ranks, kids, totals, *[()] * 7]
    ks, unary_bits, data = pack([np.array(numbers, np.int64) for numbers in lists])
    nibbles = bytes(first << 4 | second for first, second in zip(ks[::2], ks[1::2], strict=True))
    sizes = bytes([len(tokens), len(gaps), unary_bits & 127 | 128, unary_bits >> 7])
    return _with_header(PLAIN, 16, sizes + nibbles + b"".join(tables) + data)


def test_the_smallest_blob_by_hand_is_read():
    found = decode(forged(), 16, 1)
    assert [array.tolist() for array in (found.orders[0].keys, found.orders[0].counts, found.orders[0].totals)] == [
        [3],
        [1],
        [1],
    ]
    assert encode(found, 16)[7:] == encode(crystals([entry((), 3, count=1, total=1)]), 16)[7:]


@pytest.mark.parametrize(
    ("at", "beyond", "reason"),
    [
        ({"tokens": (15,)}, {"tokens": (16,)}, "token 16 is not below"),
        ({"gaps": (0,)}, {"gaps": (1,)}, "place 1 in a list of 1"),
        ({"tables": (b"\2\1\2", b"\0", b"\0"), "ranks": (1,)}, {"ranks": (1,)}, "rank 1 in a table of 1"),
        ({"tables": (b"\1\x3f", b"\0", b"\0")}, {"tables": (b"\1\x40", b"\0", b"\0")}, "level table of depth 1"),
        (
            {"tables": (b"\x40" + bytes([1] * 64), b"\0", b"\0")},
            {"tables": (b"\x41" + bytes([1] * 65), b"\0", b"\0")},
            "65 levels",
        ),
        ({"totals": (31,)}, {"totals": (32,)}, "times as often as its n-grams"),
        (
            {"tables": (b"\1\3", b"\0", b"\0"), "totals": (30,)},
            {"tables": (b"\1\3", b"\0", b"\0"), "totals": (31,)},
            "at most 4294967295 are allowed",
        ),
        ({}, {"tables": (b"\1\0", b"\0", b"\0"), "totals": ()}, "neither an entry nor the beginning"),
        ({}, {"kids": (1,)}, "goes beyond"),
        ({}, {"tokens": (3, 4, 5, 6)}, "4 n-grams or nodes; 3 are allowed"),
    ],
)
def test_a_forged_blob_is_read_at_a_bound_and_refused_beyond(at, beyond, reason):
    assert decode(forged(**at), 16, 1).entries == 1
    with pytest.raises(Rejected, match=reason):
        decode(forged(**beyond), 16, 1)


HUGE = b"\xff\xff\xff\x7f"  # the largest size of four bytes
TABLES = bytes([2, 1, 0]) * 3


def check_memory(blob, vocab=2048, limit=4096):
    """Ten times the input, ENTRY_BYTES for each n-gram that it may hold, and what an empty one and an error take."""
    check_reading(blob, vocab, limit)  # compiles, and fills what is made once
    tracemalloc.start()
    with suppress(Rejected):
        decode(blob, vocab, limit)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 10 * len(blob) + ENTRY_BYTES * min(limit, 4 * len(blob)) + 8_000


@pytest.mark.parametrize("fill", [b"\xff", b"\x00", b"\xaa", b"\x01"])
@pytest.mark.parametrize("ks", [bytes(6), b"\xff" * 6, b"\x01" * 6])
@pytest.mark.parametrize(
    "sizes", [b"\x80\x10\x80\x10\x80\x80\x08", HUGE * 3, b"\x01\x01\x80\x80\x08", b"\x01\x01" + HUGE]
)
def test_a_forged_plain_blob_takes_no_more_memory_than_it_may(fill, ks, sizes):
    for length, limit in ((100_000, 4096), (CRYSTALS_MAX_BYTES - 50, 100), (2900, 1 << 17)):
        check_memory(_with_header(PLAIN, 2048, sizes + ks + TABLES + fill * length), limit=limit)


@pytest.mark.parametrize("fill", [b"\xff", b"\x00", b"\xaa", b"\x01"])
@pytest.mark.parametrize(
    "sizes", [(12_288, 8192, 4096), (11_588, 0, 0), (1, 8192, 3000), (3000, 3000, 4096), (1, 1, 1)]
)
@pytest.mark.parametrize("length", [0, 20, 2890, 6144, CRYSTALS_MAX_BYTES - 50])
def test_a_forged_adaptive_blob_takes_no_more_memory_than_it_may(fill, sizes, length):
    check_memory(_with_header(ADAPTIVE, 32_768, varints.write(sizes) + fill * length), 32_768)


SHAPES = {
    "triples that share no token": lambda n: ((3 * n, 3 * n + 1), 3 * n + 2),
    "triples that share their end": lambda n: ((n, 0), 0),
    "pairs that share no token": lambda n: ((2 * n,), 2 * n + 1),
    "tokens": lambda n: ((), n),
    "a square": lambda n: ((n // 64,), n % 64),
    "a cube": lambda n: ((n // 256, n // 16 % 16), n % 16),
}


@in_both_forms
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_as_many_n_grams_as_a_packet_may_bring_take_no_more_memory_than_they_may(write, shape):
    found = crystals(entry(*shape(n), count=1, total=5000) for n in range(4096))
    assert decode(write(found, 32_768), 32_768, 4096).entries == 4096
    check_memory(write(found, 32_768), 32_768)


@in_both_forms
def test_more_n_grams_than_are_allowed_take_no_more_memory_than_those_that_are(write):
    found = crystals(entry((n % 100,), n // 100, count=1, total=120) for n in range(12_000))
    with pytest.raises(Rejected, match="too_many_entries"):
        decode(write(found, 2048), 2048, 4096)
    check_memory(write(found, 2048))


@pytest.mark.parametrize(("nodes", "fits"), [(4 * 20, True), (4 * 20 + 1, False)])
def test_an_adaptive_code_has_at_most_4_nodes_a_byte(nodes, fits):
    found = crystals(entry((), n, count=1, total=nodes) for n in range(nodes))
    blob = adaptively(found, 2048)
    assert len(blob) == 10 + -(-nodes // 4)
    assert blob.endswith(b"\0")
    short = _with_header(ADAPTIVE, 2048, blob[7:30])
    if fits:
        assert decode(short, 2048, nodes).entries == nodes
    else:
        with pytest.raises(Rejected, match="they take at least 21"):
            decode(short, 2048, nodes)
    with pytest.raises(Rejected, match="are not the code of"):
        decode(_with_header(ADAPTIVE, 2048, blob[7:] + b"\0"), 2048, nodes)
