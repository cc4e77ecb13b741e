import asyncio
import os
import signal

import pytest
from broker_node import consumer
from client_edge import NODE, answer_to, edge, pieces_of, say

from common.client import Client
from common.client.client import DEAD_LOOKED_AT
from common.errors import Rejected, Unavailable
from common.runtime import embedded, relay, scripts, streams
from common.runtime.connection import connect
from common.runtime.effects import Send
from common.runtime.entries import body_of
from common.runtime.follower import FROM_START, kept
from common.wire.codec import pack, unpack
from common.wire.messages import Applied, Cancel, DeadLetter, Heartbeat, Problem, Query

pytestmark = pytest.mark.anyio
TEXT = "down to the sea"
NAME = "kiosk-7"


@pytest.fixture
async def client(redis, broker_url):
    async with Client(broker_url, name=NAME) as made:
        yield made


async def messages(redis, stream, cls):
    return [unpack(cls, body_of(entry.fields)) async for entry in kept(redis, stream)]


async def the_query(redis, eventually):
    """The one query that was published."""
    await eventually(lambda: redis.xlen(streams.QUERIES))
    (query,) = await messages(redis, streams.QUERIES, Query)
    return query


async def read(reply):
    return [piece async for piece in reply]


# Asking


async def test_a_question_is_answered(redis, client, start_node):
    await start_node(consumer(edge(redis)))
    answer = await client.ask(TEXT, max_tokens=3)
    assert (answer.text, answer.client, answer.node) == (TEXT, NAME, NODE)


async def test_a_hundred_open_questions_get_each_its_own_answer(redis, client, start_node):
    asking = [asyncio.create_task(client.ask(f"question {number}")) for number in range(100)]
    await start_node(consumer(edge(redis)))
    assert [answer.text for answer in await asyncio.gather(*asking)] == [f"question {n}" for n in range(100)]


async def test_every_wish_reaches_the_edge(redis, client, eventually):
    wishes = {
        "id": "q-1", "max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "stop": ("\n",), "seed": 3, "deadline_s": 60.0,
        "mode": "heart", "store": False,
    }  # fmt: skip
    asking = asyncio.create_task(client.ask(TEXT, **wishes))
    query = await the_query(redis, eventually)
    assert query == Query(text=TEXT, client=NAME, **wishes)
    await say(redis, answer_to(query))
    await asking


async def test_a_wish_out_of_its_bounds_is_refused_before_anything_is_published(redis, client):
    with pytest.raises(Rejected, match=r"bad_field: Query\.max_tokens"):
        await client.ask(TEXT, max_tokens=5000)
    assert not await redis.exists(streams.QUERIES)


async def test_a_problem_that_may_pass_is_unavailable_with_when_to_ask_again(redis, client, start_node):
    busy = Problem(code="overloaded", message="too many", retry_after_s=2.5)
    await start_node(consumer(edge(redis, finish="refused", text="", problem=busy)))
    with pytest.raises(Unavailable, match="overloaded: too many") as caught:
        await client.ask(TEXT)
    assert caught.value.retry_after_s == 2.5


async def test_a_refusal_is_rejected_with_its_reason(redis, client, start_node):
    problem = Problem(code="unknown_token", message="no such token")
    await start_node(consumer(edge(redis, finish="refused", text="", problem=problem)))
    with pytest.raises(Rejected, match="unknown_token: no such token"):
        await client.ask(TEXT)


async def test_a_query_that_became_a_dead_letter_is_rejected_with_its_reason(client, start_node):
    async def fail(delivery, body):
        raise Rejected("garbage", "no text in it")

    await start_node(consumer(fail))
    with pytest.raises(Rejected, match=r"garbage: the query could not be handled: no text in it; see `qig dead list`"):
        await client.ask(TEXT)


async def test_anothers_dead_letter_is_not_ours(redis, client, eventually, start_node):
    other = pack(Query(id="q-1", client="other", text=TEXT))
    letter = {"stream": streams.QUERIES, "entry": "1-1", "code": "garbage", "reason": "r", "deliveries": 1, "at_s": 1.0}
    asking = asyncio.create_task(client.ask(TEXT, id="q-1"))
    await the_query(redis, eventually)
    await redis.xadd(streams.dead(streams.QUERIES), {"__data__": pack(DeadLetter(**letter, body=other))})
    await start_node(consumer(edge(redis)))
    assert (await asking).text == TEXT


async def test_at_the_deadline_it_gives_up_and_tells_the_edge(redis, client):
    with pytest.raises(Unavailable, match=r"no_answer: no answer within 0\.05 s"):
        await client.ask(TEXT, id="q-1", deadline_s=0.05)
    assert await messages(redis, streams.CANCEL, Cancel) == [Cancel(query_id="q-1", client=NAME)]


async def test_one_id_is_not_asked_twice_at_once(redis, client, eventually, start_node):
    asking = asyncio.create_task(client.ask(TEXT, id="q-1"))
    await the_query(redis, eventually)
    with pytest.raises(ValueError, match="query q-1 of kiosk-7 is open"):
        await client.ask(TEXT, id="q-1")
    await start_node(consumer(edge(redis)))
    assert (await asking).text == TEXT


# Streaming


async def test_an_answer_comes_in_pieces_and_then_whole(redis, client, start_node):
    await start_node(consumer(edge(redis)))
    reply = client.stream(TEXT)
    assert [(piece.index, piece.text) for piece in await read(reply)] == [
        (0, "down "), (1, "to "), (2, "the "), (3, "sea")
    ]  # fmt: skip
    assert (reply.answer.text, reply.answer.completion_tokens) == (TEXT, 4)


async def test_a_piece_is_there_before_the_next_is_said(redis, client, start_node):
    heard = asyncio.Event()

    async def after_the_first(piece):
        if piece.index == 1:
            await heard.wait()

    await start_node(consumer(edge(redis, after_the_first)))
    pieces = aiter(client.stream(TEXT))
    assert (await anext(pieces)).text == "down "
    heard.set()
    assert [piece.text async for piece in pieces] == ["to ", "the ", "sea"]


async def test_an_edge_that_sends_no_pieces_is_heard_all_the_same(redis, client, eventually):
    reply = client.stream(TEXT)
    reading = asyncio.create_task(read(reply))
    await say(redis, answer_to(await the_query(redis, eventually)))
    assert [(piece.index, piece.text, piece.tokens) for piece in await reading] == [(0, TEXT, 4)]


async def test_a_query_taken_over_by_another_edge_begins_anew(redis, client, eventually):
    reply = client.stream(TEXT)
    pieces = aiter(reply)
    first = asyncio.create_task(anext(pieces))
    query = await the_query(redis, eventually)
    old, new = pieces_of(query), pieces_of(query, "edge-2")
    await say(redis, old[0])
    assert (await first).node == NODE
    for piece in (new[0], old[1], new[1], old[2], new[2], new[3]):
        await say(redis, piece)
    await say(redis, answer_to(query, node="edge-2"))
    assert [(piece.node, piece.index) async for piece in pieces] == [("edge-2", n) for n in range(4)]
    assert reply.answer.node == "edge-2"


async def test_what_was_not_yet_taken_of_the_old_text_is_not_given_when_it_begins_anew(redis, client, eventually):
    reply = client.stream(TEXT)
    reading = asyncio.create_task(read(reply))
    query = await the_query(redis, eventually)
    old, new = pieces_of(query), pieces_of(query, "edge-2")
    async with redis.pipeline() as together:  # so that the reader is given nothing in between
        for message in (*old[:2], *new, answer_to(query, node="edge-2")):
            together.xadd(streams.answers(NAME), {"__data__": pack(message)})
        await together.execute()
    assert [(piece.node, piece.index) for piece in await reading] == [("edge-2", n) for n in range(4)]


async def test_a_refusal_ends_a_stream_with_its_reason(redis, client, start_node):
    problem = Problem(code="unknown_token", message="no such token")
    await start_node(consumer(edge(redis, finish="refused", problem=problem)))
    with pytest.raises(Rejected, match="unknown_token"):
        await read(client.stream(TEXT))


# What else lies in the stream of answers


async def test_garbage_foreign_and_double_entries_are_passed_over(redis, client, eventually, caplog):
    reply = client.stream(TEXT)
    reading = asyncio.create_task(read(reply))
    query = await the_query(redis, eventually)
    foreign = query.model_copy(update={"client": "other"})
    unasked = query.model_copy(update={"id": "q-unasked"})
    for piece in pieces_of(query):
        await redis.xadd(streams.answers(NAME), {"__data__": b"\xc1 garbage"})
        await redis.xadd(streams.answers(NAME), {"colour": b"red"})
        await say(redis, pieces_of(foreign, "edge-9")[0], NAME)
        await say(redis, answer_to(unasked))
        await say(redis, piece)
        await say(redis, piece)
    await say(redis, answer_to(foreign, text="not ours"), NAME)
    await say(redis, answer_to(query))
    assert [piece.index for piece in await reading] == [0, 1, 2, 3]
    assert reply.answer.text == TEXT
    assert "passed over: garbage" in caplog.text


async def test_the_first_answer_counts(redis, client, eventually):
    asking = asyncio.create_task(client.ask(TEXT))
    query = await the_query(redis, eventually)
    async with redis.pipeline() as both:
        for text in ("first", "second"):
            both.xadd(streams.answers(NAME), {"__data__": pack(answer_to(query, text=text))})
        await both.execute()
    assert (await asking).text == "first"


# Cancelling


async def test_a_cancelled_question_is_cancelled_at_the_edge(redis, client, eventually):
    asking = asyncio.create_task(client.ask(TEXT))
    query = await the_query(redis, eventually)
    asking.cancel()
    await asyncio.wait([asking])
    assert await messages(redis, streams.CANCEL, Cancel) == [Cancel(query_id=query.id, client=NAME)]
    assert asking.cancelled()


async def test_a_stream_that_is_left_early_is_cancelled_at_the_edge(redis, client, eventually, start_node):
    async def at_the_second(piece):
        if piece.index == 1:
            await eventually(lambda: redis.xlen(streams.CANCEL))

    await start_node(consumer(edge(redis, at_the_second)))
    reply = client.stream(TEXT)
    async for _ in reply:
        break
    await eventually(lambda: redis.xlen(streams.CANCEL))
    assert await messages(redis, streams.CANCEL, Cancel) == [Cancel(query_id=reply.query.id, client=NAME)]


async def test_a_client_that_leaves_cancels_what_is_open_and_tells_those_who_wait(redis, broker_url, eventually):
    async with Client(broker_url, name=NAME) as client:
        asking = asyncio.create_task(client.ask(TEXT))
        query = await the_query(redis, eventually)
        pieces = aiter(client.stream(TEXT))
        first = asyncio.create_task(anext(pieces))
        await eventually(lambda: streams_of(redis, 2))
    for waiting in (asking, first):
        with pytest.raises(Unavailable, match="client_closed"):
            await waiting
    cancelled = {cancel.query_id for cancel in await messages(redis, streams.CANCEL, Cancel)}
    assert len(cancelled) == 2
    assert query.id in cancelled


async def streams_of(redis, number):
    return await redis.xlen(streams.QUERIES) == number


async def test_an_answered_question_is_not_cancelled(redis, client, start_node):
    await start_node(consumer(edge(redis)))
    await client.ask(TEXT)
    await read(client.stream(TEXT))
    assert not await redis.exists(streams.CANCEL)


async def test_a_client_without_a_name_leaves_no_key_behind(redis, broker_url, start_node):
    await start_node(consumer(edge(redis)))
    async with Client(broker_url) as client:
        await client.ask(TEXT)
        assert await redis.keys("*qig:answers:*") != []
    assert await redis.keys("*qig:answers:*") == []


# Outages


async def kill_connections(redis):
    await redis.client_kill_filter(_type="normal", skipme=True)


async def test_connections_that_are_cut_all_the_time_lose_and_double_nothing(redis, client, start_node):
    async def cut(piece):
        if piece.index % 2:
            await kill_connections(redis)

    await start_node(consumer(edge(redis, cut)))
    replies = [client.stream(f"{TEXT} number {n}") for n in range(10)]
    given = await asyncio.gather(*map(read, replies))
    for number, (reply, pieces) in enumerate(zip(replies, given, strict=True)):
        since = max(at for at, piece in enumerate(pieces) if piece.index == 0)
        assert reply.answer.text == f"{TEXT} number {number}" == "".join(piece.text for piece in pieces[since:])
    asked = await redis.zcard(streams.seen(streams.QUERIES))
    assert asked == len(replies)


@pytest.fixture
def mortal(tmp_path):
    """A broker of one's own: its url, what kills it, and what brings it back on its data."""
    running = [embedded.start(tmp_path)]
    port = int(running[0].url.rpartition(":")[2])

    def kill():
        os.kill(running[-1].pid, signal.SIGKILL)
        running[-1].process.wait()

    async def revive():
        running.append(await asyncio.to_thread(embedded.start, tmp_path, port))

    yield running[0].url, kill, revive
    running[-1].stop()


async def test_reading_goes_on_after_an_outage_where_it_was(mortal, eventually):
    url, kill, revive = mortal
    async with connect(url) as redis, Client(url, name=NAME) as client:
        pieces = aiter(client.stream(TEXT))
        first = asyncio.create_task(anext(pieces))
        query = await the_query(redis, eventually)
        await say(redis, pieces_of(query)[0])
        assert (await first).text == "down "
        kill()
        await revive()
        for piece in pieces_of(query)[1:]:
            await say(redis, piece)
        await say(redis, answer_to(query))
        assert [(piece.index, piece.text) async for piece in pieces] == [(1, "to "), (2, "the "), (3, "sea")]


async def test_a_question_that_is_asked_while_the_broker_is_away_is_answered_once_it_is_back(mortal, start_node):
    url, kill, revive = mortal
    async with connect(url) as redis, Client(url, name=NAME) as client:
        kill()
        asking = asyncio.create_task(client.ask(TEXT))
        await asyncio.wait([asking], timeout=0.1)
        await revive()
        await start_node(consumer(edge(redis)), url=url)
        assert (await asking).text == TEXT


async def test_a_client_that_is_left_during_an_outage_tells_who_asks_and_publishes_nothing_later(mortal):
    url, kill, revive = mortal
    async with connect(url) as redis:
        async with Client(url, name=NAME) as client:
            kill()
            asking = [asyncio.create_task(client.ask(TEXT, id=f"q-{n}")) for n in range(3)]
            await asyncio.wait(asking, timeout=0.1)
        done, waiting = await asyncio.wait(asking, timeout=0.1)
        assert not waiting
        for each in done:
            with pytest.raises(Unavailable, match="client_closed"):
                each.result()
        await revive()
        assert not await redis.exists(streams.QUERIES)


async def test_nobody_waits_for_a_broker_that_was_never_there():
    with pytest.raises(Unavailable, match=r"broker_away: no broker answers at redis://127\.0\.0\.1:1 .*`qig up`"):
        await Client("redis://127.0.0.1:1").__aenter__()


async def test_a_broker_that_takes_nothing_is_said(redis, client):
    await redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(Unavailable, match=r"broker_refused: .*maxmemory"):
            await client.ask(TEXT)
    finally:
        await redis.config_set("maxmemory", 0)


# Asking again after a restart


async def test_a_restarted_program_that_asks_again_is_given_the_answer_that_came_meanwhile(
    redis, broker_url, start_node, eventually
):
    async with Client(broker_url, name=NAME) as before:
        asking = asyncio.create_task(before.ask(TEXT, id="q-1"))
        await the_query(redis, eventually)
        before._open.clear()  # killed: it cancels nothing
        asking.cancel()
        await asyncio.wait([asking])
    node = await start_node(consumer(edge(redis)))
    await eventually(lambda: redis.xlen(streams.answers(NAME)))
    await node.stop()
    async with Client(broker_url, name=NAME) as after:
        assert (await after.ask(TEXT, id="q-1")).text == TEXT
    assert await redis.xlen(streams.QUERIES) == 0


async def test_a_restarted_program_that_asks_again_is_told_that_its_query_is_dead(redis, broker_url, start_node):
    async def fail(delivery, body):
        raise Rejected("garbage", "no text in it")

    await start_node(consumer(fail))
    for _ in range(2):
        async with Client(broker_url, name=NAME) as client:
            with pytest.raises(Rejected, match="no text in it"):
                await client.ask(TEXT, id="q-1")
    assert await redis.xlen(streams.dead(streams.QUERIES)) == 1 < DEAD_LOOKED_AT


async def asked_before(redis, **changed):
    """A query of an earlier life, which was published."""
    query = Query(text=TEXT, client=NAME, id="q-1", **changed)
    await scripts.publish(redis, streams.QUERIES, pack(query), f"{NAME}:q-1")
    return query


def is_published(client, query_id):
    return query_id in client._open and client._open[query_id].publishing.done()


async def test_who_asks_again_when_the_answer_is_no_longer_kept_is_told_so(redis, client, start_node, eventually):
    query = await asked_before(redis)
    await start_node(consumer(edge(redis)))
    await eventually(lambda: redis.xlen(streams.answers(NAME)))
    await redis.delete(streams.answers(NAME))  # a day later
    with pytest.raises(Unavailable, match=r"answer_gone: query q-1 was asked before, .*ask again under another id"):
        await client.ask(TEXT, id=query.id)
    assert not await redis.exists(streams.CANCEL)


@pytest.mark.parametrize("changed", [{}, {"stream": True}], ids=["the same", "as a stream"])
async def test_who_asks_again_while_the_query_is_open_waits_for_its_answer(
    redis, client, start_node, eventually, changed
):
    await asked_before(redis, **changed)
    asking = asyncio.create_task(client.ask(TEXT, id="q-1"))
    await eventually(lambda: is_published(client, "q-1"))
    await start_node(consumer(edge(redis)))
    assert (await asking).text == TEXT


async def test_who_asks_again_while_the_answer_is_being_relayed_waits_for_it(redis, client, eventually):
    query = await asked_before(redis)
    await scripts.commit(redis, streams.QUERIES, [Send(streams.answers(NAME), pack(answer_to(query)), query.id)])
    await redis.delete(streams.QUERIES)  # answered by an edge on a cluster
    asking = asyncio.create_task(client.ask(TEXT, id=query.id))
    await eventually(lambda: is_published(client, query.id))
    await relay.carry(redis, streams.QUERIES)
    assert (await asking).text == TEXT


# Watching


async def test_heartbeats_and_verdicts_are_seen_as_they_come_and_garbage_is_not(redis, client):
    beat = Heartbeat(node=NODE, service="edge", at_s=1.0, bundle=1, ready=True)
    told = Applied(node=NODE, version=2, verdict="applied", at_s=2.0)
    await redis.xadd(streams.HEART, {"__data__": pack(beat)})
    await redis.xadd(streams.HEART, {"__data__": b"garbage"})
    news = client.watch(after=FROM_START)
    assert await anext(news) == beat
    await redis.xadd(streams.APPLIED, {"__data__": pack(told)})
    assert await anext(news) == told
    await news.aclose()


async def test_a_watcher_goes_on_after_an_outage_with_the_next(redis, client):
    news = client.watch(after=FROM_START)
    for number in range(3):
        beat = Heartbeat(node=NODE, service="edge", at_s=float(number), bundle=1, ready=True)
        await redis.xadd(streams.HEART, {"__data__": pack(beat)})
        assert (await anext(news)).at_s == number
        await kill_connections(redis)
    await news.aclose()


async def test_who_watches_from_now_on_sees_nothing_old(redis, client):
    def beat(at_s):
        return {"__data__": pack(Heartbeat(node=NODE, service="edge", at_s=at_s, bundle=1, ready=True))}

    await redis.xadd(streams.HEART, beat(1.0))
    first = asyncio.create_task(anext(client.watch()))
    while not first.done():
        await redis.xadd(streams.HEART, beat(2.0))
        await asyncio.wait([first], timeout=0.02)
    assert first.result().at_s == 2.0


async def test_a_watcher_of_a_client_that_was_left_is_told(redis, broker_url):
    async with Client(broker_url) as client:
        waiting = asyncio.create_task(anext(client.watch()))
        await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="client_closed"):
        await waiting


async def test_who_leaves_a_watch_leaves_no_reader_behind(redis, client):
    beat = Heartbeat(node=NODE, service="edge", at_s=1.0, bundle=1, ready=True)
    await redis.xadd(streams.HEART, {"__data__": pack(beat)})
    before = len(client._readers)
    news = client.watch(after=FROM_START)
    await anext(news)
    assert len(client._readers) == before + 3
    await news.aclose()
    assert len(client._readers) == before
