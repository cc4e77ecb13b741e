"""redis-py's sentinels, and its connections to their master: asked by many at once, and none of them left open."""

import asyncio
from typing import Any

from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool


class Sentinels(Sentinel):
    """Asked once for all who want to know at a time: whoever finds the master moves the sentinel that told it to the
    front of a list that others are walking, and two at once lose another for good, with its open connection. One after
    the other they would wait for each sentinel that is away as often as they are many.
    """

    def __init__(self) -> None:
        super().__init__([])  # type: ignore[no-untyped-call]
        self._asking: asyncio.Task[Any] | None = None

    async def discover_master(self, service_name: str) -> Any:
        """Where the master is: what the one question that is on its way finds, for all."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(super().discover_master(service_name))
            self._asking.add_done_callback(lambda done: done.cancelled() or done.exception())  # of one that all left
        return await asyncio.shield(self._asking)

    async def aclose(self) -> None:
        """Ends the question, and closes the connections to the sentinels."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])
        await super().aclose()


class MasterPool(SentinelConnectionPool):
    """The connections to the master, and with them those to the sentinels."""

    async def aclose(self) -> None:
        """Closes both."""
        await super().aclose()
        await self.sentinel_manager.aclose()
