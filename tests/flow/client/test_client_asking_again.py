import asyncio

import pytest
from broker_node import consumer
from client_asking import NAME, TEXT, the_query
from client_edge import answer_to, edge

from common.client import Client
from common.client.client import DEAD_LOOKED_AT
from common.errors import Rejected, Unavailable
from common.runtime import relay, scripts, streams
from common.runtime.effects import Send
from common.wire.codec import pack
from common.wire.inference import Query

pytestmark = pytest.mark.anyio


async def test_a_restarted_program_that_asks_again_is_given_the_answer_that_came_meanwhile(
    redis, broker_url, start_node, eventually
):
    async with Client(broker_url, name=NAME) as before:
        asking = asyncio.create_task(before.ask(TEXT, id="q-1"))
        await the_query(redis, eventually)
        before._open.clear()  # killed: it cancels nothing
        asking.cancel()
        await asyncio.wait([asking])
    node = await start_node(consumer(edge(redis)))
    await eventually(lambda: redis.xlen(streams.answers(NAME)))
    await node.stop()
    async with Client(broker_url, name=NAME) as after:
        assert (await after.ask(TEXT, id="q-1")).text == TEXT
    assert await redis.xlen(streams.QUERIES) == 0


async def test_a_restarted_program_that_asks_again_is_told_that_its_query_is_dead(redis, broker_url, start_node):
    async def fail(delivery, body):
        raise Rejected("garbage", "no text in it")

    await start_node(consumer(fail))
    for _ in range(2):
        async with Client(broker_url, name=NAME) as client:
            with pytest.raises(Rejected, match="no text in it"):
                await client.ask(TEXT, id="q-1")
    assert await redis.xlen(streams.dead(streams.QUERIES)) == 1 < DEAD_LOOKED_AT


async def asked_before(redis, **changed):
    """A query of an earlier life, which was published."""
    query = Query(text=TEXT, client=NAME, id="q-1", **changed)
    await scripts.publish(redis, streams.QUERIES, pack(query), f"{NAME}:q-1")
    return query


def is_published(client, query_id):
    return query_id in client._open and client._open[query_id].publishing.done()


async def test_who_asks_again_when_the_answer_is_no_longer_kept_is_told_so(redis, client, start_node, eventually):
    query = await asked_before(redis)
    await start_node(consumer(edge(redis)))
    await eventually(lambda: redis.xlen(streams.answers(NAME)))
    await redis.delete(streams.answers(NAME))  # a day later
    with pytest.raises(Unavailable, match=r"answer_gone: query q-1 was asked before, .*ask again under another id"):
        await client.ask(TEXT, id=query.id)
    assert not await redis.exists(streams.CANCEL)


@pytest.mark.parametrize("changed", [{}, {"stream": True}], ids=["the same", "as a stream"])
async def test_who_asks_again_while_the_query_is_open_waits_for_its_answer(
    redis, client, start_node, eventually, changed
):
    await asked_before(redis, **changed)
    asking = asyncio.create_task(client.ask(TEXT, id="q-1"))
    await eventually(lambda: is_published(client, "q-1"))
    await start_node(consumer(edge(redis)))
    assert (await asking).text == TEXT


async def test_who_asks_again_while_the_answer_is_being_relayed_waits_for_it(redis, client, eventually):
    query = await asked_before(redis)
    await scripts.commit(redis, streams.QUERIES, [Send(streams.answers(NAME), pack(answer_to(query)), query.id)])
    await redis.delete(streams.QUERIES)  # answered by an edge on a cluster
    asking = asyncio.create_task(client.ask(TEXT, id=query.id))
    await eventually(lambda: is_published(client, query.id))
    await relay.carry(redis, streams.QUERIES)
    assert (await asking).text == TEXT
