"""An edge as Railway runs it and a worker as RunPod runs it, around one fleet: what it reads comes back as a bundle."""

import asyncio
import os
import signal
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
import runpod_api
from corpora import small_corpora

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "flow"))

from centre import NODES, Centre

from common.runtime import api_keys, keys, streams
from common.runtime.service import serve
from common.runtime.settings import RunPodSettings, TrainerSettings
from common.wire.messages import Applied
from deploy import railway_edge
from services.trainer import app as trainer
from services.trainer import folder

pytestmark = [pytest.mark.live, pytest.mark.anyio, pytest.mark.timeout(300)]

NODE = NODES[0]
KEY = "qig-secret"
TEXT = "The king spake unto the people, and the people answered the king. "
DRAINING_S = 30.0
DEADLINE_S = 90.0


@pytest.fixture
def data(tmp_path, micro_parts):
    """The text and genesis of the trainer's image, and so of the worker's."""
    runpod_api.needed()
    made = small_corpora(tmp_path / "data")
    folder.write(folder.pack(micro_parts), folder.shipped(made))
    return made


@pytest.fixture
def centre(tmp_path, broker_url, broker, micro_parts):
    home = tmp_path / "centre"
    keys.init(home, NODES)
    return Centre(home, broker_url, broker, micro_parts)


@asynccontextmanager
async def training(centre, data, url):
    """The trainer, which has its batches worked on at the endpoint."""
    settings = TrainerSettings(
        broker_url=centre.url, home=centre.home, http_port=0, node="trainer", data=data, genesis=centre.home / "genesis"
    )
    stop, there = asyncio.Event(), RunPodSettings(runpod_endpoint=url)
    life = asyncio.create_task(
        serve(settings, service="trainer", build=lambda broker: trainer.build(settings, broker, there), stop=stop)
    )
    try:
        yield
    finally:
        stop.set()
        await life


def railway(centre, volume, port):
    """The environment that .railway/railway.py, an operator and Railway give an edge."""
    known = api_keys.pack(api_keys.add((), "kiosk", KEY, now_s=1.0))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QIG_")}
    return kept | {
        "PYTHONPATH": str(Path.cwd()),
        "PORT": str(port),
        "RAILWAY_ENVIRONMENT_NAME": "production",
        "RAILWAY_ENVIRONMENT": "production",
        "RAILWAY_REPLICA_ID": "0b1f8b34-7a2d-4b7e-9a55-5f2f6d1c9e77",
        "QIG_HTTP_HOST": "0.0.0.0",
        "QIG_HTTP_PORT": "8000",
        "QIG_NODE": NODE,
        "QIG_HOME": str(volume),
        "QIG_BROKER_URL": centre.url,
        "QIG_SLEEP_AFTER_BYTES": "200",
        "QIG_SLEEP_IDLE_S": "0",
        railway_edge.KEY: keys.private_path(centre.home, NODE).read_text(),
        railway_edge.ROOT: keys.root_path(centre.home).read_text(),
        railway_edge.API_KEYS: known.decode(),
    }


@asynccontextmanager
async def edge(centre, volume, port):
    """The edge's process; it ends in good order, in the time that Railway gives it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "deploy/railway_edge.py", env=railway(centre, volume, port), stderr=asyncio.subprocess.PIPE
    )
    errors = asyncio.create_task(process.stderr.read())
    try:
        yield
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert await process.wait() == 0, (await errors).decode()[-4000:]
        assert time.monotonic() - began < DRAINING_S
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await errors


async def test_what_an_edge_on_railway_reads_comes_back_from_runpod_as_its_next_bundle(
    tmp_path, centre, data, eventually
):
    first, port, worker = await centre.release(), runpod_api.free_port(), tmp_path / "worker"
    worker.mkdir()
    addresses = [f"http://127.0.0.1:{port}", f"http://[::1]:{port}"]

    async def applied():
        told = await centre.read(streams.APPLIED, Applied)
        return (2, "applied") in [(each.version, each.verdict) for each in told]

    with runpod_api.api(data, worker) as url:
        async with (
            centre.running("aggregator", batch_packets=1),
            centre.running("publisher"),
            training(centre, data, url),
            edge(centre, tmp_path / "volume", port),
            httpx2.AsyncClient(headers={"authorization": f"Bearer {KEY}"}, timeout=30) as client,
        ):

            async def ready(address):
                try:
                    return (await client.get(f"{address}/readyz")).status_code == 200
                except httpx2.TransportError:
                    return False

            for number, address in enumerate(addresses):
                await eventually(lambda address=address: ready(address), DEADLINE_S)
                body = {"model": "percept", "prompt": TEXT * (8 + number), "max_tokens": 4}
                answer = await client.post(f"{address}/v1/completions", json=body)
                assert answer.status_code == 200, answer.text
                assert answer.json()["choices"][0]["text"]
            nobody = await client.post(f"{addresses[0]}/v1/completions", headers={"authorization": ""}, json={})
            assert nobody.status_code == 401
            await eventually(applied, DEADLINE_S)
    bundles = await centre.bundles()
    assert [bundle.parent for bundle in bundles[:2]] == [0, first.version]
    assert {ref.key for ref in bundles[1].packets} == {keys.key_id(keys.load_private(centre.home, NODE).verify_key)}
    assert list((worker / "qig" / "made").iterdir())
    assert await centre.returned() == []
