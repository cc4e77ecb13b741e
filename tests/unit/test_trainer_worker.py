"""The worker: a job is made once, of what it has and what it is brought, to the bytes a trainer makes."""

import asyncio
import json
import os
import threading
import time

import pytest
from jobs import batch_of, job_of
from trainer_runs import one_thread  # noqa: F401 - a fixture

from common.errors import Rejected
from common.wire.bundle import part_of
from common.wire.codec import unpack
from common.wire.messages import Batch
from services.trainer import job
from services.trainer.app import worker as room
from services.trainer.app.worker import KEPT_S, Handler, Shelf, Stopped, Worker
from services.trainer.consolidate import consolidate
from services.trainer.job import Reply, Request

NOW_S = time.time()  # as files are dated


def quiet(_stage, _done):
    """Nobody listens."""


@pytest.fixture
def shelf(tmp_path):
    return Shelf(tmp_path / "shelf")


@pytest.fixture
def cold(small_text, shelf):
    """A worker that has nothing but its text."""
    return Worker(small_text, {}, shelf)


@pytest.fixture
def warm(small_text, shelf, micro_parts):
    """A worker whose image has the parent's parts."""
    return Worker(small_text, {part_of(data).digest: data for data in micro_parts.values()}, shelf)


def everything(parts):
    return {name: chunk for data in parts.values() for name, chunk in job.cut(part_of(data), data).items()}


def parts_of(reply, parent, shelf):
    """A candidate's parts, out of a reply and what the parent had."""
    known = {part_of(data).digest: data for data in parent.values()}
    found = {}
    for path, part in reply.made.parts.items():
        chunks = [reply.chunks[name] for name in job.names(part) if name in reply.chunks]
        found[path] = known[part.digest] if part.digest in known else job.joined(part, chunks)
    return found


def made_here(parts, asked, text):
    return consolidate(
        parts, unpack(Batch, asked.batch), replay=text.replay, held_out=text.held_out, parents=text.parents,
        steps=asked.steps, seed=asked.seed,
    )  # fmt: skip


@pytest.mark.parametrize("steps", [0, 2])
def test_a_worker_makes_what_a_trainer_makes_to_the_byte(warm, micro_parts, small_text, shelf, steps):
    asked = job_of(micro_parts, small_text, batch_of(1), steps=steps)
    reply = warm.reply(Request(job=asked), quiet, NOW_S)
    here = made_here(micro_parts, asked, small_text)
    assert parts_of(reply, micro_parts, shelf) == here.parts
    assert (reply.made.figures, reply.made.guards) == (here.figures, here.guards)
    assert not set(reply.chunks) & set(everything(micro_parts))


def test_a_cold_worker_says_what_it_lacks_and_begins_once_that_is_brought(cold, micro_parts, small_text, shelf):
    asked = job_of(micro_parts, small_text, batch_of(1))
    all_of_it = everything(micro_parts)
    first = cold.reply(Request(job=asked), quiet, NOW_S)
    assert (set(first.missing), first.made) == (set(all_of_it), None)
    half = dict(list(all_of_it.items())[::2])
    second = cold.reply(Request(job=asked, chunks=half), quiet, NOW_S)
    assert set(second.missing) == set(all_of_it) - set(half)
    rest = {name: all_of_it[name] for name in second.missing}
    third = cold.reply(Request(job=asked, chunks=rest), quiet, NOW_S)
    assert parts_of(third, micro_parts, shelf) == made_here(micro_parts, asked, small_text).parts


def test_a_job_is_made_once_by_whichever_worker_of_a_volume_is_asked(warm, micro_parts, small_text, shelf, monkeypatch):
    asked = job_of(micro_parts, small_text, batch_of(1))
    first = warm.reply(Request(job=asked), quiet, NOW_S)
    monkeypatch.setattr(room, "consolidate", None)
    assert Worker(small_text, {}, shelf).reply(Request(job=asked), quiet, NOW_S) == first


def test_two_requests_for_one_job_at_the_same_time_make_it_once(warm, micro_parts, small_text, monkeypatch):
    asked, tries, real = job_of(micro_parts, small_text, batch_of(1)), [], room.consolidate
    second, replies = threading.Event(), []

    def once(*arguments, **given):
        tries.append(1)
        assert second.wait(10)
        return real(*arguments, **given)

    monkeypatch.setattr(room, "consolidate", once)

    def ask():
        replies.append(warm.reply(Request(job=asked), quiet, NOW_S))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    second.set()
    for thread in threads:
        thread.join()
    assert len(tries) == 1
    assert replies[0] == replies[1]


def test_a_candidate_s_parts_are_a_next_job_s_parent_without_being_sent(warm, micro_parts, small_text, shelf):
    first = warm.reply(Request(job=job_of(micro_parts, small_text, batch_of(1))), quiet, NOW_S)
    parent = parts_of(first, micro_parts, shelf)
    assert warm.reply(Request(job=job_of(parent, small_text, batch_of(2))), quiet, NOW_S).made is not None


def test_what_one_reply_does_not_hold_is_given_when_it_is_wanted(warm, micro_parts, small_text, monkeypatch):
    monkeypatch.setattr(job, "CHUNK_BYTES", 256)
    asked = job_of(micro_parts, small_text, batch_of(1))
    whole = warm.reply(Request(job=asked), quiet, NOW_S)
    assert len(whole.chunks) > 1
    monkeypatch.setattr(job, "LOAD_BYTES", 1)
    found = dict(warm.reply(Request(job=asked), quiet, NOW_S).chunks)
    assert len(found) == 1
    while left := [name for name in whole.chunks if name not in found]:
        found |= warm.reply(Request(wanted=tuple(left)), quiet, NOW_S).chunks
    assert found == whole.chunks


def test_a_batch_that_is_wrong_in_itself_is_refused_with_its_reason(warm, micro_parts, small_text):
    reply = warm.reply(Request(job=job_of(micro_parts, small_text, batch_of(1, b"no crystals"))), quiet, NOW_S)
    assert (reply.made, reply.refused.corrupt) == (None, False)
    with pytest.raises(Rejected):
        made_here(micro_parts, job_of(micro_parts, small_text, batch_of(1, b"no crystals")), small_text)


def test_a_worker_with_other_text_does_not_begin(warm, micro_parts, small_text):
    asked = job_of(micro_parts, small_text, batch_of(1)).model_copy(update={"text": "0" * 64})
    assert warm.reply(Request(job=asked), quiet, NOW_S) == Reply(other_text=small_text.digest)


def test_a_chunk_that_was_torn_is_missing_again(cold, micro_parts, small_text, shelf):
    asked, chunks = job_of(micro_parts, small_text, batch_of(1)), everything(micro_parts)
    torn = next(iter(chunks))
    reply = cold.reply(Request(job=asked, chunks=chunks | {torn: chunks[torn][:-1]}), quiet, NOW_S)
    assert reply.missing == (torn,)
    assert cold.reply(Request(job=asked, chunks={torn: chunks[torn]}), quiet, NOW_S).made is not None


def test_a_job_that_is_stopped_goes_on_from_its_checkpoint(warm, micro_parts, small_text, shelf):
    asked = job_of(micro_parts, small_text, batch_of(1), steps=60)

    def stop(stage, done):
        if done > 0.9:
            raise Stopped(stage)

    with pytest.raises(Stopped):
        warm.reply(Request(job=asked), stop, NOW_S)
    assert list(shelf.root.glob(f"training/{asked.name}/*.safetensors"))
    told = []
    reply = warm.reply(Request(job=asked), lambda stage, done: told.append((stage, done)), NOW_S)
    assert min(done for stage, done in told if stage == "percept") > 0.8
    assert parts_of(reply, micro_parts, shelf) == made_here(micro_parts, asked, small_text).parts
    assert not list(shelf.root.glob("training/*"))


@pytest.mark.parametrize(("age_s", "kept"), [(KEPT_S - 1, True), (KEPT_S + 1, False)])
def test_what_nobody_used_for_two_weeks_is_deleted(warm, micro_parts, small_text, shelf, age_s, kept):
    shelf.put("parts/old", b"x")
    os.utime(shelf.root / "parts/old", (NOW_S - age_s,) * 2)
    warm.reply(Request(job=job_of(micro_parts, small_text, batch_of(1))), quiet, NOW_S)
    assert shelf.has("parts/old") is kept


# The handler


@pytest.mark.anyio
async def test_a_handler_answers_and_tells_how_far_it_is(warm, micro_parts, small_text):
    told = []
    asked = Request(job=job_of(micro_parts, small_text, batch_of(1), steps=2))
    output = await Handler(warm, lambda given, update: told.append((given["id"], update["stage"])))(
        {"id": "j-1", "input": asked.model_dump(mode="json")}
    )
    assert Reply.model_validate_json(json.dumps(output)).made is not None
    assert told == [("j-1", stage) for stage in ("merging", "percept", "keeping")]


@pytest.mark.anyio
async def test_a_cancelled_handler_stops_with_the_next_step_and_frees_the_worker(
    warm, micro_parts, small_text, shelf, eventually
):
    asked = Request(job=job_of(micro_parts, small_text, batch_of(1), steps=100_000))
    loop, training = asyncio.get_running_loop(), asyncio.Event()

    def tell(_given, update):
        if update["stage"] == "percept":
            loop.call_soon_threadsafe(training.set)

    given = {"id": "j-1", "input": asked.model_dump(mode="json")}
    life = asyncio.create_task(Handler(warm, tell)(given))
    await training.wait()
    life.cancel()
    with pytest.raises(asyncio.CancelledError):
        await life
    other = Request(job=job_of(micro_parts, small_text, batch_of(2)))
    output = await asyncio.wait_for(Handler(warm, tell)({"id": "j-2", "input": other.model_dump(mode="json")}), 30)
    assert output["made"]


@pytest.mark.anyio
@pytest.mark.parametrize("given", [{}, {"prompt": "hello"}, {"wanted": [1]}, {"job": {}}])
async def test_what_is_no_request_fails_by_its_first_fault(warm, given):
    if not given:
        assert (await Handler(warm, quiet)({"id": "j-1", "input": given}))["chunks"] == {}
        return
    with pytest.raises(Rejected):
        await Handler(warm, quiet)({"id": "j-1", "input": given})
