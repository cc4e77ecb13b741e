"""redis-py's client of a Redis Cluster, made to meet an outage and a failover as its client of one server does.

redis-py 8.1.0 is worked around in these places:
    execute_command   tries again at once, without a pause, and with Retry(-1) not even once; a pipeline not at all
    initialize        "no node answers" is no RedisError, and entering the client as a context asks the network
    _determine_slot   a server is asked where an XREAD's key stands, twice for each; when that one is gone, for ever
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Self, TypeVar

from redis.asyncio.cluster import ClusterNode, ClusterPipeline, RedisCluster
from redis.asyncio.connection import Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,  # noqa: A004 -- redis-py's
    RedisClusterException,
    RedisError,
    ResponseError,
)

T = TypeVar("T")


class Cluster(RedisCluster):
    """A client of the whole cluster. kind: of its connections; retry: its patience; passing: with which errors."""

    def __init__(
        self,
        nodes: Sequence[tuple[str, int]],
        *,
        kind: type[Connection],
        retry: Retry,
        passing: tuple[type[RedisError], ...],
        **options: Any,
    ) -> None:
        self.passing = passing
        self._patience = retry
        self._patience.update_supported_errors(passing)
        startup = [ClusterNode(host, port) for host, port in nodes]
        super().__init__(startup_nodes=startup, retry=Retry(NoBackoff(), 0), **options)
        self.connection_kwargs["connection_class"] = kind
        for node in self.startup_nodes:
            node.connection_class = kind

    async def __aenter__(self) -> Self:
        """As with a `Redis`, the first command meets the network."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes every connection."""
        await self.aclose()

    async def initialize(self, *args: Any, **kwargs: Any) -> Self:
        """Ask who serves what, unless that is known. Raises ConnectionError; ResponseError where it is no cluster."""
        try:
            await super().initialize(*args, **kwargs)
        except RedisClusterException as error:
            cause = error.__cause__
            if isinstance(cause, AuthenticationError):
                raise cause from None
            if isinstance(cause, RedisClusterException):
                raise ResponseError(f"{cause}: {cause.__context__}") from None  # it says so of a right that lacks, too
            raise ConnectionError(str(error)) from error
        return self

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """One command, through outages and failovers as long as its patience lasts."""
        run = super().execute_command
        return await self.patiently(lambda: run(*args, **kwargs))

    def pipeline(self, transaction: Any = None, shard_hint: Any = None) -> "Pipeline":  # noqa: ARG002 -- redis-py's signature
        """Commands for one round trip; each must say which key it is about."""
        return Pipeline(self)  # type: ignore[abstract]  # an attribute that redis-py's own does not set either

    async def patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do `work`, again and again while what it meets will pass; who serves what is asked anew before each."""

        async def once() -> T:
            await self.initialize()
            return await work()

        async def failed(_: Exception) -> None:
            self._initialize = True

        return await self._patience.call_with_retry(once, failed)

    async def _determine_slot(self, command: str, *args: Any) -> int:
        if command in ("XREAD", "XREADGROUP"):
            return self.keyslot(args[args.index(b"STREAMS") + 1])
        return await super()._determine_slot(command, *args)


class Pipeline(ClusterPipeline):
    """A round trip to each node that its commands concern. Where one met an outage, all are sent again."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._cluster = cluster
        self._asked: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def execute_command(self, *args: Any, **kwargs: Any) -> Self:
        """Put one more command in."""
        self._asked.append((args, kwargs))
        return self

    async def execute(self, raise_on_error: bool = True, allow_redirections: bool = True) -> list[Any]:  # noqa: FBT001, FBT002 -- redis-py's signature
        """What each command answered, in order."""
        asked, self._asked = self._asked, []

        async def trip() -> list[Any]:
            pipeline = RedisCluster.pipeline(self._cluster)
            for args, kwargs in asked:
                pipeline.execute_command(*args, **kwargs)
            found = await pipeline.execute(raise_on_error=False, allow_redirections=allow_redirections)
            errors = [answer for answer in found if isinstance(answer, Exception)]
            wrong = next(
                (error for error in errors if raise_on_error or isinstance(error, self._cluster.passing)), None
            )
            if wrong is not None:
                raise wrong
            return found

        return await self._cluster.patiently(trip)
