"""An edge that has lost its broker: what it does meanwhile, and how soon it is in step when the broker is back."""

import asyncio
import contextlib
import sqlite3

import pytest
from edge_fleet import NODE, TEXT, Publisher, answers, packets, settings_of, verdicts
from http_edge import COMPILED_S, edge_with_client, ready

from common.runtime import connection, embedded, streams
from common.runtime.broker import Broker
from common.runtime.connection import connect, pause_s, retry
from common.wire.codec import pack
from common.wire.inference import Query
from common.wire.packet import open_envelope
from services.edge.app import state_dir

pytestmark = pytest.mark.anyio
LONG_AWAY = 10_000  # failures in a row: what has looked for its broker so often looks as it does after any longer time
IN_STEP_S = 5.0


def folded(home):
    """How many packets are in the edge's file."""
    file = state_dir(home, NODE) / "edge.db"
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as reader:
        return reader.execute("SELECT count(*) FROM packets").fetchone()[0]


@pytest.fixture
async def broker_of_its_own(tmp_path):
    """Start it, again on the same port and data."""
    begun, home = [], tmp_path / "broker"

    async def start():
        port = int(begun[-1].url.rpartition(":")[2]) if begun else 0
        begun.append(await asyncio.to_thread(embedded.start, home, port))
        return begun[-1]

    yield start
    for each in begun:
        await asyncio.to_thread(each.stop)


async def ask(http):
    body = {"model": "constellation", "prompt": TEXT, "max_tokens": 2}
    return (await http.post("/v1/completions", json=body)).status_code


async def knows_that_it_is_cut_off(http):
    told = await http.get("/readyz")
    return told.status_code == 503 and "the broker is away" in told.json()["reasons"].get("relay qig:queries", "")


async def in_step(http, redis, kept):
    """Every packet is where it goes, the new bundle serves, what was asked by stream is answered."""
    return (
        len(await packets(redis)) >= kept
        and (2, "applied") in await verdicts(redis)
        and [made.query_id for made in await answers(redis)] == ["asked"]
        and await ready(http)
    )


async def test_an_edge_that_was_cut_off_for_long_has_answered_kept_its_packets_and_is_in_step_in_seconds(
    tmp_path, broker_of_its_own, micro_parts, eventually, monkeypatch
):
    """However long: from the first failure on it looks as seldom as after any number of them, and it soon gives up what
    ends in bounded time.
    """
    monkeypatch.setattr(connection, "pause_s", lambda _failures, _chance: pause_s(LONG_AWAY, 1.0))
    monkeypatch.setattr(connection, "retry", lambda retries, retry=retry: retry(min(retries, 2)))
    first, loop = await broker_of_its_own(), asyncio.get_running_loop()
    settings = settings_of(tmp_path / "home", first.url)
    async with connect(first.url) as redis, edge_with_client(settings) as http:
        publisher = Publisher(Broker(redis), settings.home)
        await publisher.release(micro_parts)
        await eventually(lambda: ready(http), COMPILED_S)
        await asyncio.to_thread(first.stop)
        statuses = [await ask(http) for _ in range(20)]
        await eventually(lambda: folded(settings.home))
        await eventually(lambda: knows_that_it_is_cut_off(http))  # commands have been given up, and made again
        statuses += [await ask(http) for _ in range(5)]
        assert (await http.get("/healthz")).status_code == 200

        await broker_of_its_own()
        back_s, kept = loop.time(), folded(settings.home)
        await redis.xadd(streams.QUERIES, {"__data__": pack(Query(id="asked", text=TEXT, max_tokens=1))})
        await publisher.release(micro_parts | {"notes.bin": b"2"})
        await eventually(lambda: in_step(http, redis, kept))
        took_s = loop.time() - back_s
        refs = [open_envelope(raw).ref for raw in await packets(redis)]
    assert statuses == [200] * 25
    assert len(set(refs)) == len(refs) >= kept > 0
    assert took_s < IN_STEP_S
