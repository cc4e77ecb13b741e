"""A domain that has ended leaves nothing behind on an edge: its heir has all of it, once."""

import shutil
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_edge_learning import KEY, TEXT, bundle_naming, folded, read, settled

from common.kernels.memory import count, merge, subtract
from common.wire.messages import PacketRef
from services.edge.answer import Serving
from services.edge.learning import due_domains, forget, give_up, judge, rehome, relearned, take_back
from services.edge.record import ORDERS, Record
from services.edge.sleep import LOST_AFTER_S, Rhythm

RHYTHM = Rhythm(after_bytes=1000, idle_s=5.0, max_s=3600.0)
OPENED = ("d-1", "d-2", "d-3")


def with_domains(micro, living, formerly=None):
    """HEART's constellation with these opened domains; formerly: names by the heir that bears them."""
    borne = formerly or {}
    heart = micro.domains["heart"]
    opened = {
        name: heart.model_copy(
            update={
                "name": name,
                "memories": ("heart", name),
                "gate": tuple(map(tuple, np.full((33, 3), 1 / 3).tolist())),
                "formerly": tuple(borne.get(name, ())),
            }
        )
        for name in living
    }
    roles = {
        name: each.model_copy(update={"formerly": tuple(borne.get(name, ()))}) for name, each in micro.domains.items()
    }
    memories = {**micro.memories, **{name: count([], ORDERS) for name in living}}
    return replace(micro, memories=memories, domains={**roles, **opened})


def at(constellation, version=4):
    return Serving(constellation, version, f"{version:02d}" * 32, "node-1")


def before(micro):
    return at(with_domains(micro, ("d-1", "d-2")))


def after(micro, heir="d-1", version=5):
    living = ("d-1",) if heir == "d-1" else ("d-1", "d-3")
    return at(with_domains(micro, living, {heir: ("d-2",)}), version)


def alike(one, other):
    return all(
        np.array_equal(a.keys, b.keys) and np.array_equal(a.counts, b.counts) and np.array_equal(a.totals, b.totals)
        for a, b in zip(one.tables, other.tables, strict=True)
    )


def test_residues_add_exactly_and_the_old_name_is_gone(record, micro):
    read(record, micro, "d-1", 3)
    read(record, micro, "d-2", 5)
    for name in ("d-1", "d-2"):
        folded(record, before(micro), name)
    wanted = merge([record.residue("d-1"), record.residue("d-2")])
    assert rehome(record, after(micro)) == ["d-1"]
    assert alike(record.residue("d-1"), wanted)
    assert set(record.balances()) == {"d-1"}
    assert record.domains() == ["d-1"]


def test_doing_it_twice_is_doing_it_once(record, micro):
    read(record, micro, "d-2", 5)
    folded(record, before(micro), "d-2")
    rehome(record, after(micro))
    residue = record.residue("d-1")
    assert rehome(record, after(micro)) == []
    assert alike(record.residue("d-1"), residue)


def test_text_that_waits_is_due_under_the_heir_s_name(record, micro):
    read(record, micro, "d-2", 5)
    assert due_domains(record, after(micro), RHYTHM, asked_s=0.0, now_s=9e9) == []
    rehome(record, after(micro))
    assert due_domains(record, after(micro), RHYTHM, asked_s=0.0, now_s=9e9) == ["d-1"]


@pytest.mark.parametrize("status", ["pending", "sent", "lost"])
def test_a_packet_under_the_old_name_is_settled_out_of_the_heir_s_residue(record, micro, status):
    read(record, micro, "d-2", 5)
    folded(record, before(micro), "d-2")
    if status != "pending":
        record.leaving(0, b"raw")
        record.sent(0, b"raw", at_s=1.0)
    if status == "lost":
        record.lose([0], at_s=2.0)
    (packet,) = record.packets(status)
    wanted = subtract(record.residue("d-2"), packet.counts)
    rehome(record, after(micro))
    assert settled(record, after(micro), bundle_naming(0)) == (0,)
    assert alike(record.residue("d-1"), wanted)


def test_settled_first_and_moved_then_is_the_same(record, micro):
    read(record, micro, "d-2", 5)
    folded(record, before(micro), "d-2")
    wanted = subtract(record.residue("d-2"), record.packets("pending")[0].counts)
    settled(record, after(micro), bundle_naming(0))
    rehome(record, after(micro))
    assert alike(record.residue("d-1"), wanted)


def test_a_heir_with_a_packet_away_sends_none_before_it_is_settled(record, micro):
    read(record, micro, "d-2", 5)
    folded(record, before(micro), "d-2")
    rehome(record, after(micro))
    read(record, micro, "d-1", 9)
    assert due_domains(record, after(micro), RHYTHM, asked_s=0.0, now_s=9e9) == []


@pytest.mark.parametrize("own", [True, False])
def test_the_gate_goes_with_it_where_the_heir_has_none(record, micro, own):
    read(record, micro, "d-2", 5)
    folded(record, before(micro), "d-2")
    if own:
        read(record, micro, "d-1", 2)
        folded(record, before(micro), "d-1")
    kept = record.tuned("d-1" if own else "d-2").gate
    rehome(record, after(micro))
    assert record.tuned("d-2") is None
    assert np.array_equal(record.tuned("d-1").gate, kept)


def test_a_gate_of_other_experts_does_not_answer_for_a_role(record, micro):
    read(record, micro, "d-2", 5)
    folded(record, before(micro), "d-2")
    serving = after(micro, heir="heart")
    rehome(record, serving)
    local = relearned(record, serving).answering
    assert local.domains["heart"].gate == serving.constellation.domains["heart"].gate
    assert local.memories["heart"].tokens > serving.constellation.memories["heart"].tokens


@pytest.mark.parametrize("left", [True, False])
def test_a_text_counted_under_the_old_name_is_forgotten_exactly_while_it_has_not_left(record, micro, left):
    read(record, micro, "d-1", 3)
    folded(record, before(micro), "d-1")
    other = record.residue("d-1")
    read(record, micro, "d-2", 1)
    folded(record, before(micro), "d-2")
    if left:
        record.leaving(1, b"raw")
    rehome(record, after(micro))
    gone = forget(record, "c", "d-20")
    assert gone.counts == "taken"
    assert [each.sequence for each in gone.left] == ([1] if left else [])
    assert alike(record.residue("d-1"), other)


def test_a_text_rejected_before_and_not_after_is_counted_once(record, micro):
    read(record, micro, "d-2", 3)
    folded(record, before(micro), "d-2")
    record.leaving(0, b"raw")
    whole = record.residue("d-2")
    judge(record, "c", "d-20", "rejected")
    rehome(record, after(micro))
    judge(record, "c", "d-20", None)
    assert alike(record.residue("d-1"), whole)


def test_a_name_that_nobody_bears_any_more_goes_to_the_nearest_domain(record, micro):
    read(record, micro, "d-2", 5)
    folded(record, before(micro), "d-2")
    wanted = record.residue("d-2")
    (nearest,) = rehome(record, at(micro, 5))
    ids = micro.encoder.encode(TEXT)
    assert nearest == micro.route(micro.basin(ids)).steps[0].name
    assert alike(record.residue(nearest), wanted)


@pytest.mark.parametrize(("version", "waits"), [(3, True), (4, False), (5, False)])
def test_what_only_a_newer_bundle_knows_waits_for_it(record, micro, version, waits):
    read(record, micro, "d-2", 5)
    folded(record, before(micro), "d-2")
    assert (rehome(record, at(micro, version)) == []) is waits


def test_new_territory_has_no_name_to_lose(record, micro):
    read(record, micro, None, 5)
    folded(record, before(micro), None)
    assert rehome(record, after(micro)) == []
    assert record.residue(None).entries


class Diary:
    """An edge's record through any steps, with what must be true of its counts."""

    def __init__(self, path, micro):
        self.path, self.micro, self.version = path, micro, 4
        self.record, self.now_s = Record(path, now_s=1000.0), 1.0
        self.living, self.formerly = list(OPENED), {}
        self.texts, self.counted, self.settled = 0, [], []
        self.centre = {}  # the counts of each packet that may still come in a bundle, whatever the edge believes

    @property
    def serving(self):
        return at(with_domains(self.micro, self.living, self.formerly), self.version)

    def step(self, what, number):
        getattr(self, what)(number)
        held = [each.residue for each in self.record.balances().values() if each.residue.entries]
        found, wanted = merge([*held, *self.settled, count([], ORDERS)]), merge([*self.counted, count([], ORDERS)])
        for table, expected in zip(found.tables, wanted.tables, strict=True):
            assert np.array_equal(table.keys, expected.keys)
            assert np.array_equal(table.counts, expected.counts)

    def read(self, number):
        name = OPENED[number % len(OPENED)]  # gone or not: a query may have begun under the bundle before
        read(self.record, self.micro, name, 2 + number % 2, first=self.texts)
        self.texts += 3

    def fold(self, number):
        self.move(number)
        away = {packet.domain for packet in self.record.packets("pending", "sent")}
        waiting = [each.domain for each in self.record.texts.fresh() if each.domain not in away]
        if not waiting:
            return
        name = waiting[number % len(waiting)]
        texts = [each.text for _, each in self.record.texts.unfolded(name)]
        folded(self.record, self.serving, name)
        self.counted.append(count([self.micro.encoder.encode(text) for text in texts], ORDERS))

    def send(self, number):
        for packet in self.record.packets("pending")[: 1 + number % 2]:
            self.record.leaving(packet.sequence, b"raw")
            self.record.sent(packet.sequence, b"raw", at_s=self.now_s)
            self.centre[packet.sequence] = packet.counts

    def settle(self, number):
        for sequence in list(self.centre)[: 1 + number % 3]:
            settled(self.record, self.serving, bundle_naming(sequence))
            self.settled.append(self.centre.pop(sequence))

    def wait(self, _number):
        """The centre takes its time; what it holds may come in a bundle later."""
        self.now_s += 7200.0
        give_up(self.record, now_s=self.now_s)

    def give_back(self, number):
        for sequence in list(self.centre)[: 1 + number % 2]:
            ref = PacketRef(key=KEY, epoch=self.record.epoch, sequence=sequence)
            take_back(self.record, [ref], key=KEY, entry_id="7-0", now_s=self.now_s)
            del self.centre[sequence]

    def end(self, number):
        if len(self.living) < 2:
            return
        name = self.living.pop(number % len(self.living))
        heir = [*self.living, "heart"][number % (len(self.living) + 1)]
        self.formerly[heir] = (*self.formerly.get(heir, ()), *self.formerly.pop(name, ()), name)
        self.version += 1

    def move(self, _number):
        rehome(self.record, self.serving)

    def restart(self, _number):
        self.record.close()
        self.record = Record(self.path, now_s=2000.0)


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([*("read", "fold", "send", "settle", "end") * 2, "give_back", "wait", "move", "restart"]),
            st.integers(0, 5),
        ),
        max_size=24,
    )
)
def test_whatever_ends_between_whatever_steps_nothing_is_lost_or_counted_twice(tmp_path_factory, micro, steps):
    folder = tmp_path_factory.mktemp("diary")
    diary = Diary(folder / "edge.db", micro)
    try:
        for what, number in steps:
            diary.step(what, number)
        diary.step("move", 0)
        assert not set(diary.record.domains()) - set(diary.serving.constellation.domains)
    finally:
        diary.record.close()
        shutil.rmtree(folder)


@pytest.mark.parametrize(("lost_after_s", "honest"), [(LOST_AFTER_S, True), (7200.0, False)])
def test_an_edge_that_gave_up_within_hours_would_be_counted_twice(tmp_path, micro, monkeypatch, lost_after_s, honest):
    """The centre had the packet, and only took long: the trainer was down."""
    monkeypatch.setattr("services.edge.sleep.LOST_AFTER_S", lost_after_s)
    diary, said = Diary(tmp_path / "edge.db", micro), pytest.raises(AssertionError)
    steps = ["read", "fold", "send", "wait", "read", "fold", "send", "settle", "settle"]
    with nullcontext() if honest else said:
        for what in steps:
            diary.step(what, 0)
    diary.record.close()
