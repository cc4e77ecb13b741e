"""The embedder's one thread; each piece of work waits until the test lets it end."""

import asyncio
import gc
import threading

import pytest

from common.errors import Unavailable
from services.edge.http import embeddings
from services.edge.http.embeddings import Embedder

pytestmark = pytest.mark.anyio


class Work:
    """Blocks its thread."""

    def __init__(self):
        self.began, self.end, self.fails = threading.Event(), threading.Event(), False

    def __call__(self):
        self.began.set()
        assert self.end.wait(10)
        assert not self.fails
        return threading.current_thread().name


@pytest.fixture
def embedder(monkeypatch):
    monkeypatch.setattr(embeddings, "WAITING_MAX", 2)
    return Embedder()


@pytest.fixture
async def begin(embedder, eventually):
    """Starts that many pieces of work, of which the first runs; the pieces and their tasks."""
    works = []

    async def start(count):
        new = [Work() for _ in range(count)]
        works.extend(new)
        tasks = [asyncio.create_task(embedder.run(work)) for work in new]
        await eventually(works[0].began.is_set)
        return new, tasks

    yield start
    for work in works:
        work.end.set()


async def test_one_piece_of_work_runs_at_a_time_on_a_thread_of_its_own(begin, eventually):
    (one, other), tasks = await begin(2)
    assert await asyncio.to_thread(lambda: "elsewhere") == "elsewhere"
    assert not other.began.is_set()
    one.end.set()
    await eventually(other.began.is_set)
    other.end.set()
    assert {name[:5] for name in await asyncio.gather(*tasks)} == {"embed"}


async def test_one_more_than_may_wait_is_refused(begin, embedder):
    works, tasks = await begin(3)
    with pytest.raises(Unavailable, match="overloaded: 2 requests"):
        await embedder.run(Work())
    for work in works:
        work.end.set()
    assert len(await asyncio.gather(*tasks)) == 3


async def test_what_is_cancelled_while_it_waits_leaves_its_place_and_is_not_begun(begin):
    (one, gone, _), tasks = await begin(3)
    tasks[1].cancel()
    await asyncio.gather(tasks[1], return_exceptions=True)
    (last,), more = await begin(1)
    for work in (one, last):
        work.end.set()
    tasks[2].cancel()
    await asyncio.gather(tasks[0], *more)
    assert not gone.began.is_set()


async def test_what_is_cancelled_while_it_runs_holds_the_thread_to_its_end(begin, embedder, eventually):
    (one, other), tasks = await begin(2)
    tasks[0].cancel()
    await asyncio.gather(tasks[0], return_exceptions=True)
    assert not other.began.is_set()
    one.end.set()
    await eventually(other.began.is_set)


async def test_what_is_cancelled_while_it_runs_and_fails_then_is_nobodys_fault(begin, embedder, eventually):
    (one, other), tasks = await begin(2)
    tasks[0].cancel()
    await asyncio.gather(tasks[0], return_exceptions=True)
    one.fails = True
    one.end.set()
    await eventually(other.began.is_set)
    gc.collect()  # a fault that nobody took fails this test when its future is collected


async def test_work_that_fails_fails_its_request_and_frees_the_thread(embedder):
    with pytest.raises(ZeroDivisionError):
        await embedder.run(lambda: 1 // 0)
    assert await embedder.run(lambda: 7) == 7
