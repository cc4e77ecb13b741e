import asyncio

import pytest
from broker_node import consumer
from client_asking import NAME, TEXT, messages, read, the_query
from client_edge import edge

from common.client import Client
from common.errors import Unavailable
from common.runtime import streams
from common.wire.inference import Cancel

pytestmark = pytest.mark.anyio


async def test_a_cancelled_question_is_cancelled_at_the_edge(redis, client, eventually):
    asking = asyncio.create_task(client.ask(TEXT))
    query = await the_query(redis, eventually)
    asking.cancel()
    await asyncio.wait([asking])
    assert await messages(redis, streams.CANCEL, Cancel) == [Cancel(query_id=query.id, client=NAME)]
    assert asking.cancelled()


async def test_a_stream_that_is_left_early_is_cancelled_at_the_edge(redis, client, eventually, start_node):
    async def at_the_second(piece):
        if piece.index == 1:
            await eventually(lambda: redis.xlen(streams.CANCEL))

    await start_node(consumer(edge(redis, at_the_second)))
    reply = client.stream(TEXT)
    async for _ in reply:
        break
    await eventually(lambda: redis.xlen(streams.CANCEL))
    assert await messages(redis, streams.CANCEL, Cancel) == [Cancel(query_id=reply.query.id, client=NAME)]


async def test_a_client_that_leaves_cancels_what_is_open_and_tells_those_who_wait(redis, broker_url, eventually):
    async with Client(broker_url, name=NAME) as client:
        asking = asyncio.create_task(client.ask(TEXT))
        query = await the_query(redis, eventually)
        pieces = aiter(client.stream(TEXT))
        first = asyncio.create_task(anext(pieces))
        await eventually(lambda: streams_of(redis, 2))
    for waiting in (asking, first):
        with pytest.raises(Unavailable, match="client_closed"):
            await waiting
    cancelled = {cancel.query_id for cancel in await messages(redis, streams.CANCEL, Cancel)}
    assert len(cancelled) == 2
    assert query.id in cancelled


async def streams_of(redis, number):
    return await redis.xlen(streams.QUERIES) == number


async def test_an_answered_question_is_not_cancelled(redis, client, start_node):
    await start_node(consumer(edge(redis)))
    await client.ask(TEXT)
    await read(client.stream(TEXT))
    assert not await redis.exists(streams.CANCEL)


async def test_a_client_without_a_name_leaves_no_key_behind(redis, broker_url, start_node):
    await start_node(consumer(edge(redis)))
    async with Client(broker_url) as client:
        await client.ask(TEXT)
        assert await redis.keys("*qig:answers:*") != []
    assert await redis.keys("*qig:answers:*") == []
