"""Turns of the scheduler as a response: waited for as long as the client is there, whole or as server-sent events.

    queries ─▶ told ─┬─▶ answers     whole
                     └─▶ events      what is said, as it is said; a ping in silence; an error in the midst

A client that goes away leaves its turns, so that their places are free before the next token. It is noticed by reading
what it sends, which is nothing: frameworks look for it in streams alone, and in some versions not there.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from common.constants import Role
from common.errors import QigError
from common.runtime import causes, tracing
from common.runtime.logs import Names, bound
from common.wire.codec import unpack
from common.wire.inference import Answer, Query
from services.edge.answer import Serving
from services.edge.http.errors import refusal_of
from services.edge.http.shape import Chunk, Shape
from services.edge.scheduler import Said, Turn

log = logging.getLogger(__name__)
T = TypeVar("T")

PING_S: Final = 15.0  # OpenAI's clients and most proxies take a minute of silence for an end
PING: Final = b": ping\n\n"
DONE: Final = b"data: [DONE]\n\n"


class Answering(Protocol):
    """What an edge offers to whoever asks in its own process."""

    @property
    def serving(self) -> Serving | None:
        """What answers now."""

    def ask(self, query: Query) -> Turn:
        """Puts a query into the schedule. Raises Unavailable."""

    async def finish(self, turn: Turn) -> bytes:
        """The packed answer of a turn."""


class _End:
    """After the last of the news."""


_END: Final = _End()


class Gone(Exception):
    """The client went away: nobody reads an answer."""


@dataclass(frozen=True, slots=True)
class Told:
    """Something new of one choice: text, or its end. kernel: the role that leads it."""

    index: int
    kernel: Role | None
    news: Said | Answer


async def answers(edge: Answering, queries: Sequence[Query]) -> list[Answer]:
    """Every answer, whole. Raises what making one raised."""
    ended: dict[int, Answer] = {}
    async with contextlib.aclosing(told(edge, queries, pieces=False)) as news:
        async for one in news:
            if one is not None and isinstance(one.news, Answer):
                ended[one.index] = one.news
    return [ended[index] for index in range(len(queries))]


async def told(
    edge: Answering, queries: Sequence[Query], *, pieces: bool = True, silence_s: float = PING_S
) -> AsyncGenerator[Told | None]:
    """News of all choices as they come; None after each `silence_s` without any. Raises what making one raised.

    pieces: whether text is news, or the end alone.
    Closing it leaves what has not ended: that is kept as it then is, like any answer its asker no longer wanted.
    """
    news: asyncio.Queue[Told | Exception] = asyncio.Queue(1)  # one: a slow reader gets more at once, not later
    turns = _ask_all(edge, queries)
    tasks = [
        asyncio.create_task(_follow(edge, index, turn, news, pieces=pieces), context=turn.context)
        for index, turn in enumerate(turns)
    ]
    try:
        missing = len(turns)
        while missing:
            one: Told | Exception | None = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(silence_s):
                    one = await news.get()
            if isinstance(one, Exception):
                raise one
            missing -= one is not None and isinstance(one.news, Answer)
            yield one
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _ask_all(edge: Answering, queries: Sequence[Query]) -> list[Turn]:
    """A turn a query, or none at all."""
    turns: list[Turn] = []
    try:
        for query in queries:
            with bound(partial(_named, query)):
                turns.append(edge.ask(query))
    except BaseException:
        for turn in turns:
            turn.leave()
        raise
    return turns


def _named(query: Query) -> Names:
    assert query.id is not None
    return tracing.named(causes.query(query.client, query.id))


async def _follow(
    edge: Answering, index: int, turn: Turn, news: "asyncio.Queue[Told | Exception]", *, pieces: bool
) -> None:
    finishing: asyncio.Task[bytes] | None = None
    try:
        if pieces:
            async for said in turn.pieces():
                await news.put(Told(index, turn.kernel, said))
        finishing = asyncio.create_task(edge.finish(turn))
        await news.put(Told(index, turn.kernel, unpack(Answer, await asyncio.shield(finishing))))
    except asyncio.CancelledError:
        turn.leave()
        with contextlib.suppress(QigError):  # it was not begun
            await (finishing or edge.finish(turn))  # once: finishing counts the answer and keeps it
        raise
    except Exception as error:  # noqa: BLE001 -- carried to the reader, which raises it
        await news.put(error)


async def unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    """The work's result. Raises Gone, with the work cancelled, when the client goes away first."""
    task, gone = asyncio.ensure_future(work), asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def events(first: Told | None, news: AsyncGenerator[Told | None], shape: Shape) -> AsyncGenerator[bytes]:
    """Server-sent events of one request's news, whose first was taken already."""
    ended: dict[int, Answer] = {}
    async with contextlib.aclosing(news):
        try:
            for chunk in shape.begin():
                yield _event(chunk)
            one: Told | _End | None = first
            while not isinstance(one, _End):
                if one is None:
                    yield PING
                elif isinstance(one.news, Answer):
                    ended[one.index] = one.news
                    yield _event(shape.end(one.index, one.news))
                else:
                    yield _event(shape.piece(one.index, one.news.text))
                one = await anext(news, _END)
            if (last := shape.usage([ended[index] for index in sorted(ended)])) is not None:
                yield _event(last)
            yield DONE
        except Exception as error:
            refusal = refusal_of(error)
            if refusal.status == 500:
                log.exception("an answer failed in the midst of its stream")
            yield _event(refusal.body)


def _event(data: Chunk) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


class EventStream(Response):
    """A response of server-sent events that ends with its client. Closing the events leaves their turns."""

    def __init__(self, lines: AsyncGenerator[bytes], headers: dict[str, str]) -> None:
        fixed = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(headers=fixed | headers, media_type="text/event-stream")
        del self.headers["content-length"]
        self._lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 -- ASGI's signature
        """Sends until the end, or until nobody reads."""
        with contextlib.suppress(Gone):
            await unless_gone(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with contextlib.aclosing(self._lines):
            async for line in self._lines:
                await send({"type": "http.response.body", "body": line, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
