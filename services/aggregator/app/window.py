"""The base window: which bundles packets may be based on, followed as they are released."""

import asyncio
import logging
from dataclasses import replace
from typing import Final

from common.constants import ROLES
from common.constellation.paths import DOMAINS, MERGES, kernel_path, memory_path
from common.errors import QigError, Rejected, Unavailable
from common.runtime import metrics
from common.runtime.broker import Broker
from common.runtime.entries import Delivery
from common.runtime.follower import FROM_START
from common.runtime.releases import newest_messages
from common.runtime.trust import Trust
from common.wire.codec import unpack
from common.wire.expected import Prior
from common.wire.messages import Bundle
from services.aggregator.bases import BASE_WINDOW, Base, Bases, base_of, expects, holds, with_base
from services.aggregator.quorum import Known

log = logging.getLogger(__name__)

BLOB_TRIES: Final = 30  # about 25 s: a bundle whose parts are gone for good must not hide the next one


class Window:
    """What is known of the newest bundles. bases: oldest first; empty until one was released. quorum: whether it is
    asked which n-grams they know.
    """

    def __init__(self, broker: Broker, trust: Trust, *, quorum: bool = False) -> None:
        self._broker, self._trust, self._quorum = broker, trust, quorum
        self.bases: Bases = ()
        self._released = False  # whether the stream is known to hold a bundle, which is not read in a moment
        self._priors: dict[tuple[str, ...], Prior] = {}  # by vocabulary size and the digests of a domain's memories

    @property
    def version(self) -> int:
        """The newest bundle in the base window; 0 for none."""
        return self.bases[-1].version if self.bases else 0

    def ready(self) -> str | None:
        """Packets wait in their stream until there is a bundle to hold them against."""
        if self.bases:
            return None
        if self._released:
            return "reads the newest bundles: packets wait until one is read"
        return "no bundle was released yet: packets wait until the publisher has released one"

    async def follow(self, delivery: Delivery) -> None:
        """One release. A part that is not there yet is waited for, but not for ever; what says whom to believe, is."""
        self._released = True
        try:
            await self._know(delivery.body)
        except Unavailable as error:
            if error.code == "blob_missing" and delivery.deliveries >= BLOB_TRIES:
                raise Rejected(error.code, f"bundle passed over: {error.message}") from None
            raise

    async def _know(self, body: bytes) -> None:
        bundle = unpack(Bundle, body)
        if any(base.version == bundle.version for base in self.bases):
            return
        await self._trust.verify(bundle.version, body)
        base = base_of(
            bundle,
            domains=await self._part(bundle, DOMAINS),
            kernel=await self._part(bundle, kernel_path(ROLES[0])),
            merges=await self._part(bundle, MERGES),
        )
        base = replace(base, priors=await self._expected(bundle, base), known=await self._held(bundle, base))
        self.bases = with_base(self.bases, base)
        metrics.BUNDLE_VERSION.set(self.bases[-1].version)
        metrics.show_only(metrics.SPREAD, self.bases[-1].domains)
        log.info("bundle %d is a base, with %d domains", bundle.version, len(base.domains))

    async def _expected(self, bundle: Bundle, base: Base) -> dict[str, Prior]:
        """What the bundle expects of each domain; made anew only where a memory is new."""
        found = {}
        for name, domain in base.domains.items():
            paths = [memory_path(memory) for memory in domain.memories]
            digests = (bundle.parts[path].digest if path in bundle.parts else path for path in paths)
            key = (str(base.vocab_size), *digests)
            if key not in self._priors:
                parts = [await self._part(bundle, path) for path in paths]
                self._priors[key] = await asyncio.to_thread(expects, parts, base.vocab_size)
            found[name] = self._priors[key]
        used = {id(prior) for other in self.bases for prior in other.priors.values()} | set(map(id, found.values()))
        self._priors = {key: prior for key, prior in self._priors.items() if id(prior) in used}
        return found

    async def _held(self, bundle: Bundle, base: Base) -> dict[str, Known]:
        """Which n-grams a quorum has brought to each opened domain: its own memory's; only where it is asked.

        What a role's memory knows is none of them: its text is the centre's, and wrong words that it knows cost a fleet
        as much as others.
        """
        opened = {name: domain.memories[-1] for name, domain in base.domains.items() if name not in ROLES}
        found = {}
        for name, own in opened.items() if self._quorum else ():
            part = await self._part(bundle, memory_path(own))
            found[name] = await asyncio.to_thread(holds, part, base.vocab_size)
        return found

    async def _part(self, bundle: Bundle, path: str) -> bytes:
        part = bundle.parts.get(path)
        if part is None:
            raise Rejected("bad_constellation", f"bundle {bundle.version} has no part {path}")
        return await self._broker.get_blob(part.digest, part.size_bytes)

    async def catch_up(self) -> None:
        """Know the newest bundles now: an edge may be quicker than our follower, and must not be refused for it."""
        newest = list(await newest_messages(self._broker.redis, BASE_WINDOW))[:BASE_WINDOW]
        for body in reversed(newest):
            try:
                await self._know(body)
            except QigError as error:
                log.warning("a bundle of the window cannot be used: %s", error)

    async def first_position(self) -> str:
        """Where to begin to follow so that the whole base window is seen."""
        entries = list((await newest_messages(self._broker.redis, BASE_WINDOW + 1)).values())
        self._released = bool(entries)
        return entries[BASE_WINDOW] if len(entries) > BASE_WINDOW else FROM_START
