"""The life of one message, from the stream to "done". Read it top to bottom.

    XADD ──▶ stream ──reader (new entries)──┐
               │  ▲                          ├─▶ take ─▶ turned away? ──▶ finished, many in one script
               │  │                          │           hold: still mine? how often delivered?
               │  └──claimer (entries left ──┘             │ no: somebody else has it, leave it
               │     behind claim_after_s)                 ▼ yes (or new): keep the lease while it waits and runs
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
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeVar

import msgpack  # type: ignore[import-untyped]  # it ships no types
from redis.asyncio import Redis
from redis.exceptions import RedisError

from common.errors import Corrupt, QigError, Rejected, Unavailable
from common.runtime import metrics, scripts
from common.runtime.effects import Effect, Send
from common.runtime.entries import Delivery, Entry, body_of
from common.runtime.logs import bound
from common.wire.codec import pack
from common.wire.fields import MESSAGE_MAX_BYTES, REASON_MAX_CHARS
from common.wire.messages import DeadLetter

M = TypeVar("M")
log = logging.getLogger(__name__)

CONFLICT_TRIES: Final = 8  # a handler whose conditions fail this often in a row meets heavy traffic: let it rest
LEASES_PER_CLAIM: Final = 3  # two renewals may fail before an entry is given away
# An entry delivered more often may be one that kills the process, and those claimed beside it would be buried for that:
# so nothing is claimed while it runs. Two deaths may come from outside.
SUSPECT_AFTER: Final = 2

Outcome = Literal["done", "gone", "lost", "conflict", "rejected", "corrupt", "unavailable", "failed", "dead"]


@dataclass(frozen=True, slots=True)
class Consumer(Generic[M]):
    """One stream read by one group: what to do with each message, and how patiently.

    decode: bytes to a message; raises Rejected. handle: the message's effects; raises by the error tree (errors.py).
    max_records: entries read at once. claim_after_s: an entry idle this long is taken from whoever held it; also the
    longest pause between two tries. max_deliveries: tries of a message whose handler fails with a bug or kills the
    process. give_up_after_s: the age at which an unavailable dependency becomes a dead letter (chosen: a day).
    keep: leave finished entries in the stream, for a stream that followers read as well. at_once: handlers that may run
    at the same time in one process. turn_away: looks at each new message before it waits for its turn, given how
    many are handled or wait here before it; what it returns finishes the message, many in one script: to refuse must
    cost less than to serve.
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
    keep: bool = False
    at_once: int = 1
    turn_away: Callable[[Delivery, M, int], Send | None] | None = None


def retry_delay_s(consumer: Consumer[M], deliveries: int) -> float:
    """The pause after the n-th failed try: doubled each time, at most claim_after_s."""
    return min(consumer.claim_after_s, consumer.retry_first_s * 2.0 ** (deliveries - 1))


def wait_delay_s(consumer: Consumer[M], age_s: float) -> float:
    """The pause while a dependency is down: half of the message's age, so tries thin out; no counter is needed."""
    return min(consumer.claim_after_s, max(consumer.retry_first_s, age_s / 2))


class Intake(Generic[M]):
    """Takes deliveries of one consumer in this process, `at_once` at the same time."""

    def __init__(
        self, redis: Redis, consumer: Consumer[M], *, direct: bool = False, clock: Callable[[], float] = time.time
    ) -> None:
        """direct: what handlers send is published with their commit, not through the outbox (`scripts.commit`)."""
        self.consumer = consumer
        self._direct = direct
        self._redis = redis
        self._clock = clock
        self._room = asyncio.Semaphore(consumer.at_once)
        self._leases: set[_Lease] = set()
        self._renewal: asyncio.Task[None] | None = None
        self._waiting: set[asyncio.Task[Outcome]] = set()
        self._begun: set[asyncio.Task[Outcome]] = set()
        self._finishing: set[asyncio.Task[None]] = set()
        self._closed = False

    async def take_all(self, holder: str, entries: Sequence[Entry], *, new: bool) -> None:
        """Deliveries of several entries; returns when there is room for more, and what is under suspicion has ended.
        new: nobody was given them before.
        """
        if self._closed:
            return
        away = self._turned_away(entries) if new else {}
        # A new entry was delivered once, to us, and just now: to ask would cost a round trip a message. Were it given
        # away meanwhile all the same, the commit decides.
        delivered = [1] * len(entries) if new else await self._delivered(holder, entries)
        if self._closed:  # meanwhile
            return
        suspects = set()
        for entry, deliveries in zip(entries, delivered, strict=True):
            if entry.id in away:
                continue
            task = asyncio.create_task(self._take(holder, entry, deliveries), name=f"entry {entry.id}")
            suspects |= {task} if deliveries > SUSPECT_AFTER else set()
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)
            task.add_done_callback(self._begun.discard)
        if away:  # beside the next read
            finishing = asyncio.create_task(self._finish(away), name=f"finish {len(away)}")
            self._finishing.add(finishing)
            finishing.add_done_callback(self._finishing.discard)
        while len(self._waiting) + len(self._begun) >= self.consumer.at_once:
            await asyncio.wait(self._waiting | self._begun, return_when=asyncio.FIRST_COMPLETED)
        if suspects:
            await asyncio.wait(suspects)

    async def close(self) -> None:
        """Let what has begun end, and nothing begin any more; what waits stays pending."""
        self._closed = True
        await self._end(self._waiting)
        await asyncio.gather(*self._begun, *self._finishing, return_exceptions=True)

    async def abandon(self) -> None:
        """As if killed: nothing that has begun is finished."""
        self._closed = True
        await self._end(self._waiting | self._begun | self._finishing)

    async def _end(self, tasks: Iterable["asyncio.Task[Any]"]) -> None:
        doomed = list(tasks)
        for task in doomed:
            task.cancel()
        await asyncio.gather(*doomed, return_exceptions=True)

    def _turned_away(self, entries: Sequence[Entry]) -> dict[str, Send]:
        """By entry, of those that the consumer turns away. What cannot be read is handled, and has its end there."""
        consumer = self.consumer
        away: dict[str, Send] = {}
        here = len(self._waiting) + len(self._begun)
        for place, entry in enumerate(entries if consumer.turn_away else ()):
            body = body_of(entry.fields)
            with suppress(Rejected):
                if body is not None and consumer.turn_away is not None:
                    delivery = Delivery(consumer.stream, entry.id, entry.at_ms, 1, body)
                    send = consumer.turn_away(delivery, consumer.decode(body), here + place - len(away))
                    away.update({entry.id: send} if send else {})
        return away

    async def _finish(self, away: Mapping[str, Send]) -> None:
        consumer = self.consumer
        try:
            done = await scripts.finish(
                self._redis,
                consumer.stream,
                consumer.group,
                [*away.items()],
                keep=consumer.keep,
                direct=self._direct,
            )
        except RedisError as error:
            log.warning("the broker is away, %d entries stay pending: %s", len(away), error)
            return
        metrics.HANDLED.labels(consumer.stream, "done").inc(done)
        metrics.HANDLED.labels(consumer.stream, "gone").inc(len(away) - done)

    async def _delivered(self, holder: str, entries: Sequence[Entry]) -> list[int]:
        """How often each was delivered; 0 for one that somebody else has, or of which the broker cannot say."""
        try:
            return await asyncio.gather(*(self._hold(holder, entry) for entry in entries))
        except RedisError as error:
            log.warning("the broker is away, %d entries stay pending: %s", len(entries), error)
            return [0] * len(entries)

    async def _take(self, holder: str, entry: Entry, deliveries: int) -> Outcome:
        """One delivery of `entry` to the group's consumer `holder`. Never raises but when it is cancelled."""
        with bound(stream=self.consumer.stream, entry=entry.id):
            try:
                outcome = await self._while_held(holder, entry, deliveries) if deliveries else "lost"
            except RedisError as error:  # the broker went away under us: the entry is pending there, and claimed later
                log.warning("the broker is away, the entry stays pending: %s", error)
                outcome = "unavailable"
            metrics.HANDLED.labels(self.consumer.stream, outcome).inc()
            return outcome

    async def _while_held(self, holder: str, entry: Entry, deliveries: int) -> Outcome:
        with self._lease(holder, entry) as lease:
            async with self._room:
                if lease.lost:  # while it waited: whoever has it now is not helped by a second handler
                    return "lost"
                self._begin()
                return await self._decide(holder, entry, deliveries)

    def _begin(self) -> None:
        task = asyncio.current_task()
        if task in self._waiting:
            self._waiting.discard(task)
            self._begun.add(task)

    async def _decide(self, holder: str, entry: Entry, deliveries: int) -> Outcome:
        limit = self.consumer.max_deliveries
        body = body_of(entry.fields)
        if deliveries > limit:  # looked at before the handler runs: this message may be what killed the process
            reason = f"delivered {deliveries} times and never finished; the limit is {limit}"
            return await self._bury(entry, deliveries, "never_finished", reason, "dead")
        if body is None:
            return await self._bury(entry, deliveries, "no_body", _no_body(entry), "rejected")
        return await self._judge(holder, entry, deliveries, body)

    async def _judge(self, holder: str, entry: Entry, deliveries: int, body: bytes) -> Outcome:
        try:
            return await self._handle(holder, entry, deliveries, body)
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

    async def _handle(self, holder: str, entry: Entry, deliveries: int, body: bytes) -> Outcome:
        consumer = self.consumer
        message = consumer.decode(body)
        delivery = Delivery(consumer.stream, entry.id, entry.at_ms, deliveries, body)
        for _ in range(CONFLICT_TRIES):
            wanted = await consumer.handle(delivery, message)
            token = (consumer.group, entry.id)
            done = await scripts.commit(
                self._redis, consumer.stream, wanted, entry=token, keep=consumer.keep, direct=self._direct
            )
            if done != "conflict":
                return done
        await self._retry_in(holder, entry, consumer.retry_first_s, delivered=deliveries - 1)
        return "conflict"

    async def _wait(self, holder: str, entry: Entry, deliveries: int, error: Exception) -> Outcome:
        age_s = self._clock() - entry.at_ms / 1000
        if age_s > self.consumer.give_up_after_s:
            code = error.code if isinstance(error, QigError) else "broker_refused"
            return await self._bury(entry, deliveries, code, f"not available for {age_s:.0f} s: {error}", "dead")
        log.warning("not available, tried again later: %s", error)
        # This delivery is not the message's fault: it is taken off the count that ends in a dead letter.
        await self._retry_in(holder, entry, wait_delay_s(self.consumer, age_s), delivered=deliveries - 1)
        return "unavailable"

    async def _retry_in(self, holder: str, entry: Entry, delay_s: float, delivered: int | None = None) -> None:
        """Let the claimer have it in `delay_s`: it counts as idle for the rest of the claim time already."""
        self._leases -= {lease for lease in self._leases if (lease.holder, lease.entry.id) == (holder, entry.id)}
        await self._hold(holder, entry, idle_s=self.consumer.claim_after_s - delay_s, delivered=delivered)

    async def _bury(self, entry: Entry, deliveries: int, code: str, reason: str, outcome: Outcome) -> Outcome:
        consumer = self.consumer
        body = body_of(entry.fields)
        letter = DeadLetter(
            stream=consumer.stream,
            entry=entry.id,
            code=code,
            reason=reason[:REASON_MAX_CHARS],
            deliveries=deliveries,
            body=(msgpack.packb(dict(entry.fields)) if body is None else body)[:MESSAGE_MAX_BYTES],
            at_s=self._clock(),
        )
        token = (consumer.group, entry.id)
        done = await scripts.bury(self._redis, consumer.stream, pack(letter), entry=token, keep=consumer.keep)
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
    def _lease(self, holder: str, entry: Entry) -> Iterator["_Lease"]:
        """While the entry waits and is handled here it does not look abandoned, however long that takes."""
        lease = _Lease(holder, entry)
        self._leases.add(lease)
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self._renew(), name=f"leases {self.consumer.stream}")
        try:
            yield lease
        finally:
            self._leases.discard(lease)

    async def _renew(self) -> None:
        """Renews every lease until there is none: one task, however many handlers run."""
        while self._leases:
            await asyncio.sleep(self.consumer.claim_after_s / LEASES_PER_CLAIM)
            for lease in list(self._leases):
                if lease not in self._leases:  # it ended meanwhile
                    continue
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
