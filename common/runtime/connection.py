"""Connections to the broker: how they meet an outage, a silent peer, a wrong password and a cancellation.

Two kinds of patience: a command of ours ends in bounded time (its caller decides what then), and a consumer's read
retries for ever (there is nothing else it could do).
"""

import logging
import os
import random
import ssl
from collections.abc import Callable, Iterable
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
from redis.backoff import AbstractBackoff
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,  # noqa: A004 -- redis-py's
    ResponseError,
    TimeoutError,  # noqa: A004 -- redis-py's
)

from common.errors import Rejected, said
from common.runtime.settings import redacted

log = logging.getLogger(__name__)

BACKOFF_FIRST_S: Final = 0.05
BACKOFF_GROWTH: Final = 1.3  # chosen: the broker is looked for again before it was away for half as long again
BACKOFF_MAX_S: Final = 1.0
BACKOFF_LEAST: Final = 0.75  # of a pause; the rest is drawn
RETRIES: Final = 16  # a command rides out about 7 s of outage; then its caller decides
SOCKET_TIMEOUT_S: Final = 5.0  # above every blocking read of ours: silence for this long is a dead peer
AWAY: Final = (ConnectionError, TimeoutError)
WAIT_MAX_S: Final = 5.0  # between two looks for a broker that is not there yet
_TLS_FILES: Final = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
GRACEFUL_S: Final = 20.0  # within the 30 s that orchestrators grant between SIGTERM and SIGKILL


class _Ours(AbstractConnection):
    """A connection that can be cancelled, and does not tell the server what library it is of.

    The name of a library, redis-py's or FastStream's, is of no use to the server, and telling it would need a right
    (CLIENT SETINFO) that Redis 7.0 does not know.

    redis-py sends inside asyncio.wait_for, and that of Python 3.11 swallows a cancellation that arrives together
    with the result (python/cpython#86296): one task in ten could not be stopped. Without a timeout it does not use
    wait_for; a peer that takes no bytes gives no answer either, and the timeout of reading the answer stays.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options | {"driver_info": None})

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:  # noqa: FBT001, FBT002 -- redis-py's signature
        limit, self.socket_timeout = self.socket_timeout, None
        try:
            await super().send_packed_command(command, check_health)
        finally:
            self.socket_timeout = limit


class _Tcp(_Ours, Connection):
    pass


class _Tls(_Ours, SSLConnection):
    pass


class _Unix(_Ours, UnixDomainSocketConnection):
    pass


_KINDS: Final[dict[type[AbstractConnection], type[AbstractConnection]]] = {
    Connection: _Tcp,
    SSLConnection: _Tls,
    UnixDomainSocketConnection: _Unix,
}


def pause_s(failures: int, chance: float) -> float:
    """The pause after the n-th failure in a row, n from 1. chance: drawn from 0..1.

    >>> [round(pause_s(failures, 1.0), 3) for failures in (1, 2, 3, 12, 100)]
    [0.05, 0.065, 0.085, 0.896, 1.0]
    """
    grown = BACKOFF_FIRST_S * BACKOFF_GROWTH ** min(failures - 1, 100)
    return (BACKOFF_LEAST + (1.0 - BACKOFF_LEAST) * chance) * min(BACKOFF_MAX_S, grown)


class _Patience(AbstractBackoff):
    """redis-py's own grow by two, so that a broker that was away for a second is missed for another; and at their cap
    they draw no more, so that all who lost it together come back together, for ever.
    """

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance

    def compute(self, failures: int) -> float:
        return pause_s(failures, self._chance())


def retry(retries: int = RETRIES) -> Retry:
    """How a connection meets an outage: soon, then patiently, never all at once."""
    return Retry(_Patience(random.random), retries)


def connect(url: str, retries: int = RETRIES) -> Redis:
    """A client for our own commands, which end in bounded time."""
    return Redis.from_pool(ConnectionPool(**_options(url, retries)))


def faststream_broker(url: str, graceful_s: float = GRACEFUL_S) -> RedisBroker:
    """FastStream's broker, set so that it reconnects by itself and stays out of the way.

    Retries without end: an error that reaches its loop costs a fixed pause of 5 s (docs/upstream/error_pause.py).
    apply_types off: bodies are decoded by the consumer, and a reason for a refusal belongs in a dead letter, not in a
    framework's log.
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

    Raises Rejected("broker_refused") when it answers "not you", or it or we do not believe the other's certificate;
    redis-py's errors in AWAY when it does not answer.
    """
    try:
        await redis.ping()
    except AuthenticationError as error:
        message = f"{redacted(url)} refuses us: {error}; check user and password in QIG_BROKER_URL"
        raise Rejected("broker_refused", message) from None
    except ConnectionError as error:
        if (why := _tls_problem(error)) is None:
            raise
        message = f"no TLS with {redacted(url)}: {why}; check the certificates (docs/broker.md, TLS)"
        raise Rejected("broker_refused", message) from None
    except ResponseError as error:  # protected mode, a right that is missing: it will say so again
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
                    hint = (
                        ", which by TLS may mean that it wants a certificate of ours"
                        if url.startswith("rediss:")
                        else ""
                    )
                    log.warning("no broker at %s yet (%s%s); trying again", redacted(url), error, hint)
                    raise


def trouble(error: BaseException) -> str:
    """What keeps us from the broker, in words: it is away, or it is there and does not do what we ask."""
    refused = isinstance(error, (AuthenticationError, ResponseError)) or _tls_problem(error) is not None
    return f"the broker {'refuses us' if refused else 'is away'}: {said(error)}"


def _tls_problem(error: BaseException | None) -> str | None:
    """Why there is no TLS, as the library below says it; None where the other side only went away."""
    while error is not None:
        if isinstance(error, ssl.SSLError) and not isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
            return getattr(error, "verify_message", None) or str(error.reason or error)
        error = error.__cause__ or error.__context__
    return None


def _options(url: str, retries: int) -> dict[str, Any]:
    options: dict[str, Any] = dict(parse_url(url))
    for name in _TLS_FILES & options.keys():
        if not os.access(options[name], os.R_OK):
            raise Rejected(
                "bad_setting", f"{name}={options[name]} in QIG_BROKER_URL: there is no file that we can read"
            )
    kind = options.get("connection_class", Connection)
    patience = {"retry": retry(retries), "retry_on_error": list(AWAY), "socket_timeout": SOCKET_TIMEOUT_S}
    return options | patience | {"connection_class": _KINDS[kind]}


def _worth_waiting(error: Exception) -> bool:
    return isinstance(error, AWAY)
