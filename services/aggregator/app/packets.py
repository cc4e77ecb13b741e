"""Packets: each becomes an entry of the ledger, or is refused with its reason.

    take_read  open_packet ─▶ admit, quota ─▶ {ledger, accepted, held, sequence, standing} + acknowledgement, of many
    take       the same of one, and what is refused:
    refused    where nobody else may have said it: {sequence, standing} + Returned, then the dead letter

Two aggregators are safe: an acceptance needs the replay window that it was decided on to be still there. Whoever comes
second decides anew on what is there then.
"""

import logging
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final, NamedTuple

from common.errors import QigError, Unavailable
from common.runtime import causes, metrics, streams
from common.runtime.broker import Broker
from common.runtime.effects import Absent, Effect, Equals, HashAdd, HashSet, Send, Then
from common.runtime.entries import Delivery
from common.runtime.logs import bound
from common.wire.codec import pack
from common.wire.fields import REASON_MAX_CHARS
from common.wire.messages import PacketRef, Returned
from common.wire.packet import Envelope
from services.aggregator.admit import Admitted, admit, open_packet
from services.aggregator.app.enrolment import Enrolment
from services.aggregator.app.hashes import ACCEPTED, HELD, LEDGER, SEQUENCE, STANDING
from services.aggregator.app.standings import Standings, changed, standing_of
from services.aggregator.app.window import Window
from services.aggregator.quota import check_waiting
from services.aggregator.replay import ReplayWindow, advance
from services.aggregator.standing import taken, turned_away

log = logging.getLogger(__name__)

FINAL: Final = frozenset({"base_window", "clock", "implausible", "too_many_packets"})
"""Said of a packet that its edge sealed, and once: it is told."""

REFUSALS: Final = (
    "malformed", "oversized", "unknown_key", "bad_signature", "stale_epoch", "replayed", "stale_sequence",
    "base_window", "clock", "implausible", "too_many_packets", "too_many_domains", "too_many_territories",
    "replay_window",
)  # fmt: skip
"""Of what a packet may be refused, here or when it is cut; the last: what the broker has of its key is damaged."""

READ_MAX: Final = 512  # packets, 20 MB at most; one that is not among them is read again when it is cut


class Packets:
    """What becomes of each packet, by the bundles in the window and who is enrolled. most: that wait of one node; read:
    by its bytes, what was admitted lately.
    """

    def __init__(
        self, broker: Broker, window: Window, enrolment: Enrolment, standings: Standings, *, most: int
    ) -> None:
        self._broker, self._window, self._enrolment, self._standings = broker, window, enrolment, standings
        self._most = most
        metrics.begin(metrics.PACKETS, ("accepted", ""), *(("refused", code) for code in REFUSALS))
        self.read: dict[bytes, Admitted] = {}

    def open(self, raw: bytes) -> Envelope:
        """The consumer's decoder."""
        try:
            return open_packet(raw)
        except QigError as error:
            _count(raw, "refused", error.code)
            raise

    async def take_read(self, given: Sequence[tuple[Delivery, Envelope]]) -> Sequence[Sequence[Effect] | None]:
        """The packets of one read into the ledger, each by what those before it leave; None of one that `take` refuses,
        and of those of its key that come behind it.

        Raises Unavailable as `take`.
        """
        await self._prepare([envelope for _, envelope in given])
        known = await self._known({envelope.key for _, envelope in given})
        answers: list[Sequence[Effect] | None] = []
        refused: set[bytes] = set()
        for delivery, envelope in given:
            if envelope.key in refused:  # what is told of the first may close the window for the next
                answers.append(None)
                continue
            try:
                found = self._admit(delivery, envelope, known[envelope.key])
                effects, after = accepted(found, delivery, known[envelope.key])
            except QigError:
                refused.add(envelope.key)
                answers.append(None)
                continue
            answers.append([*effects, Then(partial(self._show, found, delivery))])
            beside = [one for one in self._enrolment.keys_beside(envelope.key) if one in known]
            known |= {one: known[one]._replace(waiting=after.waiting) for one in beside} | {envelope.key: after}
        return answers

    async def take(self, delivery: Delivery, envelope: Envelope) -> Sequence[Effect]:
        """One packet into the ledger, or its refusal."""
        await self._prepare([envelope])
        known = (await self._known({envelope.key}))[envelope.key]
        try:
            found = self._admit(delivery, envelope, known)
        except QigError as error:
            await self._refuse(delivery, envelope, known, error)
            raise
        effects, _ = accepted(found, delivery, known)
        return [*effects, Then(partial(self._show, found, delivery))]

    def _admit(self, delivery: Delivery, envelope: Envelope, known: "Known") -> Admitted:
        found = admit(
            envelope,
            enrolled=self._enrolment.edges,
            replay=None if known.window is None else ReplayWindow.unpack(known.window),
            entry_ms=delivery.at_ms,
            bases=self._window.bases,
        )
        check_waiting(found.node, known.waiting, self._most)
        return found

    def _show(self, found: Admitted, delivery: Delivery) -> None:
        """It is in the ledger."""
        self.read[delivery.body] = found
        while len(self.read) > READ_MAX:
            del self.read[next(iter(self.read))]
        _count(delivery.body, "accepted", "")
        self._standings.show(found.ref.key, "accepted")
        self._standings.weigh(found.ref.key, len(delivery.body))
        with bound(**causes.packet(found.ref).names):  # one of a read
            log.info("packet %s of %s is in the ledger", found.ref.packed.hex()[16:], found.node)

    async def _refuse(self, delivery: Delivery, envelope: Envelope, known: "Known", error: QigError) -> None:
        """What is noted and told of a packet before its dead letter is written."""
        change = partial(turned_away, code=error.code, at_ms=delivery.at_ms)
        if error.code in FINAL:
            noted = changed(envelope.key, known.standing, change(standing_of(known.standing)))
            await self._give_back(envelope, known.window, error, noted)
        else:
            await self._standings.note(envelope.key, change)
        _count(delivery.body, "refused", error.code)
        self._standings.show(envelope.key, "refused")
        self._standings.weigh(envelope.key, len(delivery.body))

    async def _give_back(
        self, envelope: Envelope, packed: bytes | None, error: QigError, noted: Sequence[Effect]
    ) -> None:
        """Tells the edge, and sees to it that this packet can't count later by another way; then comes the dead letter.

        Raises Unavailable("replay_window") where the window has moved meanwhile: the packet is looked at again.
        """
        window = None if packed is None else ReplayWindow.unpack(packed)
        closed = advance(window, epoch=envelope.epoch, sequence=envelope.sequence)
        told = Returned(packets=(envelope.ref,), code=error.code, reason=error.message[:REASON_MAX_CHARS])
        name = envelope.ref.packed.hex()
        effects = [*_windowed(envelope.ref, packed, closed), *noted, Send(streams.RETURNED, pack(told), name)]
        if not await self._broker.commit(streams.PACKETS, effects):
            raise Unavailable("replay_window", f"other packets of key {envelope.key.hex()} came between: tried again")

    async def _prepare(self, envelopes: Sequence[Envelope]) -> None:
        """Look again where what we know may be old: at the bundles and at the enrolment."""
        if not self._window.bases or max(each.base_version for each in envelopes) > self._window.bases[-1].version:
            await self._window.catch_up()
        if not self._window.bases:
            raise Unavailable("no_bundle", "no bundle was released yet: the packet waits")
        if any(each.key not in self._enrolment.edges for each in envelopes):
            await self._enrolment.read()

    async def _known(self, keys: Iterable[bytes]) -> dict[bytes, "Known"]:
        """What the broker has of keys, in one round trip."""
        reading, asked = self._broker.redis.pipeline(transaction=False), list(keys)
        for key in asked:
            reading.hget(SEQUENCE, key.hex())
            reading.hget(STANDING, key.hex())
            reading.hmget(HELD, [one.hex() for one in self._enrolment.keys_beside(key)])
        found = iter(await reading.execute())
        rows = zip(asked, found, found, found, strict=True)
        return {key: Known(window, standing, _sum(held)) for key, window, standing, held in rows}


class Known(NamedTuple):
    """Of a key: its replay window and its standing, as the broker has them; waiting: how many packets of its node."""

    window: bytes | None
    standing: bytes | None
    waiting: int


def accepted(found: Admitted, delivery: Delivery, known: Known) -> tuple[list[Effect], Known]:
    """The packet and the window in which it is counted, together; only while the window is the one decided on. And what
    the broker then has of its key.

    Raises Corrupt("standing").
    """
    ref, key = found.ref.packed.hex(), found.ref.key
    standing = taken(standing_of(known.standing), delivery.at_ms)
    effects = [
        *_windowed(found.ref, known.window, found.window),
        *changed(key, known.standing, standing),
        HashSet(LEDGER, ref, delivery.body),
        HashSet(ACCEPTED, ref, str(delivery.at_ms).encode()),
        HashAdd(HELD, key.hex(), 1),
    ]
    return effects, Known(found.window.packed, standing.packed, known.waiting + 1)


def _count(raw: bytes, outcome: str, code: str) -> None:
    metrics.PACKET_BYTES.observe(len(raw))
    metrics.PACKETS.labels(outcome, code).inc()


def _sum(held: Iterable[bytes | None]) -> int:
    return sum(max(int(count or 0), 0) for count in held)


def _windowed(ref: PacketRef, packed: bytes | None, window: ReplayWindow) -> list[Effect]:
    key = ref.key.hex()
    held = Absent(SEQUENCE, key) if packed is None else Equals(SEQUENCE, key, packed)
    return [held, HashSet(SEQUENCE, key, window.packed)]
