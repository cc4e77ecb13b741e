"""Claims: to believe a bundle costs kilobytes and milliseconds; 10 MB are believed, applied and serve in a second, and
are gone back from in less.

    python benchmarks/trust.py [bytes] [look] [apply] [import]

On an embedded broker. bytes: what a release writes there, with one release listed and with the most. look: time to sign
the list, to read and verify it with nothing remembered and as an edge that was there at the release before, and to
refuse a forged bundle while the list is what it was; the peer is one ed25519 signature over the same message. apply: an
edge with the shipped genesis is given a bundle with 10 MB that it lacks: verify, fetch, try, write the slot, swap; and
how much of the time it used a processor; then what it costs to watch it, a look at 4 KB of fresh text read and said by
both, and to go back: the look that finds it bad, with what was learned meanwhile. import: what the room adds to an
edge's start and memory.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # before numpy: it reads them when it is imported

from common.errors import Corrupt
from common.runtime import embedded, keys, streams
from common.runtime.broker import Broker
from common.runtime.connection import connect
from common.runtime.entries import Delivery
from common.runtime.settings import EdgeSettings
from common.runtime.trust import Trust
from common.wire.bundle import part_of, sign, verify
from common.wire.codec import pack, unpack
from common.wire.inference import Query
from common.wire.messages import Bundle, Candidate, Evidence
from services.edge.app import Edge, state_dir
from services.edge.app.health import READ_MAX_BYTES
from services.edge.health import FAILED_MIN
from services.edge.record import Record
from services.edge.slots import Slots
from services.publisher import metadata
from services.trainer import folder, text

NODE = "edge-1"
REPEATS = 25
BIG_BYTES = 10_000_000
APPLY_LIMIT_S = 1.0
TEXT_CHARS, TEXTS = 1000, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], default=[])
    given = parser.parse_args()
    for case in given.cases or CASES:
        with tempfile.TemporaryDirectory() as scratch:
            CASES[case](Path(scratch))


def say(case, value, unit, *, peer=None, peer_value=None, decimals=3):
    ratio = None if not peer_value else round(value / peer_value, 3)
    line = {
        "claim": "trust", "case": case, "value": round(value, decimals), "unit": unit,
        "peer": peer, "peer_value": peer_value if peer_value is None else round(peer_value, decimals), "ratio": ratio,
    }  # fmt: skip
    print(json.dumps(line), flush=True)


def message(home, version, parts):
    candidate = Candidate(
        id=f"c{version}", parent=version - 1, parent_digest="ab" * 32 if version > 1 else "",
        parts={path: part_of(data) for path, data in parts.items()}, evidence=Evidence(),
    )  # fmt: skip
    key = keys.load_private(home, keys.PUBLISHER)
    return pack(sign(candidate, version=version, released_at_s=time.time(), signing_key=key))


def signed(home, releases, held):
    """The publisher's files, as it makes them."""
    key = keys.load_private(home, keys.PUBLISHER)
    return metadata.signed(keys.load_offline(home), metadata.newest(releases), held, key, now_s=time.time())


def sizes(scratch):
    keys.init(scratch, [])
    for count in (1, metadata.LISTED):
        releases = {version: message(scratch, version, {"a": b"a"}) for version in range(1, count + 1)}
        files = signed(scratch, releases, {})
        new = {name: data for name, data in files.items() if "root" not in name and "targets" not in name}
        what = f"metadata that a release writes, {count} listed"
        say(what, sum(map(len, new.values())), "B", peer="one signature and key id", peer_value=72, decimals=0)
    fixed = sum(len(data) for name, data in files.items() if name not in new)
    say("root and targets metadata, read once", fixed, "B", decimals=0)


def look(scratch):
    with broker_below(scratch) as url:
        asyncio.run(_look(scratch, url))


async def _look(home, url):
    keys.init(home, [])
    releases = {version: message(home, version, {"a": b"a"}) for version in range(1, metadata.LISTED + REPEATS)}
    public = keys.load_private(home, keys.PUBLISHER).verify_key
    times = {"sign the list": [], "first look": [], "look after a release": [], "refuse a forged bundle": []}
    async with connect(url) as redis:
        there, held = Trust(redis, keys.load_root(home), home / "there"), {}
        for number in range(REPEATS):
            version = metadata.LISTED + number - 1
            known = {each: data for each, data in releases.items() if each <= version}
            with timed(times["sign the list"]):
                held = dict(held) | dict(signed(home, known, held))
            await redis.hset(streams.METADATA, mapping=held)
            with timed(times["first look"]):
                await Trust(redis, keys.load_root(home), home / f"new{number}").verify(version, releases[version])
            with timed(times["look after a release"]):
                await there.verify(version, releases[version])
            with timed(times["refuse a forged bundle"]):
                await refused(there, version + 1)
    alone = []
    for data in list(releases.values())[:REPEATS]:
        with timed(alone):
            verify(unpack(Bundle, data), public)
    for what, took in times.items():
        say(f"{what}, {metadata.LISTED} listed, median of {REPEATS}", 1e3 * statistics.median(took), "ms",
            peer="unpack and verify one signature", peer_value=1e3 * statistics.median(alone))  # fmt: skip


async def refused(trust, version):
    try:
        await trust.verify(version, b"forged")
    except Corrupt:
        return
    raise AssertionError(version)


def apply(scratch):
    with broker_below(scratch) as url:
        asyncio.run(_apply(scratch, url))


async def _apply(home, url):
    keys.init(home, [NODE])
    settings = EdgeSettings(broker_url=url, home=home, node=NODE, http_port=0)
    parts = folder.read(folder.shipped(Path("data")))
    async with connect(url) as redis:
        broker, state = Broker(redis), state_dir(home, NODE)
        record = Record(state / "edge.db", now_s=time.time())
        trust = Trust(redis, keys.load_root(home), state / "trust")
        edge = Edge(settings, broker, record, Slots(state / "bundles"), trust)
        await edge.start()
        took, used, held, releases = [], [], {}, {}
        for version in range(1, 7):
            given = parts | {"notes.bin": os.urandom(BIG_BYTES)}
            for data in given.values():
                await broker.put_blob(data)
            releases[version] = message(home, version, given)
            held = dict(held) | dict(signed(home, releases, held))
            await redis.hset(streams.METADATA, mapping=held)
            entry = await redis.xadd(streams.BUNDLES, {streams.DATA_FIELD: releases[version]})
            with timed(took), timed(used, time.process_time):
                await edge.bundles.on_bundle(Delivery(streams.BUNDLES, entry.decode(), 0, 1, releases[version]))
            assert edge.node.serving.bundle == version
        looked, back = await _watched(edge)
        await edge.stop()
    size = sum(map(len, given.values())) / 1e6
    for what, each in (("time", took), ("processor time", used)):
        say(f"verify and apply, {what}: 10 MB new of {size:.1f}, median of 5", statistics.median(each[1:]), "s",
            peer="limit", peer_value=APPLY_LIMIT_S)  # fmt: skip

    say("go back, time", back[0], "s", peer="limit", peer_value=APPLY_LIMIT_S)
    say("go back, processor time", back[1], "s", peer="limit", peer_value=APPLY_LIMIT_S)
    say("watch: a look at 4 KB of fresh text, processor time", statistics.median(looked), "s")


async def _watched(edge):
    """Processor seconds of each look at 4 KB of fresh text, and what going back takes: seconds, and of a processor."""
    texts = [each for each in text.load(Path("data")).held_out["strategy"] if len(each) > TEXT_CHARS][:TEXTS]
    for number, each in enumerate(texts):
        query = Query(id=f"q{number}", text=each[:TEXT_CHARS], max_tokens=0)
        await edge.queries.on_query(Delivery(streams.QUERIES, f"{number + 1}-0", 0, 1, b""), query)
    await edge.sleep.round()
    looked, took, used = [], [], []
    for _ in range(len(texts) * TEXT_CHARS // READ_MAX_BYTES):
        with timed(looked, time.process_time):
            await edge.bundles.watch()
    for number in range(FAILED_MIN + len(texts)):
        edge.health.failed(f"failed {number}")
    with timed(took), timed(used, time.process_time):
        await edge.bundles.watch()
    assert edge.node.serving.bundle == 1  # none of the others served for long enough to prove good
    return looked, (took[0], used[0])


def imports(_scratch):
    code = """
import sys, time
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
import nacl.signing, redis.asyncio, pydantic, pydantic_settings, prometheus_client, faststream.redis, fastapi, numba
import common.runtime.store, common.wire.bundle
before, began = resident(), time.perf_counter()
import common.runtime.trust, common.runtime.keys
print(time.perf_counter() - began, resident() - before, *("requests" in sys.modules, "cryptography" in sys.modules))
"""
    times, memory = [], []
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        seconds, size, requests, cryptography = done.stdout.split()
        times.append(float(seconds))
        memory.append(int(size))
        assert (requests, cryptography) == ("False", "False")
    say("imported beside what an edge imports anyway, median of 5", 1e3 * statistics.median(times), "ms")
    say("resident memory of that", statistics.median(memory) / 1e6, "MB")


@contextmanager
def timed(took, clock=time.perf_counter):
    """Adds the seconds that its block took to a list."""
    began = clock()
    yield
    took.append(clock() - began)


@contextmanager
def broker_below(scratch):
    """A broker of its own; its address."""
    running = embedded.start(scratch / "broker")
    yield running.url
    running.stop()


CASES = {"bytes": sizes, "look": look, "apply": apply, "import": imports}

if __name__ == "__main__":
    main()
