import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager

import pytest
from edge_fleet import NODE, TEXT, Publisher, answers, messages, settings_of, verdicts

from common.runtime import streams
from common.runtime.service import serve
from common.wire.codec import pack
from common.wire.messages import DeadLetter, Query
from common.wire.packet import open_envelope
from services.edge.app import build, state_dir

pytestmark = pytest.mark.anyio
QUERIES = 40


@asynccontextmanager
async def running(settings):
    stop, address = asyncio.Event(), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(
        serve(
            settings,
            service="edge",
            build=lambda broker: build(settings, broker),
            check_every_s=0.05,
            stop=stop,
            on_start=address.set_result,
        )
    )
    try:
        yield await address
    finally:
        stop.set()
        await serving


async def test_queries_that_came_before_the_bundle_are_answered_once_it_is_there(
    tmp_path, broker, broker_url, redis, micro_parts, eventually
):
    settings = settings_of(tmp_path, broker_url)
    publisher = Publisher(broker, tmp_path)
    await redis.xadd(streams.QUERIES, {"__data__": b'{"text": "Where does the river go?", "max_tokens": 3}'})
    await redis.xadd(streams.QUERIES, {"__data__": b"garbage"})
    async with running(settings):
        await publisher.release(micro_parts)
        await eventually(lambda: count(answers(redis), 1))
        await eventually(lambda: count(messages(redis, streams.dead(streams.QUERIES), DeadLetter), 1))
    (made,) = await answers(redis)
    assert (made.node, made.bundle) == (NODE, 1)
    assert await verdicts(redis) == [(1, "applied")]


@pytest.mark.live
async def test_kill_9_in_the_middle_of_work_loses_no_query_and_sends_no_packet_twice(
    tmp_path, broker, broker_url, redis, micro_parts, eventually
):
    settings_of(tmp_path, broker_url)
    await Publisher(broker, tmp_path).release(micro_parts)
    for number in range(QUERIES):
        query = Query(id=f"q{number}", text=TEXT, max_tokens=2)
        await broker.produce(streams.QUERIES, pack(query), f"q{number}")
    environ = {
        "QIG_BROKER_URL": broker_url, "QIG_HOME": str(tmp_path), "QIG_NODE": NODE, "QIG_HTTP_PORT": "0",
        "QIG_SLEEP_AFTER_BYTES": "300", "QIG_SLEEP_IDLE_S": "0",
    }  # fmt: skip
    for answered in (QUERIES // 4, QUERIES // 2):
        killed = await start(environ)
        await eventually(lambda least=answered: count(answers(redis), least), 30.0)
        os.kill(killed.pid, signal.SIGKILL)
        await killed.wait()
    last = await start(environ)
    await eventually(lambda: count(answers(redis), QUERIES), 30.0)
    await eventually(lambda: count(raw_packets(redis), 1), 30.0)
    last.terminate()
    assert await last.wait() == 0
    assert sorted(made.query_id for made in await answers(redis)) == sorted(f"q{n}" for n in range(QUERIES))
    refs = [open_envelope(fields[b"__data__"]).ref for fields in await raw_packets(redis)]
    assert len(set(refs)) == len(refs)
    assert (state_dir(tmp_path, NODE) / "edge.db").exists()


async def start(environ):
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.edge.app", env={**os.environ, **environ}, stderr=asyncio.subprocess.DEVNULL
    )


async def raw_packets(redis):
    return [fields for _, fields in await redis.xrange(streams.PACKETS)]


async def count(found, least):
    return len(await found) >= least
