import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import Rejected
from common.kernels import memory as m
from common.kernels import memory_file

VOCAB = 40
FLOOR = np.full(VOCAB, 1 / VOCAB)
texts = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=60).map(lambda ids: np.array(ids, np.int32))


def same(one, other):
    return len(one.tables) == len(other.tables) and all(
        np.array_equal(a.keys, b.keys)
        and np.array_equal(a.counts, b.counts)
        and np.array_equal(a.contexts, b.contexts)
        and np.array_equal(a.totals, b.totals)
        for a, b in zip(one.tables, other.tables, strict=True)
    )


def test_an_ngram_is_counted_as_often_as_it_occurs():
    memory = m.count([np.array([1, 2, 1, 2, 3], np.int32)])
    assert dict(zip(memory.tables[1].keys.tolist(), memory.tables[1].counts.tolist(), strict=True)) == {
        1 << 15 | 2: 2,
        2 << 15 | 1: 1,
        2 << 15 | 3: 1,
    }


def test_no_ngram_spans_two_documents():
    memory = m.count([np.array([1, 2], np.int32), np.array([3], np.int32)])
    assert 2 << 15 | 3 not in memory.tables[1].keys.tolist()


@given(texts, texts, texts)
@settings(max_examples=40)
def test_merging_is_commutative_and_associative(a, b, c):
    a, b, c = (m.count([ids]) for ids in (a, b, c))
    assert same(m.merge([a, b]), m.merge([b, a]))
    assert same(m.merge([m.merge([a, b]), c]), m.merge([a, m.merge([b, c])]))


@given(texts, texts)
@settings(max_examples=40)
def test_merged_memories_equal_the_memory_of_both_texts(a, b):
    assert same(m.merge([m.count([a]), m.count([b])]), m.count([a, b]))


@given(texts, texts)
@settings(max_examples=40)
def test_subtracting_undoes_merging_exactly(a, b):
    kept = m.count([a])
    assert same(m.subtract(m.merge([kept, m.count([b])]), m.count([b])), kept)


@given(texts, texts)
@settings(max_examples=40)
def test_a_distribution_sums_to_one_in_any_context(learned, context):
    p, _, _ = m.distribution(m.count([learned]), context.tolist(), FLOOR)
    assert abs(p.sum() - 1) < 1e-12
    assert (p > 0).all()


@given(texts, texts)
@settings(max_examples=40)
def test_predict_and_distribution_give_the_same_numbers(learned, read):
    memory = m.count([learned])
    seen = m.predict(memory, read, FLOOR)
    for place, token in enumerate(read):
        p, order, total = m.distribution(memory, read[max(0, place - 3) : place].tolist(), FLOOR)
        assert np.isclose(p[token], seen.probability[place], rtol=1e-12)
        assert (order, total) == (seen.order[place], seen.total[place])


@given(texts, texts)
@settings(max_examples=40)
def test_an_ngram_alone_reads_as_it_does_inside_a_text(learned, read):
    memory = m.Memory(m.count([learned]).tables[:3])
    alone = m.predict_grams(memory, m.pack(read, 2), 2, FLOOR)
    assert np.allclose(alone.probability, m.predict(memory, read, FLOOR).probability[2:], rtol=1e-12)


def test_a_context_whose_total_was_overstated_keeps_its_followers():
    def table(counts, total):
        return m.Table.of(
            *(
                np.array(x, t)
                for x, t in (([5, 6], np.uint64), (counts, np.uint32), ([0], np.uint64), ([total], np.uint32))
            )
        )

    left = m.subtract(m.Memory((table([3, 2], 5),)), m.Memory((table([1, 2], 9),))).tables[0]
    assert (left.keys.tolist(), left.counts.tolist(), left.totals.tolist()) == ([5], [2], [2])


def test_unsent_mass_backs_off_to_the_lower_order():
    table = m.Table.of(
        *(np.array(x, t) for x, t in (([5], np.uint64), ([2], np.uint32), ([0], np.uint64), ([10], np.uint32)))
    )
    p, _, _ = m.distribution(m.Memory((table,)), [], FLOOR)
    assert np.isclose(p[5], (2 - m.DISCOUNT) / 10 + (8 + m.DISCOUNT) / 10 / VOCAB)


def test_a_total_below_its_counts_is_raised_to_their_sum():
    table = m.Table.of(
        *(np.array(x, t) for x, t in (([5, 6], np.uint64), ([2, 3], np.uint32), ([0], np.uint64), ([1], np.uint32)))
    )
    assert table.totals.tolist() == [5]


@given(texts)
@settings(max_examples=40)
def test_a_memory_survives_its_bytes(learned):
    memory = m.count([learned])
    assert same(memory_file.from_bytes(memory_file.to_bytes(memory), VOCAB), memory)


def test_equal_memories_have_equal_bytes():
    ids = np.arange(30, dtype=np.int32) % 7
    assert memory_file.to_bytes(m.count([ids])) == memory_file.to_bytes(m.merge([m.count([ids])]))


@pytest.mark.parametrize("cut", [0, 1, 10, -1])
def test_a_truncated_memory_is_rejected(cut):
    data = memory_file.to_bytes(m.count([np.arange(20, dtype=np.int32)]))
    with pytest.raises(Rejected, match="bad_memory"):
        memory_file.from_bytes(data[:cut], VOCAB)


def test_a_token_outside_the_vocabulary_is_rejected():
    data = memory_file.to_bytes(m.count([np.array([VOCAB], np.int32)]))
    memory_file.from_bytes(data, VOCAB + 1)
    with pytest.raises(Rejected, match=f"a token id of {VOCAB}"):
        memory_file.from_bytes(data, VOCAB)


def test_a_decompression_bomb_is_rejected_before_it_is_unpacked():
    bomb = zstandard.ZstdCompressor().compress(bytes(memory_file.MAX_BYTES + 1))
    with pytest.raises(Rejected, match="the limit is"):
        memory_file.from_bytes(bomb, VOCAB)


def test_an_ngram_without_its_context_is_rejected():
    table = m.Table.of(
        *(np.array(x, t) for x, t in (([1 << 15 | 2], np.uint64), ([2], np.uint32), ([3], np.uint64), ([9], np.uint32)))
    )
    order0 = m.count([np.array([1, 2, 3], np.int32)]).tables[0]
    with pytest.raises(Rejected, match="context is not listed"):
        memory_file.from_bytes(memory_file.to_bytes(m.Memory((order0, table))), VOCAB)
