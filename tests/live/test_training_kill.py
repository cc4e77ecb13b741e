"""A training process killed with -9 at any step goes on to the same bytes: a genesis' run, and a batch's."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

UNIT = Path(__file__).resolve().parents[1] / "unit"
sys.path.insert(0, str(UNIT))

from test_trainer_consolidate import batch, run, update  # noqa: E402
from trainer_runs import PLAN, micro_model, same, start, tensors_of  # noqa: E402

from common.wire.codec import pack  # noqa: E402
from services.trainer import curves, folder, loop  # noqa: E402

pytestmark = pytest.mark.live

EVERY, STEPS = 10, 25
VICTIM = f"""
import sys
sys.path.insert(0, {str(UNIT)!r})
from pathlib import Path
import torch
from trainer_runs import micro_model, start
from services.trainer import curves, loop
torch.set_num_threads(1)
loop.CHECKPOINT_STEPS = {EVERY}
folder = Path(sys.argv[1])
with curves.Recorder(folder, "seed") as recorder:
    for point in recorder.follow(start(micro_model(), checkpoint=folder / "seed.safetensors")):
        print(point.step, flush=True)
        sys.stdin.readline()
"""


CONSOLIDATES = f"""
import sys
sys.path[:0] = [{str(UNIT)!r}, {str(UNIT.parent)!r}]
from pathlib import Path
from test_trainer_consolidate import HELD_OUT, REPLAY
from common.wire.codec import unpack
from common.wire.messages import Batch
from services.trainer import consolidate, folder, loop
loop.CHECKPOINT_STEPS = {EVERY}
home, step = Path(sys.argv[1]), loop._step
def told(*args):
    point = step(*args)
    print(point.step, flush=True)
    sys.stdin.readline()
    return point
loop._step = told
given = unpack(Batch, (home / "batch").read_bytes())
parts = folder.read(home / "parent")
consolidate.consolidate(parts, given, replay=REPLAY, held_out=HELD_OUT, steps={STEPS}, seed=1, folder=home / "runs")
"""


def die_at(folder, step, program=VICTIM):
    """Runs the victim until it has made this step, and kills it before the next."""
    command = [sys.executable, "-c", program, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as victim:
        for line in victim.stdout:
            if int(line) == step:
                break
            victim.stdin.write("\n")
            victim.stdin.flush()
        victim.send_signal(signal.SIGKILL)
        assert victim.wait() == -signal.SIGKILL


def test_a_process_killed_again_and_again_ends_with_the_bytes_of_the_undisturbed_run(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(loop, "CHECKPOINT_STEPS", EVERY)
    whole, resumed = micro_model(), micro_model()
    points = list(start(whole))
    for step in (3, EVERY + 1, 2 * EVERY):
        die_at(tmp_path, step)
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
    for step in (3, EVERY + 1, 2 * EVERY):
        die_at(tmp_path, step, CONSOLIDATES)
    assert len(list((tmp_path / "runs").glob("*.safetensors"))) == 1
    assert run(micro_parts, one, steps=STEPS, folder=tmp_path / "runs") == whole
