"""An edge on another host than the broker and the centre, and the link between them."""

import asyncio
import http.client
import json
import os
import random
import sys
import time
from contextlib import asynccontextmanager, suppress

import pytest
from broker_hosts import hosts
from broker_many import Server
from broker_node import Node
from centre import Centre
from edge_fleet import NODE, TEXT, Publisher
from micro import SENTENCES

from common.client.client import Client
from common.runtime import connection, keys, store, streams, subscription
from common.runtime.broker import Broker
from common.runtime.connection import connect
from common.runtime.consumer import Consumer
from services.aggregator.app.hashes import LEDGER

pytestmark = [pytest.mark.live, pytest.mark.anyio, pytest.mark.timeout(300)]  # the first edge compiles its kernels
PORT = 8000
STARTED_S = 60.0  # the first edge on a machine compiles its kernels
CUT_S = 7.0  # longer than a silence is borne, and the end of it in the longest pause of the kernel's own tries
IN_STEP_S = 5.0


@pytest.fixture(scope="module")
def standing():
    with hosts() as made:
        yield made


@pytest.fixture
def link(standing):
    link = standing[2]
    yield link
    link.delay_s, link.loss, link.bytes_per_s = 0.0, 0.0, None


@pytest.fixture(scope="module")
async def redis(standing, tmp_path_factory, micro_parts, eventually):
    """Of a broker here with an aggregator beside it; an edge is ready on the other host."""
    (here, far, _), folder = standing, tmp_path_factory.mktemp("two")
    options = {"bind": f"127.0.0.1 {here.address}", "protected-mode": "no", "appendonly": "yes", "save": ""}
    server = Server(folder / "broker", options)
    server.start()
    url = f"redis://{here.address}:{server.port}"
    keys.init(folder, [NODE])
    try:
        async with connect(url) as redis:
            await Publisher(Broker(redis), folder).release(micro_parts)
            patient = Centre(folder, url, Broker(redis), micro_parts).running(
                "aggregator", batch_packets=256, batch_age_s=3_600
            )  # what is in the ledger stays there
            async with patient, edge_on(far, folder, url):
                await eventually(lambda: ready(far), STARTED_S)
                await eventually(lambda: has_learned(redis, far), STARTED_S)  # what it folds by is compiled, too
                redis.url = url
                yield redis
    finally:
        server.kill()


@asynccontextmanager
async def edge_on(host, home, url):
    """An edge's process there."""
    settings = {
        "BROKER_URL": url, "HOME": home, "NODE": NODE, "HTTP_PORT": PORT,
        "SLEEP_AFTER_BYTES": 200, "SLEEP_IDLE_S": 0, "PROBE_SHARE": 1_000_000,
    }  # fmt: skip
    environ = os.environ | {f"QIG_{name}": str(value) for name, value in settings.items()}
    with (home / "edge.log").open("wb") as log:
        process = host.start([sys.executable, "-m", "services.edge.app"], env=environ, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait)


def request(method, path, body=None):
    """An answer of the edge's HTTP on its own host: status, and what it says."""
    asking = http.client.HTTPConnection("127.0.0.1", PORT, timeout=5)
    try:
        asking.request(method, path, json.dumps(body), {"content-type": "application/json"})
        answer = asking.getresponse()
        return answer.status, answer.read()
    finally:
        asking.close()


async def ready(host):
    with suppress(OSError):
        return (await host.call(lambda: request("GET", "/readyz")))[0] == 200
    return False


async def has_learned(redis, host):
    await complete(host, SENTENCES["heart"])
    return await in_ledger(redis, 0)


async def complete(host, prompt=SENTENCES["vocab"]):
    """Seconds that a completion took there."""
    began = time.monotonic()
    wish = {"model": "constellation", "prompt": prompt, "max_tokens": 4}
    status, said = await host.call(lambda: request("POST", "/v1/completions", wish))
    assert status == 200, said
    return time.monotonic() - began


async def in_ledger(redis, more_than):
    return await redis.hlen(LEDGER) > more_than


async def test_over_a_slow_and_lossy_link_queries_are_answered_and_a_packet_arrives(redis, link, eventually):
    before = await redis.hlen(LEDGER)
    link.delay_s, link.loss = 0.1, 0.05  # a way: 200 ms a round trip, of which one in ten loses something
    async with Client(redis.url) as client:
        said = await asyncio.gather(*(client.ask(TEXT, max_tokens=4, deadline_s=20) for _ in range(8)))
    assert {answer.node for answer in said} == {NODE}
    await eventually(lambda: in_ledger(redis, before), 20)


async def test_while_the_link_is_cut_the_edge_goes_on_and_it_is_in_step_soon_after(redis, standing, link, eventually):
    far = standing[1]
    async with Client(redis.url) as client:
        link.loss = 1.0
        asked = asyncio.create_task(client.ask("to the sea", max_tokens=4))
        took, before, until = [], await redis.hlen(LEDGER), time.monotonic() + CUT_S
        while time.monotonic() < until:
            took.append(await complete(far))
            await asyncio.sleep(0.1)
        assert max(took) < 2.0
        assert not await ready(far)
        assert not asked.done()
        link.loss, back, in_step = 0.0, time.monotonic(), {}
        waits = {"answered": asked.done, "ready": lambda: ready(far), "packet": lambda: in_ledger(redis, before)}
        for what, held in waits.items():
            await eventually(held)
            in_step[what] = time.monotonic() - back
        assert max(in_step.values()) < IN_STEP_S, in_step
        await asked


async def test_a_blob_comes_over_a_link_on_which_a_chunk_takes_longer_than_a_timeout(
    redis, standing, link, monkeypatch
):
    data = random.Random(5).randbytes(96_000)
    digest = await Broker(redis).put_blob(data)
    monkeypatch.setattr(connection, "SOCKET_TIMEOUT_S", 1.0)
    link.bytes_per_s = 48_000

    async def fetch():
        async with connect(redis.url, retries=0) as far:
            return await store.get(far, digest, len(data))

    assert await standing[1].call(lambda: asyncio.run(fetch())) == data


async def test_a_backlog_comes_over_a_link_on_which_it_takes_longer_than_a_timeout(
    redis, standing, link, monkeypatch, eventually
):
    bodies = [random.Random(number).randbytes(1_200) for number in range(128)]
    for body in bodies:
        await redis.xadd(streams.BATCHES, {"__data__": body})
    monkeypatch.setattr(connection, "SOCKET_TIMEOUT_S", 2.0)
    monkeypatch.setattr(subscription, "READ_BLOCK_MS", 500)
    link.bytes_per_s = 48_000
    taken = []

    async def handle(delivery, body):
        taken.append((body, delivery.deliveries))
        return []

    async def consume():
        node = Node(redis.url, Consumer(streams.BATCHES, "trainer", bytes, handle, max_records=len(bodies)), "far")
        await node.start()
        await eventually(lambda: len(taken) >= len(bodies), 20)
        await node.stop()

    await standing[1].call(lambda: asyncio.run(consume()))
    assert taken == [(body, 1) for body in bodies]
