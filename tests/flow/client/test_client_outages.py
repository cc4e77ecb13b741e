import asyncio
import os
import signal

import pytest
from broker_node import consumer
from client_asking import NAME, TEXT, kill_connections, read, the_query
from client_edge import answer_to, edge, pieces_of, say

from common.client import Client
from common.errors import Unavailable
from common.runtime import embedded, streams
from common.runtime.connection import connect

pytestmark = pytest.mark.anyio


async def test_connections_that_are_cut_all_the_time_lose_and_double_nothing(redis, client, start_node):
    async def cut(piece):
        if piece.index % 2:
            await kill_connections(redis)

    await start_node(consumer(edge(redis, cut)))
    replies = [client.stream(f"{TEXT} number {n}") for n in range(10)]
    given = await asyncio.gather(*map(read, replies))
    for number, (reply, pieces) in enumerate(zip(replies, given, strict=True)):
        since = max(at for at, piece in enumerate(pieces) if piece.index == 0)
        assert reply.answer.text == f"{TEXT} number {number}" == "".join(piece.text for piece in pieces[since:])
    asked = await redis.zcard(streams.seen(streams.QUERIES))
    assert asked == len(replies)


@pytest.fixture
def mortal(tmp_path):
    """A broker of one's own: its url, what kills it, and what brings it back on its data."""
    running = [embedded.start(tmp_path)]
    port = int(running[0].url.rpartition(":")[2])

    def kill():
        os.kill(running[-1].pid, signal.SIGKILL)
        running[-1].process.wait()

    async def revive():
        running.append(await asyncio.to_thread(embedded.start, tmp_path, port))

    yield running[0].url, kill, revive
    running[-1].stop()


async def test_a_broker_that_has_too_few_replicas_to_write_is_waited_for(mortal, start_node, eventually, caplog):
    url, *_ = mortal
    async with connect(url) as redis, Client(url, name=NAME) as client:
        await redis.config_set("min-replicas-to-write", 1)
        asked = asyncio.create_task(client.ask(TEXT))
        await eventually(lambda: "NOREPLICAS" in caplog.text)
        await redis.config_set("min-replicas-to-write", 0)
        await start_node(consumer(edge(redis)), url=url)
        assert (await asked).text == TEXT


async def test_reading_goes_on_after_an_outage_where_it_was(mortal, eventually):
    url, kill, revive = mortal
    async with connect(url) as redis, Client(url, name=NAME) as client:
        pieces = aiter(client.stream(TEXT))
        first = asyncio.create_task(anext(pieces))
        query = await the_query(redis, eventually)
        await say(redis, pieces_of(query)[0])
        assert (await first).text == "down "
        kill()
        await revive()
        for piece in pieces_of(query)[1:]:
            await say(redis, piece)
        await say(redis, answer_to(query))
        assert [(piece.index, piece.text) async for piece in pieces] == [(1, "to "), (2, "the "), (3, "sea")]


async def test_a_question_that_is_asked_while_the_broker_is_away_is_answered_once_it_is_back(mortal, start_node):
    url, kill, revive = mortal
    async with connect(url) as redis, Client(url, name=NAME) as client:
        kill()
        asking = asyncio.create_task(client.ask(TEXT))
        await asyncio.wait([asking], timeout=0.1)
        await revive()
        await start_node(consumer(edge(redis)), url=url)
        assert (await asking).text == TEXT


async def test_a_client_that_is_left_during_an_outage_tells_who_asks_and_publishes_nothing_later(mortal):
    url, kill, revive = mortal
    async with connect(url) as redis:
        async with Client(url, name=NAME) as client:
            kill()
            asking = [asyncio.create_task(client.ask(TEXT, id=f"q-{n}")) for n in range(3)]
            await asyncio.wait(asking, timeout=0.1)
        done, waiting = await asyncio.wait(asking, timeout=10)
        assert not waiting
        for each in done:
            with pytest.raises(Unavailable, match="client_closed"):
                each.result()
        await revive()
        assert not await redis.exists(streams.QUERIES)


async def test_nobody_waits_for_a_broker_that_was_never_there():
    with pytest.raises(Unavailable, match=r"broker_away: no broker answers at redis://127\.0\.0\.1:1 .*`qig up`"):
        await Client("redis://127.0.0.1:1").__aenter__()


async def test_a_broker_that_takes_nothing_is_said(redis, client):
    await redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(Unavailable, match=r"broker_full: .*maxmemory"):
            await client.ask(TEXT)
    finally:
        await redis.config_set("maxmemory", 0)


async def test_a_query_that_was_not_taken_is_not_cancelled_so_that_it_can_be_asked_again_under_its_id(redis, client):
    await redis.set(streams.QUERIES, "no stream")
    with pytest.raises(Unavailable, match=r"broker_refused: .*WRONGTYPE"):
        await client.ask(TEXT, id="q")
    assert not await redis.exists(streams.CANCEL)
