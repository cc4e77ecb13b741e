"""Sleep: what is due is folded into packets, and what is pending is sent."""

import asyncio
import logging

from common.runtime import metrics, streams
from common.wire.codec import unpack
from common.wire.packet import PacketBody, key_id, seal
from services.edge.answer import Serving
from services.edge.app.node import Node
from services.edge.learning import due_domains, fold_domain, give_up, go_home
from services.edge.local import TERRITORY
from services.edge.mentions import FIRST, Private, decoys
from services.edge.proposals import Growing
from services.edge.record import FOLD_MAX_BYTES, Domain, Packet
from services.edge.scheduler import Scheduler
from services.edge.sleep import NAP_MAX_BYTES, Folded, Rhythm

log = logging.getLogger(__name__)


class Sleep:
    """One edge's nights. scheduler: while queries wait in it, sleep is put off or short."""

    def __init__(self, node: Node, scheduler: Scheduler) -> None:
        settings = node.settings
        self._node = node
        self._scheduler = scheduler
        self._rhythm = Rhythm(settings.sleep_after_bytes, settings.sleep_idle_s, settings.sleep_max_s)
        self._awake_s = node.now()

    async def round(self) -> None:
        """One round of HEART's clock: fold each domain that is due, and send what is pending."""
        record = self._node.record
        async with self._node.learning:
            serving = self._node.serving
            if serving is None:
                return
            await asyncio.to_thread(self._give_up)
            wanted = await asyncio.to_thread(
                due_domains,
                record,
                serving,
                self._rhythm,
                asked_s=self._node.asked_s,
                now_s=self._node.now(),
                crowded=self._crowded,
                awake_s=self._awake_s,
            )
            for domain in wanted:
                done = await asyncio.to_thread(self._fold, serving, domain)
                if done is not None:
                    self._show_fold(domain or TERRITORY, done)
                    await self._node.relearn([domain])
            for packet in await asyncio.to_thread(record.packets, "pending"):
                await self._send(packet)

    @property
    def _crowded(self) -> bool:
        """Whether queries wait here: there are more of them than threads."""
        return sum(self._scheduler.load) > self._node.settings.workers

    def _give_up(self) -> None:
        lost = give_up(self._node.record, now_s=self._node.now())
        if lost:
            metrics.PACKETS.labels("lost", "").inc(len(lost))
            log.warning("no bundle named packets %s: their counts go out again", lost)

    def _fold(self, serving: Serving, domain: Domain) -> Folded | None:
        """None where nothing was counted: a handful of strange texts only moves."""
        if domain is None and go_home(self._node.record, serving, self._rhythm):
            return None
        return fold_domain(
            self._node.record,
            serving,
            domain,
            gauges=self._node.gauges,
            crystal_bytes=self._node.settings.crystal_bytes,
            now_s=self._node.now(),
            max_bytes=NAP_MAX_BYTES if self._crowded else FOLD_MAX_BYTES,
            private=self._private(),
            growing=self._growing(),
        )

    def _private(self) -> Private | None:
        mode, secret, record = self._node.privacy.private, self._node.secret, self._node.record
        if mode == "off":
            return None
        assert secret is not None, "Node looked"
        fresh, first = (decoys(bytes(self._node.key), [sequence]) for sequence in (record.sequence, FIRST))
        known, mentioned = record.common(), record.mentioned()
        return Private(secret, known, mentioned, strict=mode == "strict", decoys=fresh, again=first)

    def _growing(self) -> Growing | None:
        secret, record = self._node.secret, self._node.record
        return None if secret is None else Growing(secret, record.common(), record.mentioned())

    def _show_fold(self, domain: str, done: Folded) -> None:
        size_bytes = max(done.body.fresh_bytes, 1)
        bundle, local = done.body.fresh_bits / size_bytes, done.local_bits / size_bytes
        self._node.scores[domain] = bundle, local
        metrics.BITS_PER_BYTE.labels(domain).set(bundle)
        metrics.LOCAL_BITS_PER_BYTE.labels(domain).set(local)

    async def _send(self, packet: Packet) -> None:
        """Sealed now, whenever it was folded: the centre's clock window is about the sending. The name stays."""
        record, body = self._node.record, unpack(PacketBody, packet.body)
        raw = seal(
            body,
            signing_key=self._node.key,
            epoch=record.epoch,
            sequence=packet.sequence,
            base_version=packet.base_version,
            base=packet.base,
            at_s=self._node.now(),
        )
        name = f"{key_id(self._node.key.verify_key).hex()}:{record.epoch}:{packet.sequence}"
        await asyncio.to_thread(record.leaving, packet.sequence, raw)
        await self._node.broker.produce(streams.PACKETS, raw, name)
        await asyncio.to_thread(record.sent, packet.sequence, raw, at_s=self._node.now())
        metrics.PACKET_BYTES.observe(len(raw))
        metrics.PACKETS.labels("sent", "").inc()
        log.info("packet %d sent: %d bytes, %d interactions", packet.sequence, len(raw), body.interactions)
