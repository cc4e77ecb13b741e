"""The scheduler with answers that are made of gates: each token waits until the test lets it be said."""

import asyncio
import itertools
import threading
import weakref

import pytest

from common.errors import Rejected, Unavailable
from common.wire.inference import Problem, Query
from services.edge.scheduler import Scheduler, Turn

pytestmark = pytest.mark.anyio


class Made:
    """Says as many tokens as its query asks for, each when `allowed` says so; its answer is what it said."""

    def __init__(self, query, name, allowed):
        self.query, self.name, self.allowed = query, name, allowed
        self.said = 0

    @property
    def tokens(self):
        return self.said

    @property
    def ended(self):
        return self.said == self.query.max_tokens

    def say(self, tokens):
        text = ""
        for _ in range(min(tokens, self.query.max_tokens - self.said)):
            if self.allowed is not None:
                assert self.allowed.acquire(timeout=10)
            self.said += 1
            text += f"{self.said} "
        return text

    def conclude(self, seconds, problem):
        assert seconds >= 0
        return self.name, self.said, problem


@pytest.fixture
async def schedule():
    """Makes a running scheduler; `allowed` None: tokens need no leave."""
    running = []

    def make(allowed=None, *, workers=1, active_max=4, waiting_max=8):
        made = []

        def begin(query, name):
            if query.text == "wrong":
                raise Rejected("lone_surrogate", "half a character")
            made.append(Made(query, name, allowed))
            return made[-1]

        seconds = itertools.count()  # every look at the clock is a second later: a slice is one token
        scheduler = Scheduler(
            begin, workers=workers, active_max=active_max, waiting_max=waiting_max, clock=lambda: next(seconds)
        )
        scheduler.made = made
        scheduler.start()
        running.append((scheduler, allowed))
        return scheduler

    yield make
    for scheduler, allowed in running:
        if allowed is not None:
            allowed.release(10_000)
        await scheduler.stop()


def ask(scheduler, name="q", client="c", **fields):
    return scheduler.submit(Query(text=fields.pop("text", "x"), client=client, **fields), name)


async def heard(turn):
    return [said async for said in turn.pieces()]


async def test_the_pieces_are_what_was_said_and_the_result_comes_after_them(schedule):
    turn = ask(schedule(), max_tokens=5)
    pieces = await heard(turn)
    assert "".join(piece.text for piece in pieces) == "1 2 3 4 5 "
    assert sum(piece.tokens for piece in pieces) == 5
    assert await turn.result() == ("q", 5, None)


async def test_the_first_text_is_told_at_once(schedule):
    allowed = threading.Semaphore(1)
    turn = ask(schedule(allowed), max_tokens=2)
    pieces = turn.pieces()
    assert (await anext(pieces)).text == "1 "
    allowed.release()
    assert (await anext(pieces)).text == "2 "


async def test_who_listens_to_no_pieces_is_told_nothing_before_the_end_and_still_has_all(schedule):
    turn = ask(schedule(), max_tokens=5)
    await turn.result()
    assert [piece.text for piece in await heard(turn)] == ["1 2 3 4 5 "]


async def test_nothing_is_told_before_the_end_until_somebody_listens(schedule, eventually, monkeypatch):
    told = []
    monkeypatch.setattr(Turn, "tell", lambda _, said: told.append(said.text))
    allowed = threading.Semaphore(3)
    scheduler = schedule(allowed)
    turn = ask(scheduler, max_tokens=6)
    await eventually(lambda: scheduler.made and scheduler.made[0].said == 3)
    assert told == []
    turn.listening = True
    allowed.release()
    await eventually(lambda: "".join(told).startswith("1 2 3 "))
    allowed.release(2)
    await turn.result()


async def test_the_expected_wait_is_learned_from_answers_and_not_from_a_single_token(schedule):
    scheduler = schedule()
    for number in range(3):
        await ask(scheduler, f"proof-{number}", max_tokens=1).result()
    assert scheduler._mean_s is None
    worked = ask(scheduler, "answer", max_tokens=5)
    await worked.result()
    await ask(scheduler, "after", max_tokens=1).result()
    assert scheduler._mean_s == pytest.approx(worked.worked_s)


@pytest.mark.parametrize(("ahead", "answers"), [(0, 0.0), (1, 0.0), (2, 0.5), (9, 4.0)])
async def test_the_expected_wait_counts_those_that_are_to_come_first(schedule, ahead, answers):
    scheduler = schedule(workers=2)
    scheduler._mean_s = 3.0
    assert scheduler.expected_s(ahead) == pytest.approx(answers * 3.0)


async def test_a_worker_that_waits_holds_nothing_of_what_it_last_made(schedule, eventually):
    scheduler = schedule()
    await ask(scheduler, max_tokens=3).result()
    made = weakref.ref(scheduler.made.pop())
    await eventually(lambda: made() is None)
    assert scheduler.made == []


async def test_many_more_queries_than_places_are_all_answered(schedule, eventually):
    scheduler = schedule(workers=2, active_max=3, waiting_max=1000)
    turns = [ask(scheduler, f"q{n}", client=f"c{n % 7}", max_tokens=20) for n in range(100)]
    assert [await turn.result() for turn in turns] == [(f"q{n}", 20, None) for n in range(100)]
    await eventually(lambda: scheduler.load == (0, 0))


async def test_a_query_that_comes_later_does_not_wait_for_an_earlier_one_to_end(schedule, eventually):
    allowed = threading.Semaphore(0)
    scheduler = schedule(allowed)
    long = ask(scheduler, "long", client="a", max_tokens=50)
    await eventually(lambda: scheduler.made)
    short = ask(scheduler, "short", client="b", max_tokens=2)
    allowed.release(10)
    assert await short.result() == ("short", 2, None)
    assert scheduler.load[0] == 1
    allowed.release(42)
    assert await long.result() == ("long", 50, None)


async def test_a_full_room_refuses_and_says_when_to_come_again(schedule, eventually):
    allowed = threading.Semaphore(0)
    scheduler = schedule(allowed, active_max=1, waiting_max=2)
    first = ask(scheduler, "first", client="a", max_tokens=1)
    await eventually(lambda: scheduler.load == (1, 0))
    waiting = [ask(scheduler, client, client=client, max_tokens=1) for client in "ab"]
    with pytest.raises(Unavailable, match=r"overloaded: 2 queries wait") as caught:
        ask(scheduler, "late", client="d")
    assert caught.value.retry_after_s >= 0
    allowed.release(3)
    assert [(await turn.result())[1] for turn in (first, *waiting)] == [1, 1, 1]
    assert (await ask(scheduler, "again", client="d", max_tokens=0).result())[0] == "again"


async def test_leaving_frees_the_place_between_two_tokens_and_keeps_what_was_said(schedule, eventually):
    allowed = threading.Semaphore(2)
    scheduler = schedule(allowed, active_max=1)
    turn = ask(scheduler, max_tokens=100)
    await eventually(lambda: scheduler.made and scheduler.made[0].said == 2)
    turn.leave()
    allowed.release()
    name, said, problem = await turn.result()
    assert (name, said <= 3, problem) == ("q", True, None)
    await eventually(lambda: scheduler.load == (0, 0))


async def test_who_leaves_before_the_first_token_is_never_begun(schedule, eventually):
    allowed = threading.Semaphore(0)
    scheduler = schedule(allowed, active_max=1)
    first = ask(scheduler, "first", max_tokens=1)
    await eventually(lambda: scheduler.load == (1, 0))
    second = ask(scheduler, "second")
    second.leave()
    with pytest.raises(Unavailable, match="cancelled"):
        await second.result()
    assert scheduler.load == (1, 0)
    allowed.release()
    await first.result()
    assert [made.name for made in scheduler.made] == ["first"]


async def test_a_problem_that_ends_a_turn_is_in_its_answer_or_is_its_error(schedule, eventually):
    allowed = threading.Semaphore(1)
    scheduler = schedule(allowed, active_max=1)
    late = Problem(code="deadline", message="too late", retry_after_s=2.0)
    begun, waiting = ask(scheduler, "begun", max_tokens=9), ask(scheduler, "waiting")
    await eventually(lambda: scheduler.made and scheduler.made[0].said == 1)
    waiting.leave(late)
    begun.leave(late)
    allowed.release()
    assert (await begun.result())[2] == late
    with pytest.raises(Unavailable, match="deadline: too late") as caught:
        await waiting.result()
    assert caught.value.retry_after_s == 2.0


async def test_an_asker_that_is_cancelled_leaves(schedule, eventually):
    allowed = threading.Semaphore(1)
    scheduler = schedule(allowed)
    turn = ask(scheduler, max_tokens=100)
    asking = asyncio.create_task(turn.result())
    await eventually(lambda: scheduler.made and scheduler.made[0].said == 1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    allowed.release()
    await eventually(lambda: scheduler.load == (0, 0))
    assert scheduler.made[0].said <= 2


async def test_an_error_of_one_query_is_its_own(schedule):
    scheduler = schedule()
    wrong, right = ask(scheduler, "wrong", text="wrong"), ask(scheduler, "right", max_tokens=3)
    with pytest.raises(Rejected, match="lone_surrogate"):
        await wrong.result()
    assert await heard(wrong) == []
    assert (await right.result())[1] == 3


async def test_a_client_that_reads_nothing_slows_nobody(schedule):
    scheduler = schedule(waiting_max=100)
    slow = ask(scheduler, "slow", client="slow", max_tokens=500)
    for n in range(20):
        await ask(scheduler, f"q{n}", client="quick", max_tokens=5).result()
    assert (await slow.result())[1] == 500
    assert sum(said.tokens for said in await heard(slow)) == 500


async def test_stopping_ends_what_runs_between_two_tokens_and_refuses_what_comes(schedule, eventually):
    allowed = threading.Semaphore(1)
    scheduler = schedule(allowed, active_max=1)
    begun, waiting = ask(scheduler, "begun", max_tokens=100), ask(scheduler, "waiting")
    await eventually(lambda: scheduler.made and scheduler.made[0].said == 1)
    stopping = asyncio.create_task(scheduler.stop())
    await asyncio.sleep(0)
    allowed.release()
    await eventually(lambda: allowed.release() or stopping.done())
    for turn in (begun, waiting):
        with pytest.raises(Unavailable, match="stopping"):
            await turn.result()
    with pytest.raises(Unavailable, match="stopping"):
        ask(scheduler)
