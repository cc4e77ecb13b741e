"""Whatever is done to it, the centre ends up with the bytes that it would have had undisturbed."""

import asyncio
import random
from contextlib import AsyncExitStack
from dataclasses import replace

import numpy as np
import pytest
from centre import APPS, NODES, Centre, mentioning, ref_of
from centre_death import LEAVES_OPEN, Death, buried, dies, install  # noqa: F401 -- a fixture

from common.runtime import keys, streams
from common.runtime.service import serve
from common.wire.codec import pack
from common.wire.proposals import encode

pytestmark = [pytest.mark.anyio, LEAVES_OPEN]
WAVES, PACKETS = 3, 12
DEATHS = 12
REPLAYS = 300  # benchmarks/centre.py sends 10,000


@pytest.fixture
def centre(tmp_path, broker_url, broker, micro_parts, monkeypatch):
    monkeypatch.setattr("services.aggregator.app.CUT_EVERY_S", 0.02)
    keys.init(tmp_path, NODES)
    return Centre(tmp_path, broker_url, broker, micro_parts)


def waves(centre, bundle):
    """What comes, a batch a wave: n-grams of a domain and of new territory, mentions, proposals."""
    found = []
    for wave in range(WAVES):
        raws = []
        for number in range(PACKETS):
            node, sequence = number % 4, 1 + wave * PACKETS + number
            extra = {"merges": encode([(101, 102 + number, 9)])}
            extra |= (
                {"mentions": mentioning(7, 50 + number, 100 * sequence)["mentions"]} if number % 3 else {"domain": None}
            )
            raws.append(centre.packet(bundle, node, sequence, **extra))
        found.append(raws)
    return found


def served(centre, claim_after_s=0.05):
    """The aggregator as its process runs it, but impatient: what a dead one held is claimed soon."""
    settings = centre.settings("aggregator", batch_packets=PACKETS, batch_age_s=600.0)

    async def build(broker):
        wiring = await APPS["aggregator"][0](settings, broker)
        return replace(wiring, consumers=[replace(each, claim_after_s=claim_after_s) for each in wiring.consumers])

    return serve(settings, service="aggregator", build=build, check_every_s=0.02)


async def kept(centre):
    """The whole broker, as bytes by key."""
    redis = centre.broker.redis
    return {key: await redis.dump(key) for key in await redis.keys()}


async def set_back(centre, before):
    redis = centre.broker.redis
    await redis.flushall()
    for key, value in before.items():
        await redis.restore(key, 0, value)


async def state(centre):
    """All that the aggregator has counted and said; what only says when is left out."""
    redis = centre.broker.redis
    names = sorted(key.decode() for key in await redis.keys("{qig:packets}:*"))
    times = {streams.side_key(streams.PACKETS, name) for name in ("standing", "seen", "outbox", "dead", "dead:seen")}
    hashes = {name: await centre.broker.read_hash(name) for name in names if name not in times}
    return [pack(batch) for batch in await centre.batches()], await centre.told(), hashes


async def wave_done(centre, number):
    redis = centre.broker.redis
    waiting = await redis.xlen(streams.PACKETS) + await redis.xlen(streams.outbox(streams.PACKETS))
    return waiting == 0 and len(await centre.batches()) >= number


async def outlived(centre, came, deaths, **given):
    """The waves one after the other, the aggregator dying at such writes of its lives; how often it did."""
    died = 0
    async with asyncio.timeout(30):
        for number, raws in enumerate(came, 1):
            await centre.send(*raws)
            while not await wave_done(centre, number):
                nth, moment = next(deaths)
                died += await dies(Death(nth, moment), served(centre, **given), lambda n=number: wave_done(centre, n))
    return died


def never():
    while True:
        yield 10**9, "before"


def at_random(seed):
    rng = random.Random(seed)
    while True:
        yield rng.randint(1, 4), rng.choice(["before", "after"])


async def test_an_aggregator_killed_at_random_leaves_the_bytes_of_an_undisturbed_one(centre, monkeypatch):
    install(monkeypatch)
    bundle = await centre.release()
    came, fresh = waves(centre, bundle), await kept(centre)
    await outlived(centre, came, never())
    expected = await state(centre)
    assert len(expected[0]) == WAVES
    died, seed = 0, 0
    while died < DEATHS:
        await set_back(centre, fresh)
        died += await outlived(centre, came, at_random(seed))
        assert await state(centre) == expected, f"seed {seed}, {died} deaths"
        seed += 1


async def test_eight_deaths_in_a_row_bury_no_packet(centre, monkeypatch):
    install(monkeypatch)
    bundle = await centre.release()
    (raws, *_) = waves(centre, bundle)
    deaths = iter([*[(1, "before")] * 8, *[(10**9, "before")] * 8])
    assert await outlived(centre, [raws], deaths, claim_after_s=0.001) == 8
    assert len(await centre.counted()) == PACKETS
    assert await centre.letters(streams.PACKETS) == []


async def test_what_was_counted_and_comes_again_and_again_changes_nothing(centre, eventually):
    bundle = await centre.release()
    came = waves(centre, bundle)
    async with centre.running("aggregator", batch_packets=PACKETS, batch_age_s=600.0):
        for number, raws in enumerate(came, 1):
            await centre.send(*raws)
            await eventually(lambda n=number: wave_done(centre, n))
        before = await state(centre)
        rng = np.random.default_rng(0)
        every = [raw for raws in came for raw in raws]
        again = centre.broker.redis.pipeline(transaction=False)
        for place in rng.integers(0, len(every), REPLAYS):
            again.xadd(streams.PACKETS, {"__data__": every[place]})
        await again.execute()
        await eventually(lambda: wave_done(centre, WAVES), 30.0)
    assert await state(centre) == before
    letters = await centre.letters(streams.PACKETS)
    assert (len(letters), {letter.code for letter in letters}) == (REPLAYS, {"replayed"})


async def test_two_aggregators_leave_the_bytes_of_one(centre, eventually):
    bundle = await centre.release()
    came, fresh = waves(centre, bundle), await kept(centre)
    found = []
    for many in (1, 2):
        await set_back(centre, fresh)
        async with AsyncExitStack() as stack:
            for _ in range(many):
                running = centre.running("aggregator", batch_packets=PACKETS, batch_age_s=600.0)
                await stack.enter_async_context(running)
            for number, raws in enumerate(came, 1):
                await centre.send(*raws, *raws[::3])
                await eventually(lambda n=number: wave_done(centre, n))
        found.append(await state(centre))
    assert found[0] == found[1]
    assert await centre.counted() == sorted(
        ref_of(centre, n % 4, 1 + wave * PACKETS + n) for wave in range(WAVES) for n in range(PACKETS)
    )
