"""A process in small: one consumer with its supervision and its relay, to be started, stopped or killed."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

from faststream.redis import RedisBroker
from redis.asyncio import Redis

from common.runtime import lanes, streams
from common.runtime.connection import connect, faststream_broker
from common.runtime.consumer import Consumer, Intake
from common.runtime.effects import Effect, HashAdd
from common.runtime.entries import Delivery
from common.runtime.health import Health
from common.runtime.relay import run_relay
from common.runtime.subscription import Subscription
from common.wire.codec import unpack
from common.wire.messages import DeadLetter

COUNTS = streams.side_key(streams.QUERIES, "counts")
CLAIM_AFTER_S = 0.15


def consumer(handle: Callable[[Delivery, bytes], Awaitable[Sequence[Effect]]], **options: object) -> Consumer[bytes]:
    """A consumer of the queries that loses patience in milliseconds."""
    chosen = {"decode": bytes, "claim_after_s": CLAIM_AFTER_S, "retry_first_s": 0.02} | options
    return Consumer(streams.QUERIES, "edge", handle=handle, **chosen)  # type: ignore[arg-type]


def counted(body: bytes) -> list[Effect]:
    """The effect by which a test sees how often a message was counted."""
    return [HashAdd(COUNTS, body.decode(), 1)]


async def count(delivery: Delivery, body: bytes) -> list[Effect]:
    """A handler that only counts."""
    return counted(body)


async def letters(redis: Redis) -> list[DeadLetter]:
    """The dead letters of the queries."""
    return [unpack(DeadLetter, fields[b"__data__"]) for _, fields in await redis.xrange(streams.dead(streams.QUERIES))]


async def finished(redis: Redis, stream: str = streams.QUERIES) -> bool:
    """Whether nothing is left of a work stream, pending or unread."""
    return await redis.xlen(stream) == 0


class Node:
    """One process of the queries' group."""

    def __init__(
        self,
        url: str,
        what: Consumer[bytes],
        name: str,
        *,
        direct: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.health = Health()
        self._direct = direct
        self._clock = clock
        self.name = name
        self._url = url
        self._what = what
        self._tasks: list[asyncio.Task[None]] = []
        self._clients = AsyncExitStack()
        self._faststream: RedisBroker | None = None
        self.subscription: Subscription[bytes] | None = None

    async def start(self) -> None:
        self._redis = redis = await self._clients.enter_async_context(connect(self._url))
        self._faststream = faststream_broker(self._url, graceful_s=5.0)
        await self._faststream.connect()
        self._clients.push_async_callback(self._faststream.config.disconnect)
        intake = Intake(redis, self._what, direct=self._direct, clock=self._clock)
        self.subscription = Subscription(self._faststream, redis, intake, self.name, check_every_s=0.05)
        work = (self.subscription.watch(self.health), run_relay(redis, self._what.stream, self.health))
        self._tasks = [asyncio.create_task(part) for part in work]
        await asyncio.sleep(0)  # both have begun, and are expected to report

    async def stop(self) -> None:
        """End in good order."""
        if self._tasks:
            await self.subscription.stop()
            await self.kill()

    async def kill(self) -> None:
        """End without a word to the broker: nothing is finished, nothing is handed back."""
        doomed, self._tasks = self._tasks, []
        for task in doomed:
            task.cancel()
        await asyncio.gather(*doomed, return_exceptions=True)
        await lanes.end(self._redis)
        await self.subscription.abandon()
        await lanes.end(self._redis)  # of what was asked on the way out
        await self._clients.aclose()
