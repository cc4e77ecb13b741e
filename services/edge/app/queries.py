"""Queries by stream and from this process: scheduled, answered once, told in pieces, cancelled, recorded."""

import asyncio
import itertools
import logging
import pkgutil
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from common.constants import KAPPA_WINDOW_TOKENS, PHASES, ROLES, Role
from common.errors import Corrupt, QigError, Rejected, Unavailable
from common.geometry.phases import DIVERGED
from common.runtime import causes, metrics, streams, tracing
from common.runtime.causes import Cause
from common.runtime.effects import Effect, Send, Then
from common.runtime.entries import Delivery
from common.wire.codec import pack, unpack
from common.wire.fields import PIECE_MAX_CHARS
from common.wire.inference import Answer, Cancel, Piece, Problem, Query
from services.edge.answer import UNKNOWN, Answered, Serving, conclude, measured, refusal
from services.edge.app.health import Health
from services.edge.app.node import Node
from services.edge.generation import Generation
from services.edge.local import TERRITORY
from services.edge.redaction import redacted, redactor
from services.edge.scheduler import Scheduler, Turn
from services.edge.sleep import is_probe

log = logging.getLogger(__name__)

QUERIES_READ: Final = 128  # chosen: at once. Refusing many costs little more than one
ACTIVE_MAX: Final = 32  # chosen: queries answered at once, each with a megabyte or four of caches
WAITING_MAX: Final = 64  # chosen: at 32 tokens each they wait about a second
TOO_LATE: Final = "deadline"
CANCELLED: Final = "cancelled"
LATE_FACTOR: Final = 3.0  # chosen: of the expected time. Under load what is begun with less often ends too late
CANCELS_KEPT: Final = 1_000  # as many as the stream keeps
RETRY_MIN_S: Final = 1.0
PROOF: Final = Query(id="proof", client="proof", text="Are you there?", max_tokens=1, store=False)


class Queries:
    """The schedule of one edge, and who waits for what in it."""

    def __init__(self, node: Node, health: Health) -> None:
        """Raises Rejected("bad_setting")."""
        self._node = node
        self._health = health
        self._redact = redactor(node.privacy.redact, pkgutil.resolve_name)
        self._turns: dict[tuple[str, str], Turn] = {}  # asked by stream and not answered, by client and query
        self._cancelled: dict[tuple[str, str], None] = {}  # client and query, the oldest first
        self._keeps = True  # else the disk did not take the last interaction
        self._measuring = threading.Lock()
        self.scheduler = Scheduler(
            self._begin,
            workers=node.settings.workers,
            active_max=ACTIVE_MAX,
            waiting_max=WAITING_MAX,
        )
        metrics.QUEUE.labels("answering").set_function(lambda: self.scheduler.load[0])
        metrics.QUEUE.labels("waiting").set_function(lambda: self.scheduler.load[1])
        metrics.begin(metrics.QUERIES, ("refused",), ("late",))
        metrics.begin(metrics.ANSWER_PHASES, *itertools.product(ROLES, PHASES))

    @property
    def serving(self) -> Serving | None:
        """What answers now."""
        return self._node.serving

    async def on_query(self, delivery: Delivery, query: Query) -> Sequence[Effect]:
        """One query: its answer, computed once and sent once; before it, if it asked to stream, its pieces."""
        query = query if query.id else query.model_copy(update={"id": delivery.entry_id})
        assert query.id is not None
        again = delivery.deliveries > 1  # else, asked twice under one id, it is computed twice and kept once
        known = await self._kept(query.client, query.id) if again else None
        left_s = self._left_s(delivery, query)
        try:
            if known is None and self._begun_too_late(left_s):
                raise self._too_late(query, sum(self.scheduler.load))
            body = known or await self._answer(query, left_s)
        except Unavailable as error:
            if error.code not in (TOO_LATE, CANCELLED):
                raise
            return self._refused(query, error)
        return [Send(streams.answers(query.client), body, query.id)]

    def turn_away(self, delivery: Delivery, query: Query, ahead: int) -> Sequence[Effect] | None:
        """The refusal of a query that cannot be answered in time, before it takes a place; None to answer it. ahead:
        queries that are answered or wait before it.
        """
        if not self._begun_too_late(self._left_s(delivery, query), ahead):
            return None
        query = query if query.id else query.model_copy(update={"id": delivery.entry_id})
        return self._refused(query, self._too_late(query, sum(self.scheduler.load)))

    def _left_s(self, delivery: Delivery, query: Query) -> float | None:
        return None if query.deadline_s is None else delivery.at_s + query.deadline_s - self._node.now()

    def _begun_too_late(self, left_s: float | None, ahead: int = 0) -> bool:
        return left_s is not None and left_s <= LATE_FACTOR * self.scheduler.expected_s(ahead)

    async def on_cancel(self, delivery: Delivery) -> None:
        """A client no longer wants an answer: made here, it ends between two tokens; not yet here, it is not begun."""
        wanted = unpack(Cancel, delivery.body)
        name = (wanted.client, wanted.query_id)
        self._cancelled[name] = None
        if len(self._cancelled) > CANCELS_KEPT:
            del self._cancelled[next(iter(self._cancelled))]
        turn = self._turns.get(name)
        if turn is not None:
            turn.leave()

    def ask(self, query: Query) -> Turn:
        """Puts a query with an id into the schedule; `finish` waits for its answer.

        Raises Unavailable: "no_bundle", and "overloaded" with the time after which to ask again.
        """
        assert query.id is not None
        if self._node.serving is None:
            raise Unavailable("no_bundle", "no bundle has come yet: the query waits")
        self._node.asked_s = self._node.now()
        return self.scheduler.submit(query, query.id)

    async def finish(self, turn: Turn) -> bytes:
        """The packed answer of a turn, with its interaction on disk where that takes it; an earlier computation's, if
        there was one.

        Raises what making it raised: Rejected for a text that cannot be coordized, Unavailable for one that was left.
        """
        try:
            done = await turn.result()
        except Exception as error:
            if not isinstance(error, QigError) or error.code == DIVERGED:
                self._health.failed(f"{turn.query.client} {turn.name}")
            raise
        self._health.answered(done.answer)
        self._node.last[done.answer.domain or TERRITORY] = done.answer
        phi_n = self._node.gauges.get(done.answer.kernel or "", UNKNOWN).moments.n
        self._node.live.answered(done.answer, self._node.now(), phi_n)
        body = await self._keep(done)
        _show_answer(done.answer)
        return body

    async def _answer(self, query: Query, left_s: float | None) -> bytes:
        """The packed answer of a query that came by stream. left_s: until its deadline. Raises as `finish`."""
        turn = self._schedule(query)
        timer = asyncio.get_running_loop().call_later(left_s, self._expire, turn) if left_s is not None else None
        try:
            if query.stream:
                await self._send_pieces(turn)
            return await self.finish(turn)
        except Rejected as error:
            if await self._node.broker.produce(streams.answers(query.client), self._refusal(query, error), turn.name):
                metrics.QUERIES.labels("refused").inc()
            raise  # the consumer buries the query with the same reason
        finally:
            if timer is not None:
                timer.cancel()
            if self._turns.get(name := (query.client, turn.name)) is turn:
                del self._turns[name]

    def _schedule(self, query: Query) -> Turn:
        """A turn that cancels can find."""
        turn = self.ask(query)
        self._turns[query.client, turn.name] = turn
        if (query.client, turn.name) in self._cancelled:  # the two streams are read apart: a cancel may come first
            turn.leave()
        return turn

    def _expire(self, turn: Turn) -> None:
        error = self._too_late(turn.query, sum(self.scheduler.load) - 1)
        turn.leave(Problem(code=error.code, message=error.message, retry_after_s=error.retry_after_s))

    def _too_late(self, query: Query, others: int) -> Unavailable:
        """others: queries in work or waiting here besides this one."""
        wait_s = self.scheduler.expected_s()
        why = (
            "the fleet is busy; ask again later" if others else "the deadline is too short; ask again with a longer one"
        )
        message = f"not answered within its deadline of {query.deadline_s:g} s: {why}"
        return Unavailable(TOO_LATE, message, retry_after_s=max(wait_s, RETRY_MIN_S))

    async def _send_pieces(self, turn: Turn) -> None:
        """What is said, as it is said. A piece that cannot be sent is lost; the answer has the whole text."""
        client, index = turn.query.client, 0
        async for said in turn.pieces():
            for start in range(0, len(said.text), PIECE_MAX_CHARS):
                piece = Piece(
                    query_id=turn.name,
                    client=client,
                    node=self._node.settings.node,
                    index=index,
                    text=said.text[start : start + PIECE_MAX_CHARS],
                    tokens=said.tokens if start == 0 else 0,
                )
                index += 1
                told = self._node.broker.tell(streams.answers(client), pack(piece))
                if not turn.ended:  # else the answer goes with the same trip, behind it
                    await asyncio.wait([told])

    def _refused(self, query: Query, error: QigError) -> list[Effect]:
        assert query.id is not None
        sent = Send(streams.answers(query.client), self._refusal(query, error), query.id)
        outcome = CANCELLED if error.code == CANCELLED else "refused"
        return [sent, Then(metrics.QUERIES.labels(outcome).inc)]

    def _refusal(self, query: Query, error: QigError) -> bytes:
        return pack(refusal(self._node.serving, query, node=self._node.settings.node, error=error))

    async def _keep(self, done: Answered) -> bytes:
        """The packed answer, with its interaction on disk; an earlier computation's, if there was one. A disk that is
        full or damaged is no fault of the query's, and keeps no answer from its client: then nothing is kept of it.
        """
        body, each = pack(done.answer), done.interaction
        if each is None:
            return body
        probe = is_probe(each.client, each.query_id, self._node.settings.probe_share)
        kept = body if await asyncio.to_thread(self._is_clean, done.answer.text) else b""
        try:
            new = await asyncio.to_thread(self._node.record.texts.add, each, kept, probe=probe)
        except (Unavailable, Corrupt) as error:
            if self._keeps:
                log.error("answers are given, and nothing is kept or learned: %s", error)  # noqa: TRY400 -- the disk's
            self._keeps = False
            return body
        self._keeps = True
        return body if new else await self._kept(each.client, each.query_id) or body

    async def _kept(self, client: str, query_id: str) -> bytes | None:
        """The answer that was given before, as far as the disk can tell: else it is computed again."""
        with suppress(Unavailable, Corrupt):
            return await asyncio.to_thread(self._node.record.texts.answer_to, client, query_id)
        return None

    def _redacted(self, serving: Serving, done: Answered) -> Answered:
        """With what may be kept of the interaction. Nothing, when the operator's function fails."""
        if done.interaction is None:
            return done
        try:
            kept = redacted(serving.constellation, done.interaction, self._redact)
        except Rejected as error:
            log.error("nothing is kept of a query: %s", error)  # noqa: TRY400 -- the operator's fault
            kept = None
        return replace(done, interaction=kept)

    def _is_clean(self, said: str) -> bool:
        """Whether an answer may be kept. One that may not is computed again should its query come again: with the same
        seed, to the same text.
        """
        try:
            return self._redact(said) == said
        except Rejected as error:
            log.error("an answer is not kept: %s", error)  # noqa: TRY400 -- the operator's fault
            return False

    def _begin(self, query: Query, name: str) -> "_Making":
        """On a worker's thread: the prompt is read by what serves now, and so is the rest, whatever is swapped in."""
        serving = self._node.serving
        assert serving is not None, "ask looked"
        return _Making(self, serving, Generation(serving.answering, query, name, tracing.span), time.time_ns())

    def conclude(self, serving: Serving, generation: Generation, seconds: float, problem: Problem | None) -> Answered:
        """On a worker's thread: measured with all others, one after the other."""
        with self._measuring:
            gauges = measured(generation, self._node.gauges)
            if generation.query is not PROOF:  # what this edge asks itself says nothing of what it is asked
                self._node.gauges = gauges
                self._health.measured(serving, generation)
        done = conclude(serving, generation, gauges, at_s=self._node.now(), seconds=seconds, problem=problem)
        return self._redacted(serving, done)


@dataclass(frozen=True, slots=True)
class _Making:
    """A generation as the scheduler works on it. began_ns: when the prompt was read, since 1970."""

    queries: Queries
    serving: Serving
    generation: Generation
    began_ns: int

    @property
    def tokens(self) -> int:
        return self.generation.tokens

    @property
    def ended(self) -> bool:
        return self.generation.ended

    def say(self, tokens: int) -> str:
        return self.generation.say(tokens)

    @property
    def kernel(self) -> Role:
        return self.generation.heard.role

    def conclude(self, seconds: float, problem: Problem | None) -> Answered:
        about = {"qig.kernel": self.kernel, "qig.tokens": self.tokens, "qig.bundle": self.serving.bundle}
        if self.tokens:  # it has ended; between its slices others were said
            with tracing.span("generate", began_ns=self.began_ns, about=about):
                pass
        with tracing.span("conclude"):
            return self.queries.conclude(self.serving, self.generation, seconds, problem)


def cause_of(delivery: Delivery, query: Query) -> Cause:
    """A query by its name, in its asker's trace where that came with it."""
    return causes.query(query.client, query.id or delivery.entry_id, delivery.traceparent)


def _show_answer(made: Answer) -> None:
    metrics.QUERIES.labels("late" if made.problem else made.finish).inc()
    metrics.ANSWER_SECONDS.observe(made.seconds)
    metrics.TOKENS.labels("read").inc(made.prompt_tokens)
    metrics.TOKENS.labels("written").inc(made.completion_tokens)
    metrics.show_constellation_phi(made.constellation_phi, made.constellation_phi_p)
    if made.kernel is None:
        return
    metrics.DISTANCE.labels(made.kernel).observe(made.route[0].distance_rad)
    if made.margin_rad is not None:
        metrics.MARGIN.labels(made.kernel).observe(made.margin_rad)
    metrics.show_phi(made.kernel, made.phi, made.phi_p)
    if made.kappa is not None and made.phase is not None:
        metrics.KAPPA.labels(made.kernel).set(made.kappa)
        metrics.show_phase(made.kernel, made.phase)
        if made.completion_tokens >= KAPPA_WINDOW_TOKENS:  # in a shorter one the prompt is held too
            metrics.ANSWER_PHASES.labels(made.kernel, made.phase).inc()
