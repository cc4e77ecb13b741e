"""A service process: everything it does runs in one task group, and it ends as a whole.

    serve ─ wait for the broker ─ build(Broker) ─▶ Wiring ─┬─ HTTP: /healthz /readyz /metrics, and an app of its own
                                                           ├─ a Subscription and a relay for each consumer
                                                           ├─ followers
                                                           └─ ticks
    SIGTERM, SIGINT ─▶ stop reading ─▶ finish what is in flight ─▶ hand back the rest ─▶ carry the outbox ─▶ end
                                       └ for FINISH_S: what is left then is as if killed, and the rest in good order

A bug that escapes its part ends the process with a traceback and a code that is not 0: whoever started it starts it
again (restart: unless-stopped), and everything that was pending is claimed. An error we know ends it with one line.
"""

import asyncio
import gc
import logging
import os
import secrets
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeVar

from faststream.asgi.types import ASGIApp
from redis.asyncio import Redis
from redis.exceptions import RedisError

from common.errors import Corrupt, QigError, Unavailable
from common.runtime import http, lanes, logs, metrics, scripts, settings, tracing
from common.runtime.broker import Broker
from common.runtime.connection import AWAY, BACKOFF_MAX_S, connect, faststream_broker, trouble, wait_until_there
from common.runtime.consumer import Consumer, Intake
from common.runtime.follower import Follower, follow
from common.runtime.health import Health
from common.runtime.relay import drain, run_relay
from common.runtime.settings import CommonSettings
from common.runtime.subscription import CHECK_EVERY_S, Subscription

log = logging.getLogger(__name__)
S = TypeVar("S", bound=CommonSettings)

EXIT_REFUSED: Final = 2  # a setting, a port, a key, a directory: somebody must change something
EXIT_CORRUPT: Final = 70
FINISH_S: Final = 20.0  # of the 30 s between SIGTERM and SIGKILL: a command to a silent broker has 90 s of patience
DRAIN_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Tick:
    """A job that runs, then pauses for `every_s` seconds, and so on; it never overlaps itself.

    What it raises is logged and shown in readiness, and it runs again: where something was not there after a second,
    else after its pause, which is a second at least. One run must be all or nothing (Broker.commit).
    """

    name: str
    every_s: float
    run: Callable[[], Awaitable[None]]


def _nothing_missing() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Wiring:
    """What a service consists of, made by its factory from a Broker.

    ready: None, or why it cannot work yet (shown by /readyz). app: an ASGI app for every path but the three that all
    services have. relays: streams whose outbox to carry besides those consumed. stopping: the first act of a stop,
    before what is in flight is waited for: work that takes long and can go on later ends itself. stop: the last act,
    after all work has ended.
    """

    consumers: Sequence[Consumer[Any]] = ()
    followers: Sequence[Follower] = ()
    ticks: Sequence[Tick] = ()
    ready: Callable[[], str | None] = _nothing_missing
    app: ASGIApp = http.NOTHING
    relays: Sequence[str] = ()
    stopping: Callable[[], None] | None = None
    stop: Callable[[], Awaitable[None]] | None = None


def run(service: str, model: type[S], build: Callable[[S, Broker], Awaitable[Wiring]]) -> NoReturn:
    """The whole of a service's main: settings from the environment, logs, serve, and the exit code.

    0 after a stop in good order; 2 with one line when something must be changed first; 70 with one line for bytes that
    are not what their digest promised; 1 with a traceback for a bug.
    """
    try:
        loaded = settings.load(model)
        logs.configure(service, loaded.node, loaded.log_level)
        tracing.configure(service, loaded.node)
        gc.freeze()  # what is imported stays: a collection looks at what came since, in a third of the time
        asyncio.run(serve(loaded, service=service, build=lambda broker: build(loaded, broker)))
    except QigError as error:
        sys.stderr.write(f"qig {service}: {error}\n")
        sys.exit(EXIT_CORRUPT if isinstance(error, Corrupt) else EXIT_REFUSED)
    finally:
        tracing.end()
    sys.exit(0)


async def serve(
    loaded: CommonSettings,
    *,
    service: str,
    build: Callable[[Broker], Awaitable[Wiring]],
    check_every_s: float = CHECK_EVERY_S,
    stop: asyncio.Event | None = None,
    on_start: Callable[[str], None] | None = None,
) -> None:
    """Run a service until SIGTERM or SIGINT (or `stop`), then end it in good order.

    build: called once the broker answers, and again when that goes away meanwhile. on_start: told the base URL as soon
    as HTTP listens. Raises the QigErrors of a failed start: "port_taken", "broker_refused", and what `build` raises.
    """
    listener = http.bind(loaded.http_host, loaded.http_port)
    url = http.base_url(loaded.http_host, listener.getsockname()[1])
    process = _Process(loaded, service, build, check_every_s, stop or asyncio.Event())
    app = http.Application(http.routes(process.reasons, {"service": service, "node": loaded.node}))
    server = http.server(app)
    try:
        with _signals(process.stopping):
            async with asyncio.TaskGroup() as group:
                group.create_task(server.serve(sockets=[listener]), name="http")
                log.info("listening on %s", url)
                if on_start:
                    on_start(url)
                try:
                    await process.work(app)
                finally:
                    server.should_exit = True
    except BaseExceptionGroup as errors:
        known, bugs = errors.split(QigError)
        if known is None or bugs is not None:
            raise
        raise _first(known) from None
    finally:
        listener.close()
    log.info("stopped")


class _Process:
    """One service while it runs."""

    def __init__(
        self,
        loaded: CommonSettings,
        service: str,
        build: Callable[[Broker], Awaitable[Wiring]],
        check_every_s: float,
        stopping: asyncio.Event,
    ) -> None:
        self.stopping = stopping
        self._loaded = loaded
        self._service = service
        self._build = build
        self._check_every_s = check_every_s
        self._health = Health()
        self._broker_there = False
        self._wiring: Wiring | None = None

    def reasons(self) -> dict[str, str]:
        """Why the service is not ready; empty when it is."""
        starting = "starting: is being built" if self._broker_there else "starting: waits for the broker"
        own = starting if self._wiring is None else self._wiring.ready()
        if self.stopping.is_set():
            own = "stopping"
        return self._health.reasons() | ({self._service: own} if own else {})

    async def work(self, app: http.Application) -> None:
        """Wait for the broker, build, run, stop."""
        if not await self._unless_stopped(wait_until_there(self._loaded.broker_url)):
            return
        async with connect(self._loaded.broker_url) as redis, AsyncExitStack() as last:
            last.push_async_callback(lanes.end, redis)
            if (built := await self._begin(redis)) is None:
                return
            wiring, direct = built
            app.rest = wiring.app
            await self._run(redis, wiring, app, direct=direct)
            if wiring.stop:
                await wiring.stop()

    async def _begin(self, redis: Redis) -> tuple[Wiring, bool] | None:
        """The parts, and whether what their handlers send is published directly; None when it is stopped before. The
        broker has answered once: it may be away again.
        """
        while not self.stopping.is_set():
            try:
                asking = asyncio.ensure_future(scripts.has_slots(redis))
                if await self._unless_stopped(asking):
                    self._broker_there = True
                    return await self._build(Broker(redis)), not asking.result()
            except AWAY as error:
                self._broker_there = False
                log.warning("cannot start yet, %s; trying again", trouble(error))
                await self._unless_stopped(asyncio.sleep(BACKOFF_MAX_S))
        return None

    async def _run(self, redis: Redis, wiring: Wiring, app: http.Application, *, direct: bool) -> None:
        # Of this life: a restart is another consumer.
        name = f"{self._loaded.node}.{self._loaded.replica or os.getpid()}.{secrets.token_hex(4)}"
        async with AsyncExitStack() as last:
            faststream = faststream_broker(self._loaded.broker_url)
            await faststream.connect()
            last.push_async_callback(faststream.stop)
            reading = [
                Subscription(
                    faststream, redis, Intake(redis, consumer, direct=direct), name, check_every_s=self._check_every_s
                )
                for consumer in wiring.consumers
            ]
            for each in reading:
                last.push_async_callback(each.abandon)
            await self._run_parts(redis, wiring, app, reading)

    async def _run_parts(
        self, redis: Redis, wiring: Wiring, app: http.Application, reading: Sequence[Subscription[Any]]
    ) -> None:
        boxes = dict.fromkeys([*(consumer.stream for consumer in wiring.consumers), *wiring.relays])
        async with asyncio.TaskGroup() as group:
            ticks = [group.create_task(self._tick(tick), name=f"tick {tick.name}") for tick in wiring.ticks]
            endless = [
                *(group.create_task(half.watch(self._health)) for half in reading),
                *(group.create_task(run_relay(redis, box, self._health)) for box in boxes),
                *(group.create_task(follow(redis, follower, self._health)) for follower in wiring.followers),
            ]
            await asyncio.sleep(0)  # every part has begun, and is expected to report: from here on, readiness is theirs
            self._wiring = wiring
            await self.stopping.wait()
            app.rest = http.AWAY
            log.info("stopping: finishing what is in flight")
            if wiring.stopping:
                wiring.stopping()
            try:
                async with asyncio.timeout(FINISH_S):
                    await self._finish(reading, ticks)
            except TimeoutError:
                log.warning("what is not finished after %.0f s is left: it comes again, or runs again", FINISH_S)
            for task in (*endless, *ticks):
                task.cancel()
        await self._last_round(redis, boxes)

    async def _finish(self, reading: Sequence[Subscription[Any]], ticks: Sequence["asyncio.Task[None]"]) -> None:
        await asyncio.gather(*(half.stop() for half in reading))
        if ticks:
            await asyncio.wait(ticks)

    async def _last_round(self, redis: Redis, boxes: "dict[str, None]") -> None:
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT_S):
                for box in boxes:
                    await drain(redis, box)
        except (RedisError, TimeoutError) as error:
            log.warning("messages stay in the outbox for the next process: %s", error)

    async def _tick(self, tick: Tick) -> None:
        name = f"tick {tick.name}"
        self._health.expect(name, float("inf"))  # one run may be long; a run that fails says so
        self._health.report(name)
        while not self.stopping.is_set():
            pause_s = tick.every_s
            try:
                await tick.run()
                outcome, problem = "done", None
            except (Unavailable, RedisError) as error:
                outcome, problem = "unavailable", str(error)
                pause_s = BACKOFF_MAX_S
                log.warning("tick %s: %s; it runs again", tick.name, error)
            except Exception as error:  # the border where a bug becomes a retry
                outcome, problem = "failed", repr(error)
                pause_s = max(pause_s, BACKOFF_MAX_S)
                log.exception("tick %s failed; it runs again", tick.name)
            self._health.report(name, problem)
            metrics.TICKS.labels(tick.name, outcome).inc()
            await self._unless_stopped(asyncio.sleep(pause_s))

    async def _unless_stopped(self, work: Awaitable[object]) -> bool:
        """Wait for `work` or for the stop, whichever is first; whether the work was done."""
        task = asyncio.ensure_future(work)
        stop = asyncio.create_task(self.stopping.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task
            return task.done()
        finally:
            task.cancel()
            stop.cancel()
            await asyncio.gather(task, stop, return_exceptions=True)


@contextmanager
def _signals(stopping: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, stopping.set)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _first(errors: BaseExceptionGroup[QigError]) -> QigError:
    """The first of several errors that ended a task group: later ones are mostly its consequences."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, QigError)
    return error
