"""A release goes to a ring first, then to everybody, or is taken back; by a hand too."""

import time

import pytest
from centre import decided, refusal

from common.errors import Rejected, Unavailable
from common.runtime import keys, metrics, streams
from common.runtime.entries import Delivery
from common.runtime.releases import newest_release
from common.runtime.trust import Trust
from common.trust.rings import is_open
from common.wire import bundle as bundles
from common.wire.codec import pack
from common.wire.messages import Applied, PacketRef
from services.publisher import app
from services.publisher.rings import ring

pytestmark = pytest.mark.anyio
CARRIED = PacketRef(key=b"edge-key", epoch=1, sequence=7)
FLEET = [f"edge-{number}" for number in range(40)]


async def say(centre, version, nodes, verdict="good", **probe):
    for node in nodes:
        told = Applied(node=node, version=version, verdict=verdict, at_s=time.time(), reason="why", **probe)
        await centre.broker.produce(streams.APPLIED, pack(told), f"{node}:{version}:{verdict}")


async def first_and_rest(centre, bundle):
    """Who of the fleet may take a bundle now."""
    trust = Trust(centre.broker.redis, keys.load_root(centre.home))
    open_to = [node for node in FLEET if await trust.is_open(bundle.version, pack(bundle), node)]
    return open_to, [node for node in FLEET if node not in open_to]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(app, "RINGS_EVERY_S", 0.02)


async def test_a_release_goes_to_a_tenth_first_and_to_everybody_once_they_found_it_good(centre, eventually, quick):
    async with centre.running("publisher"):
        one = await released_to(centre, eventually)
    async with centre.running("publisher"):  # hears at its start what the edges said
        two = await released_to(centre, eventually, one)
        first, _ = await first_and_rest(centre, two)
        assert len(first) == 4
        next_one = await centre.candidate(two)
        waiting = app.Publisher(centre.settings("publisher"), centre.broker)
        with pytest.raises(Unavailable, match="ring_pending"):
            await waiting.candidates.take(Delivery(streams.CANDIDATES, "1-0", 0, 1, pack(next_one)), next_one)
        await say(centre, 2, first)
        await eventually(lambda: entries(centre, 3))
    assert await first_and_rest(centre, two) == (FLEET, [])
    assert [each.version for each in await centre.bundles()] == [1, 2, 2]


async def released_to(centre, eventually, parent=None):
    """The next release, and the whole fleet's word on it when it is the first."""
    await centre.offer(await centre.candidate(parent, change={"notes.bin": b"%d" % time.monotonic_ns()}))
    await decided(centre, eventually)
    newest = (await centre.bundles())[-1]
    if parent is None:
        await say(centre, newest.version, FLEET)
    return newest


async def entries(centre, count):
    return await centre.broker.redis.xlen(streams.BUNDLES) == count


async def test_what_is_released_the_moment_another_was_opened_goes_to_a_tenth_first_too(centre, eventually, quick):
    async with centre.running("publisher"):
        one = await released_to(centre, eventually)
    async with centre.running("publisher"):
        two = await released_to(centre, eventually, one)
        first, _ = await first_and_rest(centre, two)
        await say(centre, 2, first)
        await eventually(lambda: entries(centre, 3))
        three = await released_to(centre, eventually, two)
        assert (three.version, (await first_and_rest(centre, three))[0]) == (3, first)


@pytest.mark.parametrize(("verdict", "probe"), [("refused", {}), ("good", {"probe_before": 2.0, "probe_after": 2.015})])
async def test_a_release_that_the_first_refuse_or_read_worse_is_taken_back(centre, eventually, quick, verdict, probe):
    async with centre.running("publisher"):
        one = await released_to(centre, eventually)
    async with centre.running("publisher"):
        two = await released_to(centre, eventually, one)
        first, rest = await first_and_rest(centre, two)
        await say(centre, 2, first, verdict, **probe)
        await eventually(lambda: entries(centre, 3))
        await eventually(lambda: noted(centre, two))
        back = (await centre.bundles())[-1]
        assert (back.version, back.parts) == (3, one.parts)
        assert (await first_and_rest(centre, back))[1] == []
        assert (await first_and_rest(centre, two))[1] == rest
        assert "that got it first" in (await refusal(centre, two))[0]
        await centre.offer(await centre.candidate(back))
        await decided(centre, eventually)
        assert (await centre.bundles())[-1].version == 4


async def noted(centre, bundle):
    return bundle.id in await centre.broker.read_hash(streams.REFUSED)


async def test_a_ring_stays_while_lists_are_renewed_and_publishers_restart(centre, eventually):
    async with centre.running("publisher"):
        one = await released_to(centre, eventually)
    async with centre.running("publisher"):
        two = await released_to(centre, eventually, one)
        first, _ = await first_and_rest(centre, two)
    await centre.broker.redis.hset(streams.METADATA, "1.root.json", b"changed by hand")
    again = app.Publisher(centre.settings("publisher"), centre.broker)
    await again.verdicts.catch_up()
    await again.releases.renew()
    assert (await centre.broker.read_hash(streams.METADATA))["1.root.json"] != b"changed by hand"
    assert (await first_and_rest(centre, two))[0] == first
    keys.replace(centre.home, ["publisher"], offline=keys.offline_dir(centre.home))
    again = app.Publisher(centre.settings("publisher"), centre.broker)
    await again.verdicts.catch_up()
    await again.releases.renew()
    assert (await first_and_rest(centre, two))[0] == first


async def test_a_release_that_is_taken_back_is_followed_by_the_parts_before_it(centre, eventually):
    async with centre.running("publisher"):
        await centre.offer(await centre.candidate())
        await decided(centre, eventually)
        (good,) = await centre.bundles()
        carried = (PacketRef(key=b"edge-key", epoch=1, sequence=7),)
        await centre.offer(await centre.candidate(good, change={"notes.bin": b"bad"}, packets=carried))
        await decided(centre, eventually)
        operator = app.Publisher(centre.settings("publisher"), centre.broker)
        assert await operator.releases.take_back(None, "why") == (3, 1)
        await decided(centre, eventually)
        assert await centre.returned() == [(carried[0].packed, "taken_back")]
        _, bad, back = await centre.bundles()
        assert (back.parts, back.parent, back.parent_digest) == (good.parts, 2, bundles.digest(bad))
        trust = Trust(centre.broker.redis, keys.load_root(centre.home))
        assert await newest_release(centre.broker.redis, trust) == back
        for nowhere in (3, 7):
            with pytest.raises(Rejected, match=r"not_older|not_listed"):
                await operator.releases.take_back(nowhere, "why")
        await centre.offer(await centre.candidate(back))
        await decided(centre, eventually)
    assert [each.version for each in await centre.bundles()] == [1, 2, 3, 4]


async def test_before_two_releases_there_is_nothing_to_go_back_to(centre):
    operator = app.Publisher(centre.settings("publisher"), centre.broker)
    with pytest.raises(Rejected, match=r"not_listed.*none"):
        await operator.releases.take_back(None, "why")
    await centre.release()
    with pytest.raises(Rejected, match=r"not_listed.*none"):
        await operator.releases.take_back(None, "why")


async def test_a_candidate_cannot_take_a_release_back(centre, eventually):
    parent = await centre.release()
    sly = await centre.candidate(parent, id=f"{bundles.TAKES_BACK}1-to-0")
    async with centre.running("publisher"):
        await centre.offer(sly)
        await decided(centre, eventually)
    assert "only a publisher takes a release back" in (await refusal(centre, sly))[0]


async def test_what_only_settles_packets_waits_for_the_trial_of_its_parent_and_is_for_everybody(
    centre, eventually, quick, monkeypatch
):
    async with centre.running("publisher"):
        one = await released_to(centre, eventually)
    operator = app.Publisher(centre.settings("publisher"), centre.broker)
    same = await centre.candidate(one, (), parts=one.parts, packets=(CARRIED,))
    offered = Delivery(streams.CANDIDATES, "1-0", 0, 1, pack(same))
    with pytest.raises(Unavailable, match=r"on_trial.*bundle 1 may be"):
        await operator.candidates.take(offered, same)
    monkeypatch.setattr("services.publisher.app.candidates.PATIENCE_S", 0.0)
    async with centre.running("publisher"):
        await centre.offer(same)
        await decided(centre, eventually)
        two = (await centre.bundles())[-1]
        assert (two.version, two.parts, two.packets) == (2, one.parts, (CARRIED,))
        assert await first_and_rest(centre, two) == (FLEET, [])
    past = await operator.releases.past()
    assert (past.last, past.changed_at_s) == (2, one.released_at_s)


def shown(name, node):
    return metrics.REGISTRY.get_sample_value(name, {"node": node})


async def test_of_each_enrolled_edge_its_version_and_its_ring_are_shown_and_of_a_stranger_nothing(
    centre, eventually, quick
):
    first = {node for node in FLEET if is_open(ring(FLEET), node)}
    *enrolled, stranger = [*first, *(node for node in FLEET if node not in first)][:9]
    keys.init(centre.home, enrolled)
    async with centre.running("publisher"):
        one = await released_to(centre, eventually)
        await eventually(lambda: [shown("qig_node_ring", node) for node in enrolled] == [0.0] * 4 + [1.0] * 4)
        await eventually(lambda: {shown("qig_node_bundle_version", node) for node in enrolled} == {one.version})
    assert shown("qig_node_ring", stranger) is shown("qig_node_bundle_version", stranger) is None


async def test_an_edge_that_is_enrolled_no_more_is_not_shown_and_a_file_that_is_no_key_holds_no_release_up(
    centre, eventually, quick
):
    keys.init(centre.home, FLEET[:2])
    async with centre.running("publisher"):
        one = await released_to(centre, eventually)
        await eventually(lambda: shown("qig_node_bundle_version", FLEET[1]) == one.version)
        (keys.edges_dir(centre.home) / f"{FLEET[1]}.pub").unlink()
        two = await released_to(centre, eventually, one)
        await eventually(lambda: shown("qig_node_bundle_version", FLEET[1]) is None)
        (keys.edges_dir(centre.home) / f"{FLEET[1]}.pub").write_text("half a k")
        first, _ = await first_and_rest(centre, two)
        await say(centre, 2, first)
        await eventually(lambda: entries(centre, 3))
    assert await first_and_rest(centre, two) == (FLEET, [])
