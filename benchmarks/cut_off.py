"""Claim: an edge that is cut off for ten minutes answers HTTP, keeps its packets, and is in step 5 s after it is back.

    python benchmarks/cut_off.py [--minutes 1]

An edge in a process of its own, with the shipped genesis; its broker is stopped, and for so many minutes nobody is
there. Meanwhile it is asked over HTTP each second, learns from it and folds packets. Then the broker is started again
on its data, a query is added and a bundle released. In step: the query is answered, every packet is in its stream, and
the edge says that it is ready. A bundle serves once the edge has tried it on its own text, which takes its processor as
long as it takes: the peer is the next one, which comes with no cut before.
"""

import argparse
import asyncio
import contextlib
import json
import os
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # before numpy: it reads them when it is imported

import httpx2

from common.runtime import embedded, keys, streams
from common.runtime.broker import Broker
from common.runtime.connection import connect
from common.runtime.entries import body_of
from common.wire.bundle import part_of, sign
from common.wire.codec import pack, unpack
from common.wire.inference import Answer, Query
from common.wire.messages import Applied, Candidate, Evidence
from services.edge.app import state_dir
from services.publisher import metadata
from services.trainer import folder

CLAIM = "an edge that is cut off answers, keeps its packets, and is in step in 5 s"
NODE = "edge-1"
TEXTS = ("The king spake unto the people, and the people answered the king. ", "The whale came up beside the boat. ")
COMPILED_S = 180.0  # the first edge on a machine compiles its kernels
IN_STEP_S = 5.0
GIVE_UP_S = 120.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(_cut_off(Path(scratch), 60 * given.minutes))


async def _cut_off(home, cut_s):
    keys.init(home, [NODE])
    parts = folder.read(folder.shipped(Path("data")))
    running = await asyncio.to_thread(embedded.start, home / "broker")
    port = int(running.url.rpartition(":")[2])
    edge, url = _edge(home, running.url)
    try:
        async with connect(running.url) as redis, httpx2.AsyncClient(base_url=url, timeout=10) as http:
            releases = {1: await _release(redis, home, {}, parts)}
            await _until(lambda: _ready(http), COMPILED_S)
            there = [await _ask(http, n) for n in range(20)]
            await asyncio.to_thread(running.stop)
            away = await _asked_for(http, cut_s)
            unready = await http.get("/readyz")
            kept = _folded(home)

            running = await asyncio.to_thread(embedded.start, home / "broker", port)
            began_s = time.monotonic()
            await redis.xadd(
                streams.QUERIES, {streams.DATA_FIELD: pack(Query(id="asked", text=TEXTS[0], max_tokens=1))}
            )
            releases[2] = await _release(redis, home, releases, parts | {"notes.bin": b"2"})
            steps = _steps(redis, http, kept)
            took_s = await asyncio.gather(*(_seconds(step, began_s) for step in steps.values()))
            tried_s = await _seconds(lambda: _applied(redis, 2), began_s)
            began_s = time.monotonic()
            await _release(redis, home, releases, parts | {"notes.bin": b"3"})
            uncut_s = await _seconds(lambda: _applied(redis, 3), began_s)
    finally:
        edge.terminate()
        edge.wait()
        running.stop()
    _show("requests while it was cut off", len(away), "requests", answered=sum(ok for ok, _ in away))
    for what, asked in (("before", there), ("cut off", away)):
        _show(f"a request, median, {what}", 1e3 * statistics.median(each_s for _, each_s in asked), "ms")
    _show("the slowest request while it was cut off", 1e3 * max(each_s for _, each_s in away), "ms")
    _show("packets kept, and all in their stream afterwards", kept, "packets")
    for step, each_s in zip(steps, took_s, strict=True):
        _show(f"after it is back, {step}", each_s, "s", peer="limit", peer_value=IN_STEP_S)
    _show(
        "after it is back, a bundle is tried and serves",
        tried_s,
        "s",
        peer="with no cut before",
        peer_value=round(uncut_s, 3),
    )
    if not all(ok for ok, _ in away) or not kept or max(took_s) > IN_STEP_S or unready.status_code != 503:
        raise SystemExit(f"not so: {unready.status_code} of /readyz while it was cut off")


def _edge(home, broker_url):
    """The process, and its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    told = {
        "QIG_HOME": str(home), "QIG_NODE": NODE, "QIG_BROKER_URL": broker_url, "QIG_HTTP_PORT": str(port),
        "QIG_SLEEP_AFTER_BYTES": "2000", "QIG_SLEEP_IDLE_S": "0",
    }  # fmt: skip
    log = (home / "edge.log").open("wb")
    edge = subprocess.Popen([sys.executable, "-m", "services.edge.app"], env=os.environ | told, stdout=log, stderr=log)
    return edge, f"http://127.0.0.1:{port}"


async def _release(redis, home, releases, parts):
    """The next version, listed; its message."""
    broker, key, version = Broker(redis), keys.load_private(home, keys.PUBLISHER), len(releases) + 1
    for data in parts.values():
        await broker.put_blob(data)
    candidate = Candidate(
        id=f"c{version}", parent=version - 1, parent_digest="ab" * 32 if releases else "",
        parts={path: part_of(data) for path, data in parts.items()}, evidence=Evidence(),
    )  # fmt: skip
    message = pack(sign(candidate, version=version, released_at_s=time.time(), signing_key=key))
    held = {name.decode(): data for name, data in (await redis.hgetall(streams.METADATA)).items()}
    files = metadata.signed(keys.load_offline(home), releases | {version: message}, held, key, now_s=time.time())
    await redis.hset(streams.METADATA, mapping=dict(files))
    await broker.produce(streams.BUNDLES, message, f"v{version}")
    return message


async def _asked_for(http, cut_s):
    """Whether each request was answered, and the seconds it took."""
    asked, end_s = [], time.monotonic() + cut_s
    while time.monotonic() < end_s:
        asked.append(await _ask(http, len(asked)))
        await asyncio.sleep(max(0.0, 1.0 - asked[-1][1]))
    return asked


async def _ask(http, number):
    body = {"model": "constellation", "prompt": f"{TEXTS[number % 2]}{TEXTS[number % 3 % 2]}", "max_tokens": 8}
    began_s = time.monotonic()
    told = await http.post("/v1/completions", json=body)
    return told.status_code == 200, time.monotonic() - began_s


def _folded(home):
    """How many packets are in the edge's file."""
    file = state_dir(home, NODE) / "edge.db"
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as reader:
        return reader.execute("SELECT count(*) FROM packets").fetchone()[0]


async def _ready(http):
    with contextlib.suppress(httpx2.TransportError):
        return (await http.get("/readyz")).status_code == 200
    return False


def _steps(redis, http, kept):
    """What must be so again, by name."""

    async def sent():
        return await redis.xlen(streams.PACKETS) >= kept

    async def answered():
        said = [unpack(Answer, body_of(fields)) for _, fields in await redis.xrange(streams.answers("anonymous"))]
        return any(each.query_id == "asked" for each in said)

    ready = {"it is ready": lambda: _ready(http)}
    return {"the query is answered": answered, "its packets are in their stream": sent} | ready


async def _applied(redis, version):
    told = [unpack(Applied, body_of(fields)) for _, fields in await redis.xrange(streams.APPLIED)]
    return any((each.version, each.verdict) == (version, "applied") for each in told)


async def _seconds(step, began_s):
    await _until(step, GIVE_UP_S)
    return time.monotonic() - began_s


async def _until(condition, limit_s):
    async with asyncio.timeout(limit_s):
        while not await condition():  # noqa: ASYNC110 -- what is waited for is another process
            await asyncio.sleep(0.02)


def _show(case, value, unit, **more):
    print(json.dumps({"claim": CLAIM, "case": case, "value": round(value, 3), "unit": unit, **more}), flush=True)


if __name__ == "__main__":
    main()
