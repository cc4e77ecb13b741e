"""Connections to the broker: how they meet an outage, a silent peer, a wrong password and a cancellation.

Two kinds of patience: a command of ours ends in bounded time (its caller decides what then), and a consumer's read
retries for ever (there is nothing else it could do).
"""

import logging
from collections.abc import Iterable
from typing import Any, Final

import stamina
from faststream.redis import RedisBroker
from redis.asyncio import Redis
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import AuthenticationError, ConnectionError, ResponseError, TimeoutError  # noqa: A004 -- redis-py's

from common.errors import Rejected
from common.runtime.settings import redacted

log = logging.getLogger(__name__)

BACKOFF_FIRST_S: Final = 0.05
BACKOFF_MAX_S: Final = 1.0
RETRIES: Final = 10  # a command rides out about 7 s of outage; then its caller decides
SOCKET_TIMEOUT_S: Final = 5.0  # above every blocking read of ours: silence for this long is a dead peer
AWAY: Final = (ConnectionError, TimeoutError)
CANNOT_WRITE: Final = "MISCONF"  # so begins what it answers to anything, even a PING, while its disk is full
WAIT_MAX_S: Final = 5.0  # between two looks for a broker that is not there yet
GRACEFUL_S: Final = 20.0  # within the 30 s that orchestrators grant between SIGTERM and SIGKILL


class _Cancellable(AbstractConnection):
    """redis-py sends inside asyncio.wait_for, and that of Python 3.11 swallows a cancellation that arrives together
    with the result (python/cpython#86296): one task in ten could not be stopped. Without a timeout it does not use
    wait_for; a peer that takes no bytes gives no answer either, and the timeout of reading the answer stays.
    """

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:  # noqa: FBT001, FBT002 -- redis-py's signature
        limit, self.socket_timeout = self.socket_timeout, None
        try:
            await super().send_packed_command(command, check_health)
        finally:
            self.socket_timeout = limit


class _Tcp(_Cancellable, Connection):
    pass


class _Tls(_Cancellable, SSLConnection):
    pass


class _Unix(_Cancellable, UnixDomainSocketConnection):
    pass


_KINDS: Final[dict[type[AbstractConnection], type[AbstractConnection]]] = {
    Connection: _Tcp,
    SSLConnection: _Tls,
    UnixDomainSocketConnection: _Unix,
}


def retry(retries: int = RETRIES) -> Retry:
    """How a connection meets an outage: soon, then patiently, never all at once."""
    return Retry(ExponentialWithJitterBackoff(cap=BACKOFF_MAX_S, base=BACKOFF_FIRST_S), retries)


def connect(url: str, retries: int = RETRIES) -> Redis:
    """A client for our own commands, which end in bounded time."""
    return Redis.from_pool(ConnectionPool(**_options(url, retries)))


def faststream_broker(url: str, graceful_s: float = GRACEFUL_S) -> RedisBroker:
    """FastStream's broker, set so that it reconnects by itself and stays out of the way.

    Retries without end: an error that reaches its loop costs a fixed pause of 5 s. apply_types off: bodies are decoded
    by the consumer, and a reason for a refusal belongs in a dead letter, not in a framework's log.
    """
    return RedisBroker(
        url,
        **_options(url, -1),
        logger=logging.getLogger("faststream.consumer"),
        log_level=logging.DEBUG,  # the level of its line a message, not a threshold
        apply_types=False,
        graceful_timeout=graceful_s,
    )


async def greet(redis: Redis, url: str) -> None:
    """Return when the broker at `url` answers, and would work with us.

    Raises Rejected("broker_refused") when it answers "not you", redis-py's errors in AWAY when it does not answer, or
    cannot write now.
    """
    try:
        await redis.ping()
    except AuthenticationError as error:
        message = f"{redacted(url)} refuses us: {error}; check user and password in QIG_BROKER_URL"
        raise Rejected("broker_refused", message) from None
    except ResponseError as error:
        if str(error).startswith(CANNOT_WRITE):
            raise ConnectionError(str(error)) from None
        # Protected mode, a right that is missing: it will say so again.
        message = f"{redacted(url)} refuses us: {error}; see QIG_BROKER_URL and the broker's own settings"
        raise Rejected("broker_refused", message) from None


async def wait_until_there(url: str) -> None:
    """Return when the broker answers; it may be long. Raises Rejected("broker_refused") when it answers "not you"."""
    async with connect(url, retries=0) as client:
        waits = stamina.retry_context(
            on=_worth_waiting, attempts=None, timeout=None, wait_initial=BACKOFF_FIRST_S, wait_max=WAIT_MAX_S
        )
        async for attempt in waits:
            with attempt:
                try:
                    await greet(client, url)
                except AWAY as error:
                    log.warning("no broker at %s yet (%s); trying again", redacted(url), error)
                    raise


def _options(url: str, retries: int) -> dict[str, Any]:
    options: dict[str, Any] = dict(parse_url(url))
    kind = options.get("connection_class", Connection)
    patience = {"retry": retry(retries), "retry_on_error": list(AWAY), "socket_timeout": SOCKET_TIMEOUT_S}
    return options | patience | {"connection_class": _KINDS[kind]}


def _worth_waiting(error: Exception) -> bool:
    return isinstance(error, AWAY)
