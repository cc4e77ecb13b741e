"""Sleep: what is due is folded into packets, what is pending is sent, what the centre dropped is taken back."""

import asyncio
import logging
import math
from typing import Final

from common.errors import Unavailable
from common.runtime import causes, metrics, streams, tracing
from common.runtime.entries import Delivery
from common.runtime.follower import FROM_START
from common.wire.codec import unpack
from common.wire.messages import TAKEN_BACK, PacketRef, Returned
from common.wire.packet import PacketBody, key_id, seal
from services.edge.answer import Serving
from services.edge.app.node import Node
from services.edge.learning import due_domains, fold_domain, give_up, go_home, rehome, take_back
from services.edge.local import TERRITORY
from services.edge.mentions import FIRST, Private, decoys
from services.edge.proposals import Growing
from services.edge.record import FOLD_MAX_BYTES, Domain, Packet
from services.edge.scheduler import Scheduler
from services.edge.sleep import NAP_MAX_BYTES, Folded, Rhythm, beyond, unheard

log = logging.getLogger(__name__)

NO_ROOM_S: Final = 5.0  # chosen: until packets for which there was no room are sent again
LOOK_AHEAD: Final = 8  # chosen: packets that were made after a copy, and of which the first never left


class Sleep:
    """One edge's nights. scheduler: while queries wait in it, sleep is put off or short."""

    def __init__(self, node: Node, scheduler: Scheduler) -> None:
        settings = node.settings
        self._node = node
        self._scheduler = scheduler
        self._rhythm = Rhythm(settings.sleep_after_bytes, settings.sleep_idle_s, settings.sleep_max_s)
        self._awake_s = node.now()
        self._again_s: dict[int, float] = {}  # by packet on its way: when it was handed over once more, in this life
        self._numbered = False  # whether the broker has said, in this life, that it knows no packet that is due here
        self._clock_behind = False  # whether it was said that the clock does not tell what is beyond those it knows
        self._no_room_s = -math.inf  # when a packet was sent last for which there was no room
        self.follow_from = node.record.returned or FROM_START

    async def round(self) -> None:
        """One round of HEART's clock: fold each domain that is due, and send what is pending.

        Not before the broker has answered once in this life (see `_number_on`). Raises Unavailable("broker_away").
        """
        record = self._node.record
        if not await self._number_on():
            return
        async with self._node.learning:
            await self._inherit()
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
        if abs(self._node.now() - self._no_room_s) >= NO_ROOM_S:  # abs: a clock that was set
            await self._send_all()

    async def on_returned(self, delivery: Delivery) -> None:
        """The centre has dropped packets for good: what ours carried waits in the residues, and goes again."""
        told = unpack(Returned, delivery.body)
        record, key = self._node.record, key_id(self._node.key.verify_key)
        async with self._node.learning:
            back = await asyncio.to_thread(
                take_back,
                record,
                told.packets,
                key=key,
                entry_id=delivery.entry_id,
                now_s=self._node.now(),
                undone=(undone := told.code == TAKEN_BACK),
            )
            if undone:
                await self._node.relearn(None)
        if back:
            metrics.PACKETS.labels("returned", "").inc(len(back))
            log.warning("packets %s will not count, their counts go again: %s: %s", list(back), told.code, told.reason)

    async def _send_all(self) -> None:
        """What is pending, and what nobody has said anything of. Where there is no room for it, it waits here."""
        record = self._node.record
        try:
            for packet in await asyncio.to_thread(record.packets, "pending"):
                await self._send(packet)
            sent = await asyncio.to_thread(record.packets, "sent")
            on_its_way = {packet.sequence for packet in sent}
            self._again_s = {one: at_s for one, at_s in self._again_s.items() if one in on_its_way}
            for packet in unheard(self._node.now(), sent, self._again_s):
                await self._send(packet)
                self._again_s[packet.sequence] = self._node.now()
        except Unavailable as error:  # no reason not to be ready: what serves, serves
            if error.code not in ("stream_full", "broker_full"):
                raise
            self._no_room_s = self._node.now()
            log.warning("packets wait: %s", error)

    async def _number_on(self) -> bool:
        """Where the broker knows packets that are still to be made here, this file is an older copy: the next are
        numbered beyond those that were made since, for which they would be taken. Whether the number that is due is
        free; where the clock is behind, nobody can tell yet what is beyond. Raises Unavailable("broker_away").
        """
        record = self._node.record
        while not self._numbered:
            due, on = record.sequence, beyond(record.epoch, self._node.now())
            if not await self._is_taken(due):
                self._numbered = True
            elif on > due:
                await asyncio.to_thread(record.move_on, on)
                log.warning("this edge's file is an older copy: packet %d left before, the next is %d", due, on)
            else:
                if not self._clock_behind:
                    log.warning("packet %d left before, and the clock is behind: set it, or nothing is folded", due)
                self._clock_behind = True
                return False
        return True

    async def _is_taken(self, due: int) -> bool:
        """Whether the broker knows the packet that is due, or one of the next."""
        key, epoch = key_id(self._node.key.verify_key), self._node.record.epoch
        ahead = [PacketRef(key=key, epoch=epoch, sequence=due + n) for n in range(LOOK_AHEAD)]
        names = map(causes.packet_name, ahead)
        return any(await asyncio.gather(*(self._node.broker.was_published(streams.PACKETS, name) for name in names)))

    @property
    def _crowded(self) -> bool:
        """Whether queries wait here: there are more of them than threads."""
        return sum(self._scheduler.load) > self._node.settings.workers

    async def _inherit(self) -> None:
        """What a query of the bundle before has left under a name that is gone, or a kill between two steps."""
        serving = self._node.serving
        if serving is not None and (heirs := await asyncio.to_thread(rehome, self._node.record, serving)):
            await self._node.relearn(heirs)

    def _give_up(self) -> None:
        lost = give_up(self._node.record, now_s=self._node.now())
        if lost:
            metrics.PACKETS.labels("lost", "").inc(len(lost))
            log.warning("nobody said anything of packets %s: their counts go out again", lost)

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
        known, mentioned = record.mentions.common(), record.mentions.mentioned()
        return Private(secret, known, mentioned, strict=mode == "strict", decoys=fresh, again=first)

    def _growing(self) -> Growing | None:
        secret, record = self._node.secret, self._node.record
        return None if secret is None else Growing(secret, record.mentions.common(), record.mentions.mentioned())

    def _show_fold(self, domain: str, done: Folded) -> None:
        size_bytes = max(done.body.fresh_bytes, 1)
        bundle, local = done.body.fresh_bits / size_bytes, done.local_bits / size_bytes
        self._node.scores[domain] = bundle, local
        metrics.BITS_PER_BYTE.labels(domain).set(bundle)
        metrics.LOCAL_BITS_PER_BYTE.labels(domain).set(local)

    async def _send(self, packet: Packet) -> None:
        """Sealed now, whenever it was folded: the centre's clock window is about the sending. The name stays.

        Whoever learns, forgets or goes back meanwhile does not wait for the broker, which may be long in taking it: for
        them it has left.
        """
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
        ref = PacketRef(key=key_id(self._node.key.verify_key), epoch=record.epoch, sequence=packet.sequence)
        # A trace of its own, that leads to no query: it is the centre's to see (docs/privacy.md).
        with tracing.work("send packet", causes.packet(ref).root):
            async with self._node.learning:
                if not await asyncio.to_thread(record.leaving, packet.sequence, raw):
                    return  # withdrawn, or settled, since it was looked up
            await self._node.broker.produce(streams.PACKETS, raw, causes.packet_name(ref))
            await asyncio.to_thread(record.sent, packet.sequence, raw, at_s=self._node.now())
            log.info("packet %d sent: %d bytes, %d interactions", packet.sequence, len(raw), body.interactions)
        metrics.PACKET_BYTES.observe(len(raw))
        metrics.PACKETS.labels("sent", "").inc()
