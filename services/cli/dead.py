"""`qig dead list` and `qig dead replay`: what could not be handled, why, and another try after the cause is mended."""

import asyncio
import json as json_text
import re
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis
from rich.table import Table

from common.errors import Rejected, Unavailable
from common.runtime import streams
from common.runtime.entries import Entry, body_of
from common.runtime.follower import kept
from common.runtime.lanes import lane
from common.wire.codec import parse, unpack
from common.wire.messages import DeadLetter
from services.cli.broker import check_there, client, find_url
from services.cli.show import Listing, console, plain

NO_BODY: Final = "no_body"  # consumer.py's and relay.py's: an entry without a message; its letter holds the fields
_ID: Final = re.compile(r"\d{1,20}-\d{1,20}")

# KEYS: stream or outbox, its dead letters (one slot). ARGV: letter, entries that the stream takes, the entry's fields
# and their values. The letter goes exactly when the entry is back; 0: there is no room for it.
_REPLAY: Final = """#!lua
if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
if redis.call('XDEL', KEYS[2], ARGV[1]) == 0 then return false end
return redis.call('XADD', KEYS[1], '*', unpack(ARGV, 3))
"""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What lies among the dead letters of `stream` and is none; code, reason: why not."""

    stream: str
    code: str
    reason: str


def show(stream: str | None, home: Path, *, json: bool) -> int:
    """`qig dead list`."""
    letters = asyncio.run(_list([stream_named(stream)] if stream else list(streams.GROUPS), find_url(home)))
    out = console()
    if json:
        for name, letter in letters:
            told = asdict(letter) if isinstance(letter, Unreadable) else letter.model_dump(mode="json")
            sys.stdout.write(json_text.dumps({"letter": name, **told}) + "\n")
    elif letters:
        out.print(_table(letters))
    else:
        out.print("no dead letters")
    return 0


def replay(stream: str, letter: str | None, home: Path, *, everything: bool) -> int:
    """`qig dead replay`."""
    if (letter is None) != everything:
        raise Rejected("bad_argument", "name one letter (`qig dead list` shows their ids), or say --all")
    if letter is not None and not _ID.fullmatch(letter):
        raise Rejected("bad_argument", f"{letter[:80]!r} is no letter's id: `qig dead list` shows them, like 17-0")
    done, empty, torn = asyncio.run(_replay(stream_named(stream), letter, find_url(home)))
    out = console()
    out.print(f"{done} published again on {stream_named(stream)}")
    if empty:
        out.print(f"{empty} stay: they came without a message, so there is nothing to publish")
    for name, why in torn.items():
        out.print(f"{name} stays: {plain(why)}")
    return 1 if torn else 0


def stream_named(name: str) -> str:
    """The work stream of that name, with or without its prefix. Raises Rejected("no_stream")."""
    known = {stream.rpartition(":")[2]: stream for stream in streams.GROUPS}
    found = known.get(name.removeprefix("qig:"))
    if found is None:
        raise Rejected("no_stream", f"no stream {name[:80]!r} has dead letters: choose from {', '.join(known)}")
    return found


async def _list(wanted: list[str], url: str) -> list[tuple[str, DeadLetter | Unreadable]]:
    async with client(url) as redis:
        await check_there(redis, url)
        return [row for stream in wanted async for row in letters_of(redis, stream)]


async def letters_of(redis: Redis, stream: str) -> AsyncIterator[tuple[str, DeadLetter | Unreadable]]:
    """Every dead letter of a stream with its id, the oldest first."""
    async for entry in kept(redis, streams.dead(stream)):
        try:
            yield entry.id, _letter(entry)
        except Rejected as error:
            yield entry.id, Unreadable(stream, error.code, error.message)


def _letter(entry: Entry) -> DeadLetter:
    return unpack(DeadLetter, body_of(entry.fields) or b"")


async def _replay(stream: str, letter: str | None, url: str) -> tuple[int, int, dict[str, str]]:
    """How many were published again, how many have nothing to publish, and of what can't be read why, by letter."""
    async with client(url) as redis:
        await check_there(redis, url)
        rows = [row async for row in kept(redis, streams.dead(stream)) if letter in (None, row.id)]
        if letter is not None and not rows:
            message = f"no dead letter {letter} of {stream}: `qig dead list` shows those that are there"
            raise Unavailable("no_letter", message)
        done, empty, torn = 0, 0, dict[str, str]()
        for row in rows:
            try:
                way = _way_back(stream, _letter(row))
            except Rejected as error:
                torn[row.id] = str(error)
                continue
            if way is None:
                empty += 1
                continue
            back, room, fields = way
            keys = [back, streams.dead(stream)]
            entry = await lane(redis, stream).call(redis, _REPLAY, keys, [row.id, room, *fields])
            if entry == 0:
                message = f"{back} was full after {done} of {len(rows)} letters: replay the rest later"
                raise Unavailable("stream_full", message)
            done += entry is not None
        return done, empty, torn


def _way_back(stream: str, letter: DeadLetter) -> tuple[str, int, list[str | bytes]] | None:
    """Where the letter's entry goes, what has room there, its fields' names and values; None where it came without a
    message. Raises Rejected for an outbox's entry that is not whole.

    What a handler sent goes into the outbox again, with its id and its target: it is no message of `stream`.
    """
    if letter.code == NO_BODY:
        return None
    outbox = streams.outbox(stream)
    if letter.stream != outbox:
        return stream, streams.retention(stream).entries, [streams.DATA_FIELD, letter.body]
    return outbox, streams.OUTBOX_MAX_ENTRIES, _carried(outbox, letter.body)


def _carried(outbox: str, body: bytes) -> list[str | bytes]:
    """The names and values of an outbox's entry, as they came. Raises Rejected("garbage") for what is none."""
    fields = parse(outbox, body)
    wanted = {b"stream", b"id", streams.DATA_FIELD.encode()}
    names: set[Any] = set()
    if isinstance(fields, dict) and all(isinstance(value, bytes) for value in fields.values()):
        names = {name.encode() if isinstance(name, str) else name for name in fields}
    if not wanted <= names or not all(isinstance(name, bytes) for name in names):
        told = f"{outbox}: {len(body)} bytes that are no entry of it, a map of a stream, an id and a message"
        raise Rejected("garbage", f"{told}: nothing can be published of them")
    return [part for pair in fields.items() for part in pair]


def _table(letters: list[tuple[str, DeadLetter | Unreadable]]) -> Table:
    table = Listing()
    for column in ("letter", "stream", "code", "tries", "bytes", "when", "reason"):
        table.column(column, folds=column != "letter")
    for name, letter in letters:
        if isinstance(letter, Unreadable):
            table.add_row(name, letter.stream, letter.code, "", "", "", plain(letter.reason))
            continue
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(letter.at_s))
        numbers = (str(letter.deliveries), str(len(letter.body)))
        table.add_row(name, letter.stream, letter.code, *numbers, when, plain(letter.reason))
    return table
