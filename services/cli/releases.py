"""`qig bundle list`: every release that the publisher's list names, what it changed most, and where it serves."""

import asyncio
import json as json_text
import sys
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from rich.console import JustifyMethod
from rich.table import Table

from common.runtime.overview import heard
from common.trust.rings import EVERYBODY
from common.wire import bundle as bundles
from common.wire.messages import Bundle, Figure, Heartbeat
from services.cli.broker import check_there, client, find_url
from services.cli.show import Listing, ago, command, console, plain
from services.cli.watch import SILENT_S
from services.cli.why import refused, released

State = Literal["serving", "taken back", "on its way", "replaced"]


@dataclass(frozen=True, slots=True)
class Row:
    """One release. ring: the share of all places (common/trust/rings.py) that it is open to, 1.0 for everybody.
    figure, before, after, unit: of what is measured in bits what changed most; None in a first bundle. edges: on how
    many it serves. brings_back: the version whose parts it has again.
    """

    version: int
    id: str
    at_s: float
    packets: int
    ring: float
    figure: str | None
    before: float | None
    after: float | None
    unit: str | None
    state: State
    edges: int
    brings_back: int | None


def run(*, home: Path, json: bool) -> int:
    """Once; with json a line a release, the newest first."""
    found = asyncio.run(_look(find_url(home), home))
    if json:
        for row in found:
            sys.stdout.write(json_text.dumps(asdict(row)) + "\n")
    elif found:
        console().print(table(found, time.time()))
        console().print(
            plain(f"`{command('bundle why VERSION', home)}` shows all figures, and what edges said"), soft_wrap=True
        )
    else:
        console().print("nothing was released yet")
    return 0


async def _look(url: str, home: Path) -> list[Row]:
    async with client(url) as redis:
        await check_there(redis, url)
        known = await released(redis, home)
        taken_back = set(await refused(redis))
        beats, _ = await heard(redis)
    return rows(known, taken_back, beats, time.time())


def rows(
    known: Sequence[tuple[Bundle, int]], taken_back: Collection[str], beats: Sequence[Heartbeat], now_s: float
) -> list[Row]:
    """A row a release. known: with their rings, the newest first; taken_back: ids; beats: oldest first."""
    newest = {beat.node: beat for beat in beats if beat.service == "edge"}
    serving = Counter(beat.bundle for beat in newest.values() if now_s - beat.at_s <= SILENT_S)
    found = []
    for place, (bundle, ring) in enumerate(known):
        edges, figure = serving[bundle.version], most_changed(bundle.evidence.figures)
        on_its_way: State = "on its way" if place == 0 else "replaced"
        state: State = "taken back" if bundle.id in taken_back else "serving" if edges else on_its_way
        row = Row(
            version=bundle.version,
            id=bundle.id,
            at_s=bundle.released_at_s,
            packets=len(bundle.packets),
            ring=min(1.0, ring / EVERYBODY),
            figure=None if figure is None else f"{figure.name} {figure.domain or ''}".strip(),
            before=None if figure is None else figure.before,
            after=None if figure is None else figure.after,
            unit=None if figure is None else figure.unit,
            state=state,
            edges=edges,
            brings_back=bundles.brings_back(bundle.id),
        )
        found.append(row)
    return found


def most_changed(figures: Sequence[Figure]) -> Figure | None:
    """Of those in bits that were measured before and after, the one that changed by the largest share."""
    measured = [(abs(each.after / each.before - 1), each) for each in figures if each.before and "bit" in each.unit]
    return max(measured, key=lambda each: each[0])[1] if measured else None


COLUMNS: Final[tuple[tuple[str, JustifyMethod], ...]] = (
    ("bundle", "right"), ("ago", "right"), ("packets", "right"), ("open to", "left"), ("changed most, in bits", "left"),
    ("before", "right"), ("after", "right"), ("state", "left"),
)  # fmt: skip


def table(found: Sequence[Row], now_s: float) -> Table:
    """The rows, for people; in a terminal of 80 a state may fold, no figure."""
    shown = Listing(padding=(0, 1, 0, 0))
    for name, justify in COLUMNS:
        shown.column(name, folds=name == "state", justify=justify)
    for row in found:
        measured = row.brings_back is None and row.before is not None and row.after is not None
        shown.add_row(
            str(row.version),
            ago(now_s - row.at_s),
            str(row.packets),
            "everybody" if row.ring == 1.0 else f"first {row.ring:.0%}",
            plain(row.figure or "") if row.brings_back is None else f"bundle {row.brings_back} again",
            f"{row.before:.3f}" if measured else "",
            f"{row.after:.3f}" if measured else "",
            _state(row),
        )
    return shown


def _state(row: Row) -> str:
    """In words; one that was taken back may serve for a while yet."""
    edges = f"on {row.edges} edge{'' if row.edges == 1 else 's'}"
    if row.state == "taken back":
        return f"[red]taken back[/]{f', {edges}' if row.edges else ''}"
    return f"[green]{edges}[/]" if row.edges else row.state
