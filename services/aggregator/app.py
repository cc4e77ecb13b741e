"""The aggregator's shell: packets become entries of the ledger, due entries become a batch.

    packets ─▶ open_packet ─▶ admit ─▶ {ledger, accepted, sequence} + acknowledgement           one transaction
    each second:  due? ─▶ cut ─▶ {ledger, accepted − taken, opened, cuts + 1} + Batch to the outbox   one transaction
                            └─▶ tally ─▶ {mentioned, common} + Common to the outbox                   in the same one
                            └─▶ gather ─▶ {proposed}, and the batch's merges                          in the same one
    bundles ─▶ the base window
    a packet refused, at either place ─▶ Returned: its edge may send what it carried again

The ledger lives in the broker, in hashes beside the packets' stream; this process holds nothing that it could lose:

    {qig:packets}:ledger     ref (hex) ─▶ the packet's bytes
    {qig:packets}:accepted   ref (hex) ─▶ when the broker took it, ms: the ledger's index, small enough to look at often
    {qig:packets}:sequence   key id (hex) ─▶ replay window, 16 bytes
    {qig:packets}:opened     domain ─▶ role and basin of a territory that no bundle knows yet, and which cut named it
    {qig:packets}:mentioned  key id (hex) ─▶ the hashes that this edge mentioned (tally.py)
    {qig:packets}:common     number of a cut ─▶ the hashes that became common by it
    {qig:packets}:proposed   left and right id ─▶ the edges that proposed this merge (proposals.py)
    {qig:packets}:cuts       "count" ─▶ how many cuts there were

Two aggregators are safe: an acceptance needs the replay window that it was decided on to be still there, a cut needs
the count of cuts it began with. Whoever comes second decides anew on what is there then.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from typing import Final, cast

from common.constants import ROLES
from common.constellation.paths import DOMAINS, MERGES, kernel_path, memory_path
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
from common.runtime.trust import Trust
from common.wire import packet as packets_
from common.wire.codec import pack, unpack
from common.wire.expected import Prior
from common.wire.mentions import encode
from common.wire.messages import COMMON_MAX_HASHES, REASON_MAX_CHARS, Bundle, Common, DeadLetter, PacketRef, Returned
from common.wire.packet import Envelope
from services.aggregator.admit import Admitted, Enrolled, admit, open_packet
from services.aggregator.bases import BASE_WINDOW, Base, Bases, base_of, expects, with_base
from services.aggregator.cut import Cut, Limits, Refusal, awaited, chosen, cut, due
from services.aggregator.proposals import Gathered, gather, left_with, name_of
from services.aggregator.proposals import from_bytes as votes_of
from services.aggregator.proposals import to_bytes as packed
from services.aggregator.replay import ReplayWindow, advance
from services.aggregator.tally import Counted, Tally, tally, to_bytes
from services.aggregator.tally import from_bytes as hashes_of
from services.aggregator.territories import unpack_place

log = logging.getLogger(__name__)

LEDGER: Final = streams.side_key(streams.PACKETS, "ledger")
ACCEPTED: Final = streams.side_key(streams.PACKETS, "accepted")
SEQUENCE: Final = streams.side_key(streams.PACKETS, "sequence")
OPENED: Final = streams.side_key(streams.PACKETS, "opened")
MENTIONED: Final = streams.side_key(streams.PACKETS, "mentioned")
COMMON: Final = streams.side_key(streams.PACKETS, "common")
PROPOSED: Final = streams.side_key(streams.PACKETS, "proposed")
CUTS: Final = streams.side_key(streams.PACKETS, "cuts")
COUNT: Final = "count"
CUT_EVERY_S: Final = 1.0
CUTS_PER_TICK: Final = 8  # of 256 packets; a longer backlog goes on after the pause
FINAL: Final = frozenset({"base_window", "clock", "implausible"})  # said of a packet that its edge sealed, once
BLOB_TRIES: Final = 30  # about 25 s: a bundle whose parts are gone for good must not hide the next one


class Aggregator:
    """What outlives a message: the base window, the enrolment, and the way to the broker."""

    def __init__(self, settings: AggregatorSettings, broker: Broker, trust: Trust) -> None:
        self._settings, self._broker, self._trust = settings, broker, trust
        self._enrolled: Enrolled = keys.load_enrolled(settings.home)
        self._bases: Bases = ()
        self._priors: dict[tuple[str, ...], Prior] = {}  # by vocabulary size and the digests of a domain's memories
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
        """One release. A part that is not there yet is waited for, but not for ever; what says whom to believe, is."""
        try:
            await self._know(delivery.body)
        except Unavailable as error:
            if error.code == "blob_missing" and delivery.deliveries >= BLOB_TRIES:
                raise Rejected(error.code, f"bundle passed over: {error.message}") from None
            raise

    async def _know(self, body: bytes) -> None:
        bundle = unpack(Bundle, body)
        if any(base.version == bundle.version for base in self._bases):
            return
        await self._trust.verify(bundle.version, body)
        base = base_of(
            bundle,
            domains=await self._part(bundle, DOMAINS),
            kernel=await self._part(bundle, kernel_path(ROLES[0])),
            merges=await self._part(bundle, MERGES),
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
            digests = (bundle.parts[path].digest if path in bundle.parts else path for path in paths)
            key = (str(base.vocab_size), *digests)
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
            if error.code in FINAL:
                await self._give_back(envelope, packed, error)
            raise
        metrics.PACKETS.labels("accepted", "").inc()
        log.info("packet %s of %s counts", found.ref.packed.hex()[16:], found.node)
        return accepted(found, delivery, packed)

    async def _give_back(self, envelope: Envelope, packed: bytes | None, error: QigError) -> None:
        """Tells the edge, and sees to it that this packet can't count later by another way; then comes the dead letter.

        Raises Unavailable("replay_window") where the window has moved meanwhile: the packet is looked at again.
        """
        window = None if packed is None else ReplayWindow.unpack(packed)
        closed = advance(window, epoch=envelope.epoch, sequence=envelope.sequence)
        told = Returned(packets=(envelope.ref,), code=error.code, reason=error.message[:REASON_MAX_CHARS])
        name = envelope.ref.packed.hex()
        effects = [*_windowed(envelope.ref, packed, closed), Send(streams.RETURNED, pack(told), name)]
        if not await self._broker.commit(streams.PACKETS, effects):
            raise Unavailable("replay_window", f"other packets of key {envelope.key.hex()} came between: tried again")

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
        cuts = 0 if count is None else int(count)
        pending = awaited({name: unpack_place(name, data, current) for name, data in noted.items()}, current, cuts)
        done = sorted(noted.keys() - pending.keys())
        found = await asyncio.to_thread(cut, ledger, bases=self._bases, pending=pending, limits=self._limits)
        gathered = await self._gathered(found, current) if found.proposals or found.batch else None
        if gathered is not None and found.batch is not None:
            gathered = left_with(gathered)
            found = replace(found, batch=found.batch.model_copy(update={"merges": gathered.merges}))
        effects = [
            *_counted(count),
            *cut_effects(found, ledger, done, cuts=cuts, at_s=float(seconds)),
            *_forgotten(lost),
        ]
        if found.mentions or found.silent:
            heard = await asyncio.to_thread(self._tally, await self._tallied(), found)
            effects += tally_effects(heard, found.silent, cuts)
            log.info("%d packets only mention; %d hashes are common now", len(found.silent), len(heard.common))
        if gathered is not None:
            effects += [HashSet(PROPOSED, name_of(pair), packed(said)) for pair, said in gathered.noted.items()]
            effects += [HashDelete(PROPOSED, name_of(pair)) for pair in gathered.gone]
        if not await self._broker.commit(streams.PACKETS, effects):
            log.info("another aggregator cut first: nothing was taken")
            return False
        _show(found)
        return True

    async def _tallied(self) -> Tally:
        """What was mentioned, by every edge: 64 KiB each at most."""
        mentioned, common = await self._broker.read_hash(MENTIONED), await self._broker.read_hash(COMMON)
        return Tally(
            {bytes.fromhex(key): hashes_of(data) for key, data in mentioned.items()},
            {int(number): hashes_of(data) for number, data in common.items()},
        )

    async def _gathered(self, found: Cut, current: Base) -> Gathered:
        """The tally of merges with those of a cut in it."""
        held = await self._broker.read_hash(PROPOSED)
        before = dict(votes_of(name, data) for name, data in held.items())
        return gather(
            before,
            found.proposals,
            known=frozenset(current.merges),
            enrolled=self._enrolled,
            edges=self._settings.common_edges,
        )

    def _tally(self, before: Tally, found: Cut) -> Counted:
        return tally(before, found.mentions, enrolled=self._enrolled, edges=self._settings.common_edges)

    async def _ledger(self, refs: Sequence[bytes]) -> tuple[dict[bytes, bytes], list[bytes]]:
        """The packets, in the order of `refs`, and the refs that have none: somebody deleted it by hand."""
        raws = await cast(
            "Awaitable[list[bytes | None]]", self._broker.redis.hmget(LEDGER, [ref.hex() for ref in refs])
        )
        found = dict(zip(refs, raws, strict=True))
        return {ref: raw for ref, raw in found.items() if raw is not None}, [r for r in refs if found[r] is None]


def accepted(found: Admitted, delivery: Delivery, packed: bytes | None) -> list[Effect]:
    """The packet and the window in which it is counted, together; only while the window is the one decided on."""
    ref = found.ref.packed.hex()
    return [
        *_windowed(found.ref, packed, found.window),
        HashSet(LEDGER, ref, delivery.body),
        HashSet(ACCEPTED, ref, str(delivery.at_ms).encode()),
    ]


def _windowed(ref: PacketRef, packed: bytes | None, window: ReplayWindow) -> list[Effect]:
    key = ref.key.hex()
    held = Absent(SEQUENCE, key) if packed is None else Equals(SEQUENCE, key, packed)
    return [held, HashSet(SEQUENCE, key, window.packed)]


def cut_effects(
    found: Cut, ledger: Mapping[bytes, bytes], done: Sequence[str], *, cuts: int, at_s: float
) -> list[Effect]:
    """The ledger without what was cut or refused, and what leaves. done: noted domains that no bundle has to bring any
    more; cuts: how many there were before.
    """
    effects: list[Effect] = [HashDelete(OPENED, name) for name in done]
    effects += [HashSet(OPENED, place.name, place.packed(cuts)) for place in found.opened]
    effects += _forgotten([*found.taken, *(ref.packed for ref in found.silent), *(one.ref for one in found.refused)])
    for one in found.refused:
        effects += _buried(one, ledger[one.ref], at_s)
    if found.batch is not None:
        effects.append(Send(streams.BATCHES, pack(found.batch), found.batch.id))
    return effects


def tally_effects(heard: Counted, silent: Sequence[PacketRef], number: int) -> list[Effect]:
    """The tally once the cut of this number is in it, and what every edge is told of it, in as many messages as it
    takes. silent: packets that no bundle will name.
    """
    effects: list[Effect] = [HashSet(MENTIONED, key.hex(), to_bytes(own)) for key, own in heard.mentioned.items()]
    effects += [HashDelete(COMMON, str(old)) for old in heard.forgotten]
    if len(heard.common):
        effects.append(HashSet(COMMON, str(number), to_bytes(heard.common)))
    for first in range(0, max(len(heard.told), 1), COMMON_MAX_HASHES):
        hashes = heard.told[first : first + COMMON_MAX_HASHES]
        message = Common(hashes=encode(hashes), packets=tuple(silent) if first == 0 else ())
        if message.hashes or message.packets:
            body = pack(message)
            effects.append(Send(streams.COMMON, body, f"{number}-{hashlib.sha256(body).hexdigest()[:32]}"))
    return effects


def _counted(count: bytes | None) -> list[Effect]:
    before = 0 if count is None else int(count)
    held = Absent(CUTS, COUNT) if count is None else Equals(CUTS, COUNT, count)
    return [held, HashSet(CUTS, COUNT, str(before + 1).encode())]


def _forgotten(refs: Sequence[bytes]) -> list[Effect]:
    return [HashDelete(key, ref.hex()) for ref in refs for key in (LEDGER, ACCEPTED)]


def _buried(refusal: Refusal, raw: bytes, at_s: float) -> list[Effect]:
    """A packet that waited in vain goes back to its edge, and ends where every refused packet ends."""
    ref, reason = packets_.open_envelope(raw).ref, refusal.reason[:REASON_MAX_CHARS]
    letter = DeadLetter(
        stream=streams.PACKETS,
        entry=refusal.ref.hex(),
        code=refusal.code,
        reason=reason,
        deliveries=1,
        body=raw,
        at_s=at_s,
    )
    told = Returned(packets=(ref,), code=refusal.code, reason=reason)
    return [
        Send(streams.dead(streams.PACKETS), pack(letter), f"cut-{refusal.ref.hex()}"),
        Send(streams.RETURNED, pack(told), refusal.ref.hex()),
    ]


def _show(found: Cut) -> None:
    for refusal in found.refused:
        metrics.PACKETS.labels("refused", refusal.code).inc()
        metrics.DEAD_LETTERS.labels(streams.PACKETS, refusal.code).inc()
    if found.batch is not None:
        metrics.BATCH_PACKETS.observe(len(found.batch.packets))
        log.info("batch %s: %d packets, %d domains", found.batch.id[:12], len(found.taken), len(found.batch.domains))


async def build(settings: AggregatorSettings, broker: Broker) -> Wiring:
    """Raises Unavailable("missing_root") without a root to believe bundles by."""
    aggregator = Aggregator(settings, broker, Trust(broker.redis, keys.load_root(settings.home)))
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
