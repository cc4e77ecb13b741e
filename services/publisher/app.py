"""The publisher's shell: candidates become bundles or refusals; edges' verdicts are counted.

    candidates ─▶ judge ─▶ every new part read and verified ─▶ sign
               ─▶ {current, released, metadata} + Bundle to the outbox + acknowledgement        one transaction
               └▶ refused: {refused: id ─▶ reasons} + its packets Returned, then a dead letter
    tick rings ─▶ opens a release to everybody, or takes it back, by what those say who got it first (rings.py)
    tick trust ─▶ {metadata}, when it is not there, an hour old, or the keys are others
    bundles, applied ─▶ gauges

    {qig:candidates}:current    "bundle" ─▶ the newest release, packed: what the next one follows
    {qig:candidates}:released   candidate id ─▶ version: a candidate that comes again is not refused as out of date
    {qig:candidates}:refused    candidate id ─▶ {"at_s", "reasons"}; the trainer waits for either word

    {qig:candidates}:metadata   what readers believe: metadata.py

A release needs the current bundle that it was judged on to be current still, so versions grow by one however many
publishers there are and whenever one is killed. A bundle carries its publisher's signature, and what is in the stream
with ours, or our predecessor's, is what was released: should these hashes be lost and the stream not, all is there.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, cast

from nacl.signing import SigningKey
from tuf.api.metadata import Root, Targets

from common.constellation.paths import DOMAINS
from common.errors import Corrupt, QigError, Rejected, Unavailable
from common.runtime import keys, metrics, streams
from common.runtime.broker import Broker
from common.runtime.consumer import Consumer
from common.runtime.effects import Absent, Effect, Equals, HashDelete, HashSet, Send
from common.runtime.entries import Delivery, body_of
from common.runtime.follower import FROM_START, Follower, kept
from common.runtime.heart import heart
from common.runtime.service import Tick, Wiring, run
from common.runtime.settings import PublisherSettings
from common.trust import roles
from common.trust.rings import EVERYBODY
from common.trust.roles import Offline
from common.wire import bundle as bundles
from common.wire.codec import pack, unpack
from common.wire.messages import REASON_MAX_CHARS, TAKEN_BACK, Applied, Bundle, Candidate, Part, Returned
from services.publisher import metadata, refusals, rings
from services.publisher.fleet import Fleet, fold
from services.publisher.policy import BITS_PER_BYTE, Limits, judge, missing_memories, without_heir
from services.publisher.release import release, taken_back

log = logging.getLogger(__name__)

CURRENT: Final = streams.side_key(streams.CANDIDATES, "current")
RELEASED: Final = streams.side_key(streams.CANDIDATES, "released")
REFUSED: Final = streams.side_key(streams.CANDIDATES, "refused")
BUNDLE: Final = "bundle"
PARTS_WAIT_S: Final = 600.0  # chosen: a trainer stores every part before it sends the candidate
MAX_DELIVERIES: Final = 5
TRUST_EVERY_S: Final = 10.0  # how soon after `qig keys rotate` the new keys are in force
WARN_DAYS: Final = 90  # with each new list; `qig up` signs anew by itself when a year is left
RINGS_EVERY_S: Final = 2.0
LOOK_BACK: Final = 2 * metadata.LISTED  # entries of the bundles' stream looked at; others may have written there too


@dataclass(frozen=True, slots=True)
class Past:
    """What the next release follows, as it was found.

    held: the metadata in the broker; packed: what is noted as current; releases: messages by version; last: the highest
    version that a reader may serve, signed with a stolen key or not; rings: of those that are not for everybody. A
    release needs the first two to be so still.
    """

    held: metadata.Files
    packed: bytes | None
    releases: dict[int, bytes]
    last: int
    rings: dict[int, int]

    @property
    def open_version(self) -> int:
        """The newest that is for everybody; 0 for none."""
        open_ = (version for version in self.releases if self.rings.get(version, EVERYBODY) == EVERYBODY)
        return max(open_, default=0)

    @property
    def current(self) -> Bundle | None:
        """The newest that is believed."""
        return unpack(Bundle, self.releases[max(self.releases)]) if self.releases else None


class Publisher:
    """What outlives a message: the key, the fleet's verdicts, and the way to the broker."""

    def __init__(self, settings: PublisherSettings, broker: Broker) -> None:
        """Raises Unavailable: "missing_key" without the private key, "missing_root" without what names it."""
        self._broker, self._home = broker, settings.home
        self._key, self._offline = self._keys()
        self._limits = Limits(regress_limit=settings.regress_limit)
        self.fleet = Fleet()
        self.version = 0  # of the newest release seen
        self._began_s = time.time()  # silence before it is no news: nobody listened
        self._open_since: bytes | None = None  # the timestamp under which every release was for everybody

    # Candidates

    async def take(self, delivery: Delivery, candidate: Candidate) -> Sequence[Effect]:
        """One candidate: a release, or a refusal that is kept, whatever it fails of: the trainer waits for a word."""
        try:
            return await self._decide(delivery, candidate)
        except QigError:
            raise
        except Exception as error:
            if delivery.deliveries >= MAX_DELIVERIES:
                await self._refuse(candidate, (f"the publisher failed {delivery.deliveries} times: {error!r}",))
            raise

    async def _decide(self, delivery: Delivery, candidate: Candidate) -> Sequence[Effect]:
        if await self._hget(RELEASED, candidate.id) is not None:
            log.info("candidate %s was released before", candidate.id[:12])
            return []
        if candidate.packets and await self._hget(REFUSED, candidate.id) is not None:
            raise Rejected("candidate_refused", "it was refused before, and its packets went back to their edges")
        await self._look_for_keys()
        past = await self._past()
        try:
            reasons = judge(candidate, current=past.current, limits=self._limits).reasons
            reasons = reasons or await self._vouch(delivery, candidate, past.current)
        except (Rejected, Corrupt) as error:
            await self._refuse(candidate, (str(error),))
            raise
        if reasons:
            await self._refuse(candidate, reasons)
            raise Rejected("candidate_refused", "; ".join(reasons)[:REASON_MAX_CHARS])
        if past.current is not None and past.open_version != past.current.version:
            message = f"bundle {past.current.version} is not for everybody yet: the next one waits for that"
            raise Unavailable("ring_pending", message)
        try:
            effects = await self._release(candidate, past)
        except Rejected as error:
            await self._refuse(candidate, (str(error),))
            raise
        metrics.CANDIDATES.labels("released").inc()
        return effects

    async def _release(self, candidate: Candidate, past: "Past") -> list[Effect]:
        bundle = release(candidate, after=past.last, released_at_s=time.time(), signing_key=self._key)
        log.info("candidate %s is released as bundle %d", candidate.id[:12], bundle.version)
        known = metadata.newest(past.releases | {bundle.version: pack(bundle)})
        ring = EVERYBODY if bundles.takes_back(bundle) else rings.ring(self._nodes(past))
        files = self._signed(known, past, past.rings | {bundle.version: ring})
        return [*released(bundle, past.packed, await self._broker.read_hash(RELEASED)), *_told(past.held, files)]

    async def watch(self) -> None:
        """Opens the newest release to everybody, or takes it back, by what those say who got it first."""
        timestamp = await self._hget(streams.METADATA, metadata.TIMESTAMP)
        if timestamp == self._open_since:
            return
        await self._look_for_keys()
        past = await self._past()
        if past.current is None or past.open_version == past.current.version:
            self._open_since = past.held.get(metadata.TIMESTAMP)
            return
        version = past.current.version
        verdict = rings.judge(
            self.fleet,
            version,
            ring=past.rings[version],
            nodes=self._nodes(past),
            waited_s=time.time() - max(past.current.released_at_s, self._began_s),
        )
        if verdict.word == "open":
            await self._open(past)
        elif verdict.word == "halt":
            back, good = await self.take_back(past.open_version)
            note = HashSet(REFUSED, past.current.id, refusals.note((verdict.reason,), time.time()))
            await self._broker.commit(streams.CANDIDATES, [note])
            log.warning("bundle %d is taken back by %d, which is %d again: %s", version, back, good, verdict.reason)

    async def _open(self, past: "Past") -> None:
        """The same bundle once more, for those who passed it over, and the list that is open."""
        assert past.current is not None
        message = past.releases[past.current.version]
        others = {version: ring for version, ring in past.rings.items() if version != past.current.version}
        files = self._signed(metadata.newest(past.releases), past, others)
        again = Send(streams.BUNDLES, message, f"{past.current.version}-{bundles.digest(past.current)}-all")
        if await self._broker.commit(streams.CANDIDATES, [*_told(past.held, files), again]):
            log.info("bundle %d is for everybody", past.current.version)

    async def take_back(self, to: int | None) -> tuple[int, int]:
        """Releases the parts of version `to` (None: of the one before the last) again, as the next version, because
        what came after it is bad; that version, and the one that is back.

        Raises Rejected("not_older", "not_listed"), Unavailable("overtaken").
        """
        await self._look_for_keys()
        past = await self._past()
        older = sorted(version for version in past.releases if version < past.last)
        wanted = to if to is not None else (older or [0])[-1]
        if past.current is None or wanted not in past.releases:
            listed = ", ".join(map(str, older)) or "none"
            raise Rejected("not_listed", f"there is no release {wanted} to go back to; older ones there are: {listed}")
        candidate = taken_back(past.current, unpack(Bundle, past.releases[wanted]), last=past.last)
        effects = [*await self._release(candidate, past), *_undone(past, wanted)]
        if not await self._broker.commit(streams.CANDIDATES, effects):
            raise Unavailable("overtaken", "something was released meanwhile: look at it, then run this again")
        return past.last + 1, wanted

    async def _vouch(self, delivery: Delivery, candidate: Candidate, current: Bundle | None) -> tuple[str, ...]:
        """Read every part that is new, so that nothing is signed unseen; stored again, so that it stays.

        Returns what is wrong with its domains: a memory that is not there, one that is gone without an heir. Raises
        Corrupt("part_digest").
        """
        trusted = set() if current is None else {(part.digest, part.size_bytes) for part in current.parts.values()}
        try:
            for part in candidate.parts.values():
                if (part.digest, part.size_bytes) not in trusted:
                    await self._broker.put_blob(await self._blob(part))
            domains = await self._blob(candidate.parts[DOMAINS])
            before = domains if current is None else await self._blob(current.parts[DOMAINS])
            return *missing_memories(candidate, domains), *without_heir(before, domains)
        except Unavailable as error:
            waited_s = time.time() - delivery.at_ms / 1000
            if error.code == "blob_missing" and waited_s > PARTS_WAIT_S:
                raise Rejected("blob_missing", f"a part did not come for {waited_s:.0f} s: {error.message}") from None
            raise

    async def _blob(self, part: Part) -> bytes:
        return await self._broker.get_blob(part.digest, part.size_bytes)

    async def _refuse(self, candidate: Candidate, reasons: Sequence[str]) -> None:
        """Kept before the dead letter is written: a kill between the two judges again, and keeps it again."""
        metrics.CANDIDATES.labels("refused").inc()
        log.warning("candidate %s is refused: %s", candidate.id[:12], "; ".join(reasons))
        notes = await self._broker.read_hash(REFUSED)
        effects: list[Effect] = [HashDelete(REFUSED, name) for name in refusals.outdated(notes)]
        effects.append(HashSet(REFUSED, candidate.id, refusals.note(reasons, time.time())))
        if candidate.packets:
            told = Returned(
                packets=candidate.packets, code="candidate_refused", reason="; ".join(reasons)[:REASON_MAX_CHARS]
            )
            effects.append(Send(streams.RETURNED, pack(told), candidate.id))
        await self._broker.commit(streams.CANDIDATES, effects)

    async def _hget(self, key: str, field: str) -> bytes | None:
        return await cast("Awaitable[bytes | None]", self._broker.redis.hget(key, field))

    # Trust

    def _keys(self) -> tuple[SigningKey, Offline]:
        """The key and what names it, from disk."""
        return keys.load_private(self._home, keys.PUBLISHER), keys.load_offline(self._home)

    async def _look_for_keys(self) -> None:
        """Take what `qig keys rotate` has written since. Raises Unavailable("key_not_trusted") in the middle of it."""
        key, offline = await asyncio.to_thread(self._keys)
        root, targets = roles.parsed(offline.root, Root), roles.parsed(offline.targets, Targets)
        metadata.check_key(root, targets, key.verify_key)
        self._key, self._offline = key, offline

    async def _past(self) -> "Past":
        held = await self._broker.read_hash(streams.METADATA)
        packed = await self._hget(CURRENT, BUNDLE)
        messages = await self._messages(packed)
        releases = self._believed(messages)
        last = max({*releases, *metadata.claimed(messages, self._offline)}, default=0)
        kept = metadata.rings_of(self._offline, held)
        past = Past(held, packed, releases, last, kept or {})
        if kept is None and releases:  # a list that was lost, or another key's: the newest goes through its ring again
            past.rings[max(releases)] = 0
            past.rings[max(releases)] = rings.ring(self._nodes(past))
        return past

    def _signed(self, known: Mapping[int, bytes], past: "Past", each: Mapping[int, int]) -> metadata.Files:
        return metadata.signed(self._offline, known, past.held, self._key, now_s=time.time(), rings=each)

    def _nodes(self, past: "Past") -> set[str]:
        """The edges that reported on the last release that everybody got."""
        return set(self.fleet.reports.get(past.open_version, {}))

    async def _messages(self, packed: bytes | None) -> list[bytes]:
        """What may be releases, the oldest first. packed: what is noted as current."""
        rows = await self._broker.redis.xrevrange(streams.BUNDLES, count=LOOK_BACK)
        entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", rows)
        messages = [body_of(fields) for _, fields in reversed(entries)] + [packed]
        return [message for message in messages if message is not None]

    def _believed(self, messages: Sequence[bytes]) -> dict[int, bytes]:
        targets = roles.parsed(self._offline.targets, Targets)
        return metadata.believed(messages, self._key.verify_key, targets)

    async def renew(self) -> None:
        """Signs the list of releases anew, when it is due."""
        await self._look_for_keys()
        held = await self._broker.read_hash(streams.METADATA)
        if not metadata.is_due(self._offline, held, now_s=time.time()):
            return
        past = await self._past()
        known = metadata.newest(past.releases)
        files = self._signed(known, past, past.rings)
        if await self._broker.commit(streams.CANDIDATES, _told(past.held, files)):
            log.info("the list of %d releases is signed anew", len(known))
        left = metadata.days_left(self._offline, now_s=time.time())
        if left < WARN_DAYS:
            log.warning("root or targets metadata ends in %d days: `qig keys rotate targets` signs both anew", left)

    # Verdicts

    async def show(self, delivery: Delivery) -> None:
        """A release, seen by all: its version and figures become gauges."""
        bundle = unpack(Bundle, delivery.body)
        if bundle.version not in self._believed([delivery.body]):
            raise Corrupt("bad_signature", f"bundle {bundle.version} in the stream is not this publisher's")
        self.version = bundle.version
        metrics.BUNDLE_VERSION.set(bundle.version)
        for figure in bundle.evidence.figures:
            if figure.name == BITS_PER_BYTE and figure.domain:
                metrics.HELD_OUT.labels(figure.domain).set(figure.after)

    async def catch_up(self) -> str:
        """Hears all that was said before this process: rings hang on it from the first release on. The last entry."""
        last = FROM_START
        async for entry in kept(self._broker.redis, streams.APPLIED):
            last = entry.id
            with suppress(Rejected):
                await self.hear(Delivery(streams.APPLIED, entry.id, entry.at_ms, 1, body_of(entry.fields) or b""))
        return last

    async def hear(self, delivery: Delivery) -> None:
        """One edge's verdict on a bundle."""
        report = unpack(Applied, delivery.body)
        before, self.fleet = self.fleet, fold(self.fleet, report)
        if self.fleet is before:
            return
        metrics.BUNDLE_APPLIED.labels(report.verdict).inc()
        counts = self.fleet.counts(report.version)
        log.info("bundle %d: %s", report.version, ", ".join(f"{number} {word}" for word, number in counts.items()))


def released(bundle: Bundle, packed: bytes | None, known: Mapping[str, bytes]) -> list[Effect]:
    """The release, if `packed` is still what is noted as current. known: versions by candidate; the oldest go."""
    forgotten = [name for name, version in known.items() if int(version) <= bundle.version - refusals.KEPT]
    held = Absent(CURRENT, BUNDLE) if packed is None else Equals(CURRENT, BUNDLE, packed)
    message = pack(bundle)
    return [
        held,
        HashSet(CURRENT, BUNDLE, message),
        HashSet(RELEASED, bundle.id, str(bundle.version).encode()),
        *(HashDelete(RELEASED, name) for name in forgotten),
        HashDelete(REFUSED, bundle.id),
        Send(streams.BUNDLES, message, f"{bundle.version}-{bundles.digest(bundle)}"),
    ]


def _undone(past: "Past", wanted: int) -> list[Effect]:
    """What tells edges that the releases after `wanted` are no more: what they brought goes out again."""
    effects: list[Effect] = []
    for version in sorted(each for each in past.releases if each > wanted):
        bundle = unpack(Bundle, past.releases[version])
        if bundle.packets:
            told = Returned(packets=bundle.packets, code=TAKEN_BACK, reason=f"bundle {version} was taken back")
            effects.append(Send(streams.RETURNED, pack(told), f"taken-back-{past.last + 1}-{version}"))
    return effects


def _told(held: Mapping[str, bytes], files: metadata.Files) -> list[Effect]:
    """The metadata, if nobody has signed since `held` was read."""
    before = held.get(metadata.TIMESTAMP)
    name = metadata.TIMESTAMP
    guard = Absent(streams.METADATA, name) if before is None else Equals(streams.METADATA, name, before)
    changed = [HashSet(streams.METADATA, name, data) for name, data in files.items() if held.get(name) != data]
    return [guard, *changed, *(HashDelete(streams.METADATA, name) for name in metadata.outdated(held, files))]


async def build(settings: PublisherSettings, broker: Broker) -> Wiring:
    """Raises Unavailable: "missing_key" without the publisher's private key, "missing_root" without what names it."""
    publisher = Publisher(settings, broker)
    candidates = Consumer(
        streams.CANDIDATES,
        streams.GROUPS[streams.CANDIDATES],
        decode=partial(unpack, Candidate),
        handle=publisher.take,
        max_records=1,
        max_deliveries=MAX_DELIVERIES,
    )
    return Wiring(
        consumers=[candidates],
        followers=[
            Follower(streams.BUNDLES, FROM_START, publisher.show),
            Follower(streams.APPLIED, await publisher.catch_up(), publisher.hear),
        ],
        ticks=[
            Tick("trust", TRUST_EVERY_S, publisher.renew),
            Tick("rings", RINGS_EVERY_S, publisher.watch),
            heart(broker, "publisher", settings.node, bundle=lambda: publisher.version, ready=lambda: None),
        ],
    )


def main() -> None:
    """Process entry."""
    run("publisher", PublisherSettings, build)


if __name__ == "__main__":
    main()
