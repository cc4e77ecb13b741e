"""Turns as responses, over the real scheduler; each token waits until the test lets it be said."""

import asyncio
import contextlib
import contextvars
import json
import threading

import pytest

from common.errors import Rejected, Unavailable
from common.wire.codec import pack
from common.wire.inference import Answer, Query
from services.edge.answer import Answered
from services.edge.http.chat import ChatRequest, ChatShape
from services.edge.http.completions import CompletionRequest, CompletionShape
from services.edge.http.shape import Head
from services.edge.http.stream import DONE, PING, EventStream, Gone, answers, events, told, unless_gone
from services.edge.scheduler import Said, Scheduler

pytestmark = pytest.mark.anyio


class Made:
    """Says as many tokens as its query asks for."""

    kernel = "heart"

    def __init__(self, query, name, allowed):
        self.query, self.name, self.allowed, self.tokens = query, name, allowed, 0

    @property
    def ended(self):
        return self.tokens == self.query.max_tokens

    def say(self, _):
        assert self.allowed.acquire(timeout=10)
        if self.query.text == "breaks" and self.tokens == 1:
            raise RuntimeError("a bug")
        self.tokens += 1
        return f"{self.tokens} "

    def conclude(self, _seconds, _problem):
        text, whole = "".join(f"{n + 1} " for n in range(self.tokens)), self.tokens == self.query.max_tokens
        finish = "length" if whole else "cancelled"
        made = Answer(query_id=self.name, client="c", node="n", bundle=1, text=text, finish=finish, kernel="heart")
        return Answered(made.model_copy(update={"completion_tokens": self.tokens}), None)


class Edge:
    """Asks the scheduler, and remembers what was finished."""

    def __init__(self, scheduler):
        self.scheduler, self.turns, self.finished = scheduler, [], []

    def ask(self, query):
        if query.text == "one too many":
            raise Unavailable("overloaded", "full", retry_after_s=2.0)
        self.turns.append(self.scheduler.submit(query, query.id))
        return self.turns[-1]

    async def finish(self, turn):
        made = (await turn.result()).answer
        self.finished.append((made.query_id, made.finish))
        return pack(made)


@pytest.fixture
def allowed():
    return threading.Semaphore(0)


@pytest.fixture
async def edge(allowed):
    def begin(query, name):
        if query.text == "wrong":
            raise Rejected("lone_surrogate", "half a character")
        return Made(query, name, allowed)

    scheduler = Scheduler(begin, workers=2, active_max=8, waiting_max=8)
    scheduler.start()
    yield Edge(scheduler)
    allowed.release(10_000)
    await scheduler.stop()


def ask(name="q", text="x", max_tokens=3):
    return Query(id=name, client="c", text=text, max_tokens=max_tokens)


def shape(**fields):
    asked = CompletionRequest(model="constellation", prompt="x", **fields)
    return CompletionShape(Head("cmpl-1", 0, "constellation", 1), asked, ["x"])


def data(lines):
    return [json.loads(line.removeprefix(b"data: ")) for line in lines if line not in (PING, DONE)]


async def first_of(news, edge, allowed, eventually):
    """The first of the news, once somebody listens to them."""
    first = asyncio.create_task(anext(news))
    await eventually(lambda: edge.turns and edge.turns[-1].listening)
    allowed.release(1)
    return await first


async def test_what_is_done_for_an_asker_is_in_its_own_span_and_not_in_the_worker_s():
    """The worker is in the midst of a span of its own when the asker goes on."""
    span, inside, seen = contextvars.ContextVar("span"), threading.Event(), []

    class Asker(Edge):
        def ask(self, query):
            turn = super().ask(query)
            assert inside.wait(10)
            return turn

        async def finish(self, turn):
            seen.append(span.get())
            return await super().finish(turn)

    def begin(query, name):
        span.set("coordize")
        inside.set()
        return Made(query, name, threading.Semaphore(3))

    scheduler = Scheduler(begin, workers=1, active_max=8, waiting_max=8)
    scheduler.start()
    span.set("POST")
    await answers(Asker(scheduler), [ask()])
    await scheduler.stop()
    assert seen == ["POST"]


async def test_whole_answers_come_in_the_order_of_their_queries(edge, allowed):
    allowed.release(6)
    made = await answers(edge, [ask("a", max_tokens=5), ask("b", max_tokens=1)])
    assert [(each.query_id, each.completion_tokens) for each in made] == [("a", 5), ("b", 1)]


async def test_silence_is_told_and_kept_alive_with_a_comment(edge, allowed):
    news = told(edge, [ask(max_tokens=1)], silence_s=0.01)
    assert await anext(news) is None
    lines = events(None, news, shape())
    assert [await anext(lines), await anext(lines)] == [PING, PING]
    allowed.release()
    assert data([line async for line in lines])[0]["choices"][0]["text"] == "1 "


async def test_choices_begin_in_their_order_whichever_speaks_first(edge, allowed):
    news = told(edge, [ask("a", max_tokens=0), ask("b", max_tokens=0)])
    told_first = sorted([await anext(news), await anext(news)], key=lambda one: -one.index)

    async def swapped():
        yield told_first[1]

    asked = ChatRequest.model_validate({"model": "constellation", "n": 2, "messages": [{"role": "user"}]})
    lines = events(told_first[0], swapped(), ChatShape(Head("chatcmpl-1", 0, "constellation", 1), asked))
    choices = [chunk["choices"][0] for chunk in data([line async for line in lines])]
    assert [(each["index"], each["delta"].get("role")) for each in choices[:2]] == [(0, "assistant"), (1, "assistant")]
    assert [each["index"] for each in choices[2:]] == [1, 0]
    await news.aclose()


async def test_an_error_before_the_first_text_is_the_requests_own(edge):
    with pytest.raises(Rejected, match="half a character"):
        await anext(told(edge, [ask(text="wrong")]))


async def test_an_error_in_the_midst_is_the_last_event_and_is_said_in_the_log_alone(edge, allowed, eventually, caplog):
    news = told(edge, [ask(text="breaks")])
    lines = events(await first_of(news, edge, allowed, eventually), news, shape())
    allowed.release(1)
    first, last = data([line async for line in lines])
    assert first["choices"][0]["text"] == "1 "
    assert last["error"]["type"] == "server_error"
    assert "a bug" not in json.dumps(last)
    assert "an answer failed in the midst" in caplog.text
    assert "a bug" in caplog.text


async def test_queries_before_one_that_is_refused_are_left(edge):
    with pytest.raises(Unavailable, match="full"):
        await anext(told(edge, [ask("a"), ask("b", text="one too many")]))
    assert edge.scheduler.load[1] == 0


async def test_closing_the_news_leaves_the_turn_which_is_kept_as_it_is(edge, allowed, eventually):
    news = told(edge, [ask(max_tokens=1000)])
    assert isinstance((await first_of(news, edge, allowed, eventually)).news, Said)
    closing = asyncio.create_task(news.aclose())
    await eventually(lambda: edge.turns[0].left)
    allowed.release(1)
    await closing
    assert edge.finished == [("q", "cancelled")]
    await eventually(lambda: edge.scheduler.load == (0, 0))


@pytest.mark.parametrize("leaves", ["while they are kept", "while they are told"])
async def test_answers_whose_client_leaves_after_their_end_are_finished_once(edge, allowed, eventually, leaves):
    keep, kept, finish = asyncio.Event(), [], edge.finish

    async def slow(turn):
        body = await finish(turn)
        await keep.wait()
        kept.append(turn)
        return body

    edge.finish = slow
    news = told(edge, [ask("a", max_tokens=1), ask("b", max_tokens=1)], pieces=False, silence_s=0.01)
    allowed.release(2)
    assert await anext(news) is None
    await eventually(lambda: len(edge.finished) == 2)
    if leaves == "while they are told":  # nobody reads the first, so the second waits
        keep.set()
        await eventually(lambda: len(kept) == 2)
    closing = asyncio.create_task(news.aclose())
    await asyncio.sleep(0)
    keep.set()
    await closing
    assert sorted(edge.finished) == [("a", "length"), ("b", "length")]


async def test_a_client_that_goes_away_ends_whole_answers_and_streams(edge, allowed, eventually):
    left = asyncio.Event()

    async def receive():
        await left.wait()
        return {"type": "http.disconnect"}

    sent = []

    async def send(message):
        sent.append(message)

    news = told(edge, [ask("stream", max_tokens=1000)])
    stream = EventStream(events(await first_of(news, edge, allowed, eventually), news, shape()), {})
    streaming = asyncio.create_task(stream({}, receive, send))
    await eventually(lambda: len(sent) == 2)
    waiting = asyncio.create_task(unless_gone(receive, answers(edge, [ask("whole", max_tokens=1000)])))
    await eventually(lambda: edge.scheduler.load[0] == 2)
    left.set()
    await eventually(lambda: all(turn.left for turn in edge.turns))
    allowed.release(2)
    await streaming
    with pytest.raises(Gone):
        await waiting
    assert sorted(edge.finished) == [("stream", "cancelled"), ("whole", "cancelled")]


async def test_work_that_fails_fails_its_request(edge):
    async def receive():
        await asyncio.Event().wait()

    async def fail():
        raise Rejected("wrong", "it is")

    with pytest.raises(Rejected):
        await unless_gone(receive, fail())


async def test_a_slow_reader_is_told_more_at_once_and_nothing_is_lost(edge, allowed, eventually):
    news = told(edge, [ask(max_tokens=50)])
    allowed.release(50)
    pieces = []
    async with contextlib.aclosing(news):
        async for one in news:
            if isinstance(one.news, Said):
                pieces.append(one.news)
                await eventually(lambda: edge.turns[0].making.tokens == 50)  # it is all said before more is read
    assert "".join(piece.text for piece in pieces) == "".join(f"{n + 1} " for n in range(50))
    assert len(pieces) <= 4
