"""Releases: verified, tried on this edge's own text, kept in a slot, swapped in while queries are served, settled; then
watched, and kept or gone back from.
"""

import asyncio
import contextlib
import ctypes
import gc
import logging
import math
from typing import Final

from common.constellation import parts as bundle_parts
from common.constellation.constellation import Constellation
from common.errors import Corrupt, Rejected, Unavailable
from common.runtime import causes, metrics, streams, tracing
from common.runtime.entries import Delivery
from common.runtime.follower import FROM_START
from common.runtime.trust import Trust
from common.wire.bundle import digest, takes_back
from common.wire.codec import pack, unpack
from common.wire.fields import REASON_MAX_CHARS
from common.wire.messages import Applied, Bundle, Verdict
from common.wire.packet import key_id
from services.edge.answer import Serving
from services.edge.app.arrivals import Arrivals
from services.edge.app.health import Health
from services.edge.app.node import Node
from services.edge.atlas import atlas
from services.edge.learning import follow_vocabulary, rehome, relearned, reopen, settle_bundle, unsettle
from services.edge.slots import Installed, Slots
from services.edge.standing import Left, Proved
from services.edge.trial import PROBE_MAX_BYTES, Trial, try_bundle

log = logging.getLogger(__name__)

Figures = tuple[float | None, float | None]
TELL_AGAIN_S: Final = 5.0  # chosen: after a broker that was not there; the bundle is looked at meanwhile
PROBES_MAX: Final = PROBE_MAX_BYTES // 16  # probes shorter than this on average do not fill a trial


class Bundles:
    """What one edge has installed. follow_from: the entry after which the stream of bundles is to be read."""

    def __init__(self, node: Node, slots: Slots, trust: Trust, health: Health) -> None:
        self._node = node
        self._slots = slots
        self._trust = trust
        self._health = health
        self.arrivals = Arrivals(node, slots, trust)
        self.follow_from = FROM_START
        self._taking = asyncio.Lock()  # one bundle after the other, fetched and all
        self._turning = asyncio.Lock()  # what serves and what is on trial: not held while a bundle is on its way here
        self._judged = ""  # digest of the bundle that was applied or refused last
        self._untold: tuple[Proved | Left, ...] = ()  # good, or gone back from, and the publisher has not heard of it
        self._not_told_s = -math.inf  # when that was tried last and failed

    async def start(self) -> None:
        """Serve the last good slot, or nothing yet. After damage the bundles are followed from the start again.

        What lies in a slot was believed before it was written: an edge starts without broker and clock.
        """
        installed = await asyncio.to_thread(self._slots.boot, now_s=self._node.now())
        self._untold = self._slots.standing.untold
        if installed is None:
            return
        try:
            constellation = await self._load(installed)
        except (Rejected, Corrupt) as error:
            log.error("the installed bundle is not used: %s", error)  # noqa: TRY400 -- the data's fault
            return
        await self._install(self._serving(installed.bundle, constellation))
        await self._watch_on(installed)
        if installed.passed_over:
            log.error("damaged on disk, an older bundle serves: %s", "; ".join(installed.passed_over))
        else:
            self.follow_from = self._node.record.cursor or FROM_START

    async def _watch_on(self, installed: Installed) -> None:
        """Watches a bundle that had not proved good when the process before this one ended."""
        if installed.digest == self._slots.standing.good:
            return
        if takes_back(installed.bundle):  # killed before that was noted; what it took the place of is bad
            await asyncio.to_thread(self._slots.approve, installed.digest)
            return
        good, before = await asyncio.to_thread(self._slots.last_good), None
        if good is not None:
            with contextlib.suppress(Rejected, Corrupt):  # then there is nothing to hold it against
                before = self._serving(good.bundle, await self._load(good))
        await self._health.begin(installed.bundle, before)

    async def rest(self) -> None:
        """This process ends in good order: no bundle has ended it."""
        await asyncio.to_thread(self._slots.rest)

    async def on_bundle(self, delivery: Delivery) -> None:
        """A release: verified, tried and swapped in while queries are served; then its packets are settled.

        One that is for others first comes again when it is for everybody.
        """
        bundle = unpack(Bundle, delivery.body)
        async with self._taking:
            with tracing.work("take bundle", causes.bundle(bundle), kind="consumer"):
                await self._take(delivery, bundle)

    async def look_again(self) -> None:
        """Takes what was passed over while the list that names it was withheld, and is named now."""
        try:
            newest = await self.arrivals.newest()
            async with self._taking:
                version = self._node.serving.bundle if self._node.serving else 0
                if (
                    newest is not None
                    and newest.version > version
                    and not (digest(newest) == self._judged or self._has_left(newest))
                ):
                    with tracing.work("take bundle", causes.bundle(newest)):
                        await self._report(newest, await self._adopt(newest))
                        await self._settle(newest, None)
        except Unavailable as error:  # no reason not to be ready: what serves, serves
            log.warning("cannot look again at what was released: %s", error)

    async def _take(self, delivery: Delivery, bundle: Bundle) -> None:
        try:
            await self._trust.verify(bundle.version, delivery.body)
        except Corrupt as error:
            if await self._trust.is_before(bundle):
                log.info("bundle %d is from before what is listed: it settles packets, and no more", bundle.version)
                await self._settle(bundle, delivery.entry_id)
                return
            await self._report(bundle, Trial("refused", str(error), None, None, None))
            raise
        if not await self._trust.is_open(bundle.version, delivery.body, self._node.settings.node):
            log.info("bundle %d is for others first", bundle.version)
            return
        if not self._has_left(bundle) and not await self._superseded(bundle):
            await self._report(bundle, await self._adopt(bundle))
        await self._settle(bundle, delivery.entry_id)
        await asyncio.to_thread(_give_back)

    async def _superseded(self, bundle: Bundle) -> bool:
        """Whether something newer serves already, or waits in the stream, is believed, and is for this edge."""
        if self._node.serving is not None and bundle.version < self._node.serving.bundle:
            return True
        newest = await self.arrivals.newest()
        return newest is not None and newest.version > bundle.version and not self._has_left(newest)

    def _has_left(self, bundle: Bundle) -> bool:
        """Whether it was gone back from: it is not taken again."""
        return self._slots.standing.has_left(digest(bundle))

    async def watch(self) -> None:
        """Keeps the bundle on trial, or goes back to the last good one, by how it does; tells the publisher of it."""
        async with self._turning:
            if (bundle := self._health.bundle) is not None:
                seen = await self._health.look()
                if seen.word == "bad" or self._has_left(bundle):  # the latter: so far on disk alone
                    await self._go_back(bundle, seen.reason)
                elif seen.word == "good":
                    await self._keep(bundle, seen.reason)
            if self._untold and abs(self._node.now() - self._not_told_s) >= TELL_AGAIN_S:  # abs: a clock that was set
                self._not_told_s = self._node.now()
                await self._tell_all()
                self._not_told_s = -math.inf

    async def _tell_all(self) -> None:
        for each in self._untold:
            verdict: Verdict = "good" if isinstance(each, Proved) else "reverted"
            await self._tell(each.version, each.digest, verdict, each.reason, (each.before, each.after))
            await asyncio.to_thread(self._slots.told, each.digest)
            self._untold = self._untold[1:]

    async def _keep(self, bundle: Bundle, reason: str) -> None:
        before, after = self._health.figures
        proved = Proved(
            digest=digest(bundle), version=bundle.version, reason=reason[:REASON_MAX_CHARS], before=before, after=after
        )
        await asyncio.to_thread(self._slots.keep, proved)  # first: without the broker too it is on trial no more
        self._health.end()
        self._untold = (*self._untold, proved)
        await asyncio.to_thread(_give_back)

    async def _go_back(self, bundle: Bundle, reason: str) -> None:
        """Serves the last good bundle again. What was counted and learned since stays, and what packets brought stays
        settled: the centre has it, until it says that it took the release back.
        """
        before, after = self._health.figures
        left = Left(
            digest=digest(bundle),
            version=bundle.version,
            reason=reason[:REASON_MAX_CHARS],
            before=before,
            after=after if after is not None and math.isfinite(after) else None,
            at_s=self._node.now(),
        )
        known = self._health.before
        try:
            good = await asyncio.to_thread(self._slots.go_back, left)
        except Unavailable as error:
            if error.code != "no_last_good":  # a disk that is full now: it is as bad at the next look
                raise
            self._health.end()
            log.error("bundle %d is bad and serves on: %s: %s", bundle.version, reason, error)  # noqa: TRY400 -- told
            return
        if known is None or known.digest != good.digest:
            known = self._serving(good.bundle, await self._load(good))
        await self._install(known)
        self._health.end()
        left = next((each for each in self._slots.standing.left if each.digest == left.digest), left)  # as said first
        self._untold = (*self._untold, left)
        log.error("bundle %d is bad, bundle %d serves again: %s", bundle.version, good.bundle.version, left.reason)
        await asyncio.to_thread(_give_back)

    async def _adopt(self, bundle: Bundle) -> Trial:
        trial = await self._tried(bundle)
        self._judged = digest(bundle)
        if trial.verdict == "refused":  # its own parts stay: the next bundle may have most of them
            async with self._turning:
                with contextlib.suppress(Unavailable):  # a disk that deletes nothing now: after the next one, then
                    await asyncio.to_thread(self._slots.collect, bundle.parts.values())
        return trial

    async def _tried(self, bundle: Bundle) -> Trial:
        if self._node.serving is not None and self._node.serving.digest == digest(bundle):
            return Trial("applied", "was installed before", None, None, self._node.serving.constellation)
        try:
            parts = await self.arrivals.parts_of(bundle)
        except (Rejected, Corrupt) as error:
            return Trial("refused", str(error), None, None, None)
        async with self._turning:
            return await self._turn_to(bundle, parts)

    async def _turn_to(self, bundle: Bundle, parts: dict[str, bytes]) -> Trial:
        """Tries it against what serves now, and has it serve if it is fit to."""
        serving = self._node.serving
        probes = await asyncio.to_thread(self._node.record.texts.probes, PROBES_MAX)  # a damaged disk: no fault of it
        try:
            # What is taken back is not held against what took its place: that is what is bad.
            current = None if serving is None or takes_back(bundle) else serving.constellation
            trial = await asyncio.to_thread(try_bundle, current, parts, probes)
        except (Rejected, Corrupt) as error:
            return Trial("refused", str(error), None, None, None)
        if trial.verdict == "applied" and trial.constellation is not None:
            if serving is not None and serving.bundle > bundle.parent:  # what serves is not what this one follows
                async with self._node.learning:
                    await asyncio.to_thread(reopen, self._node.record, trial.constellation)
            await asyncio.to_thread(self._slots.activate, bundle)
            before = self._health.before or serving
            await self._install(self._serving(bundle, trial.constellation), bundle)
            if takes_back(bundle):  # what it takes the place of is bad, whatever it does
                await asyncio.to_thread(self._slots.approve, digest(bundle))
                self._health.end()
            else:
                await self._health.begin(bundle, before, (trial.before, trial.after))
        return trial

    async def _install(self, serving: Serving, brought: Bundle | None = None) -> None:
        """`serving` answers from now on, with what is learned here. brought: the bundle that comes with it; what it
        brings back is in the residue no more: nothing counts twice.
        """
        async with self._node.learning:
            await asyncio.to_thread(self._follow_vocabulary, serving)
            if brought is not None:
                await self._acknowledge(serving, brought, None)
            await asyncio.to_thread(rehome, self._node.record, serving)
            self._swap(await asyncio.to_thread(relearned, self._node.record, serving))

    async def _load(self, installed: Installed) -> Constellation:
        """Beside what serves. Raises as bundle_parts.load."""
        known = None if self._node.serving is None else self._node.serving.constellation
        return await asyncio.to_thread(bundle_parts.load, installed.parts, known)

    def _serving(self, bundle: Bundle, constellation: Constellation) -> Serving:
        return Serving(constellation, bundle.version, digest(bundle), self._node.settings.node)

    def _swap(self, serving: Serving) -> None:
        self._node.serving = serving
        self._node.last = {
            domain: each for domain, each in self._node.last.items() if domain in serving.answering.domains
        }
        self._node.scores = {
            name: each for name, each in self._node.scores.items() if name in serving.answering.domains
        }
        for gauge in (metrics.BITS_PER_BYTE, metrics.LOCAL_BITS_PER_BYTE):
            metrics.show_only(gauge, serving.answering.domains)
        homes = {name: each.basin_array for name, each in serving.constellation.domains.items()}
        self._node.live.serves(serving.bundle, atlas(homes))
        metrics.BUNDLE_VERSION.set(serving.bundle)
        log.info("bundle %d (%s) serves", serving.bundle, serving.digest)

    def _follow_vocabulary(self, serving: Serving) -> None:
        if follow_vocabulary(self._node.record, serving):
            size = serving.constellation.coordizer.vocab_size
            log.info("bundle %d has %d tokens: what was counted is counted anew", serving.bundle, size)

    async def _settle(self, bundle: Bundle, entry_id: str | None) -> None:
        """The centre has what our packets in this bundle carried, whether or not we use the bundle."""
        if self._node.serving is None:
            return
        async with self._node.learning:
            if await self._acknowledge(self._node.serving, bundle, entry_id):
                await self._node.relearn(None)

    async def _acknowledge(self, serving: Serving, bundle: Bundle, entry_id: str | None) -> int:
        """Takes our packets in a bundle out of what is to be sent, and puts those back that no release has any more.

        How many. See `settle_bundle` and `unsettle`.
        """
        key = key_id(self._node.key.verify_key)
        back = await asyncio.to_thread(unsettle, self._node.record, bundle, self._trust.listed, key=key)
        if back:
            metrics.PACKETS.labels("returned", "").inc(len(back))
            log.warning("packets %s were in releases that are none any more: they go out again", list(back))
        named = await asyncio.to_thread(
            settle_bundle, self._node.record, serving, bundle, key=key, entry_id=entry_id, now_s=self._node.now()
        )
        metrics.PACKETS.labels("acknowledged", "").inc(len(named))
        return len(back) + len(named)

    async def _report(self, bundle: Bundle, trial: Trial) -> None:
        await self._tell(bundle.version, digest(bundle), trial.verdict, trial.reason, (trial.before, trial.after))

    async def _tell(self, version: int, name: str, verdict: Verdict, reason: str, figures: Figures) -> None:
        """name: the bundle's digest; figures: bits per byte before and after, None where not known."""
        log.info("bundle %d %s: %s", version, verdict, reason)
        told = Applied(
            node=self._node.settings.node,
            version=version,
            verdict=verdict,
            reason=reason[:REASON_MAX_CHARS],
            probe_before=figures[0],
            probe_after=figures[1],
            at_s=self._node.now(),
        )
        await self._node.broker.produce(streams.APPLIED, pack(told), f"{told.node}:{name}:{verdict}")
        metrics.BUNDLE_APPLIED.labels(verdict).inc()


def _give_back() -> None:
    """Memory of the bundle before: a hundred megabytes in too few objects for a collection of their own, and of which
    glibc keeps what it was told is free.
    """
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # another libc: nothing to do
        ctypes.CDLL(None).malloc_trim(0)
