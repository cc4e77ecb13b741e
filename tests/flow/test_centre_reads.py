"""Packets that are read together leave the broker as if each had come alone."""

import time

import pytest
from broker_node import finished

from common.runtime import streams
from services.aggregator.app.hashes import ACCEPTED, HELD, LEDGER, SEQUENCE, STANDING
from services.aggregator.app.packets import Packets

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("seasoned")]


@pytest.fixture
def packets(centre):
    """What comes at once: of three nodes, some of it twice, wrong, too much, or no packet at all."""

    async def make(bundle):
        good = [centre.packet(bundle, node, sequence) for sequence in (1, 2, 3) for node in (0, 1)]
        replayed = [good[0], good[3]]
        wrong = [centre.packet(bundle, 2, 1, domain="nowhere"), centre.packet(bundle, 2, 1), b"no packet"]
        many = [centre.packet(bundle, 3, sequence) for sequence in range(1, 9)]
        return [*good, *wrong, *replayed, *many, centre.packet(bundle, 2, 2)]

    return make


async def test_packets_read_together_leave_what_they_leave_one_by_one(centre, packets, eventually, monkeypatch):
    redis = centre.broker.redis
    bundle = await centre.release()
    raws, now_ms = await packets(bundle), int(time.time() * 1000)
    reads, take_read, left = [], Packets.take_read, []

    async def together(self, given):
        reads.append(len(given))
        return await take_read(self, given)

    async def alone(self, given):
        return [None] * len(given)

    for how in (together, alone):
        monkeypatch.setattr(Packets, "take_read", how)
        for number, raw in enumerate(raws):
            await redis.xadd(streams.PACKETS, {"__data__": raw}, id=f"{now_ms}-{number + 1}")
        async with centre.running("aggregator", batch_packets=200, node_packets=5):
            await eventually(lambda: finished(redis, streams.PACKETS))
        hashes = [await centre.broker.read_hash(key) for key in (LEDGER, ACCEPTED, HELD, SEQUENCE, STANDING)]
        letters = [(letter.entry, letter.code) for letter in await centre.letters(streams.PACKETS)]
        left.append((hashes, sorted(letters), await centre.returned()))
        await redis.delete(LEDGER, ACCEPTED, HELD, SEQUENCE, STANDING)
        await redis.delete(streams.PACKETS, streams.dead(streams.PACKETS), streams.seen(streams.PACKETS))
        await redis.delete(streams.RETURNED, streams.seen(streams.RETURNED))
    assert reads == [len(raws) - 1]  # all but what no packet is
    assert left[0] == left[1]
    assert {code for _, code in left[0][1]} == {"malformed", "implausible", "replayed", "too_many_packets"}
    assert len(left[0][0][0]) == 6 + 5 + 1
