"""The broker of a home: found by a command, or started, watched and stopped by a fleet; with users where the home has
some (`qig keys broker`).

An embedded broker outlives a crash of `qig up` until its services have ended (keeper.py). One that is there all the
same is asked to finish by `qig stop`, or by the next `qig up` on that home, which starts it anew on the same data; not
where that has QIG_BROKER_URL, which may name it.
"""

import asyncio
import os
import shlex
import signal
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, OutOfMemoryError, RedisError

from common.errors import Rejected, Unavailable, said
from common.runtime import access, embedded
from common.runtime.connection import connect, greet, passes
from common.runtime.rights import OPERATOR
from common.runtime.settings import given_broker, redacted, user_of
from services.cli import home as places
from services.cli.child import ended

WATCH_EVERY_S: Final = 0.2
BACKOFF_MAX_S: Final = 30.0


def find_url(home: Path, environ: Mapping[str, str] | None = None) -> str:
    """The broker to talk to: the environment's, else the one `qig up` started on this home.

    Raises Unavailable("no_broker"), Rejected("bad_setting").
    """
    url = given_broker(environ) or own_url(home)
    if url is None:
        near = places.running_near(home)
        there = "" if near is None else f"; a constellation runs on {near}: add --home {shlex.quote(str(near))}"
        own = f"{home.resolve()} has none" if home.is_dir() else f"there is no {home.resolve()}"
        message = f"no broker: QIG_BROKER_URL is not set and {own}; `qig up` in the repository starts one{there}"
        raise Unavailable("no_broker", message)
    return url


def own_url(home: Path) -> str | None:
    """The broker that `qig up` started on this home, with the operator's password where it has users; None where none
    runs: what a machine that lost its power has left says only where one was, and another home's may be there now.
    """
    if not (places.is_locked(home) or embedded.is_running(places.broker_dir(home))):
        return None
    url = places.read_broker(home)
    user = None if url is None else user_of(url)
    return url if url is None or user is None else access.login(home, user, url)


@asynccontextmanager
async def client(url: str) -> AsyncIterator[Redis]:
    """A client for one command: it gives up soon instead of waiting for an outage to end.

    Raises Rejected: "bad_setting", and "broker_refused" for what the user in `url` may not do;
    Unavailable("broker_away", "broker_full") for what the command does not wait out itself.
    """
    try:
        redis = connect(url, retries=0)
    except ValueError as error:
        raise Rejected("bad_setting", f"QIG_BROKER_URL is no broker address: {error}") from None
    async with redis:
        try:
            yield redis
        except NoPermissionError as error:
            message = (
                f"{redacted(url)} does not allow it: {error}; the operator's address does (docs/broker.md, Rights)"
            )
            raise Rejected("broker_refused", message) from None
        except OutOfMemoryError:
            message = f"the broker at {redacted(url)} has no memory left: try again once old work is done, or raise"
            raise Unavailable("broker_full", f"{message} its maxmemory (docs/broker.md)") from None
        except RedisError as error:
            if not passes(error):
                raise
            message = f"the broker at {redacted(url)} went away: {said(error)}; try again once it is back"
            raise Unavailable("broker_away", message) from None


async def check_there(redis: Redis, url: str) -> None:
    """Raises Unavailable("broker_away") with what to do when the broker does not answer, Rejected("broker_refused")."""
    try:
        await greet(redis, url)
    except RedisError as error:
        message = f"no broker answers at {redacted(url)} ({error}): start one with `qig up`, or correct QIG_BROKER_URL"
        raise Unavailable("broker_away", message) from None


def end_left(home: Path) -> bool:
    """End the embedded broker that a killed fleet has left on this home, for whoever holds its members' place; False,
    and nothing is forgotten, where it still runs after 15 s.
    """
    if not embedded.end(places.broker_dir(home)):
        return False
    places.forget_broker(home)
    places.forget_prometheus(home)
    return True


async def clear_left(home: Path) -> None:
    """Return when nothing runs any more that a killed fleet has left on this home: its services end by themselves, then
    we end its broker. Raises Unavailable: "still_ending", "home_unwritable".
    """
    async with places.members(home):
        if not await asyncio.to_thread(end_left, home):
            after = f"still runs {embedded.END_TIMEOUT_S:g} s after SIGTERM"
            message = f"the broker that a killed `qig up` left on {home} {after}"
            raise Unavailable("still_ending", f"{message}: end it (`lsof +D {places.broker_dir(home)}` shows it)")


class OwnBroker:
    """The embedded broker of a home, for as long as a fleet runs: started again on the same data when it dies."""

    def __init__(self, home: Path, port: int = 0) -> None:
        """port: where it listens if nothing else does; else, or with 0, on a free one."""
        self.starts = 0
        self.ended = ""  # how the life before this one ended
        self._home = home
        self._data = places.broker_dir(home)
        self._users: embedded.Users | None = None
        self._running: embedded.Embedded | None = None
        self._port = port
        self._held = False
        self._stopping = False
        self._turn = threading.Lock()  # a start that a cancelled task left running is over before a stop begins

    @property
    def url(self) -> str:
        """Where it listens, for the operator if it has users; the same after every restart."""
        assert self._running is not None, "start() comes first"
        return self._running.url if self._users is None else access.login(self._home, OPERATOR, self._running.url)

    @property
    def pid(self) -> int | None:
        """None while it is down."""
        return self._running.pid if self._running is not None and self._running.process.poll() is None else None

    async def start(self) -> None:
        """Start it unless it runs, and wait until it answers. Raises what embedded.start raises."""
        await asyncio.to_thread(self._start)

    def _start(self) -> None:
        with self._turn:
            if self._stopping or self.pid is not None:
                return
            if self._running is not None:
                self.ended = ended(self._running.process.returncode)
            self._running = self._first() if self.starts == 0 else embedded.start(self._data, self._port, self._users)
            self._port = int(self._running.url.rpartition(":")[2])
            self.starts += 1
            url = self._running.url if self._users is None else access.named(self._running.url, OPERATOR)
            places.write_broker(self._home, url, self._running.pid)

    def _first(self) -> embedded.Embedded:
        embedded.end(self._data)
        self._users = access.users(self._home)
        try:
            return embedded.start(self._data, self._port, self._users)
        except Unavailable as error:
            if error.code != "port_taken":
                raise
            return embedded.start(self._data, 0, self._users)

    def _stop(self) -> None:
        with self._turn:
            if self._running is not None:
                self._running.stop()
                places.forget_broker(self._home)

    async def watch(self) -> None:
        """Start it again whenever it is down, until `stop`; 0.2 s after the death, then 0.5, 1, 2 ... 30 s apart."""
        pause_s = 0.5
        while not self._stopping:
            await asyncio.sleep(WATCH_EVERY_S)
            if self.pid is not None or self._held or self._stopping:
                pause_s = 0.5
                continue
            try:
                await self.start()
            except (Unavailable, OSError):  # the services say meanwhile that the broker is away
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, BACKOFF_MAX_S)

    async def kill(self, *, hold: bool = False) -> None:
        """SIGKILL, and wait until it is gone. hold: stay down until `restart`."""
        self._held = hold
        if self._running is not None and self.pid is not None:
            os.kill(self._running.pid, signal.SIGKILL)
            await asyncio.to_thread(self._running.process.wait)

    async def restart(self) -> None:
        """Up at once, on the same data and port; a running one is stopped in good order first."""
        self._held = True
        await asyncio.to_thread(self._stop)
        await self.start()
        self._held = False

    async def stop(self) -> None:
        """Stop it in good order, and keep it down."""
        self._stopping = True
        await asyncio.to_thread(self._stop)
