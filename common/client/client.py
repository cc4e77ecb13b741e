"""A fleet as a program sees it: ask, stream, cancel, watch; through outages, with nothing lost and nothing said twice.

    async with Client("redis://127.0.0.1:6379", name="kiosk-7") as client:
        answer = await client.ask("Where does the river go?")
        reply = client.stream("And the sea?", max_tokens=64)
        async for piece in reply:                      # leaving early cancels the query; so does cancelling an `ask`
            print(piece.text, end="")
        print(reply.answer.kappa)

                ┌── publish by id ──▶ qig:queries ───────▶ edge
    ask, stream ┤◀── pieces, answer ── qig:answers:NAME ◀──┤      each stream is followed from the last entry seen:
                │◀── the reason ────── {qig:queries}:dead ◀┘      after an outage it goes on there
                └── left early ─────▶ qig:cancel

Any number of queries may be open; they share three connections. A query is published by its id, so a publication whose
reply was lost is not made twice, and a program that was restarted may ask again under the id it used: it is given the
answer that is there, or is on its way. Ids are remembered for a week, answers are kept for a day.
"""

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self, TypedDict, Unpack, cast

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError

from common.client.draft import Draft, complaint, ending, extended
from common.errors import QigError, Rejected, Unavailable
from common.runtime import lanes, rights, scripts, streams, tracing
from common.runtime.connection import AWAY, BACKOFF_MAX_S, connect, greet, passes
from common.runtime.entries import Delivery, body_of
from common.runtime.follower import ONLY_NEW, Follower, follow, kept, newest
from common.runtime.health import Health
from common.runtime.settings import redacted, user_of
from common.wire.codec import pack, unpack, unpack_reply, validated
from common.wire.fields import Mode
from common.wire.inference import Answer, Cancel, Piece, Query
from common.wire.messages import Applied, Bundle, DeadLetter, Heartbeat

log = logging.getLogger(__name__)

RETRIES: Final = 6  # a cut connection is made anew within half a second; what lasts longer is waited out by `_publish`
CANCEL_TIMEOUT_S: Final = 2.0  # who leaves does not wait for a broker that is away: the edge then works in vain
DEAD_LOOKED_AT: Final = 64  # of the letters that were there before: the one of a query that is asked again is new
WATCH_AHEAD: Final = 256  # messages read and not yet taken; a slower watcher is read for more slowly

News = Heartbeat | Bundle | Applied
_NEWS: Final[dict[str, type[News]]] = {
    streams.HEART: Heartbeat,
    streams.BUNDLES: Bundle,
    streams.APPLIED: Applied,
}


class Wishes(TypedDict, total=False):
    """What may be said of a query besides its text: the fields of `Query`, which has their defaults and bounds."""

    id: str
    max_tokens: int
    temperature: float
    top_p: float
    stop: tuple[str, ...]
    seed: int | None
    deadline_s: float | None
    mode: Mode
    store: bool


@dataclass(slots=True, eq=False)
class _Asked:
    """A query that is open. pieces: come, and not yet taken; outcome: what it ended with; news: something came, or the
    publication ended.
    """

    query: Query
    body: bytes
    draft: Draft = field(default_factory=Draft)
    pieces: deque[Piece] = field(default_factory=deque)
    outcome: Answer | QigError | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)
    publishing: asyncio.Task[None] | None = None

    def hear(self, piece: Piece) -> None:
        longer = extended(self.draft, piece)
        if longer is None or self.outcome is not None:
            return
        if piece.index == 0:
            self.pieces.clear()  # the text begins anew: what was not yet taken of the old one is void
        self.draft = longer
        self.pieces.append(piece)
        self.news.set()

    def end(self, outcome: Answer | QigError) -> None:
        self.outcome = self.outcome or outcome
        self.news.set()


class Reply:
    """A query and what comes back for it. Iterating over it asks, and gives the pieces; then `answer` is there.

    The text of the pieces since the last with index 0 is the answer's text: a piece with index 0 that is not the first
    says that another edge took the query over, and begins anew. Leaving the iteration early cancels the query.
    """

    def __init__(self, query: Query, say: Callable[[Query], AsyncGenerator[Piece | Answer, None]]) -> None:
        self.query = query
        self._say = say
        self._answer: Answer | None = None

    @property
    def answer(self) -> Answer:
        """The whole answer with its evidence; there when the pieces have ended."""
        assert self._answer is not None, "the answer comes after the last piece: iterate to the end first"
        return self._answer

    async def __aiter__(self) -> AsyncIterator[Piece]:
        """Raises as `Client.ask`."""
        async with aclosing(self._say(self.query)) as said:
            async for each in said:
                if isinstance(each, Answer):
                    self._answer = each
                else:
                    yield each


class Client:
    """One client of a fleet. Use it as a context manager: leaving it cancels at the edges what is still open."""

    def __init__(self, url: str, *, name: str | None = None) -> None:
        """url: the broker's. name: the client's, a slug; None: one of its own, whose answers go when it leaves. With a
        user in the url (docs/broker.md) the name is that user's, or begins with it and a point; one that we choose
        does so only where the user's name is a slug, which that of a managed server need not be.

        Raises Rejected("bad_url").
        """
        try:
            self._redis: Redis = connect(url, RETRIES)
        except ValueError as error:
            raise Rejected("bad_url", f"no broker address: {error}") from None
        self.name = name or _passing_name(user_of(url))
        self._answers = streams.answers(self.name)
        self._passing = name is None
        self._sees_all = True
        self._url = url
        self._open: dict[str, _Asked] = {}
        self._turn = asyncio.Lock()  # publications share one connection, however many are asked at once
        self._readers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Raises Unavailable("broker_away"), Rejected("broker_refused")."""
        dead = streams.dead(streams.QUERIES)
        try:
            async with connect(self._url, retries=0) as first:
                await greet(first, self._url)
                followers = [Follower(self._answers, await newest(first, self._answers), self._on_reply)]
                try:
                    followers.append(Follower(dead, await newest(first, dead), self._on_letter))
                except NoPermissionError:  # others' queries lie there: with a client's rights its own are all it sees
                    self._sees_all = False
        except NoPermissionError as error:
            message = f"the broker at {redacted(self._url)} does not let us read {self._answers}: {error}"
            raise Rejected("broker_refused", f"{message}; a client's name is its user's, or USER.anything") from None
        except AWAY as error:
            message = (
                f"no broker answers at {redacted(self._url)} ({error}): start one with `qig up`, or correct the address"
            )
            raise Unavailable("broker_away", message) from None
        self._readers = [asyncio.create_task(follow(self._redis, each, Health())) for each in followers]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        readers, self._readers = self._readers, []
        await _end(readers)
        left = [asked for asked in self._open.values() if asked.outcome is None]
        self._open.clear()
        for asked in left:
            asked.end(_left_client())
        await _end([asked.publishing for asked in left if asked.publishing is not None])
        await asyncio.gather(*(self._cancel(asked.query) for asked in left))
        if self._passing:
            with suppress(RedisError, TimeoutError):
                async with asyncio.timeout(CANCEL_TIMEOUT_S):
                    await self._redis.delete(self._answers, streams.seen(self._answers))
        await lanes.end(self._redis)
        await self._redis.aclose()

    async def ask(self, text: str, **wishes: Unpack[Wishes]) -> Answer:
        """The answer to `text`. Cancelling the task that waits cancels the query at the edge.

        With deadline_s it gives up then, and so does the edge; without, it waits for as long as it takes. Raises
        Rejected with the reason when the query is refused or became a dead letter, Unavailable when asking again may
        help ("no_answer" at the deadline; "answer_gone" for an id of more than a day ago: under another; what an edge
        says, with its retry_after_s). Outages are waited out, and so is a stream of queries that is full.
        """
        async with aclosing(self._say(self._query(text, wishes))) as said:
            async for each in said:
                if isinstance(each, Answer):
                    return each
        raise AssertionError("what is said ends with an answer, or raises")

    def stream(self, text: str, **wishes: Unpack[Wishes]) -> Reply:
        """The answer to `text`, piece by piece; the query is published when the iteration begins. Raises Rejected."""
        return Reply(self._query(text, {**wishes, "stream": True}), self._say)

    async def watch(self, *, after: str = ONLY_NEW) -> AsyncIterator[News]:
        """Heartbeats, bundles and edges' verdicts as they come, for ever; through outages.

        after: an entry id, which begins with milliseconds since 1970: what came later and is still kept comes first
        ("0-0": all that is). Signatures are not checked: see common.wire.bundle.verify.

        Raises Rejected("broker_refused") with a client's rights: the fleet's news is not for it.
        """
        if not self._sees_all:
            message = f"{redacted(self._url)} does not let a client watch the fleet: the operator's address does"
            raise Rejected("broker_refused", message)
        news: asyncio.Queue[News] = asyncio.Queue(WATCH_AHEAD)

        def teller(cls: type[News]) -> Callable[[Delivery], Awaitable[None]]:
            return lambda delivery: news.put(unpack(cls, delivery.body))

        followers = [Follower(stream, after, teller(cls)) for stream, cls in _NEWS.items()]
        readers = [asyncio.create_task(follow(self._redis, each, Health())) for each in followers]
        self._readers += readers
        taking = asyncio.create_task(news.get())
        try:
            while True:
                await asyncio.wait([taking, *readers], return_when=asyncio.FIRST_COMPLETED)
                if not taking.done():
                    raise _left_client()
                told = taking.result()
                taking = asyncio.create_task(news.get())
                yield told
        finally:
            taking.cancel()
            await _end(readers)
            self._readers = [reader for reader in self._readers if reader not in readers]

    def _query(self, text: str, wishes: Any) -> Query:
        name = wishes.get("id") or f"q-{secrets.token_hex(8)}"
        return validated(Query, {**wishes, "text": text, "client": self.name, "id": name})

    async def _say(self, query: Query) -> AsyncGenerator[Piece | Answer, None]:
        """Publish the query, and say what comes: pieces if it asks for them, then the answer."""
        assert query.id is not None
        assert self._readers, "nobody reads the answers: use the client as a context manager"
        if query.id in self._open:
            msg = f"query {query.id} of {self.name} is open: wait for its answer, or choose another id"
            raise ValueError(msg)
        asked = self._open[query.id] = _Asked(query, pack(query))
        loop = asyncio.get_running_loop()
        until = None if query.deadline_s is None else loop.time() + query.deadline_s
        publishing = asked.publishing = asyncio.create_task(self._publish(asked))
        publishing.add_done_callback(lambda _: asked.news.set())
        try:
            while True:
                asked.news.clear()
                while asked.pieces:
                    yield asked.pieces.popleft()
                if asked.outcome is not None:
                    break
                if publishing.done():
                    publishing.result()
                await _in_time(asked.news.wait(), query, until)
            if isinstance(asked.outcome, QigError):
                raise asked.outcome
            if query.stream:
                for piece in ending(asked.draft, asked.outcome):
                    yield piece
            yield asked.outcome
        finally:
            await _end([publishing])
            await self._leave(asked)

    async def _publish(self, asked: _Asked) -> None:
        """It lasts as long as an outage does, or the stream is full: who waits no more cancels it. What the broker does
        not take ("broker_full", "broker_refused") is not cancelled: it may be asked again under its id.
        """
        assert asked.query.id is not None
        while True:
            try:
                async with self._turn:
                    name = f"{self.name}:{asked.query.id}"
                    ours = tracing.traceparent()
                    entry = await scripts.publish(self._redis, streams.QUERIES, asked.body, name, traceparent=ours)
                    if entry is None:  # it was there: from an earlier life, or the reply was lost
                        under_way = await self._is_under_way(asked.query)
                        await self._catch_up()
                        if not under_way:
                            asked.end(_answer_gone(asked.query))
            except RedisError as error:
                untold = lanes.is_untold(error)
                if not passes(error) and not untold:
                    asked.end(Unavailable("broker_refused", f"the broker does not take the query: {error}"))
                    return
                why = (
                    "no service has told the new broker how to take queries yet"
                    if untold
                    else f"the broker is away: {error}"
                )
                log.warning("query %s waits, %s", asked.query.id, why)
                await asyncio.sleep(BACKOFF_MAX_S)
            except Unavailable as error:
                if error.code != "stream_full":
                    asked.end(error)
                    return
                log.warning("query %s waits: %s", asked.query.id, error)
                await asyncio.sleep(scripts.FULL_RETRY_S)
            else:
                return

    async def _is_under_way(self, query: Query) -> bool:
        """Whether an edge has yet to answer it, or its answer is yet to be relayed. Where not, the answer is in its
        stream now, or gone: so this is asked before that is looked through. With a client's rights it is not known.
        """
        if not self._sees_all:
            return True
        async for entry in kept(self._redis, streams.QUERIES):
            with suppress(Rejected):
                waiting = unpack(Query, body_of(entry.fields) or b"")
                if (waiting.client, waiting.id) == (self.name, query.id):
                    return True
        relayed = (self._answers.encode(), str(query.id).encode())
        outbox = kept(self._redis, streams.outbox(streams.QUERIES))
        return any([(entry.fields.get(b"stream"), entry.fields.get(b"id")) == relayed async for entry in outbox])

    async def _catch_up(self) -> None:
        """Hear what lies in the streams already: a query that was published before may have ended before."""
        async for entry in kept(self._redis, self._answers):
            with suppress(Rejected):
                self._note(unpack_reply(body_of(entry.fields) or b""))
        if not self._sees_all:
            return
        rows = await self._redis.xrevrange(streams.dead(streams.QUERIES), count=DEAD_LOOKED_AT)
        for _, fields in cast("list[tuple[bytes, dict[bytes, bytes]]]", rows):
            with suppress(Rejected):
                self._bury(unpack(DeadLetter, body_of(fields) or b""))

    async def _leave(self, asked: _Asked) -> None:
        """Nobody waits for it any more; if it is not answered yet, its edge may stop."""
        if self._open.pop(asked.query.id or "", None) is not None and asked.outcome is None:
            await self._cancel(asked.query)

    async def _cancel(self, query: Query) -> None:
        """Scripts go in the order in which they are called: a publication on its way is followed by its cancel."""
        cancel = pack(Cancel(query_id=query.id or "", client=self.name))
        with suppress(RedisError, TimeoutError, Unavailable):
            async with asyncio.timeout(CANCEL_TIMEOUT_S):
                await scripts.publish(self._redis, streams.CANCEL, cancel, f"{self.name}:{query.id}")

    async def _on_reply(self, delivery: Delivery) -> None:
        self._note(unpack_reply(delivery.body))

    async def _on_letter(self, delivery: Delivery) -> None:
        self._bury(unpack(DeadLetter, delivery.body))

    def _note(self, reply: Piece | Answer) -> None:
        asked = self._open.get(reply.query_id)
        if asked is None or reply.client != self.name:
            return
        if isinstance(reply, Piece):
            asked.hear(reply)
        else:
            asked.end(complaint(reply) or reply)

    def _bury(self, letter: DeadLetter) -> None:
        for asked in self._open.values():
            if asked.body == letter.body:
                reason = f"the query could not be handled: {letter.reason}; see `qig dead list`"
                asked.end(Rejected(letter.code, reason))


async def _in_time(work: Awaitable[object], query: Query, until: float | None) -> None:
    """Raises Unavailable("no_answer") when the work is not done by then, of the loop's clock."""
    try:
        async with asyncio.timeout_at(until):
            await work
    except TimeoutError:
        raise Unavailable("no_answer", f"no answer within {query.deadline_s:g} s") from None


def _answer_gone(query: Query) -> Unavailable:
    message = f"query {query.id} was asked before, and its answer is no longer kept: ask again under another id"
    return Unavailable("answer_gone", message)


def _passing_name(user: str | None) -> str:
    """One of its own, of the user's family where there is a user whose name may stand in one."""
    token = secrets.token_hex(8)
    own = f"{user}{rights.FAMILY}{token}"
    return own if user and streams.is_client(own) else f"client{rights.FAMILY}{token}"


def _left_client() -> Unavailable:
    return Unavailable("client_closed", "the client was left while somebody waited for more: keep it open for as long")


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
