import sqlite3

import numpy as np
import pytest

from common.errors import Corrupt, Rejected, Unavailable
from common.kernels.memory import count
from services.edge import record as module
from services.edge.answer import Interaction
from services.edge.record import Packet, Record

DAY_S = 86_400.0


def interaction(query_id="q", **fields):
    basis = {
        "client": "c", "text": "hello", "at_s": 10.0, "domain": "heart", "basin": np.full(64, 1 / 64), "tokens": 2,
        "size_bytes": 5, "bits": 9.5, "kappa": 3.0, "phase": "FOAM",
    }  # fmt: skip
    return Interaction(query_id=query_id, **(basis | fields))


def counts(*ids):
    return count([np.array(ids, np.int32)], 3)


def packet(record, domain="heart", **fields):
    basis = {
        "sequence": record.sequence, "status": "pending", "at_s": 1.0, "base_version": 4, "base": b"b" * 8,
        "basin": b"\1" * 64, "body": b"body", "counts": counts(1, 2),
    }  # fmt: skip
    return Packet(domain=domain, **(basis | fields))


def entries(memory):
    return [(table.keys.tolist(), table.counts.tolist(), table.totals.tolist()) for table in memory.tables]


@pytest.fixture
def record(tmp_path):
    opened = Record(tmp_path / "edge.db", now_s=1000.0)
    yield opened
    opened.close()


def reopened(record, now_s=2000.0):
    record.close()
    return Record(record._path, now_s=now_s)


def test_a_query_answered_once_keeps_its_answer(record):
    assert record.answer_to("c", "q") is None
    assert record.add(interaction(), b"answer", probe=False)
    assert not record.add(interaction(text="other"), b"another", probe=False)
    assert record.answer_to("c", "q") == b"answer"


def test_two_clients_may_use_one_id(record):
    record.add(interaction(), b"one", probe=False)
    assert record.add(interaction(client="d"), b"two", probe=False)
    assert (record.answer_to("c", "q"), record.answer_to("d", "q")) == (b"one", b"two")


def test_what_waits_is_summed_by_domain_without_probes(record):
    for number, (domain, probe) in enumerate([("heart", False), ("heart", False), (None, False), ("vocab", True)]):
        record.add(interaction(f"q{number}", domain=domain, at_s=5.0 + number), b"", probe=probe)
    found = {each.domain: (each.interactions, each.size_bytes, each.oldest_s) for each in record.fresh()}
    assert found == {"heart": (2, 10, 5.0), None: (1, 5, 7.0)}
    assert record.probes(10) == ["hello"]


def test_an_interaction_comes_back_as_it_was(record):
    kept = interaction(basin=np.linspace(0, 2 / 63 / 64 * 63, 64), domain=None, kappa=None, phase=None)
    record.add(kept, b"", probe=False)
    ((_, found),) = record.unfolded(None)
    assert np.array_equal(found.basin, kept.basin)
    assert (found.text, found.bits, found.domain, found.kappa, found.phase) == ("hello", 9.5, None, None, None)


@pytest.mark.parametrize(("max_bytes", "taken"), [(9, 2), (10, 2), (11, 3)])
def test_a_fold_takes_the_oldest_until_enough(record, max_bytes, taken):
    for number in range(4):
        record.add(interaction(f"q{number}"), b"", probe=False)
    found = [each.query_id for _, each in record.unfolded("heart", max_bytes)]
    assert found == ["q0", "q1", "q2", "q3"][:taken]


def test_a_sleep_is_on_disk_whole(record):
    record.add(interaction(), b"", probe=False)
    rows = [row for row, _ in record.unfolded("heart")]
    record.slept("heart", rows, counts(7, 8), packet(record))
    again = reopened(record)
    assert (again.fresh(), again.sequence, again.epoch) == ([], 1, 1000)
    assert entries(again.residue("heart")) == entries(counts(7, 8))
    assert [p.counts.entries for p in again.packets("pending")] == [counts(1, 2).entries]
    again.close()


def test_a_sleep_that_fails_half_way_leaves_nothing(record, monkeypatch):
    record.add(interaction(), b"", probe=False)
    rows = [row for row, _ in record.unfolded("heart")]
    with pytest.raises(AssertionError, match="packet 5 where 0 is due"):
        record.slept("heart", rows, counts(7, 8), packet(record, sequence=5))
    assert record.residue("heart").entries == 0
    assert [each.interactions for each in record.fresh()] == [1]
    assert record.packets("pending") == []


def test_a_packet_goes_from_pending_to_sent_to_acknowledged(record):
    record.slept("heart", [], counts(1, 2), packet(record))
    record.sent(0, b"raw", at_s=50.0)
    (sent,) = record.packets("sent")
    assert (sent.raw, sent.at_s, sent.domain, sent.base_version) == (b"raw", 50.0, "heart", 4)
    record.settle([0], {"heart": counts()}, {}, cursor="9-0", at_s=60.0)
    assert [p.status for p in record.packets("pending", "sent", "lost", "acknowledged")] == ["acknowledged"]
    assert record.residue("heart").entries == 0


def test_only_a_sent_packet_is_lost_and_only_a_pending_one_sent(record):
    record.slept("heart", [], counts(1), packet(record))
    record.lose([0], at_s=2.0)
    assert len(record.packets("pending")) == 1
    record.sent(0, b"raw", at_s=3.0)
    record.lose([0], at_s=4.0)
    record.sent(0, b"again", at_s=5.0)
    assert [(p.status, p.raw) for p in record.packets("lost")] == [("lost", b"raw")]


def test_settling_moves_the_cursor_the_residues_and_fresh_rows_together(record):
    record.add(interaction(domain=None), b"", probe=False)
    ((row, _),) = record.unfolded(None)
    record.settle([], {None: counts(), "scripture": counts(4)}, {row: "scripture"}, cursor="5-1", at_s=1.0)
    assert record.cursor == "5-1"
    assert list(record.residues()) == ["scripture"]
    assert [each.domain for each in record.fresh()] == ["scripture"]


def test_new_territory_has_a_residue_of_its_own(record):
    record.slept(None, [], counts(3), packet(record, None))
    assert list(record.residues()) == [None]
    assert record.packets("pending")[0].domain is None


def test_a_life_that_lost_its_file_starts_a_later_epoch(record, tmp_path):
    record.close()
    (tmp_path / "edge.db").unlink()
    again = reopened(record, now_s=3000.0)
    assert again.epoch == 3000
    again.close()


@pytest.mark.parametrize(("age_s", "left"), [(30 * DAY_S - 1, 1), (30 * DAY_S, 1), (30 * DAY_S + 1, 0)])
def test_interactions_go_by_age(record, age_s, left):
    record.add(interaction(at_s=100.0), b"", probe=False)
    assert record.prune(now_s=100.0 + age_s) == 1 - left


@pytest.mark.parametrize(("limit", "kept"), [(29, 2), (30, 3), (31, 3)])
def test_interactions_go_by_size_oldest_first(record, limit, kept):
    for number in range(3):
        record.add(interaction(f"q{number}", text="αβ1"), b"12345", probe=False)
    record.prune(now_s=20.0, max_bytes=limit)
    assert [i.query_id for _, i in record.unfolded("heart")] == ["q0", "q1", "q2"][3 - kept :]


def test_settled_packets_go_by_age_and_waiting_ones_stay(record):
    for number in range(2):
        record.slept("heart", [], counts(1), packet(record, at_s=float(number)))
    record.settle([0], {}, {}, cursor="1-1", at_s=0.0)
    record.prune(now_s=40 * DAY_S)
    assert [p.sequence for p in record.packets("pending", "acknowledged")] == [1]


def test_a_second_process_on_one_file_is_refused(record):
    with pytest.raises(Unavailable, match="state_in_use"):
        Record(record._path, now_s=1.0)


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


def test_a_newer_schema_is_refused(record):
    record._db.execute("PRAGMA user_version = 2")
    with pytest.raises(Rejected, match="schema 2"):
        reopened(record)


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unavailable, match="unwritable"):
        Record(tmp_path / "file" / "edge.db", now_s=1.0)


def test_a_full_disk_is_said_and_loses_nothing(record):
    record.add(interaction(), b"answer", probe=False)
    record._db.execute("PRAGMA max_page_count = 1")
    with pytest.raises(Unavailable, match="disk_full"):
        record.add(interaction("big", text="x" * 200_000), b"", probe=False)
    assert record.answer_to("c", "q") == b"answer"


def test_a_commit_is_flushed_to_the_disk(record):
    assert record._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert record._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert module.SCHEMA_VERSION == 1
