import asyncio

import pytest
from edge_death import Killed, killed
from edge_fleet import NODE, bundles_to, delivery_of, other_key, verdicts
from listing import list_releases
from redis.asyncio import Redis

from common.errors import Corrupt, Unavailable
from common.runtime import streams
from common.runtime.broker import Broker
from common.runtime.trust import LOOK_AGAIN_S
from common.trust.rings import place
from common.wire.bundle import TAKES_BACK
from common.wire.codec import pack
from common.wire.inference import Query
from services.edge.app import bundles, state_dir
from services.edge.slots import Slots
from services.edge.trial import Trial

pytestmark = pytest.mark.anyio


async def test_an_edge_without_a_bundle_is_not_ready_and_lets_queries_wait(life):
    edge = await life()
    assert edge.heart.ready() == "waits for the first bundle"
    with pytest.raises(Unavailable, match="no_bundle"):
        await edge.queries.on_query(delivery_of(), Query(text="hello"))


async def test_the_first_bundle_makes_it_ready_and_is_reported(edge, redis):
    assert edge.heart.ready() is None
    assert await verdicts(redis) == [(1, "applied")]


async def test_a_restart_serves_the_last_good_slot_without_the_broker(edge, life, redis):
    await redis.flushall()
    again = await life()
    assert again.node.serving.bundle == 1
    assert again.bundles.follow_from != "0-0"


async def test_only_the_parts_it_lacks_are_fetched(edge, publisher, micro_parts, redis):
    newest = await publisher.release(micro_parts | {"notes.bin": b"new"})
    for key in await redis.keys(f"{streams.BLOB}*"):
        if newest.parts["notes.bin"].digest.encode() not in key:
            await redis.delete(key)
    await bundles_to(edge, redis)
    assert edge.node.serving.bundle == 2


async def test_an_edge_that_was_away_takes_only_the_newest(life, publisher, micro_parts, redis):
    for number in range(3):
        await publisher.release(micro_parts | {"notes.bin": b"%d" % number})
    edge = await life()
    await bundles_to(edge, redis)
    assert await verdicts(redis) == [(3, "applied")]


async def test_a_part_with_a_flipped_byte_is_refused_and_the_old_bundle_serves(edge, publisher, micro_parts, redis):
    await publisher.release(micro_parts | {"notes.bin": b"0123456789"}, flip="notes.bin")
    await bundles_to(edge, redis)
    assert edge.node.serving.bundle == 1
    assert await verdicts(redis) == [(1, "applied"), (2, "refused")]


async def test_a_forged_bundle_is_refused_and_passed_over(edge, publisher, micro_parts, redis):
    await publisher.release(micro_parts, key=other_key())
    with pytest.raises(Corrupt, match="not_released"):
        await bundles_to(edge, redis)
    assert (edge.node.serving.bundle, (await verdicts(redis))[-1]) == (1, (2, "refused"))


async def test_a_bundle_that_does_not_load_is_refused(edge, publisher, micro_parts, redis):
    await publisher.release({path: data for path, data in micro_parts.items() if path != "domains.json"})
    await bundles_to(edge, redis)
    assert (edge.node.serving.bundle, (await verdicts(redis))[-1]) == (1, (2, "refused"))


async def test_of_bundles_that_are_refused_only_the_last_one_s_parts_stay_on_disk(
    edge, publisher, micro_parts, redis, home, monkeypatch
):
    parts = state_dir(home, NODE) / "bundles" / "parts"
    serving = len(list(parts.iterdir()))
    with monkeypatch.context() as patch:
        patch.setattr(bundles, "try_bundle", lambda *_: Trial("refused", "worse", 1.0, 2.0, None))
        for number in range(4):
            await publisher.release(micro_parts | {"notes.bin": b"%d" % number})
            await bundles_to(edge, redis)
            assert len(list(parts.iterdir())) == serving + 1
    again = await publisher.release(micro_parts | {"notes.bin": b"3"})
    await redis.delete(f"{streams.BLOB}{again.parts['notes.bin'].digest}:0")
    await bundles_to(edge, redis)
    assert edge.node.serving.bundle == 6


async def test_a_bundle_is_not_refused_for_a_disk_that_is_damaged(edge, publisher, micro_parts, redis, monkeypatch):
    def damaged(*_):
        raise Corrupt("not_a_record", "damaged")

    await publisher.release(micro_parts | {"notes.bin": b"new"})
    with monkeypatch.context() as patch:
        patch.setattr(edge.node.record.texts, "probes", damaged)
        with pytest.raises(Corrupt, match="not_a_record"):
            await bundles_to(edge, redis)
    assert await verdicts(redis) == [(1, "applied")]
    await edge.bundles.look_again()
    assert await verdicts(redis) == [(1, "applied"), (2, "applied")]


async def test_a_part_that_is_not_there_yet_is_waited_for(edge, publisher, micro_parts, redis):
    await publisher.release(micro_parts | {"notes.bin": b"late"}, withhold="notes.bin")
    with pytest.raises(Unavailable, match="blob_missing"):
        await bundles_to(edge, redis)


async def test_a_disk_that_is_full_has_no_part_fetched_twice(edge, publisher, micro_parts, redis, monkeypatch):
    fetched, get, full = [], Broker.get_blob, [True]

    async def counted(broker, name, size_bytes):
        fetched.append(name)
        return await get(broker, name, size_bytes)

    def put(slots, part, data, real=Slots.put):
        if full[0]:
            raise Unavailable("disk_full", "no space left")
        return real(slots, part, data)

    monkeypatch.setattr(Broker, "get_blob", counted)
    monkeypatch.setattr(Slots, "put", put)
    await publisher.release(micro_parts | {"notes.bin": b"new", "more.bin": b"newer"})
    for _ in range(3):
        with pytest.raises(Unavailable, match="disk_full"):
            await bundles_to(edge, redis)
    full[0] = False
    await bundles_to(edge, redis)
    assert edge.node.serving.bundle == 2
    assert len(fetched) == len(set(fetched)) == 2


async def test_releases_are_read_again_only_where_there_is_another_and_judged_again_all_the_same(
    edge, publisher, micro_parts, redis, monkeypatch
):
    read, looks = Redis.xrevrange, []

    async def xrevrange(redis, *args, **options):
        looks.append(args)
        return await read(redis, *args, **options)

    monkeypatch.setattr(Redis, "xrevrange", xrevrange)
    withheld = await redis.hgetall(streams.METADATA)
    await publisher.release(micro_parts | {"notes.bin": b"2"})
    named = await redis.hgetall(streams.METADATA)
    await redis.hset(streams.METADATA, mapping=withheld)
    looks.clear()
    await edge.bundles.look_again()
    assert (edge.node.serving.bundle, bool(looks)) == (1, True)
    looks.clear()
    await redis.hset(streams.METADATA, mapping=named)
    edge.bundles._trust._seen_s = -LOOK_AGAIN_S
    await edge.bundles.look_again()
    assert (edge.node.serving.bundle, looks) == (2, [])


async def test_an_edge_that_was_away_reads_the_newest_releases_once_for_all_that_it_missed(
    edge, publisher, micro_parts, redis, monkeypatch
):
    read, looks = Redis.xrevrange, []

    async def xrevrange(redis, *args, **options):
        looks.append(options.get("max", "+"))
        return await read(redis, *args, **options)

    for number in range(4):
        await publisher.release(micro_parts | {"notes.bin": b"%d" % number})
    monkeypatch.setattr(Redis, "xrevrange", xrevrange)
    await bundles_to(edge, redis)
    assert (edge.node.serving.bundle, looks.count("+")) == (5, 1)


@pytest.mark.parametrize(("who", "asks"), [(Broker, "get_blob"), (Redis, "xrevrange")], ids=["a part", "releases"])
async def test_what_is_on_its_way_is_waited_for_no_longer_than_the_edge_runs(
    edge, publisher, micro_parts, monkeypatch, who, asks
):
    on_its_way = asyncio.Event()

    async def endless(*_, **__):
        on_its_way.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(who, asks, endless)
    await publisher.release(micro_parts | {"notes.bin": b"new"})
    async with asyncio.timeout(10):
        looking = asyncio.create_task(edge.bundles.look_again())
        await on_its_way.wait()
        edge.bundles.arrivals.stopping()
        await looking
    assert edge.node.serving.bundle == 1


async def test_a_bundle_that_takes_another_back_is_not_held_against_it(
    edge, publisher, micro_parts, redis, monkeypatch
):
    held_against = []
    real = bundles.try_bundle

    def trial(current, *rest):
        held_against.append(current)
        return real(current, *rest)

    monkeypatch.setattr(bundles, "try_bundle", trial)
    await publisher.release(micro_parts | {"notes.bin": b"bad"})
    await bundles_to(edge, redis)
    await publisher.release(micro_parts, name=f"{TAKES_BACK}2-to-1")
    await bundles_to(edge, redis)
    assert [each is None for each in held_against] == [False, True]
    assert (await verdicts(redis))[-1] == (3, "applied")


async def test_a_bundle_that_is_for_others_first_is_taken_when_it_is_for_everybody(
    edge, publisher, micro_parts, redis, home
):
    entry = await redis.xlen(streams.BUNDLES)
    two = await publisher.release(micro_parts | {"notes.bin": b"2"})
    await list_releases(redis, home, publisher.released, rings={2: place(NODE)})
    await bundles_to(edge, redis)
    assert (edge.node.serving.bundle, await verdicts(redis)) == (1, [(1, "applied")])
    await list_releases(redis, home, publisher.released, rings={2: place(NODE) + 1})
    await redis.xadd(streams.BUNDLES, {"__data__": pack(two)})
    await bundles_to(edge, redis)
    assert (edge.node.serving.bundle, entry) == (2, 1)
    assert (await verdicts(redis))[-1] == (2, "applied")


async def test_an_edge_that_was_away_takes_the_newest_that_is_for_it(life, publisher, micro_parts, redis, home):
    for number in range(4):
        await publisher.release(micro_parts | {"notes.bin": b"%d" % number})
    await list_releases(redis, home, publisher.released, rings={4: 0})
    late = await life()
    await bundles_to(late, redis)
    assert late.node.serving.bundle == 3
    assert await verdicts(redis) == [(3, "applied")]


async def test_a_replayed_old_bundle_changes_nothing(edge, publisher, micro_parts, redis):
    _, old = (await redis.xrange(streams.BUNDLES))[0]
    await publisher.release(micro_parts | {"notes.bin": b"2"})
    await redis.xadd(streams.BUNDLES, old)
    await bundles_to(edge, redis)
    assert edge.node.serving.bundle == 2


async def test_a_kill_between_the_swap_and_the_report_ends_with_one_report(edge, life, publisher, micro_parts, redis):
    await publisher.release(micro_parts | {"notes.bin": b"2"})
    edge.bundles._settle = killed
    with pytest.raises(Killed):
        await bundles_to(edge, redis)
    again = await life()
    assert again.node.serving.bundle == 2
    await bundles_to(again, redis)
    assert await verdicts(redis) == [(1, "applied"), (2, "applied")]


async def test_damage_on_disk_falls_back_and_the_newest_bundle_is_fetched_again(
    edge, life, publisher, micro_parts, redis, home
):
    newest = await publisher.release(micro_parts | {"notes.bin": b"two"})
    await bundles_to(edge, redis)
    (state_dir(home, NODE) / "bundles" / "parts" / newest.parts["notes.bin"].digest).write_bytes(b"torn")
    again = await life()
    assert (again.node.serving.bundle, again.bundles.follow_from) == (1, "0-0")
    await bundles_to(again, redis)
    assert again.node.serving.bundle == 2
