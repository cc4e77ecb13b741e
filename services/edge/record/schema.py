"""The tables of an edge's file, and how a file of an older release becomes one of this."""

import sqlite3
from pathlib import Path
from typing import Final

from common.errors import Rejected

SCHEMA_VERSION: Final = 6
APPLICATION_ID: Final = 0x51494745  # "QIGE"
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
CREATE TABLE residue (domain TEXT PRIMARY KEY, memory BLOB NOT NULL, owed BLOB);
CREATE TABLE gates (domain TEXT PRIMARY KEY, gate BLOB NOT NULL, gain_bits REAL NOT NULL);
CREATE TABLE packets (
  sequence INTEGER PRIMARY KEY, domain TEXT, status TEXT NOT NULL, at_s REAL NOT NULL, base_version INTEGER NOT NULL,
  base BLOB NOT NULL, basin BLOB NOT NULL, body BLOB NOT NULL, counts BLOB NOT NULL, raw BLOB,
  settled_by INTEGER, release TEXT);
CREATE INDEX packets_status ON packets (status);
CREATE TABLE mentions (hash INTEGER PRIMARY KEY, packet INTEGER NOT NULL);
CREATE INDEX mentions_packet ON mentions (packet);
CREATE TABLE common (hash INTEGER PRIMARY KEY, told INTEGER NOT NULL);
CREATE INDEX common_told ON common (told);
"""
# By the schema that they start from. What an older release folded has no ids: its counts cannot be told apart any more.
MIGRATIONS: Final = {
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
    3: """
CREATE TABLE mentions (hash INTEGER PRIMARY KEY, packet INTEGER NOT NULL);
CREATE INDEX mentions_packet ON mentions (packet);
CREATE TABLE common (hash INTEGER PRIMARY KEY, told INTEGER NOT NULL);
CREATE INDEX common_told ON common (told);
""",
    4: """
ALTER TABLE residue ADD COLUMN owed BLOB;
""",
    5: """
ALTER TABLE packets ADD COLUMN settled_by INTEGER;
ALTER TABLE packets ADD COLUMN release TEXT;
""",
}


def create(db: sqlite3.Connection, now_s: float) -> None:
    """A new file's tables, and the epoch that begins with it. In a transaction of the caller's, as all here."""
    for statement in _SCHEMA.strip().split(";\n"):
        db.execute(statement)
    set_meta(db, "epoch", str(int(now_s)))
    set_meta(db, "sequence", "0")
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def migrate(db: sqlite3.Connection, version: int) -> None:
    """Brings a file of an older schema up to this one."""
    for step in range(version, SCHEMA_VERSION):
        for statement in MIGRATIONS[step].strip().split(";\n"):
            db.execute(statement)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def meta(db: sqlite3.Connection, name: str) -> str | None:
    """A value of the table `meta`."""
    row = db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(row[0])


def set_meta(db: sqlite3.Connection, name: str, value: str) -> None:
    """Puts one there."""
    db.execute("INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (name, value))


def wrong_version(path: Path, version: int) -> Rejected:
    """For a file that neither this release nor an older one made."""
    return Rejected(
        "record_version",
        f"{path} has schema {version}, this software reads {SCHEMA_VERSION}: use the matching release",
    )
