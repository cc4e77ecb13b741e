"""Connections to the broker: how they meet an outage, a silent peer, a failover, a wrong password and a cancellation.

Two kinds of patience: a command of ours that nobody answers ends in bounded time (its caller decides what then), and a
consumer's read retries for ever (there is nothing else it could do).

A server, the master that sentinels name and a cluster are one kind of client: address.py says which it is,
cluster.py and sentinels.py what redis-py's clients of several servers need besides.
"""

import logging
import os
import random
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast

import stamina
from faststream.redis import RedisBroker
from faststream.redis.configs.state import ConnectionState
from redis._parsers import _AsyncHiredisParser
from redis.asyncio import Redis
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection
from redis.backoff import AbstractBackoff
from redis.exceptions import (
    AuthenticationError,
    ClusterError,
    ConnectionError,  # noqa: A004 -- redis-py's
    RedisError,
    ResponseError,
    TimeoutError,  # noqa: A004
)

from common.errors import Rejected, said
from common.runtime import address
from common.runtime.address import Address
from common.runtime.cluster import Cluster
from common.runtime.sentinels import MasterPool, Sentinels
from common.runtime.settings import redacted

log = logging.getLogger(__name__)

BACKOFF_FIRST_S: Final = 0.05
BACKOFF_GROWTH: Final = 1.3  # chosen: the broker is looked for again before it was away for half as long again
BACKOFF_MAX_S: Final = 1.0
BACKOFF_LEAST: Final = 0.75  # of a pause; the rest is drawn
RETRIES: Final = 16  # a command rides out about 7 s of outage; then its caller decides
SOCKET_TIMEOUT_S: Final = 5.0  # above every blocking read of ours: without a byte for this long it is a dead peer
CONNECT_TIMEOUT_S: Final = 2.0  # the kernel's tries grow rarer (1, 3, 7 s): after a cut a new one connects sooner
AWAY: Final = (ConnectionError, TimeoutError, ClusterError)  # the last: nobody serves the slot, or each says another
WAIT_MAX_S: Final = 5.0  # between two looks for a broker that is not there yet
_TLS_FILES: Final = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
GRACEFUL_S: Final = 20.0  # within the 30 s that orchestrators grant between SIGTERM and SIGKILL


# What was sent and not acknowledged for this long ends the connection, where the kernel knows the option: a blob that
# nobody takes would be waited on for a quarter of an hour. An idle connection is asked after 30 s.
_TCP: Final = {
    "TCP_KEEPIDLE": 30,
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": int(SOCKET_TIMEOUT_S * 1000),
}
_TCP_OPTIONS: Final = {getattr(socket, name): value for name, value in _TCP.items() if hasattr(socket, name)}


class _Parser(_AsyncHiredisParser):
    """Each piece of an answer is waited for anew: redis-py's timeout is of the whole, and an answer that a thin link
    carries for longer would be given up, asked for again, and given up again.
    """

    def on_connect(self, connection: Any) -> None:
        super().on_connect(connection)  # type: ignore[no-untyped-call]
        self._connection = connection

    async def read_from_socket(self) -> Any:
        found = await super().read_from_socket()  # type: ignore[no-untyped-call]
        self._connection.update_current_socket_timeout(-1)  # the connection's own
        return found


class _Ours(AbstractConnection):
    """A connection that can be cancelled, and does not tell the server what library it is of.

    The name of a library, redis-py's or FastStream's, is of no use to the server, and telling it would need a right
    (CLIENT SETINFO) that Redis 7.0 does not know.

    redis-py sends inside asyncio.wait_for, and that of Python 3.11 swallows a cancellation that arrives together
    with the result (python/cpython#86296): one task in ten could not be stopped. Without a timeout it does not use
    wait_for; a peer that takes no bytes gives no answer either, and the timeout of reading the answer stays.

    Nor does redis-py, sending on a connection that broke, ask the sentinels again where the master is: it is connected
    first, with the timeout of a greeting, and tried once, since whoever sends tries again.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options | {"driver_info": None, "parser_class": _Parser})

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:  # noqa: FBT001, FBT002 -- redis-py's signature
        if not self.is_connected:
            await self._connect_again()
        limit, self.socket_timeout = self.socket_timeout, None
        try:
            await super().send_packed_command(command, check_health)
        finally:
            self.socket_timeout = limit

    async def _connect_again(self) -> None:
        await self.connect_check_health(check_health=False, retry_socket_connect=False)


class _Tcp(_Ours, Connection):
    pass


class _Tls(_Ours, SSLConnection):
    pass


class _Unix(_Ours, UnixDomainSocketConnection):
    pass


class _Mastered(_Ours, SentinelManagedConnection):
    async def _connect_again(self) -> None:
        await self._connect_retry()  # type: ignore[no-untyped-call]


class _MasteredTls(_Mastered, SentinelManagedSSLConnection):
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


def passes(error: RedisError) -> bool:
    """Whether it is gone after a while: the broker is away, its disk is full (it refuses even a PING then), or it
    writes nothing that too few replicas would have.
    """
    return isinstance(error, AWAY) or str(error).startswith(("MISCONF", "NOREPLICAS"))


def connect(url: str, retries: int = RETRIES) -> Redis:
    """A client for our own commands, which end in bounded time. Raises ValueError when `url` is no address,
    Rejected("bad_setting") when it names a file that is not there.
    """
    where = address.parse(url)
    match where.kind:
        case "server":
            return Redis.from_pool(_pool(where.options, retries))
        case "sentinel":
            return _of_master(where, retries)
        case "cluster":
            options, kind = _options(where.options)
            options |= {"ssl": True} if kind is _Tls else {}
            # It knows the commands of a Redis, and is one to whoever uses it; only scripts.py asks for its slots.
            return cast("Redis", Cluster(where.nodes, kind=kind, retry=retry(retries), passing=AWAY, **options))


class _Given(ConnectionState[Redis]):
    """What FastStream's broker connects by: a client of ours, whatever kind of broker that is to."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    async def connect(self) -> Redis:
        if self._client is None:
            self._client, self._connected = connect(self._url, -1), True
        return self._client


class _FastStreamBroker(RedisBroker):
    """FastStream has brokers for sentinels and clusters, whose clients do not outlive a failover (cluster.py)."""

    def __init__(self, url: str, **options: Any) -> None:
        self._url = url
        super().__init__(**options)

    def _make_connection_state(self, *_: object) -> ConnectionState[Any]:
        return _Given(self._url)


def faststream_broker(url: str, graceful_s: float = GRACEFUL_S) -> RedisBroker:
    """FastStream's broker, set so that it reconnects by itself and stays out of the way.

    Retries without end: an error that reaches its loop costs a fixed pause of 5 s (docs/upstream/error_pause.py).
    apply_types off: bodies are decoded by the consumer, and a reason for a refusal belongs in a dead letter, not in a
    framework's log.
    """
    return _FastStreamBroker(
        url,
        logger=logging.getLogger("faststream.consumer"),
        log_level=logging.DEBUG,  # the level of its line a message, not a threshold
        apply_types=False,
        graceful_timeout=graceful_s,
    )


async def greet(redis: Redis, url: str) -> None:
    """Return when the broker at `url` answers, and would work with us.

    Raises Rejected("broker_refused") when it answers "not you", or it or we do not believe the other's certificate;
    redis-py's errors in AWAY when it does not answer, or cannot write now.
    """
    try:
        await redis.ping()
    except AuthenticationError as error:
        message = f"{redacted(url)} refuses us: {error}; check user and password in QIG_BROKER_URL"
        raise Rejected("broker_refused", message) from None
    except AWAY as error:
        if (why := _tls_problem(error)) is None:
            raise
        message = f"no TLS with {redacted(url)}: {why}; check the certificates (docs/broker.md, TLS)"
        raise Rejected("broker_refused", message) from None
    except ResponseError as error:
        if passes(error):
            raise ConnectionError(str(error)) from None
        # Protected mode, a right that is missing: it will say so again.
        message = f"{redacted(url)} refuses us: {error}; see QIG_BROKER_URL and the broker's own settings"
        raise Rejected("broker_refused", message) from None


async def wait_until_there(url: str) -> None:
    """Return when the broker answers; it may be long. Raises Rejected("broker_refused") when it answers "not you"."""
    hint = ", which by TLS may mean that it wants a certificate of ours" if url.startswith("rediss") else ""
    async with connect(url, retries=0) as client:
        waits = stamina.retry_context(
            on=_worth_waiting, attempts=None, timeout=None, wait_initial=BACKOFF_FIRST_S, wait_max=WAIT_MAX_S
        )
        async for attempt in waits:
            with attempt:
                try:
                    await greet(client, url)
                except AWAY as error:
                    log.warning("no broker at %s yet (%s%s); trying again", redacted(url), error, hint)
                    raise


def trouble(error: BaseException) -> str:
    """What keeps us from the broker, in words: it is away, or it is there and does not do what we ask."""
    answered = isinstance(error, ResponseError) and not isinstance(error, AWAY)
    refused = answered or isinstance(error, AuthenticationError) or _tls_problem(error) is not None
    return f"the broker {'refuses us' if refused else 'is away'}: {said(error)}"


def _tls_problem(error: BaseException | None) -> str | None:
    """Why there is no TLS, as the library below says it; None where the other side only went away."""
    while error is not None:
        if isinstance(error, ssl.SSLError) and not isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
            return getattr(error, "verify_message", None) or str(error.reason or error)
        error = error.__cause__ or error.__context__
    return None


def _pool(options: Mapping[str, Any], retries: int) -> ConnectionPool:
    given, kind = _options(options)
    return ConnectionPool(**given, **_patience(retries), connection_class=kind)


def _of_master(where: Address, retries: int) -> Redis:
    options, kind = _options(where.options)
    # Sentinel would make plain clients of its own, whose patience adds to that of whoever asks them.
    sentinels = Sentinels()
    own = {name: value for name, value in where.options.items() if name not in ("username", "password", "db")}
    sentinels.sentinels = [
        Redis.from_pool(_pool({**own, **where.sentinel_options, "host": host, "port": port}, 0))
        for host, port in where.nodes
    ]
    kind = _MasteredTls if kind is _Tls else _Mastered
    pool: Any = MasterPool
    return Redis.from_pool(pool(where.master, sentinels, **options, **_patience(retries), connection_class=kind))


def _patience(retries: int) -> dict[str, Any]:
    return {"retry": retry(retries), "retry_on_error": list(AWAY)}


def _options(given: Mapping[str, Any]) -> tuple[dict[str, Any], type[Any]]:
    """Of a connection by an address's options, and its class. Raises Rejected("bad_setting")."""
    for name in _TLS_FILES & given.keys():
        if not os.access(given[name], os.R_OK):
            message = f"{name}={given[name]} in QIG_BROKER_URL: there is no file that we can read"
            raise Rejected("bad_setting", message)
    options = {**given, "socket_timeout": SOCKET_TIMEOUT_S}
    kind = _KINDS[options.pop("connection_class", Connection)]
    if kind is not _Unix:
        options |= {"socket_connect_timeout": CONNECT_TIMEOUT_S, "socket_keepalive_options": _TCP_OPTIONS}
    return options, kind


def _worth_waiting(error: Exception) -> bool:
    return isinstance(error, AWAY)
