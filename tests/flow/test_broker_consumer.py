import asyncio
import time

import pytest
from broker_node import COUNTS, consumer, count, counted, finished, letters
from faststream.redis import RedisBroker

from common.errors import Corrupt, Rejected, Unavailable
from common.runtime import metrics, pace, scripts, streams
from common.runtime.consumer import Intake
from common.runtime.effects import Absent, HashSet, Send, Then
from common.runtime.entries import Entry

pytestmark = pytest.mark.anyio


def raising(error, *, then=99):
    """A handler that raises `error` at its first `then` calls, and counts; with the calls it was given."""
    calls = []

    async def handle(delivery, body):
        calls.append(delivery)
        if len(calls) <= then:
            raise error
        return counted(body)

    return handle, calls


async def test_entries_published_before_the_first_start_are_handled(redis, broker, start_node, eventually):
    for number in range(20):
        await broker.produce(streams.QUERIES, b"q%d" % number, f"q{number}")
    await start_node(consumer(count))
    await eventually(lambda: finished(redis))
    assert await redis.hgetall(COUNTS) == {b"q%d" % number: b"1" for number in range(20)}


async def test_a_handler_is_told_the_entry_its_time_and_its_delivery(redis, start_node, eventually):
    handle, calls = raising(Unavailable("x", "x"), then=0)
    entry = await redis.xadd(streams.QUERIES, {"__data__": b"q"})
    await start_node(consumer(handle))
    await eventually(lambda: finished(redis))
    assert (calls[0].entry_id, calls[0].deliveries, calls[0].body) == (entry.decode(), 1, b"q")
    assert str(calls[0].at_ms) == entry.decode().partition("-")[0]


@pytest.mark.parametrize("fields", [{"body": b"q"}, {"data": b"q"}, {"__data__": b"q", "colour": b"red"}])
async def test_a_body_by_hand_is_taken(redis, start_node, eventually, fields):
    await redis.xadd(streams.QUERIES, fields)
    await start_node(consumer(count))
    await eventually(lambda: finished(redis))
    assert await redis.hget(COUNTS, "q") == b"1"


async def test_a_message_from_a_plain_faststream_client_is_taken(redis, broker_url, start_node, eventually):
    async with RedisBroker(broker_url, logger=None) as client:
        await client.publish(b"q", stream=streams.QUERIES)
    await start_node(consumer(count))
    await eventually(lambda: finished(redis))
    assert await redis.hgetall(COUNTS) == {b"q": b"1"}


@pytest.mark.parametrize("error", [Rejected("off_simplex", "sums to 2"), Corrupt("bad_signature", "forged")])
async def test_wrong_data_becomes_a_dead_letter_with_its_reason_and_is_never_retried(
    redis, start_node, eventually, error
):
    handle, calls = raising(error)
    await redis.xadd(streams.QUERIES, {"__data__": b"q"})
    await start_node(consumer(handle))
    await eventually(lambda: finished(redis))
    (letter,) = await letters(redis)
    assert (letter.code, letter.reason, letter.body, letter.deliveries) == (error.code, error.message, b"q", 1)
    assert len(calls) == 1
    assert (await redis.xpending(streams.QUERIES, "edge"))["pending"] == 0


async def test_an_undecodable_message_becomes_a_dead_letter(redis, start_node, eventually):
    def decode(body):
        raise Rejected("undecodable", "no msgpack map")

    await redis.xadd(streams.QUERIES, {"__data__": b"\x00\xff"})
    await start_node(consumer(count, decode=decode))
    await eventually(lambda: finished(redis))
    assert [letter.code for letter in await letters(redis)] == ["undecodable"]


@pytest.mark.parametrize("fields", [{"colour": b"red"}, {b"\xff\x00": b"\x89BIN"}, {"body": b"q", "data": b"r"}])
async def test_an_entry_without_a_message_becomes_a_dead_letter_that_keeps_its_fields(
    redis, start_node, eventually, fields
):
    await redis.xadd(streams.QUERIES, fields)
    await start_node(consumer(count))
    await eventually(lambda: finished(redis))
    (letter,) = await letters(redis)
    assert letter.code == "no_body"
    assert all(value in letter.body for value in fields.values())


async def test_a_bad_entry_does_not_hold_up_the_good_ones(redis, start_node, eventually):
    for number in range(4):
        await redis.xadd(streams.QUERIES, {"__data__": b"q%d" % number})
        await redis.xadd(streams.QUERIES, {"colour": b"red"})
    await start_node(consumer(count))
    await eventually(lambda: finished(redis))
    assert len(await redis.hgetall(COUNTS)) == len(await letters(redis)) == 4


async def test_what_is_unavailable_is_retried_until_it_is_there_however_often(redis, start_node, eventually):
    handle, calls = raising(Unavailable("model_loading", "not yet"), then=4)
    await redis.xadd(streams.QUERIES, {"__data__": b"q"})
    await start_node(consumer(handle, max_deliveries=2))
    await eventually(lambda: finished(redis))
    assert [delivery.deliveries for delivery in calls] == [1] * 5
    assert (await redis.hget(COUNTS, "q"), await letters(redis)) == (b"1", [])


async def test_what_stays_unavailable_beyond_the_limit_becomes_a_dead_letter(redis, start_node, eventually):
    handle, _ = raising(Unavailable("model_loading", "not yet"))
    await redis.xadd(streams.QUERIES, {"__data__": b"q"})
    await start_node(consumer(handle, give_up_after_s=0.05))
    await eventually(lambda: finished(redis))
    assert [letter.code for letter in await letters(redis)] == ["model_loading"]


@pytest.mark.parametrize("ahead_s", [172_800.0, -172_800.0])
async def test_a_process_whose_clock_is_wrong_counts_ages_from_when_the_broker_took_a_message(
    redis, start_node, eventually, ahead_s
):
    handle, calls = raising(Unavailable("model_loading", "not yet"), then=2)
    await redis.xadd(streams.QUERIES, {"__data__": b"q"})
    began_s = time.time() + ahead_s
    await start_node(consumer(handle), clock=lambda: time.time() + ahead_s)
    await eventually(lambda: finished(redis))
    assert (await redis.hget(COUNTS, "q"), await letters(redis)) == (b"1", [])
    assert all(began_s - 60.0 < delivery.at_s < began_s + 60.0 for delivery in calls)


@pytest.mark.parametrize(("quick_s", "sizes"), [(0.0, [1] * 20), (60.0, [1, 2, 4, 8, 5])])
async def test_of_a_backlog_as_much_is_read_at_once_as_comes_quickly(
    redis, start_node, eventually, monkeypatch, quick_s, sizes
):
    """What was asked for is nobody else's while it is on its way."""
    monkeypatch.setattr(pace, "QUICK_S", quick_s)
    reads = []

    async def handle_read(given):
        reads.append(len(given))
        return [counted(body) for _, body in given]

    for number in range(20):
        await redis.xadd(streams.QUERIES, {"__data__": b"q%d" % number})
    await start_node(consumer(None, handle_read=handle_read, claim_after_s=5.0))
    await eventually(lambda: finished(redis))
    assert reads == sizes


@pytest.mark.parametrize("look", ["turn_away", "handle_read"])
async def test_who_looks_at_new_messages_together_is_told_their_age_by_the_broker_s_clock_too(
    redis, start_node, eventually, look
):
    seen, ahead_s = [], 172_800.0

    def turn_away(delivery, body, ahead):
        seen.append(delivery)

    async def handle_read(given):
        seen.extend(delivery for delivery, _ in given)
        return [counted(body) for _, body in given]

    await redis.xadd(streams.QUERIES, {"__data__": b"q"})
    began_s = time.time() + ahead_s
    looks = {look: {"turn_away": turn_away, "handle_read": handle_read}[look]}
    await start_node(consumer(count, **looks), clock=lambda: time.time() + ahead_s)
    await eventually(lambda: finished(redis))
    (delivery,) = seen
    assert began_s - 60.0 < delivery.at_s < began_s + 60.0


@pytest.mark.parametrize(("broker_s", "ahead_s"), [(6.5, 1.5), (8.0, 0.0), (9.0, 0.0), (10.0, 0.0), (11.5, -1.5)])
async def test_a_clock_is_as_far_from_the_brokers_as_the_way_does_not_explain(redis, broker_s, ahead_s):
    intake = Intake(redis, consumer(count), clock=lambda: 10.0, steady=lambda: 3.0)
    intake.compare(8.0, broker_s)
    assert intake.ahead_s == ahead_s


@pytest.mark.parametrize("behind_s", [172_800.0, -172_800.0])
async def test_a_clock_that_is_set_right_makes_no_message_older_or_younger(redis, behind_s):
    """The next look at the broker's may be two seconds away: what is refused or buried till then is gone."""
    now_s, taken_s = [1e9], 1e9 + behind_s
    intake = Intake(redis, consumer(count), clock=lambda: now_s[0])
    intake.compare(now_s[0], taken_s)
    for set_s in (behind_s, -2 * behind_s):
        now_s[0] += set_s
        assert now_s[0] - intake.ahead_s - taken_s == pytest.approx(0.0, abs=60.0)


async def test_what_fails_together_is_not_tried_again_together(redis):
    await redis.xgroup_create(streams.QUERIES, "edge", id="0", mkstream=True)
    for _ in range(2):
        await redis.xadd(streams.QUERIES, {"__data__": b"q"})
    ((_, rows),) = await redis.xreadgroup("edge", "me", {streams.QUERIES: ">"})
    handle, _ = raising(ZeroDivisionError())
    patient = consumer(handle, claim_after_s=600.0, retry_first_s=100.0)
    intake = Intake(redis, patient, chance=iter([0.0, 1.0]).__next__)
    await intake.take_all("me", [Entry(entry.decode(), fields) for entry, fields in rows], new=True)
    await intake.close()
    pending = await redis.xpending_range(streams.QUERIES, "edge", "-", "+", 2)
    assert [row["time_since_delivered"] // 10_000 for row in pending] == [55, 50]  # of 60: tried in 50 s, and in 100


async def test_a_bug_that_goes_away_is_survived(redis, start_node, eventually):
    handle, calls = raising(ZeroDivisionError(), then=2)
    await redis.xadd(streams.QUERIES, {"__data__": b"q"})
    await start_node(consumer(handle, max_deliveries=3))
    await eventually(lambda: finished(redis))
    assert [delivery.deliveries for delivery in calls] == [1, 2, 3]
    assert (await redis.hget(COUNTS, "q"), await letters(redis)) == (b"1", [])


async def test_a_bug_that_stays_is_dead_after_exactly_max_deliveries(redis, start_node, eventually):
    handle, calls = raising(ZeroDivisionError("by nought"))
    await redis.xadd(streams.QUERIES, {"__data__": b"q"})
    await start_node(consumer(handle, max_deliveries=3))
    await eventually(lambda: finished(redis))
    (letter,) = await letters(redis)
    assert (letter.code, letter.deliveries, len(calls)) == ("handler_failed", 3, 3)
    assert "by nought" in letter.reason


@pytest.mark.parametrize(("before", "runs"), [(1, 1), (2, 0)])
async def test_a_message_that_was_delivered_too_often_is_dead_before_its_handler_runs(
    redis, start_node, eventually, before, runs
):
    """Its earlier deliveries ended with the process: only the broker's count knows of them. Limit 2: below, above."""
    await redis.xgroup_create(streams.QUERIES, "edge", id="0", mkstream=True)
    await redis.xadd(streams.QUERIES, {"__data__": b"q"})
    (entry, *_), *_ = (await redis.xreadgroup("edge", "ghost", {streams.QUERIES: ">"}))[0][1]
    await redis.xclaim(streams.QUERIES, "edge", "ghost", 0, [entry], retrycount=before, justid=True)
    handle, calls = raising(None, then=0)
    await start_node(consumer(handle, max_deliveries=2))
    await eventually(lambda: finished(redis))
    assert len(calls) == runs
    assert [letter.code for letter in await letters(redis)] == ["never_finished"] * (1 - runs)


async def test_a_killed_consumers_entry_is_handled_by_another_and_counted_once(redis, start_node, eventually):
    begun = asyncio.Event()

    async def hang(delivery, body):
        begun.set()
        await asyncio.Event().wait()

    await redis.xadd(streams.QUERIES, {"__data__": b"q"})
    first = await start_node(consumer(hang))
    await asyncio.wait_for(begun.wait(), 5)
    await first.kill()
    await start_node(consumer(count))
    await eventually(lambda: finished(redis))
    assert await redis.hget(COUNTS, "q") == b"1"


async def test_two_consumers_that_race_for_one_entry_count_it_once(redis, start_node, eventually, monkeypatch):
    monkeypatch.setattr("common.runtime.consumer.LEASES_PER_CLAIM", 0.01)  # no lease: the second one takes it over
    both, calls = asyncio.Event(), []

    async def meet(delivery, body):
        calls.append(delivery.entry_id)
        if len(calls) > 1:
            both.set()
        await both.wait()
        return counted(body)

    await redis.xadd(streams.QUERIES, {"__data__": b"q"})
    for _ in range(2):
        await start_node(consumer(meet))
    await eventually(lambda: finished(redis))
    assert len(calls) > 1
    assert len(set(calls)) == 1
    assert await redis.hget(COUNTS, "q") == b"1"


async def test_a_lease_keeps_long_work_from_being_given_away(redis, start_node, eventually):
    calls, release = [], asyncio.Event()

    async def long(delivery, body):
        calls.append(body)
        await release.wait()
        return counted(body)

    await redis.xadd(streams.QUERIES, {"__data__": b"long"})
    for _ in range(2):
        await start_node(consumer(long, claim_after_s=0.5))
    await eventually(lambda: calls)
    asyncio.get_running_loop().call_later(1.3, release.set)  # two and a half claim times
    await eventually(lambda: finished(redis))
    assert calls == [b"long"]


async def test_a_condition_that_fails_runs_the_handler_again_on_what_is_there_now(redis, start_node, eventually):
    taken, calls, followed = streams.side_key(streams.QUERIES, "taken"), [], []

    async def first_free(delivery, body):
        names = {name.decode() for name in await redis.hkeys(taken)}
        calls.append(len(names))
        if not names:
            await redis.hset(taken, "a", b"somebody else")  # between our look and our commit
        free = "b" if "a" in names else "a"
        return [Absent(taken, free), HashSet(taken, free, body), Then(lambda: followed.append(free))]

    await redis.xadd(streams.QUERIES, {"__data__": b"q"})
    await start_node(consumer(first_free))
    await eventually(lambda: followed)
    assert (calls, followed) == ([0, 1], ["b"])  # what follows on a try that came to nothing is not done
    assert await redis.hgetall(taken) == {b"a": b"somebody else", b"b": b"q"}


@pytest.mark.parametrize("direct", [True, False])
async def test_one_id_in_two_entries_is_answered_once(redis, start_node, eventually, direct):
    async def answer(delivery, body):
        return [*counted(body), Send(streams.answers("kiosk"), body, body.decode())]

    for _ in range(2):
        await redis.xadd(streams.QUERIES, {"__data__": b"q1"})
    await start_node(consumer(answer), direct=direct)
    await eventually(lambda: finished(redis, streams.outbox(streams.QUERIES)))
    await eventually(lambda: finished(redis))
    await eventually(lambda: finished(redis, streams.outbox(streams.QUERIES)))
    assert [fields for _, fields in await redis.xrange(streams.answers("kiosk"))] == [{b"__data__": b"q1"}]


async def test_what_is_sent_is_there_with_the_commit_where_there_are_no_slots(redis):
    entry = await redis.xadd(streams.QUERIES, {"__data__": b"q"})
    await redis.xgroup_create(streams.QUERIES, "edge", id="0")
    await redis.xreadgroup("edge", "me", {streams.QUERIES: ">"})
    sent = [Send(streams.answers("kiosk"), b"a", "a1"), Send(streams.BATCHES, b"b", "b1")]
    done = await scripts.commit(redis, streams.QUERIES, sent, entry=("edge", entry.decode()), direct=True)
    assert done == "done"
    assert not await scripts.has_slots(redis)
    assert [fields for _, fields in await redis.xrange(streams.answers("kiosk"))] == [{b"__data__": b"a"}]
    assert [fields for _, fields in await redis.xrange(streams.BATCHES)] == [{b"__data__": b"b"}]
    assert await redis.exists(streams.outbox(streams.QUERIES)) == 0
    assert 0 < await redis.ttl(streams.answers("kiosk")) <= 86_400
    assert await redis.ttl(streams.BATCHES) == -1
    assert await scripts.publish(redis, streams.answers("kiosk"), b"a", "a1") is None


@pytest.mark.parametrize("forgotten", [False, True])
async def test_what_is_told_comes_before_what_is_committed_after_it(redis, broker, forgotten):
    stream = streams.answers("kiosk")
    if forgotten:  # all but what commits
        await redis.script_flush()
    await scripts.commit(redis, streams.QUERIES, [Send(streams.answers("other"), b"answer", "a1")], direct=True)
    told = [broker.tell(stream, b"piece %d" % number) for number in range(3)]
    sent = [Send(stream, b"answer", "a1")]
    assert await scripts.commit(redis, streams.QUERIES, sent, direct=True) == "done"
    assert all(each.done() for each in told)
    found = [fields[b"__data__"] for _, fields in await redis.xrange(stream)]
    assert found == [b"piece 0", b"piece 1", b"piece 2", b"answer"]


async def test_what_cannot_be_told_is_lost_and_nobody_s_error(redis, broker):
    stream = streams.answers("kiosk")
    await redis.set(stream, "no stream")
    told = broker.tell(stream, b"piece")
    await asyncio.wait([told])
    assert told.exception() is not None


async def test_nothing_is_sent_by_a_commit_whose_entry_somebody_else_has_finished(redis):
    sent = [Send(streams.answers("kiosk"), b"a", "a1")]
    await redis.xgroup_create(streams.QUERIES, "edge", id="0", mkstream=True)
    assert await scripts.commit(redis, streams.QUERIES, sent, entry=("edge", "1-0"), direct=True) == "gone"
    assert await redis.exists(streams.answers("kiosk")) == 0


@pytest.mark.parametrize(
    ("counter", "label", "values"),
    [
        (metrics.HANDLED, "outcome", ("done", "rejected", "corrupt", "dead")),
        (metrics.DEAD_LETTERS, "code", ("never_finished", "handler_failed", "no_body")),
    ],
)
async def test_what_alerts_look_at_reads_zero_before_the_first(redis, counter, label, values):
    counter.clear()
    Intake(redis, consumer(count))
    rows = [row for family in counter.collect() for row in family.samples]
    assert {(row.labels["stream"], row.labels[label], row.value) for row in rows} == {
        (streams.QUERIES, value, 0.0) for value in values
    }


async def test_what_an_outbox_can_bury_an_entry_for_reads_zero_before_the_first(start_node, eventually):
    def shown():
        rows = [row for family in metrics.DEAD_LETTERS.collect() for row in family.samples]
        return {row.labels["code"] for row in rows if row.value == 0.0} >= {"no_body", "no_stream", "wrong_type"}

    metrics.DEAD_LETTERS.clear()
    await start_node(consumer(count))
    await eventually(shown)
