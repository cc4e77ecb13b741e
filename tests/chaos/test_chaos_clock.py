import pytest
from faults import Machine, MortalBroker

from common.runtime import scripts, streams
from common.runtime.connection import connect

pytestmark = [pytest.mark.live, pytest.mark.anyio]
GROUP = streams.GROUPS[streams.QUERIES]


@pytest.fixture
async def broker(tmp_path):
    machine = Machine()
    if machine.faketime is None:
        pytest.skip("no libfaketime on this machine (apt install faketime): a clock set back is NOT tested here")
    broker = MortalBroker(tmp_path, machine, {"clock"})
    await broker.rise()
    yield broker
    broker.end()


async def test_what_a_dead_consumer_holds_can_be_claimed_soon_after_the_broker_s_clock_was_set_back(broker, eventually):
    async with connect(broker.running.url) as redis:
        await redis.xgroup_create(streams.QUERIES, GROUP, id="0", mkstream=True)
        entry = await redis.xadd(streams.QUERIES, {"__data__": b"q"})
        await redis.xreadgroup(GROUP, "dead", {streams.QUERIES: ">"})
        before_s, _ = await redis.time()
        broker.jump(-3600.0)

        async def jumped():
            return (await redis.time())[0] < before_s

        await eventually(jumped)

        async def claimed():
            return (await redis.xautoclaim(streams.QUERIES, GROUP, "me", min_idle_time=1))[1]

        assert await claimed() == []
        await scripts.look_after(redis, streams.QUERIES, GROUP, gone_s=3600, most=10)
        assert (await redis.xpending_range(streams.QUERIES, GROUP, "-", "+", 1))[0]["times_delivered"] == 1
        await eventually(claimed)
        assert (await redis.xpending_range(streams.QUERIES, GROUP, "-", "+", 1))[0]["message_id"] == entry
