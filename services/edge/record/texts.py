"""What was asked and answered: the table `interactions`, each step one transaction.

Steps that change counts with them are record.py's.
"""

import sqlite3
import sys
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from common.kernels import memory_file
from common.kernels.memory import Ids
from common.kernels.spec import MAX_VOCAB
from services.edge.answer import Interaction
from services.edge.record.file import File
from services.edge.record.rows import COLUMNS, IDS, Counted, Domain, Fresh, Kept, counted_of, ids_of, interaction_of

FOLD_MAX_BYTES: Final = 1 << 20  # of text: a fold of about 15 s takes the oldest; the rest waits for the next sleep
COUNTED_PAGE: Final = 64  # rows; of the longest texts 4 MB


class Texts:
    """The interactions of an open file."""

    def __init__(self, file: File) -> None:
        self._file: Final = file

    def answer_to(self, client: str, query_id: str) -> bytes | None:
        """The stored answer to a query, or None; where there is one, a redelivered query is not answered twice."""
        row = self._file.one("SELECT answer FROM interactions WHERE client = ? AND query_id = ?", (client, query_id))
        return bytes(row[0]) or None if row else None

    def add(self, interaction: Interaction, answer: bytes, *, probe: bool) -> bool:
        """Keeps an interaction with its packed answer; False, and nothing done, when the query was kept before.

        answer: empty where it is not to be kept.
        """
        i = interaction
        values = (i.client, i.query_id, i.at_s, i.text, i.domain, i.basin.astype("<f8").tobytes(), i.tokens)
        with self._file.write() as db:
            done = db.execute(
                "INSERT OR IGNORE INTO interactions (client, query_id, at_s, text, domain, basin, tokens, size_bytes,"
                " bits, kappa, phase, answer, probe) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*values, i.size_bytes, i.bits, i.kappa, i.phase, answer, int(probe)),
            )
            return done.rowcount == 1

    def fresh(self) -> list[Fresh]:
        """What waits to be counted, by domain."""
        rows = self._file.all(
            "SELECT domain, count(*), sum(size_bytes), min(at_s) FROM interactions WHERE folded = 0 AND probe = 0"
            " AND verdict IS NOT 'rejected' GROUP BY domain ORDER BY domain"
        )
        return [Fresh(*row) for row in rows]

    def unfolded(self, domain: Domain, max_bytes: int = FOLD_MAX_BYTES) -> list[tuple[int, Interaction]]:
        """The oldest texts that wait to be counted for a domain, with their row ids: until `max_bytes` are passed."""
        rows = self._file.all(
            f"SELECT {COLUMNS} FROM (SELECT *, sum(size_bytes) OVER (ORDER BY id) - size_bytes AS before"  # noqa: S608 -- a constant
            " FROM interactions WHERE folded = 0 AND probe = 0 AND verdict IS NOT 'rejected' AND domain IS ?)"
            " WHERE before < ? ORDER BY id",
            (domain, max_bytes),
        )
        return [(row[0], interaction_of(row)) for row in rows]

    def accepted(self, domain: Domain, max_bytes: int = FOLD_MAX_BYTES) -> list[str]:
        """The newest texts of a domain whose answers were accepted and ended in CRYSTAL, until `max_bytes` are passed.

        Those that wait to be counted, and those that were.
        """
        rows = self._file.all(
            "SELECT text FROM (SELECT *, sum(size_bytes) OVER (ORDER BY id DESC) - size_bytes AS after"
            " FROM interactions WHERE verdict = 'accepted' AND phase = 'CRYSTAL' AND probe = 0 AND domain IS ?)"
            " WHERE after < ? ORDER BY id",
            (domain, max_bytes),
        )
        return [row[0] for row in rows]

    def probes(self, limit: int) -> list[str]:
        """The newest texts that were kept out of learning."""
        rows = self._file.all("SELECT text FROM interactions WHERE probe = 1 ORDER BY id DESC LIMIT ?", (limit,))
        return [row[0] for row in rows]

    def last_row(self) -> int:
        """The newest interaction's row; 0 when there is none."""
        row = self._file.one("SELECT max(id) FROM interactions")
        return int(row[0]) if row and row[0] is not None else 0

    def after(self, row: int, max_bytes: int) -> list[tuple[int, str]]:
        """Texts that came after a row, with theirs, the oldest first: until `max_bytes` are passed."""
        rows = self._file.all(
            "SELECT id, text FROM (SELECT *, sum(size_bytes) OVER (ORDER BY id) - size_bytes AS before"
            " FROM interactions WHERE id > ?) WHERE before < ? ORDER BY id",
            (row, max_bytes),
        )
        return [(found, text) for found, text in rows]

    def last_at_s(self) -> float:
        """When the newest interaction came; 0 when there is none."""
        row = self._file.one("SELECT max(at_s) FROM interactions")
        return float(row[0]) if row and row[0] is not None else 0.0

    def find(self, client: str, query_id: str) -> Kept | None:
        """How an interaction stands; None when nothing is kept under this name."""
        row = self._file.one(
            "SELECT id, domain, probe, folded, packet, ids, verdict, taken FROM interactions"
            " WHERE client = ? AND query_id = ?",
            (client, query_id),
        )
        if row is None:
            return None
        number, domain, probe, folded, packet, ids, verdict, taken = row
        memory = None if taken is None else memory_file.from_bytes(taken, MAX_VOCAB)
        return Kept(number, domain, bool(probe), bool(folded), packet, ids_of(ids), verdict, memory)

    def members(self, sequence: int) -> dict[int, Ids]:
        """What was counted for a packet: the ids of each text that is still kept, by row."""
        rows = self._file.all("SELECT id, ids FROM interactions WHERE packet = ?", (sequence,))
        return {row: np.frombuffer(ids, IDS).astype(np.int32) for row, ids in rows}

    def counted(self) -> Iterator[Counted]:
        """All texts that were counted, and whose ids are known, the newest first; some of them in memory at a time."""
        before = sys.maxsize
        while rows := self._file.all(
            "SELECT id, domain, text, ids, taken FROM interactions WHERE folded = 1 AND ids NOT NULL AND id < ?"
            " ORDER BY id DESC LIMIT ?",
            (before, COUNTED_PAGE),
        ):
            yield from map(counted_of, rows)
            before = rows[-1][0]

    def move(self, moved: Mapping[int, Domain]) -> None:
        """Rows of fresh text that belong to another domain than was thought."""
        with self._file.write() as db:
            moved_to(db, moved)

    def prune(self, *, now_s: float, max_age_s: float, max_bytes: int) -> int:
        """Deletes interactions that are too old, and the oldest while texts and answers are too many bytes, folded or
        not; returns how many went. Settled packets go by the same age; one that waits is kept.
        """
        limit_s = now_s - max_age_s
        with self._file.write() as db:
            gone = db.execute("DELETE FROM interactions WHERE at_s < ?", (limit_s,)).rowcount
            if _used_bytes(db) > max_bytes:  # else there is nothing to add up: what is kept lies in the pages
                gone += db.execute(
                    "DELETE FROM interactions WHERE id IN (SELECT id FROM (SELECT id, sum(length(CAST(text AS BLOB)) +"
                    " length(answer)) OVER (ORDER BY id DESC) AS kept FROM interactions) WHERE kept > ?)",
                    (max_bytes,),
                ).rowcount
            db.execute(
                "DELETE FROM packets WHERE status IN ('acknowledged', 'lost', 'taken_back') AND at_s < ?", (limit_s,)
            )
        self._file.scrub()  # every time: one that found the file being read left the log as it was
        return gone


def moved_to(db: sqlite3.Connection, moved: Mapping[int, Domain]) -> None:
    """As `Texts.move`, in a transaction that is open."""
    rows = [(domain, row) for row, domain in moved.items()]
    db.executemany("UPDATE interactions SET domain = ? WHERE id = ? AND folded = 0", rows)


def _used_bytes(db: sqlite3.Connection) -> int:
    pages, free, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)
