"""A training process killed with -9 at any step goes on to the same bytes."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

UNIT = Path(__file__).resolve().parents[1] / "unit"
sys.path.insert(0, str(UNIT))

from trainer_runs import PLAN, micro_model, same, start, tensors_of  # noqa: E402

from services.trainer import curves, loop  # noqa: E402

pytestmark = pytest.mark.live

EVERY = 10
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


def die_at(folder, step):
    """Runs the victim until it has made this step, and kills it before the next."""
    command = [sys.executable, "-c", VICTIM, str(folder)]
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
