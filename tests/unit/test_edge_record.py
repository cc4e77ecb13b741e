"""An edge's record on disk: interactions, sleeps, packets and gates; files that are in use, full, foreign or older."""

import sqlite3

import numpy as np
import pytest
from recorded import DAY_S, balance, counts, entries, interaction, packet, pruned, reopened, slept

from common.errors import Corrupt, Rejected, Unavailable
from common.kernels.gate import BUCKETS
from services.edge.local import Tuned
from services.edge.record import Record, address_of, schema


def test_a_query_answered_once_keeps_its_answer(record):
    assert record.texts.answer_to("c", "q") is None
    assert record.texts.add(interaction(), b"answer", probe=False)
    assert not record.texts.add(interaction(text="other"), b"another", probe=False)
    assert record.texts.answer_to("c", "q") == b"answer"


def test_two_clients_may_use_one_id(record):
    record.texts.add(interaction(), b"one", probe=False)
    assert record.texts.add(interaction(client="d"), b"two", probe=False)
    assert (record.texts.answer_to("c", "q"), record.texts.answer_to("d", "q")) == (b"one", b"two")


def test_what_waits_is_summed_by_domain_without_probes(record):
    for number, (domain, probe) in enumerate([("heart", False), ("heart", False), (None, False), ("vocab", True)]):
        record.texts.add(interaction(f"q{number}", domain=domain, at_s=5.0 + number), b"", probe=probe)
    found = {each.domain: (each.interactions, each.size_bytes, each.oldest_s) for each in record.texts.fresh()}
    assert found == {"heart": (2, 10, 5.0), None: (1, 5, 7.0)}
    assert record.texts.probes(10) == ["hello"]


def test_an_interaction_comes_back_as_it_was(record):
    kept = interaction(basin=np.linspace(0, 2 / 63 / 64 * 63, 64), domain=None, kappa=None, phase=None)
    record.texts.add(kept, b"", probe=False)
    ((_, found),) = record.texts.unfolded(None)
    assert np.array_equal(found.basin, kept.basin)
    assert (found.text, found.bits, found.domain, found.kappa, found.phase) == ("hello", 9.5, None, None, None)


@pytest.mark.parametrize(("max_bytes", "taken"), [(9, 2), (10, 2), (11, 3)])
def test_a_fold_takes_the_oldest_until_enough(record, max_bytes, taken):
    for number in range(4):
        record.texts.add(interaction(f"q{number}"), b"", probe=False)
    found = [each.query_id for _, each in record.texts.unfolded("heart", max_bytes)]
    assert found == ["q0", "q1", "q2", "q3"][:taken]


def test_a_sleep_is_on_disk_whole(record):
    record.texts.add(interaction(), b"", probe=False)
    slept(record)
    again = reopened(record)
    assert (again.texts.fresh(), again.sequence, again.epoch) == ([], 1, 1000)
    assert entries(again.residue("heart")) == entries(counts(7, 8))
    assert [p.counts.entries for p in again.packets("pending")] == [counts(1, 2).entries]
    again.close()


def test_a_sleep_that_fails_half_way_leaves_nothing(record):
    record.texts.add(interaction(), b"", probe=False)
    with pytest.raises(AssertionError, match="packet 5 where 0 is due"):
        slept(record, sequence=5)
    assert record.residue("heart").entries == 0
    assert [each.interactions for each in record.texts.fresh()] == [1]
    assert record.packets("pending") == []


def test_a_packet_goes_from_pending_to_sent_to_acknowledged(record):
    record.slept({}, balance(1, 2), packet(record))
    record.sent(0, b"raw", at_s=50.0)
    (sent,) = record.packets("sent")
    assert (sent.raw, sent.at_s, sent.domain, sent.base_version) == (b"raw", 50.0, "heart", 4)
    record.settle([0], {"heart": balance()}, {}, cursor="9-0", at_s=60.0)
    assert [p.status for p in record.packets("pending", "sent", "lost", "acknowledged")] == ["acknowledged"]
    assert record.residue("heart").entries == 0


def test_only_what_may_have_left_is_lost_and_only_what_is_pending_is_sent(record):
    record.slept({}, balance(1), packet(record))
    record.lose([0], at_s=2.0)
    assert len(record.packets("pending")) == 1
    record.sent(0, b"raw", at_s=3.0)
    record.lose([0], cursor="7-0", at_s=4.0)
    assert record.returned == "7-0"
    record.sent(0, b"again", at_s=5.0)
    assert [(p.status, p.raw) for p in record.packets("lost")] == [("lost", b"raw")]


def test_settling_moves_the_cursor_the_residues_and_fresh_rows_together(record):
    record.texts.add(interaction(domain=None), b"", probe=False)
    ((row, _),) = record.texts.unfolded(None)
    record.settle([], {None: balance(), "scripture": balance(4)}, {row: "scripture"}, cursor="5-1", at_s=1.0)
    assert record.cursor == "5-1"
    assert list(record.balances()) == ["scripture"]
    assert [each.domain for each in record.texts.fresh()] == ["scripture"]


def test_new_territory_has_a_residue_of_its_own(record):
    record.slept({}, balance(3), packet(record, None))
    assert list(record.balances()) == [None]
    assert record.packets("pending")[0].domain is None


def test_a_life_that_lost_its_file_starts_a_later_epoch(record, tmp_path):
    record.close()
    (tmp_path / "edge.db").unlink()
    again = reopened(record, now_s=3000.0)
    assert again.epoch == 3000
    again.close()


@pytest.mark.parametrize(("age_s", "left"), [(30 * DAY_S - 1, 1), (30 * DAY_S, 1), (30 * DAY_S + 1, 0)])
def test_interactions_go_by_age(record, age_s, left):
    record.texts.add(interaction(at_s=100.0), b"", probe=False)
    assert pruned(record, 100.0 + age_s) == 1 - left


@pytest.mark.parametrize(("limit", "kept"), [(29, 2), (30, 3), (31, 3)])
def test_interactions_go_by_size_oldest_first(record, limit, kept):
    for number in range(3):
        record.texts.add(interaction(f"q{number}", text="αβ1"), b"12345", probe=False)
    pruned(record, 20.0, max_bytes=limit)
    assert [i.query_id for _, i in record.texts.unfolded("heart")] == ["q0", "q1", "q2"][3 - kept :]


def test_settled_packets_go_by_age_and_waiting_ones_stay(record):
    for number in range(2):
        record.slept({}, balance(1), packet(record, at_s=float(number)))
    record.settle([0], {}, {}, cursor="1-1", at_s=0.0)
    pruned(record, 40 * DAY_S)
    assert [p.sequence for p in record.packets("pending", "acknowledged")] == [1]


def test_a_second_process_on_one_file_is_refused(record):
    with pytest.raises(Unavailable, match="state_in_use"):
        Record(record._file.path, now_s=1.0)


def test_whoever_finds_the_file_in_use_learns_where_its_process_serves(record, tmp_path):
    assert address_of(record._file.path) == ""
    other = Record(tmp_path / "other" / "edge.db", now_s=1.0, address="http://127.0.0.1:8000")
    with pytest.raises(Unavailable, match="state_in_use"):
        Record(other._file.path, now_s=1.0, address="http://127.0.0.1:1")
    assert address_of(other._file.path) == "http://127.0.0.1:8000"
    other.close()


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "edge.db").write_bytes(b"not a database at all" * 99)
    with pytest.raises(Corrupt, match="not_a_record"):
        Record(tmp_path / "edge.db", now_s=1.0)


def test_another_program_s_database_is_left_alone(tmp_path):
    with sqlite3.connect(tmp_path / "edge.db") as other:
        other.execute("CREATE TABLE theirs (x)")
    other.close()
    with pytest.raises(Corrupt, match="another program's"):
        Record(tmp_path / "edge.db", now_s=1.0)


def gate(weight, gain_bits=1.5):
    return Tuned(np.tile([weight, 1 - weight], (BUCKETS, 1)), gain_bits)


def test_a_gate_is_kept_with_the_fold_that_it_was_learned_in(record):
    assert record.tuned("heart") is None
    record.slept({}, balance(1), packet(record), gate(0.25))
    record.slept({}, balance(1), packet(record))
    again = reopened(record)
    kept = again.tuned("heart")
    assert (kept.gain_bits, kept.gate[7].tolist(), kept.gate.shape) == (1.5, [0.25, 0.75], (BUCKETS, 2))
    assert again.learned() == ["heart"]
    again.close()


def test_new_territory_s_gate_goes_with_its_counts_to_the_domain_that_is_opened(record):
    record.slept({}, balance(1), packet(record, None), gate(0.25))
    assert record.learned() == [None]
    record.settle([0], {None: balance(), "atlas": balance(1)}, {}, opened="atlas", cursor=None, at_s=2.0)
    assert (record.tuned(None), record.tuned("atlas").gain_bits) == (None, 1.5)
    assert (record.learned(), record.cursor) == (["atlas"], None)


def test_a_domain_that_has_a_gate_keeps_its_own(record):
    record.slept({}, balance(1), packet(record, "atlas"), gate(0.5, 3.0))
    record.slept({}, balance(1), packet(record, None), gate(0.25))
    record.settle([1], {None: balance()}, {}, opened="atlas", cursor="5-0", at_s=2.0)
    assert (record.tuned(None), record.tuned("atlas").gain_bits) == (None, 3.0)


@pytest.mark.parametrize("verdict", [None, "rejected"])
def test_a_gate_that_learned_from_a_text_that_is_taken_out_goes_with_it(record, verdict):
    record.texts.add(interaction(), b"", probe=False)
    ((row, _),) = record.texts.unfolded("heart")
    record.slept({row: np.array([7], np.int32)}, balance(7), packet(record), gate(0.25))
    if verdict is None:
        record.forget(row, "heart", balance())
    else:
        record.judge(row, verdict, counts(7), "heart", balance())
    assert record.tuned("heart") is None


def test_where_a_domain_s_packets_lay_is_known_oldest_first(record):
    for number in (1, 2):
        record.slept({}, balance(1), packet(record, None, basin=bytes([number]) * 64))
    record.slept({}, balance(1), packet(record))
    assert record.basins(None) == [b"\1" * 64, b"\2" * 64]


def test_a_newer_schema_is_refused(record):
    record._file.db.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION + 1}")
    with pytest.raises(Rejected, match=f"schema {schema.SCHEMA_VERSION + 1}"):
        reopened(record)


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unavailable, match="unwritable"):
        Record(tmp_path / "file" / "edge.db", now_s=1.0)


def test_a_full_disk_is_said_and_loses_nothing(record):
    record.texts.add(interaction(), b"answer", probe=False)
    record._file.db.execute("PRAGMA max_page_count = 1")
    with pytest.raises(Unavailable, match="disk_full"):
        record.texts.add(interaction("big", text="x" * 200_000), b"", probe=False)
    assert record.texts.answer_to("c", "q") == b"answer"


def test_a_commit_is_flushed_to_the_disk(record):
    assert record._file.db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert record._file.db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


# An older file


FIRST = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE interactions (
  id INTEGER PRIMARY KEY, client TEXT NOT NULL, query_id TEXT NOT NULL, at_s REAL NOT NULL, text TEXT NOT NULL,
  domain TEXT, basin BLOB NOT NULL, tokens INTEGER NOT NULL, size_bytes INTEGER NOT NULL, bits REAL NOT NULL,
  kappa REAL, phase TEXT, answer BLOB NOT NULL, probe INTEGER NOT NULL, folded INTEGER NOT NULL DEFAULT 0,
  UNIQUE (client, query_id));
CREATE INDEX interactions_fresh ON interactions (folded, probe, domain);
CREATE INDEX interactions_age ON interactions (at_s);
CREATE TABLE residue (domain TEXT PRIMARY KEY, memory BLOB NOT NULL);
CREATE TABLE packets (
  sequence INTEGER PRIMARY KEY, domain TEXT, status TEXT NOT NULL, at_s REAL NOT NULL, base_version INTEGER NOT NULL,
  base BLOB NOT NULL, basin BLOB NOT NULL, body BLOB NOT NULL, counts BLOB NOT NULL, raw BLOB);
CREATE INDEX packets_status ON packets (status);
INSERT INTO meta VALUES ('epoch', '77'), ('sequence', '3');
INSERT INTO interactions VALUES
  (1, 'c', 'old', 10.0, 'hello', 'heart', zeroblob(512), 2, 5, 9.5, NULL, NULL, x'616e73776572', 0, 1),
  (2, 'c', 'new', 11.0, 'again', 'heart', zeroblob(512), 2, 5, 9.5, NULL, NULL, x'616e73776572', 0, 0);
PRAGMA application_id = 1363756869;
PRAGMA user_version = 1;
"""


@pytest.fixture(params=schema.MIGRATIONS)
def older(tmp_path, request):
    """A record's file as the first schema made it, brought up to each older one: one text folded, one that waits."""
    made = sqlite3.connect(tmp_path / "edge.db")
    made.executescript(FIRST)
    for step in range(1, request.param):
        made.executescript(schema.MIGRATIONS[step])
    made.execute(f"PRAGMA user_version = {request.param}")
    made.close()
    opened = Record(tmp_path / "edge.db", now_s=1000.0)
    yield opened
    opened.close()


def test_a_file_of_an_older_schema_goes_on(older):
    assert (older.epoch, older.sequence, older.texts.answer_to("c", "old")) == (77, 3, b"answer")
    assert [each.query_id for _, each in older.texts.unfolded("heart")] == ["new"]
    kept = older.texts.find("c", "old")
    assert (kept.folded, kept.packet, kept.ids) == (True, None, None)
    again = reopened(older)
    assert again.sequence == 3
    again.close()


def test_a_file_of_an_older_schema_becomes_what_a_new_one_is(older, tmp_path):
    fresh = Record(tmp_path / "new" / "edge.db", now_s=1.0)
    shapes = [
        {
            (table, *column[1:])
            for (table,) in each._file.all("SELECT name FROM sqlite_master WHERE type IN ('table', 'index')")
            for column in each._file.all(f"PRAGMA table_info({table})") + each._file.all(f"PRAGMA index_info({table})")
        }
        for each in (older, fresh)
    ]
    versions = {each._file.one("PRAGMA user_version") for each in (older, fresh)}
    fresh.close()
    assert shapes[0] == shapes[1]
    assert versions == {(schema.SCHEMA_VERSION,)}
