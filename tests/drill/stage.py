"""What every theme of the drill stands on: a fleet, the Prometheus that scrapes it, and the alerts that have to fire
and to clear.
"""

import asyncio
import contextlib
import time

from drill_rules import DRILLED, write
from live_fleet import EDGES, until
from test_prometheus import prometheus

from common.errors import Unavailable
from services.cli import probe
from services.cli.fleet import HOST

PATIENCE_S = 240.0  # a machine that others use
PORTS = iter(range(20_000, 32_768))  # below those that a system gives to whoever connects: a service may begin late


def say(line):
    print(line, flush=True)  # noqa: T201 -- what this program is for


def free_port():
    """A port that no theme has had."""
    for port in PORTS:
        with contextlib.suppress(Unavailable):
            probe.check_port(HOST, port, "")
            return port
    raise AssertionError("every port is taken")


def service_of(node):
    return "edge" if node in EDGES else node


class Drill:
    """A fleet whose Prometheus knows every address before a process is there. left: alerts that have yet to fire and
    clear, with what is missing.
    """

    def __init__(self, theme, live, settings):
        """settings: by node."""
        self.live, self.fleet, self.redis = live, live.fleet, live.redis
        self.settings = settings
        self.ports = {node: free_port() for node in settings}
        self.left = dict.fromkeys(DRILLED[theme], "was not provoked")
        self._found = None
        self._clearing = []

    async def start(self, *nodes):
        for node in nodes:
            given = self.settings[node] | {"port": self.ports[node]}
            await self.fleet.start(service_of(node), node, **given)

    async def ready(self):
        await self.fleet.wait_all_ready(PATIENCE_S)

    @contextlib.asynccontextmanager
    async def watched(self, folder):
        """Scraped each second from now on; ends when every alert that was provoked has cleared, or had time to."""
        members = [(service_of(node), f"http://{HOST}:{port}") for node, port in self.ports.items()]
        async with prometheus(folder, members, write(folder)) as self._found:
            yield
            await self.cleared()

    async def firing(self):
        rows = (await self._found.get("alerts"))["alerts"]
        return {row["labels"]["alertname"] for row in rows if row["state"] == "firing"}

    async def is_quiet(self):
        return not await self.firing()

    async def holds(self, expression):
        """Whether Prometheus has an answer to it."""
        return (await self._found.get("query", query=expression))["result"]

    async def fires(self, *alerts):
        """Returns when all have fired, each told with the time since this call."""
        began, left = time.monotonic(), set(alerts)

        async def all_of_them():
            for name in left & await self.firing():
                left.discard(name)
                self.left[name] = "did not clear"
                say(f"{name}: fired after {time.monotonic() - began:.0f} s")
            return not left

        with contextlib.suppress(AssertionError):
            await until(all_of_them, "", PATIENCE_S)
        for name in left:
            self.left[name] = "did not fire"
            say(f"{name}: did not fire within {PATIENCE_S:.0f} s")

    def clears(self, *alerts):
        """The fault has ended: told as each clears, while the drill goes on."""
        self._clearing += [asyncio.create_task(self._clears(name, time.monotonic())) for name in alerts]

    async def cleared(self):
        """Returns when each whose fault has ended has cleared, or had time to."""
        await asyncio.gather(*self._clearing)

    async def _clears(self, name, ended):
        async def cleared():
            return name not in await self.firing()

        try:
            await until(cleared, "", PATIENCE_S)
        except AssertionError:
            say(f"{name}: did not clear within {PATIENCE_S:.0f} s")
            return
        say(f"{name}: cleared after {time.monotonic() - ended:.0f} s")
        if self.left[name] == "did not clear":
            del self.left[name]
