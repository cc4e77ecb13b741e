"""The newest release goes to everybody, or is taken back, by what those say who have it (../rings.py)."""

import asyncio
import logging
import time
from pathlib import Path

from common.errors import QigError
from common.runtime import keys, metrics, streams
from common.trust.rings import is_open
from common.wire import bundle as bundles
from common.wire.messages import Bundle
from services.publisher import metadata, rings
from services.publisher.app.releases import Releases
from services.publisher.app.state import Past
from services.publisher.app.verdicts import Verdicts
from services.publisher.fleet import Fleet, serving

log = logging.getLogger(__name__)


class Rings:
    """Watches the newest release, and who has it."""

    def __init__(self, home: Path, releases: Releases, verdicts: Verdicts) -> None:
        """home: where the enrolled edges' public keys are."""
        self._home = home
        self._releases = releases
        self._verdicts = verdicts
        self._began_s = time.time()  # silence before it is no news: nobody listened
        self._done: tuple[bytes | None, Fleet] | None = None  # the list and the reports on which nothing is to be done
        metrics.begin(metrics.TAKEN_BACK, ("ring",), ("everybody",))

    async def watch(self) -> None:
        """Opens the newest release to everybody, or takes it back, unless it is the first or takes back itself."""
        listed, fleet = await self._releases.noted(streams.METADATA, metadata.TIMESTAMP), self._verdicts.fleet
        if self._done is not None and self._done[0] == listed and self._done[1] is fleet:
            return
        past = await self._releases.past()
        await self._show(past)
        if past.current is None or bundles.takes_back(past.current) or len(past.releases) == 1:
            verdict = rings.NOTHING
        elif past.open_version == past.current.version:
            verdict = rings.judge_open(fleet, past.current.version)
        else:
            verdict = self._judge(past.current, past)
        if verdict.word == "open":
            await self._releases.open(past)
        elif verdict.word == "halt":
            await self._halt(past, verdict.reason)
        elif past.current is None or past.open_version == past.current.version:
            self._done = past.held.get(metadata.TIMESTAMP), fleet

    async def _show(self, past: Past) -> None:
        """What each enrolled edge serves, and whether it is among the first; as metrics, and no reason to fail."""
        try:
            enrolled = await asyncio.to_thread(keys.load_enrolled, self._home)
        except QigError as error:
            log.warning("the enrolled edges are not shown: %s", error)
            return
        served, first = serving(self._verdicts.fleet), rings.ring(self._releases.nodes(past))
        metrics.NODE_RING.clear()
        metrics.NODE_BUNDLE.clear()
        for node in {node for node, _ in enrolled.values()}:
            metrics.NODE_RING.labels(node).set(0 if is_open(first, node) else 1)
            if node in served:
                metrics.NODE_BUNDLE.labels(node).set(served[node])

    def _judge(self, current: Bundle, past: Past) -> rings.Verdict:
        return rings.judge(
            self._verdicts.fleet,
            current.version,
            ring=past.rings[current.version],
            nodes=self._releases.nodes(past),
            waited_s=time.time() - max(current.released_at_s, self._began_s),
        )

    async def _halt(self, past: Past, reason: str) -> None:
        assert past.current is not None
        version, everybody = past.current.version, past.open_version == past.current.version
        back, good = await self._releases.take_back(None if everybody else past.open_version, reason)
        metrics.TAKEN_BACK.labels("everybody" if everybody else "ring").inc()
        log.warning("bundle %d is taken back by %d, which is %d again: %s", version, back, good, reason)
