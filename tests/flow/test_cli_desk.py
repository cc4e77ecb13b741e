import asyncio

import pytest
from broker_node import consumer
from client_edge import answer_to, edge, say

from common.client import Client
from common.runtime import streams
from common.runtime.follower import kept
from common.wire.codec import pack, unpack
from common.wire.inference import Query
from common.wire.messages import Applied, DeadLetter, Heartbeat
from services.cli import desk
from services.cli.desk import Desk, Watcher

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(redis, broker_url):
    async with Client(broker_url) as made:
        yield made


async def test_queries_of_one_desk_never_share_a_name_and_are_answered(redis, client, start_node):
    await start_node(consumer(edge(redis)))
    at = Desk(client)
    asked = [at.send(text) for text in ("one", "two", "three")]
    assert (await at.all_answered(), at.lost) == (3, 0)
    assert sorted(at.asked) == ["q-0", "q-1", "q-2"]
    assert [task.result().text for task in asked] == ["one", "two", "three"]


async def test_a_query_without_an_answer_is_lost(redis, client, eventually, monkeypatch):
    monkeypatch.setattr(desk, "ANSWER_TIMEOUT_S", 0.05)
    at = Desk(client)
    at.send("answered")
    at.send("not answered")
    await eventually(lambda: has(redis, 2))
    asked = [unpack(Query, entry.fields[b"__data__"]) async for entry in kept(redis, streams.QUERIES)]
    await say(redis, answer_to(next(query for query in asked if query.text == "answered")))
    await eventually(lambda: any(task.done() for task in at.asked.values()))
    assert (await at.all_answered(), at.lost) == (2, 1)


async def has(redis, number):
    return await redis.xlen(streams.QUERIES) == number


async def test_a_watcher_knows_the_verdicts_that_came_before_it_and_waits_for_the_rest(redis, client):
    async def tell(node):
        told = Applied(node=node, version=2, verdict="applied", at_s=1.0)
        await redis.xadd(streams.APPLIED, {"__data__": pack(told)})

    await tell("edge-1")
    await redis.xadd(streams.PACKETS, {"__data__": b"no packet"})
    beat = Heartbeat(node="edge-1", service="edge", at_s=1.0, bundle=1, ready=True)
    await redis.xadd(streams.HEART, {"__data__": pack(beat)})
    async with Watcher(client, redis, print, print) as watcher:
        waiting = asyncio.create_task(watcher.verdicts(2, ["edge-1", "edge-2"]))
        await tell("edge-2")
        assert [told.node for told in await waiting] == ["edge-1", "edge-2"]
        assert watcher.packets == []


async def test_a_watcher_tells_of_a_refused_candidate_at_once(redis, client, eventually):
    told = []
    async with Watcher(client, redis, told.append, print):
        letter = DeadLetter(
            stream=streams.CANDIDATES, entry="7-0", code="candidate_refused", reason="heart reads worse", at_s=1.0,
            deliveries=1, body=b"",
        )  # fmt: skip
        await redis.xadd(streams.dead(streams.CANDIDATES), {"__data__": pack(letter)})
        await eventually(lambda: told)
    assert told == ["candidate_refused: heart reads worse"]


async def test_a_watcher_tells_of_a_packet_as_it_passes(redis, client, eventually, centre):
    told = []
    async with Watcher(client, redis, print, told.append) as watcher:
        packet = centre.packet(await centre.release(), sequence=7)
        await centre.send(b"no packet", packet)
        await eventually(lambda: told)
    assert told == watcher.packets
    assert [(each.sequence, each.size_bytes) for each in told] == [(7, len(packet))]
