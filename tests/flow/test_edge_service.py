import asyncio
import contextlib
import os
import signal
import sqlite3
import sys
import time
from socket import gethostname

import numpy as np
import pytest
from edge_fleet import NODE, TEXT, Publisher, answers, messages, settings_of, verdicts
from http_edge import COMPILED_S, serving
from listing import list_releases

from common.runtime import streams
from common.runtime.broker import Broker
from common.runtime.settings import ApiSettings
from common.wire.codec import pack
from common.wire.inference import Query
from common.wire.messages import DeadLetter
from common.wire.packet import open_envelope
from services.cli.probe import free_port, why_not_ready
from services.edge import app
from services.edge.answer import Interaction
from services.edge.app import state_dir
from services.edge.record import Record, address_of

pytestmark = pytest.mark.anyio
QUERIES = 40


async def test_queries_that_came_before_the_bundle_are_answered_once_it_is_there(
    tmp_path, broker, broker_url, redis, micro_parts, eventually
):
    settings = settings_of(tmp_path, broker_url)
    publisher = Publisher(broker, tmp_path)
    await redis.xadd(streams.QUERIES, {"__data__": b'{"text": "Where does the river go?", "max_tokens": 3}'})
    await redis.xadd(streams.QUERIES, {"__data__": b"garbage"})
    async with serving(settings):
        await publisher.release(micro_parts)
        await eventually(lambda: count(answers(redis), 1), COMPILED_S)
        await eventually(lambda: count(messages(redis, streams.dead(streams.QUERIES), DeadLetter), 1))
    (made,) = await answers(redis)
    assert (made.node, made.bundle) == (NODE, 1)
    assert await verdicts(redis) == [(1, "applied")]


async def test_a_bundle_waits_while_nobody_can_tell_whether_to_believe_it(
    tmp_path, broker, broker_url, redis, micro_parts, eventually, monkeypatch
):
    """A running edge, whose list is taken away, then withheld, then what it should be."""
    withheld = []

    class Unlisted(Broker):
        async def produce(self, *message):  # the list is gone before what it names is there
            withheld.append(await redis.hgetall(streams.METADATA))
            await redis.delete(streams.METADATA)
            return await Broker.produce(self, *message)

    monkeypatch.setattr(app, "LOOK_AGAIN_S", 0.05)
    settings = settings_of(tmp_path, broker_url)
    publisher = Publisher(broker, tmp_path)
    async with serving(settings) as (address, _):
        await publisher.release(micro_parts)
        await eventually(lambda: count(verdicts(redis), 1), COMPILED_S)
        listed = await redis.hgetall(streams.METADATA)
        publisher.broker = Unlisted(redis)
        for notes in (b"2", b"3"):
            await publisher.release(micro_parts | {"notes.bin": notes})
        await eventually(lambda: says(address, "no_metadata"))
        await redis.hset(streams.METADATA, mapping=withheld[0] | {b"timestamp.json": listed[b"timestamp.json"]})
        await eventually(lambda: count(verdicts(redis), 3))
        assert await verdicts(redis) == [(1, "applied"), (2, "refused"), (3, "refused")]
        await list_releases(redis, tmp_path, publisher.released, now_s=time.time() + 9)  # after all that was seen
        await eventually(lambda: ends(verdicts(redis), (3, "applied")))  # a look amid the new list may find 2 first


async def test_an_edge_stops_in_good_order_while_a_bundle_comes_by_a_thin_link(
    tmp_path, broker, broker_url, micro_parts, monkeypatch
):
    on_its_way = asyncio.Event()

    async def endless(*_):
        on_its_way.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Broker, "get_blob", endless)
    settings = settings_of(tmp_path, broker_url)
    await Publisher(broker, tmp_path).release(micro_parts)
    async with asyncio.timeout(20):
        async with serving(settings):
            await on_its_way.wait()


async def ends(found, last):
    return (await found)[-1] == last


async def says(address, word):
    return word in str(await why_not_ready(address))


async def test_an_edge_tells_where_it_serves_and_deletes_what_is_too_old_before_any_bundle(
    tmp_path, broker_url, redis, eventually
):
    settings = settings_of(tmp_path, broker_url, http_port=free_port())
    file = state_dir(tmp_path, NODE) / "edge.db"
    record = Record(file, now_s=1.0)
    basin = np.full(64, 1 / 64)
    record.texts.add(Interaction("q", "c", "hi", 1.0, "heart", basin, 1, 2, 3.0, None, None), b"hi", probe=False)
    record.close()
    async with serving(settings) as (address, _):
        await eventually(lambda: address_of(file) == address)
        await eventually(lambda: kept_in(file) == 0)
        assert address_of(file) == address


async def test_an_edge_on_every_address_of_its_machine_is_named_by_the_machine(tmp_path, broker_url, eventually):
    """Its file may lie in a volume that edges of other containers mount: 0.0.0.0 would be each reader itself."""
    settings = settings_of(tmp_path, broker_url, http_host="0.0.0.0", http_port=free_port())
    async with serving(settings, ApiSettings(api_open=True)):
        file = state_dir(tmp_path, NODE) / "edge.db"
        await eventually(lambda: address_of(file) == f"http://{gethostname()}:{settings.http_port}")


def kept_in(file):
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as reader:
        return reader.execute("SELECT count(*) FROM interactions").fetchone()[0]


async def beat_again(redis, beats):
    return await redis.xlen(streams.HEART) > beats


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
    beats = await redis.xlen(streams.HEART)
    last = await start(environ)
    await eventually(lambda: beat_again(redis, beats), 30.0)  # those that were killed may have done all the work
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
