"""What comes from the broker for this edge to serve: which release is the newest, and a bundle's parts; each read once,
however thin the link, and waited for no longer than the edge runs.
"""

import asyncio
from collections.abc import Collection, Coroutine
from typing import Any, TypeVar

from common.errors import Unavailable
from common.runtime import streams
from common.runtime.follower import newest as newest_entry
from common.runtime.releases import LOOK_BACK, newest_among, newest_messages
from common.runtime.trust import Trust
from common.wire.messages import Bundle
from services.edge.app.node import Node
from services.edge.slots import Slots

T = TypeVar("T")


class Arrivals:
    """What one edge has read of what was released."""

    def __init__(self, node: Node, slots: Slots, trust: Trust) -> None:
        self._node = node
        self._slots = slots
        self._trust = trust
        self._ending = asyncio.Event()
        self._held: tuple[str, bytes] | None = None  # a part, by digest, that came and is not on disk
        self._read: tuple[str, Collection[bytes]] = "", ()  # the stream's newest entry, and what was released up to it

    def stopping(self) -> None:
        """What is on its way is waited for no longer, however thin the link: what is here already stays here."""
        self._ending.set()

    async def newest(self) -> Bundle | None:
        """As `newest_release`. What was released is read again only where there is another: read for each release of a
        backlog, or each minute, it would be most of what a thin link carries.
        """
        redis = self._node.broker.redis
        if (last := await newest_entry(redis, streams.BUNDLES)) != self._read[0]:
            self._read = last, await self._unless_ending(newest_messages(redis, LOOK_BACK))
        return await newest_among(self._read[1], self._trust, node=self._node.settings.node)

    async def parts_of(self, bundle: Bundle) -> dict[str, bytes]:
        """All parts; only those that are not on disk come from the broker, and each once, whatever the disk says."""
        for part in bundle.parts.values():
            if not await asyncio.to_thread(self._slots.has, part):
                if self._held is None or self._held[0] != part.digest:
                    got = await self._unless_ending(self._node.broker.get_blob(part.digest, part.size_bytes))
                    self._held = part.digest, got
                await asyncio.to_thread(self._slots.put, part, self._held[1])
                self._held = None
        return {path: await asyncio.to_thread(self._slots.read, part) for path, part in bundle.parts.items()}

    async def _unless_ending(self, work: Coroutine[Any, Any, T]) -> T:
        """What the broker is asked for, and may be long on its way. Raises what that does, and Unavailable("stopping")
        once this edge ends.
        """
        getting = asyncio.create_task(work)
        ending = asyncio.create_task(self._ending.wait())
        try:
            await asyncio.wait({getting, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not getting.done():
                raise Unavailable("stopping", "this node stops: its next start fetches the rest")
            return getting.result()
        finally:
            getting.cancel()
            ending.cancel()
            await asyncio.gather(getting, ending, return_exceptions=True)
