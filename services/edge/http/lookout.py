"""What the live page tells of the rest of the fleet: read from the broker every two seconds while somebody looks at the
page, and whether the broker answers.

Not otherwise: of a thousand edges each would read the heartbeats of all, some gigabytes a day over every link.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Final

from common.errors import Unavailable
from common.runtime import streams
from common.runtime.broker import Broker
from common.runtime.overview import READ_MAX, StreamRow
from common.wire.messages import Applied, Bundle, Heartbeat
from services.edge.live import BUNDLES_MAX, KEPT_S, SERVICES_MAX, VERDICTS_MAX, Live

LOOK_EVERY_S: Final = 2.0
LOOK_MAX_S: Final = 2.0  # a client that waits for a broker to come back would say so too late


class Lookout:
    """`look` is a tick. now: seconds since 1970."""

    def __init__(self, live: Live, broker: Broker, now: Callable[[], float] = time.time) -> None:
        self._live = live
        self._broker = broker
        self._now = now
        self._beats: str | None = None  # positions in the broadcasts
        self._applied: str | None = None
        self._bundles: str | None = None

    async def look(self) -> None:
        """Tells what came since the last look; a broker that does not answer is told too, and is nobody's failure."""
        if not self._live.watched(self._now()):
            self._beats = self._applied = self._bundles = None  # whoever comes is told the newest
            self._live.unwatched()
            return
        try:
            async with asyncio.timeout(LOOK_MAX_S):
                rows = await self._read()
        except Unavailable as error:
            self._live.away(error.message, self._now())
        except TimeoutError:
            self._live.away(f"no answer within {LOOK_MAX_S:g} s", self._now())
        else:
            self._live.looked([asdict(row) for row in rows], self._now())

    async def _read(self) -> tuple[StreamRow, ...]:
        live, broker = self._live, self._broker
        beats, self._beats = await broker.lately(
            streams.HEART, Heartbeat, after=self._beats, most=READ_MAX if self._beats else SERVICES_MAX
        )
        newest = {(beat.service, beat.node): beat for beat in beats}
        for beat in newest.values():
            if beat.at_s >= self._now() - KEPT_S:
                live.beat(beat)
        verdicts, self._applied = await broker.lately(streams.APPLIED, Applied, after=self._applied, most=VERDICTS_MAX)
        for verdict in verdicts:
            live.applied(verdict)
        bundles, self._bundles = await broker.lately(streams.BUNDLES, Bundle, after=self._bundles, most=BUNDLES_MAX)
        for bundle in bundles:
            live.released(bundle)
        return await broker.depths()
