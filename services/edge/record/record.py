"""The steps of an edge's memory that change counts, packets and gates, each one transaction."""

import json
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from common.kernels import memory_file
from common.kernels.gate import BUCKETS
from common.kernels.memory import Ids, Memory
from common.kernels.spec import MAX_VOCAB
from common.wire.mentions import NO_HASHES, Hashes
from services.edge.balance import EMPTY, Balance
from services.edge.local import Tuned
from services.edge.record.file import File
from services.edge.record.mentions import Mentions
from services.edge.record.rows import IDS, Domain, Merges, Packet, Settling, Status, Verdict, packet_of
from services.edge.record.schema import meta, set_meta
from services.edge.record.texts import Texts, moved_to

ORDERS: Final = 3  # of a residue: what crystals can carry
MENTIONED_MAX: Final = 1 << 14  # as many as the centre keeps of an edge


class Record:
    """The open file, with `texts` and `mentions`. Methods may be called from any thread; each is one transaction."""

    def __init__(self, path: Path, *, now_s: float, address: str = "") -> None:
        """Opens or makes the file. Raises Unavailable (disk_full, unwritable, state_in_use), Corrupt, Rejected.

        address: where this process serves HTTP, told to whoever finds the file in use (`address_of`).
        """
        self._file: Final = File(path, now_s=now_s, address=address)
        self.texts: Final = Texts(self._file)
        self.mentions: Final = Mentions(self._file)
        self.epoch: Final = int(self._file.meta("epoch") or 0)

    def close(self) -> None:
        """Closes the file and gives up the lock."""
        self._file.close()

    def packets_since(self, domain: Domain, sequence: int) -> list[Packet]:
        """The packets of a domain from this sequence on, whatever became of them."""
        rows = self._file.all(
            "SELECT * FROM packets WHERE domain IS ? AND sequence >= ? ORDER BY sequence", (domain, sequence)
        )
        return [packet_of(row) for row in rows]

    def forget(self, row: int, domain: Domain, balance: Balance | None, withdrawn: Iterable[int] = ()) -> None:
        """An interaction goes, with its answer; not a byte of either stays in the file.

        balance: the domain's without it, None where it does not change; withdrawn: packets that have not left and
        never will; what was counted for them waits to be counted again. A gate that learned from it goes with it.
        """
        with self._file.write() as db:
            _withdraw(db, withdrawn)
            if balance is not None:
                _put_balance(db, domain, balance)
                _drop_gate(db, domain)
            db.execute("DELETE FROM interactions WHERE id = ?", (row,))
        self._file.scrub()

    def judge(
        self,
        row: int,
        verdict: Verdict | None,
        taken: Memory | None,
        domain: Domain,
        balance: Balance | None,
        withdrawn: Iterable[int] = (),
    ) -> None:
        """An interaction is accepted, rejected, or neither. balance, withdrawn: as of `forget`; taken: see Kept.

        Where the balance changes, the gate goes too.
        """
        kept = None if taken is None else memory_file.to_bytes(taken)
        with self._file.write() as db:
            _withdraw(db, withdrawn)
            if balance is not None:
                _put_balance(db, domain, balance)
                _drop_gate(db, domain)
            db.execute("UPDATE interactions SET verdict = ?, taken = ? WHERE id = ?", (verdict, kept, row))

    @property
    def sequence(self) -> int:
        """The sequence that the next packet gets."""
        return int(self._file.meta("sequence") or 0)

    def move_on(self, sequence: int) -> None:
        """The next packet gets this sequence, which is higher than the one that is due."""
        with self._file.write() as db:
            set_meta(db, "sequence", str(sequence))

    def residue(self, domain: Domain) -> Memory:
        """The counts of a domain that no bundle has taken yet."""
        return self.balance(domain).residue

    def balance(self, domain: Domain) -> Balance:
        """A domain's residue, and what is owed of it."""
        row = self._file.one("SELECT memory, owed FROM residue WHERE domain = ?", (domain or "",))
        return EMPTY if row is None else _balance_of(*row)

    def balances(self) -> dict[Domain, Balance]:
        """All of them."""
        rows = self._file.all("SELECT domain, memory, owed FROM residue")
        return {domain or None: _balance_of(*columns) for domain, *columns in rows}

    def tuned(self, domain: Domain) -> Tuned | None:
        """The gate that was learned here for a domain."""
        row = self._file.one("SELECT gate, gain_bits FROM gates WHERE domain = ?", (domain or "",))
        return None if row is None else Tuned(np.frombuffer(row[0], "<f8").reshape(BUCKETS, -1), row[1])

    def learned(self) -> list[Domain]:
        """The domains that have a residue or a gate."""
        rows = self._file.all("SELECT domain FROM residue UNION SELECT domain FROM gates ORDER BY domain")
        return [row[0] or None for row in rows]

    def basins(self, domain: Domain) -> list[bytes]:
        """Where the fresh text of a domain's packets lay, oldest first: a basin of 64 bytes each."""
        rows = self._file.all("SELECT basin FROM packets WHERE domain IS ? ORDER BY sequence", (domain,))
        return [row[0] for row in rows]

    def slept(
        self,
        folded: Mapping[int, Ids],
        balance: Balance,
        packet: Packet,
        tuned: Tuned | None = None,
        mentioned: Hashes = NO_HASHES,
    ) -> None:
        """One sleep, whole or not at all: interactions counted, the balance they led to, the packet that came of it.

        folded: what was counted of each row; packet.sequence must be `sequence`, which moves on; tuned: the gate that
        was learned from them, None where it stays; mentioned: by the packet. Of mentions the newest MENTIONED_MAX are
        kept.
        """
        p = packet
        with self._file.write() as db:
            expected = int(meta(db, "sequence") or 0)
            assert p.sequence == expected, f"packet {p.sequence} where {expected} is due"
            db.executemany(
                "UPDATE interactions SET folded = 1, packet = ?, ids = ? WHERE id = ?",
                [(p.sequence, ids.astype(IDS).tobytes(), row) for row, ids in folded.items()],
            )
            _put_balance(db, p.domain, balance)
            db.execute(
                "INSERT INTO packets VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL)",
                (p.sequence, p.domain, p.status, p.at_s, p.base_version, p.base, p.basin, p.body,
                 memory_file.to_bytes(p.counts), p.raw),
            )  # fmt: skip
            if tuned is not None:
                values = (p.domain or "", tuned.gate.astype("<f8").tobytes(), tuned.gain_bits)
                db.execute("INSERT OR REPLACE INTO gates VALUES (?, ?, ?)", values)
            rows = [(each, p.sequence) for each in mentioned.tolist()]
            db.executemany("INSERT OR REPLACE INTO mentions VALUES (?, ?)", rows)
            db.execute(
                "DELETE FROM mentions WHERE packet <= (SELECT packet FROM mentions ORDER BY packet DESC"
                " LIMIT 1 OFFSET ?)",
                (MENTIONED_MAX,),
            )
            set_meta(db, "sequence", str(expected + 1))

    def packets(self, *statuses: Status) -> list[Packet]:
        """The packets in these states, oldest first."""
        marks = ", ".join("?" * len(statuses))
        rows = self._file.all(f"SELECT * FROM packets WHERE status IN ({marks}) ORDER BY sequence", statuses)  # noqa: S608 -- question marks
        return [packet_of(row) for row in rows]

    def leaving(self, sequence: int, raw: bytes) -> bool:
        """A packet is about to be handed to the broker, as these bytes: from here on it may have left. False, and
        nothing done, where it is not to be sent any more.
        """
        with self._file.write() as db:
            done = db.execute(
                "UPDATE packets SET raw = ? WHERE sequence = ? AND status IN ('pending', 'sent')", (raw, sequence)
            )
            return done.rowcount == 1

    def sent(self, sequence: int, raw: bytes, *, at_s: float) -> None:
        """A packet is in the broker, as these bytes."""
        with self._file.write() as db:
            db.execute(
                "UPDATE packets SET status = 'sent', raw = ?, at_s = ? WHERE sequence = ? AND status = 'pending'",
                (raw, at_s, sequence),
            )

    def lose(
        self,
        sequences: Iterable[int],
        *,
        balances: Mapping[Domain, Balance] = MappingProxyType({}),
        cursor: str | None = None,
        at_s: float,
        status: Literal["lost", "taken_back"] = "lost",
    ) -> None:
        """These packets are waited for no longer, where they may have left. What they mentioned goes out again.

        balances: as they are with the counts of those that had been settled; cursor: the entry id of what said so, from
        which the next start reads on; None: it does not move. status: of one that is lost a bundle may still tell, of
        one whose release was taken back none that counts.
        """
        with self._file.write() as db:
            db.executemany(
                "UPDATE packets SET status = ?, at_s = ?"
                " WHERE sequence = ? AND status IN ('pending', 'sent', 'acknowledged', 'lost') AND raw IS NOT NULL",
                [(status, at_s, sequence) for sequence in sequences],
            )
            for domain, balance in balances.items():
                _put_balance(db, domain, balance)
            db.execute(
                "DELETE FROM mentions WHERE packet IN (SELECT sequence FROM packets WHERE status = ?)", (status,)
            )
            if cursor is not None:
                set_meta(db, "returned", cursor)

    def settle(
        self,
        acknowledged: Iterable[int],
        balances: Mapping[Domain, Balance],
        moved: Mapping[int, Domain],
        *,
        opened: Domain = None,
        by: Settling | None = None,
        cursor: str | None,
        at_s: float,
    ) -> None:
        """A bundle was dealt with: packets settled, balances as given, rows of fresh text moved to another domain.

        opened: the domain that new territory's balance went to, and with it whatever was counted into that one, and its
        gate; by: the bundle; cursor: its entry id, from which the next start reads on; None: it does not move.
        """
        with self._file.write() as db:
            db.executemany(
                "UPDATE packets SET status = 'acknowledged', at_s = ?, settled_by = ?, release = ? WHERE sequence = ?",
                [(at_s, *(by or (None, None)), sequence) for sequence in acknowledged],
            )
            for domain, balance in balances.items():
                _put_balance(db, domain, balance)
            moved_to(db, moved)
            if opened is not None:
                db.execute("UPDATE interactions SET domain = ? WHERE domain IS NULL AND folded = 1", (opened,))
                db.execute("UPDATE packets SET domain = ? WHERE domain IS NULL", (opened,))
                db.execute("UPDATE OR IGNORE gates SET domain = ? WHERE domain = ''", (opened,))
                _drop_gate(db, None)
            if cursor is not None:
                set_meta(db, "cursor", cursor)

    def unsettle(
        self, sequences: Iterable[int], balances: Mapping[Domain, Balance], kept: Iterable[int], by: Settling
    ) -> None:
        """Packets that a release named which is none any more: they go out again, under their names.

        balances: with what they carried; kept: those that the bundle `by` names too, which settles them from now on.
        """
        with self._file.write() as db:
            db.executemany(
                "UPDATE packets SET status = 'pending', settled_by = NULL, release = NULL"
                " WHERE sequence = ? AND status = 'acknowledged'",
                [(sequence,) for sequence in sequences],
            )
            db.executemany(
                "UPDATE packets SET settled_by = ?, release = ? WHERE sequence = ? AND status = 'acknowledged'",
                [(*by, sequence) for sequence in kept],
            )
            for domain, balance in balances.items():
                _put_balance(db, domain, balance)

    def settlings(self) -> dict[int, Settling]:
        """By which bundle each packet was settled, by sequence, where that is known."""
        rows = self._file.all(
            "SELECT sequence, settled_by, release FROM packets WHERE status = 'acknowledged' AND settled_by IS NOT NULL"
        )
        return {sequence: Settling(version, release) for sequence, version, release in rows}

    @property
    def cursor(self) -> str | None:
        """The entry id of the last bundle that was dealt with."""
        return self._file.meta("cursor")

    def domains(self) -> list[str]:
        """The names under which something waits, is learned or was sent; new territory has none."""
        rows = self._file.all(
            "SELECT domain FROM residue UNION SELECT domain FROM gates UNION SELECT domain FROM packets"
            " UNION SELECT domain FROM interactions WHERE folded = 0 ORDER BY domain"
        )
        return [row[0] for row in rows if row[0]]

    def based_on(self, domain: str) -> int | None:
        """The oldest bundle that a packet of a domain is based on; None without one."""
        row = self._file.one("SELECT min(base_version) FROM packets WHERE domain = ?", (domain,))
        return None if row is None else row[0]

    def inherit(self, domain: str, heir: Domain, balance: Balance) -> None:
        """A domain has ended: texts, packets and gate are its heir's, whose balance is as given; its own is no more.

        A gate that the heir has stays. heir: None where it is new territory again.
        """
        with self._file.write() as db:
            _put_balance(db, heir, balance)
            db.execute("DELETE FROM residue WHERE domain = ?", (domain,))
            db.execute("UPDATE OR IGNORE gates SET domain = ? WHERE domain = ?", (heir or "", domain))
            _drop_gate(db, domain)
            db.execute("UPDATE interactions SET domain = ? WHERE domain = ?", (heir, domain))
            db.execute("UPDATE packets SET domain = ? WHERE domain = ?", (heir, domain))

    @property
    def returned(self) -> str | None:
        """The entry id of the last entry of `qig:returned` that was dealt with."""
        return self._file.meta("returned")

    @property
    def merges(self) -> Merges | None:
        """The merges of the vocabulary that all counts are in; None before the first bundle served."""
        packed = self._file.meta("merges")
        return None if packed is None else tuple((left, right) for left, right in json.loads(packed))

    def translate(
        self,
        merges: Merges,
        *,
        ids: Mapping[int, npt.NDArray[np.uint16]],
        taken: Mapping[int, Memory],
        balances: Mapping[Domain, Balance],
        counts: Mapping[int, Memory],
    ) -> None:
        """All counts are in another vocabulary from now on, whole or not at all.

        ids: of IDS; ids, taken: by row; balances: all of them; counts: of each packet, by sequence.
        """
        with self._file.write() as db:
            db.executemany(
                "UPDATE interactions SET ids = ? WHERE id = ?",
                ((found.tobytes(), row) for row, found in ids.items()),
            )
            db.executemany(
                "UPDATE interactions SET taken = ? WHERE id = ?",
                [(memory_file.to_bytes(memory), row) for row, memory in taken.items()],
            )
            for domain, balance in balances.items():
                _put_balance(db, domain, balance)
            db.executemany(
                "UPDATE packets SET counts = ? WHERE sequence = ?",
                [(memory_file.to_bytes(memory), sequence) for sequence, memory in counts.items()],
            )
            set_meta(db, "merges", json.dumps(merges, separators=(",", ":")))


def _withdraw(db: sqlite3.Connection, sequences: Iterable[int]) -> None:
    for sequence in sequences:
        db.execute("UPDATE interactions SET folded = 0, packet = NULL, ids = NULL WHERE packet = ?", (sequence,))
        gone = db.execute("DELETE FROM packets WHERE sequence = ? AND raw IS NULL", (sequence,)).rowcount
        assert gone == 1, f"packet {sequence} has left: it cannot be withdrawn"
        db.execute("DELETE FROM mentions WHERE packet = ?", (sequence,))


def _balance_of(residue: bytes, owed: bytes | None) -> Balance:
    read = memory_file.from_bytes(residue, MAX_VOCAB)
    return Balance(read) if owed is None else Balance(read, memory_file.from_bytes(owed, MAX_VOCAB))


def _put_balance(db: sqlite3.Connection, domain: Domain, balance: Balance) -> None:
    residue, owed = balance.residue, balance.owed
    owes = any(len(table.contexts) for table in owed.tables)
    if residue.entries or owes:
        packed = memory_file.to_bytes(residue), memory_file.to_bytes(owed) if owes else None
        db.execute("INSERT OR REPLACE INTO residue (domain, memory, owed) VALUES (?, ?, ?)", (domain or "", *packed))
    else:
        db.execute("DELETE FROM residue WHERE domain = ?", (domain or "",))


def _drop_gate(db: sqlite3.Connection, domain: Domain) -> None:
    db.execute("DELETE FROM gates WHERE domain = ?", (domain or "",))
