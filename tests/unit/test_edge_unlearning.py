import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from common.kernels import memory_file
from common.kernels.memory import Memory, Table, count, merge, subtract
from services.edge.answer import Interaction, Serving
from services.edge.balance import EMPTY, Balance
from services.edge.learning import fold_domain, forget, forget_all, judge, judge_all
from services.edge.record import Packet, Record
from services.edge.unlearning import unlearn

SENTENCES = ["the king spake ", "unto the people ", "and the people answered ", "the king. ", "O sing ", "é"]
TEXTS = st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=6).map("".join)
IDS = st.lists(st.integers(0, 4), max_size=12).map(lambda ids: np.array(ids, np.int32))


def counted(*texts):
    return count(texts, 3)


def packet(sequence=0, counts=None, raw=None, status="sent"):
    return Packet(sequence, "heart", status, 0.0, 1, b"", b"", b"", counts or counted(), raw)


def same(one, other):
    return memory_file.to_bytes(one) == memory_file.to_bytes(other)


def part_of(memory, mask):
    """Some n-grams of a memory with their full counts, whole tables of their own."""
    kept = [np.resize(mask, len(table.keys)) for table in memory.tables]
    return Memory(
        tuple(Table.complete(t.keys[keep], t.counts[keep]) for t, keep in zip(memory.tables, kept, strict=True))
    )


@given(text=IDS, others=st.lists(IDS, max_size=4))
def test_counts_that_never_left_are_taken_back_bit_for_bit(text, others):
    undone = unlearn(text, Balance(counted(text, *others)), [], [], own=0)
    assert same(undone.balance.residue, counted(*others))
    assert same(undone.taken, counted(text))


@given(text=IDS, before=st.lists(IDS, max_size=3), beside=st.lists(IDS, max_size=3))
def test_a_withdrawn_fold_leaves_the_residue_that_it_found(text, before, beside):
    undone = unlearn(text, Balance(counted(text, *before, *beside)), [packet()], beside, own=0)
    assert same(undone.balance.residue, counted(*before))
    assert (undone.withdrawn, undone.left) == ((0,), ())


@given(text=IDS, others=st.lists(IDS, max_size=4), mask=st.lists(st.booleans(), min_size=1, max_size=9))
def test_after_a_packet_was_taken_it_is_as_if_the_packet_had_been_taken_without_the_text(text, others, mask):
    carried = part_of(counted(text, *others), np.array(mask))
    balance = Balance(subtract(counted(text, *others), carried))
    undone = unlearn(text, balance, [packet(counts=carried, raw=b"r")], [], own=0)
    assert same(undone.balance.residue, subtract(counted(*others), carried))


@given(text=IDS, residue=st.lists(IDS, max_size=4))
def test_what_was_taken_gives_the_residue_back_exactly(text, residue):
    undone = unlearn(text, Balance(counted(*residue)), [], [], own=0)
    assert same(merge([undone.balance.residue, undone.taken]), counted(*residue))


def test_packets_that_left_are_named_with_the_n_grams_they_carry():
    text = np.array([1, 2], np.int32)
    packets = [
        packet(3, counted(np.array([9], np.int32)), b"r"),
        packet(4, counted(np.array([8], np.int32)), b"r", "lost"),
        packet(5, counted(text), b"r", "acknowledged"),
        packet(6, counted(text)),
    ]
    undone = unlearn(text, Balance(counted(text)), packets, [], own=3)
    assert [(left.sequence, left.status, left.ngrams) for left in undone.left] == [
        (3, "sent", 0),
        (5, "acknowledged", 3),
    ]
    assert undone.withdrawn == (6,)


# With a record and real folds


class Life:
    """An edge's record that reads and folds; what leaves is up to the test."""

    def __init__(self, micro, folder):
        self.record = Record(Path(folder) / "edge.db", now_s=1.0)
        self.serving = Serving(micro, 4, "cd" * 32, "node-1")

    def read(self, name, text, domain="heart"):
        ids = self.serving.constellation.encoder.encode(text)
        basin = self.serving.constellation.basin(ids)
        size = len(text.encode())
        read = Interaction(name, "c", text, 1.0, domain, basin, len(ids), size, 1.0, 55.0, "CRYSTAL")
        self.record.texts.add(read, b"answer", probe=False)

    def fold(self, domain="heart"):
        if self.record.texts.unfolded(domain):
            fold_domain(self.record, self.serving, domain, gauges={}, crystal_bytes=300, now_s=2.0)

    def leave(self):
        for each in self.record.packets("pending"):
            self.record.leaving(each.sequence, b"raw")

    @property
    def residue(self):
        return memory_file.to_bytes(self.record.residue("heart"))

    @property
    def packet(self):
        return [replace(each, counts=None).body for each in self.record.packets("pending")][-1:]


def lived(micro, folder, days, without=None):
    """Each day some texts are read, then folded."""
    life = Life(micro, folder)
    for day, texts in enumerate(days):
        for number, text in enumerate(texts):
            if (day, number) != without:
                life.read(f"{day}-{number}", text)
        life.fold()
    return life


@settings(max_examples=25)
@given(days=st.lists(st.lists(TEXTS, min_size=1, max_size=3), min_size=1, max_size=3), data=st.data())
def test_a_record_that_forgot_is_a_record_that_never_knew(micro, days, data):
    day = data.draw(st.integers(0, len(days) - 1))
    gone = (day, data.draw(st.integers(0, len(days[day]) - 1)))
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        knew, never = lived(micro, one, days), lived(micro, other, days, without=gone)
        done = forget(knew.record, "c", f"{gone[0]}-{gone[1]}")
        waited = len(knew.record.texts.unfolded("heart"))
        knew.fold()
        assert knew.residue == never.residue
        assert knew.record.texts.answer_to("c", f"{gone[0]}-{gone[1]}") is None
        knew.record.close()
        never.record.close()
    assert (done.counts, done.left) == ("taken", ())
    assert list(done.withdrawn) == list(range(day, len(days)))
    assert waited == sum(map(len, days[day:])) - 1


def test_the_packet_is_made_anew_as_if_the_text_had_never_come(micro, tmp_path):
    days = [["the king spake unto the people. " * 2, "the people answered the king. " * 2, "O sing again. "]]
    knew, never = lived(micro, tmp_path / "a", days), lived(micro, tmp_path / "b", days, without=(0, 1))
    forget(knew.record, "c", "0-1")
    knew.fold()
    assert knew.packet == never.packet
    knew.record.close()
    never.record.close()


def test_what_left_is_named_and_the_rest_is_taken(micro, tmp_path):
    life = lived(micro, tmp_path, [["the king and the king. " * 3], ["O sing again. "]])
    life.leave()
    done = forget(life.record, "c", "0-0")
    assert [(left.sequence, left.ngrams > 0) for left in done.left] == [(0, True), (1, True)]
    assert (done.counts, done.withdrawn) == ("taken", ())
    ids = life.serving.constellation.encoder.encode("O sing again. ")
    assert life.residue == memory_file.to_bytes(counted(ids))
    life.record.close()


def test_a_text_of_new_territory_is_forgotten_in_the_domain_that_was_opened_for_it(micro, tmp_path):
    life = Life(micro, tmp_path)
    for number, text in enumerate(["the king spake. ", "unto the people. "]):
        life.read(str(number), text, None)
    life.fold(None)
    life.leave()
    record = life.record
    balances = {None: EMPTY, "scripture": record.balance(None)}
    record.settle([0], balances, {}, opened="scripture", cursor="1-0", at_s=3.0)
    done = forget(record, "c", "0")
    ids = micro.encoder.encode("unto the people. ")
    assert same(record.residue("scripture"), counted(ids))
    assert [(left.sequence, left.status) for left in done.left] == [(0, "acknowledged")]
    record.close()


def test_what_waits_or_is_probe_text_has_no_counts_and_an_unknown_name_is_none(micro, tmp_path):
    life = Life(micro, tmp_path)
    life.read("q", "the king")
    assert forget(life.record, "c", "other") is None
    assert forget(life.record, "d", "q") is None
    assert forget(life.record, "c", "q").counts == "none"
    assert forget(life.record, "c", "q") is None
    life.record.close()


def test_several_texts_are_forgotten_as_one_by_one_and_told_of_together(micro, tmp_path):
    days = [["the king and the king. " * 3, "the people and the people. " * 3], ["O sing again. " * 3]]
    together, singly = (lived(micro, tmp_path / name, days) for name in "ab")
    for life in (together, singly):
        life.leave()
        life.read("waits", "the king")
    names = ["0-0", "nobody", "waits", "0-1"]
    done = forget_all(together.record, "c", names)
    each = [one for name in names if (one := forget(singly.record, "c", name))]
    assert together.residue == singly.residue
    assert [one.counts for one in each] == ["taken", "none", "taken"]
    assert (done.counts, [left.sequence for left in done.left]) == ("taken", [0, 1])
    assert done.left[0].ngrams == sum(one.left[0].ngrams for one in each if one.left) > 0
    assert forget_all(together.record, "c", names) is None
    together.record.close()
    singly.record.close()


def test_packets_that_are_made_anew_are_named_once_however_many_texts_go(micro, tmp_path):
    days = [["the king spake. ", "unto the people. "], ["and the people answered. "]]
    life = lived(micro, tmp_path, days)
    assert forget_all(life.record, "c", ["0-0", "0-1"]).withdrawn == (0, 1)
    life.record.close()


# Verdicts


def test_a_rejected_text_that_had_not_left_is_as_if_it_had_never_come_and_comes_back(micro, tmp_path):
    days = [["the king spake. ", "unto the people. "], ["and the people answered. "]]
    knew, never = lived(micro, tmp_path / "a", days), lived(micro, tmp_path / "b", days, without=(0, 0))
    whole = knew.residue
    assert judge(knew.record, "c", "0-0", "rejected")
    knew.fold()
    assert knew.residue == never.residue
    assert judge(knew.record, "c", "0-0", None)
    knew.fold()
    assert knew.residue == whole
    knew.record.close()
    never.record.close()


def test_a_rejection_that_is_taken_back_after_the_packet_left_restores_every_count(micro, tmp_path):
    life = lived(micro, tmp_path, [["the king and the king. "], ["the king. "]])
    life.leave()
    whole = life.residue
    for _ in range(2):
        judge(life.record, "c", "0-0", "rejected")
        judge(life.record, "c", "0-0", "rejected")
    without = life.residue
    judge(life.record, "c", "0-0", "accepted")
    assert life.residue == whole != without
    assert life.record.texts.fresh() == []
    assert life.record.texts.accepted("heart") == ["the king and the king. "]
    life.record.close()


def test_forgetting_a_rejected_text_takes_nothing_twice(micro, tmp_path):
    life = lived(micro, tmp_path, [["the king and the king. ", "the king. "]])
    life.leave()
    judge(life.record, "c", "0-0", "rejected")
    before = life.residue
    assert forget(life.record, "c", "0-0").counts == "taken"
    assert life.residue == before
    life.record.close()


def test_several_texts_are_judged_at_once(micro, tmp_path):
    life = Life(micro, tmp_path)
    for name in "abc":
        life.read(name, "the king")
    assert judge_all(life.record, "c", ["a", "nobody", "b"], "rejected")
    assert not judge_all(life.record, "c", ["nobody"], "rejected")
    assert [life.record.texts.find("c", name).verdict for name in "abc"] == ["rejected", "rejected", None]
    life.record.close()


def test_nobody_can_judge_what_is_not_kept(micro, tmp_path):
    life = Life(micro, tmp_path)
    assert not judge(life.record, "c", "q", "accepted")
    life.record.close()
