"""`qig bundle why`: why a candidate was refused, or what was known of one that was released."""

import asyncio
import json as json_text
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast

from redis.asyncio import Redis
from rich.console import RenderableType
from rich.table import Table

from common.errors import Corrupt, Rejected, Unavailable
from common.runtime import keys, streams
from common.runtime.broker import Broker
from common.runtime.overview import lately
from common.runtime.releases import newest_messages
from common.runtime.trust import Trust
from common.wire.codec import unpack
from common.wire.messages import Applied, Bundle, Candidate, DeadLetter, Evidence, Verdict
from services.cli.broker import check_there, client, find_url
from services.cli.show import Listing, command, console, plain
from services.publisher import refusals
from services.publisher.fleet import Fleet, fold
from services.publisher.metadata import LISTED

SHOWN: Final = 16  # refusals, newest first, where nothing is named
WELL: Final = ("applied", "good")


@dataclass(frozen=True, slots=True)
class Story:
    """One candidate. version: None unless it was released. reasons: why it was refused, or taken back. figures: each
    as it was measured, with the interval of the difference where the trainer gave one. edges: how many said what of
    it; against: those who did not keep it, and why.
    """

    id: str
    version: int | None
    at_s: float
    reasons: tuple[str, ...]
    figures: tuple[dict[str, Any], ...]
    guards: tuple[str, ...]
    packets: int | None
    edges: Mapping[Verdict, int]
    against: tuple[str, ...]


def run(name: str | None, home: Path, *, json: bool) -> int:
    """The story of one; without a name, of the newest release and of what was refused lately."""
    found = asyncio.run(_look(name, find_url(home), home))
    out = console()
    for story in found:
        if json:
            sys.stdout.write(json_text.dumps(asdict(story)) + "\n")
        else:
            for part in shown(story):
                out.print(part)
            out.print()
    if not (found or json):
        out.print("nothing was released or refused yet")
    return 0


async def _look(name: str | None, url: str, home: Path) -> list[Story]:
    async with client(url) as redis:
        await check_there(redis, url)
        notes = await refused(redis)
        bundles = [bundle for bundle, _ in await released(redis, home)]
        fleet = Fleet()
        for told in (await lately(redis, streams.APPLIED, Applied))[0]:
            fleet = fold(fleet, told)
    stories = [*(_of_release(bundle, notes, fleet) for bundle in bundles), *_of_refusals(notes, bundles)]
    if name is None:
        newest = [story for story in stories if story.version is not None][:1]
        others = [story for story in stories if story.version is None]
        return newest + others[:SHOWN]
    found = chosen(name, stories)
    if not found:
        message = f"no release and no refused candidate {name[:80]!r}: `{command('bundle why', home)}` shows the newest"
        raise Unavailable("unknown_bundle", message)
    return found


def chosen(name: str, stories: Sequence[Story]) -> list[Story]:
    """Of these, the version, else those whose id begins so. Raises Rejected("bad_argument") for several."""
    found = [story for story in stories if str(story.version) == name]
    found = found or [story for story in stories if story.id == name]
    found = found or [story for story in stories if story.id.startswith(name)]
    if len(found) > 1:
        ids = ", ".join(story.id for story in found[:SHOWN])
        raise Rejected("bad_argument", f"{name[:80]!r} begins {len(found)} ids: write more of it: {ids}")
    return found


@dataclass(frozen=True, slots=True)
class Refusal:
    """A note, and the evidence of the candidate if its dead letter is still there."""

    at_s: float
    reasons: tuple[str, ...]
    candidate: Candidate | None


async def refused(redis: Redis) -> dict[str, Refusal]:
    """What the publisher refused or took back, by id, the newest first."""
    letters, _ = await lately(redis, streams.dead(streams.CANDIDATES), DeadLetter)
    offered: dict[str, Candidate] = {}
    for letter in letters:
        with suppress(Rejected):
            candidate = unpack(Candidate, letter.body)
            offered[candidate.id] = candidate
    notes = await Broker(redis).read_hash(streams.REFUSED)
    newest_first = sorted(notes, key=lambda name: refusals.when(notes[name]), reverse=True)
    return {
        name: Refusal(refusals.when(notes[name]), refusals.reasons(notes[name]), offered.get(name))
        for name in newest_first
    }


async def released(redis: Redis, home: Path) -> list[tuple[Bundle, int]]:
    """The releases in the stream that the publisher's list names, each once with its ring, the newest first."""
    messages = await newest_messages(redis, LISTED)
    if not messages:
        return []
    trust = Trust(redis, keys.load_root(home))
    believed: dict[int, Bundle] = {}
    for message in messages:
        with suppress(Rejected, Corrupt):
            bundle = unpack(Bundle, message)
            await trust.verify(bundle.version, message)
            believed[bundle.version] = bundle
    return [(believed[version], trust.open_to[version]) for version in sorted(believed, reverse=True)]


def _of_release(bundle: Bundle, refused: Mapping[str, Refusal], fleet: Fleet) -> Story:
    taken_back = refused.get(bundle.id)
    told = fleet.reports.get(bundle.version, {})
    return Story(
        id=bundle.id,
        version=bundle.version,
        at_s=bundle.released_at_s,
        reasons=taken_back.reasons if taken_back else (),
        figures=_figures(bundle.evidence),
        guards=bundle.evidence.guards,
        packets=len(bundle.packets),
        edges=fleet.counts(bundle.version),
        against=tuple(
            f"{each.node} {each.verdict}: {each.reason}" for _, each in sorted(told.items()) if each.verdict not in WELL
        ),
    )


def _of_refusals(refused: Mapping[str, Refusal], released: Sequence[Bundle]) -> Iterator[Story]:
    known = {bundle.id for bundle in released}
    for name, each in refused.items():
        if name not in known:
            evidence = each.candidate.evidence if each.candidate else Evidence()
            packets = len(each.candidate.packets) if each.candidate else None
            yield Story(name, None, each.at_s, each.reasons, _figures(evidence), evidence.guards, packets, {}, ())


def _figures(evidence: Evidence) -> tuple[dict[str, Any], ...]:
    return tuple(figure.model_dump(mode="json", exclude={"v"}) for figure in evidence.figures)


def shown(story: Story) -> Iterator[RenderableType]:
    """One candidate, for people."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(story.at_s))
    what = "[red]refused[/]" if story.version is None else f"bundle {story.version}, released"
    packets = "" if story.packets is None else f", {story.packets} packets"
    yield f"[bold]{plain(story.id)}[/]  {what} {when}{packets}"
    for reason in story.reasons:
        yield f"  [red]{'taken back' if story.version else 'refused'}[/]: {plain(reason)}"
    if story.figures:
        yield _table(story.figures)
    if story.guards:
        yield f"  guards that spoke: {plain(', '.join(story.guards))}"
    said = ", ".join(f"{number} {word}" for word, number in story.edges.items() if number)
    if said:
        yield f"  edges: {said}"
    for line in story.against:
        yield f"  [red]{plain(line)}[/]"


def _table(figures: Sequence[Mapping[str, Any]]) -> Table:
    table = Listing(padding=(0, 2, 0, 0))
    for column in ("  figure", "domain", "before", "after", "change", "95 % of the change", "unit"):
        left = column in {"  figure", "domain", "unit"}
        table.column(column, folds=left, justify="left" if left else "right")
    for each in figures:
        before, after = cast("float | None", each["before"]), float(each["after"])
        table.add_row(
            f"  {plain(each['name'])}",
            plain(each["domain"] or ""),
            "" if before is None else f"{before:.4f}",
            f"{after:.4f}",
            "" if before is None else f"{after - before:+.4f}",
            _interval(each.get("low"), each.get("high")),
            "" if each["unit"] == "1" else plain(each["unit"]),  # a share has none
        )
    return table


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:+.4f} to {high:+.4f}"
