"""`qig trace`: what led to what, from a query, a packet, a batch or a bundle on.

this home's edges    which packet a query's text was counted in: no message says so (docs/privacy.md)
the broker           which batch has the packet, which candidate and bundle came of that, what edges said of it
"""

import asyncio
import json as json_text
import re
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, cast

from redis.asyncio import Redis
from rich.table import Table

from common.errors import QigError, Rejected, Unavailable
from common.runtime import streams
from common.runtime.broker import Broker
from common.runtime.entries import body_of
from common.runtime.follower import kept
from common.runtime.overview import READ_MAX, lately
from common.wire.codec import unpack
from common.wire.messages import Applied, Candidate, Common, DeadLetter, PacketRef, Returned
from common.wire.packet import open_envelope
from services.cli import chain
from services.cli.batch import batches
from services.cli.broker import check_there, client, find_url
from services.cli.chain import Centre, Made, Step
from services.cli.forget import edge_files
from services.cli.show import Listing, console, plain
from services.cli.why import refused, released
from services.edge.http.asking import choice_ids
from services.edge.record import Packet, read_asked, read_counted, read_packets
from services.publisher.fleet import Fleet, fold

ACCEPTED: Final = streams.side_key(streams.PACKETS, "accepted")  # the aggregator's
SHOWN: Final = 12  # characters of an id
_NAMED: Final = re.compile(r"(?P<key>[0-9a-f]{16}):(?P<epoch>\d{1,10}):(?P<sequence>\d{1,10})")
_PACKED: Final = re.compile(r"[0-9a-f]{32}")
_LOCAL: Final = re.compile(r"(?P<node>[A-Za-z0-9][A-Za-z0-9._-]*):(?P<sequence>\d{1,10})")


def run(name: str, home: Path, *, json: bool) -> int:
    """The chain that `name` is in, from it on. Raises Unavailable("unknown_id"), Rejected("bad_argument")."""
    steps = found(name, home, asyncio.run(_look(find_url(home), home)))
    if json:
        for step in steps:
            sys.stdout.write(json_text.dumps(asdict(step), ensure_ascii=False) + "\n")
    else:
        console().print(_table(steps))
    return 0


def found(name: str, home: Path, centre: Centre) -> list[Step]:
    """The steps of what is called so; of a query's id, of each edge that keeps it."""
    ref = _ref(name)
    if ref is not None:
        made_here = _made(home, ref)
        # 32 digits may be a query's id, too, or the beginning of a batch's.
        if ":" in name or made_here is not None or chain.knows(ref, centre):
            return chain.of_packet(made_here, ref, centre)
    if local := _LOCAL.fullmatch(name):
        made = [one for one in _packets(home) if (one.node, str(one.packet.sequence)) == tuple(local.groups())]
        return [step for one in made for step in chain.of_packet(one, one.ref, centre)] or _unknown(name)
    if bundles := [bundle for bundle in centre.bundles if str(bundle.version) == name]:
        return chain.of_candidate(bundles[0].id, centre)
    if steps := _of_queries(name, home, centre):
        return steps
    names = chain.candidates(name, centre)
    if len(names) > 1:
        message = f"{name[:80]!r} begins {len(names)} ids: write more of it: {', '.join(names[:SHOWN])}"
        raise Rejected("bad_argument", message)
    return chain.of_candidate(names[0], centre) if names else _unknown(name)


def _unknown(name: str) -> list[Step]:
    message = (
        f"{name[:80]!r} is no query that an edge of this home keeps, and no packet (NODE:SEQUENCE, KEY:EPOCH:SEQUENCE),"
        " batch, candidate or bundle that is still known: `qig packet list`, `qig batch list` and `qig bundle why` show"
        " those that are"
    )
    raise Unavailable("unknown_id", message)


def _ref(name: str) -> PacketRef | None:
    if match := _NAMED.fullmatch(name):
        key, epoch, sequence = bytes.fromhex(match["key"]), int(match["epoch"]), int(match["sequence"])
    elif _PACKED.fullmatch(name):  # as dead letters and the log have it
        packed = bytes.fromhex(name)
        key, epoch, sequence = packed[:8], int.from_bytes(packed[8:12], "big"), int.from_bytes(packed[12:], "big")
    else:
        return None
    return PacketRef(key=key, epoch=epoch, sequence=sequence)


def _of_queries(name: str, home: Path, centre: Centre) -> list[Step]:
    steps = []
    for file in _files(home):
        made = {one.packet.sequence: one for one in _packets_of(file)}
        for query_id in choice_ids(name):
            for asked in read_asked(file, query_id):
                packet = None if asked.packet is None else made.get(asked.packet)
                steps += chain.of_query(file.parent.name, asked, packet, centre)
    return steps


def _made(home: Path, ref: PacketRef) -> Made | None:
    return next((one for one in _packets(home) if one.ref == ref), None)


def _packets(home: Path) -> list[Made]:
    return [made for file in _files(home) for made in _packets_of(file)]


def _packets_of(file: Path) -> list[Made]:
    return [_made_of(file, packet) for packet in read_packets(file)[1]]


def _made_of(file: Path, packet: Packet) -> Made:
    queries = tuple(read_counted(file, packet.sequence))
    if packet.raw is None:
        return Made(file.parent.name, packet, None, packet.at_s, queries)
    envelope = open_envelope(packet.raw)
    return Made(file.parent.name, packet, envelope.ref, envelope.at_s, queries)


def _files(home: Path) -> list[Path]:
    with suppress(Rejected):  # a centre's home has no edges
        return edge_files(home, None)
    return []


async def _look(url: str, home: Path) -> Centre:
    async with client(url) as redis:
        await check_there(redis, url)
        fleet = Fleet()
        for told in (await lately(redis, streams.APPLIED, Applied))[0]:
            fleet = fold(fleet, told)
        notes = await refused(redis)
        accepted = await Broker(redis).read_hash(ACCEPTED)
        return Centre(
            arriving=frozenset(await _arriving(redis)),
            accepted={ref: int(at_ms) / 1000 for name, at_ms in accepted.items() if (ref := _ref(name)) is not None},
            ended=await _ended(redis),
            batches=[(one.where, one.batch) for one in await batches(redis)],
            candidates=[
                *[one async for one in _waiting(redis)],
                *(one.candidate for one in notes.values() if one.candidate is not None),
            ],
            refused={name: (one.at_s, one.reasons) for name, one in notes.items()},
            bundles=[bundle for bundle, _ in await released(redis, home)],
            fleet=fleet,
        )


async def _arriving(redis: Redis) -> list[PacketRef]:
    rows = cast("list[tuple[bytes, dict[bytes, bytes]]]", await redis.xrevrange(streams.PACKETS, count=READ_MAX))
    refs = []
    for _, fields in rows:
        with suppress(QigError):
            refs.append(open_envelope(body_of(fields) or b"").ref)
    return refs


async def _waiting(redis: Redis) -> Any:
    async for entry in kept(redis, streams.CANDIDATES):
        with suppress(QigError):
            yield unpack(Candidate, body_of(entry.fields) or b"")


async def _ended(redis: Redis) -> dict[PacketRef, str]:
    """Of packets that no batch will have: why."""
    said: dict[PacketRef, str] = {}
    for letter in (await lately(redis, streams.dead(streams.PACKETS), DeadLetter))[0]:
        with suppress(QigError):
            said[open_envelope(letter.body).ref] = f"was refused, {letter.code}: {letter.reason}"
    for told in (await lately(redis, streams.COMMON, Common))[0]:
        said |= dict.fromkeys(told.packets, "was heard: it only mentions, and no batch names it")
    for back in (await lately(redis, streams.RETURNED, Returned))[0]:
        reason = f"{back.code}: {back.reason}" if back.reason else back.code
        said |= dict.fromkeys(back.packets, f"went back to its edge, {reason}")
    return said


def _table(steps: list[Step]) -> Table:
    table = Listing()
    for column in ("", "id", "when", "what", "trace"):
        table.column(column, folds=column not in {"", "when", "trace"})
    for step in steps:
        short = step.id[:SHOWN] if step.kind in {"batch", "candidate"} else step.id
        table.add_row(step.kind, plain(short), _when(step.at_s), plain(step.said), step.trace_id)
    return table


def _when(at_s: float | None) -> str:
    return "" if at_s is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_s))
