"""`qig nodes`: every edge that is enrolled or speaks: what became of its packets, when it was seen, what it serves."""

import asyncio
import json as json_text
import sys
import time
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from redis.asyncio import Redis
from rich.console import JustifyMethod
from rich.table import Table

from common.errors import QigError
from common.runtime import keys, streams
from common.runtime.overview import heard, lately
from common.wire.codec import parse
from common.wire.messages import Applied, DeadLetter, Heartbeat
from common.wire.packet import open_envelope
from services.cli.broker import check_there, client, find_url
from services.cli.show import Listing, ago, console, plain

STANDING: Final = streams.side_key(streams.PACKETS, "standing")  # the aggregator's
UNKNOWN: Final = "–"


@dataclass(frozen=True, slots=True)
class Packets:
    """What became of a key's packets. refused: by code; last_s: when the newest came; distance_rad: of its packets from
    the centre of its fellows', None while nobody has measured it.
    """

    accepted: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    last_s: float | None = None
    distance_rad: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One edge, or one key of it. key: its id in hex, None for an edge that is not enrolled here. last_code: of the
    newest dead letter that is a packet of it.
    """

    node: str
    key: str | None
    packets: Packets
    last_code: str | None
    seen_s: float | None
    ready: bool | None
    bundle: int | None
    version: int | None
    verdict: str | None
    reason: str


def run(*, home: Path, json: bool) -> int:
    """Once; with json a line a row."""
    found = asyncio.run(_look(find_url(home), home))
    if json:
        for row in found:
            sys.stdout.write(json_text.dumps(asdict(row)) + "\n")
    elif found:
        console().print(table(found, time.time()))
    else:
        console().print(f"no edge is enrolled in {plain(str(home))}, and none speaks on the broker")
    return 0


async def _look(url: str, home: Path) -> list[Row]:
    enrolled = {key.hex(): name for key, (name, _) in keys.load_enrolled(home).items()}
    async with client(url) as redis:
        await check_there(redis, url)
        beats, _ = await heard(redis)
        told, _ = await lately(redis, streams.APPLIED, Applied)
        letters, _ = await lately(redis, streams.dead(streams.PACKETS), DeadLetter)
        return rows(enrolled, await _standings(redis), beats, told, letters)


async def _standings(redis: Redis) -> dict[str, Packets]:
    found = await cast("Awaitable[dict[bytes, bytes]]", redis.hgetall(STANDING))
    return {key.decode(): read for key, data in found.items() if (read := _packets(data)) is not None}


def _packets(data: bytes) -> Packets | None:
    """None for what no aggregator of this release wrote."""
    with suppress(QigError, TypeError, ValueError, AttributeError):
        fields: Any = parse("standing", data)
        last_ms, distance_rad = fields.get("last_ms"), fields.get("distance_rad")
        return Packets(
            accepted=int(fields.get("accepted", 0)),
            refused={str(code): int(number) for code, number in fields.get("refused", {}).items()},
            last_s=last_ms / 1000 if last_ms else None,
            distance_rad=None if distance_rad is None else float(distance_rad),
        )
    return None


def rows(
    enrolled: Mapping[str, str],
    packets: Mapping[str, Packets],
    beats: Sequence[Heartbeat],
    told: Sequence[Applied],
    letters: Sequence[DeadLetter],
) -> list[Row]:
    """A row an edge, by name, and one more for each further key of it. enrolled: names by key id; packets: by key id;
    the messages: oldest first.
    """
    seen = {beat.node: beat for beat in beats if beat.service == "edge"}
    verdicts = {each.node: each for each in sorted(told, key=lambda each: each.at_s)}
    codes: dict[str, str] = {}
    for letter in letters:
        with suppress(QigError):  # what is no packet was nobody's
            codes[open_envelope(letter.body).key.hex()] = letter.code
    named: list[tuple[str, str | None]] = [(node, key) for key, node in enrolled.items()]
    named += [(node, None) for node in {*seen, *verdicts} - set(enrolled.values())]
    found = []
    for node, key in sorted(named, key=lambda each: (each[0], each[1] or "")):
        beat, verdict = seen.get(node), verdicts.get(node)
        row = Row(
            node=node,
            key=key,
            packets=packets.get(key or "", Packets()),
            last_code=codes.get(key or ""),
            seen_s=beat.at_s if beat else None,
            ready=beat.ready if beat else None,
            bundle=beat.bundle if beat else None,
            version=verdict.version if verdict else None,
            verdict=verdict.verdict if verdict else None,
            reason=verdict.reason if verdict else "",
        )
        found.append(row)
    return found


COLUMNS: Final[tuple[tuple[str, JustifyMethod], ...]] = (
    ("node", "left"), ("key", "left"), ("accepted", "right"), ("refused", "right"), ("last code", "left"),
    ("from the centre", "right"), ("seen", "right"), ("bundle", "right"), ("said last", "left"),
)  # fmt: skip


def table(found: Sequence[Row], now_s: float) -> Table:
    """The rows, for people."""
    shown = Listing(padding=(0, 1, 0, 0))
    for name, justify in COLUMNS:
        shown.column(name, folds=True, justify=justify)
    for row in found:
        packets = row.packets
        distance = UNKNOWN if packets.distance_rad is None else f"{packets.distance_rad:.3f} rad"
        said = "" if row.verdict is None else f"bundle {row.version} {row.verdict}"
        bad = row.verdict in {"refused", "reverted"}
        shown.add_row(
            plain(row.node),
            row.key or "not enrolled",
            str(packets.accepted),
            str(sum(packets.refused.values())),
            plain(row.last_code or ""),
            distance,
            UNKNOWN if row.seen_s is None else ago(now_s - row.seen_s),
            UNKNOWN if row.bundle is None else str(row.bundle),
            f"[red]{said}[/]: {plain(row.reason)}" if bad else said,
        )
    return shown
