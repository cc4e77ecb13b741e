import copy
import math
import pickle

import numpy as np
import pytest
import safetensors.numpy
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


def followers(memory, n):
    """{context: ({token: count}, total)} of one order, by continuation below the highest, through dictionaries."""
    table, found = memory.tables[n], {}
    for context, total in zip(table.contexts.tolist(), table.totals.tolist(), strict=True):
        found[context] = {}, total
    for key, seen in zip(table.keys.tolist(), table.counts.tolist(), strict=True):
        found[key >> 15][0][key & 0x7FFF] = seen
    if n + 1 == len(memory.tables):
        return found
    longer = memory.tables[n + 1]
    grams = list(zip(longer.keys.tolist(), longer.counts.tolist(), strict=True))
    continued = {}
    for context, (counts, total) in found.items():
        unsent, new = math.ceil((total - sum(counts.values())) / m.UNSENT_PARTS[n]), {}
        for token, seen in counts.items():
            ends = [c for key, c in grams if key & (1 << 15 * (n + 1)) - 1 == context << 15 | token]
            new[token] = len(ends) + max(seen - sum(ends), 0)
        continued[context] = new, sum(new.values()) + unsent
    return continued


def plainly(tables, context, token):
    """The formula at the head of memory.py. tables: `followers` of each order."""
    p, order, total = 1 / VOCAB, -1, 0
    for n, table in enumerate(tables):
        h = sum(t << 15 * i for i, t in enumerate(reversed(context[len(context) - n :])))
        if n > len(context) or h not in table:
            break
        (known, total), order = table[h], n
        left = total - sum(known.values()) + m.DISCOUNT * len(known)
        p = (max(known.get(token, 0) - m.DISCOUNT, 0) + left * p) / total
    return p, order, total


few = st.lists(st.integers(0, 4), min_size=1, max_size=50).map(lambda ids: np.array(ids, np.int32))


@given(few, few, few, st.integers(1, 4), st.integers(0, 9))
@settings(max_examples=40)
def test_compiled_predictions_equal_the_formula(learned, received, read, orders, unsent):
    counted = m.merge([m.count([learned], orders), m.count([received], min(orders, 2))])
    memory = m.Memory(tuple(t._replace(totals=t.totals + np.uint32(unsent)) for t in counted.tables))
    seen, tables = m.predict(memory, read, FLOOR), [followers(memory, n) for n in range(orders)]
    for place, token in enumerate(read.tolist()):
        p, order, total = plainly(tables, read[max(0, place - 3) : place].tolist(), token)
        assert (order, total) == (seen.order[place], seen.total[place])
        assert np.isclose(p, seen.probability[place], rtol=1e-12)


def test_below_the_highest_order_a_token_counts_once_for_each_token_before_it():
    memory = m.count([np.array([1, 9, 1, 9, 1, 9, 2, 8, 3, 8], np.int32)], orders=2)
    p, _, _ = m.distribution(memory, [], FLOOR)
    assert memory.tables[0].counts.tolist() == [3, 1, 1, 2, 3]
    assert p[8] > p[9]


def test_what_no_longer_ngram_accounts_for_counts_as_it_occurred():
    text = np.array([1, 9, 1, 9, 1, 9, 2, 8, 3, 8], np.int32)
    received = m.Memory(m.count([np.array([7, 7, 7, 7], np.int32)]).tables[:1])
    memory = m.merge([m.count([text]), received])
    at = memory.columns[0].keys.tolist().index(7)
    assert memory.columns[0].counts[at] == 4


def test_a_token_beyond_the_floor_is_refused():
    memory = m.count([np.array([1, VOCAB], np.int32)])
    assert m.distribution(memory, [], np.full(VOCAB + 1, 1 / (VOCAB + 1)))[0][VOCAB] > 0
    with pytest.raises(AssertionError):
        m.distribution(memory, [], FLOOR)


@given(texts, st.integers(0, VOCAB - 1))
def test_a_memory_of_nothing_leaves_the_floor(read, token):
    for memory in (m.Memory(()), m.count([])):
        assert np.array_equal(m.predict(memory, read, FLOOR).probability, FLOOR[read])
        p, order, total = m.distribution(memory, [token], FLOOR)
        assert (p.tolist(), order, total) == (FLOOR.tolist(), -1, 0)


@given(texts, texts)
@settings(max_examples=40)
def test_an_ngram_alone_reads_as_it_does_inside_a_text(learned, read):
    memory = m.Memory(m.count([learned]).tables[:3])
    alone = m.predict_grams(memory, m.pack(read, 2), 2, FLOOR)
    assert np.allclose(alone.probability, m.predict(memory, read, FLOOR).probability[2:], rtol=1e-12)


def order0(tokens, counts, total):
    columns = (tokens, np.uint64), (counts, np.uint32), ([0], np.uint64), ([total], np.uint32)
    return m.Memory((m.Table.of(*(np.array(values, kind) for values, kind in columns)),))


@pytest.mark.parametrize("total", [5, 9])
def test_a_context_whose_whole_total_was_taken_keeps_its_followers_and_owes_no_total(total):
    left = m.subtract(order0([5, 6], [3, 2], 5), order0([5, 6], [1, 2], total)).tables[0]
    assert (left.keys.tolist(), left.counts.tolist(), left.totals.tolist()) == ([5], [2], [0])


@given(texts, texts)
def test_what_was_taken_in_two_steps_adds_up_to_what_was_there(first, second):
    def named(memory):
        """What recurred, with whole totals: as a packet has it."""
        return m.Memory(tuple(m.Table.of(t.keys[t.counts > 1], t.counts[t.counts > 1], *t[2:4]) for t in memory.tables))

    one = named(m.count([first]))
    rest = m.merge([m.subtract(m.count([first]), one), m.count([second])])
    told = m.merge([one, rest])
    assert same(told, m.count([first, second]))


def test_unsent_mass_backs_off_to_the_lower_order():
    table = m.Table.of(
        *(np.array(x, t) for x, t in (([5], np.uint64), ([2], np.uint32), ([0], np.uint64), ([10], np.uint32)))
    )
    p, _, _ = m.distribution(m.Memory((table,)), [], FLOOR)
    assert np.isclose(p[5], (2 - m.DISCOUNT) / 10 + (8 + m.DISCOUNT) / 10 / VOCAB)


def test_a_total_below_its_counts_predicts_as_their_sum():
    assert m.distribution(order0([5, 6], [2, 3], 1), [], FLOOR)[0].tolist() == (
        m.distribution(order0([5, 6], [2, 3], 5), [], FLOOR)[0].tolist()
    )


@pytest.mark.parametrize("total", [0, 1, 4, 5, 6])
def test_a_total_below_at_or_above_its_counts_survives_its_bytes(total):
    memory = order0([5, 6], [2, 3], total)
    assert same(memory_file.from_bytes(memory_file.to_bytes(memory), VOCAB), memory)


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


@pytest.mark.parametrize(("size", "limit"), [(0, 1 << 20), (1 << 15, 1 << 20), (1 << 16, 1 << 21), (1 << 30, 1 << 28)])
def test_a_memory_unpacks_to_so_much_and_no_more(size, limit):
    assert memory_file.unpacked_most(size) == limit


def test_a_small_bomb_is_rejected_too():
    for zeros in ((1 << 20) + 1, 1 << 24):
        with pytest.raises(Rejected, match=f"{zeros} bytes decompressed; the limit is {1 << 20}"):
            memory_file.from_bytes(zstandard.ZstdCompressor().compress(bytes(zeros)), VOCAB)
    with pytest.raises(Rejected, match="not a memory"):
        memory_file.from_bytes(zstandard.ZstdCompressor().compress(bytes(1 << 20)), VOCAB)


def test_an_ngram_without_its_context_cannot_be_written():
    table = m.Table.of(
        *(np.array(x, t) for x, t in (([1 << 15 | 2], np.uint64), ([2], np.uint32), ([3], np.uint64), ([9], np.uint32)))
    )
    order0 = m.count([np.array([1, 2, 3], np.int32)]).tables[0]
    with pytest.raises(AssertionError, match="order 1: an n-gram without its context"):
        memory_file.to_bytes(m.Memory((order0, table)))


def test_a_context_whose_followers_are_all_unsent_survives_its_bytes():
    table = m.Table.of(
        *(np.array(x, t) for x, t in (([9], np.uint64), ([2], np.uint32), ([0, 3], np.uint64), ([5, 7], np.uint32)))
    )
    memory = m.Memory((m.count([np.array([1, 2, 3], np.int32)]).tables[0], table))
    assert same(memory_file.from_bytes(memory_file.to_bytes(memory), VOCAB), memory)


def _forged(change):
    memory = m.count([np.array([1, 2, 3, 1, 2, 4], np.int32)], orders=2)
    columns = {f"{n}.{k}": v for n, t in enumerate(memory.tables) for k, v in memory_file._columns(t, n).items()}
    change(columns)
    planes = {name: memory_file._planes(column) for name, column in columns.items()}
    return zstandard.ZstdCompressor().compress(safetensors.numpy.save(planes))


FORGERIES = {
    "more followers than n-grams": lambda c: c["1.followers"].__setitem__(0, 1 << 30),
    "fewer followers than n-grams": lambda c: c["1.followers"].__setitem__(0, 0),
    "a child too many in the trie": lambda c: c["1.0.children"].__setitem__(0, 9),
    "a count too few": lambda c: c.__setitem__("1.counts", c["1.counts"][1:]),
    "a total too many": lambda c: c.__setitem__("1.rest", np.append(c["1.rest"], 1)),
    "two contexts of order 0": lambda c: c.__setitem__("0.followers", np.array([4, 0])),
    "a column missing": lambda c: c.pop("1.rest"),
    "a fifth order": lambda c: [c.__setitem__(f"{order}.rest", c["1.rest"]) for order in (2, 3, 4)],
    "a column that nobody knows": lambda c: c.__setitem__("0.more", c["1.rest"]),
    "a count of 2^32": lambda c: c["1.counts"].__setitem__(0, (1 << 32) - 1),
    "a total short of more than its counts": lambda c: c.__setitem__("1.lack", c["1.rest"] + 9),
    "a lack too many": lambda c: c.__setitem__("1.lack", np.zeros(len(c["1.rest"]) + 1, np.int64)),
    "a total of 2^32": lambda c: c["1.rest"].__setitem__(0, (1 << 32) - 2),
}


@pytest.mark.parametrize("how", FORGERIES)
def test_a_trie_that_does_not_add_up_is_rejected(how):
    assert memory_file.from_bytes(_forged(lambda _: None), VOCAB).entries
    with pytest.raises(Rejected, match="bad_memory"):
        memory_file.from_bytes(_forged(FORGERIES[how]), VOCAB)


def test_ngrams_take_fewer_bytes_than_their_keys_would():
    ids = np.random.default_rng(0).zipf(1.3, 20_000).clip(1, VOCAB - 1).astype(np.int32)
    memory = m.count([ids])
    assert len(memory_file.to_bytes(memory)) < 3 * memory.entries


def test_a_copy_of_a_memory_or_of_its_kernel_predicts_from_columns_of_its_own(micro):
    kernel = micro.kernel("heart")
    again = copy.deepcopy(kernel)
    (one,), (other,) = kernel.memories, again.memories
    context, floor = [40, 41], kernel.floors()[0]
    expected = m.distribution(one, context, floor)
    assert not (one.addresses[0, :6] == other.addresses[0, :6]).any()
    assert not np.array_equal(kernel.addresses, again.addresses)
    del one, kernel
    assert np.array_equal(m.distribution(other, context, floor)[0], expected[0])
    assert same(pickle.loads(pickle.dumps(other)), other)
