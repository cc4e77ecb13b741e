"""RunPod's own program with our worker in it: one input at the command line, and jobs through its API."""

import json
from pathlib import Path

import httpx2
import pytest
import runpod_api
from corpora import small_corpora
from jobs import batch_of, job_of

from common.errors import Rejected, Unavailable
from common.runtime.settings import RunPodSettings
from common.wire.bundle import part_of
from common.wire.codec import unpack
from common.wire.messages import Batch
from services.trainer import folder, growth, job, text
from services.trainer.app.hashes import CANDIDATE, JOB
from services.trainer.app.runpod import Endpoint
from services.trainer.consolidate import consolidate
from services.trainer.job import Request

pytestmark = [pytest.mark.live, pytest.mark.anyio, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def data(tmp_path_factory, micro_parts):
    """The text of a worker's image, and its genesis."""
    runpod_api.needed()
    made = small_corpora(tmp_path_factory.mktemp("image") / "data")
    folder.write(folder.pack(micro_parts), folder.shipped(made))
    return made


@pytest.fixture(scope="module")
def owned(data):
    return text.load(data)


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    return tmp_path_factory.mktemp("volume")


@pytest.fixture(scope="module")
def url(data, volume):
    with runpod_api.api(data, volume) as url:
        yield url


@pytest.fixture
async def connect(broker):
    opened = []

    def begin(url):
        opened.append(Endpoint(url, RunPodSettings(runpod_endpoint=url), broker))
        return opened[-1]

    yield begin
    for endpoint in opened:
        await endpoint.close()


@pytest.fixture
async def stored(broker, micro_parts):
    """The parent's parts lie at the broker."""
    for part in micro_parts.values():
        await broker.put_blob(part)


async def until_made(endpoint, asked, tries=20):
    for _ in range(tries):
        try:
            return await endpoint.made(asked)
        except Unavailable as error:
            last = error
    raise last


def here(parts, asked, owned):
    """What a trainer makes of the job itself."""
    return consolidate(
        parts, unpack(Batch, asked.batch), replay=owned.replay, held_out=owned.held_out, parents=owned.parents,
        steps=asked.steps, seed=asked.seed,
    )  # fmt: skip


def test_one_input_at_the_command_line_is_answered(data, owned, micro_parts, tmp_path):
    asked = Request(job=job_of(micro_parts, owned, batch_of(1)))
    code, said = runpod_api.answer(
        json.dumps({"input": asked.model_dump(mode="json", exclude_defaults=True)}), data, tmp_path
    )
    assert code == 0, said
    assert "completed successfully" in said
    assert asked.job.name in {path.stem for path in tmp_path.glob("qig/made/*.json")}


def test_what_runpod_s_hub_asks_is_answered_with_the_text_and_the_genesis_of_the_image(tmp_path):
    runpod_api.needed()
    (test,) = json.loads(Path(".runpod/tests.json").read_text(encoding="utf-8"))["tests"]
    code, said = runpod_api.answer(json.dumps(test), Path("data"), tmp_path)
    assert code == 0, said
    assert len(list(tmp_path.glob("qig/made/*.json"))) == 1


def test_an_input_that_is_no_request_fails_with_its_first_fault(url):
    answer = httpx2.post(f"{url}/runsync", json={"input": {"prompt": "hello"}}).json()
    assert answer["status"] == "FAILED"
    assert "unknown_field: Request has no field prompt" in answer["error"]


async def test_a_job_comes_back_as_a_trainer_would_have_made_it_to_the_byte(
    url, connect, stored, broker, micro_parts, owned
):
    asked = job_of(micro_parts, owned, batch_of(2), steps=2)
    made = await until_made(connect(url), asked)
    mine = here(micro_parts, asked, owned)
    for path, part in made.parts.items():
        assert await broker.get_blob(part.digest, part.size_bytes) == mine.parts[path]
    assert (made.figures, made.guards) == (mine.figures, mine.guards)


async def test_a_parent_that_the_image_has_not_is_brought_in_several_requests(
    url, connect, broker, micro_parts, micro_larger, owned, monkeypatch
):
    parent = micro_parts | growth.parts(micro_larger)
    for data in parent.values():
        await broker.put_blob(data)
    monkeypatch.setattr(job, "LOAD_BYTES", 60_000)
    asked = job_of(parent, owned, batch_of(3))
    made = await until_made(connect(url), asked)
    mine = here(parent, asked, owned)
    assert {path: part.digest for path, part in made.parts.items()} == {
        path: part_of(data).digest for path, data in mine.parts.items()
    }


async def test_a_batch_that_is_wrong_in_itself_is_refused_there_as_here(url, connect, stored, micro_parts, owned):
    with pytest.raises(Rejected) as there:
        await until_made(connect(url), job_of(micro_parts, owned, batch_of(4, b"no crystals")))
    with pytest.raises(Rejected) as own:
        here(micro_parts, job_of(micro_parts, owned, batch_of(4, b"no crystals")), owned)
    assert str(there.value) == str(own.value)


async def test_a_job_that_was_lost_with_its_queue_is_submitted_again_and_not_made_again(
    url, data, volume, connect, stored, micro_parts, owned
):
    asked = job_of(micro_parts, owned, batch_of(5))
    made = await until_made(connect(url), asked)
    with runpod_api.api(data, volume) as other:
        endpoint = connect(other)
        with pytest.raises(Unavailable, match="job_unknown"):  # noted before, and this queue has never heard of it
            await endpoint.made(asked)
        assert await until_made(endpoint, asked) == made  # with the seconds it took the first time


async def test_a_worker_that_fails_is_one_of_the_batch_s_tries(
    data, connect, stored, broker, micro_parts, owned, tmp_path
):
    (tmp_path / "qig").write_text("no directory")
    asked = job_of(micro_parts, owned, batch_of(6))
    with runpod_api.api(data, tmp_path) as url, pytest.raises(RuntimeError, match=r"is FAILED: .*NotADirectoryError"):
        await until_made(connect(url), asked)
    assert JOB not in await broker.read_hash(CANDIDATE)
