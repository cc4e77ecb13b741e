"""One consumer in FastStream's hands: a reader for new entries, a claimer for those left behind, kept alive.

    watch, each check_every_s, and as soon as a half ends:
           look_after (the group is there, its gone consumers are not) ─▶ gauges ─▶ restart a dead half ─▶ report health

FastStream 0.7.8 is worked around in these places, each with its reason at the line and shown in docs/upstream: how it
makes the group, the parser, the acknowledgement, its task supervisor, its stop for ever on a lost group. How much it
reads at once is fixed there, and chosen anew for each read here.
"""

import asyncio
import logging
import os
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, Generic, TypeVar, cast

from faststream import AckPolicy
from faststream.redis import RedisBroker, StreamSub
from faststream.redis.message import FAKE_CONSUMER, BatchStreamMessage, RedisBatchStreamMessage
from faststream.redis.subscriber.usecases import StreamBatchSubscriber
from redis.asyncio import Redis
from redis.exceptions import RedisError

from common.runtime import metrics, scripts, streams
from common.runtime.connection import trouble
from common.runtime.consumer import Intake
from common.runtime.entries import Entry
from common.runtime.health import Health
from common.runtime.pace import Pace

M = TypeVar("M")
log = logging.getLogger(__name__)

READ_BLOCK_MS: Final = 2_000  # a thin link pays for each read; a slow one may answer three seconds later yet
CLAIM_POLL_MS: Final = (20, 1_000)  # a claimer looks four times in a claim time, within these
CHECK_EVERY_S: Final = 2.0
TRY_AGAIN_S: Final = 1.0  # at the soonest: a full disk refuses every read at once
STALE_CHECKS: Final = 3  # readiness is false when the group was not seen for this many checks
START_TIMEOUT_S: Final = 10.0
HAND_BACK_S: Final = 3.0  # of the 30 s between SIGTERM and SIGKILL: without a broker, work in flight takes seven before
GONE_CONSUMER_S: Final = 3_600.0
PENDING_MAX: Final = 1_000  # looked at in a check; handed back at a stop: a reader holds max_records, a claimer one


class Subscription(Generic[M]):
    """The reader and the claimer of one consumer in this process."""

    def __init__(
        self,
        faststream: RedisBroker,
        redis: Redis,
        intake: Intake[M],
        name: str,
        *,
        check_every_s: float = CHECK_EVERY_S,
    ) -> None:
        self.consumer = intake.consumer
        self._redis = redis
        self._check_every_s = check_every_s
        self._intake = intake
        claim_ms = max(1, int(self.consumer.claim_after_s * 1000))
        poll_ms = min(CLAIM_POLL_MS[1], max(CLAIM_POLL_MS[0], claim_ms // 4))
        self._holders = {
            name: self._subscribe(faststream, name, None, READ_BLOCK_MS),
            f"{name}-claim": self._subscribe(faststream, f"{name}-claim", claim_ms, poll_ms),
        }
        self._seen = False
        self._sweep_s = time.monotonic() + _until_a_sweep_s()
        metrics.begin(metrics.GROUPS_REMADE, (self.consumer.stream,))
        self._stopping = False
        self._upkeep = asyncio.Lock()  # a half that is being started while its stop is asked for would outlive it

    def alive(self) -> bool:
        """Both halves are reading."""
        return all(map(_is_alive, self._holders.values()))

    async def watch(self, health: Health) -> None:
        """Keep it alive for ever."""
        # Its supervisor restarts a failing read at once, over and over (a full disk refuses XREADGROUP); ours waits.
        os.environ["FASTSTREAM_SUPERVISOR_DISABLED"] = "1"
        name = f"consumer {self.consumer.stream}"
        health.expect(name, STALE_CHECKS * self._check_every_s, self.alive)
        while True:
            pause_s = self._check_every_s
            try:
                async with asyncio.timeout(START_TIMEOUT_S):
                    await self._look_after()
                    await self._ensure()
                health.report(name)
            except (RedisError, TimeoutError) as error:
                pause_s = min(pause_s, TRY_AGAIN_S)
                health.report(name, trouble(error))
                log.warning("cannot look after %s, %s", self.consumer.stream, trouble(error))
            await asyncio.sleep(min(pause_s, TRY_AGAIN_S))
            await self._until_one_ends(pause_s - TRY_AGAIN_S)

    async def _until_one_ends(self, pause_s: float) -> None:
        reading = [task for half in self._holders.values() for task in half.tasks]
        if pause_s > 0 and self.alive():
            await asyncio.wait(reading, timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)

    async def stop(self) -> None:
        """Finish the work in flight, then hand back what was read and not begun, to be claimed by others at once."""
        self._stopping = True
        async with self._upkeep:
            await asyncio.gather(self._intake.close(), *(half.stop() for half in self._holders.values()))
        try:
            async with asyncio.timeout(HAND_BACK_S):
                await self._hand_back()
        except (
            RedisError,
            TimeoutError,
        ) as error:  # or no group: what was read is claimed
            log.warning("what was read of %s is not handed back, %s", self.consumer.stream, trouble(error))

    async def abandon(self) -> None:
        """As if killed: nothing that has begun is finished, nothing is handed back. After a stop there is nothing."""
        reading = [task for half in self._holders.values() for task in half.tasks]
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        await self._intake.abandon()

    async def _hand_back(self) -> None:
        tried = set(self._intake.tried)
        for holder in self._holders:
            rows = await self._redis.xpending_range(
                self.consumer.stream, self.consumer.group, "-", "+", PENDING_MAX, holder
            )
            # Side by side: few round trips, so that a slow link does not outlast the time that a stop is given.
            await asyncio.gather(
                *(self._hand_back_one(holder, row, tried) for row in cast("list[dict[str, Any]]", rows))
            )

    async def _hand_back_one(self, holder: str, row: dict[str, Any], tried: set[str]) -> None:
        """Unless a handler had it, its delivery is taken off the count that ends in a dead letter."""
        entry = row["message_id"].decode()
        await scripts.hold(
            self._redis,
            self.consumer.stream,
            (self.consumer.group, holder),
            entry,
            idle_s=self.consumer.claim_after_s,
            delivered=None if entry in tried else max(0, row["times_delivered"] - 1),
        )

    def _subscribe(
        self, faststream: RedisBroker, holder: str, claim_ms: int | None, poll_ms: int
    ) -> StreamBatchSubscriber:
        consumer = self.consumer
        source = StreamSub(
            consumer.stream,
            group=consumer.group,
            consumer=holder,
            batch=True,  # one task of FastStream's a read, not one an entry: the intake makes its own
            min_idle_time=claim_ms,
            polling_interval=poll_ms,
        )
        half = faststream.subscriber(
            stream=source,
            parser=_parse,
            decoder=_decode,
            ack_policy=AckPolicy.MANUAL,  # the commit acknowledges; an XACK of its own would come without the effects
            no_reply=True,
        )
        # The size of a read is chosen once and for all, at its default the whole backlog; a claimer takes one.
        half._xreadgroup = _paced(half._xreadgroup, consumer.max_records)  # type: ignore[method-assign,assignment]  # noqa: SLF001 -- no other door

        async def take(entries: list[Entry]) -> None:
            await self._intake.take_all(holder, entries, new=claim_ms is None)

        half(take)
        return half

    async def _ensure(self) -> None:
        async with self._upkeep:
            if not self._stopping:
                await self._revive()

    async def _revive(self) -> None:
        for half in self._holders.values():
            if not _is_alive(half):
                for task in half.tasks:
                    if task.done() and not task.cancelled() and task.exception():
                        log.error("a reader of %s ended: %r", self.consumer.stream, task.exception())
                await half.stop()
                # It makes the group too, at "$": were the group lost just now, a backlog would be skipped; and a server
                # whose memory is full refuses that even where there is one, so that nobody would come to empty it.
                half._client.xgroup_create = _is_there  # type: ignore[assignment]  # noqa: SLF001 -- no other door
                await half.start()

    async def _look_after(self) -> None:
        stream, group = self.consumer.stream, self.consumer.group
        sweeps = time.monotonic() >= self._sweep_s
        gone_s = GONE_CONSUMER_S if sweeps else None
        asked_s = self._intake.clock()
        waiting = await scripts.look_after(self._redis, stream, group, gone_s=gone_s, most=PENDING_MAX)
        self._intake.compare(asked_s, waiting.at_s)
        if sweeps:
            self._sweep_s = time.monotonic() + _until_a_sweep_s()
        if waiting.made and self._seen:
            metrics.GROUPS_REMADE.labels(stream).inc()
            log.warning("the group %s of %s was lost; made anew at 0", group, stream)
        self._seen = True
        # The server does not know the lag of a stream with deleted entries; in a work stream it is what is not pending.
        metrics.LAG.labels(stream).set(max(0, waiting.length - waiting.pending))
        metrics.PENDING.labels(stream).set(waiting.pending)
        metrics.FILL.labels(stream).set(waiting.length / streams.retention(stream).entries)
        metrics.OLDEST_IDLE.labels(stream).set(waiting.oldest_idle_s)
        metrics.DEAD.labels(stream).set(waiting.dead)
        metrics.OUTBOX.labels(stream).set(waiting.outbox)


def _paced(read: Callable[..., Awaitable[Any]], most: int) -> Callable[..., Awaitable[Any]]:
    """Reads as many entries at once as come quickly."""
    pace = Pace(most)

    async def paced(**how: Any) -> Any:
        asked_s = time.monotonic()
        answer = await read(**how | {"count": pace.entries})
        pace.came(sum(len(entries) for _, entries in answer), time.monotonic() - asked_s)
        return answer

    return paced


def _until_a_sweep_s() -> float:
    """Drawn, so that processes which began together do not all sweep at once."""
    return random.uniform(0.0, GONE_CONSUMER_S / 4)  # noqa: S311 -- no secret


async def _is_there(**_: object) -> bool:
    return True


def _is_alive(half: StreamBatchSubscriber) -> bool:
    # On a lost group it stops for ever with a line in the log and nothing else: `running` false, no tasks.
    return half.running and any(not task.done() for task in half.tasks)


async def _parse(message: BatchStreamMessage) -> RedisBatchStreamMessage:
    # The default parser raises on an entry without __data__, before any handler could give it a reason and an end; and
    # it cannot read batches of msgpack at all.
    return RedisBatchStreamMessage(raw_message=message, body=b"", consumer=FAKE_CONSUMER, group=None)


async def _decode(message: RedisBatchStreamMessage) -> list[Entry]:
    raw = message.raw_message
    pairs = zip(raw["message_ids"], raw["data"], strict=True)
    return [Entry(entry_id.decode(), fields) for entry_id, fields in pairs]
