"""A memory re-counted for new merges is the memory of the text encoded with them, as far as its n-grams reach."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.kernels import memory_file
from common.kernels.memory import Memory, Table, count, mask, predict, subtract
from common.kernels.recount import recount
from common.kernels.spec import ORDERS

VOCAB, EOS = 6, 0
TOKENS = st.integers(1, VOCAB - 1)
DOCUMENTS = st.lists(st.lists(TOKENS, max_size=60), min_size=1, max_size=4)
PAIRS = st.tuples(TOKENS, TOKENS)
UNEQUAL = PAIRS.filter(lambda pair: pair[0] != pair[1])


def merged(ids, pairs, first=VOCAB):
    """The tokens with one merge after the other made, as an encoder makes them: from the left. first: the id that the
    first pair becomes.
    """
    for number, pair in enumerate(pairs, first):
        out = []
        for token in ids:
            if out and (out[-1], token) == pair:
                out[-1] = number
            else:
                out.append(token)
        ids = out
    return ids


def remember(documents, orders=ORDERS):
    return count([np.array([*ids, EOS], np.int32) for ids in documents], orders)


def grams(keys, values, length):
    """Counts by tokens."""
    split = [tuple(key >> 15 * place & 32767 for place in range(length - 1, -1, -1)) for key in keys.tolist()]
    return dict(zip(split, values.tolist(), strict=True))


def reach(gram, pair):
    """How many old tokens must be known for this n-gram to be counted: its own, and the half that may stand beside."""
    return len(gram) + gram.count(VOCAB) + (gram[0] == pair[1]) + (gram[-1] == pair[0])


@given(DOCUMENTS, UNEQUAL)
def test_counts_are_those_of_the_text_encoded_anew_as_far_as_n_grams_reach(documents, pair):
    anew = recount(remember(documents), [pair], VOCAB)
    true = remember([merged(ids, [pair]) for ids in documents])
    for order, (one, other) in enumerate(zip(anew.tables, true.tables, strict=True)):
        found, wanted = grams(one.keys, one.counts, order + 1), grams(other.keys, other.counts, order + 1)
        for gram in found.keys() | wanted.keys():
            if reach(gram, pair) <= ORDERS:
                assert found.get(gram, 0) == wanted.get(gram, 0), gram
        if order:
            found, wanted = grams(one.contexts, one.totals, order), grams(other.contexts, other.totals, order)
            for gram in found.keys() | wanted.keys():
                if reach(gram, pair) < ORDERS:
                    assert found.get(gram, 0) == wanted.get(gram, 0), gram


@given(DOCUMENTS, st.lists(UNEQUAL, min_size=1, max_size=3, unique=True))
def test_single_tokens_and_their_number_are_exact_after_several_merges(documents, pairs):
    anew = recount(remember(documents), pairs, VOCAB).tables[0]
    true = remember([merged(ids, pairs) for ids in documents]).tables[0]
    assert anew.keys.tolist() == true.keys.tolist()
    assert anew.counts.tolist() == true.counts.tolist()
    assert anew.totals.tolist() == true.totals.tolist()


@given(DOCUMENTS, st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=5), st.integers(1, 4))
def test_a_memory_counted_anew_growth_by_growth_is_that_of_all_growths_at_once(documents, drawn, cut):
    pairs = [(1 + left % (VOCAB - 1 + n), 1 + right % (VOCAB - 1 + n)) for n, (left, right) in enumerate(drawn)]
    known = remember(documents, 3)
    once = recount(known, pairs, VOCAB)
    twice = recount(recount(known, pairs[:cut], VOCAB), pairs[cut:], VOCAB + min(cut, len(pairs)))
    assert memory_file.to_bytes(twice) == memory_file.to_bytes(once)


@given(DOCUMENTS, st.lists(UNEQUAL, min_size=1, max_size=4, unique=True))
def test_merges_taken_at_once_give_the_same_tokens_and_at_most_a_few_other_longer_n_grams(documents, pairs):
    known = remember(documents)
    one, other = recount(known, pairs, VOCAB), recount(known, pairs, VOCAB, at_once=True)
    assert one.tables[0].keys.tolist() == other.tables[0].keys.tolist()
    assert one.tables[0].counts.tolist() == other.tables[0].counts.tolist()
    for order in range(1, ORDERS):
        found = [grams(each.tables[order].keys, each.tables[order].counts, order + 1) for each in (one, other)]
        apart = sum(abs(found[0].get(gram, 0) - found[1].get(gram, 0)) for gram in found[0].keys() | found[1].keys())
        assert apart <= 0.1 * sum(found[0].values()) + 4


@given(DOCUMENTS, TOKENS)
def test_a_token_merged_with_itself_is_counted_too_often_in_runs_and_never_too_seldom(documents, token):
    anew = recount(remember(documents), [(token, token)], VOCAB).tables[0]
    true = remember([merged(ids, [(token, token)]) for ids in documents]).tables[0]
    pairs = sum(one == other == token for ids in documents for one, other in pairwise(ids))
    found, wanted = grams(anew.keys, anew.counts, 1), grams(true.keys, true.counts, 1)
    assert wanted.get((VOCAB,), 0) <= found.get((VOCAB,), 0) <= pairs


@given(DOCUMENTS, st.lists(PAIRS, min_size=1, max_size=4, unique=True), st.randoms(use_true_random=False))
def test_whatever_the_memory_lacks_it_stays_one(documents, pairs, random):
    whole = remember(documents)
    tables = []
    for order, table in enumerate(whole.tables):  # pruned at random: totals keep what is gone
        keep = np.array([order == 0 or random.random() < 0.7 for _ in table.keys], bool)
        tables.append(Table.of(table.keys[keep], table.counts[keep], table.contexts, table.totals))
    anew = recount(Memory(tuple(tables)), pairs, VOCAB)
    vocab = VOCAB + len(pairs)
    assert memory_file.to_bytes(memory_file.from_bytes(memory_file.to_bytes(anew), vocab)) == memory_file.to_bytes(anew)
    text = np.array([*merged(documents[0], pairs), EOS], np.int32)
    p = predict(anew, text, np.full(vocab, 1 / vocab)).probability
    assert np.isfinite(p).all()
    assert (p > 0).all()
    for order in range(2, len(anew.tables)):
        contexts = anew.tables[order].contexts
        known = np.isin(contexts, whole.tables[order].contexts) | (contexts >= VOCAB)
        assert known.all()


def test_what_was_pruned_moves_with_what_the_memory_expects():
    """A follower that was not worth keeping, because the shorter context tells it, is still merged with its like."""
    whole = remember([[1, 2, 3, 4, 1, 2, 3, 5] * 20])
    two = whole.tables[2]
    keep = (two.keys & mask(0)) != 3  # of (1 2): 3
    contexts = np.unique(two.keys[keep] >> np.uint64(15))
    pruned = two._replace()
    pruned = Table.of(two.keys[keep], two.counts[keep], contexts, two.totals[np.isin(two.contexts, contexts)])
    anew = recount(Memory((whole.tables[0], whole.tables[1], pruned)), [(2, 3)], VOCAB)
    assert grams(anew.tables[1].keys, anew.tables[1].counts, 2)[1, VOCAB] == 40
    assert (1, 2) not in grams(anew.tables[1].keys, anew.tables[1].counts, 2)


def test_the_order_of_merges_that_share_a_token_is_the_encoder_s():
    text = [[1, 2, 3] * 5]
    first, second = recount(remember(text), [(1, 2), (2, 3)], VOCAB), recount(remember(text), [(2, 3), (1, 2)], VOCAB)
    assert grams(first.tables[0].keys, first.tables[0].counts, 1) == {(EOS,): 1, (3,): 5, (VOCAB,): 5}
    assert grams(second.tables[0].keys, second.tables[0].counts, 1) == {(EOS,): 1, (1,): 5, (VOCAB,): 5}


def test_a_merge_of_what_a_merge_made_is_counted_too():
    anew = recount(remember([[1, 2, 3] * 5]), [(1, 2), (VOCAB, 3)], VOCAB)
    assert grams(anew.tables[0].keys, anew.tables[0].counts, 1) == {(EOS,): 1, (VOCAB + 1,): 5}


def test_a_text_can_be_taken_out_of_what_it_was_counted_into_before():
    """Exactly, as far as n-grams reach: single tokens of a residue of three orders."""
    one, other = [1, 2, 3, 1, 2, 4], [2, 1, 2, 3, 4]
    anew = recount(remember([one, other], 3), [(1, 2)], VOCAB)
    left = subtract(anew, remember([merged(one, [(1, 2)])], 3))
    assert grams(left.tables[0].keys, left.tables[0].counts, 1) == {(EOS,): 1, (2,): 1, (VOCAB,): 1, (3,): 1, (4,): 1}


@pytest.mark.parametrize("orders", [1, 3, 4])
def test_no_merge_and_an_empty_memory_change_nothing(orders):
    some = remember([[1, 2, 3]], orders)
    assert memory_file.to_bytes(recount(some, [], VOCAB)) == memory_file.to_bytes(some)
    empty = count([], orders)
    assert recount(empty, [(1, 2)], VOCAB).entries == 0
