from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import Rejected
from common.wire.ngrams import (
    MAX_TOTAL,
    MAX_VOCAB,
    Crystals,
    capped,
    check,
    crystals,
    empty,
    entry,
    implied,
    merge,
    pack_key,
    take,
)

PAIR = crystals([entry((), 3, count=2, total=5), entry((3,), 1, count=1, total=2), entry((3,), 4, count=1, total=2)])


def counted(texts):
    """Counts of every n-gram of the texts, by the definition."""
    counts, totals = {}, {}
    for text in texts:
        for end in range(len(text)):
            for n in range(min(end, 2) + 1):
                gram = tuple(text[end - n : end + 1])
                counts[gram] = counts.get(gram, 0) + 1
                totals[gram[:-1], n] = totals.get((gram[:-1], n), 0) + 1
    return crystals(entry(g[:-1], g[-1], count=c, total=totals[g[:-1], len(g) - 1]) for g, c in counts.items())


def rows(found):
    return [[a.tolist() for a in (o.keys, o.counts, o.contexts, o.totals)] for o in found.orders]


def with_order(n, **fields):
    orders = list(PAIR.orders)
    orders[n] = replace(orders[n], **fields)
    return Crystals(tuple(orders))


texts = st.lists(st.lists(st.integers(0, 9), max_size=30), min_size=3, max_size=3)


@settings(max_examples=60, deadline=None)
@given(texts=texts)
def test_merging_counts_is_counting_the_texts_together(texts):
    assert rows(merge([counted([text]) for text in texts])) == rows(counted(texts))


@settings(max_examples=60, deadline=None)
@given(texts=texts)
def test_merge_is_commutative_and_associative_and_empty_changes_nothing(texts):
    a, b, c = (counted([text]) for text in texts)
    together = rows(merge([a, b, c]))
    assert together == rows(merge([c, a, b])) == rows(merge([merge([a, b]), c])) == rows(merge([a, merge([b, c])]))
    assert rows(merge([a, empty()])) == rows(a)
    assert rows(merge([])) == rows(empty())


@pytest.mark.parametrize(("total", "fits"), [(MAX_TOTAL - 6, True), (MAX_TOTAL - 5, True), (MAX_TOTAL - 4, False)])
def test_totals_beyond_32_bits_are_an_overflow(total, fits):
    huge = crystals([entry((), 3, count=1, total=total)])
    if fits:
        assert merge([PAIR, huge]).orders[0].totals.tolist() == [total + 5]
    else:
        with pytest.raises(Rejected, match="count_overflow"):
            merge([PAIR, huge])


def test_a_context_was_seen_as_often_as_its_total_and_an_ending_as_often_as_what_it_ends():
    found = implied(crystals([entry((5, 3), 7, count=4, total=9), entry((6, 3), 7, count=2, total=2)]))
    assert found.orders[1].keys.tolist() == [pack_key(gram) for gram in ((3, 7), (5, 3), (6, 3))]
    assert found.orders[1].counts.tolist() == [6, 9, 2]
    assert found.orders[1].totals.tolist() == [6, 9, 2]
    assert dict(zip(found.orders[0].keys.tolist(), found.orders[0].counts.tolist(), strict=True)) == (
        {3: 11, 5: 9, 6: 2, 7: 6}
    )
    assert found.orders[0].totals.tolist() == [28]


@pytest.mark.parametrize(("count", "told"), [(2, 4), (4, 4), (5, 5)])
def test_what_is_counted_by_itself_counts_as_the_highest_says(count, told):
    pair = entry((3,), 7, count=count, total=9)
    found = implied(crystals([entry((5, 3), 7, count=4, total=4), pair])).orders[1]
    assert found.counts[found.keys == pack_key((3, 7))].tolist() == [told]
    assert found.totals[found.contexts == 3].tolist() == [9]


@settings(max_examples=60, deadline=None)
@given(texts=texts)
def test_all_counts_of_a_text_imply_nothing_that_is_not_among_them(texts):
    assert rows(implied(counted(texts))) == rows(counted(texts))


@pytest.mark.parametrize(("total", "fits"), [(MAX_TOTAL // 2 - 1, True), (MAX_TOTAL // 2, False)])
def test_implied_counts_beyond_32_bits_are_an_overflow(total, fits):
    heavy = crystals([entry((5,), 3, count=1, total=total), entry((6,), 3, count=1, total=total)])
    if fits:
        assert implied(heavy).orders[0].totals.tolist() == [2 * total + 2]
    else:
        with pytest.raises(Rejected, match="count_overflow"):
            implied(heavy)


def test_nothing_implies_nothing():
    assert rows(implied(empty())) == rows(empty())


def test_a_key_holds_the_oldest_token_highest():
    assert pack_key((1, 2, 3)) == (1 << 30) | (2 << 15) | 3
    assert counted([[1, 2, 3]]).orders[2].keys.tolist() == [pack_key((1, 2, 3))]


def test_taking_keeps_the_totals_of_the_contexts_that_stay():
    kept = take(PAIR, np.array([False, True, False]))
    assert rows(kept) == [[[], [], [], []], [[pack_key((3, 1))], [1], [3], [2]], [[], [], [], []]]
    assert kept.entries == 1
    assert rows(check(kept, 16)) == rows(kept)


@pytest.mark.parametrize(
    ("vocab_size", "taken"), [(4, False), (5, True), (MAX_VOCAB, True), (MAX_VOCAB + 1, False), (0, False)]
)
def test_tokens_are_below_the_vocabulary_size(vocab_size, taken):
    if taken:
        assert check(PAIR, vocab_size) is PAIR
    else:
        with pytest.raises(Rejected, match="vocabulary"):
            check(PAIR, vocab_size)


u64 = lambda *keys: np.array(keys, np.uint64)  # noqa: E731 - shorter than the arrays it makes
u32 = lambda *counts: np.array(counts, np.uint32)  # noqa: E731 - the same


@pytest.mark.parametrize(
    "broken",
    [
        with_order(1, keys=u64(pack_key((3, 4)), pack_key((3, 1)))),
        with_order(1, keys=u64(pack_key((3, 1)), pack_key((3, 1)))),
        with_order(1, counts=u32(1)),
        with_order(1, totals=u32(2, 2)),
        with_order(1, counts=u32(0, 1)),
        with_order(1, totals=u32(1)),
        with_order(1, contexts=u64(4)),
        with_order(1, contexts=u64(3, 4), totals=u32(2, 2)),
        with_order(0, keys=u64(1 << 15), contexts=u64(1)),
        with_order(1, keys=u64(pack_key((1, 3, 1)), pack_key((1, 3, 4))), contexts=u64(pack_key((1, 3)))),
    ],
)
def test_crystals_that_contradict_themselves_are_rejected(broken):
    with pytest.raises(Rejected, match="bad_crystals"):
        check(broken, 16)


@pytest.mark.parametrize("second", [entry((), 3, count=2, total=5), entry((), 4, count=2, total=6)])
def test_an_n_gram_given_twice_or_a_context_with_two_totals_is_rejected(second):
    with pytest.raises(Rejected, match="given twice, or two totals"):
        crystals([entry((), 3, count=2, total=5), second])


@pytest.mark.parametrize(("cap", "expected"), [(65, (4, 64)), (64, (4, 64)), (63, (3, 63)), (16, (1, 16)), (1, (1, 1))])
def test_crystals_above_a_mass_cap_are_scaled_down_to_it(cap, expected):
    order = capped(crystals([entry((), 7, count=4, total=64), entry((7,), 9, count=3, total=4)]), cap).orders[0]
    assert (int(order.counts[0]), int(order.totals[0])) == expected


@given(st.integers(1, 5000), st.lists(st.tuples(st.integers(1, 3000), st.integers(0, 3000)), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_capped_crystals_keep_the_rules_and_the_cap(cap, rows_):
    entries = [entry((token,), token, count=c, total=c + more) for token, (c, more) in enumerate(rows_)]
    found = check(capped(crystals(entries), cap), 512)
    assert found.entries == len(rows_)
    assert int(found.orders[1].totals.sum()) <= max(cap, len(rows_))


def test_the_highest_counts_there_are_can_be_capped():
    most = crystals([entry((), 7, count=MAX_TOTAL, total=MAX_TOTAL)])
    assert capped(most, MAX_TOTAL - 1).orders[0].counts.tolist() == [MAX_TOTAL - 1]
