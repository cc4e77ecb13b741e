import asyncio

import pytest
from client_asking import kill_connections
from client_edge import NODE

from common.client import Client
from common.errors import Unavailable
from common.runtime import streams
from common.runtime.follower import FROM_START
from common.wire.codec import pack
from common.wire.messages import Applied, Heartbeat

pytestmark = pytest.mark.anyio


async def test_heartbeats_and_verdicts_are_seen_as_they_come_and_garbage_is_not(redis, client):
    beat = Heartbeat(node=NODE, service="edge", at_s=1.0, bundle=1, ready=True)
    told = Applied(node=NODE, version=2, verdict="applied", at_s=2.0)
    await redis.xadd(streams.HEART, {"__data__": pack(beat)})
    await redis.xadd(streams.HEART, {"__data__": b"garbage"})
    news = client.watch(after=FROM_START)
    assert await anext(news) == beat
    await redis.xadd(streams.APPLIED, {"__data__": pack(told)})
    assert await anext(news) == told
    await news.aclose()


async def test_a_watcher_goes_on_after_an_outage_with_the_next(redis, client):
    news = client.watch(after=FROM_START)
    for number in range(3):
        beat = Heartbeat(node=NODE, service="edge", at_s=float(number), bundle=1, ready=True)
        await redis.xadd(streams.HEART, {"__data__": pack(beat)})
        assert (await anext(news)).at_s == number
        await kill_connections(redis)
    await news.aclose()


async def test_who_watches_from_now_on_sees_nothing_old(redis, client):
    def beat(at_s):
        return {"__data__": pack(Heartbeat(node=NODE, service="edge", at_s=at_s, bundle=1, ready=True))}

    await redis.xadd(streams.HEART, beat(1.0))
    first = asyncio.create_task(anext(client.watch()))
    while not first.done():
        await redis.xadd(streams.HEART, beat(2.0))
        await asyncio.wait([first], timeout=0.02)
    assert first.result().at_s == 2.0


async def test_a_watcher_of_a_client_that_was_left_is_told(redis, broker_url):
    async with Client(broker_url) as client:
        waiting = asyncio.create_task(anext(client.watch()))
        await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="client_closed"):
        await waiting


async def test_who_leaves_a_watch_leaves_no_reader_behind(redis, client):
    beat = Heartbeat(node=NODE, service="edge", at_s=1.0, bundle=1, ready=True)
    await redis.xadd(streams.HEART, {"__data__": pack(beat)})
    before = len(client._readers)
    news = client.watch(after=FROM_START)
    await anext(news)
    assert len(client._readers) == before + 3
    await news.aclose()
    assert len(client._readers) == before
