"""The aggregator's shell: packets become entries of the ledger, due entries become a batch.

    packets ─▶ open_packet ─▶ admit ─▶ {ledger, accepted, sequence} + acknowledgement           one transaction
    each second:  due? ─▶ cut ─▶ {ledger, accepted − taken, opened, cuts + 1} + Batch to the outbox   one transaction
    bundles ─▶ the base window

The ledger lives in the broker, in hashes beside the packets' stream; this process holds nothing that it could lose:

    {qig:packets}:ledger     ref (hex) ─▶ the packet's bytes
    {qig:packets}:accepted   ref (hex) ─▶ when the broker took it, ms: the ledger's index, small enough to look at often
    {qig:packets}:sequence   key id (hex) ─▶ replay window, 16 bytes
    {qig:packets}:opened     domain ─▶ role and basin of a territory that no bundle knows yet
    {qig:packets}:cuts       "count" ─▶ how many batches were cut

Two aggregators are safe: an acceptance needs the replay window that it was decided on to be still there, a cut needs
the count of cuts it began with. Whoever comes second decides anew on what is there then.
"""

import asyncio
import logging
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from typing import Final, cast

from nacl.signing import VerifyKey

from common.constants import ROLES
from common.constellation.paths import DOMAINS, kernel_path, memory_path
from common.errors import QigError, Rejected, Unavailable
from common.runtime import keys, metrics, streams
from common.runtime.broker import Broker
from common.runtime.consumer import Consumer
from common.runtime.effects import Absent, Effect, Equals, HashDelete, HashSet, Send
from common.runtime.entries import Delivery, Entry, body_of
from common.runtime.follower import FROM_START, Follower
from common.runtime.heart import heart
from common.runtime.service import Tick, Wiring, run
from common.runtime.settings import AggregatorSettings
from common.wire import bundle as bundles
from common.wire.adaptive import Prior
from common.wire.codec import pack, unpack
from common.wire.messages import REASON_MAX_CHARS, Bundle, DeadLetter
from common.wire.packet import Envelope
from services.aggregator.admit import Admitted, Enrolled, admit, open_packet
from services.aggregator.bases import BASE_WINDOW, Base, Bases, base_of, expects, with_base
from services.aggregator.cut import Cut, Limits, Refusal, chosen, cut, due
from services.aggregator.replay import ReplayWindow
from services.aggregator.territories import unpack_place

log = logging.getLogger(__name__)

LEDGER: Final = streams.side_key(streams.PACKETS, "ledger")
ACCEPTED: Final = streams.side_key(streams.PACKETS, "accepted")
SEQUENCE: Final = streams.side_key(streams.PACKETS, "sequence")
OPENED: Final = streams.side_key(streams.PACKETS, "opened")
CUTS: Final = streams.side_key(streams.PACKETS, "cuts")
COUNT: Final = "count"
CUT_EVERY_S: Final = 1.0
CUTS_PER_TICK: Final = 8  # of 256 packets; a longer backlog goes on after the pause
BLOB_TRIES: Final = 30  # about 25 s: a bundle whose parts are gone for good must not hide the next one


class Aggregator:
    """What outlives a message: the base window, the enrolment, and the way to the broker."""

    def __init__(self, settings: AggregatorSettings, broker: Broker, publisher: VerifyKey) -> None:
        self._settings, self._broker, self._publisher = settings, broker, publisher
        self._enrolled: Enrolled = keys.load_enrolled(settings.home)
        self._bases: Bases = ()
        self._priors: dict[tuple[str, ...], Prior] = {}  # by the digests of a domain's memories
        self._limits = Limits(settings.batch_packets, settings.batch_age_s, int(settings.mass_cap))

    @property
    def version(self) -> int:
        """The newest bundle in the base window; 0 for none."""
        return self._bases[-1].version if self._bases else 0

    def ready(self) -> str | None:
        """Packets wait in their stream until there is a bundle to hold them against."""
        return None if self._bases else "no bundle was released yet: packets wait until the publisher has released one"

    # Bundles

    async def follow(self, delivery: Delivery) -> None:
        """One release. A part that is not there yet is waited for, but not for ever."""
        try:
            await self._know(delivery.body)
        except Unavailable as error:
            if delivery.deliveries >= BLOB_TRIES:
                raise Rejected(error.code, f"bundle passed over: {error.message}") from None
            raise

    async def _know(self, body: bytes) -> None:
        bundle = unpack(Bundle, body)
        if any(base.version == bundle.version for base in self._bases):
            return
        bundles.verify(bundle, self._publisher)
        base = base_of(
            bundle, domains=await self._part(bundle, DOMAINS), kernel=await self._part(bundle, kernel_path(ROLES[0]))
        )
        base = replace(base, priors=await self._expected(bundle, base))
        self._bases = with_base(self._bases, base)
        metrics.BUNDLE_VERSION.set(self._bases[-1].version)
        log.info("bundle %d is a base, with %d domains", bundle.version, len(base.domains))

    async def _expected(self, bundle: Bundle, base: Base) -> dict[str, Prior]:
        """What the bundle expects of each domain; made anew only where a memory is new."""
        found = {}
        for name, domain in base.domains.items():
            paths = [memory_path(memory) for memory in domain.memories]
            key = tuple(bundle.parts[path].digest if path in bundle.parts else path for path in paths)
            if key not in self._priors:
                parts = [await self._part(bundle, path) for path in paths]
                self._priors[key] = await asyncio.to_thread(expects, parts, base.vocab_size)
            found[name] = self._priors[key]
        used = {id(prior) for other in self._bases for prior in other.priors.values()} | set(map(id, found.values()))
        self._priors = {key: prior for key, prior in self._priors.items() if id(prior) in used}
        return found

    async def _part(self, bundle: Bundle, path: str) -> bytes:
        part = bundle.parts.get(path)
        if part is None:
            raise Rejected("bad_constellation", f"bundle {bundle.version} has no part {path}")
        return await self._broker.get_blob(part.digest, part.size_bytes)

    async def _catch_up(self) -> None:
        """Know the newest bundles now: an edge may be quicker than our follower, and must not be refused for it."""
        for entry in reversed(await self._newest(BASE_WINDOW)):
            body = body_of(entry.fields)
            try:
                if body is not None:
                    await self._know(body)
            except QigError as error:
                log.warning("a bundle of the window cannot be used: %s", error)

    async def first_position(self) -> str:
        """Where to begin to follow so that the whole base window is seen."""
        rows = await self._newest(BASE_WINDOW + 1)
        return rows[-1].id if len(rows) > BASE_WINDOW else FROM_START

    async def _newest(self, count: int) -> list[Entry]:
        """The newest releases, newest first."""
        rows = await self._broker.redis.xrevrange(streams.BUNDLES, count=count)
        return [Entry(entry.decode(), fields) for entry, fields in cast("list[tuple[bytes, dict[bytes, bytes]]]", rows)]

    # Packets

    def open(self, raw: bytes) -> Envelope:
        """The consumer's decoder."""
        metrics.PACKET_BYTES.observe(len(raw))
        try:
            return open_packet(raw)
        except QigError as error:
            metrics.PACKETS.labels("refused", error.code).inc()
            raise

    async def take(self, delivery: Delivery, envelope: Envelope) -> Sequence[Effect]:
        """One packet into the ledger, or its refusal."""
        await self._prepare(envelope)
        key = envelope.key.hex()
        packed = await cast("Awaitable[bytes | None]", self._broker.redis.hget(SEQUENCE, key))
        try:
            found = admit(
                envelope,
                enrolled=self._enrolled,
                replay=None if packed is None else ReplayWindow.unpack(packed),
                entry_ms=delivery.at_ms,
                bases=self._bases,
            )
        except QigError as error:
            metrics.PACKETS.labels("refused", error.code).inc()
            raise
        metrics.PACKETS.labels("accepted", "").inc()
        log.info("packet %s of %s counts", found.ref.packed.hex()[16:], found.node)
        return accepted(found, delivery, packed)

    async def _prepare(self, envelope: Envelope) -> None:
        """Look again where what we know may be old: at the bundles and at the enrolment."""
        if not self._bases or envelope.base_version > self._bases[-1].version:
            await self._catch_up()
        if not self._bases:
            raise Unavailable("no_bundle", "no bundle was released yet: the packet waits")
        if envelope.key not in self._enrolled:
            await self._enrol()

    async def _enrol(self) -> None:
        """Read the enrolment again. A file that is being written, or is no key, is no reason to refuse a packet."""
        try:
            self._enrolled = await asyncio.to_thread(keys.load_enrolled, self._settings.home)
        except QigError as error:
            raise Unavailable("enrolment_unreadable", f"who is enrolled cannot be read: {error.message}") from None

    # Batches

    async def cut_due(self) -> None:
        """Cut what is due; a long backlog in several batches."""
        for _ in range(CUTS_PER_TICK):
            if not (self._bases and await self._cut_once()):
                return

    async def _cut_once(self) -> bool:
        """One batch, if one is due and nobody else cut meanwhile."""
        # The count is read first: whatever is read after it is there still, or the count has changed.
        count = await cast("Awaitable[bytes | None]", self._broker.redis.hget(CUTS, COUNT))
        waiting = {bytes.fromhex(ref): int(at) for ref, at in (await self._broker.read_hash(ACCEPTED)).items()}
        seconds, micros = await self._broker.redis.time()
        if not due(waiting, seconds * 1000 + micros // 1000, self._limits):
            return False
        ledger, lost = await self._ledger(chosen(waiting))
        current = self._bases[-1]
        noted = await self._broker.read_hash(OPENED)
        pending = {name: unpack_place(name, data, current) for name, data in noted.items()}
        known = tuple(name for name in noted if name in current.domains)
        found = await asyncio.to_thread(cut, ledger, bases=self._bases, pending=pending, limits=self._limits)
        effects = [*_counted(count), *cut_effects(found, ledger, known, at_s=float(seconds)), *_forgotten(lost)]
        if not await self._broker.commit(streams.PACKETS, effects):
            log.info("another aggregator cut first: nothing was taken")
            return False
        _show(found)
        return True

    async def _ledger(self, refs: Sequence[bytes]) -> tuple[dict[bytes, bytes], list[bytes]]:
        """The packets, in the order of `refs`, and the refs that have none: somebody deleted it by hand."""
        raws = await cast(
            "Awaitable[list[bytes | None]]", self._broker.redis.hmget(LEDGER, [ref.hex() for ref in refs])
        )
        found = dict(zip(refs, raws, strict=True))
        return {ref: raw for ref, raw in found.items() if raw is not None}, [r for r in refs if found[r] is None]


def accepted(found: Admitted, delivery: Delivery, packed: bytes | None) -> list[Effect]:
    """The packet and the window in which it is counted, together; only while the window is the one decided on."""
    key, ref = found.ref.key.hex(), found.ref.packed.hex()
    return [
        Absent(SEQUENCE, key) if packed is None else Equals(SEQUENCE, key, packed),
        HashSet(SEQUENCE, key, found.window.packed),
        HashSet(LEDGER, ref, delivery.body),
        HashSet(ACCEPTED, ref, str(delivery.at_ms).encode()),
    ]


def cut_effects(found: Cut, ledger: Mapping[bytes, bytes], known: Sequence[str], *, at_s: float) -> list[Effect]:
    """The ledger without what was cut or refused, and what leaves. known: noted domains that a bundle brought."""
    effects: list[Effect] = [HashDelete(OPENED, name) for name in known]
    effects += [HashSet(OPENED, place.name, place.packed) for place in found.opened]
    effects += _forgotten([*found.taken, *(one.ref for one in found.refused)])
    effects += [_letter(one, ledger[one.ref], at_s) for one in found.refused]
    if found.batch is not None:
        effects.append(Send(streams.BATCHES, pack(found.batch), found.batch.id))
    return effects


def _counted(count: bytes | None) -> list[Effect]:
    before = 0 if count is None else int(count)
    held = Absent(CUTS, COUNT) if count is None else Equals(CUTS, COUNT, count)
    return [held, HashSet(CUTS, COUNT, str(before + 1).encode())]


def _forgotten(refs: Sequence[bytes]) -> list[Effect]:
    return [HashDelete(key, ref.hex()) for ref in refs for key in (LEDGER, ACCEPTED)]


def _letter(refusal: Refusal, raw: bytes, at_s: float) -> Effect:
    """A packet that waited in vain ends where every refused packet ends."""
    letter = DeadLetter(
        stream=streams.PACKETS,
        entry=refusal.ref.hex(),
        code=refusal.code,
        reason=refusal.reason[:REASON_MAX_CHARS],
        deliveries=1,
        body=raw,
        at_s=at_s,
    )
    return Send(streams.dead(streams.PACKETS), pack(letter), f"cut-{refusal.ref.hex()}")


def _show(found: Cut) -> None:
    for refusal in found.refused:
        metrics.PACKETS.labels("refused", refusal.code).inc()
        metrics.DEAD_LETTERS.labels(streams.PACKETS, refusal.code).inc()
    if found.batch is not None:
        metrics.BATCH_PACKETS.observe(len(found.batch.packets))
        log.info("batch %s: %d packets, %d domains", found.batch.id[:12], len(found.taken), len(found.batch.domains))


async def build(settings: AggregatorSettings, broker: Broker) -> Wiring:
    """Raises Unavailable("missing_key") without the publisher's public key."""
    publisher = keys.load_public(keys.publisher_path(settings.home))
    aggregator = Aggregator(settings, broker, publisher)
    packets = Consumer(streams.PACKETS, streams.GROUPS[streams.PACKETS], decode=aggregator.open, handle=aggregator.take)
    return Wiring(
        consumers=[packets],
        followers=[Follower(streams.BUNDLES, await aggregator.first_position(), aggregator.follow)],
        ticks=[
            Tick("cut", CUT_EVERY_S, aggregator.cut_due),
            heart(broker, "aggregator", settings.node, bundle=lambda: aggregator.version, ready=aggregator.ready),
        ],
        ready=aggregator.ready,
    )


def main() -> None:
    """Process entry."""
    run("aggregator", AggregatorSettings, build)


if __name__ == "__main__":
    main()
