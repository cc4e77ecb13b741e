import asyncio

import pytest
from broker_node import consumer
from client_asking import NAME, TEXT, read, the_query
from client_edge import NODE, answer_to, edge, pieces_of, say

from common.errors import Rejected
from common.runtime import streams
from common.runtime.entries import Delivery
from common.wire.codec import pack
from common.wire.inference import Problem

pytestmark = pytest.mark.anyio


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
    for message in (*old[:2], *new, answer_to(query, node="edge-2")):  # whoever reads is given nothing in between
        await client._on_reply(Delivery(streams.answers(NAME), "1-0", 1, 1, pack(message)))
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
