"""What the edges say of each release, heard from the beginning of the stream on."""

import logging
from contextlib import suppress

from common.errors import Rejected
from common.runtime import streams
from common.runtime.broker import Broker
from common.runtime.entries import Delivery, body_of
from common.runtime.follower import FROM_START, kept
from common.wire.codec import unpack
from common.wire.messages import Applied
from services.publisher.fleet import Fleet, fold

log = logging.getLogger(__name__)


class Verdicts:
    """The fleet as its reports show it."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.fleet = Fleet()

    async def catch_up(self) -> str:
        """Hears all that was said before this process: rings hang on it from the first release on. The last entry."""
        last = FROM_START
        async for entry in kept(self._broker.redis, streams.APPLIED):
            last = entry.id
            with suppress(Rejected):
                self.fleet = fold(self.fleet, unpack(Applied, body_of(entry.fields) or b""))
        return last

    async def hear(self, delivery: Delivery) -> None:
        """One edge's verdict on a bundle."""
        report = unpack(Applied, delivery.body)
        before, self.fleet = self.fleet, fold(self.fleet, report)
        if self.fleet is before:
            return
        counts = self.fleet.counts(report.version)
        log.info("bundle %d: %s", report.version, ", ".join(f"{number} {word}" for word, number in counts.items()))
