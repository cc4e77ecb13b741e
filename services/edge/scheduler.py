"""Many generations at once on a few threads: they join and leave between any two slices (continuous batching).

    submit ─▶ Turns ─▶ a worker takes one, says a slice of it, gives it back ─▶ ... ─▶ concluded
       │                   │ call_soon_threadsafe: the slice's text
       ▼                   ▼
      Turn  ◀── pieces() as they come, result() at the end, leave() from the asker: disconnect, cancel, deadline

Stepping texts one after the other is as fast as stepping them as one matrix, because the weights of these kernels stay
in the processor's cache (docs/experiments.md, Engine): so a batch is a round of slices, and nothing waits for a window
to fill. A slice is one call of compiled code, of as many tokens as take SLICE_S; it needs no interpreter, so workers
run beside each other and beside the event loop. The first token that somebody listens for is a slice of its own.
Imperative: owns threads. Knows no stream, no HTTP and no bundle; what to make and how it ends are given.
"""

import asyncio
import contextlib
import contextvars
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from common.constants import Role
from common.errors import Unavailable
from common.wire.inference import Problem, Query
from services.edge.answer import Answered
from services.edge.turns import Turns

SLICE_S: Final = 0.002  # chosen: a hand-over costs less than a token, and 32 slices are 64 ms
TELL_S: Final = 0.005  # chosen: text is told at first at once and then so often; each time wakes the event loop
MEAN_DECAY: Final = 0.9  # of the mean seconds that an answer takes, and a token


class Making(Protocol):
    """An answer in the making, on a worker's thread: `say` goes on with it; `conclude` ends it wherever it is."""

    @property
    def kernel(self) -> Role:
        """The role that leads it."""

    @property
    def tokens(self) -> int:
        """Tokens said so far."""

    @property
    def ended(self) -> bool:
        """Whether nothing more comes."""

    def say(self, tokens: int) -> str:
        """Up to so many tokens more: the text that they complete, and at the end what was held back."""

    def conclude(self, seconds: float, problem: Problem | None) -> Answered:
        """The answer as far as it came. problem: why it was left, unless its asker wished it."""


Begin = Callable[[Query, str], Making]


@dataclass(frozen=True, slots=True)
class Said:
    """Text that became complete, and the tokens it took."""

    text: str
    tokens: int


class Turn:
    """One query in the scheduler's hands, as its asker sees it. Every method belongs to the event loop."""

    def __init__(self, query: Query, name: str, scheduler: "Scheduler") -> None:
        self.query = query
        self.name = name
        self.left: Problem | bool = False  # read by the worker between tokens: True, or the reason
        self.listening = False  # read by it too: until somebody is, nothing is told before the end
        self.making: Making | None = None  # the worker's, as all below
        self.unsaid: list[str] = []
        self.told_s: float | None = None
        self.told_tokens = 0
        self.worked_s = 0.0
        self.began_s = scheduler.clock()
        self.context = contextvars.copy_context()  # its asker's: what is logged is about this query, in its trace
        self.working = self.context.copy()  # the worker's, with the spans that it is in
        self._scheduler = scheduler
        self._heard: list[Said] = []
        self._news = asyncio.Event()
        self._done: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        self._done.add_done_callback(lambda _: self._news.set())

    async def pieces(self) -> AsyncIterator[Said]:
        """What is said, as it is said: all since the last look at once, so that a slow reader holds nobody up."""
        self.listening = True
        while True:
            await self._news.wait()
            self._news.clear()
            ended = self._done.done()
            heard, self._heard = self._heard, []
            if heard:
                yield Said("".join(each.text for each in heard), sum(each.tokens for each in heard))
            if ended:
                return

    @property
    def ended(self) -> bool:
        """Whether its result is there."""
        return self._done.done()

    @property
    def kernel(self) -> Role | None:
        """The role that leads the answer; None before it is begun."""
        return self.making.kernel if self.making else None

    async def result(self) -> Answered:
        """The answer, when it has ended or was left. Raises what making it raised: Rejected, Unavailable, a bug.

        An asker that is cancelled meanwhile leaves it.
        """
        try:
            return await asyncio.shield(self._done)
        except asyncio.CancelledError:
            self.leave()
            raise

    def leave(self, problem: Problem | None = None) -> None:
        """Nobody wants more of it: its slot is free before the next token. problem: why, unless the asker wished it."""
        if not self.left and not self._done.done():
            self.left = problem or True
            self._scheduler.withdraw(self)

    def tell(self, said: Said) -> None:
        """From the worker, through the loop: more text."""
        self._heard.append(said)
        self._news.set()

    def end(self, answered: Answered) -> None:
        """From the worker, through the loop: the end."""
        if not self._done.done():
            self._done.set_result(answered)

    def fail(self, error: BaseException) -> None:
        """From the worker, through the loop: it could not be made."""
        if not self._done.done():
            self._done.set_exception(error)
            self._done.exception()  # an asker that went away leaves it unread


class Scheduler:
    """Runs generations from `start` to `stop`. begin: makes one, on a worker's thread. clock: seconds."""

    def __init__(
        self,
        begin: Begin,
        *,
        workers: int,
        active_max: int,
        waiting_max: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._begin = begin
        self.clock: Final = clock
        self._turns: Turns[Turn] = Turns(active_max=active_max, waiting_max=waiting_max)
        self._workers = workers
        self._change = threading.Condition()
        self._closing = False
        self._mean_s: float | None = None
        self._token_s: float | None = None
        self.said_s = -math.inf  # when a token was last said, of `clock`
        self._threads: list[threading.Thread] = []
        self._calls: deque[tuple[Callable[..., None], tuple[object, ...]]] = deque()  # of the workers, for the loop
        self._woken = False

    def start(self) -> None:
        """Starts the workers; inside the event loop whose turns they serve."""
        self._loop = asyncio.get_running_loop()
        self._threads = [
            threading.Thread(target=self._work, name=f"generate-{n}", daemon=True) for n in range(self._workers)
        ]
        for thread in self._threads:
            thread.start()

    async def stop(self) -> None:
        """Ends the workers between two tokens; what is not done fails with Unavailable("stopping")."""
        with self._change:
            self._closing = True
            self._change.notify_all()
        await asyncio.gather(*(asyncio.to_thread(thread.join) for thread in self._threads))
        stopping = Unavailable("stopping", "this node stops: ask another, or again")
        while (taken := self._turns.take()) is not None:
            client, turn = taken
            turn.fail(stopping)
            self._turns.drop(client)

    def submit(self, query: Query, name: str) -> Turn:
        """A query joins; `name` names it when it has no id. Raises Unavailable("overloaded") when there is no room."""
        turn = Turn(query, name, self)
        with self._change:
            if self._closing:
                raise Unavailable("stopping", "this node stops: ask another, or again")
            if not self._turns.add(query.client, turn):
                wait_s = self.expected_s()
                raise Unavailable(
                    "overloaded",
                    f"{self._turns.waiting} queries wait and {self._turns.active} are being answered here: ask again in"
                    f" {wait_s:.1f} s, or another node",
                    retry_after_s=wait_s,
                )
            self._change.notify()
        return turn

    @property
    def load(self) -> tuple[int, int]:
        """Queries being answered, and waiting."""
        return self._turns.active, self._turns.waiting

    def expected_s(self, ahead: int = 0) -> float:
        """How long a query that came now would share the workers with others, from the work that answers lately took;
        seconds, 0 while a worker is free. ahead: how many there are at least, some of which are not here yet.
        """
        others = max(ahead, self._turns.active + self._turns.waiting)
        return max(0, others + 1 - self._workers) * (self._mean_s or 0.0) / self._workers

    def withdraw(self, turn: Turn) -> None:
        """A turn that was left and is not begun goes now; one that is begun goes at its next token."""
        with self._change:
            waited = self._turns.discard(turn.query.client, turn)
        if waited:
            turn.fail(_left(turn))

    def _work(self) -> None:
        while self._serve():  # a call each: a worker that waits holds nothing of what it last made
            pass

    def _serve(self) -> bool:
        """Works on the next turn, once there is one; False at the end."""
        taken = self._next()
        if taken is None:
            return False
        client, turn = taken
        last_word = turn.working.run(self._advance, turn)
        with self._change:
            if last_word is None:
                self._turns.give_back(client, turn)
                self._change.notify()
            else:
                self._turns.drop(client)
                self._learn(turn)
        if last_word is not None:  # only now: whoever has an answer finds its place free
            self._call(*last_word)
        return True

    def _learn(self, turn: Turn) -> None:
        """What an answer takes. One that was not begun says nothing of it, nor does one of a token or none."""
        if turn.making is not None and turn.making.tokens > 1:
            mean_s = turn.worked_s if self._mean_s is None else self._mean_s
            self._mean_s = MEAN_DECAY * mean_s + (1 - MEAN_DECAY) * turn.worked_s

    def _next(self) -> tuple[str, Turn] | None:
        with self._change:
            while not self._closing:
                taken = self._turns.take()
                if taken is not None:
                    return taken
                self._change.wait()
            return None

    def _advance(self, turn: Turn) -> tuple[Callable[..., None], object] | None:
        """One slice; None while there is more to do, else what its asker is told at the end."""
        began_s = self.clock()
        try:
            more = self._say(turn, began_s)
            turn.worked_s += self.clock() - began_s
            return None if more else (turn.end, self._concluded(turn))
        except BaseException as error:  # noqa: BLE001 -- the border of a thread: its asker gets whatever went wrong
            return turn.fail, error

    def _say(self, turn: Turn, began_s: float) -> bool:
        if turn.making is None:
            if turn.left:
                raise _left(turn)
            turn.making = self._begin(turn.query, turn.name)
        now_s = began_s
        while not (turn.left or turn.making.ended):
            now_s = self._stretch(turn, turn.making, now_s)
            if turn.listening and (turn.told_s is None or now_s - turn.told_s >= TELL_S):
                self._tell(turn, now_s)
            if now_s - began_s >= SLICE_S and (self._turns.wanted or self._closing) and not turn.making.ended:
                return True
        self._tell(turn, None)
        return False

    def _stretch(self, turn: Turn, making: Making, began_s: float) -> float:
        """Says what takes a slice; when it ended."""
        awaited = turn.listening and turn.told_s is None
        before = making.tokens
        turn.unsaid.append(making.say(1 if awaited or self._token_s is None else max(1, int(SLICE_S / self._token_s))))
        self.said_s = now_s = self.clock()
        if before and making.tokens > before:  # the first ones came with what is made ready for them
            token_s = (now_s - began_s) / (making.tokens - before)
            mean_s = token_s if self._token_s is None else self._token_s
            self._token_s = MEAN_DECAY * mean_s + (1 - MEAN_DECAY) * token_s
        return now_s

    def _tell(self, turn: Turn, now_s: float | None) -> None:
        """What was said and is not told yet; now_s: None at the end."""
        assert turn.making is not None
        text, turn.unsaid = "".join(turn.unsaid), []
        if text:
            tokens = turn.making.tokens
            self._call(turn.tell, Said(text, tokens - turn.told_tokens))
            turn.told_s, turn.told_tokens = now_s, tokens

    def _concluded(self, turn: Turn) -> Answered:
        assert turn.making is not None
        problem = turn.left if isinstance(turn.left, Problem) else None
        return turn.making.conclude(self.clock() - turn.began_s, problem)

    def _call(self, what: Callable[..., None], *args: object) -> None:
        """Has the loop do this. It is woken once for all that comes before it looks: waking costs two system calls, and
        after each the interpreter has to be waited for.
        """
        self._calls.append((what, args))
        if not self._woken:
            self._woken = True
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody listens
                self._loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        """In the loop."""
        self._woken = False  # before it looks: what comes meanwhile wakes it again
        while self._calls:
            what, args = self._calls.popleft()
            self._loop.call_soon(what, *args)


def _left(turn: Turn) -> Unavailable:
    """A turn that was left before it was begun, as its asker hears of it."""
    if isinstance(turn.left, Problem):
        return Unavailable(turn.left.code, turn.left.message, retry_after_s=turn.left.retry_after_s)
    return Unavailable("cancelled", "the client no longer wanted an answer")
