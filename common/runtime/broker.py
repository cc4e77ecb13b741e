"""The broker as a service sees it: one value with the few things that are safe to do outside a handler.

produce   publish by id: a second publication of the id does nothing;  check_room   whether it would be taken
tell      publish what may be lost, or come twice;  teach  let clients publish
commit    conditions and writes of a periodic job, all or nothing, in one stream's slot
put_blob, get_blob, forget_blobs   large things, by digest
latest    the newest entry of a stream;  read_hash  a whole hash
depths    what waits in each work stream;  lately  what was lately broadcast
"""

import asyncio
from collections.abc import Awaitable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from common.errors import Unavailable
from common.runtime import metrics, overview, scripts, store, streams, tracing
from common.runtime.effects import Effect, Send, follow
from common.runtime.entries import Entry
from common.runtime.overview import M, StreamRow


@dataclass(frozen=True, slots=True)
class Broker:
    """What a service's factory is given, and closes over in its handlers, ticks and followers."""

    redis: Redis

    async def produce(self, stream: str, message: bytes, message_id: str) -> bool:
        """Publish, exactly once by id: False when `message_id` was published on `stream` before.

        Raises Unavailable: "broker_away" after about 7 s, "broker_full" when its memory is out, "stream_full" when the
        stream has no room. Calling again with the same id is always right.
        """
        try:
            entry = await scripts.publish(self.redis, stream, message, message_id)
        except RedisError as error:
            raise Unavailable(
                "broker_away", f"cannot publish on {stream}: {error}; try again with the same id"
            ) from error
        if entry is None:
            metrics.DUPLICATES.labels(metrics.stream_label(stream)).inc()
        else:
            tracing.sent([Send(stream, message, message_id)])
        return entry is not None

    async def check_room(self, stream: str) -> None:
        """Before work that ends with a message on the work stream `stream`. Raises Unavailable("stream_full")."""
        length, most = await self.redis.xlen(stream), streams.retention(stream).entries
        if length >= most:
            message = f"{stream} holds {length} entries, its limit is {most}: this waits until some are done"
            raise Unavailable("stream_full", message, retry_after_s=scripts.FULL_RETRY_S)

    async def was_published(self, stream: str, message_id: str) -> bool:
        """Whether `message_id` was published on `stream`, as long as that is remembered (scripts.py). Raises
        Unavailable("broker_away").
        """
        with _away():
            return await self.redis.zscore(streams.seen(stream), message_id) is not None

    async def teach(self) -> None:
        """As `scripts.teach`. Raises Unavailable("broker_away")."""
        try:
            await scripts.teach(self.redis)
        except RedisError as error:
            raise Unavailable("broker_away", f"cannot tell the broker how clients publish: {error}") from error

    def tell(self, stream: str, message: bytes) -> asyncio.Future[object]:
        """Publish something small that nobody depends on: one XADD, no id, trimmed to the stream's retention. It goes
        with the next round trip, ahead of whatever is committed or published after this call.

        To wait until it is there use asyncio.wait: a message that cannot be sent is lost, and its error is nobody's.
        """
        told = scripts.tell(self.redis, stream, message)
        told.add_done_callback(lambda done: done.cancelled() or done.exception())
        return told

    async def commit(self, stream: str, effects: Sequence[Effect]) -> bool:
        """Apply `effects` in the slot of `stream`, all or nothing: False when a condition among them does not hold."""
        done = await scripts.commit(self.redis, stream, effects) == "done"
        if done:
            tracing.sent(effects)
            follow(effects)
        return done

    async def put_blob(self, data: bytes) -> str:
        """Store a blob; its digest."""
        return await store.put(self.redis, data)

    async def get_blob(self, digest: str, size_bytes: int) -> bytes:
        """A blob, verified. Raises Unavailable("blob_missing"), Corrupt("part_digest")."""
        return await store.get(self.redis, digest, size_bytes)

    async def forget_blobs(self, needed: Collection[str], idle_s: float) -> int:
        """As `store.forget`."""
        return await store.forget(self.redis, needed, idle_s)

    async def latest(self, stream: str) -> Entry | None:
        """The newest entry of `stream`."""
        rows = cast("list[tuple[bytes, dict[bytes, bytes]]]", await self.redis.xrevrange(stream, count=1))
        return Entry(rows[0][0].decode(), rows[0][1]) if rows else None

    async def read_hash(self, key: str) -> dict[str, bytes]:
        """Every field of a hash; empty when there is none."""
        rows = await cast("Awaitable[dict[bytes, bytes]]", self.redis.hgetall(key))
        return {name.decode(): value for name, value in rows.items()}

    async def depths(self) -> tuple[StreamRow, ...]:
        """As `overview.depths`. Raises Unavailable("broker_away")."""
        with _away():
            return await overview.depths(self.redis)

    async def lately(
        self, stream: str, cls: type[M], *, after: str | None, most: int
    ) -> tuple[Sequence[M], str | None]:
        """As `overview.lately`. Raises Unavailable("broker_away")."""
        with _away():
            return await overview.lately(self.redis, stream, cls, after=after, most=most)


@contextmanager
def _away() -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        raise Unavailable("broker_away", f"cannot read from the broker: {error}") from error
