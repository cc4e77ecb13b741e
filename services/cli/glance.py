"""The fleet at a glance, as values and tables: what `qig top` shows, and how it is read from the broker."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from redis.asyncio import Redis
from rich.console import JustifyMethod
from rich.table import Table

from common.runtime import streams
from common.runtime.follower import FROM_START
from common.runtime.overview import depths, heard, lately
from common.wire.messages import Applied, Heartbeat
from services.cli.show import Listing, plain
from services.cli.watch import GAP, UNKNOWN, Seen, cell

KEPT_S: Final = 900.0
BEATS_MAX: Final = 10_000
VERDICTS_MAX: Final = 12
SPARKS: Final = 15  # columns of a curve, a minute each
PHI_SHOWN: Final = (0.5, 1.0)
KAPPA_SHOWN: Final = (0.0, 100.0)
_LEVELS: Final = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Glance:
    """The fleet at one moment. beats: those of the last KEPT_S seconds, oldest first; verdicts: the same order."""

    seen: Seen
    beats: Sequence[Heartbeat]
    verdicts: Sequence[Applied]


class Reader:
    """Looks again and again, and reads each time only what came since."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._beats: deque[Heartbeat] = deque(maxlen=BEATS_MAX)
        self._verdicts: deque[Applied] = deque(maxlen=VERDICTS_MAX)
        self._heart: str | None = FROM_START  # positions in the broadcasts
        self._applied: str | None = None

    async def look(self) -> Glance:
        """Raises RedisError."""
        now_s = time.time()
        beats, self._heart = await heard(self._redis, self._heart)
        self._beats.extend(beats)
        while self._beats and self._beats[0].at_s < now_s - KEPT_S:
            self._beats.popleft()
        verdicts, self._applied = await lately(
            self._redis, streams.APPLIED, Applied, after=self._applied, most=VERDICTS_MAX
        )
        self._verdicts.extend(verdicts)
        newest = {(beat.service, beat.node): beat for beat in self._beats}
        seen = Seen(now_s, tuple(newest[name] for name in sorted(newest)), await depths(self._redis))
        return Glance(seen, tuple(self._beats), tuple(self._verdicts))


def kernels_table(glance: Glance) -> Table:
    """Each domain that an edge spoke in: phase, the newest Φ and κ that are known, their curves over the last KEPT_S
    seconds, all edges.
    """
    table = Listing(padding=GAP)
    phi_shown, kappa_shown = (f"{low:g} to {high:g}, 15 min" for low, high in (PHI_SHOWN, KAPPA_SHOWN))
    for column in ("domain", "phase", "Φ", phi_shown, "κ", kappa_shown):
        named = column == "domain"
        justify: JustifyMethod = "right" if column in {"Φ", "κ"} else "left"
        table.column(column, folds=named, justify=justify)
    for domain in sorted({name for beat in glance.beats for name in (*beat.phi, *beat.kappa)}):
        told = [beat for beat in glance.beats if domain in beat.phi or domain in beat.kappa]
        phi = [(beat.at_s, beat.phi.get(domain)) for beat in told]
        kappa = [(beat.at_s, beat.kappa.get(domain)) for beat in told]
        table.add_row(
            domain,
            told[-1].phases.get(domain, UNKNOWN),
            cell(_newest(phi)),
            curve(phi, glance.seen.at_s, PHI_SHOWN),
            cell(_newest(kappa), ".1f"),
            curve(kappa, glance.seen.at_s, KAPPA_SHOWN),
        )
    if not table.row_count:
        table.add_row("no edge has answered in the last quarter of an hour")
    return table


def _newest(points: Sequence[tuple[float, float | None]]) -> float | None:
    """The last value that was known: the one at the right end of the curve beside it."""
    return next((value for _, value in reversed(points) if value is not None), None)


def bundles_table(glance: Glance) -> Table:
    """What edges said of the bundles they tried, newest first, with bits per byte of their own text."""
    table = Listing(padding=GAP)
    for column in ("bundle", "edge", "verdict", "bit/B before", "after", "ago", "why"):
        said = column in {"edge", "why"}
        justify: JustifyMethod = "left" if said or column == "verdict" else "right"
        table.column(column, folds=said, justify=justify)
    for told in reversed(glance.verdicts):
        well = told.verdict in {"applied", "good"}
        verdict = f"[green]{told.verdict}[/]" if well else f"[red]{told.verdict}[/]"
        figures = ("" if value is None else f"{value:.3f}" for value in (told.probe_before, told.probe_after))
        age = f"{max(0.0, glance.seen.at_s - told.at_s) / 60:.0f} min"
        table.add_row(
            str(told.version),
            told.node,
            verdict,
            *figures,
            age,
            "" if well else plain(told.reason),
        )
    if not table.row_count:
        table.add_row("", "no bundle was tried yet")
    return table


def curve(points: Sequence[tuple[float, float | None]], now_s: float, shown: tuple[float, float]) -> str:
    """Values by time, the last of each minute, as SPARKS characters that end now; ▲ above shown, ▁ below it.

    >>> curve([(0.0, 0.0), (890.0, 1.0)], 900.0, (0.0, 1.0))
    '▁             █'
    """
    last: dict[int, float] = {}
    for at_s, value in points:
        if value is not None:
            last[min(SPARKS - 1, int((at_s - now_s + KEPT_S) * SPARKS / KEPT_S))] = value
    return "".join(_spark(last.get(place), shown) for place in range(SPARKS))


def _spark(value: float | None, shown: tuple[float, float]) -> str:
    if value is None:
        return " "
    low, high = shown
    if value > high:
        return "▲"
    level = int((value - low) / (high - low) * len(_LEVELS))
    return _LEVELS[max(0, min(len(_LEVELS) - 1, level))]
