"""What became of each enrolled node's packets, noted beside the ledger and shown as metrics (standing.py).

An acceptance notes it in its own transaction, and so does a refusal that is told to the edge. What else is noted, a
refusal that ends as a dead letter alone or a distance after a cut, is noted by itself: a kill between loses a number.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Final, cast

from common.runtime import metrics, streams
from common.runtime.broker import Broker
from common.runtime.effects import Absent, Effect, Equals, HashSet
from services.aggregator.app.enrolment import Enrolment
from services.aggregator.app.hashes import STANDING
from services.aggregator.standing import Standing

log = logging.getLogger(__name__)

TRIES: Final = 8  # each is overtaken only by something that was noted


class Standings:
    """The standings of the keys that are enrolled; whoever else speaks leaves no trace here."""

    def __init__(self, broker: Broker, enrolment: Enrolment) -> None:
        self._broker, self._enrolment = broker, enrolment

    async def note(self, key: bytes, change: Callable[[Standing], Standing]) -> None:
        """Change what is noted of a key, if it is enrolled. change: may be asked several times."""
        if key not in self._enrolment.edges:
            return
        for _ in range(TRIES):
            before = await cast("Awaitable[bytes | None]", self._broker.redis.hget(STANDING, key.hex()))
            effects = changed(key, before, change(standing_of(before)))
            if await self._broker.commit(streams.PACKETS, effects):
                return
        log.warning("the standing of key %s was not noted: others note too much of it", key.hex())

    def show(self, key: bytes, outcome: str) -> None:
        """One more packet of a key, as metrics."""
        if key in self._enrolment.edges:
            metrics.NODE_PACKETS.labels(self._enrolment.edges[key][0], outcome).inc()

    def weigh(self, key: bytes, size_bytes: int) -> None:
        """What one more packet of a key weighed, as metrics."""
        if key in self._enrolment.edges:
            metrics.NODE_BYTES.labels(self._enrolment.edges[key][0]).inc(size_bytes)

    def show_distance(self, key: bytes, distance_rad: float) -> None:
        """How far a key's packets lay from the centre, as metrics."""
        if key in self._enrolment.edges:
            metrics.NODE_DISTANCE.labels(self._enrolment.edges[key][0]).set(distance_rad)


def standing_of(data: bytes | None) -> Standing:
    """What the broker keeps, or a fresh one. Raises Corrupt("standing")."""
    return Standing() if data is None else Standing.unpack(data)


def changed(key: bytes, before: bytes | None, after: Standing) -> list[Effect]:
    """The new standing, only where the old one is there still."""
    held = Absent(STANDING, key.hex()) if before is None else Equals(STANDING, key.hex(), before)
    return [held, HashSet(STANDING, key.hex(), after.packed)]
