"""The lists that a publisher signs of its releases: kept fresh, under keys that change, beside another publisher."""

import time

import pytest
from centre import decided

from common.errors import Rejected, Unavailable
from common.runtime import keys, metrics, streams
from common.runtime.entries import Delivery
from common.runtime.releases import newest_release
from common.runtime.trust import Trust
from common.wire import bundle as bundles
from common.wire.codec import pack, unpack
from common.wire.messages import Bundle
from services.publisher import app, metadata
from services.publisher.app import state
from services.publisher.app.releases import DAY_S

pytestmark = pytest.mark.anyio


async def test_a_running_publisher_keeps_its_list_fresh_and_hands_out_new_keys(centre, eventually, monkeypatch):
    monkeypatch.setattr(app, "TRUST_EVERY_S", 0.02)
    redis = centre.broker.redis
    async with centre.running("publisher"):
        await centre.offer(await centre.candidate())
        await decided(centre, eventually)
        (bundle,) = await centre.bundles()
        reader = Trust(redis, keys.load_root(centre.home))
        await reader.verify(1, pack(bundle))
        keys.replace(centre.home, ["publisher", "root-1"], offline=keys.offline_dir(centre.home))
        await eventually(lambda: redis.hexists(streams.METADATA, "2.root.json"))
        assert await newest_release(redis, Trust(redis, keys.load_root(centre.home))) == bundle
        await centre.offer(await centre.candidate(bundle))
        await decided(centre, eventually)
        _, second = await centre.bundles()
        assert second.key == keys.key_id(keys.load_private(centre.home, keys.PUBLISHER).verify_key)
        await redis.delete(streams.METADATA)
        await eventually(lambda: redis.hexists(streams.METADATA, "timestamp.json"))
        assert await newest_release(redis, reader) == second


async def test_releases_of_before_there_was_a_list_are_listed_at_the_start(centre, eventually):
    first = await centre.release()
    await centre.broker.redis.delete(streams.METADATA)
    async with centre.running("publisher"):
        await eventually(lambda: centre.broker.redis.hexists(streams.METADATA, "timestamp.json"))
    trust = Trust(centre.broker.redis, keys.load_root(centre.home))
    assert await newest_release(centre.broker.redis, trust) == first


async def test_after_a_theft_the_fleet_goes_on_from_the_last_good_release(centre, eventually):
    good = await centre.release()
    evil = await centre.release(2, good)
    offline = keys.offline_dir(centre.home)
    keys.replace(centre.home, ["publisher"], offline=offline, stolen=True, believed=bundles.digest(good))
    async with centre.running("publisher"):
        await eventually(lambda: centre.broker.redis.hexists(streams.METADATA, "2.root.json"))
        operator = app.Publisher(centre.settings("publisher"), centre.broker)
        trust = Trust(centre.broker.redis, keys.load_root(centre.home))
        assert await newest_release(centre.broker.redis, trust) == good
        # at once, for the edges that serve the thief's
        assert await operator.releases.take_back(1, "why") == (evil.version + 1, 1)
        await decided(centre, eventually)
        back = await newest_release(centre.broker.redis, trust)
        assert (back.parts, back.parent_digest) == (good.parts, bundles.digest(good))
        await centre.offer(await centre.candidate(back, id="after"))
        await decided(centre, eventually)
        newest = await newest_release(centre.broker.redis, trust)
    assert (newest.id, newest.version) == ("after", 4)


async def brought(centre, count):
    return len(await centre.bundles()) == count


async def test_the_release_after_a_broker_was_restored_is_above_what_edges_have(centre, eventually):
    newest = await centre.release(2, await centre.release())
    operator = app.Publisher(centre.settings("publisher"), centre.broker)
    with pytest.raises(Rejected, match=r"too_far.*10000 above 2"):
        await operator.releases.take_back(None, "why", above=10_003)
    async with centre.running("publisher"):
        assert await operator.releases.take_back(None, "why", above=17) == (18, 2)
        await eventually(lambda: brought(centre, 3))
    back = await newest_release(centre.broker.redis, Trust(centre.broker.redis, keys.load_root(centre.home)))
    assert (back.version, back.parent, back.parts, bundles.takes_back(back)) == (18, 2, newest.parts, True)
    assert await centre.returned() == []


async def test_a_key_that_no_root_names_signs_nothing_and_says_so(centre):
    keys.private_path(centre.home, keys.PUBLISHER).write_text("07" * 32)
    publisher = app.Publisher(centre.settings("publisher"), centre.broker)
    with pytest.raises(Unavailable, match=r"key_not_trusted.*qig keys rotate"):
        await publisher.releases.renew()
    assert await centre.broker.read_hash(streams.METADATA) == {}


async def test_of_two_publishers_that_sign_at_once_one_signs_again(centre):
    one, two = (app.Publisher(centre.settings("publisher"), centre.broker) for _ in range(2))
    genesis = await centre.candidate(id="genesis")
    late = await one.candidates.take(Delivery(streams.CANDIDATES, "1-0", 0, 1, pack(genesis)), genesis)
    await two.releases.renew()
    assert not await centre.broker.commit(streams.CANDIDATES, late)
    again = await one.candidates.take(Delivery(streams.CANDIDATES, "1-0", 0, 2, pack(genesis)), genesis)
    assert await centre.broker.commit(streams.CANDIDATES, again)


@pytest.mark.parametrize(("age_days", "warned"), [(730 - 91, False), (730 - 90 + 1, True)])
async def test_the_end_of_what_the_offline_keys_signed_is_told_in_time(centre, monkeypatch, caplog, age_days, warned):
    publisher = app.Publisher(centre.settings("publisher"), centre.broker)
    now = time.time()
    later = now + age_days * DAY_S
    monkeypatch.setattr(time, "time", lambda: later)
    await publisher.releases.renew()
    assert ("qig keys rotate targets" in caplog.text) == warned
    ends = metrics.REGISTRY.get_sample_value("qig_trust_ends_time_seconds")
    assert ends == pytest.approx(now + 730 * DAY_S, abs=60.0)


async def test_old_lists_are_cleared_away(centre):
    publisher = app.Publisher(centre.settings("publisher"), centre.broker)
    for _ in range(10):
        await centre.broker.redis.hset(streams.METADATA, "targets.json", b"changed by hand")
        held = await centre.broker.read_hash(streams.METADATA)
        files = metadata.signed(publisher.releases._offline, {}, held, publisher.releases._key, now_s=time.time())
        assert await centre.broker.commit(streams.CANDIDATES, state.listed(held, files))
    left = await centre.broker.read_hash(streams.METADATA)
    assert sum(name.endswith("bundles.json") for name in left) == metadata.KEPT
    assert sum(name.endswith("snapshot.json") for name in left) == metadata.KEPT


async def test_a_list_under_a_lower_number_than_older_ones_is_not_cleared_away_with_them():
    held = [f"{number}.{role}" for number in range(5, 10) for role in ("bundles.json", "snapshot.json")]
    new = {"4.bundles.json": b"", "4.snapshot.json": b"", "timestamp.json": b""}
    gone = metadata.outdated(held, new)
    assert gone == ["5.bundles.json", "5.snapshot.json"]


async def test_what_others_write_into_the_bundles_stream_does_not_count_as_a_release(centre, eventually):
    parent = await centre.release()
    forged = parent.model_copy(update={"version": 99})
    await centre.broker.redis.xadd(streams.BUNDLES, {"__data__": pack(forged)})
    await centre.broker.redis.xadd(streams.BUNDLES, {"__data__": b"garbage"})
    async with centre.running("publisher"):
        await centre.offer(await centre.candidate(parent))
        await decided(centre, eventually)
    newest = await centre.broker.latest(streams.BUNDLES)
    assert unpack(Bundle, newest.fields[b"__data__"]).version == 2
