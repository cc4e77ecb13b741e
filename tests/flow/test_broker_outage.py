import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from broker_node import COUNTS, consumer, count, counted, finished, letters

from common.runtime import embedded, scripts, streams
from common.runtime.broker import Broker
from common.runtime.connection import connect
from common.runtime.effects import Send

pytestmark = pytest.mark.anyio
VICTIM = Path(__file__).with_name("broker_victim.py")


@pytest.fixture
def victim(broker_url):
    started = []

    def start(max_deliveries, how="hang"):
        command = [sys.executable, str(VICTIM), broker_url, str(max_deliveries), how]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


async def test_kill_minus_9_amid_a_handler_loses_and_doubles_nothing(redis, victim, start_node, eventually):
    for number in range(12):
        await redis.xadd(streams.QUERIES, {"__data__": b"q%d" % number})
    process = victim(5)
    assert await asyncio.to_thread(process.stdout.readline) == b"taken\n"
    process.send_signal(signal.SIGKILL)
    await start_node(consumer(count))
    await eventually(lambda: finished(redis))
    assert await redis.hgetall(COUNTS) == {b"q%d" % number: b"1" for number in range(12)}


async def test_a_message_that_kills_its_process_is_dead_at_the_limit_and_kills_no_more(
    redis, victim, start_node, eventually
):
    await redis.xadd(streams.QUERIES, {"__data__": b"poison"})
    assert await asyncio.to_thread(victim(1).wait) == 9
    calls = []

    async def handle(delivery, body):
        calls.append(body)
        return []

    await start_node(consumer(handle, max_deliveries=1))
    await eventually(lambda: finished(redis))
    (letter,) = await letters(redis)
    assert (letter.code, letter.body, calls) == ("never_finished", b"poison", [])


async def test_a_message_that_kills_its_process_takes_none_of_its_read_with_it(redis, victim, start_node, eventually):
    """Once with all that were read with it, and from then on alone."""
    for body in (b"q0", b"poison", b"q1"):
        await redis.xadd(streams.QUERIES, {"__data__": body})
    for _ in range(2):
        assert await asyncio.to_thread(victim(2, "reads").wait) == 9
    await start_node(consumer(count, max_deliveries=2))
    await eventually(lambda: finished(redis))
    assert await redis.hgetall(COUNTS) == {b"q0": b"1", b"q1": b"1"}
    assert [(letter.code, letter.body) for letter in await letters(redis)] == [("never_finished", b"poison")]


@pytest.mark.parametrize("harm", ["flushall", "destroy", "delete"])
async def test_a_lost_group_is_made_anew_and_what_is_published_then_is_handled(
    redis, broker, start_node, eventually, harm
):
    await broker.produce(streams.QUERIES, b"before", "before")
    node = await start_node(consumer(count))
    await eventually(lambda: finished(redis))
    harms = {
        "flushall": redis.flushall,
        "destroy": lambda: redis.xgroup_destroy(streams.QUERIES, "edge"),
        "delete": lambda: redis.delete(streams.QUERIES),
    }
    await eventually(lambda: not node.health.reasons())
    await harms[harm]()
    await broker.produce(streams.QUERIES, b"after", "after")
    await eventually(lambda: redis.hexists(COUNTS, "after"))
    await eventually(lambda: not node.health.reasons())
    assert await redis.hget(COUNTS, "before") == (None if harm == "flushall" else b"1")


async def test_entries_that_wait_while_the_group_is_destroyed_are_handled_once_afterwards(
    redis, start_node, eventually
):
    release, calls = asyncio.Event(), []

    async def hold(delivery, body):
        calls.append(body)
        await release.wait()
        return counted(body)

    for number in range(20):
        await redis.xadd(streams.QUERIES, {"__data__": b"q%d" % number})
    await start_node(consumer(hold))
    await eventually(lambda: calls)
    await redis.xgroup_destroy(streams.QUERIES, "edge")
    release.set()
    await eventually(lambda: finished(redis))
    assert await redis.hgetall(COUNTS) == {b"q%d" % number: b"1" for number in range(20)}


async def test_a_dead_reader_makes_the_consumer_not_ready_and_is_restarted(redis, start_node, eventually):
    node = await start_node(consumer(count))
    await eventually(lambda: not node.health.reasons())
    for half in node.subscription._holders.values():
        for task in half.tasks:
            task.cancel()
    await eventually(lambda: node.health.reasons() == {"consumer qig:queries": "dead"})
    await eventually(lambda: not node.health.reasons())
    await redis.xadd(streams.QUERIES, {"__data__": b"q"})
    await eventually(lambda: finished(redis))
    assert await redis.hget(COUNTS, "q") == b"1"


@pytest.mark.parametrize("direct", [True, False])
async def test_a_broker_killed_and_restarted_on_its_data_finishes_everything_once(
    tmp_path, start_node, eventually, direct
):
    first = embedded.start(tmp_path)
    port = int(first.url.rpartition(":")[2])
    async with connect(first.url) as redis:
        for number in range(60):
            await Broker(redis).produce(streams.QUERIES, b"q%d" % number, f"q{number}")

        async def answer(delivery, body):
            await asyncio.sleep(0.002)
            return [*counted(body), Send(streams.answers("kiosk"), body, body.decode())]

        node = await start_node(consumer(answer), url=first.url, direct=direct)
        await eventually(lambda: redis.hlen(COUNTS))
        os.kill(first.pid, signal.SIGKILL)
        first.process.wait()
        second = await asyncio.to_thread(embedded.start, tmp_path, port)
        await eventually(lambda: finished(redis))
        await eventually(lambda: finished(redis, streams.outbox(streams.QUERIES)))
        assert await redis.hgetall(COUNTS) == {b"q%d" % number: b"1" for number in range(60)}
        answers = [fields[b"__data__"] for _, fields in await redis.xrange(streams.answers("kiosk"))]
        assert sorted(answers) == sorted(b"q%d" % number for number in range(60))
        await node.stop()
    second.stop()


async def test_a_second_without_a_broker_delays_work_by_half_a_second_more_at_most(tmp_path, start_node, eventually):
    first = embedded.start(tmp_path)
    port = int(first.url.rpartition(":")[2])
    loop, waits, lags = asyncio.get_running_loop(), [], []

    async def handle(delivery, body):
        waits.append(loop.time() - float(body))
        return counted(b"all")

    async def handle_read(given):
        return [await handle(*each) for each in given]

    async def look_for_a_busy_machine():
        while True:
            begun = loop.time()
            await asyncio.sleep(0.01)
            lags.append(loop.time() - begun - 0.01)

    async def produce(broker, number):
        await broker.produce(streams.QUERIES, b"%f" % loop.time(), f"q{number}")

    async with connect(first.url) as redis:
        node = await start_node(consumer(handle, handle_read=handle_read, claim_after_s=5.0), url=first.url)
        looking = asyncio.create_task(look_for_a_busy_machine())
        produced, number, second, killed_s, away_s = [], 0, None, 0.0, 0.0
        while not away_s or loop.time() < killed_s + away_s + 1.0:
            produced.append(asyncio.create_task(produce(Broker(redis), number := number + 1)))
            await asyncio.sleep(0.02)
            if number == 20:
                os.kill(first.pid, signal.SIGKILL)
                first.process.wait()
                killed_s = loop.time()
            if second is None and killed_s and loop.time() > killed_s + 0.95:
                second = await asyncio.to_thread(embedded.start, tmp_path, port)
                away_s = loop.time() - killed_s
        await asyncio.gather(*produced)
        await eventually(lambda: len(waits) == number)
        looking.cancel()
        assert (await redis.hgetall(COUNTS)) == {b"all": str(number).encode()}
        await node.stop()
    second.stop()
    assert 0.9 < max(waits) <= away_s + 0.5 + 2 * max(lags)


async def test_stopping_in_good_order_finishes_the_work_in_flight_and_hands_back_the_rest(
    redis, start_node, eventually
):
    calls, release = [], asyncio.Event()

    async def slow(delivery, body):
        calls.append(body)
        await release.wait()
        return counted(body)

    for number in range(5):
        await redis.xadd(streams.QUERIES, {"__data__": b"q%d" % number})
    node = await start_node(consumer(slow, claim_after_s=600.0))
    await eventually(lambda: calls and node.subscription.alive())
    stopping = asyncio.create_task(node.stop())
    await eventually(lambda: not node.subscription.alive())
    release.set()
    await stopping
    assert await redis.hgetall(COUNTS) == {b"q0": b"1"}
    await start_node(consumer(count, claim_after_s=600.0))  # had they not been handed back, ten minutes would pass
    await eventually(lambda: finished(redis))
    assert await redis.hlen(COUNTS) == 5


async def test_what_is_handed_back_unbegun_is_charged_no_delivery_and_what_failed_is(redis, start_node, eventually):
    """However often the processes of a fleet are started anew, no message ends in the dead letters for it."""
    release, deliveries = asyncio.Event(), {}

    async def handle(delivery, body):
        if body == b"bad":
            raise RuntimeError("a bug")
        deliveries[body] = delivery.deliveries
        if body == b"slow":
            await release.wait()
        return counted(body)

    for body in (b"bad", b"slow", b"waits"):
        await redis.xadd(streams.QUERIES, {"__data__": body})
    patient = {"claim_after_s": 600.0, "retry_first_s": 600.0}
    node = await start_node(consumer(handle, **patient))
    await eventually(lambda: b"slow" in deliveries and node.subscription.alive())
    stopping = asyncio.create_task(node.stop())
    await eventually(lambda: not node.subscription.alive())
    release.set()
    await stopping
    pending = await redis.xpending_range(streams.QUERIES, "edge", "-", "+", 9)
    assert [row["times_delivered"] for row in pending] == [1, 0]
    await start_node(consumer(handle, **patient, max_deliveries=2))
    await eventually(lambda: b"waits" in deliveries)
    await eventually(lambda: finished(redis))
    assert deliveries == {b"slow": 1, b"waits": 1}
    assert [(letter.body, letter.deliveries) for letter in await letters(redis)] == [(b"bad", 2)]


async def test_consumers_that_are_gone_are_forgotten_unless_they_hold_something(redis):
    await redis.xgroup_create(streams.QUERIES, "edge", id="0", mkstream=True)
    await redis.xadd(streams.QUERIES, {"__data__": b"q"})
    await redis.xreadgroup("edge", "holds", {streams.QUERIES: ">"})
    await redis.xgroup_createconsumer(streams.QUERIES, "edge", "empty")

    async def left(gone_s):
        await scripts.look_after(redis, streams.QUERIES, "edge", gone_s=gone_s, most=10)
        return [row["name"] for row in await redis.xinfo_consumers(streams.QUERIES, "edge")]

    assert sorted(await left(None)) == [b"empty", b"holds"]
    assert sorted(await left(3600)) == [b"empty", b"holds"]
    assert await left(-1) == [b"holds"]


async def test_a_stop_does_not_wait_for_a_broker_that_does_not_answer(redis, start_node, monkeypatch):
    node = await start_node(consumer(count))
    monkeypatch.setattr("common.runtime.subscription.HAND_BACK_S", 0.05)
    monkeypatch.setattr(node.subscription, "_hand_back", asyncio.Event().wait)
    async with asyncio.timeout(5):
        await node.subscription.stop()


async def test_a_stop_in_the_midst_of_a_start_leaves_nothing_that_reads(redis, start_node):
    for _ in range(10):
        node = await start_node(consumer(count))
        await node.subscription.stop()
        await asyncio.gather(*(node.subscription._ensure() for _ in range(2)))
        assert not node.subscription.alive()


async def test_who_looks_after_a_group_is_told_what_waits_before_it(redis):
    for _ in range(3):
        await redis.xadd(streams.QUERIES, {"__data__": b"q"})
    await redis.xadd(streams.dead(streams.QUERIES), {"__data__": b"letter"})
    first = await scripts.look_after(redis, streams.QUERIES, "edge", gone_s=3600, most=10)
    assert first == scripts.Waiting(
        made=True, length=3, pending=0, oldest_idle_s=0.0, dead=1, outbox=0, at_s=first.at_s
    )
    seconds, microseconds = await redis.time()
    assert first.at_s <= seconds + microseconds / 1e6 < first.at_s + 60.0
    await redis.xreadgroup("edge", "holds", {streams.QUERIES: ">"}, count=2)
    await redis.xadd(streams.outbox(streams.QUERIES), {"__data__": b"sent"})
    entry = (await redis.xpending_range(streams.QUERIES, "edge", "-", "+", 1))[0]["message_id"]
    began_s = time.monotonic()
    await redis.xclaim(streams.QUERIES, "edge", "holds", 0, [entry], idle=7_000)
    then = await scripts.look_after(redis, streams.QUERIES, "edge", gone_s=3600, most=10)
    assert then == scripts.Waiting(False, 3, 2, then.oldest_idle_s, 1, 1, then.at_s)
    assert 7.0 <= then.oldest_idle_s < 7.01 + time.monotonic() - began_s
