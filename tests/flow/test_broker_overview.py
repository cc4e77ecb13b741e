import pytest
from redis.asyncio import Redis

from common.runtime import overview, streams
from common.runtime.overview import depths, lately
from common.wire.codec import pack
from common.wire.messages import Heartbeat

pytestmark = pytest.mark.anyio


async def beat(redis, number):
    told = Heartbeat(node=f"edge-{number}", service="edge", at_s=1.0, bundle=1, ready=True)
    await redis.xadd(streams.HEART, {"__data__": pack(told)})


async def look(redis, **how):
    beats, after = await lately(redis, streams.HEART, Heartbeat, **how)
    return [each.node for each in beats], after


async def test_a_first_look_sees_the_newest_and_each_further_look_what_came_since(redis):
    for number in range(3):
        await beat(redis, number)
    seen, after = await look(redis, most=2)
    assert seen == ["edge-1", "edge-2"]
    assert await look(redis, after=after) == ([], after)
    for number in range(3, 6):
        await beat(redis, number)
    seen, after = await look(redis, after=after, most=2)
    assert seen == ["edge-3", "edge-4"]
    assert (await look(redis, after=after, most=2))[0] == ["edge-5"]


async def test_what_is_none_of_ours_is_passed_and_not_read_again(redis):
    assert await look(redis) == ([], None)
    await redis.xadd(streams.HEART, {"__data__": b"garbage"})
    seen, after = await look(redis)
    assert (seen, after is None) == ([], False)
    await beat(redis, 1)
    assert (await look(redis, after=after))[0] == ["edge-1"]


@pytest.mark.parametrize(("services", "beats"), [(2, 5), (3, 7)])
async def test_of_many_services_all_heartbeats_are_read_that_are_kept(redis, monkeypatch, services, beats):
    monkeypatch.setattr(overview, "BEATING", 2)
    monkeypatch.setattr(overview, "READ_MAX", 5)
    await beat(redis, 0)
    for number in range(6):
        await beat(redis, number % services)
    longest, on, back = [], Redis.xrange, Redis.xrevrange

    async def whole(rows):
        longest.append(len(found := await rows))
        return found

    monkeypatch.setattr(Redis, "xrange", lambda *args: whole(on(*args)))
    monkeypatch.setattr(Redis, "xrevrange", lambda *args, **options: whole(back(*args, **options)))
    found, position = await overview.heard(redis)
    assert (len(found), max(longest)) == (beats, 5)
    await beat(redis, 9)
    found, position = await overview.heard(redis, position)
    assert [each.node for each in found] == ["edge-9"]
    assert await overview.heard(redis, position) == ([], position)


async def test_every_work_stream_has_a_row_before_anything_was_published(redis):
    rows = await depths(redis)
    assert [row.stream for row in rows] == list(streams.GROUPS)
    assert {(row.length, row.lag, row.pending, row.dead) for row in rows} == {(0, 0, 0, 0)}
