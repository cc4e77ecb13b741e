"""`qig watch`: services by their heartbeats, streams by what waits in them."""

import asyncio
import json as json_text
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError
from rich.console import Group, JustifyMethod
from rich.live import Live
from rich.table import Table

from common.constants import PHI_MIN_TRANSITIONS
from common.runtime import streams
from common.runtime.overview import StreamRow, depths, heard
from common.runtime.settings import redacted
from common.wire.messages import Heartbeat
from services.cli.broker import check_there, client, find_url
from services.cli.show import Listing, console, plain

SILENT_S: Final = 30.0  # a beat this old is of a service that stopped, or hangs
UNKNOWN: Final = "–"  # one column wide where "not known" takes nine
GAP: Final = (0, 1, 0, 0)  # every column stands whole in a terminal of 80


@dataclass(frozen=True, slots=True)
class Seen:
    """The fleet at one moment: the newest beat of each service, and the work streams."""

    at_s: float
    services: tuple[Heartbeat, ...]
    streams: tuple[StreamRow, ...]


def run(*, once: bool, every_s: float, home: Path, json: bool) -> int:
    """Until Ctrl-C on a terminal, once elsewhere; with json a line a look."""
    asyncio.run(_watch(find_url(home), every_s, once=once, json=json))
    return 0


async def _watch(url: str, every_s: float, *, once: bool, json: bool) -> None:
    out = console()
    once = once or not (json or out.is_terminal)
    async with client(url) as redis:
        await check_there(redis, url)
        watcher = Watcher(redis)
        if json or once:
            while True:
                seen = await watcher.look(time.time())
                if json:
                    sys.stdout.write(as_json(seen) + "\n")
                    sys.stdout.flush()
                else:
                    out.print(view(seen))
                if once:
                    return
                await asyncio.sleep(every_s)
        with Live(console=out, auto_refresh=False, screen=False) as live:
            while True:
                try:
                    live.update(view(await watcher.look(time.time())), refresh=True)
                except NoPermissionError:
                    raise
                except RedisError as error:  # a broker that restarts is something to watch, not a reason to end
                    live.update(f"the broker at {plain(redacted(url))} is away: {plain(str(error))}", refresh=True)
                await asyncio.sleep(every_s)


class Watcher:
    """Reads the heartbeats and the streams again and again; of the heartbeats what came since: of a hundred services
    those that are kept are megabytes.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._beats: deque[Heartbeat] = deque(maxlen=streams.retention(streams.HEART).entries)
        self._heart: str | None = None  # the position in them

    async def look(self, now_s: float) -> Seen:
        """Raises RedisError."""
        beats, self._heart = await heard(self._redis, self._heart)
        self._beats.extend(beats)
        newest = {(beat.service, beat.node): beat for beat in self._beats}
        return Seen(now_s, tuple(newest[name] for name in sorted(newest)), await depths(self._redis))


def as_json(seen: Seen) -> str:
    """One look as one line."""
    services = [json_text.loads(beat.model_dump_json()) for beat in seen.services]
    return json_text.dumps({"at_s": seen.at_s, "services": services, "streams": [asdict(row) for row in seen.streams]})


def view(seen: Seen) -> Group:
    """Both tables."""
    return Group(services_table(seen), "", streams_table(seen))


def cell(value: float | None, form: str = ".2f") -> str:
    """A figure in a table, or that it is not known."""
    return UNKNOWN if value is None else format(value, form)


def services_table(seen: Seen) -> Table:
    """Services by their newest beat; those of an edge with a row a domain. Long names fold before a figure is cut."""
    table = Listing(padding=GAP)
    for column in ("", "service", "node", "bundle", "ago", "fresh", "domain", "Φ", "κ", "phase"):
        named = column in {"node", "domain"}
        justify: JustifyMethod = "right" if column in {"bundle", "ago", "fresh", "Φ", "κ"} else "left"
        table.column(column, folds=named, justify=justify)
    for beat in seen.services:
        age_s = max(0.0, seen.at_s - beat.at_s)
        mark = "[red]✗[/]" if age_s > SILENT_S else "[green]●[/]" if beat.ready else "[yellow]○[/]"
        fresh = f"{beat.fresh_bytes} B" if beat.service == "edge" else ""
        head = [mark, beat.service, beat.node, str(beat.bundle), f"{age_s:.0f} s", fresh]
        for domain in sorted({*beat.phi, *beat.kappa, *beat.phases}) or [""]:
            phi, kappa = cell(beat.phi.get(domain)), cell(beat.kappa.get(domain), ".1f")
            if domain and phi == UNKNOWN:
                table.caption = f"{UNKNOWN} not known yet: Φ needs {PHI_MIN_TRANSITIONS} tokens since its edge's start"
            tail = (domain, phi, kappa, beat.phases.get(domain, "")) if domain else ("", "", "", "")
            table.add_row(*head, *tail)
            head = [""] * len(head)
    if any(seen.at_s - beat.at_s > SILENT_S for beat in seen.services):
        silent = f"✗ not heard of for {SILENT_S:.0f} s"
        table.caption = f"{silent}; {table.caption}" if table.caption else silent
    if not seen.services:
        table.add_row("", "no heartbeat yet")
    return table


def streams_table(seen: Seen) -> Table:
    """Work streams by what waits in them."""
    table = Listing(padding=GAP)
    for column in ("stream", "waiting", "lag", "pending", "oldest idle", "outbox", "dead", "consumers"):
        table.column(column, folds=False, justify="left" if column == "stream" else "right")
    for row in seen.streams:
        lag = "?" if row.lag is None else str(row.lag)
        dead = f"[red]{row.dead}[/]" if row.dead else "0"
        counts = (str(row.length), lag, str(row.pending), f"{row.oldest_idle_s:.1f} s", str(row.outbox))
        table.add_row(row.stream, *counts, dead, str(row.consumers))
    return table
