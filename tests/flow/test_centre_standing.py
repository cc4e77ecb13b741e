"""What one node may have, and what became of it: quotas and standings, through a real broker."""

import urllib.request
from asyncio import to_thread

import msgpack
import pytest
from centre import NODES, Centre, mentioning, ref_of

from common.runtime import keys, metrics, streams
from services.aggregator.app.enrolment import Enrolment
from services.aggregator.app.hashes import FOUNDED, HELD, MENTIONED, STANDING

pytestmark = pytest.mark.anyio
EDGES = [*NODES, "edge-4", "edge-5"]


@pytest.fixture
def centre(tmp_path, broker_url, broker, micro_parts, monkeypatch):
    monkeypatch.setattr("services.aggregator.app.CUT_EVERY_S", 0.02)
    keys.init(tmp_path, EDGES)
    return Centre(tmp_path, broker_url, broker, micro_parts)


def key_of(centre, node):
    return ref_of(centre, node, 0)[:8].hex()


async def standing(centre, node=0):
    data = await centre.broker.redis.hget(STANDING, key_of(centre, node))
    return None if data is None else msgpack.unpackb(data)


async def drained(centre):
    return await centre.broker.redis.xlen(streams.PACKETS) == 0


async def held(centre):
    return {key: int(count) for key, count in (await centre.broker.read_hash(HELD)).items()}


async def test_what_a_node_has_too_many_of_goes_back_and_the_others_packets_count(centre, eventually):
    bundle = await centre.release()
    await centre.send(*[centre.packet(bundle, 0, n) for n in range(1, 5)], centre.packet(bundle, 1))
    async with centre.running("aggregator", batch_packets=200, batch_age_s=600.0, node_packets=2):
        await eventually(lambda: drained(centre))
    assert await held(centre) == {key_of(centre, 0): 2, key_of(centre, 1): 1}
    assert await centre.returned() == [(ref_of(centre, 0, n), "too_many_packets") for n in (3, 4)]
    assert [letter.code for letter in await centre.letters(streams.PACKETS)] == ["too_many_packets"] * 2


async def test_a_cut_makes_room_for_more_of_a_node(centre, eventually):
    bundle = await centre.release()
    async with centre.running("aggregator", batch_packets=2, batch_age_s=0.02, node_packets=2):
        for first in (1, 3, 5):
            await centre.send(*[centre.packet(bundle, 0, n) for n in (first, first + 1)])
            await eventually(lambda many=first + 1: has_counted(centre, many))
    assert await centre.letters(streams.PACKETS) == []
    assert await held(centre) == {key_of(centre, 0): 0}


async def has_counted(centre, number):
    return len(await centre.counted()) == number


async def test_a_node_of_several_keys_has_one_quota(centre, eventually):
    own = keys.edges_dir(centre.home)
    (own / f"{NODES[1]}.pub").rename(own / f"{NODES[0]}@second.pub")
    bundle = await centre.release()
    await centre.send(*[centre.packet(bundle, node, n) for n in (1, 2) for node in (0, 1)])
    async with centre.running("aggregator", batch_packets=200, batch_age_s=600.0, node_packets=3):
        await eventually(lambda: drained(centre))
    assert [code for _, code in await centre.returned()] == ["too_many_packets"]
    assert sum((await held(centre)).values()) == 3


async def test_a_standing_tells_what_became_of_a_node_s_packets(centre, eventually):
    bundle = await centre.release()
    good = centre.packet(bundle)
    forged = bytearray(centre.packet(bundle, sequence=2))
    forged[-1] ^= 1
    implausible, before = centre.packet(bundle, sequence=3, domain="nowhere"), weighed()
    await centre.send(good, good, bytes(forged), implausible)
    async with centre.running("aggregator", batch_packets=1, batch_age_s=0.02) as url:
        await eventually(lambda: drained(centre))
        await eventually(lambda: has_distance(centre))
        shown = await to_thread(lambda: urllib.request.urlopen(f"{url}/metrics", timeout=5).read().decode())
    told = await standing(centre)
    assert told["accepted"] == 1
    assert told["refused"] == {"replayed": 1, "bad_signature": 1, "implausible": 1}
    assert told["last_ms"] > 1_600_000_000_000
    assert told["distance_rad"] == pytest.approx(0.0, abs=0.02)
    assert f'qig_node_distance_rad{{node="{NODES[0]}"}}' in shown
    assert f'qig_node_packets_total{{node="{NODES[0]}",outcome="refused"}}' in shown
    assert weighed() - before == 2 * len(good) + len(forged) + len(implausible)


async def test_what_is_counted_of_a_node_reads_zero_before_its_first_packet(centre):
    for counter in (metrics.NODE_PACKETS, metrics.NODE_BYTES):
        counter.clear()
    enrolment = Enrolment(centre.home)
    (keys.edges_dir(centre.home) / f"{NODES[0]}.pub").rename(keys.edges_dir(centre.home) / "edge-9.pub")
    await enrolment.read()
    for node in (NODES[0], "edge-9"):
        assert metrics.REGISTRY.get_sample_value("qig_node_packet_bytes_total", {"node": node}) == 0.0
        for outcome in ("accepted", "refused"):
            labels = {"node": node, "outcome": outcome}
            assert metrics.REGISTRY.get_sample_value("qig_node_packets_total", labels) == 0.0


def weighed():
    return metrics.REGISTRY.get_sample_value("qig_node_packet_bytes_total", {"node": NODES[0]}) or 0.0


async def has_distance(centre):
    told = await standing(centre)
    return told is not None and told["distance_rad"] is not None


async def test_who_is_not_enrolled_has_no_standing(centre, eventually):
    bundle = await centre.release()
    good = centre.packet(bundle)
    await centre.send(good[:4] + b"\xff" * 8 + good[12:])
    async with centre.running("aggregator"):
        await eventually(lambda: drained(centre))
    assert await centre.broker.read_hash(STANDING) == {}


async def test_who_is_enrolled_no_more_when_a_batch_is_cut_is_not_in_it_and_its_mentions_go(centre, eventually):
    bundle = await centre.release()
    async with centre.running("aggregator", batch_packets=200, batch_age_s=0.3):
        await centre.send(centre.packet(bundle, 0, **mentioning(7)))
        await eventually(lambda: mentions(centre, 0))
        await centre.send(centre.packet(bundle, 0, 2), centre.packet(bundle, 1, **mentioning(8)))
        (keys.edges_dir(centre.home) / f"{NODES[0]}.pub").unlink()
        await eventually(lambda: mentions(centre, 1))
    assert await centre.batches() == []
    assert (ref_of(centre, 0, 2), "unknown_key") in await centre.returned()
    assert list(await centre.broker.read_hash(MENTIONED)) == [key_of(centre, 1)]


async def mentions(centre, node):
    return key_of(centre, node) in await centre.broker.read_hash(MENTIONED)


async def test_who_opened_a_domain_alone_is_noted_until_a_second_node_brings_text_of_it(centre, eventually):
    bundle = await centre.release()
    async with centre.running("aggregator", batch_packets=1, batch_age_s=0.02):
        await centre.send(centre.packet(bundle, 0, domain=None))
        await eventually(lambda: has_counted(centre, 1))
        assert list((await centre.broker.read_hash(FOUNDED)).values()) == [NODES[0].encode()]
        await centre.send(centre.packet(bundle, 1, domain=None))
        await eventually(lambda: has_counted(centre, 2))
    assert await centre.broker.read_hash(FOUNDED) == {}
