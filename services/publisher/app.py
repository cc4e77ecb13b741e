"""The publisher's shell: candidates become bundles or refusals; edges' verdicts are counted.

    candidates ─▶ judge ─▶ every new part read and verified ─▶ sign
               ─▶ {current, released} + Bundle to the outbox + acknowledgement        one transaction
               └▶ refused: {refused: id ─▶ reasons} + its packets Returned, then a dead letter
    bundles, applied ─▶ gauges

    {qig:candidates}:current    "bundle" ─▶ the newest release, packed: what the next one follows
    {qig:candidates}:released   candidate id ─▶ version: a candidate that comes again is not refused as out of date
    {qig:candidates}:refused    candidate id ─▶ {"at_s", "reasons"}; the trainer waits for either word

A release needs the current bundle that it was judged on to be current still, so versions grow by one however many
publishers there are and whenever one is killed. Should these hashes be lost and the bundles' stream not, the newest
bundle there that our own key signed is the current one.
"""

import logging
import time
from collections.abc import Awaitable, Mapping, Sequence
from functools import partial
from typing import Final, cast

from nacl.signing import SigningKey

from common.constellation.paths import DOMAINS
from common.errors import Corrupt, QigError, Rejected, Unavailable
from common.runtime import keys, metrics, streams
from common.runtime.broker import Broker
from common.runtime.consumer import Consumer
from common.runtime.effects import Absent, Effect, Equals, HashDelete, HashSet, Send
from common.runtime.entries import Delivery
from common.runtime.follower import FROM_START, Follower
from common.runtime.heart import heart
from common.runtime.releases import newest_release
from common.runtime.service import Wiring, run
from common.runtime.settings import PublisherSettings
from common.wire import bundle as bundles
from common.wire.codec import pack, unpack
from common.wire.messages import REASON_MAX_CHARS, Applied, Bundle, Candidate, Part, Returned
from services.publisher import refusals
from services.publisher.fleet import Fleet, fold
from services.publisher.policy import BITS_PER_BYTE, Limits, judge, missing_memories, without_heir
from services.publisher.release import newer, release

log = logging.getLogger(__name__)

CURRENT: Final = streams.side_key(streams.CANDIDATES, "current")
RELEASED: Final = streams.side_key(streams.CANDIDATES, "released")
REFUSED: Final = streams.side_key(streams.CANDIDATES, "refused")
BUNDLE: Final = "bundle"
PARTS_WAIT_S: Final = 600.0  # chosen: a trainer stores every part before it sends the candidate
MAX_DELIVERIES: Final = 5


class Publisher:
    """What outlives a message: the key, the fleet's verdicts, and the way to the broker."""

    def __init__(self, settings: PublisherSettings, broker: Broker, signing_key: SigningKey) -> None:
        self._broker, self._key = broker, signing_key
        self._limits = Limits(regress_limit=settings.regress_limit)
        self.fleet = Fleet()
        self.version = 0  # of the newest release seen

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
        packed = await self._hget(CURRENT, BUNDLE)
        noted = None if packed is None else unpack(Bundle, packed)
        current = newer(noted, await newest_release(self._broker.redis, self._key.verify_key))
        try:
            reasons = judge(candidate, current=current, limits=self._limits).reasons
            reasons = reasons or await self._vouch(delivery, candidate, current)
        except (Rejected, Corrupt) as error:
            await self._refuse(candidate, (str(error),))
            raise
        if reasons:
            await self._refuse(candidate, reasons)
            raise Rejected("candidate_refused", "; ".join(reasons)[:REASON_MAX_CHARS])
        bundle = release(candidate, current=current, released_at_s=time.time(), signing_key=self._key)
        log.info("candidate %s is released as bundle %d", candidate.id[:12], bundle.version)
        metrics.CANDIDATES.labels("released").inc()
        return released(bundle, packed, await self._broker.read_hash(RELEASED))

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

    # Verdicts

    async def show(self, delivery: Delivery) -> None:
        """A release, seen by all: its version and figures become gauges."""
        bundle = unpack(Bundle, delivery.body)
        bundles.verify(bundle, self._key.verify_key)
        self.version = bundle.version
        metrics.BUNDLE_VERSION.set(bundle.version)
        for figure in bundle.evidence.figures:
            if figure.name == BITS_PER_BYTE and figure.domain:
                metrics.HELD_OUT.labels(figure.domain).set(figure.after)

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


async def build(settings: PublisherSettings, broker: Broker) -> Wiring:
    """Raises Unavailable("missing_key") without the publisher's private key."""
    publisher = Publisher(settings, broker, keys.load_private(settings.home, keys.PUBLISHER))
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
            Follower(streams.APPLIED, FROM_START, publisher.hear),
        ],
        ticks=[heart(broker, "publisher", settings.node, bundle=lambda: publisher.version, ready=lambda: None)],
    )


def main() -> None:
    """Process entry."""
    run("publisher", PublisherSettings, build)


if __name__ == "__main__":
    main()
