"""`qig forget`: delete one query, or all of one HTTP request, wherever an edge of this home keeps it.

stopped edge   edge.db is opened, and locked meanwhile
running edge   DELETE ADDRESS/v1/interactions/QUERY_ID?client=CLIENT     200 and what was done, as JSON
                                                                         404 unknown_interaction: not kept there
                                                                         401, 403: it wants the client's key, or to
                                                                         be stopped
"""

import asyncio
import json as json_text
import sys
import time
from dataclasses import asdict
from pathlib import Path
from socket import gethostname
from typing import Any, Final
from urllib.parse import quote

from common.errors import Rejected, Unavailable, said
from services.cli import probe
from services.cli.show import console, plain
from services.edge.http.asking import choice_ids
from services.edge.learning import forget_all
from services.edge.record import Record, address_of, read_clients

UNKNOWN: Final = "unknown_interaction"
TIMEOUT_S: Final = 60.0  # an edge that folds a megabyte of text forgets when it has done
_COUNTS: Final = {
    "none": "nothing had been counted of it",
    "taken": "its counts are out of what waits to be sent",
    "kept": "its counts stay: the release that counted it did not note them",
}


def run(
    *, query_id: str, client: str | None, node: str | None, home: Path, json: bool, key_file: Path | None = None
) -> int:
    """Say for each edge that kept it what was done. client: who asked; None: whoever did, when only one used that id.

    key_file: with the client's key, for running edges that want one; never the key itself, which every user of this
    machine would see. Raises Rejected("unknown_edge", "unknown_interaction", "many_clients", "bad_key_file").
    """
    key = None if key_file is None else read_key(key_file)
    files = edge_files(home, node)
    whose = client if client is not None else _only_client(files, query_id, home)
    found = 0
    for file in files:  # what one edge did is said before another is asked, which may fail
        done = _forget(file, whose, query_id, key)
        if done is not None:
            found += 1
            _tell(file.parent.name, done, json=json)
    if not found:
        message = f"{query_id!r} of client {whose!r} is kept by none of {len(files)} edges below {home}: see --client"
        raise Rejected(UNKNOWN, message)
    return 0


def _only_client(files: list[Path], query_id: str, home: Path) -> str:
    clients = sorted({client for file in files for client in read_clients(file, query_id)})
    if not clients:
        message = f"{query_id!r} is kept by none of {len(files)} edges below {home}: see --home, --node"
        raise Rejected(UNKNOWN, message)
    if len(clients) > 1:
        message = (
            f"{len(clients)} clients asked under the id {query_id!r} ({', '.join(clients)}): say whose, --client NAME"
        )
        raise Rejected("many_clients", message)
    return clients[0]


def edge_files(home: Path, node: str | None) -> list[Path]:
    """The state files of the edges of a home, or of one: what `qig up` keeps, and what an edge with this QIG_HOME does.

    Raises Rejected("unknown_edge").
    """
    found = sorted([*home.glob("edges/*/edge.db"), *home.glob("nodes/*/edges/*/edge.db")])
    chosen = [file for file in found if node in (None, file.parent.name)]
    if not chosen:
        there = ", ".join(file.parent.name for file in found) or "none"
        which = "any edge" if node is None else f"edge {node}"
        raise Rejected("unknown_edge", f"no state of {which} below {home} (there: {there}): see --home, --node")
    return chosen


def read_key(file: Path) -> str:
    """The API key in a file. Raises Rejected("bad_key_file")."""
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Rejected("bad_key_file", f"{file} cannot be read ({said(error)}): see --key-file") from None
    if not (key and key.isascii() and key.isprintable() and " " not in key):
        message = f"{file} holds no API key: it is one line, as `qig keys api add` wrote it"
        raise Rejected("bad_key_file", message)
    return key


def _forget(file: Path, client: str, query_id: str, key: str | None) -> dict[str, Any] | None:
    try:
        record = Record(file, now_s=time.time())
    except Unavailable as error:
        if error.code != "state_in_use":
            raise
        return asyncio.run(_ask(file, client, query_id, key))
    try:
        done = forget_all(record, client, choice_ids(query_id))
    finally:
        record.close()
    return None if done is None else asdict(done)


async def _ask(file: Path, client: str, query_id: str, key: str | None) -> dict[str, Any] | None:
    node, address = file.parent.name, address_of(file)
    if not address:
        message = (
            f"{node} runs, and does not say where it serves HTTP (QIG_HTTP_PORT is 0): stop it, and say this again"
        )
        raise Unavailable("edge_running", message)
    reached = address.replace(f"//{gethostname()}:", "//localhost:")  # not every machine finds itself by its name
    url = f"{reached}/v1/interactions/{quote(query_id, safe='')}?client={quote(client, safe='')}"
    status, body = await probe.request("DELETE", url, TIMEOUT_S, key)
    if status == 404 and UNKNOWN.encode() in body:
        return None
    if status in (401, 403):
        why = "asks for a key" if key is None else f"does not take this key for {client!r}"
        message = f"{node} {why}: name a file with that client's, --key-file FILE, or stop it and forget again"
        raise Unavailable("edge_running", message)
    try:
        told = json_text.loads(body)
        return {"counts": told["counts"], "withdrawn": told["withdrawn"], "left": told["left"]}
    except (ValueError, KeyError, TypeError):
        reason = body[:200].decode("utf-8", "replace")
        raise Unavailable("no_answer", f"{node} at {address} did not forget it: HTTP {status} {reason}") from None


def _tell(node: str, done: dict[str, Any], *, json: bool) -> None:
    if json:
        sys.stdout.write(json_text.dumps({"node": node, **done}) + "\n")
    else:
        console().print("\n".join(plain(line) for line in _lines(node, done)))


def _lines(node: str, told: dict[str, Any]) -> list[str]:
    counts = str(told["counts"])
    lines = [f"{node}: deleted the text and its answer; {_COUNTS.get(counts, counts)}"]
    lines += [f"{node}: packet {sequence} had not left: made anew without it" for sequence in told["withdrawn"]]
    for left in told["left"]:
        carried = f"carries {left['ngrams']} n-grams that occur in it" if left["ngrams"] else "counts it in its figures"
        lines.append(f"{node}: packet {left['sequence']} has left ({left['status']}) and {carried}")
    return lines
