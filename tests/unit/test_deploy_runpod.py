"""What RunPod is told of the worker, and asks of it."""

import json
from pathlib import Path

from common.wire.bundle import part_of
from services.trainer import folder, text
from services.trainer.app.worker import Shelf, Worker
from services.trainer.job import Reply

ROOT = Path(__file__).parents[2]
DATA = ROOT / "data"


def read(name):
    return json.loads((ROOT / ".runpod" / name).read_text(encoding="utf-8"))


def test_a_worker_of_the_image_makes_the_job_that_runpod_s_test_asks_for(tmp_path):
    shipped = folder.read(folder.shipped(DATA))
    worker = Worker(text.load(DATA), {part_of(data).digest: data for data in shipped.values()}, Shelf(tmp_path))
    for test in read("tests.json")["tests"]:
        output = worker.answer(test["input"], lambda *_: None, 0.0)
        made = Reply.model_validate_json(json.dumps(output)).made
        assert {path: part.digest for path, part in made.parts.items()} == {
            path: part_of(data).digest for path, data in shipped.items()
        }


def test_the_worker_asks_for_no_gpu():
    assert read("hub.json")["config"]["runsOn"] == read("tests.json")["config"]["runsOn"] == "CPU"
    assert read("hub.json")["type"] == "serverless"
