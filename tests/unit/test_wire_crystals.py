import re
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import Rejected
from common.wire import adaptive, export, plain
from common.wire import crystals as wire_crystals
from common.wire.crystals import (
    LEVELS,
    PACKET_MAX_COUNTED,
    PACKET_MAX_ENTRIES,
    PACKET_MAX_TOTAL,
    _with_header,
    crystals,
    decode,
    encode,
    entry,
    fit,
    take,
)
from common.wire.fields import CRYSTALS_MAX_BYTES
from common.wire.ngrams import MAX_TOTAL, check, empty

LICENSE = Path(__file__).resolve().parents[2] / "LICENSE"
GOLDEN = export.golden_crystals()
BLOB = encode(GOLDEN, 2048)
PLAIN, ADAPTIVE = plain.FORM, adaptive.FORM
CODES = {"oversized", "bad_crystals", "wrong_vocabulary", "too_many_entries"}


def read_license(least=2):
    """The n-grams of the licence's words (ids by frequency) that occur at least `least` times."""
    words = re.findall(r"\w+|[^\w\s]", LICENSE.read_text(encoding="utf-8"))
    ids = {word: n for n, word in enumerate(sorted(set(words), key=lambda w: (-words.count(w), w)))}
    text, counts, totals = [ids[word] for word in words], {}, {}
    for end in range(len(text)):
        for n in range(min(end, 2) + 1):
            gram = tuple(text[end - n : end + 1])
            counts[gram] = counts.get(gram, 0) + 1
            totals[gram[:-1]] = totals.get(gram[:-1], 0) + 1
    return crystals(entry(g[:-1], g[-1], count=c, total=totals[g[:-1]]) for g, c in counts.items() if c >= least)


TEXT = read_license()


def adaptively(found, vocab_size):
    """All of them in the adaptive form."""
    rest = adaptive.encode(check(found, vocab_size), vocab_size, max_bytes=CRYSTALS_MAX_BYTES)
    return _with_header(ADAPTIVE, vocab_size, rest)


in_both_forms = pytest.mark.parametrize("write", [encode, adaptively], ids=["plain", "adaptive"])


@st.composite
def some_crystals(draw):
    vocab = draw(st.sampled_from([1, 2, 40, 2048, 32_768]))
    tokens = st.integers(0, vocab - 1)
    grams = draw(
        st.dictionaries(st.lists(tokens, min_size=1, max_size=3).map(tuple), st.integers(1, 10**6), max_size=40)
    )
    extra = draw(st.integers(0, 10**8) | st.integers(0, 9))
    sums = {}
    for gram, count in grams.items():
        sums[gram[:-1]] = sums.get(gram[:-1], 0) + count
    return vocab, crystals(entry(g[:-1], g[-1], count=c, total=sums[g[:-1]] + extra) for g, c in grams.items())


def rounded_down(count):
    return max(int(level) for level in LEVELS if level <= count)


@in_both_forms
@settings(max_examples=60, deadline=None)
@given(case=some_crystals())
def test_n_grams_come_back_with_counts_rounded_down_and_totals_to_the_nearest_doubling(write, case):
    vocab, found = case
    decoded = check(decode(write(found, vocab), vocab, found.entries), vocab)
    for before, after in zip(found.orders, decoded.orders, strict=True):
        assert np.array_equal(before.keys, after.keys)
        assert np.array_equal(before.contexts, after.contexts)
        assert after.counts.tolist() == [rounded_down(count) for count in before.counts.tolist()]
        for context, total, reached in zip(
            *(a.tolist() for a in (before.contexts, before.totals, after.totals)), strict=True
        ):
            known = int(after.counts[(after.keys >> np.uint64(15)) == context].sum())
            doublings = [known << s for s in range(32) if known << s <= MAX_TOTAL]
            assert reached == min(doublings, key=lambda t: max(t / total, total / t))


@in_both_forms
@settings(max_examples=40, deadline=None)
@given(case=some_crystals())
def test_decoding_and_encoding_again_gives_the_same_bytes(write, case):
    vocab, found = case
    blob = write(found, vocab)
    assert write(decode(blob, vocab, found.entries), vocab) == blob


@in_both_forms
@pytest.mark.parametrize(("one", "next_"), list(pairwise(LEVELS.tolist())))
def test_a_count_is_the_level_at_or_below_it(write, one, next_):
    for count in (one, next_ - 1):
        found = crystals([entry((), 0, count=count, total=count)])
        assert decode(write(found, 1), 1, 1).orders[0].counts.tolist() == [one]


@in_both_forms
def test_the_highest_counts_survive(write):
    found = crystals([entry((), 0, count=MAX_TOTAL, total=MAX_TOTAL)])
    decoded = decode(write(found, 1), 1, 1)
    assert decoded.orders[0].counts.tolist() == decoded.orders[0].totals.tolist() == [3 << 30]


def test_no_crystals_at_all_are_a_header():
    assert decode(encode(empty(), 2048), 2048, 0).entries == 0
    assert len(encode(empty(), 2048)) == 19
    assert decode(adaptively(empty(), 2048), 2048, 0).entries == 0
    assert len(adaptively(empty(), 2048)) == 10


def test_english_text_takes_less_than_11_bits_an_n_gram_when_whole_and_6_in_the_adaptive_form():
    assert 8 * len(encode(TEXT, 2048)) / TEXT.entries < 11
    assert 8 * len(fitted(TEXT)) / TEXT.entries < 6


def test_a_few_n_grams_of_english_text_take_less_than_18_bits_each():
    sparse, blob = fit(TEXT, ranking_of(TEXT)[:300], vocab_size=2048, budget_bytes=4096)
    assert sparse.entries == 300
    assert 8 * len(blob) / sparse.entries < 18


def test_crystals_over_tokens_outside_the_vocabulary_are_not_encoded():
    with pytest.raises(Rejected, match="bad_crystals"):
        encode(GOLDEN, 2047)
    assert encode(GOLDEN, 2048)


@in_both_forms
@pytest.mark.parametrize("vocab_size", [2047, 2049, 32_768])
def test_a_blob_over_another_vocabulary_is_refused(write, vocab_size):
    with pytest.raises(Rejected, match="wrong_vocabulary"):
        decode(write(GOLDEN, 2048), vocab_size, 100)


@in_both_forms
def test_as_many_entries_as_allowed_are_decoded_and_one_more_is_refused(write):
    assert decode(write(GOLDEN, 2048), 2048, GOLDEN.entries).entries == GOLDEN.entries
    with pytest.raises(Rejected, match="too_many_entries"):
        decode(write(GOLDEN, 2048), 2048, GOLDEN.entries - 1)


@in_both_forms
def test_a_total_may_reach_the_limit_and_not_pass_it(write):
    assert decode(write(GOLDEN, 2048), 2048, 100, max_total=320).orders[0].totals.tolist() == [320]
    with pytest.raises(Rejected, match="at most 319 are allowed"):
        decode(write(GOLDEN, 2048), 2048, 100, max_total=319)


def test_a_blob_above_the_limit_is_refused_before_its_crc():
    with pytest.raises(Rejected, match="oversized"):
        decode(BLOB.ljust(CRYSTALS_MAX_BYTES + 1, b"\0"), 2048, 100)
    with pytest.raises(Rejected, match="crc32"):
        decode(BLOB.ljust(CRYSTALS_MAX_BYTES, b"\0"), 2048, 100)


def test_crystals_above_the_limit_are_not_encoded_but_the_best_of_them_fit(monkeypatch):
    whole = len(encode(TEXT, 2048))
    monkeypatch.setattr(wire_crystals, "CRYSTALS_MAX_BYTES", whole)
    assert len(encode(TEXT, 2048)) == whole
    monkeypatch.setattr(wire_crystals, "CRYSTALS_MAX_BYTES", whole - 1)
    with pytest.raises(Rejected, match="oversized"):
        encode(TEXT, 2048)
    whole = len(fitted(TEXT))
    monkeypatch.setattr(wire_crystals, "CRYSTALS_MAX_BYTES", whole - 1)
    assert whole - 20 < len(fit(TEXT, ranking_of(TEXT), vocab_size=2048, budget_bytes=10**6)[1]) < whole


@pytest.mark.parametrize("form", [0, 4, 255])
def test_another_form_is_refused_even_with_the_right_crc(form):
    crc = zlib.crc32(BLOB[5:], zlib.crc32(bytes([form])))
    with pytest.raises(Rejected, match=f"crystals in form {form}"):
        decode(bytes([form]) + crc.to_bytes(4, "little") + BLOB[5:], 2048, 100)


def fitted(found):
    """All of them, as an edge sends them."""
    return fit(found, np.arange(found.entries), vocab_size=2048, budget_bytes=10**6)[1]


def ranking_of(found):
    return np.random.default_rng(7).permutation(found.entries)


@pytest.mark.parametrize("budget_bytes", [10, 20, 64, 200, 400])
def test_what_fits_is_a_beginning_of_the_ranking_within_the_budget(budget_bytes):
    ranking = ranking_of(TEXT)
    found, blob = fit(TEXT, ranking, vocab_size=2048, budget_bytes=budget_bytes)
    mask = np.isin(np.arange(TEXT.entries), ranking[: found.entries])
    assert len(blob) <= budget_bytes
    assert fitted(take(TEXT, mask)) == blob == fitted(found)
    more = np.isin(np.arange(TEXT.entries), ranking[: found.entries + 16])
    assert len(fitted(take(TEXT, more))) > budget_bytes


def test_a_budget_of_the_whole_takes_the_whole_and_one_byte_less_does_not():
    whole = len(fitted(TEXT))
    assert fit(TEXT, ranking_of(TEXT), vocab_size=2048, budget_bytes=whole)[0].entries == TEXT.entries
    assert fit(TEXT, ranking_of(TEXT), vocab_size=2048, budget_bytes=whole - 1)[0].entries < TEXT.entries


def test_what_the_ranking_does_not_name_is_never_sent():
    assert fit(TEXT, np.array([5, 3]), vocab_size=2048, budget_bytes=1024)[0].entries == 2


@pytest.mark.parametrize(("budget_bytes", "bytes_"), [(0, 0), (9, 0), (10, 10)])
def test_a_budget_below_the_header_takes_no_bytes(budget_bytes, bytes_):
    found, blob = fit(TEXT, ranking_of(TEXT), vocab_size=2048, budget_bytes=budget_bytes)
    assert (found.entries, len(blob)) == (0, bytes_)


def dense(side, **columns):
    """Every pair of `side` tokens, as cheap to code as n-grams can be."""
    return crystals(entry((n // side,), n % side, **columns) for n in range(side * side))


def test_no_more_n_grams_are_fitted_than_a_packet_may_bring():
    every = dense(72, count=2, total=144)
    assert len(fitted(every)) < 2900
    assert every.entries > PACKET_MAX_ENTRIES
    found, blob = fit(every, np.arange(every.entries), vocab_size=2048, budget_bytes=2900)
    assert found.entries == PACKET_MAX_ENTRIES == decode(blob, 2048, PACKET_MAX_ENTRIES).entries


@pytest.mark.parametrize("total", [PACKET_MAX_COUNTED - PACKET_MAX_ENTRIES, 1 << 22, MAX_TOTAL])
def test_counts_that_waited_for_long_are_scaled_to_what_a_packet_may_claim(total):
    found, blob = fit(
        crystals([entry((), n, count=total // 8, total=total) for n in range(8)]),
        np.arange(8), vocab_size=2048, budget_bytes=2900,
    )  # fmt: skip
    assert PACKET_MAX_COUNTED / 3 < found.orders[0].counts.sum() <= PACKET_MAX_COUNTED
    assert decode(blob, 2048, 8, max_total=PACKET_MAX_TOTAL).entries == 8
