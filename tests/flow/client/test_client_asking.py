import asyncio

import pytest
from broker_node import consumer
from client_asking import NAME, TEXT, messages, the_query
from client_edge import NODE, answer_to, edge, say

from common.errors import Rejected, Unavailable
from common.runtime import streams
from common.wire.codec import pack
from common.wire.inference import Cancel, Problem, Query
from common.wire.messages import DeadLetter

pytestmark = pytest.mark.anyio


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
