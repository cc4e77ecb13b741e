"""What is common: told by the aggregator, kept here, said from the next sleep on."""

import asyncio
import logging

from common.runtime import metrics
from common.runtime.entries import Delivery
from common.runtime.follower import FROM_START
from common.wire.codec import unpack
from common.wire.messages import Common
from common.wire.packet import key_id
from services.edge.app.node import Node
from services.edge.learning import hear_common

log = logging.getLogger(__name__)


class Commons:
    """What one edge has heard of the others. follow_from: the entry after which the stream is to be read."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.follow_from = node.record.mentions.common_cursor or FROM_START

    async def on_common(self, delivery: Delivery) -> None:
        """One cut's news. Raises Corrupt("false_common") for what cannot be true: it is passed over, loudly."""
        told = unpack(Common, delivery.body)
        async with self._node.learning:
            settled = await asyncio.to_thread(
                hear_common,
                self._node.record,
                told,
                key=key_id(self._node.key.verify_key),
                own=bytes(self._node.key),
                entry_id=delivery.entry_id,
                now_s=self._node.now(),
            )
        metrics.PACKETS.labels("acknowledged", "").inc(len(settled))
        if settled:
            log.info("packets %s only mentioned, and are counted", settled)
