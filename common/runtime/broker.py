"""The broker as a service sees it: one value with the few things that are safe to do outside a handler.

produce   publish by id: a second publication of the id does nothing
commit    conditions and writes of a periodic job, all or nothing, in one stream's slot
put_blob, get_blob   large things, by digest
latest    the newest entry of a stream;  read_hash  a whole hash
"""

import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Final, cast

import stamina
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import AuthenticationError, ConnectionError, RedisError, TimeoutError  # noqa: A004 -- redis-py's

from common.errors import Rejected, Unavailable
from common.runtime import metrics, scripts, store
from common.runtime.effects import Effect
from common.runtime.entries import Entry
from common.runtime.settings import redacted

log = logging.getLogger(__name__)

BACKOFF_FIRST_S: Final = 0.05
BACKOFF_MAX_S: Final = 1.0
RETRIES: Final = 10  # a command rides out about 7 s of outage; then its caller decides
SOCKET_TIMEOUT_S: Final = 5.0  # above every blocking read of ours: silence for this long is a dead peer
AWAY: Final = (ConnectionError, TimeoutError)
_WAIT_LOG_MAX_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Broker:
    """What a service's factory is given, and closes over in its handlers, ticks and followers."""

    redis: Redis

    async def produce(self, stream: str, message: bytes, message_id: str) -> bool:
        """Publish, exactly once by id: False when `message_id` was published on `stream` before.

        Raises Unavailable("broker_away") after about 7 s; calling again with the same id is always right.
        """
        try:
            entry = await scripts.publish(self.redis, stream, message, message_id)
        except RedisError as error:
            raise Unavailable(
                "broker_away", f"cannot publish on {stream}: {error}; try again with the same id"
            ) from error
        if entry is None:
            metrics.DUPLICATES.labels(label(stream)).inc()
        return entry is not None

    async def commit(self, stream: str, effects: Sequence[Effect]) -> bool:
        """Apply `effects` in the slot of `stream`, all or nothing: False when a condition among them does not hold."""
        return await scripts.commit(self.redis, stream, effects) == "done"

    async def put_blob(self, data: bytes, ttl_s: int | None = None) -> str:
        """Store a blob; its digest."""
        return await store.put(self.redis, data, ttl_s)

    async def get_blob(self, digest: str, size_bytes: int) -> bytes:
        """A blob, verified. Raises Unavailable("blob_missing"), Corrupt("part_digest")."""
        return await store.get(self.redis, digest, size_bytes)

    async def latest(self, stream: str) -> Entry | None:
        """The newest entry of `stream`."""
        rows = cast("list[tuple[bytes, dict[bytes, bytes]]]", await self.redis.xrevrange(stream, count=1))
        return Entry(rows[0][0].decode(), rows[0][1]) if rows else None

    async def read_hash(self, key: str) -> dict[str, bytes]:
        """Every field of a hash; empty when there is none."""
        rows = await cast("Awaitable[dict[bytes, bytes]]", self.redis.hgetall(key))
        return {name.decode(): value for name, value in rows.items()}


def label(stream: str) -> str:
    """A stream's name as a metric label: bounded, whatever the clients are called."""
    return "qig:answers" if stream.startswith("qig:answers:") else stream


def retry(retries: int = RETRIES) -> Retry:
    """How a connection meets an outage: soon, then patiently, never all at once."""
    return Retry(ExponentialWithJitterBackoff(cap=BACKOFF_MAX_S, base=BACKOFF_FIRST_S), retries)


def connect(url: str) -> Redis:
    """A client of our own beside FastStream's: a publish must end in bounded time, a consumer's read must not."""
    return Redis.from_url(url, retry=retry(), retry_on_error=list(AWAY), socket_timeout=SOCKET_TIMEOUT_S)


async def wait_until_there(url: str) -> None:
    """Return when the broker answers; it may be long. Raises Rejected("broker_refused") when it answers "not you"."""
    async with Redis.from_url(url, retry=retry(0), socket_timeout=SOCKET_TIMEOUT_S) as client:
        waits = stamina.retry_context(
            on=_worth_waiting, attempts=None, timeout=None, wait_initial=BACKOFF_FIRST_S, wait_max=_WAIT_LOG_MAX_S
        )
        async for attempt in waits:
            with attempt:
                try:
                    await client.ping()
                except AuthenticationError as error:
                    message = f"{redacted(url)} refuses us: {error}; check user and password in QIG_BROKER_URL"
                    raise Rejected("broker_refused", message) from None
                except AWAY as error:
                    log.warning("no broker at %s yet (%s); trying again", redacted(url), error)
                    raise


def _worth_waiting(error: Exception) -> bool:
    return isinstance(error, AWAY)
