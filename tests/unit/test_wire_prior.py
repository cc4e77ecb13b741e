"""Crystals told by what a base expects: the same n-grams whatever it expects, and nothing without it."""

import tracemalloc
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import Rejected
from common.wire import packet_vectors, varints
from common.wire.adaptive import BASED
from common.wire.crystals import ENTRY_BYTES, PACKET_MAX_ENTRIES, _with_header, crystals, decode, encode, entry, fit
from common.wire.expected import Expected, Prior
from common.wire.ngrams import check

VOCAB = 64


@pytest.fixture(scope="module")
def based():
    """A packet that is told by what its base expects."""
    return packet_vectors.cases()["based"]


@st.composite
def some_priors(draw):
    """Anything that a base may have heard."""
    rows = draw(st.dictionaries(st.integers(0, VOCAB - 1), st.sets(st.integers(0, VOCAB - 1)), max_size=12))
    levels = np.array(draw(st.lists(st.integers(0, 63), min_size=VOCAB, max_size=VOCAB)), np.uint8)
    followers = [sorted(rows.get(token, ())) for token in range(VOCAB)]
    starts = np.cumsum([0, *map(len, followers)]).astype(np.uint32)
    heard = np.array([1 + (token + draw(st.integers(0, 62))) % 63 for row in followers for token in row], np.uint8)
    return Prior.of(Expected(levels, starts, np.array([t for row in followers for t in row], np.uint16), heard))


@st.composite
def some_crystals(draw):
    grams = draw(
        st.dictionaries(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=3).map(tuple), st.integers(1, 99))
    )
    return crystals(entry(gram[:-1], gram[-1], count=count, total=9999) for gram, count in grams.items())


def fitted(found, prior, vocab=VOCAB):
    return fit(found, np.arange(found.entries), vocab_size=vocab, budget_bytes=10_000, prior=prior)[1]


def same(one, other):
    return encode(one, 2048) == encode(other, 2048)


@settings(max_examples=80, deadline=None)
@given(found=some_crystals(), prior=some_priors())
def test_n_grams_come_back_whatever_the_base_expects(found, prior):
    blob = fitted(found, prior)
    read = decode(blob, VOCAB, found.entries, prior=prior)
    assert same(check(read, VOCAB), found)
    assert fitted(read, prior) == blob


@settings(max_examples=40, deadline=None)
@given(found=some_crystals(), prior=some_priors(), other=some_priors())
def test_another_base_and_none_are_refused_before_anything_is_decoded(found, prior, other):
    blob = fitted(found, prior)
    with pytest.raises(Rejected, match="unknown_base"):
        decode(blob, VOCAB, 4096)
    if other.name != prior.name:
        with pytest.raises(Rejected, match="crc32"):
            decode(blob, VOCAB, 4096, prior=other)


@settings(max_examples=80, deadline=None)
@given(prior=some_priors(), sizes=st.tuples(*[st.integers(0, 20)] * 3), code=st.binary(max_size=80))
def test_any_code_behind_a_right_crc_is_read_or_refused(prior, sizes, code):
    blob = _with_header(BASED, VOCAB, varints.write(sizes) + code, prior.name)
    try:
        found = decode(blob, VOCAB, PACKET_MAX_ENTRIES, prior=prior)
    except Rejected as error:
        assert error.code in {"bad_crystals", "too_many_entries"}  # noqa: PT017 - both outcomes are right
    else:
        assert fitted(check(found, VOCAB), prior) == blob


def test_a_cut_or_a_flipped_bit_is_refused(based):
    blob = based.body.crystals
    for end in range(len(blob)):
        with pytest.raises(Rejected):
            decode(blob[:end], based.vocab_size, 4096, prior=based.prior)
    for bit in range(8 * len(blob)):
        flipped = bytearray(blob)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Rejected):
            decode(bytes(flipped), based.vocab_size, 4096, prior=based.prior)


def test_crystals_that_need_no_base_are_read_with_one_too(based):
    found = decode(based.body.crystals, based.vocab_size, 4096, prior=based.prior)
    for blob in (encode(found, based.vocab_size), fitted(found, None, based.vocab_size)):
        assert same(decode(blob, based.vocab_size, 4096, prior=based.prior), found)


def test_what_the_base_expects_takes_fewer_bytes_and_what_it_does_not_more(based):
    expected = decode(based.body.crystals, based.vocab_size, 4096, prior=based.prior)
    odd = crystals(entry((63 - n,), (5 * n) % 64, count=2, total=2) for n in range(60))
    sizes = [
        [len(fitted(found, prior, based.vocab_size)) for prior in (based.prior, None)] for found in (expected, odd)
    ]
    assert sizes[0][0] < 0.95 * sizes[0][1]
    assert sizes[1][0] > sizes[1][1]


@pytest.mark.parametrize("column", range(4))
def test_a_prior_s_name_is_that_of_its_content(based, column):
    columns = [np.array(each) for each in based.prior.expected]
    assert Prior.of(Expected(*columns)).name == based.prior.name
    columns[column][-1] += 1
    assert Prior.of(Expected(*columns)).name != based.prior.name


def test_a_prior_over_another_vocabulary_is_the_caller_s_mistake(based):
    with pytest.raises(AssertionError):
        decode(_with_header(BASED, 32, varints.write((0, 0, 0)), based.prior.name), 32, 10, prior=based.prior)
    with pytest.raises(AssertionError):
        fitted(crystals(()), based.prior, 32)


@pytest.mark.parametrize("fill", [b"\xff", b"\x00", b"\xaa", b"\x01"])
@pytest.mark.parametrize("sizes", [(2048, 8192, 1000), (1, 8192, 3000), (2048, 2048, 4096), (1, 1, 1)])
def test_a_forged_blob_takes_two_bytes_a_token_of_the_vocabulary_more_than_without_a_base(based, fill, sizes):
    blob = _with_header(BASED, based.vocab_size, varints.write(sizes) + fill * 2890, based.prior.name)
    with suppress(Rejected):
        decode(blob, based.vocab_size, 4096, prior=based.prior)
    tracemalloc.start()
    with suppress(Rejected):
        decode(blob, based.vocab_size, 4096, prior=based.prior)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 10 * len(blob) + ENTRY_BYTES * 4096 + 2 * based.vocab_size + 8_000
