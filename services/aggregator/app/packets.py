"""Packets: each becomes an entry of the ledger, or is refused with its reason.

    take       open_packet ─▶ admit ─▶ {ledger, accepted, sequence} + acknowledgement             one transaction
    refused    where nobody else may have said it: {sequence} + Returned, then the dead letter

Two aggregators are safe: an acceptance needs the replay window that it was decided on to be still there. Whoever comes
second decides anew on what is there then.
"""

import logging
from collections.abc import Awaitable, Sequence
from typing import Final, cast

from common.errors import QigError, Unavailable
from common.runtime import metrics, streams
from common.runtime.broker import Broker
from common.runtime.effects import Absent, Effect, Equals, HashSet, Send
from common.runtime.entries import Delivery
from common.wire.codec import pack
from common.wire.messages import REASON_MAX_CHARS, PacketRef, Returned
from common.wire.packet import Envelope
from services.aggregator.admit import Admitted, admit, open_packet
from services.aggregator.app.enrolment import Enrolment
from services.aggregator.app.hashes import ACCEPTED, LEDGER, SEQUENCE
from services.aggregator.app.window import Window
from services.aggregator.replay import ReplayWindow, advance

log = logging.getLogger(__name__)

FINAL: Final = frozenset({"base_window", "clock", "implausible"})  # said of a packet that its edge sealed, once


class Packets:
    """What becomes of each packet, by the bundles in the window and who is enrolled."""

    def __init__(self, broker: Broker, window: Window, enrolment: Enrolment) -> None:
        self._broker, self._window, self._enrolment = broker, window, enrolment

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
                enrolled=self._enrolment.edges,
                replay=None if packed is None else ReplayWindow.unpack(packed),
                entry_ms=delivery.at_ms,
                bases=self._window.bases,
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
        if not self._window.bases or envelope.base_version > self._window.bases[-1].version:
            await self._window.catch_up()
        if not self._window.bases:
            raise Unavailable("no_bundle", "no bundle was released yet: the packet waits")
        if envelope.key not in self._enrolment.edges:
            await self._enrolment.read()


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
