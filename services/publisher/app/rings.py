"""The newest release goes to everybody, or is taken back, by what those say who got it first (../rings.py)."""

import logging
import time

from common.runtime import streams
from common.runtime.broker import Broker
from common.runtime.effects import HashSet
from services.publisher import metadata, refusals, rings
from services.publisher.app.releases import Releases
from services.publisher.app.state import REFUSED
from services.publisher.app.verdicts import Verdicts

log = logging.getLogger(__name__)


class Rings:
    """Watches the release that is not for everybody yet, if there is one."""

    def __init__(self, broker: Broker, releases: Releases, verdicts: Verdicts) -> None:
        self._broker = broker
        self._releases = releases
        self._verdicts = verdicts
        self._began_s = time.time()  # silence before it is no news: nobody listened
        self._open_since: bytes | None = None  # the timestamp under which every release was for everybody

    async def watch(self) -> None:
        """Opens the newest release to everybody, or takes it back."""
        timestamp = await self._releases.noted(streams.METADATA, metadata.TIMESTAMP)
        if timestamp == self._open_since:
            return
        past = await self._releases.past()
        if past.current is None or past.open_version == past.current.version:
            self._open_since = past.held.get(metadata.TIMESTAMP)
            return
        version = past.current.version
        verdict = rings.judge(
            self._verdicts.fleet,
            version,
            ring=past.rings[version],
            nodes=self._releases.nodes(past),
            waited_s=time.time() - max(past.current.released_at_s, self._began_s),
        )
        if verdict.word == "open":
            await self._releases.open(past)
        elif verdict.word == "halt":
            back, good = await self._releases.take_back(past.open_version)
            note = HashSet(REFUSED, past.current.id, refusals.note((verdict.reason,), time.time()))
            await self._broker.commit(streams.CANDIDATES, [note])
            log.warning("bundle %d is taken back by %d, which is %d again: %s", version, back, good, verdict.reason)
