"""The new messages of one read handled together: one script for all, and each whole or not at all."""

import asyncio
import random

import pytest
from broker_node import COUNTS, consumer, count, counted, finished, letters

from common.errors import Rejected, Unavailable
from common.runtime import scripts, streams
from common.runtime.effects import EFFECTS_MAX, Absent, Equals, Exists, HashAdd, HashDelete, HashSet, Send, Then

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("seasoned")]
TAKEN = streams.side_key(streams.QUERIES, "taken")


async def add(redis, *bodies):
    return [(await redis.xadd(streams.QUERIES, {"__data__": body})).decode() for body in bodies]


def together(answer):
    """A handler of reads that gives what `answer` gives for each body; with the bodies of each read."""
    reads = []

    async def handle_read(given):
        reads.append([body for _, body in given])
        return [answer(body) for _, body in given]

    return handle_read, reads


@pytest.mark.parametrize("direct", [True, False])
async def test_a_read_is_handled_together_and_every_message_once(redis, start_node, eventually, direct):
    bodies = [b"q%d" % number for number in range(50)]
    await add(redis, *bodies)
    answer = lambda body: [*counted(body), Send(streams.answers("me"), body, body.decode())]  # noqa: E731
    handle_read, reads = together(answer)
    await start_node(consumer(None, handle_read=handle_read, max_records=32), direct=direct)
    await eventually(lambda: finished(redis))
    await eventually(lambda: finished(redis, streams.outbox(streams.QUERIES)))
    assert [len(read) for read in reads] == [32, 18]
    assert await redis.hgetall(COUNTS) == dict.fromkeys(bodies, b"1")
    assert [fields[b"__data__"] for _, fields in await redis.xrange(streams.answers("me"))] == bodies
    assert (await redis.xpending(streams.QUERIES, "edge"))["pending"] == 0


async def test_what_it_leaves_is_handled_alone_and_not_beside_it(redis, start_node, eventually):
    running, alone = 0, []
    handle_read, reads = together(lambda body: counted(body) if body.startswith(b"q") else None)

    async def handle(delivery, body):
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(0)
        alone.append((body, delivery.deliveries))
        running -= 1
        return counted(body)

    await add(redis, b"q0", b"odd0", b"q1", b"odd1")
    await start_node(consumer(handle, handle_read=handle_read))
    await eventually(lambda: finished(redis))
    assert reads == [[b"q0", b"odd0", b"q1", b"odd1"]]
    assert alone == [(b"odd0", 1), (b"odd1", 1)]
    assert await redis.hgetall(COUNTS) == dict.fromkeys(reads[0], b"1")


async def test_one_whose_conditions_do_not_hold_is_handled_alone_on_what_is_there_now(redis, start_node, eventually):
    """The second message of a read wants what the first has taken."""
    followed = []
    taking = lambda name, body: [  # noqa: E731
        Absent(TAKEN, name), HashSet(TAKEN, name, body), Then(lambda: followed.append((name, body)))
    ]  # fmt: skip
    handle_read, _ = together(lambda body: taking("a", body))

    async def first_free(delivery, body):
        return taking("b" if await redis.hexists(TAKEN, "a") else "a", body)

    await add(redis, b"q0", b"q1")
    await start_node(consumer(first_free, handle_read=handle_read))
    await eventually(lambda: len(followed) == 2)
    assert (await finished(redis), followed) == (True, [("a", b"q0"), ("b", b"q1")])
    assert await redis.hgetall(TAKEN) == {b"a": b"q0", b"b": b"q1"}


async def test_a_bug_in_what_follows_on_a_commit_undoes_nothing_and_stops_nothing_else(
    redis, start_node, eventually, caplog
):
    followed, alone = [], []

    def follow_on(body):
        if body == b"q0":
            raise ZeroDivisionError
        followed.append(body)

    async def handle(delivery, body):
        alone.append(body)
        return counted(body)

    handle_read, _ = together(lambda body: [*counted(body), Then(lambda: follow_on(body))])
    await add(redis, b"q0", b"q1")
    await start_node(consumer(handle, handle_read=handle_read))
    await eventually(lambda: followed or alone)
    await eventually(lambda: finished(redis))
    assert (followed, alone) == ([b"q1"], [])
    assert await redis.hgetall(COUNTS) == {b"q0": b"1", b"q1": b"1"}
    (line,) = [record for record in caplog.records if record.exc_info]
    assert (line.exc_info[0], line.message) == (
        ZeroDivisionError, "what follows on a commit failed; the commit stands"
    )  # fmt: skip


async def test_a_bug_in_it_leaves_each_message_to_its_own_fate(redis, start_node, eventually):
    async def handle_read(given):
        raise ZeroDivisionError

    async def handle(delivery, body):
        if body == b"bad":
            raise Rejected("off_simplex", "sums to 2")
        return counted(body)

    await add(redis, b"q0", b"bad", b"q1")
    await start_node(consumer(handle, handle_read=handle_read))
    await eventually(lambda: finished(redis))
    assert await redis.hgetall(COUNTS) == {b"q0": b"1", b"q1": b"1"}
    assert [(letter.code, letter.deliveries) for letter in await letters(redis)] == [("off_simplex", 1)]


async def test_what_is_unavailable_to_it_is_tried_again_alone_and_not_counted_as_a_failure(
    redis, start_node, eventually
):
    calls = []

    async def handle_read(given):
        calls.append(len(given))
        raise Unavailable("model_loading", "not yet")

    await add(redis, b"q0", b"q1")
    await start_node(consumer(count, handle_read=handle_read, max_deliveries=1))
    await eventually(lambda: finished(redis))
    assert calls == [2]
    assert await redis.hgetall(COUNTS) == {b"q0": b"1", b"q1": b"1"}
    assert await letters(redis) == []


async def test_what_is_no_message_has_its_end_and_the_others_are_handled_together(redis, start_node, eventually):
    decoded = []

    def decode(body):
        decoded.append(body)
        if body == b"\xff":
            raise Rejected("undecodable", "no msgpack map")
        return body

    handle_read, reads = together(counted)
    await add(redis, b"q0", b"\xff")
    await redis.xadd(streams.QUERIES, {"colour": b"red"})
    await add(redis, b"q1")
    await start_node(consumer(count, decode=decode, handle_read=handle_read))
    await eventually(lambda: finished(redis))
    assert (reads, decoded) == ([[b"q0", b"q1"]], [b"q0", b"\xff", b"q1"])
    assert {letter.code for letter in await letters(redis)} == {"undecodable", "no_body"}


async def test_what_was_delivered_before_is_handled_alone(redis, start_node, eventually):
    """It may be what killed the process in the midst of a read: those that were read with it are not killed again."""
    await redis.xgroup_create(streams.QUERIES, "edge", id="0", mkstream=True)
    await add(redis, b"q0", b"q1")
    await redis.xreadgroup("edge", "ghost", {streams.QUERIES: ">"})
    handle_read, reads = together(counted)
    node = await start_node(consumer(count, handle_read=handle_read))
    await eventually(lambda: finished(redis))
    assert (reads, await redis.hgetall(COUNTS)) == ([], {b"q0": b"1", b"q1": b"1"})
    await eventually(lambda: not node.health.reasons())


async def test_a_lease_keeps_a_long_read_from_being_given_away(redis, start_node, eventually):
    reads, release = [], asyncio.Event()

    async def long(given):
        reads.append(len(given))
        await release.wait()
        return [counted(body) for _, body in given]

    await add(redis, *(b"q%d" % number for number in range(8)))
    for _ in range(2):
        await start_node(consumer(count, handle_read=long, claim_after_s=0.5))
    await eventually(lambda: reads)
    asyncio.get_running_loop().call_later(1.3, release.set)  # two and a half claim times
    await eventually(lambda: finished(redis))
    assert reads == [8]
    assert set((await redis.hgetall(COUNTS)).values()) == {b"1"}


async def test_a_stop_lets_a_read_that_has_begun_end_and_hands_back_what_it_leaves(redis, start_node, eventually):
    begun, release = asyncio.Event(), asyncio.Event()

    async def handle_read(given):
        begun.set()
        await release.wait()
        return [counted(body) if body == b"q0" else None for _, body in given]

    await add(redis, b"q0", b"q1")
    node = await start_node(consumer(count, handle_read=handle_read, claim_after_s=600.0))
    await eventually(lambda: begun.is_set() and node.subscription.alive())
    stopping = asyncio.create_task(node.stop())
    await eventually(lambda: not node.subscription.alive())
    release.set()
    await stopping
    assert await redis.hgetall(COUNTS) == {b"q0": b"1"}
    await start_node(consumer(count, claim_after_s=600.0))  # had it not been handed back, ten minutes would pass
    await eventually(lambda: finished(redis))
    assert await redis.hgetall(COUNTS) == {b"q0": b"1", b"q1": b"1"}


async def test_more_effects_than_one_script_may_have_are_committed_in_several(redis):
    ids = await add(redis, b"q0", b"q1", b"q2")
    await redis.xgroup_create(streams.QUERIES, "edge", id="0")
    await redis.xreadgroup("edge", "a", {streams.QUERIES: ">"})
    half = [HashAdd(COUNTS, "all", 1)] * (EFFECTS_MAX // 2 + 1)
    assert await scripts.finish(redis, streams.QUERIES, "edge", [(entry, half) for entry in ids]) == ["done"] * 3
    assert await redis.hgetall(COUNTS) == {b"all": str(3 * len(half)).encode()}


def _drawn(chance, number):
    """Conditions and writes on three fields, some of which hold; some to a key of another kind."""
    field = lambda: chance.choice("abc")  # noqa: E731
    conditions = [Exists(TAKEN, field()), Absent(TAKEN, field()), Equals(TAKEN, field(), b"1")]
    writes = [
        HashSet(TAKEN, field(), b"1"),
        HashAdd(TAKEN, field(), 1),
        HashDelete(TAKEN, field()),
        Send(streams.answers(chance.choice(["me", "odd"])), b"\xff\x00", str(number % 5)),
    ]
    return chance.sample(conditions, chance.randrange(3)) + chance.sample(writes, chance.randrange(3))


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("seed", range(8))
async def test_many_finished_in_one_script_are_what_they_would_be_one_by_one(redis, direct, seed):
    chance = random.Random(seed)
    wanted = [_drawn(chance, number) for number in range(40)]
    states = []
    for at_once in (True, False):
        await redis.flushall()
        await redis.set(streams.answers("odd"), "no stream")
        ids = await add(redis, *(b"q" for _ in wanted))
        await redis.xgroup_create(streams.QUERIES, "edge", id="0")
        await redis.xreadgroup("edge", "a", {streams.QUERIES: ">"})
        await redis.xack(streams.QUERIES, "edge", *ids[::4])
        works = list(zip(ids, wanted, strict=True))
        sizes = [works] if at_once else [[each] for each in works]
        outcomes = []
        for each in sizes:
            outcomes += await scripts.finish(redis, streams.QUERIES, "edge", each, direct=direct)
        sent = [fields for _, fields in await redis.xrange(streams.answers("me"))]
        boxed = [fields for _, fields in await redis.xrange(streams.outbox(streams.QUERIES))]
        left = [ids.index(entry.decode()) for entry, _ in await redis.xrange(streams.QUERIES)]
        states.append(([str(each) for each in outcomes], await redis.hgetall(TAKEN), sent, boxed, left))
    assert states[0] == states[1]
    assert {"done", "gone", "conflict"} <= set(states[0][0])
