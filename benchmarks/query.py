"""Queries through an edge: what the stream costs, how many clients it serves, and what overload and a new bundle do.

    python benchmarks/query.py [PART ...]   hop, http, clients, overload, refusals, swap, rest; all when none is named
    --peers PYTHON      a Python with taskiq-redis, for the peer beside redis-py and FastStream's request()
    --genesis DIR       the constellation that answers (data/genesis)

A broker and one edge are started from nothing, as `qig up` does; this process releases the bundles and is the client.
Times are wall-clock, seconds; peers run in the same minute on the same machine and answer at once, without a kernel.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # before numpy: it reads them when it is imported

import httpx2
import msgpack

from common.client import Client
from common.constellation import parts as bundle_parts
from common.runtime import keys, store, streams
from common.runtime.connection import connect
from common.wire.bundle import part_of, sign
from common.wire.codec import pack
from common.wire.inference import Query
from common.wire.messages import Candidate, Evidence
from services.cli.fleet import Fleet
from services.edge.generation import Generation
from services.publisher import metadata
from services.trainer import folder

CLAIMS = {
    "hop": "the stream adds at most 2 ms (p50) and 10 ms (p99) to the in-process engine at half load",
    "first": "time to first token p50 at most 5 ms at half load",
    "clients": "32 concurrent clients get at least 3 times the tokens a second of one",
    "slow": "a client that reads slowly or vanishes slows nobody",
    "overload": "ten times the load for a minute: every query is answered or refused, and latency is normal 2 s later",
    "swap": "a new bundle under full load loses no query and delays none by more than 50 ms",
    "rest": "an idle edge holds at most 300 MB and is ready 3 s after its start",
}
NODE = "edge-1"
PEERS = Path(__file__).parent / "peers" / "request.py"
PROMPTS = (
    "The whale rose beside the boat",
    "To reduce the public debt,",
    "heron: a large wading bird",
    "O sing to me of love",
)
TOKENS = 32
HOP_QUERIES = 400
CLIENT_SECONDS = 8.0
OVERLOAD_SECONDS = 60.0


def say(claim, case, value, unit, peer=None, peer_value=None):
    ratio = None if not peer_value else value / peer_value
    row = {"claim": CLAIMS[claim], "case": case, "value": value, "unit": unit, "peer": peer}
    print(json.dumps(row | {"peer_value": peer_value, "ratio": ratio}), flush=True)


def quantile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def prompt(number):
    return PROMPTS[number % len(PROMPTS)]


class Bench:
    """A fleet of one edge, and a client of it."""

    def __init__(self, fleet, home, redis, parts, peers):
        self.fleet, self.home, self.redis, self.parts, self.peers = fleet, home, redis, parts, peers
        self.constellation = bundle_parts.load(parts)

    def client(self, name=None):
        return Client(self.fleet.broker_url, name=name)

    def engine(self, number, tokens=TOKENS):
        """Seconds to the first text and to the end, of the same query in this process."""
        began = time.perf_counter()
        query = Query(id="q", text=prompt(number), max_tokens=tokens, seed=number, store=False)
        generation, first = Generation(self.constellation, query, "q"), None
        for piece in generation:
            if piece and first is None:
                first = time.perf_counter() - began
        whole = time.perf_counter() - began
        return first or whole, whole, generation.tokens


async def timed(client, number, tokens=TOKENS, **fields):
    """Seconds to the first piece and to the answer, and its tokens."""
    began, first = time.perf_counter(), None
    reply = client.stream(prompt(number), max_tokens=tokens, seed=number, store=False, **fields)
    async for _ in reply:
        first = first or time.perf_counter() - began
    whole = time.perf_counter() - began
    return first or whole, whole, reply.answer.completion_tokens


async def closed_loop(bench, clients, seconds):
    """So many clients, each asking again as soon as it is answered; tokens a second."""
    until, made = time.perf_counter() + seconds, 0

    async def one(place):
        nonlocal made
        async with bench.client() as client:
            number = place
            while time.perf_counter() < until:
                answer = await client.ask(prompt(number), max_tokens=TOKENS, seed=number, store=False)
                made += answer.completion_tokens
                number += clients

    began = time.perf_counter()
    await asyncio.gather(*(one(place) for place in range(clients)))
    return made / (time.perf_counter() - began)


async def hop(bench):
    """Open loop, Poisson arrivals at half of what 32 clients get; in turns with the engine alone."""
    rate = await closed_loop(bench, 32, 4.0)
    every = 2.0 * TOKENS / rate
    ours, alone, chance = [], [], random.Random(1)
    async with bench.client() as client:
        for number in range(20):
            await timed(client, number)
        asked = []
        for number in range(HOP_QUERIES):
            asked.append(asyncio.create_task(timed(client, number)))
            await asyncio.sleep(chance.expovariate(1.0 / every))
        ours = await asyncio.gather(*asked)
    alone = [await asyncio.to_thread(bench.engine, number) for number in range(HOP_QUERIES)]
    for place, part in enumerate(("first token", "answer")):
        for share, name in ((0.5, "p50"), (0.99, "p99")):
            mine = quantile([each[place] for each in ours], share)
            engine = quantile([each[place] for each in alone], share)
            say("first" if (place, name) == (0, "p50") else "hop", f"{part}, {name}", mine, "s", "engine alone", engine)
    over = [mine[1] - engine[1] for mine, engine in zip(ours, alone, strict=True)]
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        say("hop", f"the stream's part of an answer, {name}", quantile(over, share), "s")
    await peers(bench, every)


async def http(bench):
    """The same by OpenAI's API on one kept connection: from the request to the first text, and to the end."""
    base = bench.fleet.members[NODE].url
    every, took, chance = 2.0 * TOKENS / await closed_loop(bench, 32, 4.0), [], random.Random(1)

    async def one(client, number):
        began, first = time.perf_counter(), None
        body = {"model": "constellation", "prompt": prompt(number), "max_tokens": TOKENS, "seed": number}
        async with client.stream("POST", "/v1/completions", json=body | {"stream": True, "store": False}) as lines:
            async for line in lines.aiter_lines():
                if first is None and line.startswith("data: {"):
                    first = time.perf_counter() - began
        took.append((first, time.perf_counter() - began))

    async with httpx2.AsyncClient(base_url=base, timeout=60) as client:
        for number in range(20):
            await one(client, number)
        took.clear()
        asked = []
        for number in range(HOP_QUERIES):
            asked.append(asyncio.create_task(one(client, number)))
            await asyncio.sleep(chance.expovariate(1.0 / every))
        await asyncio.gather(*asked)
    for place, part in enumerate(("first token", "answer")):
        for share, name in ((0.5, "p50"), (0.99, "p99")):
            say("first", f"HTTP: {part}, {name}", quantile([each[place] for each in took], share), "s")


async def peers(bench, every):
    """The same arrivals at services that answer at once."""
    for name, python in (("redis", sys.executable), ("faststream", sys.executable), ("taskiq", bench.peers)):
        if python is None:
            print("taskiq-redis is left out: name a Python that has it with --peers", file=sys.stderr)
            continue
        command = [python, PEERS, name, bench.fleet.broker_url, str(HOP_QUERIES), str(every), *PROMPTS]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name}: {done.stderr[-600:]}", file=sys.stderr)
            continue
        for row in done.stdout.splitlines():
            case, value = row.split("\t")
            say("hop", f"{name}: {case}", float(value), "s")


async def clients(bench):
    one = await closed_loop(bench, 1, CLIENT_SECONDS)
    many = await closed_loop(bench, 32, CLIENT_SECONDS)
    say("clients", "32 clients", many, "tokens/s", "one client", one)
    async with bench.client() as quick, bench.client() as others:
        took = {}
        for reads in (True, False):
            asking = [asyncio.create_task(beside(others, number, reads=reads)) for number in range(8)]
            took[reads] = [(await timed(quick, number))[1] for number in range(200)]
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        value, peer = quantile(took[False], share), quantile(took[True], share)
        say("slow", f"beside 8 clients that stop reading and vanish, {name}", value, "s", "beside 8 that read", peer)


async def beside(client, number, *, reads):
    """Asks for long answers for ever, leaving each after a second; reads what comes, or only the first of it."""
    while True:
        reply = client.stream(prompt(number), max_tokens=1024, temperature=1.5, store=False)
        async with contextlib.aclosing(aiter(reply)) as pieces:
            await anext(pieces, None)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    if not reads:
                        await asyncio.Event().wait()
                    async for _ in pieces:
                        pass


async def overload(bench):
    """Ten times the load that 32 clients get, with a deadline of a second, for a minute; and then a normal one.

    The load is packed queries added by the dozen, and of its answers no more is read than how they ended: a client of
    ours for each would take more of this machine than the edge that is measured.
    """
    rate = await closed_loop(bench, 32, 4.0)
    every = TOKENS / rate / 10.0
    pid = bench.fleet.members[NODE].pid
    async with bench.client() as client, contextlib.aclosing(connect(bench.fleet.broker_url)) as reader:
        usual = [(await timed(client, n))[1] for n in range(50)]
        before, asked, ended = resident(pid), {}, {}
        reading = asyncio.create_task(endings(reader, "flood", ended))
        began, number, most = time.perf_counter(), 0, before
        while (now := time.perf_counter() - began) < OVERLOAD_SECONDS:
            adding = bench.redis.pipeline(transaction=False)
            while number * every < now:
                wishes = {"max_tokens": TOKENS, "seed": number, "store": False, "deadline_s": 1.0}
                query = Query(id=str(number), client="flood", text=prompt(number), **wishes)
                adding.xadd(streams.QUERIES, {streams.DATA_FIELD: pack(query)})
                asked[query.id] = time.perf_counter()
                number += 1
            await adding.execute()
            most = max(most, resident(pid))
            await asyncio.sleep(0.005)
        stopped = time.perf_counter()
        after = []
        while time.perf_counter() - stopped < 6.0:
            at = time.perf_counter() - stopped
            after.append((at, (await timed(client, len(after)))[1]))
        reading.cancel()
    outcomes = {
        name: ("late" if at - asked[name] > 1.0 and how == "answered" else how) for name, (how, at) in ended.items()
    }
    for how in sorted(set(outcomes.values())):
        say("overload", f"of {number} queries: {how}", [*outcomes.values()].count(how), "queries")
    answered, possible = [*outcomes.values()].count("answered"), OVERLOAD_SECONDS * rate / TOKENS
    say("overload", "answered in time", answered / OVERLOAD_SECONDS, "answers/s", "without overload", rate / TOKENS)
    say("overload", "neither answered nor refused", number - len(outcomes), "queries", "answers possible", possible)
    say("overload", "memory, the most", most / 1e6, "MB", "before", before / 1e6)
    normal = 2.0 * quantile(usual, 0.95)
    back = next((at for at, took in after if took <= normal), None)
    say("overload", "until an answer takes no longer than twice the usual p95", back, "s")


async def endings(redis, client, ended):
    """How each query of a client ends, and when: into `ended`, by its id."""
    last = "0"
    while True:
        for _, entries in await redis.xread({streams.answers(client): last}, count=1000, block=1000):
            now = time.perf_counter()
            for last, fields in entries:  # noqa: B007 -- the last one read is where the next read begins
                answer = msgpack.unpackb(fields[streams.DATA_FIELD.encode()])
                done = answer["finish"] in ("stop", "length")
                ended[answer["query_id"]] = "answered" if done else answer["problem"]["code"], now


async def refusals(bench):
    """Three hundred requests at once for ten seconds: every status that is not 200 tells when to come again."""
    counts, untold, until = {}, 0, time.perf_counter() + 10.0

    async def one(client, place):
        nonlocal untold
        while time.perf_counter() < until:
            body = {"model": "constellation", "prompt": prompt(place), "max_tokens": TOKENS, "store": False}
            answer = await client.post("/v1/completions", json=body)
            counts[answer.status_code] = counts.get(answer.status_code, 0) + 1
            untold += answer.status_code != 200 and "retry-after" not in answer.headers

    limits = httpx2.Limits(max_connections=300)
    async with httpx2.AsyncClient(base_url=bench.fleet.members[NODE].url, timeout=60, limits=limits) as client:
        await asyncio.gather(*(one(client, place) for place in range(300)))
    for status, count in sorted(counts.items()):
        say("overload", f"HTTP, 300 requests at once: {status}", count, "answers")
    say("overload", "HTTP: refused without a retry-after", untold, "answers")


async def swap(bench):
    """New bundles of the same parts while 16 clients ask: each answer's time beside that of the seconds before."""
    until, took = time.perf_counter() + 20.0, []

    async def one(place):
        async with bench.client() as client:
            number = place
            while time.perf_counter() < until:
                began = time.perf_counter()
                answer = await client.ask(prompt(number), max_tokens=TOKENS, seed=number, store=False)
                took.append((began, time.perf_counter() - began, answer.bundle))
                number += 16

    asking = [asyncio.create_task(one(place)) for place in range(16)]
    released = []
    for version in (2, 3):
        await asyncio.sleep(6.0)
        released.append(time.perf_counter())
        await release(bench, version)
    await asyncio.gather(*asking)
    quiet = [each for began, each, _ in took if began < released[0]]
    changing = [each for began, each, bundle in took if began >= released[0]]
    say(
        "swap",
        f"answers by bundle {[sum(b == v for _, _, b in took) for v in (1, 2, 3)]}, slowest",
        max(changing),
        "s",
        "slowest before",
        max(quiet),
    )
    say("swap", "p99", quantile(changing, 0.99), "s", "before", quantile(quiet, 0.99))


async def release(bench, version):
    """What a publisher does: parts in the store, a listed bundle in the stream. Each version has a part of its own."""
    parts = bench.parts | {"notes.bin": str(version).encode()}
    for data in parts.values():
        await store.put(bench.redis, data)
    candidate = Candidate(
        id=f"c-{version}",
        parent=version - 1,
        parent_digest="ab" * 32 if version > 1 else "",
        parts={path: part_of(data) for path, data in parts.items()},
        evidence=Evidence(),
    )
    key = keys.load_private(bench.home, keys.PUBLISHER)
    bundle = sign(candidate, version=version, released_at_s=time.time(), signing_key=key)
    released = {version: pack(bundle)}
    held = {name.decode(): data for name, data in (await bench.redis.hgetall(streams.METADATA)).items()}
    files = metadata.signed(keys.load_offline(bench.home), released, held, key, now_s=time.time())
    await bench.redis.hset(streams.METADATA, mapping=dict(files))
    await bench.redis.xadd(streams.BUNDLES, {streams.DATA_FIELD: released[version]})


async def rest(bench):
    say("rest", "resident memory of the edge, idle", resident(bench.fleet.members[NODE].pid) / 1e6, "MB")
    began = time.perf_counter()
    await bench.fleet.restart(NODE)
    await bench.fleet.wait_ready(NODE)
    say("rest", "from start to ready, caches warm", time.perf_counter() - began, "s")


def resident(pid):
    """Resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


PARTS = {
    "hop": hop,
    "http": http,
    "clients": clients,
    "overload": overload,
    "refusals": refusals,
    "swap": swap,
    "rest": rest,
}


async def measure(given):
    parts = folder.read(given.genesis)
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        async with Fleet(home) as fleet, connect(fleet.broker_url) as redis:
            keys.init(home, [NODE])
            bench = Bench(fleet, home, redis, parts, given.peers)
            await release(bench, 1)
            await fleet.start("edge", NODE)
            await fleet.wait_ready(NODE)
            async with bench.client() as client:
                for number in range(8):
                    await timed(client, number)
            bench.engine(0)
            for part in given.parts or PARTS:
                await PARTS[part](bench)


def main():
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("parts", nargs="*", default=[], help=", ".join(PARTS))
    asked.add_argument("--genesis", type=Path, default=Path("data/genesis"))
    asked.add_argument("--peers", help="a Python that has taskiq-redis")
    asyncio.run(measure(asked.parse_args()))


if __name__ == "__main__":
    main()
