"""What a consumer turns away before it waits for its turn, many in one script."""

import asyncio

import pytest
from broker_node import COUNTS, consumer, count, counted, finished, letters

from common.errors import Rejected, Unavailable
from common.runtime import scripts, streams
from common.runtime.effects import Send

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("seasoned")]


def turned_away(delivery, body, ahead):
    return [Send(streams.answers("me"), b"no:" + body, body.decode())] if body.startswith(b"no") else None


@pytest.mark.parametrize("direct", [True, False])
async def test_what_is_turned_away_is_answered_and_finished_and_the_rest_is_handled(
    redis, start_node, eventually, direct
):
    bodies = [b"%s%d" % (kind, number) for number in range(20) for kind in (b"no", b"q")]
    for body in bodies:
        await redis.xadd(streams.QUERIES, {"__data__": body})
    await redis.xadd(streams.QUERIES, {"colour": b"red"})
    await start_node(consumer(count, turn_away=turned_away, max_records=32), direct=direct)
    await eventually(lambda: finished(redis))
    await eventually(lambda: finished(redis, streams.outbox(streams.QUERIES)))
    assert await redis.hgetall(COUNTS) == {body: b"1" for body in bodies if body.startswith(b"q")}
    assert [letter.code for letter in await letters(redis)] == ["no_body"]
    told = [fields[b"__data__"] for _, fields in await redis.xrange(streams.answers("me"))]
    assert sorted(told) == sorted(b"no:" + body for body in bodies if body.startswith(b"no"))
    assert (await redis.xpending(streams.QUERIES, "edge"))["pending"] == 0


async def test_who_turns_away_is_told_how_many_come_first(redis, start_node, eventually):
    told, go = [], asyncio.Event()

    def away(delivery, body, ahead):
        told.append((body, ahead))
        return turned_away(delivery, body, ahead)

    async def handle(delivery, body):
        await go.wait()
        return counted(body)

    for body in (b"q0", b"no0", b"q1", b"q2"):
        await redis.xadd(streams.QUERIES, {"__data__": body})
    await start_node(consumer(handle, turn_away=away, at_once=2, max_records=8))
    await eventually(lambda: len(told) == 4)
    assert told == [(b"q0", 0), (b"no0", 1), (b"q1", 1), (b"q2", 2)]
    go.set()
    await eventually(lambda: finished(redis))


async def test_what_was_delivered_before_is_not_turned_away(redis, start_node, eventually):
    """It may have been answered."""
    calls = []

    async def handle(delivery, body):
        calls.append(delivery.deliveries)
        if len(calls) == 1:
            raise Unavailable("x", "x")
        return counted(body)

    away = lambda *asked: turned_away(*asked) if calls else None  # noqa: E731
    await redis.xadd(streams.QUERIES, {"__data__": b"no"})
    await start_node(consumer(handle, turn_away=away))
    await eventually(lambda: finished(redis))
    assert len(calls) == 2
    assert await redis.hgetall(COUNTS) == {b"no": b"1"}


async def test_what_cannot_be_decoded_is_not_turned_away_but_becomes_a_dead_letter(redis, start_node, eventually):
    def decode(body):
        raise Rejected("undecodable", "no msgpack map")

    await redis.xadd(streams.QUERIES, {"__data__": b"no"})
    await start_node(consumer(count, decode=decode, turn_away=turned_away))
    await eventually(lambda: finished(redis))
    assert [letter.code for letter in await letters(redis)] == ["undecodable"]


async def test_of_many_entries_those_that_others_finished_are_not_answered_again(redis):
    ids = [(await redis.xadd(streams.QUERIES, {"__data__": b"q%d" % n})).decode() for n in range(3)]
    await redis.xgroup_create(streams.QUERIES, "edge", id="0")
    await redis.xreadgroup("edge", "a", {streams.QUERIES: ">"})
    await redis.xack(streams.QUERIES, "edge", ids[1])
    sends = [(entry, [Send(streams.answers("me"), entry.encode(), entry)]) for entry in ids]
    assert await scripts.finish(redis, streams.QUERIES, "edge", sends, direct=True) == ["done", "gone", "done"]
    told = [fields[b"__data__"].decode() for _, fields in await redis.xrange(streams.answers("me"))]
    assert told == [ids[0], ids[2]]
    assert await redis.xlen(streams.QUERIES) == 1


async def test_of_many_entries_the_one_whose_answer_has_no_place_to_go_stays_pending(redis):
    one, other = [(await redis.xadd(streams.QUERIES, {"__data__": b"q"})).decode() for _ in range(2)]
    await redis.xgroup_create(streams.QUERIES, "edge", id="0")
    await redis.xreadgroup("edge", "a", {streams.QUERIES: ">"})
    await redis.set(streams.answers("odd"), "no stream")
    sends = [(one, [Send(streams.answers("odd"), b"x", "odd")]), (other, [Send(streams.answers("me"), b"x", "me")])]
    hindered, done = await scripts.finish(redis, streams.QUERIES, "edge", sends, direct=True)
    assert (str(hindered), done) == ("WRONGTYPE qig:answers:odd is a string", "done")
    assert (await redis.xpending(streams.QUERIES, "edge"))["min"].decode() == one
    assert await redis.xlen(streams.answers("me")) == 1
