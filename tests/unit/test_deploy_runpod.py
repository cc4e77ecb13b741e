"""What RunPod is told of the worker, and asks of it."""

import json
from pathlib import Path

from common.wire.bundle import part_of
from services.trainer import folder, text
from services.trainer.app.worker import Shelf, Worker
from services.trainer.job import Reply

ROOT = Path(__file__).parents[2]
DATA = ROOT / "data"
TESTS = json.loads((ROOT / ".runpod" / "tests.json").read_text(encoding="utf-8"))


def test_a_worker_of_the_image_makes_the_job_that_runpod_s_test_asks_for(tmp_path):
    shipped = folder.read(folder.shipped(DATA))
    worker = Worker(text.load(DATA), {part_of(data).digest: data for data in shipped.values()}, Shelf(tmp_path))
    for test in TESTS["tests"]:
        output = worker.answer(test["input"], lambda *_: None, 0.0)
        made = Reply.model_validate_json(json.dumps(output)).made
        assert {path: part.digest for path, part in made.parts.items()} == {
            path: part_of(data).digest for path, data in shipped.items()
        }


def test_the_hub_is_told_what_its_guide_asks_for_and_that_no_gpu_is_wanted():
    """docs.runpod.io/hub/publishing-guide, its required fields for a machine without a GPU."""
    hub = json.loads((ROOT / ".runpod" / "hub.json").read_text(encoding="utf-8"))
    assert hub.keys() == {"title", "description", "type", "category", "config"}
    assert hub["type"] == "serverless"
    assert hub["category"] in {"audio", "embedding", "language", "video", "image"}
    assert hub["config"].keys() == {"runsOn", "cpuFlavor", "containerDiskInGb"}  # no env: the image has its settings
    assert hub["config"]["runsOn"] == "CPU"
    assert isinstance(hub["config"]["containerDiskInGb"], int)


def test_the_files_that_the_hub_looks_for_are_there():
    for name in ("handler.py", "Dockerfile", "README.md"):  # .runpod goes before the root
        assert (ROOT / ".runpod" / name).is_file() or (ROOT / name).is_file()
