"""One interaction, afterwards: where it stands, what its verdict changes, and that nothing is left of it."""

import sqlite3

import pytest
from recorded import DAY_S, balance, in_the_files, interaction, pruned, reopened, slept

from services.edge.record import file


def test_how_an_interaction_stands_is_told_from_waiting_to_folded(record):
    assert record.texts.find("c", "q") is None
    record.texts.add(interaction(), b"", probe=False)
    waiting = record.texts.find("c", "q")
    assert (waiting.folded, waiting.packet, waiting.ids, waiting.verdict) == (False, None, None, None)
    slept(record)
    folded = record.texts.find("c", "q")
    assert (folded.folded, folded.packet, folded.ids.tolist(), folded.domain) == (True, 0, [7, 8], "heart")
    assert list(record.texts.members(0)) == [folded.row]


@pytest.mark.parametrize("size", [5, 100_000])
def test_not_a_byte_of_what_was_forgotten_stays_in_the_files(record, size):
    secret = "swordfish" + "x" * size
    record.texts.add(interaction(text=secret), secret.encode(), probe=False)
    record.texts.add(interaction("other"), b"", probe=False)
    assert in_the_files(record, "swordfish")
    record.forget(record.texts.find("c", "q").row, "heart", None)
    assert not in_the_files(record, "swordfish")
    assert [each.query_id for _, each in record.texts.unfolded("heart")] == ["other"]


def test_not_a_byte_of_what_grew_too_old_stays_in_the_files(record):
    record.texts.add(interaction(text="swordfish", at_s=0.0), b"swordfish", probe=False)
    pruned(record, 31 * DAY_S)
    assert not in_the_files(record, "swordfish")


def test_what_was_forgotten_while_somebody_read_the_file_is_gone_after_the_next_pruning(record, monkeypatch):
    monkeypatch.setattr(file, "BUSY_TIMEOUT_S", 0.0)
    busy = reopened(record)
    busy.texts.add(interaction(text="swordfish"), b"", probe=False)
    reader = sqlite3.connect(busy._file.path)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM interactions").fetchall()
    busy.forget(busy.texts.find("c", "q").row, "heart", None)
    assert in_the_files(busy, "swordfish")
    reader.close()
    pruned(busy, 20.0)
    assert not in_the_files(busy, "swordfish")
    busy.close()


def test_a_withdrawn_packet_leaves_what_was_folded_for_it_waiting(record):
    for number in range(2):
        record.texts.add(interaction(f"q{number}"), b"", probe=False)
    slept(record)
    record.forget(record.texts.find("c", "q0").row, "heart", balance(), [0])
    assert [each.query_id for _, each in record.texts.unfolded("heart")] == ["q1"]
    assert (record.packets("pending"), record.texts.members(0), record.sequence) == ([], {}, 1)


def test_a_packet_that_may_have_left_is_not_withdrawn(record):
    record.texts.add(interaction(), b"", probe=False)
    slept(record)
    record.leaving(0, b"raw")
    with pytest.raises(AssertionError, match="has left"):
        record.forget(record.texts.find("c", "q").row, "heart", balance(), [0])
    assert record.texts.find("c", "q").folded
    assert [packet.raw for packet in record.packets("pending")] == [b"raw"]


def test_rejected_text_waits_for_nothing_until_the_verdict_changes(record):
    record.texts.add(interaction(), b"", probe=False)
    row = record.texts.find("c", "q").row
    record.judge(row, "rejected", None, "heart", None)
    assert (record.texts.fresh(), record.texts.unfolded("heart")) == ([], [])
    record.judge(row, None, None, "heart", None)
    assert [each.interactions for each in record.texts.fresh()] == [1]


@pytest.mark.parametrize(
    ("verdict", "fields", "probe", "weighs"),
    [
        ("accepted", {"phase": "CRYSTAL"}, False, ["hello"]),
        ("accepted", {"phase": "TACKING"}, False, []),
        ("accepted", {"phase": "CRYSTAL"}, True, []),
        ("accepted", {"phase": "CRYSTAL", "domain": "vocab"}, False, []),
        ("rejected", {"phase": "CRYSTAL"}, False, []),
        (None, {"phase": "CRYSTAL"}, False, []),
    ],
)
def test_text_that_was_accepted_and_ended_in_crystal_weighs_up(record, verdict, fields, probe, weighs):
    record.texts.add(interaction(**fields), b"", probe=probe)
    record.judge(record.texts.find("c", "q").row, verdict, None, "heart", None)
    assert record.texts.accepted("heart") == weighs


def test_what_was_counted_for_new_territory_follows_its_residue_to_the_opened_domain(record):
    record.texts.add(interaction(domain=None), b"", probe=False)
    slept(record, None)
    record.texts.add(interaction("later", domain=None), b"", probe=False)
    record.settle([0], {None: balance(), "scripture": balance(7)}, {}, opened="scripture", cursor="5-1", at_s=1.0)
    assert [record.texts.find("c", name).domain for name in ("q", "later")] == ["scripture", None]
    assert [each.sequence for each in record.packets_since("scripture", 0)] == [0]
