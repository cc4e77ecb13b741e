"""A training process killed with -9 at any step goes on to the same bytes: a genesis' run, and a batch's."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import is_alive

UNIT = Path(__file__).resolve().parents[1] / "unit"
sys.path.insert(0, str(UNIT))

from test_trainer_consolidate import batch, run, update  # noqa: E402
from trainer_runs import PLAN, micro_model, same, start, tensors_of  # noqa: E402

from common.wire.codec import pack  # noqa: E402
from services.trainer import curves, folder, loop  # noqa: E402

pytestmark = pytest.mark.live

EVERY, STEPS = 10, 25
KILLED_AT = (3, EVERY + 1, 2 * EVERY)
# One interpreter, which costs more than the runs, and in it a process for each life.
LIVES = f"""
import os
import signal
import sys
sys.path[:0] = [{str(UNIT)!r}, {str(UNIT.parent)!r}]
from pathlib import Path
import torch
import torch._dynamo  # as a first step would in each life, a second long
from services.trainer import loop
torch.set_num_threads(1)
loop.CHECKPOINT_STEPS = {EVERY}
home, last = Path(sys.argv[1]), 0
def die_at(point):
    if point.step == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return point
%s
for last in {KILLED_AT}:
    if not (child := os.fork()):
        live()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, last
"""
TRAINS = """
from trainer_runs import micro_model, start
from services.trainer import curves
def live():
    with curves.Recorder(home, "seed") as recorder:
        for point in recorder.follow(start(micro_model(), checkpoint=home / "seed.safetensors")):
            die_at(point)
"""
CONSOLIDATES = f"""
from test_trainer_consolidate import HELD_OUT, REPLAY
from common.wire.codec import unpack
from common.wire.messages import Batch
from services.trainer import consolidate, folder
step = loop._step
loop._step = lambda *args: die_at(step(*args))
def live():
    given, parts = unpack(Batch, (home / "batch").read_bytes()), folder.read(home / "parent")
    options = {{"steps": {STEPS}, "seed": 1, "folder": home / "runs"}}
    consolidate.consolidate(parts, given, replay=REPLAY, held_out=HELD_OUT, **options)
"""


def killed_again_and_again(folder, work):
    """One life after the other, each ended as it has made its step and before the next."""
    subprocess.run([sys.executable, "-c", LIVES % work, str(folder)], check=True)


def test_a_process_killed_again_and_again_ends_with_the_bytes_of_the_undisturbed_run(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(loop, "CHECKPOINT_STEPS", EVERY)
    whole, resumed = micro_model(), micro_model()
    points = list(start(whole))
    killed_again_and_again(tmp_path, TRAINS)
    with curves.Recorder(tmp_path, "seed") as recorder:
        list(recorder.follow(start(resumed, checkpoint=tmp_path / "seed.safetensors")))
    assert same(tensors_of(resumed), tensors_of(whole))
    assert curves.read(tmp_path)["seed"] == points
    assert len(points) == PLAN.steps


def test_a_batch_whose_trainer_is_killed_again_and_again_becomes_the_same_candidate(
    tmp_path, monkeypatch, micro, micro_parts
):
    monkeypatch.setattr(loop, "CHECKPOINT_STEPS", EVERY)
    one = update(micro)
    (tmp_path / "batch").write_bytes(pack(batch(one)))
    folder.write(micro_parts, tmp_path / "parent")
    whole = run(micro_parts, one, steps=STEPS)
    killed_again_and_again(tmp_path, CONSOLIDATES)
    assert len(list((tmp_path / "runs").glob("*.safetensors"))) == 1
    assert run(micro_parts, one, steps=STEPS, folder=tmp_path / "runs") == whole


POOL = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from services.trainer.recipe import end_with_parent
pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=end_with_parent)
print(pool.submit(os.getpid).result(), flush=True)
pool.submit(time.sleep, 600)
time.sleep(600)
"""


def test_the_workers_of_branches_end_with_the_process_that_trains_however_that_ends():
    with subprocess.Popen([sys.executable, "-c", POOL], stdout=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())
        assert is_alive(worker)
        parent.kill()
    deadline_s = time.monotonic() + 60
    while is_alive(worker) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert not is_alive(worker)
