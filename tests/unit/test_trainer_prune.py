"""A memory made small keeps what it needs most, and stays an honest distribution."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.kernels import memory as m
from common.kernels import memory_file
from services.trainer.prune import WEIGHT_MAX, halved, joined, prune

VOCAB = 24
FLOOR = np.full(VOCAB, 1 / VOCAB)
texts = st.lists(st.integers(0, VOCAB - 1), min_size=8, max_size=300).map(lambda ids: np.array(ids, np.int32))


def repeats(seed=0, size=4000):
    """A text with habits: the next token is mostly the last one plus one."""
    rng = np.random.default_rng(seed)
    ids = np.zeros(size, np.int32)
    for t in range(1, size):
        ids[t] = (ids[t - 1] + 1) % VOCAB if rng.random() < 0.8 else rng.integers(VOCAB)
    return ids


def bits(memory, ids):
    return float(-np.log2(m.predict(memory, ids, FLOOR).probability).sum())


@given(texts, st.floats(0, 20))
def test_a_pruned_memory_is_a_part_of_the_whole_with_its_own_totals(ids, limit):
    whole = m.count([ids])
    small = prune(whole, FLOOR, limit)
    assert len(small.tables) == len(whole.tables)
    for kept, table in zip(small.tables, whole.tables, strict=True):
        assert (m.look_up(table.keys, table.counts, kept.keys) == kept.counts).all()
        assert (m.look_up(table.contexts, table.totals, kept.contexts) == kept.totals).all()
        assert set(kept.contexts.tolist()) >= set((kept.keys >> m.TOKEN_BITS).tolist())


@given(texts, st.floats(0, 20))
def test_a_look_up_reaches_every_ngram_that_was_kept(ids, limit):
    small = prune(m.count([ids]), FLOOR, limit)
    for order in range(1, len(small.tables) - 1):
        suffixes = small.tables[order + 1].contexts & m.mask(order - 1)
        assert np.isin(suffixes, small.tables[order].contexts).all()
    for order, table in enumerate(small.tables):
        assert (m.predict_grams(small, table.keys, order, FLOOR).order == order).all()


@given(texts, st.floats(0, 20))
def test_every_prediction_of_a_pruned_memory_sums_to_one(ids, limit):
    p, _, _ = m.distribution(prune(m.count([ids]), FLOOR, limit), ids[-3:].tolist(), FLOOR)
    assert p.sum() == pytest.approx(1.0)
    assert p.min() > 0


def test_a_higher_price_keeps_fewer_ngrams_and_never_one_that_a_lower_price_threw_away_of_order_one():
    whole = m.count([repeats()])
    sizes = [prune(whole, FLOOR, limit).entries for limit in (0, 2, 8, 32)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 4
    cheap, dear = (prune(whole, FLOOR, limit).tables[1].keys for limit in (2, 8))
    assert np.isin(dear, cheap).all()


def test_at_equal_size_what_is_kept_by_worth_predicts_better_than_what_is_kept_by_count():
    whole, fresh = m.count([repeats(1)]), repeats(2)
    small = prune(whole, FLOOR, 4.0)
    by_count = []
    for kept, table in zip(small.tables, whole.tables, strict=True):
        top = np.sort(np.argsort(-table.counts.astype(np.int64), kind="stable")[: len(kept.keys)])
        contexts = np.unique(table.keys[top] >> m.TOKEN_BITS)
        totals = m.look_up(table.contexts, table.totals, contexts)
        by_count.append(m.Table.of(table.keys[top], table.counts[top], contexts, totals))
    assert bits(small, fresh) < bits(m.Memory(tuple(by_count)), fresh)


def test_an_ngram_that_its_lower_order_predicts_as_well_is_thrown_away_and_the_habit_stays():
    small = prune(m.count([repeats()]), FLOOR, 4.0)
    # the habit needs one token of context; longer contexts add nothing but chance
    assert {(k >> 15, k & 0x7FFF) for k in small.tables[1].keys.tolist()} >= {
        (t, (t + 1) % VOCAB) for t in range(VOCAB)
    }
    assert len(small.tables[2].keys) + len(small.tables[3].keys) < 0.05 * m.count([repeats()]).entries


def test_an_empty_memory_stays_empty():
    assert prune(m.count([]), FLOOR, 1.0).entries == 0


def heavy(*counts, total=None):
    """One order: a count a token, and a total."""
    table = m.Table.complete(np.arange(len(counts), dtype=np.uint64), np.array(counts, np.uint32))
    return m.Memory((table if total is None else table._replace(totals=np.array([total], np.uint32)),))


def rows(memory):
    return [(t.counts.tolist(), t.totals.tolist()) for t in memory.tables]


@pytest.mark.parametrize("more", [0, 1, 2**31])
def test_memories_of_billions_of_tokens_join_to_one_that_can_be_read(more):
    known = heavy(2**31 - 1, 2**31 - 1000)
    found = joined([known, heavy(1, 998, 1 + more)])
    assert memory_file.from_bytes(memory_file.to_bytes(found), VOCAB).tokens == found.tokens
    assert found.tokens == (WEIGHT_MAX if not more else pytest.approx((WEIGHT_MAX + more) / 2, abs=4))
    assert m.distribution(found, [], FLOOR)[0].sum() == pytest.approx(1.0)
    assert m.distribution(found, [], FLOOR)[0][1] == pytest.approx((2**31 - 1) / (WEIGHT_MAX + more), rel=1e-6)


def test_memories_whose_totals_fall_short_of_their_counts_are_halved_by_their_counts():
    found = joined(2 * [heavy(2**31, 2**30, total=3)])
    assert [counts for counts, _ in rows(found)] == [[2**31, 2**30]]


@given(texts, texts)
def test_joined_memories_that_have_room_are_their_sum(one, other):
    several = [m.count([one]), m.count([other])]
    assert rows(joined(several)) == rows(m.merge(several))


def test_a_halved_memory_keeps_each_n_gram_and_half_of_what_a_total_has_beyond_or_is_short_of():
    assert rows(halved(heavy(1, 5, total=9))) == [([1, 3], [5])]
    assert rows(halved(heavy(4, 4, total=3))) == [([2, 2], [2])]


def test_what_a_subtraction_has_left_short_of_its_counts_is_judged_by_its_counts():
    whole = m.count([repeats()])
    short = m.Memory(tuple(table._replace(totals=np.zeros_like(table.totals)) for table in whole.tables))
    assert prune(short, FLOOR, 4.0).entries == prune(whole, FLOOR, 4.0).entries
