"""Releases that everybody has, and that edges go back from."""

import json
import time

import pytest
from centre import NODES, Centre

from common.errors import Rejected
from common.runtime import keys, metrics, streams
from common.wire.codec import pack
from common.wire.messages import Applied, PacketRef
from services.publisher import app

pytestmark = pytest.mark.anyio
CARRIED = PacketRef(key=b"edge-key", epoch=1, sequence=7)


@pytest.fixture
def centre(tmp_path, broker_url, broker, micro_parts, monkeypatch):
    monkeypatch.setattr(app, "RINGS_EVERY_S", 0.02)
    keys.init(tmp_path, NODES)
    return Centre(tmp_path, broker_url, broker, micro_parts)


async def say(centre, version, nodes, verdict):
    for node in nodes:
        told = Applied(node=node, version=version, verdict=verdict, at_s=time.time(), reason="why")
        await centre.broker.produce(streams.APPLIED, pack(told), f"{node}:{version}:{verdict}")


async def released(centre, eventually, count, parent=None, **fields):
    """One more release, which makes `count`."""
    await centre.offer(await centre.candidate(parent, **fields))
    await eventually(lambda: entries(centre, count))
    return (await centre.bundles())[-1]


async def entries(centre, count):
    return await centre.broker.redis.xlen(streams.BUNDLES) == count


def counted():
    return metrics.REGISTRY.get_sample_value("qig_releases_taken_back_total", {"had": "everybody"}) or 0.0


async def test_a_release_that_two_edges_go_back_from_is_taken_back_and_what_it_brought_goes_out_again(
    centre, eventually
):
    before = counted()
    async with centre.running("publisher"):
        one = await released(centre, eventually, 1)
        await say(centre, 1, NODES, "good")
        two = await released(centre, eventually, 2, one, change={"notes.bin": b"bad"}, packets=(CARRIED,))
        await say(centre, 2, NODES, "applied")
        await say(centre, 2, NODES[:2], "reverted")
        await eventually(lambda: entries(centre, 3))
        await eventually(lambda: noted(centre, two))
        await eventually(lambda: counted() == before + 1)
        await eventually(centre.returned)
        back = (await centre.bundles())[-1]
        assert (back.version, back.parts) == (3, one.parts)
        assert await centre.returned() == [(CARRIED.packed, "taken_back")]
        assert await noted(centre, two) == ["2 of 4 went back from it, edge-0 because: why"]
        await say(centre, 3, NODES, "applied")
        four = await released(centre, eventually, 4, back, change={"notes.bin": b"good"})
    assert (four.version, four.parent) == (4, 3)
    assert len(await centre.returned()) == 1


async def noted(centre, bundle):
    note = (await centre.broker.read_hash(streams.REFUSED)).get(bundle.id)
    return note and json.loads(note)["reasons"]


async def test_a_release_that_one_of_four_goes_back_from_stays(centre, eventually):
    async with centre.running("publisher"):
        one = await released(centre, eventually, 1)
        await say(centre, 1, NODES, "good")
        two = await released(centre, eventually, 2, one, change={"notes.bin": b"two"})
        await say(centre, 2, NODES[:3], "good")
        await say(centre, 2, NODES[3:], "reverted")
        three = await released(centre, eventually, 3, two, change={"notes.bin": b"three"})
    assert (three.version, three.parent) == (3, 2)
    assert await noted(centre, two) is None


async def test_why_a_release_was_taken_back_is_noted_with_the_taking_back_of_each_that_goes(centre, eventually):
    async with centre.running("publisher"):
        one = await released(centre, eventually, 1)
        two = await released(centre, eventually, 2, one, change={"notes.bin": b"two"})
        three = await released(centre, eventually, 3, two, change={"notes.bin": b"three"})
        operator = app.Publisher(centre.settings("publisher"), centre.broker)
        assert await operator.releases.take_back(1, "by hand") == (4, 1)
        assert [await noted(centre, each) for each in (one, two, three)] == [None, ["by hand"], ["by hand"]]
        assert await operator.releases.take_back(3, "on second thoughts") == (5, 3)
        assert await noted(centre, three) == ["by hand"]


async def test_a_release_whose_packets_go_out_again_is_not_brought_back_by_hand(centre, eventually):
    async with centre.running("publisher"):
        one = await released(centre, eventually, 1)
        await released(centre, eventually, 2, one, change={"notes.bin": b"two"}, packets=(CARRIED,))
        operator = app.Publisher(centre.settings("publisher"), centre.broker)
        assert await operator.releases.take_back(1, "by hand") == (3, 1)
        await eventually(centre.returned)
        for to in (2, None):
            with pytest.raises(Rejected, match=r"packets_returned.*1 packet.*Keep bundle 3.*: 1$"):
                await operator.releases.take_back(to, "on second thoughts")
        assert len(await centre.bundles()) == 3
    assert await centre.returned() == [(CARRIED.packed, "taken_back")]


async def test_a_publisher_that_was_away_hears_of_it_when_it_starts(centre, eventually):
    async with centre.running("publisher"):
        one = await released(centre, eventually, 1)
        await released(centre, eventually, 2, one, change={"notes.bin": b"bad"})
    await say(centre, 2, NODES[:2], "reverted")
    async with centre.running("publisher"):
        await eventually(lambda: entries(centre, 3))
    assert (await centre.bundles())[-1].parts == one.parts


async def test_the_first_release_has_nothing_to_go_back_to(centre, eventually):
    before = ticks("failed")
    async with centre.running("publisher"):
        one = await released(centre, eventually, 1)
        await say(centre, 1, NODES, "reverted")
        two = await released(centre, eventually, 2, one, change={"notes.bin": b"two"})
    assert (two.version, ticks("failed")) == (2, before)


def ticks(outcome):
    return metrics.REGISTRY.get_sample_value("qig_ticks_total", {"tick": "rings", "outcome": outcome}) or 0.0
