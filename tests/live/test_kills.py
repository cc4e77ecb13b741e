"""kill -9 in the middle of the work: every query is answered once, every packet is counted once."""

import pytest
from live_counts import MASS_CAP, check_counts
from live_fleet import answered_once, live, narrow, until

from common.runtime import streams
from common.runtime.follower import newest
from services.aggregator.app.hashes import LEDGER

pytestmark = [pytest.mark.live, pytest.mark.anyio, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
async def lively(micro_parts, tmp_path_factory):
    async with live(tmp_path_factory.mktemp("kills") / "home", narrow(micro_parts), mass_cap=MASS_CAP) as running:
        yield running


# The moment at which each is killed


async def a_query_in_its_hands(lively):
    async def held():
        rows = await lively.redis.xpending_range(streams.QUERIES, streams.GROUPS[streams.QUERIES], "-", "+", 100)
        return any(row["consumer"].startswith(b"edge-1.") for row in rows)

    await until(held, "a query that edge-1 was given")


async def a_packet_in_the_ledger(lively):
    before = await newest(lively.redis, streams.BATCHES)

    async def there():  # or it was, between two looks: two that come together are cut at once
        return await lively.redis.hlen(LEDGER) or await newest(lively.redis, streams.BATCHES) != before

    await until(there, "a packet in the ledger")


async def a_batch_in_its_stream(lively):
    await lively.arrival(streams.BATCHES)


async def a_candidate_in_its_stream(lively):
    await lively.arrival(streams.CANDIDATES)


MOMENTS = {
    "edge-1": a_query_in_its_hands,
    "aggregator": a_packet_in_the_ledger,
    "trainer": a_batch_in_its_stream,
    "publisher": a_candidate_in_its_stream,
    "broker": a_packet_in_the_ledger,
}


async def kill(fleet, victim):
    await (fleet.kill_broker() if victim == "broker" else fleet.kill(victim))


@pytest.mark.parametrize("victim", MOMENTS)
async def test_after_a_kill_every_query_is_answered_once_and_every_packet_counted_once(lively, victim):
    version = (await lively.bundles())[-1].version
    async with lively.desk() as desk:
        async with lively.traffic(desk):
            await lively.read(desk, 10)  # 19 KB: whatever two edges take for three domains, one has its 3 KB
            await MOMENTS[victim](lively)
            await kill(lively.fleet, victim)
            await lively.newest_on_both_edges(above=version)
        await desk.all_answered()
        assert desk.lost == 0
        assert answered_once(desk, await lively.answers(desk))
    await lively.fleet.wait_all_ready()
    await lively.settled()
    await check_counts(lively)
