from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.constellation.priors import prior_of
from common.kernels import memory_file
from common.kernels.memory import Memory, Table, count, merge, subtract
from common.wire import crystals as codec
from common.wire.messages import PacketRef
from services.edge.answer import Interaction
from services.edge.balance import EMPTY, NOTHING, Balance, bounded, total
from services.edge.record import Packet, Record
from services.edge.sleep import fold, settle
from services.edge.unlearning import unlearn

IDS = st.lists(st.integers(0, 4), min_size=1, max_size=12).map(lambda ids: np.array(ids, np.int32))
COUNTS = st.lists(IDS, max_size=3).map(lambda texts: count(texts, 3))
STEPS = st.lists(st.tuples(st.sampled_from(["seen", "told"]), COUNTS), max_size=6)
SENTENCES = ["the king spake ", "unto the people ", "and the people answered ", "the king. ", "O sing unto the king "]
TEXTS = st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=12).map("".join)
KEY = b"k" * 8


def same(one, other):
    return memory_file.to_bytes(one) == memory_file.to_bytes(other)


def alike(one, other):
    """Two books that say the same."""
    return same(one.residue, other.residue) and same(one.owed, other.owed)


def columns(memory):
    """Every count and every total by order and name, but for those of 0."""
    tables = enumerate(memory.tables)
    pairs = [((n, "count", t.keys, t.counts), (n, "total", t.contexts, t.totals)) for n, t in tables]
    return {
        (n, what, name): value
        for n, what, names, values in (one for both in pairs for one in both)
        for name, value in zip(names.tolist(), values.tolist(), strict=True)
        if value
    }


def after(steps, balance=EMPTY):
    for step, counts in steps:
        balance = getattr(balance, step)(counts)
    return balance


def summed(steps, wanted):
    return merge([NOTHING, *(counts for step, counts in steps if step == wanted)])


@given(steps=STEPS)
def test_what_was_seen_and_is_owed_is_what_was_told_and_is_left(steps):
    balance = after(steps)
    assert columns(merge([summed(steps, "seen"), balance.owed])) == columns(
        merge([summed(steps, "told"), balance.residue])
    )


@given(steps=STEPS)
def test_nothing_is_both_left_and_owed(steps):
    balance = after(steps)
    assert not columns(balance.residue).keys() & columns(balance.owed).keys()


@given(steps=STEPS, data=st.data())
def test_the_books_do_not_depend_on_what_came_first(steps, data):
    one, other = after(steps), after(data.draw(st.permutations(steps)))
    assert columns(one.residue) == columns(other.residue)
    assert columns(one.owed) == columns(other.owed)


@given(one=STEPS, other=STEPS)
def test_the_books_of_two_are_those_of_one_that_took_the_steps_of_both(one, other):
    both, alone = total([after(one), after(other)]), after([*one, *other])
    assert columns(both.residue) == columns(alone.residue)
    assert columns(both.owed) == columns(alone.owed)


@given(steps=STEPS, text=IDS, beside=st.lists(IDS, max_size=2))
def test_a_text_that_never_left_is_taken_out_with_what_it_had_paid(steps, text, beside):
    before = after(steps)
    waits = Packet(0, "heart", "pending", 0.0, 1, b"", b"", b"", NOTHING, None)
    undone = unlearn(text, before.seen(count([text, *beside], 3)), [waits], beside, own=0).balance
    assert columns(undone.residue) == columns(before.residue)
    assert columns(undone.owed) == columns(before.owed)


@given(steps=STEPS, text=IDS)
def test_a_text_whose_packet_left_leaves_nothing_among_what_is_owed(steps, text):
    before = after(steps)
    gone = Packet(0, "heart", "acknowledged", 0.0, 1, b"", b"", b"", NOTHING, b"raw")
    undone = unlearn(text, before, [gone], [], own=0).balance
    assert same(undone.owed, before.owed)
    assert same(undone.residue, subtract(before.residue, count([text], 3)))


# Its size


def owing(*amounts):
    keys = np.arange(len(amounts), dtype=np.uint64)
    empty = Table.counted(keys[:0])
    return Memory((Table.complete(keys, np.array(amounts, np.uint32)), empty, empty))


@pytest.mark.parametrize(("limit", "kept"), [(3, [3, 2]), (4, [3, 2]), (5, [3, 2, 1, 1]), (6, [3, 2, 1, 1])])
def test_above_its_size_the_smallest_of_what_is_owed_is_forgiven(limit, kept):
    """Four counts and a total."""
    found = bounded(replace(EMPTY, owed=owing(1, 3, 1, 2)), owed_max=limit).owed
    assert sorted(found.tables[0].counts.tolist(), reverse=True) == kept
    assert found.tables[0].totals.tolist() == [7]


def test_what_is_owed_is_kept_across_restarts_and_goes_when_it_is_paid(tmp_path):
    counts = count([np.array([1, 2, 3], np.int32)], 3)
    record = Record(tmp_path / "edge.db", now_s=1.0)
    record.settle([], {"heart": EMPTY.told(counts), None: EMPTY.seen(counts)}, {}, cursor=None, at_s=1.0)
    record.close()
    again = Record(tmp_path / "edge.db", now_s=2.0)
    assert alike(again.balance("heart"), Balance(NOTHING, counts))
    assert alike(again.balance(None), Balance(counts))
    again.settle([], {"heart": again.balance("heart").seen(counts)}, {}, cursor=None, at_s=1.0)
    assert list(again.balances()) == [None]
    again.close()


# With real folds


class Told:
    """An edge whose packets are all taken: what it has seen, and what the centre was told."""

    def __init__(self, micro):
        self.micro, self.balance, self.seen, self.told = micro, EMPTY, NOTHING, NOTHING

    def sleep(self, text, turn, crystal_bytes=150):
        ids = self.micro.encoder.encode(text)
        read = Interaction("q", "c", text, 1.0, "heart", self.micro.basin(ids), len(ids), len(text), 9.0, None, None)
        done = fold(self.micro, "heart", [read], self.balance, crystal_bytes=crystal_bytes, phi={}, turn=turn)
        packet = Packet(turn, "heart", "sent", 0.0, 1, b"", done.body.basin, b"", done.carried)
        named = [PacketRef(key=KEY, epoch=1, sequence=turn)]
        books = {"heart": done.balance}
        settled = settle(self.micro, named, own=(KEY, 1), packets=[packet], balances=books, waiting=[])
        self.seen = merge([self.seen, count(done.ids, 3)])
        self.told = merge([self.told, done.carried])
        self.balance = settled.balances["heart"]
        return done


@settings(max_examples=20)
@given(texts=st.lists(TEXTS, min_size=1, max_size=5))
def test_after_any_folds_the_centre_was_told_what_was_seen_and_what_is_owed(micro, texts):
    edge = Told(micro)
    for turn, text in enumerate(texts):
        edge.sleep(text, turn)
        assert columns(merge([edge.told, edge.balance.residue])) == columns(merge([edge.seen, edge.balance.owed]))
    assert edge.balance.owed.tables[2].keys.tolist() == []


@settings(max_examples=20)
@given(texts=st.lists(TEXTS, min_size=2, max_size=6))
def test_nothing_that_is_owed_is_named_and_nothing_is_named_more_often_than_is_left_of_it(micro, texts):
    edge = Told(micro)
    for turn, text in enumerate(texts):
        owed, done = columns(edge.balance.owed), edge.sleep(text, turn)
        fresh, left = columns(count(done.ids, 3)), columns(done.balance.residue)
        for n, order in enumerate(named(micro, done).orders):
            for key, times in zip(order.keys.tolist(), order.counts.tolist(), strict=True):
                gram = (n, "count", key)
                assert times <= left[gram]
                assert owed.get(gram, 0) < fresh.get(gram, 0) or gram not in owed


def test_what_later_triples_imply_again_is_paid_before_its_pair_is_named_again(micro):
    edge, owed = Told(micro), []
    for turn in range(6):
        edge.sleep("".join(SENTENCES) * 2, turn, crystal_bytes=60)
        owed.append(edge.balance.owed)
    before, pair = next((one, key) for one in owed for key in one.tables[1].keys.tolist())
    assert columns(before)[1, "count", pair] > 0
    fresh = count([micro.encoder.encode("".join(SENTENCES) * 40)], 3)
    assert (1, "count", pair) not in columns(edge.balance.seen(fresh).owed)


def named(micro, done):
    prior = prior_of([micro.memories["heart"]], 320)
    return codec.decode(done.body.crystals, 320, 4096, prior=prior)
