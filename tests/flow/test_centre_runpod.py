"""A RunPod endpoint as RunPod itself answers, in all its states; tests/live/test_runpod.py asks the real program."""

import itertools
import json
import time

import httpx2
import pytest
from jobs import batch_of, job_of

from common.errors import Corrupt, Rejected, Unavailable
from common.runtime import metrics
from common.runtime.settings import RunPodSettings
from services.trainer import job
from services.trainer.app import runpod as room
from services.trainer.app.hashes import CANDIDATE, JOB
from services.trainer.app.runpod import Endpoint, Note
from services.trainer.app.worker import Shelf, Worker
from services.trainer.job import Refused, Reply

pytestmark = pytest.mark.anyio
NOW_S = 1_700_000_000.0  # before any file was written: nothing is forgotten


class Platform:
    """RunPod's queue in front of a worker. state: what every job is said to be; None: what becomes of it. sync: the
    same of what is to be answered at once.
    """

    def __init__(self, worker):
        self.worker = worker
        self.jobs, self.asked, self.state, self.sync, self.status = {}, [], None, None, 200
        self.numbers = itertools.count(1)

    def __call__(self, request):
        path = request.url.path.removeprefix("/v2/e1/")
        self.asked.append((request.method, path, request.headers.get("authorization")))
        if self.status != 200:
            return httpx2.Response(self.status)
        body = json.loads(request.content) if request.content else {}
        if path == "run":
            name = f"j-{next(self.numbers)}"
            self.jobs[name] = body
            return httpx2.Response(200, json={"id": name, "status": "IN_QUEUE"})
        if path == "runsync":
            self.jobs["sync"] = body
            found = {"status": self.sync} if self.sync else self.run(body)
            return httpx2.Response(200, json={"id": "sync", **found})
        verb, name = path.split("/")
        if name not in self.jobs:
            return httpx2.Response(404)
        if verb == "cancel":
            del self.jobs[name]
            return httpx2.Response(200, json={"id": name, "status": "CANCELLED"})
        found = {"status": self.state} if self.state else self.run(self.jobs[name])
        return httpx2.Response(200, json={"id": name, **found})

    def run(self, body):
        return {"status": "COMPLETED", "output": self.worker(body["input"])}

    @property
    def submitted(self):
        return [path for method, path, _ in self.asked if (method, path) == ("POST", "run")]


@pytest.fixture
def platform(tmp_path, small_text):
    worker = Worker(small_text, {}, Shelf(tmp_path / "shelf"))
    return Platform(lambda given: worker.answer(given, lambda *_: None, NOW_S))


@pytest.fixture
async def connect(broker, platform):
    """An endpoint as a trainer that has just started has it."""
    opened = []

    def begin(**given):
        settings = RunPodSettings(runpod_endpoint="https://api.runpod.ai/v2/e1", **given)
        endpoint = Endpoint(settings.runpod_endpoint, settings, broker)
        endpoint._http._transport = httpx2.MockTransport(platform)
        opened.append(endpoint)
        return endpoint

    yield begin
    for endpoint in opened:
        await endpoint.close()


@pytest.fixture
async def asked(broker, micro_parts, small_text):
    """A job whose parent's parts lie at the broker."""
    for data in micro_parts.values():
        await broker.put_blob(data)
    return job_of(micro_parts, small_text, batch_of(1))


async def until_made(endpoint, asked, tries=20):
    """As the consumer does it: again and again, while it is not available."""
    for _ in range(tries):
        try:
            return await endpoint.made(asked)
        except Unavailable as error:
            last = error
    raise last


async def noted(broker):
    return (await broker.read_hash(CANDIDATE)).get(JOB)


async def test_a_job_ends_with_its_new_parts_in_the_store(connect, asked, broker, platform):
    made = await until_made(connect(), asked)
    new = [part for part in made.parts.values() if part.digest not in {each.digest for each in asked.parts.values()}]
    assert new
    for part in new:
        assert len(await broker.get_blob(part.digest, part.size_bytes)) == part.size_bytes
    assert len(platform.submitted) == 2  # with nothing, then with all that was missing


async def test_what_one_request_does_not_hold_goes_in_several_and_comes_in_several(
    connect, asked, broker, platform, monkeypatch
):
    monkeypatch.setattr(job, "LOAD_BYTES", 40_000)
    monkeypatch.setattr(job, "CHUNK_BYTES", 300)
    made = await until_made(connect(), asked, tries=60)
    assert len(platform.submitted) > 2
    for part in made.parts.values():
        assert await broker.get_blob(part.digest, part.size_bytes) is not None


@pytest.mark.parametrize("state", ["IN_QUEUE", "IN_PROGRESS"])
async def test_what_no_worker_gives_in_time_is_cancelled_before_it_is_asked_for_again(connect, asked, platform, state):
    endpoint, real = connect(), platform.worker
    platform.worker = lambda given: real(given) | ({"chunks": {}} if "job" in given else {})
    platform.sync = state
    with pytest.raises(Unavailable, match="no worker gave the rest"):
        await until_made(endpoint, asked)
    asked_for = [path for _, path, _ in platform.asked if path in ("runsync", "cancel/sync")]
    assert asked_for
    assert asked_for == ["runsync", "cancel/sync"] * (len(asked_for) // 2)
    platform.sync = None
    assert await until_made(endpoint, asked)


async def test_a_trainer_that_starts_again_asks_for_the_job_that_runs(connect, asked, broker, platform):
    with pytest.raises(Unavailable, match="job_begun"):
        await connect().made(asked)
    platform.state = "IN_PROGRESS"
    before = await noted(broker)
    for _ in range(3):
        with pytest.raises(Unavailable, match="job_under_way"):
            await connect().made(asked)
    assert await noted(broker) == before
    assert len(platform.submitted) == 1


async def test_a_job_began_when_it_was_submitted_first_however_often_it_is_asked_for(connect, asked, platform):
    endpoint, before_s = connect(), time.time()
    assert await endpoint.began_s() == 0.0
    with pytest.raises(Unavailable, match="job_begun"):
        await endpoint.made(asked)
    began_s = await endpoint.began_s()
    assert before_s <= began_s <= time.time()
    with pytest.raises(Unavailable, match=r"job_begun: .* lacked"):
        await endpoint.made(asked)
    platform.state = "IN_PROGRESS"
    with pytest.raises(Unavailable, match="job_under_way"):
        await connect().made(asked)
    assert await connect().began_s() == began_s


@pytest.mark.parametrize("state", room.UNDER_WAY)
async def test_a_job_that_waits_or_runs_is_waited_for(connect, asked, broker, platform, state):
    endpoint, platform.state = connect(), state
    for code in ("job_begun", "job_under_way"):
        with pytest.raises(Unavailable, match=code):
            await endpoint.made(asked)
    assert await noted(broker)


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED", "TIMED_OUT"])
async def test_a_job_that_came_to_no_end_is_one_of_the_batch_s_tries_and_the_next_is_another_job(
    connect, asked, broker, platform, state
):
    endpoint, platform.state = connect(), state
    with pytest.raises(Unavailable):
        await endpoint.made(asked)
    with pytest.raises(RuntimeError, match=f"is {state}"):
        await endpoint.made(asked)
    assert await noted(broker) is None
    platform.state = None
    assert await until_made(endpoint, asked)


async def test_a_job_whose_result_runpod_has_forgotten_is_submitted_again(connect, asked, broker, platform):
    endpoint = connect()
    with pytest.raises(Unavailable):
        await endpoint.made(asked)
    platform.jobs.clear()
    with pytest.raises(Unavailable, match="job_unknown"):
        await endpoint.made(asked)
    assert await noted(broker) is None
    assert await until_made(endpoint, asked)


async def test_a_job_on_another_parent_is_cancelled(connect, asked, broker, platform):
    endpoint, other = connect(), asked.model_copy(update={"seed": 1})
    for each in (other, asked):
        with pytest.raises(Unavailable, match="job_begun"):
            await endpoint.made(each)
    assert [path for _, path, _ in platform.asked] == ["run", "cancel/j-1", "run"]
    assert Note.model_validate_json(await noted(broker)).job == asked.name


@pytest.mark.parametrize(("corrupt", "kind"), [(False, Rejected), (True, Corrupt)])
async def test_a_batch_that_the_worker_refused_is_refused_here(connect, asked, broker, platform, corrupt, kind):
    told = Reply(refused=Refused(code="bad_batch", reason="so", corrupt=corrupt))
    platform.worker = lambda _: told.model_dump(mode="json")
    with pytest.raises(kind, match="bad_batch: so"):
        await until_made(connect(), asked)
    assert await noted(broker) is None


async def test_a_worker_with_other_text_is_not_asked_again_before_its_answer_is_forgotten(connect, asked, platform):
    endpoint, other = connect(), asked.model_copy(update={"text": "0" * 64})
    with pytest.raises(Unavailable, match=r"other_text: .*give both the same QIG_DATA"):
        await until_made(endpoint, other)
    assert len(platform.submitted) == 1


async def test_more_missing_chunks_than_a_reply_names_are_brought_all(connect, asked, platform, monkeypatch):
    monkeypatch.setattr(job, "CHUNK_BYTES", 20_000)
    monkeypatch.setattr(job, "NAMES_MAX", 2)
    assert len(job.all_names(asked.parts.values())) > 3 * job.NAMES_MAX
    assert await until_made(connect(), asked, tries=100)


@pytest.mark.parametrize("names_max", [job.NAMES_MAX, 2])
async def test_workers_that_share_no_volume_are_found_out(
    connect, asked, platform, small_text, tmp_path, monkeypatch, names_max
):
    monkeypatch.setattr(job, "NAMES_MAX", names_max)
    numbers = itertools.count()

    def forgetful(given):
        worker = Worker(small_text, {}, Shelf(tmp_path / f"shelf-{next(numbers)}"))
        return worker.answer(given, lambda *_: None, NOW_S)

    platform.worker = forgetful
    monkeypatch.setattr(job, "LOAD_BYTES", 40_000)
    with pytest.raises(Unavailable, match=r"chunks_forgotten: .*attach a network volume"):
        await until_made(connect(), asked, tries=30)
    assert len(platform.submitted) == 3


@pytest.mark.parametrize("output", [None, {}, {"made": "yes"}, {"chunks": {}}])
async def test_what_is_no_reply_to_a_job_is_one_of_the_batch_s_tries(connect, asked, broker, platform, output):
    platform.worker = lambda _: output
    with pytest.raises(RuntimeError, match="is COMPLETED"):
        await until_made(connect(), asked)
    assert await noted(broker) is None


async def test_parts_that_are_not_what_they_should_be_are_not_stored_and_are_asked_for_again(
    connect, asked, broker, platform
):
    real = platform.worker

    def torn(given):
        output = real(given)
        return output | {"chunks": dict.fromkeys(output["chunks"], "00")}

    platform.worker = torn
    with pytest.raises(RuntimeError, match="not what it promised"):
        await until_made(connect(), asked)
    platform.worker = real
    assert await until_made(connect(), asked)  # by another job


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "runpod_refused: .*QIG_RUNPOD_KEY"), (404, "runpod_refused: .*QIG_RUNPOD_ENDPOINT"), (429, "runpod_away"),
     (500, "runpod_away")],
)  # fmt: skip
async def test_an_endpoint_that_does_not_take_the_job_is_waited_for(connect, asked, broker, platform, status, message):
    platform.status = status
    with pytest.raises(Unavailable, match=message):
        await connect().made(asked)
    assert await noted(broker) is None


async def test_a_platform_that_is_away_is_waited_for_and_the_job_stays_noted(connect, asked, broker, platform):
    endpoint = connect()
    with pytest.raises(Unavailable):
        await endpoint.made(asked)

    def away(_request):
        raise httpx2.ConnectError("no route")

    endpoint._http._transport = httpx2.MockTransport(away)
    with pytest.raises(Unavailable, match="runpod_away"):
        await endpoint.made(asked)
    assert await noted(broker)


async def test_the_key_goes_with_every_request(connect, asked, platform, tmp_path):
    (tmp_path / "key").write_text("rpa_secret\n")
    await until_made(connect(runpod_key=tmp_path / "key"), asked)
    assert {key for _, _, key in platform.asked} == {"Bearer rpa_secret"}


DAY_S = 86_400


@pytest.mark.parametrize(
    ("timeout_s", "ttl_s"),
    [(90, 90 + DAY_S), (6 * DAY_S - 1, 7 * DAY_S - 1), (6 * DAY_S, 7 * DAY_S), (6 * DAY_S + 1, 7 * DAY_S),
     (7 * DAY_S, 7 * DAY_S)],
)  # fmt: skip
async def test_a_job_may_wait_a_day_before_its_limit_and_no_longer_than_runpod_allows(
    connect, asked, platform, timeout_s, ttl_s
):
    with pytest.raises(Unavailable, match="job_begun"):
        await connect(runpod_timeout_s=timeout_s).made(asked)
    (submitted,) = platform.jobs.values()
    assert submitted["policy"] == {"executionTimeout": 1000 * timeout_s, "ttl": 1000 * ttl_s}
    assert metrics.JOB_LIMIT._value.get() == timeout_s  # the alert leaves it that time


async def test_a_key_that_cannot_be_read_stops_the_start(connect, tmp_path):
    with pytest.raises(Rejected, match="bad_setting: QIG_RUNPOD_KEY="):
        connect(runpod_key=tmp_path / "none")


@pytest.mark.parametrize("text", [b"", b"\n", b"rpa_one\nrpa_two", b"rpa one", b"\xff", "schlüssel".encode()])
async def test_a_file_without_a_key_stops_the_start_and_is_not_shown(connect, tmp_path, text):
    """In a request it would read as a RunPod that does not answer, with the key in the log."""
    (tmp_path / "key").write_bytes(text)
    with pytest.raises(Rejected, match=r"bad_setting: QIG_RUNPOD_KEY=.* holds no key") as raised:
        connect(runpod_key=tmp_path / "key")
    assert "rpa" not in str(raised.value)
