"""What an edge remembers across kills: one SQLite file, one transaction a step.

    interactions   what was asked and answered; `folded` once counted, with the `ids` that were and the `packet` that
                   came of it; `probe` when kept to try bundles on; `verdict` when somebody judged the answer; `taken`
                   is what a rejected text had in the residue
    residue        n-gram counts by domain that no bundle has taken yet ('' = new territory)
    gates          by domain, the gate learned from what was counted, and what it saved
    packets        pending ─▶ sent ─▶ acknowledged, or lost; each with the counts it carries
    meta           epoch, next sequence, the last bundle entry seen

Write-ahead log and synchronous=FULL: what a method returned from is on the disk. A second process on the same file is
refused by a lock that ends with the process, however it ends. Bounded: interactions by age and size, packets that are
settled by age. What is deleted is overwritten, in the log too (secure_delete, and a checkpoint that empties the log).
A file of an older schema is brought up to this one when it is opened. Knows nothing of what is in a packet or of how
counts are chosen.

The epoch names a life of this file: the second in which it was made. An edge that lost its file starts the next epoch,
so that its sequences never repeat.
"""

import contextlib
import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

import numpy as np

from common.constants import CELLS, Phase
from common.errors import Corrupt, Rejected, Unavailable
from common.kernels import memory_file
from common.kernels.gate import BUCKETS
from common.kernels.memory import Ids, Memory, count
from common.kernels.spec import MAX_VOCAB
from services.edge.answer import Interaction
from services.edge.local import Tuned

SCHEMA_VERSION: Final = 3
APPLICATION_ID: Final = 0x51494745  # "QIGE"
FOLD_MAX_BYTES: Final = 1 << 20  # of text: a fold of about 15 s takes the oldest; the rest waits for the next sleep
BUSY_TIMEOUT_S: Final = 5.0
ORDERS: Final = 3  # of a residue: what crystals can carry
_IDS: Final = np.dtype("<u2")  # of a token: MAX_VOCAB is 2^15

Status = Literal["pending", "sent", "acknowledged", "lost"]
Verdict = Literal["accepted", "rejected"]
Domain = str | None

_SCHEMA: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE interactions (
  id INTEGER PRIMARY KEY, client TEXT NOT NULL, query_id TEXT NOT NULL, at_s REAL NOT NULL, text TEXT NOT NULL,
  domain TEXT, basin BLOB NOT NULL, tokens INTEGER NOT NULL, size_bytes INTEGER NOT NULL, bits REAL NOT NULL,
  kappa REAL, phase TEXT, answer BLOB NOT NULL, probe INTEGER NOT NULL, folded INTEGER NOT NULL DEFAULT 0,
  packet INTEGER, ids BLOB, verdict TEXT, taken BLOB, UNIQUE (client, query_id));
CREATE INDEX interactions_fresh ON interactions (folded, probe, domain);
CREATE INDEX interactions_packet ON interactions (packet);
CREATE INDEX interactions_age ON interactions (at_s);
CREATE TABLE residue (domain TEXT PRIMARY KEY, memory BLOB NOT NULL);
CREATE TABLE gates (domain TEXT PRIMARY KEY, gate BLOB NOT NULL, gain_bits REAL NOT NULL);
CREATE TABLE packets (
  sequence INTEGER PRIMARY KEY, domain TEXT, status TEXT NOT NULL, at_s REAL NOT NULL, base_version INTEGER NOT NULL,
  base BLOB NOT NULL, basin BLOB NOT NULL, body BLOB NOT NULL, counts BLOB NOT NULL, raw BLOB);
CREATE INDEX packets_status ON packets (status);
"""
# By the schema that they start from. What an older release folded has no ids: its counts cannot be told apart any more.
_MIGRATIONS: Final = {
    1: """
ALTER TABLE interactions ADD COLUMN packet INTEGER;
ALTER TABLE interactions ADD COLUMN ids BLOB;
ALTER TABLE interactions ADD COLUMN verdict TEXT;
ALTER TABLE interactions ADD COLUMN taken BLOB;
CREATE INDEX interactions_packet ON interactions (packet);
""",
    2: """
CREATE TABLE gates (domain TEXT PRIMARY KEY, gate BLOB NOT NULL, gain_bits REAL NOT NULL);
""",
}
_COLUMNS: Final = "id, query_id, client, text, at_s, domain, basin, tokens, size_bytes, bits, kappa, phase"


@dataclass(frozen=True, slots=True)
class Fresh:
    """What waits to be counted for one domain (None: new territory)."""

    domain: Domain
    interactions: int
    size_bytes: int
    oldest_s: float


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet of this edge. body: packed PacketBody; counts: what it carries; at_s: when its status last changed.

    raw: the bytes that were last handed to the broker, or are about to be; None: it has certainly not left.
    """

    sequence: int
    domain: Domain
    status: Status
    at_s: float
    base_version: int
    base: bytes
    basin: bytes
    body: bytes
    counts: Memory
    raw: bytes | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """How one interaction stands. domain: whose text it is; packet: the sequence of the packet made when it was folded.

    ids: what was counted; None while it waits, and for what a release before schema 2 folded. taken: what was taken out
    of the residue when the folded text was rejected.
    """

    row: int
    domain: Domain
    probe: bool
    folded: bool
    packet: int | None
    ids: Ids | None
    verdict: Verdict | None
    taken: Memory | None


class Record:
    """The open file. Its methods may be called from any thread; each is one transaction."""

    def __init__(self, path: Path, *, now_s: float, address: str = "") -> None:
        """Opens or makes the file. Raises Unavailable (disk_full, unwritable, state_in_use), Corrupt, Rejected.

        address: where this process serves HTTP, told to whoever finds the file in use (`address_of`).
        """
        self._path: Final = path
        self._turn: Final = threading.Lock()
        self._guard: Final = _lock(path, address)
        with contextlib.ExitStack() as undo:
            undo.callback(self._guard.close)
            with _sql(path):
                self._db: Final = sqlite3.connect(
                    path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
                )
            undo.callback(self._db.close)
            self._prepare(now_s)
            undo.pop_all()
        self.epoch: Final = int(self._meta("epoch") or 0)

    def close(self) -> None:
        """Closes the file and gives up the lock."""
        with self._turn:
            self._db.close()
            self._guard.close()

    # Interactions

    def answer_to(self, client: str, query_id: str) -> bytes | None:
        """The stored answer to a query, or None; where there is one, a redelivered query is not answered twice."""
        row = self._one("SELECT answer FROM interactions WHERE client = ? AND query_id = ?", (client, query_id))
        return bytes(row[0]) or None if row else None

    def add(self, interaction: Interaction, answer: bytes, *, probe: bool) -> bool:
        """Keeps an interaction with its packed answer; False, and nothing done, when the query was kept before.

        answer: empty where it is not to be kept.
        """
        i = interaction
        values = (i.client, i.query_id, i.at_s, i.text, i.domain, i.basin.astype("<f8").tobytes(), i.tokens)
        with self._write() as db:
            done = db.execute(
                "INSERT OR IGNORE INTO interactions (client, query_id, at_s, text, domain, basin, tokens, size_bytes,"
                " bits, kappa, phase, answer, probe) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*values, i.size_bytes, i.bits, i.kappa, i.phase, answer, int(probe)),
            )
            return done.rowcount == 1

    def fresh(self) -> list[Fresh]:
        """What waits to be counted, by domain."""
        rows = self._all(
            "SELECT domain, count(*), sum(size_bytes), min(at_s) FROM interactions WHERE folded = 0 AND probe = 0"
            " AND verdict IS NOT 'rejected' GROUP BY domain ORDER BY domain"
        )
        return [Fresh(*row) for row in rows]

    def unfolded(self, domain: Domain, max_bytes: int = FOLD_MAX_BYTES) -> list[tuple[int, Interaction]]:
        """The oldest texts that wait to be counted for a domain, with their row ids: until `max_bytes` are passed."""
        rows = self._all(
            f"SELECT {_COLUMNS} FROM (SELECT *, sum(size_bytes) OVER (ORDER BY id) - size_bytes AS before"  # noqa: S608 -- a constant
            " FROM interactions WHERE folded = 0 AND probe = 0 AND verdict IS NOT 'rejected' AND domain IS ?)"
            " WHERE before < ? ORDER BY id",
            (domain, max_bytes),
        )
        return [(row[0], _interaction(row)) for row in rows]

    def accepted(self, domain: Domain, max_bytes: int = FOLD_MAX_BYTES) -> list[str]:
        """The newest texts of a domain whose answers were accepted and ended in CRYSTAL, until `max_bytes` are passed.

        Those that wait to be counted, and those that were.
        """
        rows = self._all(
            "SELECT text FROM (SELECT *, sum(size_bytes) OVER (ORDER BY id DESC) - size_bytes AS after"
            " FROM interactions WHERE verdict = 'accepted' AND phase = 'CRYSTAL' AND probe = 0 AND domain IS ?)"
            " WHERE after < ? ORDER BY id",
            (domain, max_bytes),
        )
        return [row[0] for row in rows]

    def probes(self, limit: int) -> list[str]:
        """The newest texts that were kept out of learning."""
        rows = self._all("SELECT text FROM interactions WHERE probe = 1 ORDER BY id DESC LIMIT ?", (limit,))
        return [row[0] for row in rows]

    def last_at_s(self) -> float:
        """When the newest interaction came; 0 when there is none."""
        row = self._one("SELECT max(at_s) FROM interactions")
        return float(row[0]) if row and row[0] is not None else 0.0

    # One interaction, afterwards

    def find(self, client: str, query_id: str) -> Kept | None:
        """How an interaction stands; None when nothing is kept under this name."""
        row = self._one(
            "SELECT id, domain, probe, folded, packet, ids, verdict, taken FROM interactions"
            " WHERE client = ? AND query_id = ?",
            (client, query_id),
        )
        if row is None:
            return None
        number, domain, probe, folded, packet, ids, verdict, taken = row
        memory = None if taken is None else memory_file.from_bytes(taken, MAX_VOCAB)
        return Kept(number, domain, bool(probe), bool(folded), packet, _ids(ids), verdict, memory)

    def members(self, sequence: int) -> dict[int, Ids]:
        """What was counted for a packet: the ids of each text that is still kept, by row."""
        rows = self._all("SELECT id, ids FROM interactions WHERE packet = ?", (sequence,))
        return {row: np.frombuffer(ids, _IDS).astype(np.int32) for row, ids in rows}

    def packets_since(self, domain: Domain, sequence: int) -> list[Packet]:
        """The packets of a domain from this sequence on, whatever became of them."""
        rows = self._all(
            "SELECT * FROM packets WHERE domain IS ? AND sequence >= ? ORDER BY sequence", (domain, sequence)
        )
        return [_packet(row) for row in rows]

    def forget(self, row: int, domain: Domain, residue: Memory | None, withdrawn: Iterable[int] = ()) -> None:
        """An interaction goes, with its answer; not a byte of either stays in the file.

        residue: the domain's without it, None where it does not change; withdrawn: packets that have not left and
        never will; what was counted for them waits to be counted again. A gate that learned from it goes with it.
        """
        with self._write() as db:
            _withdraw(db, withdrawn)
            if residue is not None:
                _put_residue(db, domain, residue)
                _drop_gate(db, domain)
            db.execute("DELETE FROM interactions WHERE id = ?", (row,))
        self._scrub()

    def judge(
        self,
        row: int,
        verdict: Verdict | None,
        taken: Memory | None,
        domain: Domain,
        residue: Memory | None,
        withdrawn: Iterable[int] = (),
    ) -> None:
        """An interaction is accepted, rejected, or neither. residue, withdrawn: as of `forget`; taken: see Kept.

        Where the residue changes, the gate goes too.
        """
        kept = None if taken is None else memory_file.to_bytes(taken)
        with self._write() as db:
            _withdraw(db, withdrawn)
            if residue is not None:
                _put_residue(db, domain, residue)
                _drop_gate(db, domain)
            db.execute("UPDATE interactions SET verdict = ?, taken = ? WHERE id = ?", (verdict, kept, row))

    # Sleep

    @property
    def sequence(self) -> int:
        """The sequence that the next packet gets."""
        return int(self._meta("sequence") or 0)

    def residue(self, domain: Domain) -> Memory:
        """The counts of a domain that no bundle has taken yet."""
        row = self._one("SELECT memory FROM residue WHERE domain = ?", (domain or "",))
        return memory_file.from_bytes(row[0], MAX_VOCAB) if row else count([], ORDERS)

    def residues(self) -> dict[Domain, Memory]:
        """All of them."""
        rows = self._all("SELECT domain, memory FROM residue")
        return {row[0] or None: memory_file.from_bytes(row[1], MAX_VOCAB) for row in rows}

    def tuned(self, domain: Domain) -> Tuned | None:
        """The gate that was learned here for a domain."""
        row = self._one("SELECT gate, gain_bits FROM gates WHERE domain = ?", (domain or "",))
        return None if row is None else Tuned(np.frombuffer(row[0], "<f8").reshape(BUCKETS, -1), row[1])

    def learned(self) -> list[Domain]:
        """The domains that have a residue or a gate."""
        rows = self._all("SELECT domain FROM residue UNION SELECT domain FROM gates ORDER BY domain")
        return [row[0] or None for row in rows]

    def basins(self, domain: Domain) -> list[bytes]:
        """Where the fresh text of a domain's packets lay, oldest first: a basin of 64 bytes each."""
        rows = self._all("SELECT basin FROM packets WHERE domain IS ? ORDER BY sequence", (domain,))
        return [row[0] for row in rows]

    def slept(self, folded: Mapping[int, Ids], residue: Memory, packet: Packet, tuned: Tuned | None = None) -> None:
        """One sleep, whole or not at all: interactions counted, the residue they led to, the packet that came of it.

        folded: what was counted of each row; packet.sequence must be `sequence`, which moves on; tuned: the gate that
        was learned from them, None where it stays.
        """
        p = packet
        with self._write() as db:
            expected = int(_meta(db, "sequence") or 0)
            assert p.sequence == expected, f"packet {p.sequence} where {expected} is due"
            db.executemany(
                "UPDATE interactions SET folded = 1, packet = ?, ids = ? WHERE id = ?",
                [(p.sequence, ids.astype(_IDS).tobytes(), row) for row, ids in folded.items()],
            )
            _put_residue(db, p.domain, residue)
            db.execute(
                "INSERT INTO packets VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (p.sequence, p.domain, p.status, p.at_s, p.base_version, p.base, p.basin, p.body,
                 memory_file.to_bytes(p.counts), p.raw),
            )  # fmt: skip
            if tuned is not None:
                values = (p.domain or "", tuned.gate.astype("<f8").tobytes(), tuned.gain_bits)
                db.execute("INSERT OR REPLACE INTO gates VALUES (?, ?, ?)", values)
            _set_meta(db, "sequence", str(expected + 1))

    def packets(self, *statuses: Status) -> list[Packet]:
        """The packets in these states, oldest first."""
        marks = ", ".join("?" * len(statuses))
        rows = self._all(f"SELECT * FROM packets WHERE status IN ({marks}) ORDER BY sequence", statuses)  # noqa: S608 -- question marks
        return [_packet(row) for row in rows]

    def leaving(self, sequence: int, raw: bytes) -> None:
        """A packet is about to be handed to the broker, as these bytes: from here on it may have left."""
        with self._write() as db:
            db.execute("UPDATE packets SET raw = ? WHERE sequence = ? AND status = 'pending'", (raw, sequence))

    def sent(self, sequence: int, raw: bytes, *, at_s: float) -> None:
        """A packet is in the broker, as these bytes."""
        with self._write() as db:
            db.execute(
                "UPDATE packets SET status = 'sent', raw = ?, at_s = ? WHERE sequence = ? AND status = 'pending'",
                (raw, at_s, sequence),
            )

    def lose(self, sequences: Iterable[int], *, at_s: float) -> None:
        """These packets are waited for no longer; one may still be acknowledged later."""
        with self._write() as db:
            db.executemany(
                "UPDATE packets SET status = 'lost', at_s = ? WHERE sequence = ? AND status = 'sent'",
                [(at_s, sequence) for sequence in sequences],
            )

    def settle(
        self,
        acknowledged: Iterable[int],
        residues: Mapping[Domain, Memory],
        moved: Mapping[int, Domain],
        *,
        opened: Domain = None,
        cursor: str | None,
        at_s: float,
    ) -> None:
        """A bundle was dealt with: packets settled, residues as given, rows of fresh text moved to another domain.

        opened: the domain that new territory's residue went to, and with it whatever was counted into that residue, and
        its gate; cursor: the entry id of the bundle, from which the next start reads on; None: it does not move.
        """
        with self._write() as db:
            db.executemany(
                "UPDATE packets SET status = 'acknowledged', at_s = ? WHERE sequence = ?",
                [(at_s, sequence) for sequence in acknowledged],
            )
            for domain, residue in residues.items():
                _put_residue(db, domain, residue)
            _move(db, moved)
            if opened is not None:
                db.execute("UPDATE interactions SET domain = ? WHERE domain IS NULL AND folded = 1", (opened,))
                db.execute("UPDATE packets SET domain = ? WHERE domain IS NULL", (opened,))
                db.execute("UPDATE OR IGNORE gates SET domain = ? WHERE domain = ''", (opened,))
                _drop_gate(db, None)
            if cursor is not None:
                _set_meta(db, "cursor", cursor)

    @property
    def cursor(self) -> str | None:
        """The entry id of the last bundle that was dealt with."""
        return self._meta("cursor")

    def move(self, moved: Mapping[int, Domain]) -> None:
        """Rows of fresh text that belong to another domain than was thought."""
        with self._write() as db:
            _move(db, moved)

    # Bounds

    def prune(self, *, now_s: float, max_age_s: float, max_bytes: int) -> int:
        """Deletes interactions that are too old, and the oldest while texts and answers are too many bytes, folded or
        not; returns how many went. Settled packets go by the same age; one that waits is kept.
        """
        limit_s = now_s - max_age_s
        with self._write() as db:
            gone = db.execute("DELETE FROM interactions WHERE at_s < ?", (limit_s,)).rowcount
            if _used_bytes(db) > max_bytes:  # else there is nothing to add up: what is kept lies in the pages
                gone += db.execute(
                    "DELETE FROM interactions WHERE id IN (SELECT id FROM (SELECT id, sum(length(CAST(text AS BLOB)) +"
                    " length(answer)) OVER (ORDER BY id DESC) AS kept FROM interactions) WHERE kept > ?)",
                    (max_bytes,),
                ).rowcount
            db.execute("DELETE FROM packets WHERE status IN ('acknowledged', 'lost') AND at_s < ?", (limit_s,))
        self._scrub()  # every time: one that found the file being read left the log as it was
        return gone

    # The file

    def _prepare(self, now_s: float) -> None:
        with _sql(self._path):
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA secure_delete = ON")
            version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
            owner = int(self._db.execute("PRAGMA application_id").fetchone()[0])
            tables = int(self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
        if version == 0 and tables == 0:
            self._create(now_s)
        elif owner != APPLICATION_ID:
            raise Corrupt("not_a_record", f"{self._path} is another program's database: move it away")
        elif version in _MIGRATIONS:
            self._migrate(version)
        elif version != SCHEMA_VERSION:
            raise _wrong_version(self._path, version)

    def _create(self, now_s: float) -> None:
        with self._write() as db:
            for statement in _SCHEMA.strip().split(";\n"):
                db.execute(statement)
            _set_meta(db, "epoch", str(int(now_s)))
            _set_meta(db, "sequence", "0")
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _migrate(self, version: int) -> None:
        with self._write() as db:
            for step in range(version, SCHEMA_VERSION):
                for statement in _MIGRATIONS[step].strip().split(";\n"):
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _scrub(self) -> None:
        """Carries the log into the file and empties it: what was overwritten in the one is gone from the other."""
        with self._turn, _sql(self._path):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    @contextlib.contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._turn, _sql(self._path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _all(self, sql: str, values: Sequence[object] = ()) -> list[tuple]:  # type: ignore[type-arg]  # rows of any columns
        with self._turn, _sql(self._path):
            return self._db.execute(sql, values).fetchall()

    def _one(self, sql: str, values: Sequence[object] = ()) -> tuple | None:  # type: ignore[type-arg]
        return next(iter(self._all(sql, values)), None)

    def _meta(self, name: str) -> str | None:
        with self._turn, _sql(self._path):
            return _meta(self._db, name)


def _meta(db: sqlite3.Connection, name: str) -> str | None:
    row = db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(row[0])


def _set_meta(db: sqlite3.Connection, name: str, value: str) -> None:
    db.execute("INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (name, value))


def _move(db: sqlite3.Connection, moved: Mapping[int, Domain]) -> None:
    rows = [(domain, row) for row, domain in moved.items()]
    db.executemany("UPDATE interactions SET domain = ? WHERE id = ? AND folded = 0", rows)


def _used_bytes(db: sqlite3.Connection) -> int:
    pages, free, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _withdraw(db: sqlite3.Connection, sequences: Iterable[int]) -> None:
    for sequence in sequences:
        db.execute("UPDATE interactions SET folded = 0, packet = NULL, ids = NULL WHERE packet = ?", (sequence,))
        gone = db.execute("DELETE FROM packets WHERE sequence = ? AND raw IS NULL", (sequence,)).rowcount
        assert gone == 1, f"packet {sequence} has left: it cannot be withdrawn"


def _put_residue(db: sqlite3.Connection, domain: Domain, residue: Memory) -> None:
    if residue.entries:
        db.execute("INSERT OR REPLACE INTO residue VALUES (?, ?)", (domain or "", memory_file.to_bytes(residue)))
    else:
        db.execute("DELETE FROM residue WHERE domain = ?", (domain or "",))


def _drop_gate(db: sqlite3.Connection, domain: Domain) -> None:
    db.execute("DELETE FROM gates WHERE domain = ?", (domain or "",))


def _packet(row: tuple) -> Packet:  # type: ignore[type-arg]
    sequence, domain, status, at_s, base_version, base, basin, body, counts, raw = row
    carried = memory_file.from_bytes(counts, MAX_VOCAB)
    return Packet(sequence, domain, status, at_s, base_version, base, basin, body, carried, raw)


def _ids(blob: bytes | None) -> Ids | None:
    return None if blob is None else np.frombuffer(blob, _IDS).astype(np.int32)


def _interaction(row: tuple) -> Interaction:  # type: ignore[type-arg]
    query_id, client, text, at_s, domain, basin, tokens, size_bytes, bits, kappa, phase = row[1:]
    found: Phase | None = phase
    cells = np.frombuffer(basin, "<f8", CELLS)
    return Interaction(query_id, client, text, at_s, domain, cells, tokens, size_bytes, bits, kappa, found)


def read_packets(path: Path) -> tuple[int, list[Packet]]:
    """The epoch of an edge's file and its packets, oldest first, whether a process has it in use or not.

    Nothing is written or locked. Raises Corrupt, Rejected and Unavailable as Record does.
    """
    with _reading(path) as db:
        epoch = int(_meta(db, "epoch") or 0)
        return epoch, [_packet(row) for row in db.execute("SELECT * FROM packets ORDER BY sequence")]


def read_clients(path: Path, query_id: str) -> list[str]:
    """Whose interactions of that id an edge's file keeps, by name. Otherwise as `read_packets`."""
    with _reading(path) as db:
        rows = db.execute("SELECT client FROM interactions WHERE query_id = ? ORDER BY client", (query_id,))
        return [client for (client,) in rows]


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    with _sql(path), contextlib.closing(sqlite3.connect(f"file:{quote(os.fspath(path))}?mode=ro", uri=True)) as db:
        db.execute(f"PRAGMA busy_timeout = {int(1000 * BUSY_TIMEOUT_S)}")
        version = int(db.execute("PRAGMA user_version").fetchone()[0])
        if int(db.execute("PRAGMA application_id").fetchone()[0]) != APPLICATION_ID:
            raise Corrupt("not_a_record", f"{path} is another program's database: name an edge's")
        if version != SCHEMA_VERSION and version not in _MIGRATIONS:
            raise _wrong_version(path, version)
        db.execute("BEGIN")  # one look: a packet settled meanwhile is neither missed nor seen twice
        yield db


def _wrong_version(path: Path, version: int) -> Rejected:
    return Rejected(
        "record_version",
        f"{path} has schema {version}, this software reads {SCHEMA_VERSION}: use the matching release",
    )


def address_of(path: Path) -> str:
    """Where the process that has this file in use serves HTTP, http://HOST:PORT; empty where it does not say."""
    try:
        return _lock_path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _lock_path(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _lock(path: Path, address: str):  # type: ignore[no-untyped-def]  # noqa: ANN202 -- an open file, of a type without a public name
    """Holds `path`.lock, the address inside, until the process ends.

    Raises Unavailable("state_in_use", "unwritable").
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        guard = _lock_path(path).open("a", encoding="utf-8")
    except OSError as error:
        raise _refused(path, error.strerror or "") from error
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        guard.close()
        raise Unavailable(
            "state_in_use", f"{path} is in use by another process: an edge runs once a node, choose another QIG_NODE"
        ) from error
    guard.truncate(0)
    guard.write(address)
    guard.flush()
    return guard


def _refused(path: Path, reason: str) -> Unavailable:
    return Unavailable("unwritable", f"{path}: {reason}: make {os.fspath(path.parent)} writable for this user")


@contextlib.contextmanager
def _sql(path: Path) -> Iterator[None]:
    """What SQLite refuses, as an error whose class says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0)
        full = code == sqlite3.SQLITE_IOERR_SHMSIZE  # the log's index finds no room: SQLite calls that an I/O error
        code &= 0xFF
        if full or code == sqlite3.SQLITE_FULL:
            raise Unavailable("disk_full", f"no space left for {path}: free some, nothing was lost") from error
        if code in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_IOERR}:
            raise _refused(path, str(error)) from error
        if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            raise Unavailable("state_in_use", f"{path} is locked by another program: close it") from error
        if code in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}:
            raise Corrupt(
                "not_a_record",
                f"{path} is no database, or a damaged one ({error}): move it away; the edge then starts a new epoch",
            ) from error
        raise
