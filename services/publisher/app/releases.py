"""Releases and their list: made, opened, taken back, listed anew; each in one transaction.

A release needs the current bundle that it was judged on to be current still, so versions grow by one however many
publishers there are and whenever one is killed. A bundle carries its publisher's signature, and what is in the stream
with ours, or our predecessor's, is what was released: should the notes of state.py be lost and the stream not, all is
there.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from typing import Final, cast

from nacl.signing import SigningKey
from tuf.api.metadata import Root, Targets

from common.errors import Corrupt, Rejected, Unavailable
from common.runtime import keys, metrics, streams
from common.runtime.broker import Broker
from common.runtime.effects import Effect, Send
from common.runtime.entries import Delivery
from common.runtime.releases import newest_messages
from common.runtime.settings import PublisherSettings
from common.trust import roles
from common.trust.rings import EVERYBODY
from common.trust.roles import Offline
from common.wire import bundle as bundles
from common.wire.codec import pack, unpack
from common.wire.messages import Bundle, Candidate
from services.publisher import metadata, rings
from services.publisher.app.state import BUNDLE, CURRENT, Past, listed, released, undone
from services.publisher.app.verdicts import Verdicts
from services.publisher.policy import changes_nothing
from services.publisher.release import release, taken_back

log = logging.getLogger(__name__)

DAY_S: Final = 86_400.0
WARN_DAYS: Final = 90  # with each new list, and the alert TrustEnds; `qig up` signs anew by itself when a year is left
AHEAD_MAX: Final = 10_000  # chosen: releases between two copies of a broker; versions do not come back from a mistake


class Releases:
    """The publisher's key and what it signs. version: of the newest release seen."""

    def __init__(self, settings: PublisherSettings, broker: Broker, verdicts: Verdicts) -> None:
        """Raises Unavailable: "missing_key" without the private key, "missing_root" without what names it."""
        self._broker, self._home = broker, settings.home
        self._verdicts = verdicts
        self._key, self._offline = self._keys()
        self.version = 0
        self._began = False  # whether this process has signed the list

    async def past(self) -> Past:
        """What there is now, under the keys that are in force now. Raises Unavailable("key_not_trusted")."""
        await self._look_for_keys()
        held = await self._broker.read_hash(streams.METADATA)
        packed = await self.noted(CURRENT, BUNDLE)
        messages = await self._messages(packed)
        releases = self._believed(messages)
        last = max({*releases, *metadata.claimed(messages, self._offline)}, default=0)
        kept = metadata.rings_of(self._offline, held)
        past = Past(held, packed, releases, last, kept or {})
        if kept is None and releases:  # a list that was lost, or another key's: the newest goes through its ring again
            past.rings[max(releases)] = 0
            past.rings[max(releases)] = rings.ring(self.nodes(past))
        return past

    def nodes(self, past: Past) -> set[str]:
        """The edges that reported on the last release that everybody got, or on the one before: when it was opened a
        moment ago, few have said anything of it.
        """
        reports = self._verdicts.fleet.reports
        return {node for version in past.open_versions[-2:] for node in reports.get(version, {})}

    async def make(self, candidate: Candidate, past: Past) -> list[Effect]:
        """The candidate as the release after `past`, to its ring or to everybody, and the list that names it."""
        bundle = release(candidate, after=past.last, released_at_s=time.time(), signing_key=self._key)
        log.info("candidate %s is released as bundle %d", candidate.id[:12], bundle.version)
        known = metadata.newest(past.releases | {bundle.version: pack(bundle)})
        same = past.current is not None and changes_nothing(candidate, past.current)
        ring = EVERYBODY if same or bundles.takes_back(bundle) else rings.ring(self.nodes(past))
        files = self._signed(known, past, past.rings | {bundle.version: ring})
        return [
            *released(bundle, past.packed, await self._broker.read_hash(streams.RELEASED)),
            *listed(past.held, files),
        ]

    async def open(self, past: Past) -> None:
        """The newest once more, for those who passed it over, and the list that is open."""
        assert past.current is not None
        message = past.releases[past.current.version]
        others = {version: ring for version, ring in past.rings.items() if version != past.current.version}
        files = self._signed(metadata.newest(past.releases), past, others)
        again = Send(streams.BUNDLES, message, f"{past.current.version}-{bundles.digest(past.current)}-all")
        if await self._broker.commit(streams.CANDIDATES, [*listed(past.held, files), again]):
            log.info("bundle %d is for everybody", past.current.version)

    async def take_back(self, to: int | None, why: str, *, above: int = 0) -> tuple[int, int]:
        """Releases the parts of version `to` (None: of the one before the last) again, as the next version, because
        what came after it is bad, which is noted of it; that version, and the one that is back.

        above: the highest version that edges may have of a broker that was restored from an older copy: the release
        gets a higher one, and what came after `to` (None: the newest there is) are these. Raises
        Rejected("not_older", "not_listed", "packets_returned", "too_far"), Unavailable("overtaken").
        """
        past = await self.past()
        if above > past.last + AHEAD_MAX:
            message = f"version {above} is more than {AHEAD_MAX} above {past.last}, the newest there is: look again"
            raise Rejected("too_far", message)
        past = replace(past, last=max(past.last, above))
        there_still = metadata.newest(past.releases)  # the parts of others were swept
        older = sorted(version for version in there_still if version < past.last)
        wanted = to if to is not None else (older or [0])[-1]
        if past.current is None or wanted not in there_still:
            there = ", ".join(map(str, older)) or "none"
            raise Rejected("not_listed", f"there is no release {wanted} to go back to; older ones there are: {there}")
        known = {version: unpack(Bundle, message) for version, message in past.releases.items()}
        candidate = taken_back(past.current, known[wanted], known, last=past.last)
        effects = [*await self.make(candidate, past), *undone(past, wanted, why=why, at_s=time.time())]
        if not await self._broker.commit(streams.CANDIDATES, effects):
            raise Unavailable("overtaken", "something was released meanwhile: look at it, then run this again")
        return past.last + 1, wanted

    async def renew(self) -> None:
        """Signs the list of releases anew, when it is due, and once in each life: a broker that was restored holds an
        older one than edges have seen, and they believe none before that.
        """
        await self._look_for_keys()
        held = await self._broker.read_hash(streams.METADATA)
        if self._began and not metadata.is_due(self._offline, held, now_s=time.time()):
            return
        past = await self.past()
        known = metadata.newest(past.releases)
        files = self._signed(known, past, past.rings)
        if await self._broker.commit(streams.CANDIDATES, listed(past.held, files)):
            self._began = True
            log.info("the list of %d releases is signed anew", len(known))
        left = int((metadata.ends_s(self._offline) - time.time()) // DAY_S)
        if left < WARN_DAYS:
            log.warning("root or targets metadata ends in %d days: `qig keys rotate targets` signs both anew", left)

    async def show(self, delivery: Delivery) -> None:
        """A release, seen by all: its version and figures become gauges."""
        bundle = unpack(Bundle, delivery.body)
        if bundle.version not in self._believed([delivery.body]):
            raise Corrupt("bad_signature", f"bundle {bundle.version} in the stream is not this publisher's")
        self.version = bundle.version
        metrics.BUNDLE_VERSION.set(bundle.version)
        metrics.show_figures(bundle.evidence.figures)

    async def noted(self, key: str, field: str) -> bytes | None:
        """One of the notes of state.py."""
        return await cast("Awaitable[bytes | None]", self._broker.redis.hget(key, field))

    def _keys(self) -> tuple[SigningKey, Offline]:
        """The key and what names it, from disk."""
        return keys.load_private(self._home, keys.PUBLISHER), keys.load_offline(self._home)

    async def _look_for_keys(self) -> None:
        """Take what `qig keys rotate` has written since. Raises Unavailable("key_not_trusted") in the middle of it."""
        key, offline = await asyncio.to_thread(self._keys)
        root, targets = roles.parsed(offline.root, Root), roles.parsed(offline.targets, Targets)
        metadata.check_key(root, targets, key.verify_key)
        self._key, self._offline = key, offline
        metrics.TRUST_ENDS.set(metadata.ends_s(offline))

    def _signed(self, known: Mapping[int, bytes], past: Past, each: Mapping[int, int]) -> metadata.Files:
        return metadata.signed(self._offline, known, past.held, self._key, now_s=time.time(), rings=each)

    async def _messages(self, packed: bytes | None) -> list[bytes]:
        """What may be releases, the oldest first. packed: what is noted as current."""
        messages = list(await newest_messages(self._broker.redis, metadata.LISTED))[::-1]
        return messages if packed is None else [*messages, packed]

    def _believed(self, messages: Sequence[bytes]) -> dict[int, bytes]:
        targets = roles.parsed(self._offline.targets, Targets)
        return metadata.believed(messages, self._key.verify_key, targets)
