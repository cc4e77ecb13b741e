"""The consumer beside raw redis-py and plain FastStream: messages of 3 KB, decoded and validated.

    python benchmarks/streams.py [CASE ...] [--minutes 60] [--quick]

throughput, latency and outage run when nothing is named; soak only by its name.

throughput  a backlog is consumed, each consumer in a process of its own; messages a second, by the clock and by the
            processor time of the consumer alone (what a core of its own would do)
latency     Poisson arrivals, the same for each: from the moment a message is due to its handler
outage      the broker is killed under load and back after a second: the longest that a message waited
soak        half of what the consumer does in this run, or --rate, for --minutes: memory, file descriptors and lag of
            the last tenth of that time beside those of the second (the first warms up)

One broker (durable, as `qig up` has it) and one machine; the ratios are within a run.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common.runtime import embedded
from common.runtime.broker import Broker
from common.runtime.connection import connect
from common.wire.codec import pack

PEERS = Path(__file__).parent / "peers" / "stream.py"
sys.path.insert(0, str(PEERS.parent))
from stream import FIELD, STREAM, PlainReading, reading  # noqa: E402 -- beside this file, not in a package

CLAIMS = {
    "throughput": "consume at least 15,000 messages/s a core with validation, 5 times FastStream's one by one",
    "latency": "a message is with its handler as soon as by plain redis-py",
    "outage": "a second of broker outage delays work by at most 1.5 s",
    "soak": "memory, file descriptors and lag stay flat at half load",
}
BACKLOG, SLOW_BACKLOG, QUICK_BACKLOG = 60_000, 12_000, 2_000
RATE, SECONDS = 500.0, 10.0  # of the latency's arrivals: a quarter of what FastStream can do
OUTAGE_S, OUTAGE_RATE = 1.0, 200.0
SAMPLES = 60  # of a soak
TRIP, TRIP_S = 500, 0.01  # entries of a backlog in one round trip; seconds between two of a soak


def say(claim, case, value, unit, peer=None, peer_value=None):
    ratio = None if not peer_value else value / peer_value
    row = {"claim": CLAIMS[claim], "case": case, "value": value, "unit": unit, "peer": peer}
    print(json.dumps(row | {"peer_value": peer_value, "ratio": ratio}), flush=True)


def quantile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def body(name, due_s):
    made = reading(due_s)
    return PlainReading(**made.model_dump()).model_dump_json().encode() if name == "FastStream" else pack(made)


@contextlib.asynccontextmanager
async def consuming(name, url, count):
    """A consumer that reads; its process."""
    command = [sys.executable, str(PEERS), name, url, str(count)]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, limit=1 << 26)
    try:
        assert await process.stdout.readline() == b"reading\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def told(process):
    return json.loads(await process.stdout.readline())


async def backlog(redis, name, count):
    await redis.flushall()
    fields = {FIELD: body(name, 0.0)}
    for start in range(0, count, TRIP):
        adding = redis.pipeline(transaction=False)
        for _ in range(min(TRIP, count - start)):
            adding.xadd(STREAM, fields)
        await adding.execute()


async def throughput(url, redis, given):
    rates = {}
    alone = ("qig, one by one", "qig, named", "qig, traced")
    slow = ("FastStream", *alone)
    for name in ("qig", "qig, an effect", *alone, "redis-py", "redis-py, validated", "FastStream"):
        count = QUICK_BACKLOG if given.quick else SLOW_BACKLOG if name in slow else BACKLOG
        found = await consumed(url, redis, name, count)
        rates[name] = found["handled"] / found["seconds"], found["handled"] / found["processor_s"]
    for case, (clock, processor) in rates.items():
        peers = ("FastStream", "redis-py", "redis-py, validated") if case == "qig" else ("FastStream",)
        peers = alone[:1] if case in alone[1:] else peers
        for peer in peers if case != "FastStream" else (None,):
            others = rates.get(peer, (None, None))
            say("throughput", case, clock, "messages/s", peer, others[0])
            say("throughput", f"{case}, of processor time", processor, "messages/s", peer, others[1])


async def consumed(url, redis, name, count):
    """What a consumer tells of a backlog."""
    await backlog(redis, name, count)
    async with consuming(name, url, count) as process:
        return await told(process)


async def latency(url, redis, given):
    seconds = 2.0 if given.quick else SECONDS
    found = {}
    for name in ("qig", "redis-py, validated", "FastStream"):
        await redis.flushall()
        async with consuming(name, url, int(RATE * seconds)) as process:
            await arrivals(redis, name, RATE, seconds)
            took = [each for _, each in (await told(process))["took"]]
        found[name] = [(label, quantile(took, share)) for share, label in ((0.5, "p50"), (0.99, "p99"))]
    for peer in ("redis-py, validated", "FastStream"):
        for (label, value), (_, other) in zip(found["qig"], found[peer], strict=True):
            say("latency", f"from due to handler at {RATE:g} messages/s, {label}", value, "s", peer, other)


async def arrivals(redis, name, rate, seconds):
    """So many messages, each sent as soon as it is due, by as few round trips as that takes."""
    chance, due_s = random.Random(1), time.monotonic()
    for _ in range(int(rate * seconds)):
        due_s += chance.expovariate(rate)
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        await redis.xadd(STREAM, {FIELD: body(name, due_s)})


async def outage(_url, _redis, _given):
    worst = {}
    for name in ("qig", "FastStream"):
        worst[name] = await one_outage(name)
    for label, place in (("the broker's own absence", 0), ("the longest wait of a message", 1)):
        say("outage", label, worst["qig"][place], "s", "FastStream", worst["FastStream"][place])


async def one_outage(name):
    """Seconds that the broker was away, and the longest that a message waited."""
    with tempfile.TemporaryDirectory() as home:
        first = embedded.start(Path(home))
        port = int(first.url.rpartition(":")[2])
        count = int(OUTAGE_RATE * 6)
        async with connect(first.url) as redis, consuming(name, first.url, count) as process:
            broker, chance, due_s = Broker(redis), random.Random(2), time.monotonic() + 0.1
            killing = asyncio.create_task(kill_and_restart(first, Path(home), port))
            asked = []
            for number in range(count):
                due_s += chance.expovariate(OUTAGE_RATE)
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                asked.append(asyncio.create_task(broker.produce(STREAM, body(name, due_s), f"r{number}")))
            await asyncio.gather(*asked)
            second, away_s = await killing
            took = (await told(process))["took"]
        second.stop()
    return away_s, max(each for _, each in took)


async def kill_and_restart(first, home, port):
    await asyncio.sleep(2.0)
    os.kill(first.pid, signal.SIGKILL)
    killed = time.monotonic()
    first.process.wait()
    await asyncio.sleep(OUTAGE_S - 0.02)
    second = await asyncio.to_thread(embedded.start, home, port)
    return second, time.monotonic() - killed


async def soak(url, redis, given):
    """Half the load of a backlog, as long as wanted."""
    rate, until_s = given.rate, 60.0 * (0.1 if given.quick else given.minutes)
    if rate is None:
        whole = await consumed(url, redis, "qig", QUICK_BACKLOG if given.quick else BACKLOG)
        rate = whole["handled"] / whole["seconds"] / 2.0
    await redis.flushall()
    samples = []
    async with consuming("qig", url, sys.maxsize) as process:
        fields, began, sent = {FIELD: body("qig", 0.0)}, time.monotonic(), 0
        while (now := time.monotonic() - began) < until_s:
            adding = redis.pipeline(transaction=False)
            for _ in range(min(TRIP, int(now * rate) - sent)):  # what is not sent lies in memory
                adding.xadd(STREAM, fields)
                sent += 1
            await adding.execute()
            if now >= len(samples) * until_s / SAMPLES:
                samples.append([resident(process.pid), descriptors(process.pid), await redis.xlen(STREAM)])
            await asyncio.sleep(TRIP_S if sent >= now * rate - TRIP else 0.0)
        process.send_signal(signal.SIGTERM)
        found = await told(process)
    say("soak", f"{until_s / 60:g} minutes: consumed", found["handled"] / until_s, "messages/s", "sent", sent / until_s)
    tenth = SAMPLES // 10
    for place, (case, unit) in enumerate((("memory", "MB"), ("file descriptors", "open"), ("lag", "messages"))):
        values = [sample[place] for sample in samples]
        first, last = (statistics.median(part) for part in (values[tenth : 2 * tenth], values[-tenth:]))
        say("soak", f"{case}, the last tenth", last, unit, "the second tenth", first)
        say("soak", f"{case}, the most", max(values), unit)


def resident(pid):
    """Megabytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def descriptors(pid):
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


CASES = {"throughput": throughput, "latency": latency, "outage": outage, "soak": soak}


async def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", help=", ".join(CASES))
    parser.add_argument("--minutes", type=float, default=60.0, help="of soak")
    parser.add_argument("--rate", type=float, help="messages a second of soak")
    parser.add_argument("--quick", action="store_true", help="small backlogs, two seconds, a soak of six")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        running = embedded.start(Path(home))
        try:
            async with connect(running.url) as redis:
                for name in given.cases or ("throughput", "latency", "outage"):
                    await CASES[name](running.url, redis, given)
        finally:
            running.stop()


if __name__ == "__main__":
    asyncio.run(main())
