"""A broker whose memory is full refuses new work, lets old work end, and comes back by itself with nothing lost."""

import asyncio
from contextlib import suppress

import pytest
from broker_node import COUNTS, consumer, counted, finished, letters
from redis.exceptions import OutOfMemoryError

from common.errors import Rejected, Unavailable
from common.runtime import embedded, relay, scripts, streams
from common.runtime.broker import Broker
from common.runtime.connection import connect
from common.runtime.effects import Send

pytestmark = pytest.mark.anyio
ROOM_BYTES = 1 << 20
BODY_BYTES = 10_000


@pytest.fixture
async def small(tmp_path):
    """A broker of one's own with room for a hundred large messages; its url and a client."""
    running = embedded.start(tmp_path)
    async with connect(running.url) as redis:
        used = (await redis.info("memory"))["used_memory"]
        await redis.config_set("maxmemory", used + ROOM_BYTES)
        yield running.url, redis
    running.stop()


def body(number):
    return b"q%04d" % number + bytes(BODY_BYTES)


async def fill(redis, first=0):
    """Publishes until there is no room, not by far; how many were taken."""
    number = first
    with suppress(Unavailable):
        while True:
            await Broker(redis).produce(streams.QUERIES, body(number), f"q{number}")
            number += 1
    await redis.config_set("maxmemory", (await redis.info("memory"))["used_memory"] - 10 * BODY_BYTES)
    return number - first


async def answer(delivery, message):
    return [*counted(message[:5]), Send(streams.answers("kiosk"), message[:5], message[:5].decode())]


@pytest.mark.parametrize("direct", [True, False])
async def test_a_full_broker_is_emptied_by_consumers_that_start_then_and_takes_new_work_again(
    small, start_node, eventually, direct
):
    url, redis = small
    taken = await fill(redis)
    assert taken > 50
    with pytest.raises(OutOfMemoryError):
        await redis.xadd(streams.QUERIES, {"__data__": b"by hand"})
    await start_node(consumer(answer), url=url, direct=direct)
    await eventually(lambda: finished(redis))
    await eventually(lambda: finished(redis, streams.outbox(streams.QUERIES)))
    assert await redis.hgetall(COUNTS) == {b"q%04d" % number: b"1" for number in range(taken)}
    assert await redis.xlen(streams.answers("kiosk")) == taken
    assert await fill(redis, first=taken) > 10


async def test_a_consumer_whose_process_dies_while_memory_is_out_is_followed_by_another(small, start_node, eventually):
    url, redis = small
    stuck = asyncio.Event()

    async def hang(delivery, message):
        stuck.set()
        await asyncio.Event().wait()

    first = await start_node(consumer(hang), url=url)
    taken = await fill(redis)
    await stuck.wait()
    await first.kill()
    await start_node(consumer(answer), url=url)
    await eventually(lambda: finished(redis))
    assert await redis.hlen(COUNTS) == taken


async def test_what_cannot_be_handled_becomes_a_dead_letter_while_memory_is_out(small, start_node, eventually):
    url, redis = small

    async def refuse(delivery, message):
        raise Rejected("bad", "as ever")

    taken = await fill(redis)
    await start_node(consumer(refuse), url=url)
    await eventually(lambda: finished(redis))
    assert len(await letters(redis)) == taken


async def test_an_outbox_is_carried_while_memory_is_out_and_nothing_new_is_published(small):
    _, redis = small
    await scripts.commit(redis, streams.PACKETS, [Send(streams.BATCHES, b"b", "b1")])
    await fill(redis)
    assert await relay.carry(redis, streams.PACKETS) == 1
    assert await redis.xlen(streams.BATCHES) == 1
    with pytest.raises(Unavailable, match="broker_full"):
        await scripts.publish(redis, streams.BATCHES, bytes(BODY_BYTES), "b2")


async def test_a_group_is_made_and_found_while_memory_is_out(small):
    _, redis = small
    await fill(redis)
    found = [await scripts.look_after(redis, streams.QUERIES, "edge", gone_s=3600, most=10) for _ in range(2)]
    assert [each.made for each in found] == [True, False]


async def test_a_group_is_not_made_of_what_is_no_stream(redis):
    await redis.set(streams.QUERIES, "no stream")
    with pytest.raises(Exception, match="WRONGTYPE"):
        await scripts.look_after(redis, streams.QUERIES, "edge", gone_s=3600, most=10)
