"""What an edge costs, and what it costs the centre: processor, memory and bytes, measured on a real constellation.

    python benchmarks/capacity.py [idle] [ask] [learn] [wide] [broker] [--seconds 60] [--queries 200] [--nodes 1000]

idle    one edge and the centre, ready and asked nothing, for --seconds: processor, memory, bytes over the link
ask     --queries questions of TOKENS tokens over the stream, asked by ASKERS at once
learn   text is read until ROUNDS of packets have become bundles: what that costs each service and the link
wide    what of an edge talks to the broker, without kernels, as often as WIDE says: what each costs the broker, idle,
        and what a query costs that any of them may take
broker  --nodes enrolled edges send packets to a real aggregator: what the broker keeps for each edge and each packet

All run when nothing is named, and one line is printed a case. Processor time is of all threads of a process. Bytes are
counted by the broker, connection by connection, for each service has a user there. docs/capacity.md reckons with it.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

from centre import WAVE, Centre
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from common.client import Client
from common.runtime import access, embedded, keys, streams
from common.runtime.connection import connect
from common.runtime.consumer import Consumer
from common.runtime.effects import Send
from common.runtime.follower import ONLY_NEW, Follower
from common.runtime.heart import HEART_EVERY_S
from common.runtime.service import Tick, Wiring, serve
from common.runtime.settings import EdgeSettings, load
from common.wire.codec import pack, unpack
from common.wire.inference import Answer, Query
from common.wire.messages import Heartbeat
from services.aggregator.app.hashes import LEDGER
from services.cli import genesis
from services.cli.fleet import Fleet
from services.trainer.corpora.document import documents
from services.trainer.corpora.split import split

CLAIM = "an edge costs the centre little enough for a thousand of them on one machine"
SERVICES = ("edge", "aggregator", "trainer", "publisher")
ROOT = "counting"  # a user of this benchmark's
TOKENS, ASKERS, ROUNDS = 64, 8, 3
ROUND_BYTES = 60_000
PATIENCE_S = 180.0
DAY_S = 86_400
WIDE, STEP = (50, 100, 200), 50


def say(case, value, unit, **more):
    row = {"claim": CLAIM, "case": case, "value": value, "unit": unit, "peer": None, "peer_value": None, "ratio": None}
    print(json.dumps(row | more), flush=True)


# Wide


def talking(number, url):
    """An edge's conversation with the broker: its consumer, its followers, its relay, its heartbeat."""

    async def answer(_, query):
        done = Answer(
            query_id=query.id, client=query.client, node=f"edge-{number}", bundle=1, text="a", finish="length"
        )
        return [Send(streams.answers(query.client), pack(done), query.id)]

    async def build(broker):
        async def beat():
            told = Heartbeat(node=f"edge-{number}", service="edge", at_s=time.time(), bundle=1, ready=True)
            await asyncio.wait([broker.tell(streams.HEART, pack(told))])
            await broker.teach()

        async def heard(_):
            return None

        followed = (streams.BUNDLES, streams.RETURNED, streams.CANCEL)
        return Wiring(
            consumers=[Consumer(streams.QUERIES, "edge", lambda body: unpack(Query, body), answer, at_once=8)],
            followers=[Follower(stream, ONLY_NEW, heard) for stream in followed],
            ticks=[Tick("heart", HEART_EVERY_S, beat)],
        )

    environ = {"QIG_BROKER_URL": url, "QIG_HTTP_PORT": "0", "QIG_NODE": f"edge-{number}"}
    return load(EdgeSettings, environ), build


async def talk(first, count, url):
    """So many of them in this process, until it is killed."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for number in range(first, first + count):
            settings, build = talking(number, url)
            group.create_task(serve(settings, service="edge", build=build, stop=stop))
            await asyncio.sleep(0.02)  # not all at once


async def wide(given):
    with tempfile.TemporaryDirectory() as scratch:
        running = embedded.start(Path(scratch))
        processes = []
        try:
            async with connect(running.url) as redis:
                began, there = processor_s(running.pid), 0
                for count in WIDE:
                    while there < count:
                        command = [sys.executable, __file__, "--talk", str(there), str(STEP), running.url]
                        processes.append(await asyncio.create_subprocess_exec(*command, stderr=subprocess.DEVNULL))
                        there += STEP
                    await until_reading(redis, count)
                    began, at_s = processor_s(running.pid), time.monotonic()
                    await asyncio.sleep(given.seconds / 2)
                    used = (processor_s(running.pid) - began) / (time.monotonic() - at_s)
                    about = await redis.info("clients")
                    say(f"wide: the broker's processor, {count} idle edges", 100 * used / count, "% of a core an edge")
                    say(f"wide: connections, {count} edges", about["connected_clients"] / count, "an edge")
                    idle = used
                    began, at_s = processor_s(running.pid), time.monotonic()
                    async with Client(running.url) as client:
                        for _ in range(given.queries):
                            await client.ask("a", max_tokens=1)
                    spent = processor_s(running.pid) - began - idle * (time.monotonic() - at_s)
                    say(f"wide: the broker's processor, {count} edges", 1000 * spent / given.queries, "ms a query")
                    memory = (await redis.info("memory"))["mem_clients_normal"]
                    say(f"wide: memory of connections, {count} edges", memory / count / 1000, "KB an edge")
        finally:
            for process in processes:
                process.kill()
                await process.wait()
            running.stop()


async def until_reading(redis, count):
    """That many edges have a reader and a claimer."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with contextlib.suppress(ResponseError):
                if len(await redis.xinfo_consumers(streams.QUERIES, "edge")) >= 2 * count:
                    return
            await asyncio.sleep(0.5)


# Counting


def processor_s(pid):
    """Of a process and those that it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


class Counting:
    """A running constellation, and what it has used since it was last asked."""

    def __init__(self, fleet, redis):
        self.fleet, self.redis = fleet, redis

    async def now(self):
        """Processor seconds and bytes from and to the broker, by service; and the broker's own."""
        used = {name: {"processor_s": processor_s(self.fleet.members[name].pid)} for name in self.fleet.members}
        used["broker"] = {"processor_s": processor_s(self.fleet.broker.pid)}
        for row in await self.redis.client_list():
            if row["user"] in used:
                seen = used[row["user"]]
                seen["up"] = seen.get("up", 0) + int(row["tot-net-in"])
                seen["down"] = seen.get("down", 0) + int(row["tot-net-out"])
        return used

    @contextlib.asynccontextmanager
    async def during(self):
        """What was used while the block ran, filled in at its end."""
        spent, before, began_s = {}, await self.now(), time.monotonic()
        yield spent
        seconds, after = time.monotonic() - began_s, await self.now()
        for name, used in after.items():
            spent[name] = {what: value - before[name].get(what, 0) for what, value in used.items()}
        spent["seconds"] = seconds


@contextlib.asynccontextmanager
async def constellation(home):
    access.make(home)
    with access.acl_path(home).open("a", encoding="utf-8") as file:
        file.write(f"user {ROOT} on >{ROOT} ~* +@all\n")
    keys.init(home, ["edge"])
    async with Fleet(home) as fleet:
        for name in SERVICES:
            own = {"genesis": genesis.default(home)} if name == "trainer" else {}
            own = {"batch_packets": 1} if name == "aggregator" else own
            await fleet.start(name, name, **own)
        await fleet.wait_all_ready(PATIENCE_S)
        address = fleet.broker_url.rpartition("@")[2]
        async with connect(f"redis://{ROOT}:{ROOT}@{address}") as redis:
            yield Counting(fleet, redis)


# Cases


async def idle(counting, given):
    async with counting.during() as spent:
        await asyncio.sleep(given.seconds)
    for name in (*SERVICES, "broker"):
        pid = counting.fleet.broker.pid if name == "broker" else counting.fleet.members[name].pid
        say(f"idle {name}: processor", 100 * spent[name]["processor_s"] / spent["seconds"], "% of a core")
        say(f"idle {name}: memory", resident_mb(pid), "MB")
    links(spent, "idle edge", spent["seconds"] / DAY_S, "a day")


def links(spent, case, times, each):
    for way in ("up", "down"):
        say(f"{case}: bytes {way} its link", spent["edge"][way] / times, f"B {each}")


async def ask(counting, given):
    prompts = [each.text[:160] for each in split(documents("unseen/scripture", root=Path("data"))).held_out]
    left = iter(range(given.queries))
    took = []

    async def one():
        async with Client(counting.fleet.broker_url) as client:
            for number in left:
                began_s = time.monotonic()
                await client.ask(prompts[number % len(prompts)], max_tokens=TOKENS, store=False)
                took.append(time.monotonic() - began_s)

    async with counting.during() as spent:
        await asyncio.gather(*(one() for _ in range(ASKERS)))
    say(f"ask, {ASKERS} at once: answered", given.queries / spent["seconds"], "queries/s")
    for name in ("edge", "broker"):
        milliseconds = 1000 * spent[name]["processor_s"] / given.queries
        say(f"ask: processor of the {name}, {TOKENS} tokens", milliseconds, "ms a query")
    links(spent, "ask", given.queries, "a query")
    say("ask: memory of the edge", resident_mb(counting.fleet.members["edge"].pid), "MB")


async def learn(counting, _given):
    texts = iter([each.text for each in split(documents("unseen/scripture", root=Path("data"))).train])
    before = await counting.redis.xlen(streams.BUNDLES)
    read = 0
    async with counting.during() as spent, Client(counting.fleet.broker_url) as client:
        for made in range(1, ROUNDS + 1):
            until = read + ROUND_BYTES
            while read < until:
                text = next(texts)
                read += len(text.encode())
                await client.ask(text, max_tokens=0)
            async with asyncio.timeout(PATIENCE_S):
                while not await settled(counting, before + made):  # noqa: ASYNC110
                    await asyncio.sleep(0.2)
    bundles = await counting.redis.xlen(streams.BUNDLES) - before
    packets = int(await counting.redis.hlen(streams.side_key(streams.PACKETS, "account")))
    say("learn: read", read, "B", packets=packets, bundles=bundles)
    say("learn: processor of the edge", 1000 * spent["edge"]["processor_s"] / (read / 1000), "ms a kB of text read")
    for name in ("aggregator", "trainer", "publisher", "broker"):
        say(f"learn: processor of the {name}", spent[name]["processor_s"] / bundles, "s a bundle")
    links(spent, "learn: text, packets, bundles", bundles, "a bundle")
    for name in SERVICES:
        say(f"learn: memory of the {name}", resident_mb(counting.fleet.members[name].pid), "MB")


async def settled(counting, bundles):
    """That many bundles, and the edge serves the last."""
    if await counting.redis.xlen(streams.BUNDLES) < bundles:
        return False
    verdicts = await counting.redis.xlen(streams.APPLIED)
    return verdicts >= bundles


async def kept(redis):
    """Bytes of the broker's memory by kind of key."""
    found = {}
    async for name in redis.scan_iter(count=1000):
        found[name.decode()] = int(await redis.memory_usage(name, samples=0))
    return found


async def broker(given):
    with tempfile.TemporaryDirectory() as scratch:
        nodes = [f"edge-{number}" for number in range(given.nodes)]
        running = embedded.start(Path(scratch) / "broker")
        try:
            centre = Centre(Path(scratch) / "home", running.url, nodes)
            async with connect(running.url) as redis:
                await centre.release(redis)
                process = centre.start()
                try:
                    await sent(redis, centre, given, running, process)
                finally:
                    process.kill()
                    process.wait()
        finally:
            running.stop()


async def sent(redis: Redis, centre, given, running, process):
    """Each node's first packet, then a second: what the broker keeps of either."""
    before, used_s, own_s = await kept(redis), processor_s(process.pid), processor_s(running.pid)
    for turn in (1, 2):
        await centre.send(redis, range((turn - 1) * given.nodes, turn * given.nodes))
        async with asyncio.timeout(PATIENCE_S):
            while await redis.xlen(streams.PACKETS) or await redis.hlen(LEDGER) >= WAVE:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        after = await kept(redis)
        passing = {streams.BATCHES, streams.outbox(streams.PACKETS)}  # gone once a trainer has done them
        grown = {name: size - before.get(name, 0) for name, size in after.items() if name not in passing}
        what = "an edge that has sent one packet" if turn == 1 else "a further packet"
        largest = dict(sorted(grown.items(), key=lambda row: -row[1])[:4])
        say(f"broker: memory for {what}", sum(grown.values()) / given.nodes, "B", largest=largest)
        before = after
    spent = processor_s(process.pid) - used_s, processor_s(running.pid) - own_s
    for name, seconds in zip(("aggregator", "broker"), spent, strict=True):
        say(f"broker: processor of the {name}", 1000 * seconds / (2 * given.nodes), "ms a packet")
    say("broker: memory of the aggregator", resident_mb(process.pid), "MB", nodes=given.nodes)


async def main():
    if sys.argv[1:2] == ["--talk"]:
        logging.disable()
        await talk(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=["idle", "ask", "learn", "wide", "broker", []], default=[])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--nodes", type=int, default=1000)
    given = parser.parse_args()
    cases = given.cases or ["idle", "ask", "learn", "wide", "broker"]
    if set(cases) - {"wide", "broker"}:
        with tempfile.TemporaryDirectory() as home:
            async with constellation(Path(home)) as counting:
                for name, work in (("idle", idle), ("ask", ask), ("learn", learn)):
                    if name in cases:
                        await work(counting, given)
    if "wide" in cases:
        await wide(given)
    if "broker" in cases:
        await broker(given)


if __name__ == "__main__":
    asyncio.run(main())
