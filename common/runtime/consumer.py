"""The life of one message, from the stream to "done". Read it top to bottom.

    XADD ──▶ stream ──reader (new entries)──┐
               │  ▲                          ├─▶ take ─▶ turned away? ──▶ finished, many in one script
               │  │                          │           hold: still mine? how often delivered?
               │  └──claimer (entries left ──┘             │ no: somebody else has it, leave it
               │     behind claim_after_s)                 ▼ yes (or new): keep the lease while it waits and runs
               │                            a whole read of new ones? ─▶ handle_read ─▶ finished, many in one script
               │                                │ what it leaves, or whose conditions fail: alone, from here on
               │                            delivered too often? ──▶ dead letter   (it may have killed the process)
               │                            no body? ──────────────▶ dead letter
               │                            decode, handle ─▶ effects ─▶ commit: conditions + XACK + effects, one script
               │                                │ Rejected, Corrupt ──▶ dead letter + XACK, one script; never retried
               │                                │ Unavailable ────────▶ left pending, waits longer each time
               │                                └ anything else ──────▶ left pending; dead after max_deliveries
               └──── finished entries are deleted with their acknowledgement ────┘

The acknowledgement is the token: XACK answers 1 to exactly one of those who race, and only that one's effects happen.
So a handler may run twice (a kill, a lost reply, two replicas), and its effects happen once. A handler that has effects
outside the broker makes those idempotent by `Delivery.entry_id` or by the message's own id.

Handlers of one consumer never overlap in one process, unless it says `at_once`. Work that holds the processor belongs
in `asyncio.to_thread`: it blocks the lease's renewal otherwise, and the entry is given to somebody else.
"""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, Literal, TypeVar

import msgpack  # type: ignore[import-untyped]  # it ships no types
from redis.asyncio import Redis
from redis.exceptions import RedisError

from common.errors import Corrupt, QigError, Rejected, Unavailable
from common.runtime import metrics, scripts, tracing
from common.runtime.causes import Cause
from common.runtime.effects import Effect, follow
from common.runtime.entries import TRACEPARENT, Delivery, Entry, body_of
from common.runtime.logs import bound
from common.wire.codec import pack
from common.wire.fields import LETTER_MAX_BYTES, REASON_MAX_CHARS
from common.wire.messages import DeadLetter

M = TypeVar("M")
log = logging.getLogger(__name__)

CONFLICT_TRIES: Final = 8  # a handler whose conditions fail this often in a row meets heavy traffic: let it rest
LEASES_PER_CLAIM: Final = 3  # two renewals may fail before an entry is given away
# An entry delivered more often may be one that kills the process, and those claimed beside it would be buried for that:
# so nothing is claimed while it runs. Two deaths may come from outside.
SUSPECT_AFTER: Final = 2
TRIED_MAX: Final = 1_000  # remembered: older ones are finished, or somebody else's by now

Outcome = Literal["done", "gone", "lost", "conflict", "rejected", "corrupt", "unavailable", "failed", "dead"]


@dataclass(frozen=True, slots=True)
class Consumer(Generic[M]):
    """One stream read by one group: what to do with each message, and how patiently.

    decode: bytes to a message; raises Rejected. handle: the message's effects; raises by the error tree (errors.py).
    max_records: entries read at once, if they come quickly. claim_after_s: an entry idle this long is taken from
    whoever held it; also the longest pause between two tries. max_deliveries: tries of a message whose handler fails
    with a bug or kills the process. give_up_after_s: the age at which an unavailable dependency becomes a dead letter
    (chosen: a day). at_once: handlers that may run at the same time in one process. turn_away: looks at each new
    message before it waits for its turn, given how many are handled or wait here before it; what it returns finishes
    the message, many in one script: to refuse must cost less than to serve. handle_read: handles the new messages of
    one read together, as one handler; gives for each its effects, or None. They are applied in one script, in order,
    each message's whole or not at all. A message whose answer is None, or whose conditions do not hold, is handled
    alone; so is each when it raises, and each that was delivered before: only `handle` says how a message fails. cause:
    a message by its name, for logs and traces.
    """

    stream: str
    group: str
    decode: Callable[[bytes], M]
    handle: Callable[[Delivery, M], Awaitable[Sequence[Effect]]]
    max_records: int = 8
    claim_after_s: float = 5.0
    max_deliveries: int = 5
    retry_first_s: float = 0.1
    give_up_after_s: float = 86_400.0
    at_once: int = 1
    turn_away: Callable[[Delivery, M, int], Sequence[Effect] | None] | None = None
    handle_read: Callable[[Sequence[tuple[Delivery, M]]], Awaitable[Sequence[Sequence[Effect] | None]]] | None = None
    cause: Callable[[Delivery, M], Cause] | None = None


def retry_delay_s(consumer: Consumer[M], deliveries: int) -> float:
    """The pause after the n-th failed try: doubled each time, at most claim_after_s."""
    return min(consumer.claim_after_s, consumer.retry_first_s * 2.0 ** (deliveries - 1))


def wait_delay_s(consumer: Consumer[M], age_s: float) -> float:
    """The pause while a dependency is down: half of the message's age, so tries thin out; no counter is needed."""
    return min(consumer.claim_after_s, max(consumer.retry_first_s, age_s / 2))


def drawn_s(delay_s: float, chance: float) -> float:
    """Half of a pause, and `chance` (drawn from 0..1) of the other half: what failed together isn't tried together."""
    return delay_s * (1.0 + chance) / 2.0


class _Given(Generic[M]):
    """An entry that was read, with its message, which is decoded once."""

    __slots__ = ("_error", "_message", "body", "entry")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.body = body_of(entry.fields)
        self._message: M | None = None
        self._error: Exception | None = None

    def message(self, consumer: Consumer[M]) -> M:
        """Raises what the consumer's decoder raised. Only with a body."""
        assert self.body is not None
        if self._error is not None:
            raise self._error
        if self._message is None:
            try:
                self._message = consumer.decode(self.body)
            except Exception as error:
                self._error = error
                raise
        return self._message

    def is_message(self, consumer: Consumer[M]) -> bool:
        """Whether it has a body, and the decoder takes it."""
        try:
            return self.body is not None and self.message(consumer) is not None
        except Exception:  # noqa: BLE001 -- raised again, where it has its end
            return False

    def delivery(self, stream: str, deliveries: int, ahead_s: float = 0.0) -> Delivery:
        """Only with a body."""
        assert self.body is not None
        beside = self.entry.fields.get(TRACEPARENT, b"")
        return Delivery(stream, self.entry.id, self.entry.at_ms, deliveries, self.body, beside, ahead_s)

    def cause(self, consumer: Consumer[M]) -> Cause | None:
        """What it is called, once it was decoded and if the consumer can tell."""
        if self._message is None or consumer.cause is None:
            return None
        return consumer.cause(self.delivery(consumer.stream, 1), self._message)

    def names(self, consumer: Consumer[M]) -> Mapping[str, str]:
        """What a line in the log says of it."""
        cause = self.cause(consumer)
        return {} if cause is None else cause.names


class Intake(Generic[M]):
    """Takes deliveries of one consumer in this process, `at_once` at the same time."""

    def __init__(
        self,
        redis: Redis,
        consumer: Consumer[M],
        *,
        direct: bool = False,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """direct: what handlers send is published with their commit, not through the outbox (`scripts.commit`). clock:
        seconds since 1970, and may be set; steady: is never set.
        """
        self.consumer = consumer
        self._direct = direct
        self._redis = redis
        self.clock: Final = clock
        self._steady = steady
        self._compared = 0.0, clock() - steady()
        self._chance = chance
        self._room = asyncio.Semaphore(consumer.at_once)
        self._leases: set[_Lease] = set()
        self._renewal: asyncio.Task[None] | None = None
        self._waiting: set[asyncio.Task[Any]] = set()
        self._begun: set[asyncio.Task[Any]] = set()
        self._finishing: set[asyncio.Task[Any]] = set()
        self._closed = False
        ends: tuple[Outcome, ...] = ("done", "rejected", "corrupt", "dead")
        metrics.begin(metrics.HANDLED, *((consumer.stream, outcome) for outcome in ends))
        codes = ("never_finished", "handler_failed", "no_body")
        metrics.begin(metrics.DEAD_LETTERS, *((consumer.stream, code) for code in codes))
        self.tried: deque[str] = deque(maxlen=TRIED_MAX)  # entries that a handler had here and left pending

    def compare(self, asked_s: float, broker_s: float) -> None:
        """The broker's clock said `broker_s` to what was asked at `asked_s` by ours. Ages and deadlines are counted by
        ours, from when the broker took an entry: one that goes wrong must not end the work that others would have done.
        What the way may explain is taken for none of it.
        """
        ahead_s = min(max(asked_s - broker_s, 0.0), self.clock() - broker_s)
        self._compared = ahead_s, self.clock() - self._steady()

    @property
    def ahead_s(self) -> float:
        """How far our clock is ahead of the broker's now, behind it below 0, also where it was set a moment ago."""
        ahead_s, between_s = self._compared
        return ahead_s + (self.clock() - self._steady() - between_s)

    async def take_all(self, holder: str, entries: Sequence[Entry], *, new: bool) -> None:
        """Deliveries of several entries; returns when there is room for more, and what is under suspicion has ended.
        new: nobody was given them before.
        """
        if self._closed:
            return
        read = [_Given[M](entry) for entry in entries]
        if new and self.consumer.turn_away:
            read = self._turn_away(read)
        if not new:
            await self._take_claimed(holder, read)
        elif self.consumer.handle_read and read:
            self._start(self._take_read(holder, read), f"read {len(read)}")
        else:
            self._take_each(holder, read)
        while len(self._waiting) + len(self._begun) >= self.consumer.at_once:
            await asyncio.wait(self._waiting | self._begun, return_when=asyncio.FIRST_COMPLETED)

    def _take_each(self, holder: str, read: Sequence[_Given[M]]) -> None:
        # A new entry was delivered once, to us, and just now: to ask would cost a round trip a message. Were it given
        # away meanwhile all the same, the commit decides.
        for given in read:
            self._start(self._take(holder, given, 1), f"entry {given.entry.id}")

    async def _take_claimed(self, holder: str, read: Sequence[_Given[M]]) -> None:
        try:
            delivered = await asyncio.gather(*(self._hold(holder, given.entry) for given in read))
        except RedisError as error:
            log.warning("the broker is away, %d entries stay pending: %s", len(read), error)
            return
        if self._closed:  # meanwhile
            return
        suspects = []
        for given, deliveries in zip(read, delivered, strict=True):
            task = self._start(self._take(holder, given, deliveries), f"entry {given.entry.id}")
            suspects += [task] if deliveries > SUSPECT_AFTER else []
        if suspects:
            await asyncio.wait(suspects)

    def _start(self, work: Coroutine[Any, Any, object], name: str) -> "asyncio.Task[Any]":
        task = asyncio.create_task(work, name=name)
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)
        task.add_done_callback(self._begun.discard)
        return task

    async def close(self) -> None:
        """Let what has begun end, and nothing begin any more; what waits stays pending."""
        self._closed = True
        await self._end(self._waiting)
        await asyncio.gather(*self._begun, *self._finishing, return_exceptions=True)

    async def abandon(self) -> None:
        """As if killed: nothing that has begun is finished."""
        self._closed = True
        await self._end(self._waiting | self._begun | self._finishing | ({self._renewal} if self._renewal else set()))

    async def _end(self, tasks: Iterable["asyncio.Task[Any]"]) -> None:
        doomed = list(tasks)
        for task in doomed:
            task.cancel()
        await asyncio.gather(*doomed, return_exceptions=True)

    def _turn_away(self, read: Sequence[_Given[M]]) -> list[_Given[M]]:
        """What is left of a read. What cannot be decoded is handled, and has its end there."""
        consumer = self.consumer
        assert consumer.turn_away is not None
        left: list[_Given[M]] = []
        away: list[tuple[_Given[M], Sequence[Effect]]] = []
        here = len(self._waiting) + len(self._begun)
        for given in read:
            effects = None
            with suppress(Rejected):
                if given.body is not None:
                    delivery = given.delivery(consumer.stream, 1, self.ahead_s)
                    effects = consumer.turn_away(delivery, given.message(consumer), here + len(left))
            if effects is None:
                left.append(given)
            else:
                away.append((given, effects))
        if away:  # beside the next read
            finishing = asyncio.create_task(self._finish_away(away), name=f"finish {len(away)}")
            self._finishing.add(finishing)
            finishing.add_done_callback(self._finishing.discard)
        return left

    async def _finish_away(self, away: Sequence[tuple[_Given[M], Sequence[Effect]]]) -> None:
        try:
            await self._finish(away)  # where its message cannot go an entry stays pending; taken alone it is told why
        except RedisError as error:
            log.warning("the broker is away, %d entries stay pending: %s", len(away), error)

    async def _finish(
        self, handled: Sequence[tuple[_Given[M], Sequence[Effect]]], began_ns: int | None = None
    ) -> list[_Given[M]]:
        """Commits each with its effects; those that were not, and are still here to be handled. began_ns: when."""
        consumer = self.consumer
        wanted = [(given.entry.id, effects) for given, effects in handled]
        found = await scripts.finish(self._redis, consumer.stream, consumer.group, wanted, direct=self._direct)
        for outcome in ("done", "gone"):
            metrics.HANDLED.labels(consumer.stream, outcome).inc(found.count(outcome))
        for (given, effects), done in zip(handled, found, strict=True):
            if done == "done":
                follow(effects)
            if done == "done" and tracing.on():
                with tracing.taken(consumer.stream, given.entry.id, partial(given.cause, consumer), began_ns=began_ns):
                    tracing.sent(effects)
        return [given for (given, _), done in zip(handled, found, strict=True) if done not in ("done", "gone")]

    async def _take_read(self, holder: str, read: Sequence[_Given[M]]) -> None:
        """The new entries of one read together. Never raises but when it is cancelled."""
        with bound(stream=self.consumer.stream), self._lease(holder, read) as leases:
            async with self._room:
                mine = [given for given, lease in zip(read, leases, strict=True) if not lease.lost]
                self._begin()
                alone = await self._handle_read(holder, mine)
            if not self._closed:
                self._take_each(holder, alone)

    async def _handle_read(self, holder: str, read: Sequence[_Given[M]]) -> Sequence[_Given[M]]:
        """Those that are to be handled alone: only there a message fails."""
        consumer = self.consumer
        assert consumer.handle_read is not None
        began_ns = time.time_ns()
        asked: list[_Given[M]] = []
        alone: list[_Given[M]] = []
        for given in read:
            (asked if given.is_message(consumer) else alone).append(given)
        try:
            pairs = [(given.delivery(consumer.stream, 1, self.ahead_s), given.message(consumer)) for given in asked]
            answers = await consumer.handle_read(pairs) if pairs else []
            answered = list(zip(asked, answers, strict=True))
            handled = [(given, effects) for given, effects in answered if effects is not None]
            left = await self._finish(handled, began_ns) if handled else []
        except (Unavailable, RedisError) as error:
            # A commit whose reply was lost may have been made: whoever claims what is then still there is not misled.
            await asyncio.gather(*(self._wait_pending(holder, given.entry, error) for given in asked))
            return alone
        except Exception:  # the border where a bug becomes a retry
            log.exception("%d entries are handled alone, together they failed", len(asked))
            return read
        return [*alone, *(given for given, effects in answered if effects is None), *left]

    async def _wait_pending(self, holder: str, entry: Entry, error: Exception) -> None:
        with suppress(RedisError):  # it is pending, and claimed later
            outcome = await self._wait(holder, entry, 1, error)
            metrics.HANDLED.labels(self.consumer.stream, outcome).inc()

    async def _take(self, holder: str, given: _Given[M], deliveries: int) -> Outcome:
        """One delivery of an entry to the group's consumer `holder`. Never raises but when it is cancelled."""
        about = partial(given.names, self.consumer)
        with bound(about, stream=self.consumer.stream, entry=given.entry.id):
            try:
                outcome = await self._while_held(holder, given, deliveries) if deliveries else "lost"
            except RedisError as error:  # the broker went away under us: the entry is pending there, and claimed later
                log.warning("the broker is away, the entry stays pending: %s", error)
                self.tried.append(given.entry.id)
                outcome = "unavailable"
            metrics.HANDLED.labels(self.consumer.stream, outcome).inc()
            return outcome

    async def _while_held(self, holder: str, given: _Given[M], deliveries: int) -> Outcome:
        with self._lease(holder, [given]) as (lease,):
            async with self._room:
                if lease.lost:  # while it waited: whoever has it now is not helped by a second handler
                    return "lost"
                self._begin()
                return await self._decide(holder, given, deliveries)

    def _begin(self) -> None:
        task = asyncio.current_task()
        if task in self._waiting:
            self._waiting.discard(task)
            self._begun.add(task)

    async def _decide(self, holder: str, given: _Given[M], deliveries: int) -> Outcome:
        limit = self.consumer.max_deliveries
        entry = given.entry
        if deliveries > limit:  # looked at before the handler runs: this message may be what killed the process
            reason = f"delivered {deliveries} times and never finished; the limit is {limit}"
            return await self._bury(entry, deliveries, "never_finished", reason, "dead")
        if given.body is None:
            return await self._bury(entry, deliveries, "no_body", _no_body(entry), "rejected")
        return await self._judge(holder, given, deliveries)

    async def _judge(self, holder: str, given: _Given[M], deliveries: int) -> Outcome:
        entry = given.entry
        try:
            return await self._handle(holder, given, deliveries)
        except Rejected as error:
            return await self._bury(entry, deliveries, error.code, error.message, "rejected")
        except Corrupt as error:
            log.error("corrupt: %s", error)  # noqa: TRY400 -- the data's fault: a traceback of ours says nothing
            return await self._bury(entry, deliveries, error.code, error.message, "corrupt")
        except (Unavailable, RedisError) as error:
            return await self._wait(holder, entry, deliveries, error)
        except Exception as error:  # the border where a bug becomes a retry
            log.exception("the handler failed, delivery %d of %d", deliveries, self.consumer.max_deliveries)
            if deliveries >= self.consumer.max_deliveries:
                return await self._bury(entry, deliveries, "handler_failed", repr(error), "dead")
            await self._retry_in(holder, entry, retry_delay_s(self.consumer, deliveries))
            return "failed"

    async def _handle(self, holder: str, given: _Given[M], deliveries: int) -> Outcome:
        consumer = self.consumer
        message = given.message(consumer)
        delivery = given.delivery(consumer.stream, deliveries, self.ahead_s)
        with tracing.taken(consumer.stream, given.entry.id, partial(given.cause, consumer)):
            for _ in range(CONFLICT_TRIES):
                wanted = await consumer.handle(delivery, message)
                token = (consumer.group, given.entry.id)
                done = await scripts.commit(self._redis, consumer.stream, wanted, entry=token, direct=self._direct)
                if done == "done":
                    tracing.sent(wanted)
                    follow(wanted)
                if done != "conflict":
                    return done
        await self._retry_in(holder, given.entry, consumer.retry_first_s, delivered=deliveries - 1)
        return "conflict"

    async def _wait(self, holder: str, entry: Entry, deliveries: int, error: Exception) -> Outcome:
        age_s = self.clock() - self.ahead_s - entry.at_ms / 1000
        if age_s > self.consumer.give_up_after_s:
            code = error.code if isinstance(error, QigError) else "broker_refused"
            return await self._bury(entry, deliveries, code, f"not available for {age_s:.0f} s: {error}", "dead")
        log.warning("not available, tried again later: %s", error)
        # This delivery is not the message's fault: it is taken off the count that ends in a dead letter.
        await self._retry_in(holder, entry, wait_delay_s(self.consumer, age_s), delivered=deliveries - 1)
        return "unavailable"

    async def _retry_in(self, holder: str, entry: Entry, delay_s: float, delivered: int | None = None) -> None:
        """Let the claimer have it in `delay_s` or less: it counts as idle for the rest of the claim time already."""
        self._leases -= {lease for lease in self._leases if (lease.holder, lease.entry.id) == (holder, entry.id)}
        self.tried.append(entry.id)
        idle_s = self.consumer.claim_after_s - drawn_s(delay_s, self._chance())
        await self._hold(holder, entry, idle_s=idle_s, delivered=delivered)

    async def _bury(self, entry: Entry, deliveries: int, code: str, reason: str, outcome: Outcome) -> Outcome:
        consumer = self.consumer
        body = body_of(entry.fields)
        letter = DeadLetter(
            stream=consumer.stream,
            entry=entry.id,
            code=code,
            reason=reason[:REASON_MAX_CHARS],
            deliveries=deliveries,
            body=(msgpack.packb(dict(entry.fields)) if body is None else body)[:LETTER_MAX_BYTES],
            at_s=self.clock(),
        )
        token = (consumer.group, entry.id)
        done = await scripts.bury(self._redis, consumer.stream, pack(letter), entry=token)
        if done == "gone":
            return "gone"
        log.warning("dead letter, %s: %s", code, reason[:REASON_MAX_CHARS])
        metrics.DEAD_LETTERS.labels(consumer.stream, code).inc()
        return outcome

    async def _hold(self, holder: str, entry: Entry, *, idle_s: float = 0.0, delivered: int | None = None) -> int:
        mine = (self.consumer.group, holder)
        return await scripts.hold(
            self._redis, self.consumer.stream, mine, entry.id, idle_s=max(0.0, idle_s), delivered=delivered
        )

    @contextmanager
    def _lease(self, holder: str, read: Sequence[_Given[M]]) -> Iterator[list["_Lease"]]:
        """While entries wait and are handled here they do not look abandoned, however long that takes."""
        leases = [_Lease(holder, given.entry) for given in read]
        self._leases.update(leases)
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self._renew(), name=f"leases {self.consumer.stream}")
        try:
            yield leases
        finally:
            self._leases.difference_update(leases)

    async def _renew(self) -> None:
        """Renews every lease until there is none: one task, however many handlers run."""
        while self._leases:
            await asyncio.sleep(self.consumer.claim_after_s / LEASES_PER_CLAIM)
            await asyncio.gather(*map(self._renew_one, list(self._leases)))  # side by side: few round trips

    async def _renew_one(self, lease: "_Lease") -> None:
        if lease not in self._leases:  # it ended meanwhile
            return
        with suppress(RedisError):  # the next renewal may come through; if none does, the commit decides
            lease.lost = await self._hold(lease.holder, lease.entry) == 0


@dataclass(slots=True, eq=False)
class _Lease:
    """An entry that waits or is handled here; the claimer beside us may have another of the same entry."""

    holder: str
    entry: Entry
    lost: bool = False


def _no_body(entry: Entry) -> str:
    names = ", ".join(sorted(name[:32].decode("utf-8", "replace") for name in entry.fields)[:8])
    return f"no message in the entry: the field __data__ is missing, it has {names or 'none'}"
