"""At its limit a stream of work takes no more, and nothing of it goes that anybody needs."""

import asyncio
from dataclasses import replace

import pytest
from broker_node import consumer, count, counted, finished
from client_edge import edge

from common.client import Client
from common.errors import Unavailable
from common.runtime import relay, scripts, streams
from common.runtime.effects import HashAdd, Send
from common.runtime.streams import OUTBOX_MAX_ENTRIES

pytestmark = pytest.mark.anyio
MOST = 5
TEXT = "down to the sea"
LETTER_BYTES = 1 << 20


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """Queries and batches of which a handful fit."""
    for stream in (streams.QUERIES, streams.BATCHES):
        monkeypatch.setitem(streams._KEPT, stream, replace(streams.retention(stream), entries=MOST))
    monkeypatch.setattr(scripts, "FULL_RETRY_S", 0.02)


async def ids(redis, stream):
    return [entry for entry, _ in await redis.xrange(stream)]


async def fill(broker, stream=streams.QUERIES):
    for number in range(MOST):
        await broker.produce(stream, b"old %d" % number, f"old-{number}")


async def test_below_the_limit_work_is_taken_and_at_it_refused_and_nothing_goes(redis, broker):
    await fill(broker)
    before = await ids(redis, streams.QUERIES)
    assert len(before) == MOST
    for _ in range(2):
        with pytest.raises(Unavailable, match=r"stream_full: qig:queries") as refused:
            await broker.produce(streams.QUERIES, b"new", "new")
        assert refused.value.retry_after_s == scripts.FULL_RETRY_S
    assert await ids(redis, streams.QUERIES) == before
    assert await broker.produce(streams.QUERIES, b"old 0", "old-0") is False  # known: no room is asked for
    await redis.xdel(streams.QUERIES, before[0])
    assert await broker.produce(streams.QUERIES, b"new", "new")
    with pytest.raises(Unavailable, match="stream_full"):
        await broker.produce(streams.QUERIES, b"newer", "newer")


async def test_room_is_asked_for_as_it_is_given(redis, broker):
    await broker.check_room(streams.QUERIES)
    await fill(broker)
    with pytest.raises(Unavailable, match=r"stream_full: .* limit is 5"):
        await broker.check_room(streams.QUERIES)
    await redis.xadd(streams.QUERIES, {"__data__": b"by hand"})
    with pytest.raises(Unavailable, match="stream_full"):
        await broker.check_room(streams.QUERIES)


@pytest.mark.parametrize("direct", [True, False])
async def test_work_whose_message_has_no_room_waits_and_is_done_once_there_is_some(
    redis, broker, start_node, eventually, direct
):
    async def pass_on(delivery, body):
        return [*counted(body), Send(streams.BATCHES, body, body.decode())]

    await fill(broker, streams.BATCHES)
    if not direct:
        await redis.xadd(streams.outbox(streams.QUERIES), {"stream": streams.BATCHES, "id": "b", "__data__": b"b"})
    await broker.produce(streams.QUERIES, b"q", "q")
    await start_node(consumer(pass_on), direct=direct)

    async def has_waited():
        groups = await redis.xinfo_groups(streams.QUERIES)
        return (groups and groups[0]["pending"]) if direct else await redis.xlen(streams.outbox(streams.QUERIES)) == 2

    await eventually(has_waited)
    assert await redis.xlen(streams.BATCHES) == MOST
    await redis.xtrim(streams.BATCHES, maxlen=1, approximate=False)
    await eventually(lambda: finished(redis))
    await eventually(lambda: finished(redis, streams.outbox(streams.QUERIES)))
    assert [fields[b"__data__"] for _, fields in await redis.xrange(streams.BATCHES)][-1] == b"q"
    assert await redis.hgetall(streams.side_key(streams.QUERIES, "counts")) == {b"q": b"1"}


async def given(redis, body=b"q"):
    """An entry of the queries that `me` was given."""
    entry = await redis.xadd(streams.QUERIES, {"__data__": body})
    await redis.xgroup_create(streams.QUERIES, "edge", id="0")
    await redis.xreadgroup("edge", "me", {streams.QUERIES: ">"})
    return entry.decode()


async def stuff(redis, box, entries):
    filling = redis.pipeline(transaction=False)
    for _ in range(entries):
        filling.xadd(box, {"stream": streams.RETURNED, "id": "r", "__data__": b"r"})
    await filling.execute()


@pytest.mark.parametrize(("entries", "done"), [(OUTBOX_MAX_ENTRIES - 1, True), (OUTBOX_MAX_ENTRIES, False)])
async def test_an_outbox_that_nobody_carries_takes_no_more_than_its_limit(redis, entries, done):
    box = streams.outbox(streams.QUERIES)
    await stuff(redis, box, entries)
    entry = await given(redis)
    count_it = HashAdd(streams.side_key(streams.QUERIES, "counts"), "q", 1)
    effects = [count_it, Send(streams.answers("kiosk"), b"a", "a1")]
    committing = scripts.commit(redis, streams.QUERIES, effects, entry=("edge", entry))
    if done:
        assert await committing == "done"
    else:
        with pytest.raises(Unavailable, match="stream_full"):
            await committing
        (refused,) = await scripts.finish(redis, streams.QUERIES, "edge", [(entry, effects)])
        assert isinstance(refused, Unavailable)
    assert (await redis.xpending(streams.QUERIES, "edge"))["pending"] == 1 - done
    assert await redis.exists(count_it.key) == done
    assert await redis.xlen(box) == OUTBOX_MAX_ENTRIES


async def test_of_an_outbox_what_has_no_room_holds_back_nothing_that_goes_elsewhere(redis, broker):
    await fill(broker, streams.BATCHES)
    batches = [Send(streams.BATCHES, b"b", f"b{number}") for number in range(2 * relay.RELAY_RECORDS)]
    await scripts.commit(redis, streams.PACKETS, [*batches, Send(streams.RETURNED, b"r", "r1")])
    assert await relay.carry(redis, streams.PACKETS) == 1
    with pytest.raises(Unavailable, match=r"stream_full: qig:batches"):
        await relay.carry(redis, streams.PACKETS)
    await relay.drain(redis, streams.PACKETS)
    assert await redis.xlen(streams.outbox(streams.PACKETS)) == len(batches)
    assert (await redis.xlen(streams.BATCHES), await redis.xlen(streams.RETURNED)) == (MOST, 1)
    await redis.xtrim(streams.BATCHES, maxlen=MOST - 2, approximate=False)
    assert await relay.carry(redis, streams.PACKETS) == 2


async def test_a_client_waits_while_there_is_no_room_and_is_answered(redis, broker, broker_url, start_node):
    await fill(broker)
    async with Client(broker_url) as client:
        asking = asyncio.create_task(client.ask(TEXT))
        await asyncio.wait([asking], timeout=0.1)
        assert not asking.done()
        assert await redis.xlen(streams.QUERIES) == MOST

        async def handle(delivery, body):
            return await edge(redis)(delivery, body) if TEXT.encode() in body else await count(delivery, body)

        await start_node(consumer(handle))
        assert (await asking).text == TEXT


async def test_a_broadcast_keeps_the_newest_whoever_reads_it(redis, broker, monkeypatch):
    monkeypatch.setitem(streams._KEPT, streams.APPLIED, streams.Retention(entries=100))
    await redis.xgroup_create(streams.APPLIED, "theirs", id="0", mkstream=True)
    for number in range(250):
        await broker.produce(streams.APPLIED, b"%d" % number, f"{number}")
    kept = [fields[b"__data__"] for _, fields in await redis.xrange(streams.APPLIED)]
    assert 100 <= len(kept) <= 200
    assert kept == [b"%d" % number for number in range(250 - len(kept), 250)]


async def letters(redis):
    """Their messages: the first field, as readers without Python take it."""
    return [next(iter(fields.values())) for _, fields in await redis.xrange(streams.dead(streams.QUERIES))]


@pytest.mark.parametrize("way", ["buried", "published"])
async def test_of_dead_letters_as_many_bytes_are_kept_as_their_limit_says(redis, way):
    fit = streams.DEAD_MAX_BYTES // LETTER_BYTES
    dead = streams.dead(streams.QUERIES)
    for number in range(fit + 2):
        body = (b"%03d" % number).ljust(LETTER_BYTES)
        if way == "buried":
            entry = await redis.xadd(streams.QUERIES, {"__data__": b"q"})
            await redis.xgroup_create(streams.QUERIES, "edge", id="0") if number == 0 else None
            await redis.xreadgroup("edge", "me", {streams.QUERIES: ">"})
            assert await scripts.bury(redis, streams.QUERIES, body, entry=("edge", entry.decode())) == "done"
        else:
            await scripts.publish(redis, dead, body, f"{number}")
        assert await redis.xlen(dead) == min(number + 1, fit)
    assert [int(letter[:3]) for letter in await letters(redis)] == list(range(2, fit + 2))


async def test_letters_that_were_taken_out_make_room(redis):
    dead, fit = streams.dead(streams.QUERIES), streams.DEAD_MAX_BYTES // LETTER_BYTES
    for number in range(fit):
        await scripts.publish(redis, dead, bytes(LETTER_BYTES), f"{number}")
    there = await ids(redis, dead)
    await redis.xdel(dead, *there[: fit // 2], there[-1])
    for number in range(fit // 2 + 1):
        await scripts.publish(redis, dead, bytes(LETTER_BYTES), f"more {number}")
        assert await redis.xlen(dead) == fit // 2 + number
    assert await redis.xlen(dead) == fit
