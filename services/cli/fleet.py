"""A whole constellation on one machine: a broker and services as child processes, supervised.

    async with Fleet(home) as fleet:                          the broker is up, the home is ours
        edge = await fleet.start("edge", "edge-1", port=8000, sleep_idle_s=1)
        await fleet.wait_ready("edge-1", timeout_s=60)
        await fleet.kill("edge-1")                            kill -9; it is started again after a pause
        await fleet.kill_broker()                             the same; same data, same port
                                                              at the end: services first, the broker last

With a broker of one's own (broker_url) none is started. Knows no service: it starts `python -m services.X.app`, and
reads /readyz. Whoever starts an edge or a publisher makes its key first (`common.runtime.keys.init`).
"""

import asyncio
import os
import subprocess
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

from common.errors import Unavailable
from common.runtime import access
from common.runtime.rights import OPERATOR
from common.runtime.settings import BROKER_URL_FILE, user_of, variable
from services.cli import home as places
from services.cli import keeper, probe
from services.cli.broker import OwnBroker
from services.cli.child import Child, State, service_command

HOST: Final = "127.0.0.1"
READY_POLL_S: Final = 0.1
READY_TIMEOUT_S: Final = 90.0


@dataclass(frozen=True, slots=True)
class Member:
    """One service of the fleet. url: where it serves HTTP, the same in every life."""

    service: str
    node: str
    url: str
    child: Child

    @property
    def pid(self) -> int | None:
        """None while it is down."""
        return self.child.pid

    @property
    def state(self) -> State:
        """What its supervisor knows; readiness is another matter (`Fleet.why_not_ready`)."""
        return self.child.state


class Fleet:
    """The processes of one home. Use it as a context manager."""

    def __init__(
        self,
        home: Path,
        *,
        broker_url: str | None = None,
        broker_port: int = 0,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """broker_url: a broker that is not ours to start. broker_port: where ours listens unless something else does;
        0 picks a free one. environ: what every service inherits; None: ours.
        """
        self.home = home.resolve()
        self.members: dict[str, Member] = {}
        self._given_url = broker_url
        self._environ = dict(os.environ if environ is None else environ)
        self.broker: OwnBroker | None = None if broker_url else OwnBroker(self.home, broker_port)
        self._group = asyncio.TaskGroup()
        self._watch: asyncio.Task[None] | None = None
        self._held = AsyncExitStack()
        self._keeper: subprocess.Popen[bytes] | None = None
        self._members_lock: int | None = None  # a handle

    @property
    def broker_url(self) -> str:
        """Where everybody meets; the operator's address where the broker has users."""
        return self._given_url or (self.broker.url if self.broker else "")

    def url_of(self, service: str) -> str:
        """The same for a service: with its own user, where ours is the operator's and this home has the other's."""
        url = self.broker_url
        return access.login(self.home, service, url) if user_of(url) == OPERATOR else url

    async def __aenter__(self) -> Self:
        """Raises Unavailable: "already_running", "still_ending", and what the embedded broker raises when it cannot
        start.
        """
        self._held.enter_context(places.lock(self.home))
        try:
            self._members_lock = await self._held.enter_async_context(places.members(self.home))
            if self.broker:
                self._keeper = keeper.start(self.home)
                await self.broker.start()
            await self._group.__aenter__()
        except BaseException:
            await self._stop_broker()
            await self._held.aclose()
            raise
        if self.broker:
            self._watch = self._group.create_task(self.broker.watch(), name="broker")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.stop()
            if isinstance(error, asyncio.CancelledError):  # ours, or the group's own way to stop us: it knows which
                await self._group.__aexit__(kind, error, trace)
            else:  # the caller's error stays what it is: no group of one around it
                await self._group.__aexit__(None, None, None)
        finally:
            await self._held.aclose()

    async def start(self, service: str, node: str, *, port: int = 0, **settings: object) -> Member:
        """Start a service under a name that no other member has; port 0 picks a free one.

        settings: the service's settings by field name, sleep_idle_s=1 for QIG_SLEEP_IDLE_S=1.
        Raises Unavailable: "port_taken", "home_unwritable", "no_service".
        """
        if node in self.members:
            msg = f"{node} is in the fleet already: restart() it, or choose another name"
            raise ValueError(msg)
        command = service_command(service)
        port = port or probe.free_port(HOST)
        probe.check_port(HOST, port, "stop what uses it, or choose others with --port")
        own = places.furnish(self.home, service, node)
        os.close(places.open_log(self.home, node))  # what nobody can write is said now, to whoever starts it
        env = self._environment(service, own, node, port) | {
            variable(name): str(value) for name, value in settings.items()
        }
        inherited = () if self._members_lock is None else (self._members_lock,)
        log = places.log_path(self.home, node)
        child = Child(command, env, log, lambda: places.open_log(self.home, node), inherited)
        member = Member(service, node, f"http://{HOST}:{port}", child)
        self.members[node] = member
        places.write_prometheus(
            self.home, ((each.service, urlsplit(each.url).netloc) for each in self.members.values())
        )
        self._group.create_task(child.run(), name=node)
        await child.begun()
        return member

    async def why_not_ready(self, node: str) -> str | None:
        """None when the member is ready, else why not, in one line."""
        member = self.members[node]
        if member.pid is None:
            return member.child.reason or member.state
        try:
            reason = await probe.why_not_ready(member.url)
        except Unavailable:
            return "starting" if member.child.is_starting else "does not answer"
        if reason is None:
            member.child.ready_in = member.child.starts
        return reason

    async def wait_ready(self, node: str, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return when the member is ready. Raises Unavailable: "not_ready" with the reason, "refused" with its line."""
        member = self.members[node]
        reason: str | None = "starting"
        try:
            async with asyncio.timeout(timeout_s):
                while (reason := await self.why_not_ready(node)) is not None:
                    if member.state == "refused":
                        raise Unavailable("refused", f"{node} does not start: {reason} (log: {member.child.log})")
                    await asyncio.sleep(READY_POLL_S)
        except TimeoutError:
            message = f"{node} is not ready after {timeout_s:g} s: {reason} (log: {member.child.log})"
            raise Unavailable("not_ready", message) from None

    async def wait_all_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return when every member is ready. Raises as `wait_ready`, for the first that is not."""
        for node in list(self.members):
            await self.wait_ready(node, timeout_s)

    async def kill(self, node: str, *, hold: bool = False) -> None:
        """SIGKILL, and wait until it is gone. It is started again after a pause; hold: only by `restart`."""
        await self.members[node].child.kill(hold=hold)

    async def restart(self, node: str) -> None:
        """Start a member again now; a running one is stopped in good order first."""
        await self.members[node].child.restart()

    async def kill_broker(self, *, hold: bool = False) -> None:
        """SIGKILL to our broker. It is started again on the same data and port; hold: only by `restart_broker`."""
        await self._own().kill(hold=hold)

    async def restart_broker(self) -> None:
        """Our broker up again now, on the same data and port."""
        await self._own().restart()

    async def stop(self) -> None:
        """SIGTERM to every service at once, SIGKILL to those that take longer than 30 s; then the broker."""
        places.forget_prometheus(self.home)
        await asyncio.gather(*(member.child.stop() for member in self.members.values()))
        if self._watch is not None:
            self._watch.cancel()
        await self._stop_broker()

    async def _stop_broker(self) -> None:
        if self.broker:
            await self.broker.stop()
        if self._keeper is not None:
            keeper.dismiss(self._keeper)

    def _own(self) -> OwnBroker:
        if self.broker is None:
            raise Unavailable("not_our_broker", "the broker is not ours (QIG_BROKER_URL): whoever started it stops it")
        return self.broker

    def _environment(self, service: str, own: Path, node: str, port: int) -> dict[str, str]:
        environ = {name: value for name, value in self._environ.items() if name != BROKER_URL_FILE}
        return environ | {
            variable("broker_url"): self.url_of(service),
            variable("home"): str(own),
            variable("node"): node,
            variable("http_host"): HOST,
            variable("http_port"): str(port),
            "OMP_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "2",  # glibc keeps a heap a thread: 30 MB of an edge that nobody uses
            "PYTHONUNBUFFERED": "1",
        }
