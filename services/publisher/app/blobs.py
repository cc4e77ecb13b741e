"""Blobs that nobody can need any more go: each sweep looks anew, and leaves nothing to finish for the next.

blobs of the BATCHES' outbox ─▶ qig:candidates ─▶ releases, in that order: a candidate that moves is seen where it
was or where it is. The rest goes when nobody has read or written it for IDLE_S.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final

from common.errors import Rejected
from common.runtime import streams
from common.runtime.broker import Broker
from common.runtime.entries import body_of
from common.runtime.follower import kept
from common.wire.codec import unpack
from common.wire.messages import Bundle, Candidate
from services.publisher import metadata
from services.publisher.app.releases import Releases
from services.publisher.blobs import needed

log = logging.getLogger(__name__)

# Chosen: a trainer stores every part before it sends the candidate, and an edge on a thin line is still reading what
# was listed a moment ago.
IDLE_S: Final = 3_600.0


class Blobs:
    """Looks after the parts of releases in the broker."""

    def __init__(self, broker: Broker, releases: Releases) -> None:
        self._broker = broker
        self._releases = releases

    async def sweep(self) -> None:
        """Deletes what no listed bundle and no candidate on its way names. Raises what `Releases.past` raises."""
        undecided = [candidate async for candidate in self._undecided()]
        past = await self._releases.past()
        if (
            past.current is None
        ):  # nothing is released yet, or with a key that is not ours: then it is not ours to judge
            return
        listed = [unpack(Bundle, message) for message in metadata.newest(past.releases).values()]
        gone = await self._broker.forget_blobs(needed(listed, undecided), IDLE_S)
        if gone:
            log.info("%d chunks of blobs went, which no listed bundle and no candidate names", gone)

    async def _undecided(self) -> AsyncIterator[Candidate]:
        """Every candidate that is on its way; what is none has no parts."""
        for stream in (streams.outbox(streams.BATCHES), streams.CANDIDATES):
            async for entry in kept(self._broker.redis, stream):
                with suppress(Rejected):
                    yield unpack(Candidate, body_of(entry.fields) or b"")
