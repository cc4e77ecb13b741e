"""What is done outside a handler: produce, commit, the relay, blobs, followers."""

import asyncio
import os
import signal

import pytest
from redis.asyncio import Redis
from redis.exceptions import ClusterDownError, NoPermissionError, ResponseError

from common.errors import Corrupt, Rejected, Unavailable
from common.runtime import embedded, pace, relay, scripts, store, streams
from common.runtime.broker import Broker
from common.runtime.connection import connect
from common.runtime.effects import Absent, Equals, Exists, HashAdd, HashDelete, HashSet, Send
from common.runtime.follower import FROM_START, ONLY_NEW, Follower, follow, newest
from common.runtime.health import Health
from common.runtime.pace import Pace
from common.runtime.releases import newest_messages

pytestmark = pytest.mark.anyio
LEDGER = streams.side_key(streams.PACKETS, "ledger")
BOX = streams.outbox(streams.PACKETS)


async def bodies(redis, stream):
    return [fields[b"__data__"] for _, fields in await redis.xrange(stream)]


async def test_publishing_an_id_twice_publishes_once(redis, broker):
    assert [await broker.produce(streams.PACKETS, b"p", "a1:7") for _ in range(3)] == [True, False, False]
    assert await broker.produce(streams.PACKETS, b"p", "a1:8")
    assert await bodies(redis, streams.PACKETS) == [b"p", b"p"]


async def test_a_hundred_at_once_with_one_id_publish_once(redis, broker):
    answers = await asyncio.gather(*(broker.produce(streams.PACKETS, b"p", "a1:7") for _ in range(100)))
    assert sum(answers) == await redis.xlen(streams.PACKETS) == 1


async def test_the_memory_of_ids_is_bounded(redis, broker, monkeypatch):
    monkeypatch.setattr(scripts, "SEEN_MAX_IDS", 3)
    for number in range(5):
        await broker.produce(streams.PACKETS, b"p", f"p{number}")
    assert await redis.zcard(streams.seen(streams.PACKETS)) == 3


async def test_an_answers_stream_goes_when_nobody_writes_to_it(redis, broker):
    await broker.produce(streams.answers("kiosk"), b"a", "q1")
    await broker.produce(streams.PACKETS, b"p", "p1")
    assert 0 < await redis.ttl(streams.answers("kiosk")) <= 86_400
    assert await redis.ttl(streams.PACKETS) == -1


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        (Exists(LEDGER, "a"), True),
        (Exists(LEDGER, "b"), False),
        (Absent(LEDGER, "b"), True),
        (Absent(LEDGER, "a"), False),
        (Equals(LEDGER, "a", b"1"), True),
        (Equals(LEDGER, "a", b"2"), False),
        (Equals(LEDGER, "b", b"1"), False),
    ],
)
async def test_a_commit_happens_whole_or_not_at_all(redis, broker, condition, holds):
    await redis.hset(LEDGER, "a", b"1")
    effects = [HashSet(LEDGER, "c", b"3"), condition, HashAdd(LEDGER, "n", 2), Send(streams.BATCHES, b"b", "b1")]
    assert await broker.commit(streams.PACKETS, effects) is holds
    assert await broker.read_hash(LEDGER) == ({"a": b"1", "c": b"3", "n": b"2"} if holds else {"a": b"1"})
    assert await redis.xlen(BOX) == holds


async def test_of_two_ticks_that_cut_the_same_packets_one_succeeds(redis, broker):
    await redis.hset(LEDGER, "a", b"1")
    cut = [Exists(LEDGER, "a"), HashDelete(LEDGER, "a"), Send(streams.BATCHES, b"b", "b1")]
    assert sorted(await asyncio.gather(*(broker.commit(streams.PACKETS, cut) for _ in range(2)))) == [False, True]
    assert (await redis.xlen(BOX), await redis.hlen(LEDGER)) == (1, 0)


async def test_a_key_outside_the_slot_is_refused_before_anything_is_written(redis, broker):
    with pytest.raises(ValueError, match="side_key"):
        await broker.commit(streams.PACKETS, [HashSet(LEDGER, "a", b"1"), HashSet("elsewhere", "a", b"1")])
    assert not await redis.exists(LEDGER)


async def test_the_relay_carries_in_order_and_empties_the_outbox(redis, broker):
    sends = [Send(streams.RETURNED, b"r%d" % number, f"r{number}") for number in range(100)]
    await broker.commit(streams.PACKETS, sends)
    await relay.drain(redis, streams.PACKETS)
    assert await bodies(redis, streams.RETURNED) == [send.message for send in sends]
    assert await redis.xlen(BOX) == 0


async def test_a_relay_killed_between_publishing_and_deleting_publishes_once(redis, broker, monkeypatch):
    await broker.commit(streams.PACKETS, [Send(streams.BATCHES, b"b", "b1")])
    with monkeypatch.context() as killed:

        async def die(*_):
            raise asyncio.CancelledError

        killed.setattr(redis, "xdel", die)
        with pytest.raises(asyncio.CancelledError):
            await relay.carry(redis, streams.PACKETS)
    assert (await redis.xlen(BOX), await bodies(redis, streams.BATCHES)) == (1, [b"b"])
    await relay.drain(redis, streams.PACKETS)
    assert (await redis.xlen(BOX), await bodies(redis, streams.BATCHES)) == (0, [b"b"])


async def test_many_relays_of_one_outbox_publish_once(redis, broker):
    await broker.commit(streams.PACKETS, [Send(streams.BATCHES, b"b%d" % n, f"b{n}") for n in range(50)])
    await asyncio.gather(*(relay.drain(redis, streams.PACKETS) for _ in range(4)))
    assert sorted(await bodies(redis, streams.BATCHES)) == sorted(b"b%d" % n for n in range(50))


@pytest.mark.parametrize("size", [0, 1, store.CHUNK_BYTES - 1, store.CHUNK_BYTES, store.CHUNK_BYTES + 1])
async def test_a_blob_comes_back_as_it_was(broker, size):
    data = os.urandom(size)
    assert await broker.get_blob(await broker.put_blob(data), size) == data


async def test_a_blob_with_a_flipped_byte_is_corrupt(redis, broker):
    digest = await broker.put_blob(bytes(store.CHUNK_BYTES + 9))
    await redis.setrange(store.chunk_key(digest, 1), 3, b"\x01")
    with pytest.raises(Corrupt, match="part_digest"):
        await broker.get_blob(digest, store.CHUNK_BYTES + 9)


async def test_a_blob_that_is_not_there_may_come_later(redis, broker):
    digest = await broker.put_blob(bytes(store.CHUNK_BYTES + 9))
    await redis.delete(store.chunk_key(digest, 0))
    with pytest.raises(Unavailable, match="blob_missing"):
        await broker.get_blob(digest, store.CHUNK_BYTES + 9)


async def idle(redis, key, seconds):
    """As if nobody had touched it for so long."""
    await redis.restore(key, 0, await redis.dump(key), replace=True, idletime=seconds)


@pytest.mark.parametrize(("idle_s", "gone"), [(0, 0), (50, 0), (60, 1), (61, 1)])
async def test_a_chunk_that_nobody_needs_goes_once_nobody_has_touched_it_for_a_while(redis, broker, idle_s, gone):
    digest = await broker.put_blob(b"old")
    await idle(redis, store.chunk_key(digest, 0), idle_s)
    assert await broker.forget_blobs({"another"}, 60.0) == gone
    assert await redis.exists(store.chunk_key(digest, 0)) == 1 - gone


@pytest.mark.parametrize("use", ["put", "get", "name"])
async def test_a_blob_that_is_used_or_needed_stays(redis, broker, use):
    digest = await broker.put_blob(b"old")
    await idle(redis, store.chunk_key(digest, 0), 3_600)
    if use == "put":
        await broker.put_blob(b"old")
    if use == "get":
        await broker.get_blob(digest, 3)
    assert await broker.forget_blobs({digest} if use == "name" else set(), 60.0) == 0


async def test_what_a_put_that_stopped_half_way_has_left_goes_and_nothing_else(redis, broker):
    digest = await broker.put_blob(bytes(store.CHUNK_BYTES + 9))
    await redis.delete(store.chunk_key(digest, 1))
    await broker.produce(streams.PACKETS, b"p", "p1")
    assert await broker.forget_blobs((), 0.0) == 1
    assert await redis.keys(f"{streams.BLOB}*") == []
    assert await redis.xlen(streams.PACKETS) == 1


@pytest.mark.parametrize("size", [-1, store.BLOB_MAX_BYTES + 1])
async def test_a_blob_of_an_absurd_size_is_not_asked_for(broker, size):
    with pytest.raises(Rejected, match="blob_too_large"):
        await broker.get_blob("0" * 64, size)


async def test_the_latest_entry_is_the_newest_or_none(broker):
    assert await broker.latest(streams.BUNDLES) is None
    for number in (1, 2):
        await broker.produce(streams.BUNDLES, b"%d" % number, f"{number}")
    assert (await broker.latest(streams.BUNDLES)).fields == {b"__data__": b"2"}


@pytest.fixture
async def following(redis):
    tasks = []

    async def start(handle, after=FROM_START, client=redis):
        health = Health()
        tasks.append(asyncio.create_task(follow(client, Follower(streams.BUNDLES, after, handle), health)))
        return health

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def collecting(errors=()):
    seen, errors = [], list(errors)

    async def handle(delivery):
        if errors:
            raise errors.pop(0)
        seen.append(delivery.body)

    return seen, handle


async def test_every_follower_sees_every_entry_from_its_position(redis, broker, following, eventually):
    first = (await redis.xadd(streams.BUNDLES, {"__data__": b"1"})).decode()
    await redis.xadd(streams.BUNDLES, {"__data__": b"2"})
    everything, all_of_it = collecting()
    later, after_the_first = collecting()
    await following(all_of_it)
    await following(after_the_first, after=first)
    await redis.xadd(streams.BUNDLES, {"__data__": b"3"})
    await eventually(lambda: (len(everything), len(later)) == (3, 2))
    assert (everything, later) == ([b"1", b"2", b"3"], [b"2", b"3"])


async def test_a_follower_of_what_is_new_misses_nothing_from_then_on(redis, following, eventually):
    await redis.xadd(streams.BUNDLES, {"__data__": b"old"})
    seen, handle = collecting()
    health = await following(handle, after=ONLY_NEW)

    async def published_and_seen():
        await redis.xadd(streams.BUNDLES, {"__data__": b"new"})
        return seen

    await eventually(published_and_seen)
    assert set(seen) == {b"new"}
    assert not health.reasons()


@pytest.mark.parametrize(("quick_s", "sizes"), [(0.0, [1] * 7), (60.0, [1, 2, 4, 8, 16, 32, 64])])
async def test_who_is_far_behind_reads_as_many_at_once_as_come_quickly(
    redis, following, eventually, monkeypatch, quick_s, sizes
):
    monkeypatch.setattr(pace, "QUICK_S", quick_s)
    asked, read = [], Redis.xread

    async def xread(redis, streams, count, block):
        asked.append(count)
        return await read(redis, streams, count, block)

    for number in range(70):
        await redis.xadd(streams.BUNDLES, {"__data__": b"%d" % number})
    monkeypatch.setattr(Redis, "xread", xread)
    seen, handle = collecting()
    await following(handle)
    await eventually(lambda: len(seen) == 70)
    assert seen == [b"%d" % number for number in range(70)]
    assert asked[:7] == sizes


async def test_of_the_bundles_the_newest_are_read_and_no_more(redis):
    for number in range(20):
        await redis.xadd(streams.BUNDLES, {"__data__": b"%d" % number})
    assert list(await newest_messages(redis, 8)) == [b"%d" % number for number in range(19, 3, -1)]


@pytest.mark.parametrize(
    ("most", "entries", "took_s", "then"),
    [(64, 8, 0.9, 16), (12, 8, 0.9, 12), (64, 7, 0.9, 8), (64, 8, 1.0, 8), (64, 8, 2.0, 8), (64, 8, 2.1, 4)],
)
def test_more_are_asked_for_at_once_while_they_come_quickly(most, entries, took_s, then):
    own = Pace(most)
    assert own.entries == 1
    own.entries = 8
    own.came(entries, took_s)
    assert own.entries == then


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([Unavailable("blob_missing", "not yet")] * 4, [b"1", b"2"]),
        ([Rejected("old_version", "3")], [b"2"]),
        ([Corrupt("bad_signature", "forged")], [b"2"]),
        ([ZeroDivisionError()] * 2, [b"1", b"2"]),
        ([ZeroDivisionError()] * 3, [b"2"]),
    ],
)
async def test_a_followers_error_decides_whether_the_entry_is_tried_again(
    redis, following, eventually, errors, expected
):
    for body in (b"1", b"2"):
        await redis.xadd(streams.BUNDLES, {"__data__": body})
    seen, handle = collecting(errors)
    await following(handle)
    await eventually(lambda: seen == expected)


async def test_a_follower_reads_a_lost_stream_from_its_new_start(redis, following, eventually, monkeypatch):
    monkeypatch.setattr("common.runtime.follower.FOLLOW_BLOCK_MS", 20)
    seen, handle = collecting()
    await redis.xadd(streams.BUNDLES, {"__data__": b"1"}, id="9999999999999-0")
    await following(handle)
    await eventually(lambda: seen == [b"1"])
    async with redis.pipeline(transaction=True) as change:  # as long as before
        await change.flushall().xadd(streams.BUNDLES, {"__data__": b"2"}, id="5-0").execute()
    await eventually(lambda: len(seen) == 2)
    assert seen == [b"1", b"2"]


@pytest.mark.parametrize("error", [ClusterDownError("CLUSTERDOWN Hash slot not served"), NoPermissionError("no")])
async def test_a_stream_that_cannot_be_asked_about_is_not_lost(error):
    class Refusing:
        async def evalsha(self, *_):
            raise error if isinstance(error, ClusterDownError) else ResponseError("ACL failure in script")

        async def xinfo_stream(self, _):
            raise error

    with pytest.raises(type(error)):
        await newest(Refusing(), streams.BUNDLES)


async def test_what_is_newest_is_told_without_the_entry_and_to_who_may_not_call_scripts_too(redis):
    assert await newest(redis, streams.BUNDLES) == "0-0"
    for number in (5, 7):
        await redis.xadd(streams.BUNDLES, {"__data__": bytes(5_000)}, id=f"{number}-0")
    await redis.xdel(streams.BUNDLES, "7-0")
    before = (await redis.info("stats"))["total_net_output_bytes"]
    assert await newest(redis, streams.BUNDLES) == "7-0"
    assert (await redis.info("stats"))["total_net_output_bytes"] - before < 5_000 + 4_000  # of which `info` has some

    class Untaught:
        xinfo_stream = redis.xinfo_stream

        async def evalsha(self, *_):
            raise NoPermissionError("no")

    assert await newest(Untaught(), streams.BUNDLES) == "7-0"
    assert await newest(Untaught(), streams.COMMON) == "0-0"


async def test_a_follower_survives_the_broker_and_sees_every_entry(tmp_path, following, eventually):
    first = embedded.start(tmp_path)
    async with connect(first.url) as redis:
        seen, handle = collecting()
        await Broker(redis).produce(streams.BUNDLES, b"1", "1")
        await following(handle, client=redis)
        await eventually(lambda: seen == [b"1"])
        os.kill(first.pid, signal.SIGKILL)
        first.process.wait()
        second = await asyncio.to_thread(embedded.start, tmp_path, int(first.url.rpartition(":")[2]))
        await Broker(redis).produce(streams.BUNDLES, b"2", "2")
        await eventually(lambda: len(seen) == 2)
        assert seen == [b"1", b"2"]
    second.stop()


# Calls that share a round trip


async def told(*calls):
    return await asyncio.gather(*calls, return_exceptions=True)


def published(redis, number):
    return scripts.publish(redis, streams.PACKETS, b"p%d" % number, f"p{number}")


@pytest.mark.parametrize("forgotten", [False, True])
async def test_of_calls_in_one_trip_each_has_its_own_answer_or_error(redis, forgotten):
    await redis.set(streams.BATCHES, "no stream")
    await published(redis, 0)
    if forgotten:
        await redis.script_flush()
    wrong = scripts.publish(redis, streams.BATCHES, b"b", "b1")
    found = await told(published(redis, 1), wrong, published(redis, 2))
    assert [isinstance(each, ResponseError) for each in found] == [False, True, False]
    assert await redis.xlen(streams.PACKETS) == 3


async def test_a_caller_that_is_cancelled_in_a_trip_leaves_the_others_their_answers(redis):
    first = asyncio.create_task(published(redis, 0))
    others = [asyncio.create_task(published(redis, number)) for number in (1, 2, 3)]
    await asyncio.sleep(0)
    others[1].cancel()
    found = await told(first, *others)
    assert [isinstance(each, asyncio.CancelledError) for each in found] == [False, False, True, False]
    assert await published(redis, 4)


async def test_a_user_who_may_not_ask_is_taken_to_have_slots(redis, broker_url):
    await redis.execute_command("ACL", "SETUSER", "plain", "on", ">secret", "~*", "+@all", "-info")
    async with connect(broker_url.replace("redis://", "redis://plain:secret@")) as plain:
        assert await scripts.has_slots(plain)
    await redis.execute_command("ACL", "DELUSER", "plain")


async def test_a_commit_that_cannot_send_does_nothing(redis):
    await redis.set(streams.answers("kiosk"), "no stream")
    entry = (await redis.xadd(streams.QUERIES, {"__data__": b"q"})).decode()
    await redis.xgroup_create(streams.QUERIES, "edge", id="0")
    await redis.xreadgroup("edge", "me", {streams.QUERIES: ">"})
    sent = [HashSet(streams.side_key(streams.QUERIES, "x"), "a", b"1"), Send(streams.answers("kiosk"), b"a", "a1")]
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await scripts.commit(redis, streams.QUERIES, sent, entry=("edge", entry), direct=True)
    assert (await redis.xpending(streams.QUERIES, "edge"))["pending"] == 1
    assert await redis.exists(streams.side_key(streams.QUERIES, "x")) == 0
