"""An edge's file as another process sees it, in use or not. Nothing is written or locked."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from common.errors import Corrupt
from common.kernels import memory_file
from common.kernels.memory import Memory
from common.kernels.spec import MAX_VOCAB
from services.edge.record.file import BUSY_TIMEOUT_S, translated
from services.edge.record.rows import Asked, Packet, packet_of
from services.edge.record.schema import APPLICATION_ID, MIGRATIONS, SCHEMA_VERSION, meta, wrong_version


def read_packets(path: Path) -> tuple[int, list[Packet]]:
    """The epoch of an edge's file and its packets, oldest first, whether a process has it in use or not.

    Nothing is written or locked. Raises Corrupt, Rejected and Unavailable as Record does.
    """
    with _reading(path) as db:
        epoch = int(meta(db, "epoch") or 0)
        return epoch, [packet_of(row) for row in db.execute("SELECT * FROM packets ORDER BY sequence")]


def read_residues(path: Path) -> list[Memory]:
    """The counts of every domain that no bundle has taken yet. Otherwise as `read_packets`."""
    with _reading(path) as db:
        return [memory_file.from_bytes(blob, MAX_VOCAB) for (blob,) in db.execute("SELECT memory FROM residue")]


def read_clients(path: Path, query_id: str) -> list[str]:
    """Whose interactions of that id an edge's file keeps, by name. Otherwise as `read_packets`."""
    with _reading(path) as db:
        rows = db.execute("SELECT client FROM interactions WHERE query_id = ? ORDER BY client", (query_id,))
        return [client for (client,) in rows]


def read_asked(path: Path, query_id: str) -> list[Asked]:
    """What an edge's file keeps of the queries of that id, by client. Otherwise as `read_packets`."""
    with _reading(path) as db:
        rows = db.execute(
            "SELECT client, query_id, at_s, domain, probe, folded, verdict, packet FROM interactions"
            " WHERE query_id = ? ORDER BY client",
            (query_id,),
        )
        return [
            Asked(client, name, at_s, domain, bool(probe), bool(folded), verdict, packet)
            for client, name, at_s, domain, probe, folded, verdict, packet in rows
        ]


def read_counted(path: Path, sequence: int) -> list[str]:
    """The ids of the queries that were counted in a packet and are still kept, oldest first. Otherwise as
    `read_packets`.
    """
    with _reading(path) as db:
        rows = db.execute("SELECT query_id FROM interactions WHERE packet = ? ORDER BY id", (sequence,))
        return [name for (name,) in rows]


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    with (
        translated(path),
        contextlib.closing(sqlite3.connect(f"file:{quote(os.fspath(path))}?mode=ro", uri=True)) as db,
    ):
        db.execute(f"PRAGMA busy_timeout = {int(1000 * BUSY_TIMEOUT_S)}")
        version = int(db.execute("PRAGMA user_version").fetchone()[0])
        if int(db.execute("PRAGMA application_id").fetchone()[0]) != APPLICATION_ID:
            raise Corrupt("not_a_record", f"{path} is another program's database: name an edge's")
        if version != SCHEMA_VERSION and version not in MIGRATIONS:
            raise wrong_version(path, version)
        db.execute("BEGIN")  # one look: a packet settled meanwhile is neither missed nor seen twice
        yield db
