"""Many messages of one consumer in one process: how many run, what waits, and what a stop leaves."""

import asyncio

import pytest
from broker_node import COUNTS, consumer, count, counted, finished, letters

from common.runtime import scripts, streams

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("at_once", [1, 3])
async def test_as_many_handlers_run_at_the_same_time_as_the_consumer_allows_and_no_more(
    redis, broker, start_node, eventually, at_once
):
    running, most, go = 0, 0, asyncio.Event()

    async def handle(delivery, body):
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == at_once:
            go.set()
        await go.wait()
        running -= 1
        return counted(body)

    for number in range(12):
        await broker.produce(streams.QUERIES, b"q%d" % number, f"q{number}")
    await start_node(consumer(handle, at_once=at_once))
    await eventually(lambda: finished(redis))
    assert most == at_once
    assert await redis.hgetall(COUNTS) == {b"q%d" % number: b"1" for number in range(12)}


async def test_a_stop_lets_all_that_run_at_once_end_and_hands_back_what_waits(redis, broker, start_node, eventually):
    begun, go = [], asyncio.Event()

    async def handle(delivery, body):
        begun.append(body)
        await go.wait()
        return counted(body)

    for number in range(12):
        await broker.produce(streams.QUERIES, b"q%d" % number, f"q{number}")
    node = await start_node(consumer(handle, at_once=3))
    await eventually(lambda: len(begun) == 3)
    stopping = asyncio.create_task(node.stop())
    await asyncio.sleep(0)
    go.set()
    await stopping
    done = len(await redis.hgetall(COUNTS))
    assert len(begun) == done
    await start_node(consumer(count))
    await eventually(lambda: finished(redis))
    assert await redis.hgetall(COUNTS) == {b"q%d" % number: b"1" for number in range(12)}


async def test_a_backlog_stays_in_the_broker_while_a_handler_is_busy(redis, broker, start_node, eventually):
    begun, go = [], asyncio.Event()

    async def handle(delivery, body):
        begun.append(body)
        await go.wait()
        return counted(body)

    for number in range(60):
        await broker.produce(streams.QUERIES, b"q%d" % number, f"q{number}")
    await start_node(consumer(handle, at_once=2, max_records=4, claim_after_s=5.0))
    await eventually(lambda: len(begun) == 2)
    assert 2 <= (await redis.xpending(streams.QUERIES, "edge"))["pending"] <= 2 + 4
    go.set()
    await eventually(lambda: finished(redis))
    assert len(begun) == 60


@pytest.mark.usefixtures("seasoned")
async def test_an_entry_that_is_lost_while_it_waits_is_not_handled(redis, broker, start_node, eventually):
    begun, go = [], asyncio.Event()

    async def handle(delivery, body):
        begun.append(body)
        await go.wait()
        return counted(body)

    for number in range(3):
        await broker.produce(streams.QUERIES, b"q%d" % number, f"q{number}")
    node = await start_node(consumer(handle))
    await eventually(lambda: begun == [b"q0"])
    waiting = [row["message_id"] for row in await redis.xpending_range(streams.QUERIES, "edge", "-", "+", 9)][1:]
    assert len(waiting) == 2
    for entry in waiting:  # another replica finishes them
        assert await scripts.commit(redis, streams.QUERIES, counted(b"other"), entry=("edge", entry.decode())) == "done"
    await eventually(lambda: sum(lease.lost for lease in node.subscription._intake._leases) == 2)
    go.set()
    await eventually(lambda: finished(redis))
    assert begun == [b"q0"]


async def test_a_message_that_kills_its_process_takes_none_with_it_of_those_that_are_handled_beside_it(
    redis, start_node, eventually
):
    for body in (b"poison", *[b"q%d" % number for number in range(7)]):
        await redis.xadd(streams.QUERIES, {"__data__": body})
    dying = asyncio.Event()

    async def handle(delivery, body):
        if body == b"poison":
            dying.set()
            await asyncio.Event().wait()
        await asyncio.sleep(0.02)  # so that whoever begins with the poison ends with it
        return counted(body)

    async def dies_or_ends():
        return dying.is_set() or await finished(redis)

    while not await finished(redis):
        dying.clear()
        node = await start_node(consumer(handle, at_once=4))
        await eventually(node.subscription.alive)
        await eventually(dies_or_ends)
        await node.kill()
    assert [(letter.code, letter.body) for letter in await letters(redis)] == [("never_finished", b"poison")]
    assert await redis.hgetall(COUNTS) == {b"q%d" % number: b"1" for number in range(7)}
