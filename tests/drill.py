"""Breaks a fleet of real processes, one fault after the other, and asks a real Prometheus: does each alert fire, and
clear once the fault has ended? The shipped rules, with their durations divided by 60. Ends with 1 if one does not.

    python tests/drill.py
"""

import asyncio
import contextlib
import logging
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS / "live"), str(TESTS / "chaos")]

from drill_rules import FACTOR, NOT_DRILLED, write  # noqa: E402
from live_fleet import EDGES, Live, narrow, passages, prepared, settings_for, until  # noqa: E402
from micro import SENTENCES, make_parts  # noqa: E402
from proxy import Proxy  # noqa: E402
from test_prometheus import PROMETHEUS, prometheus  # noqa: E402

from common.runtime import streams  # noqa: E402
from common.runtime.connection import connect  # noqa: E402
from common.wire.codec import pack  # noqa: E402
from common.wire.inference import Query  # noqa: E402
from services.cli import probe  # noqa: E402
from services.cli.fleet import Fleet  # noqa: E402

PATIENCE_S = 240.0  # a machine that others use
FLOOD = 91_000  # queries: nine tenths of what their stream takes
STEP = 1_000
ROUNDS, ROUND_S = 6, 20.0  # of text, until a second batch waits
TRIAL_S = 300  # of a bundle: edges are killed twice in it
QUERY = pack(Query(text="The whale rose", max_tokens=0, store=False))
HURRIED = pack(Query(text="The whale rose", max_tokens=512, deadline_s=0.001))
NOISE = {streams.DATA_FIELD: b"no message"}


def service_of(node):
    return "edge" if node in EDGES else node


class Drill:
    """A fleet under a Prometheus. edge-2 meets the broker by a wire that can be cut."""

    def __init__(self, live, wire, corpora):
        self.live, self.fleet, self.redis, self.wire = live, live.fleet, live.redis, wire
        self.settings = settings_for(live.fleet, corpora)
        for node in EDGES:
            self.settings[node] = self.settings[node] | {"health_s": TRIAL_S}
        self.ports = {node: probe.free_port() for node in self.settings}
        self.found = None
        self.failed = []
        self._clearing = []

    @property
    def members(self):
        """Every service with its address, started or not."""
        return [(service_of(node), f"http://127.0.0.1:{port}") for node, port in self.ports.items()]

    async def start(self, *nodes):
        for node in nodes:
            wire = {"broker_url": self.wire.url} if node == "edge-2" else {}
            given = self.settings[node] | wire | {"port": self.ports[node]}
            await self.fleet.start(service_of(node), node, **given)

    async def play(self):
        await self.no_bundle_and_a_flood()
        await self.what_is_no_message()
        await self.deadlines_that_cannot_be_kept()
        await self.packets_replayed()
        await self.an_edge_cut_off()
        await self.both_edges_killed()
        await self.edges_that_die_with_a_bundle()
        await self.no_publisher()
        await asyncio.gather(*self._clearing)

    async def firing(self):
        rows = (await self.found.get("alerts"))["alerts"]
        return {row["labels"]["alertname"] for row in rows if row["state"] == "firing"}

    async def fires(self, *alerts):
        """Returns when all have fired, each told with the time since this call."""
        began, left = time.monotonic(), set(alerts)

        async def all_of_them():
            for name in left & await self.firing():
                left.discard(name)
                say(f"{name}: fired after {time.monotonic() - began:.0f} s")
            return not left

        with contextlib.suppress(AssertionError):
            await until(all_of_them, "", PATIENCE_S)
        for name in left:
            self.failed.append(name)
            say(f"{name}: did not fire within {PATIENCE_S:.0f} s")

    def clears(self, *alerts):
        """The fault has ended: told as each clears, while the drill goes on."""
        self._clearing += [asyncio.create_task(self._clears(name, time.monotonic())) for name in alerts]

    async def _clears(self, name, ended):
        async def cleared():
            return name not in await self.firing()

        try:
            await until(cleared, "", PATIENCE_S)
            say(f"{name}: cleared after {time.monotonic() - ended:.0f} s")
        except AssertionError:
            self.failed.append(name)
            say(f"{name}: did not clear within {PATIENCE_S:.0f} s")

    # Faults

    async def no_bundle_and_a_flood(self):
        """Nobody releases, clients ask without end, and somebody deletes the stream."""
        for first in range(0, FLOOD, STEP):
            async with self.redis.pipeline(transaction=False) as pipe:
                for _ in range(first, first + STEP):
                    pipe.xadd(streams.QUERIES, {streams.DATA_FIELD: QUERY})
                await pipe.execute()
        await self.fires("NotReady", "ConsumerDead", "StreamFilling", "StreamFull")
        await self.redis.delete(streams.QUERIES)
        await self.fires("GroupRemade")
        await self.start("publisher", "trainer")
        self.clears("ConsumerDead", "StreamFilling", "StreamFull", "GroupRemade", "NotReady")
        await self.fleet.wait_all_ready(PATIENCE_S)

    async def what_is_no_message(self):
        for stream in (streams.QUERIES, streams.PACKETS):
            await self.redis.xadd(stream, NOISE)
        await self.fires("DeadLetters")
        self.clears("DeadLetters")

    async def deadlines_that_cannot_be_kept(self):
        async with self._again_and_again(streams.QUERIES, HURRIED):
            await self.fires("QueriesRefused")
        self.clears("QueriesRefused")

    async def both_edges_killed(self):
        await asyncio.gather(*(self.fleet.kill(node, hold=True) for node in EDGES))
        await self.fires("ServiceDown", "NoEdgeReady", "EdgeGone")
        await asyncio.gather(*map(self.fleet.restart, EDGES))
        self.clears("ServiceDown", "NoEdgeReady", "EdgeGone")
        await self.fleet.wait_all_ready(PATIENCE_S)

    async def packets_replayed(self):
        async with self.live.desk() as desk:
            await self.live.read(desk, 10)
            await self.live.newest_on_both_edges(1)
        raw = next(raw for raw, _ in self.live.sent() if raw)
        async with self._again_and_again(streams.PACKETS, raw):
            await self.fires("PacketRejectRatio")
        self.clears("PacketRejectRatio")

    async def an_edge_cut_off(self):
        self.wire.cut(True)
        for _ in range(2):
            await self._one_more_release()
        await self.fires("BundleSkew")
        self.wire.cut(False)
        self.clears("BundleSkew")
        await self.fleet.wait_all_ready(PATIENCE_S)

    async def edges_that_die_with_a_bundle(self):
        version = (await self.live.bundles())[-1].version
        await self._one_more_release()
        await until(self._is_quiet, "no release on its way", PATIENCE_S)
        await self.live.newest_on_both_edges(version)
        await self.fleet.kill("trainer", hold=True)  # only the newest release is taken back: none may follow
        for _ in range(2):
            await asyncio.gather(*map(self.fleet.kill, EDGES))
            await asyncio.gather(*(self.fleet.wait_ready(node, PATIENCE_S) for node in EDGES))
        await self.fires("BundleRolledBack")
        await self.fleet.restart("trainer")
        self.clears("BundleRolledBack")

    async def no_publisher(self):
        await self.fleet.kill("publisher", hold=True)
        async with self.live.desk() as desk:
            for _ in range(ROUNDS):
                for text in SENTENCES.values():  # of all domains
                    for _ in range(8):
                        desk.send(text * 10, max_tokens=0)
                with contextlib.suppress(AssertionError):
                    await until(self._a_batch_waits, "", ROUND_S)
                    break
            await self.fires("LearningStuck")
        await self.fleet.restart("publisher")
        self.clears("LearningStuck")

    async def _a_batch_waits(self):
        """Behind a candidate that nobody decides on."""
        return await self.redis.xlen(streams.CANDIDATES) and await self.redis.xlen(streams.BATCHES)

    @contextlib.asynccontextmanager
    async def _again_and_again(self, stream, body):
        """Ten a second: of a counter that is there for the first time Prometheus takes no note."""

        async def add():
            while True:
                await self.redis.xadd(stream, {streams.DATA_FIELD: body})
                await asyncio.sleep(0.1)

        adding = asyncio.create_task(add())
        try:
            yield
        finally:
            adding.cancel()

    async def _is_quiet(self):
        return {status for _, status in self.live.sent()} <= {"acknowledged", "lost"} and await self.live.at_rest()

    async def _one_more_release(self):
        version = (await self.live.bundles())[-1].version

        async def came():
            async with self.live.desk() as desk:
                await self.live.read(desk, 4)
                await asyncio.sleep(1.0)
            return (await self.live.bundles())[-1].version > version

        await until(came, f"a release after {version}", PATIENCE_S)


async def main():
    logging.disable()  # what services say of faults is in their logs
    with tempfile.TemporaryDirectory(prefix="qig-drill-") as scratch:
        home = Path(scratch) / "home"
        corpora = prepared(home, narrow(make_parts()))
        async with Fleet(home) as fleet, connect(fleet.broker_url) as redis:
            wire = Proxy(urlsplit(fleet.broker_url).port)
            await wire.start()
            try:
                drill = Drill(Live(fleet, redis, passages()), wire, corpora)
                await drill.start("aggregator", *EDGES)
                async with prometheus(Path(scratch), drill.members, write(Path(scratch))) as drill.found:
                    await drill.play()
            finally:
                await wire.stop()
    for name, why in NOT_DRILLED.items():
        say(f"{name}: not drilled: {why}")
    say(f"durations are those of the shipped rules divided by {FACTOR}; failed: {', '.join(drill.failed) or 'none'}")
    return 1 if drill.failed else 0


def say(line):
    print(line, flush=True)  # noqa: T201 -- what this program is for


if __name__ == "__main__":
    if PROMETHEUS is None:
        sys.exit("no prometheus on the path; Debian's package prometheus brings it")
    sys.exit(asyncio.run(main()))
