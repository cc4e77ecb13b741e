"""How often a client may ask: one sliding window a client, shared by all edges through the broker."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Any, Final

from limits import RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.asyncio import Redis
from redis.exceptions import RedisError

from common.errors import said
from common.runtime import streams
from common.runtime.connection import connect

log = logging.getLogger(__name__)

LOOK_TIMEOUT_S: Final = 0.25  # what a request waits for its allowance, at most


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a client may still ask. limit: requests a minute; reset_s: seconds until the window is free again."""

    allowed: bool
    limit: int
    remaining: int
    reset_s: float


class Rates:
    """Counts requests of clients. per_minute: for each."""

    def __init__(self, broker_url: str, per_minute: int) -> None:
        # Its own connections: the service's wait out an outage, and a request cannot wait that long for permission.
        self._redis = connect(broker_url, retries=0)
        self._window = SlidingWindowCounterRateLimiter(_Storage(self._redis))
        self._item = RateLimitItemPerMinute(per_minute)
        self._away = False

    async def hit(self, client: str, now_s: float) -> Allowance | None:
        """Counts one request; None when it cannot be counted. now_s: seconds since 1970."""
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                allowed = await self._window.hit(self._item, client)
                stats = await self._window.get_window_stats(self._item, client)
        except (RedisError, OSError, TimeoutError) as error:
            # A limit protects from too much use, and is no lock: an edge has bundle and kernels of its own, and goes on
            # answering while the broker is away. Its schedule is still bounded, and so is what one client gets of it.
            if not self._away:
                log.warning("requests are not counted: the broker is away (%s)", said(error))
            self._away = True
            return None
        self._away = False
        return Allowance(allowed, self._item.amount, stats.remaining, max(0.0, stats.reset_time - now_s))

    async def close(self) -> None:
        """Gives the connections back."""
        await self._redis.aclose()


class _Storage(RedisStorage):
    """Of a client that is there already, whatever kind of broker it is one of."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        super().__init__("async+redis://", implementation="redispy", key_prefix=streams.RATES)

    def configure_bridge(self) -> None:
        """Use that client, and make none."""
        bridge: Any = self.bridge  # declared as what it has in common with the bridges of other libraries
        bridge.connection_getter = lambda _: self._redis
