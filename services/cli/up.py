"""`qig up`: a broker, the three services of the centre and the edges, until Ctrl-C."""

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.table import Table

from common.errors import Unavailable
from common.runtime import keys, settings, streams
from common.runtime.settings import given_broker, redacted, user_of, variable
from services.cli import genesis, probe
from services.cli import home as places
from services.cli.app.ending import NO_ROOM
from services.cli.broker import check_there, client
from services.cli.child import die_with_parent
from services.cli.fleet import HOST, READY_TIMEOUT_S, Fleet
from services.cli.show import Listing, command, console, plain

LOOK_EVERY_S: Final = 0.5
SMALLEST: Final = "tiny"
BROKER_PORT: Final = 6379  # what redis-cli takes when it is told nothing
_SECONDS: Final = re.compile(r"\b\d+(\.\d+)? s\b")
LOADING: Final = "waits for its first bundle, whose code it compiles if nobody has (half a minute)"
_NO_BUNDLE: Final = "waits for the first bundle"
_SILENT: Final = re.compile(r": not seen for (\d+) s$")
_CENTRE: Final = ("aggregator", "trainer", "publisher")
_XADD: Final = """XADD qig:queries '*' __data__ '{"text":"The sea was calm","client":"me"}'"""
_STOPS: Final = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of one member now. reason: None when it is ready. bundle: None where there is none (yet)."""

    node: str
    url: str
    pid: int | None
    reason: str | None
    bundle: int | None


def run(edges: int, home: Path, port: int) -> int:
    """Returns 0 after a stop in good order; raises what keeps it from starting."""
    return asyncio.run(_run(plan(edges, port), home.resolve()))


def plan(edges: int, port: int) -> dict[str, tuple[str, int]]:
    """Service and port by node: the first edge on `port`, then the centre, then the other edges; port 0 for any."""
    nodes = [("edge-1", "edge"), *((name, name) for name in _CENTRE)]
    nodes += [(f"edge-{number}", "edge") for number in range(2, edges + 1)]
    return {node: (service, port and port + place) for place, (node, service) in enumerate(nodes)}


async def _run(members: dict[str, tuple[str, int]], home: Path) -> int:
    _check_settings()
    out = console()
    if places.is_ending(home):
        out.print(
            f"home    {plain(str(home))}: what a killed `qig up` left there is still ending, wait ...", soft_wrap=True
        )
    if given_broker() is None and not places.broker_dir(home).is_dir():  # nothing was ever released here
        _first_ready_made(home)
    stopping = asyncio.Event()
    with _signals(stopping):
        broker_port = BROKER_PORT if any(port for _, port in members.values()) else 0
        fleet = Fleet(home, broker_url=given_broker(), broker_port=broker_port)
        async with _entered(fleet, stopping) as is_up:
            if not is_up:
                out.print("stopped; nothing was started")
                return 0
            _check_ports(members, home)
            made = keys.init(home, [node for node, (service, _) in members.items() if service == "edge"])
            keys.make_secret(home)
            how = "made now, with new keys" if keys.root_path(home) in made else "as it was left"
            out.print(f"home    {plain(str(home))}, {how}", soft_wrap=True)
            out.print(f"broker  {_broker_line(fleet)}")
            first = await _first_constellation(fleet, home, stopping)
            for node, (service, port) in members.items():
                extra = {"genesis": first} if service == "trainer" else {}
                await fleet.start(service, node, port=port, **extra)
            await _show(fleet, out, stopping)
            out.print("stopping: every process finishes what is in flight ...")
    out.print(plain(f"stopped; the state is kept, and {command('up', home)} goes on from it"), soft_wrap=True)
    return 0


@asynccontextmanager
async def _entered(fleet: Fleet, stopping: asyncio.Event) -> AsyncIterator[bool]:
    """Within `fleet`; False, and outside, where `stopping` comes first: what it waits for may take a minute."""
    stop = asyncio.create_task(stopping.wait())
    async with AsyncExitStack() as held:
        try:
            async with asyncio.timeout(None) as patience:

                def give_up(_: object) -> None:
                    patience.reschedule(0.0)  # long ago

                stop.add_done_callback(give_up)
                try:
                    await held.enter_async_context(fleet)
                finally:
                    stop.remove_done_callback(give_up)
                    stop.cancel()
        except TimeoutError:
            yield False
        else:
            yield True


def _check_settings() -> None:
    """What a service would refuse to start with is refused here. Raises Rejected."""
    broker = given_broker() or "redis://127.0.0.1"  # where none is named each service is told ours
    for model in settings.MODELS:
        settings.load(model, {**os.environ, variable("broker_url"): broker})


def _check_ports(members: dict[str, tuple[str, int]], home: Path) -> None:
    edges = sum(service == "edge" for service, _ in members.values())
    others = command(f"up --edges {edges} --port {max(port for _, port in members.values()) + 1}", home)
    for node, (_, port) in members.items():
        if port:
            probe.check_port(HOST, port, f"{node} needs it: stop what uses it, or choose others: {others}")


async def _first_constellation(fleet: Fleet, home: Path, stopping: asyncio.Event) -> Path:
    """Where the first constellation lies; trained only when there is neither one, nor a bundle."""
    async with client(fleet.broker_url) as redis:
        await check_there(redis, fleet.broker_url)
        released = int(await redis.xlen(streams.BUNDLES))
    return genesis.default(home) if released else await first_genesis(home, stopping)


async def first_genesis(home: Path, stopping: asyncio.Event | None = None) -> Path:
    """The home's genesis, or the shipped one, or what `qig train` makes now, with its progress bars, in the home: where
    QIG_SIZE asks for a size, or nothing is shipped.

    In a process of its own, so that `stopping` ends it at once: what is written is no constellation before it is whole.
    Raises Unavailable("no_genesis").
    """
    if (found := _first_ready_made(home)) is not None:
        return found
    where, size = places.genesis_dir(home).resolve(), os.environ.get(variable("size"), SMALLEST)
    command = [sys.executable, "-m", "services.cli.app", "train", "--out", str(where), "--size", size]
    process = await asyncio.create_subprocess_exec(
        *command, start_new_session=True, preexec_fn=die_with_parent(os.getpid()), stdout=sys.stderr
    )
    stopped = stopping or asyncio.Event()
    done, stop = asyncio.create_task(process.wait()), asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait({done, stop}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.cancel()
        if process.returncode is None:
            process.kill()
        code = await done
    if code != 0 and not stopped.is_set():
        raise Unavailable("no_genesis", "there is no first constellation, and training one failed: see the lines above")
    return where


def _first_ready_made(home: Path) -> Path | None:
    """Where the first constellation lies; None when it is to be trained. Raises Unavailable("no_genesis") where it
    cannot be.
    """
    where, own = genesis.default(home), places.genesis_dir(home).resolve()
    if where.is_dir() and (variable("size") not in os.environ or where == own):
        return where
    if why := genesis.why_no_text():
        raise Unavailable("no_genesis", f"there is no first constellation, and {why}")
    return None


async def _show(fleet: Fleet, out: Console, stopping: asyncio.Event) -> None:
    """The live table on a terminal, a line a change elsewhere; until `stopping`, or a member that refuses to start."""
    began_s, greeted = time.monotonic(), False
    said: dict[str, set[str]] = {}
    bundles: dict[str, int] = {}
    lives = fleet.broker.starts if fleet.broker else 0
    with Live(console=out, auto_refresh=False, transient=True) if out.is_terminal else _no_live() as live:
        while not stopping.is_set():
            rows = await asyncio.gather(*(_look(fleet, node) for node in fleet.members))
            for node, member in fleet.members.items():
                if member.state == "refused":
                    reason = member.child.reason
                    raise Unavailable("refused", f"{node} does not start: {reason} (log: {member.child.log})")
            with _while_there_is_room():
                if live is not None:
                    live.update(_table(rows), refresh=True)
                else:
                    _say(rows, said, out)
                _say_gone_back(rows, bundles, out)
                if fleet.broker and fleet.broker.starts > lives:
                    lives = fleet.broker.starts
                    out.print(f"broker  {fleet.broker.ended}; started again, pid {fleet.broker.pid}")
                if not greeted and all(row.reason is None for row in rows):
                    greeted = True
                    out.print(plain(_greeting(fleet, time.monotonic() - began_s)), soft_wrap=True)
            await _pause(stopping, LOOK_EVERY_S)


@contextmanager
def _while_there_is_room() -> Iterator[None]:
    """Lines may go to a file, and its disk be full for a while: no reason to end a fleet, which waits that out."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise


async def _look(fleet: Fleet, node: str) -> Row:
    member = fleet.members[node]
    reason = await fleet.why_not_ready(node)
    bundle = None
    if member.service == "edge" and reason is None:
        try:
            found = await probe.gauge(member.url, "qig_bundle_version")
            bundle = None if found is None else int(found)
        except Unavailable:
            reason = "does not answer"
    shown = None if reason is None else _short(reason, member.service, starting=member.child.is_starting)
    return Row(node, member.url, member.pid, shown, bundle)


def _short(reason: str, service: str, *, starting: bool) -> str:
    """Parts that have only not started yet are one word, and what a service says of itself stands without its name.

    starting: not ready yet in this life: what is loaded and compiled keeps its parts silent, for as long as a start may
    take.
    """
    parts = [part.removeprefix(f"{service}: ") for part in reason.split("; ") if not _is_quiet(part, starting=starting)]
    return LOADING if starting and parts == [_NO_BUNDLE] else "; ".join(parts) or "starting"


def _is_quiet(part: str, *, starting: bool) -> bool:
    silent = _SILENT.search(part)
    patient = starting and silent is not None and int(silent[1]) < READY_TIMEOUT_S
    return part.endswith(": not started") or patient


def _table(rows: list[Row]) -> Table:
    table = Listing()
    for name in ("", "process", "state", "bundle", "pid", "address"):
        table.add_column(name, overflow="ellipsis", no_wrap=name != "state")
    for row in rows:
        mark = "[green]●[/]" if row.reason is None else "[yellow]○[/]"
        state = "ready" if row.reason is None else plain(row.reason)
        bundle, pid = ("" if value is None else str(value) for value in (row.bundle, row.pid))
        table.add_row(mark, row.node, state, bundle, pid, row.url)
    return table


def _say(rows: list[Row], said: dict[str, set[str]], out: Console) -> None:
    """A line where something is new: each trouble once, however long it lasts, until its end is told.

    said: what was told of each member since it was ready last.
    """
    for row in rows:
        line = f"ready at {row.url}" if row.reason is None else row.reason
        line += "" if row.bundle is None else f", bundle {row.bundle}"
        told = said.get(row.node, set())
        new = {line} if row.reason is None else told | _causes(line)
        if new != told:
            said[row.node] = new
            out.print(f"{row.node}  {plain(line)}")


def _say_gone_back(rows: list[Row], bundles: dict[str, int], out: Console) -> None:
    """A line for each edge that has left a bundle for an older one. bundles: what served each when it was looked at."""
    for row in rows:
        if row.bundle is not None:
            before = bundles.get(row.node, row.bundle)
            bundles[row.node] = row.bundle
            if row.bundle < before:
                why = f"`qig bundle why {before}` says why once the publisher has heard of it"
                out.print(f"{row.node}  went back from bundle {before} to {row.bundle}: {why}", soft_wrap=True)


def _causes(reason: str) -> set[str]:
    """What is wrong, without the parts that it is wrong with, and for how long: one outage stops them one by one."""
    return {_SECONDS.sub("", part.partition(": ")[2] or part) for part in reason.split("; ")}


def _greeting(fleet: Fleet, seconds: float) -> str:
    first = next(iter(fleet.members.values()))
    lines = [
        f"ready after {seconds:.1f} s; logs in {places.log_path(fleet.home, 'NODE')}",
        f"in a browser: {first.url}/  ask, see Φ and κ over time, bundles, the fleet (metrics: {first.url}/metrics)",
        "in another terminal:",
        "  " + command("ask where does the river go", fleet.home),
        "  " + command("read FILE", fleet.home) + "    a text to learn from, of 100 KB or more",
        "  " + command("bundle list", fleet.home),
        "  " + command("watch", fleet.home),
    ]
    if fleet.broker is not None and user_of(fleet.broker_url) is None:  # with users, redis-cli needs one
        lines.append(f"  redis-cli -p {fleet.broker_url.rpartition(':')[2]} {_XADD}")
    return "\n".join([*lines, f"Ctrl-C here, or {command('stop', fleet.home)}, stops everything"])


def _broker_line(fleet: Fleet) -> str:
    if fleet.broker is None:
        return f"{plain(redacted(fleet.broker_url))}, from QIG_BROKER_URL"
    return f"{redacted(fleet.broker_url)}, embedded, durable, pid {fleet.broker.pid}"


async def _pause(stopping: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return


@contextmanager
def _no_live() -> Iterator[None]:
    yield None


@contextmanager
def _signals(stopping: asyncio.Event) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM, or a closed terminal, but below nohup) stops in good order, the second at once."""
    loop = asyncio.get_running_loop()
    is_kept = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    numbers = _STOPS if is_kept else (*_STOPS, signal.SIGHUP)

    def stop() -> None:
        stopping.set()
        for number in numbers:
            loop.remove_signal_handler(number)

    for number in numbers:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
