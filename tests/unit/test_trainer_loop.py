"""A run repeats bit for bit, resumes bit for bit, and stops with a reason."""

import errno
import itertools
import math
import os

import numpy as np
import pytest
import safetensors
import torch
from trainer_runs import BASINS, PLAN, SPEC, TEXT, micro_model, one_thread, same, start, tensors_of  # noqa: F401

from common.constants import AHEAD_TOKENS
from common.errors import Corrupt, Rejected, Unavailable
from common.kernels.spec import Spec
from services.trainer import checkpoint, loop
from services.trainer.loop import Plan, train

EVERY = 10  # steps a checkpoint in these tests: five times as often as in a real run


@pytest.fixture(autouse=True)
def often(monkeypatch):
    assert loop.CHECKPOINT_STEPS == 50
    monkeypatch.setattr(loop, "CHECKPOINT_STEPS", EVERY)


@pytest.fixture(scope="module")
def undisturbed():
    """The weights and the curve of a run that nothing happened to."""
    torch.set_num_threads(1)
    model = micro_model()
    points = list(start(model))
    return tensors_of(model), points


def test_the_run_of_these_tests_reaches_its_end_and_learns(undisturbed):
    _, points = undisturbed
    assert [point.step for point in points] == list(range(1, PLAN.steps + 1))
    assert {point.verdict for point in points} <= {"GO", "RENEW"}
    assert points[-1].loss < 0.9 * points[0].loss


def test_two_runs_with_one_seed_are_the_same_bit_for_bit(undisturbed):
    model = micro_model()
    assert list(start(model)) == undisturbed[1]
    assert same(tensors_of(model), undisturbed[0])


def test_another_seed_draws_other_windows():
    runs = [[p.loss for p in start(micro_model(), Plan(3, 4, seed))] for seed in (1, 2)]
    assert runs[0] != runs[1]


@pytest.mark.parametrize("died", [1, EVERY, EVERY + 1, 2 * EVERY, 2 * EVERY + 1, 25])
def test_a_run_killed_and_resumed_equals_the_undisturbed_one(undisturbed, tmp_path, died):
    file = tmp_path / "run.safetensors"
    killed = start(micro_model(), checkpoint=file)
    before = list(itertools.islice(killed, died))
    killed.close()
    assert file.exists() == (died > EVERY)
    model = micro_model()
    after = list(start(model, checkpoint=file))
    kept = (died - 1) // EVERY * EVERY
    assert before[:kept] + after == undisturbed[1]
    assert same(tensors_of(model), undisturbed[0])


def test_at_the_real_checkpoint_interval_a_killed_run_equals_the_undisturbed_one(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_STEPS", 50)
    file, plan = tmp_path / "run.safetensors", Plan(60, 4, 11, warmup=5, phi_from=8)
    whole, model = micro_model(), micro_model()
    points = list(start(whole, plan, checkpoint=file))
    file.unlink()
    list(itertools.islice(start(micro_model(), plan, checkpoint=file), 51))
    assert list(start(model, plan, checkpoint=file)) == points[50:]
    assert len(points) == 60
    assert same(tensors_of(model), tensors_of(whole))


def test_a_run_killed_twice_still_equals_the_undisturbed_one(undisturbed, tmp_path):
    file = tmp_path / "run.safetensors"
    for _ in range(2):
        list(itertools.islice(start(micro_model(), checkpoint=file), EVERY + 1))
    model = micro_model()
    list(start(model, checkpoint=file))
    assert same(tensors_of(model), undisturbed[0])


def test_a_finished_run_resumes_to_nothing(undisturbed, tmp_path):
    file, model = tmp_path / "run.safetensors", micro_model()
    list(start(micro_model(), checkpoint=file))
    assert list(start(model, checkpoint=file)) == []
    assert same(tensors_of(model), undisturbed[0])


def test_the_optimisers_state_is_restored_and_not_only_the_weights(tmp_path):
    file = tmp_path / "run.safetensors"
    list(itertools.islice(start(micro_model(), checkpoint=file), EVERY + 1))
    model = micro_model()
    run = checkpoint.Run(model, loop._optimisers(model))
    checkpoint.load(run, file)
    muon, adam = (optimiser.state_dict()["state"] for optimiser, _ in run.optimisers)
    assert all(state["momentum_buffer"].abs().max() > 0 for state in muon.values())
    assert {float(state["step"]) for state in adam.values()} == {float(EVERY)}
    assert all(state["exp_avg_sq"].max() > 0 for state in adam.values())
    assert (len(muon), len(adam)) == (4, len(model.tensors) - 4)


def test_a_resume_without_the_optimisers_state_would_differ(undisturbed, tmp_path, monkeypatch):
    file, model = tmp_path / "run.safetensors", micro_model()
    list(itertools.islice(start(micro_model(), checkpoint=file), EVERY + 1))
    monkeypatch.setattr(torch.optim.Muon, "load_state_dict", lambda *_: None)
    list(start(model, checkpoint=file))
    assert not same(tensors_of(model), undisturbed[0])


def test_a_poisoned_embedding_ends_the_run_with_the_last_good_weights(tmp_path):
    file, model = tmp_path / "run.safetensors", micro_model()
    run = start(model, checkpoint=file)
    points = list(itertools.islice(run, EVERY + 1))
    with torch.no_grad():
        model.tensors["embed"][7] = torch.nan
    points += list(run)
    assert [p.verdict for p in points[-2:]] == ["GO", "RESTORE"]
    assert points[-1].reason == "the loss is nan"
    with safetensors.safe_open(file, "pt") as saved:
        good = {name: saved.get_tensor(f"model/{name}").numpy() for name in model.tensors}
    assert same(tensors_of(model), good)


def test_before_the_first_checkpoint_the_last_good_weights_are_the_first():
    model = micro_model()
    fresh, run = tensors_of(model), start(model)
    next(run)
    with torch.no_grad():
        model.tensors["embed"][7] = torch.inf
    assert [point.verdict for point in run] == ["RESTORE"]
    assert same(tensors_of(model), fresh)


def test_a_gradient_that_is_not_finite_never_reaches_the_weights():
    model = micro_model()
    fresh, run = tensors_of(model), start(model)
    model.tensors["leave"].register_hook(lambda gradient: gradient * torch.nan)
    (point,) = run
    assert (point.verdict, point.reason, math.isfinite(point.loss)) == ("RESTORE", "the gradient is nan", True)
    assert same(tensors_of(model), fresh)


def test_a_collapsed_basin_head_is_a_phi_that_is_not_known():
    model = micro_model()
    run = start(model)
    next(run)
    with torch.no_grad():
        model.tensors["basin|weight"].zero_()
    assert [(point.verdict, point.phi) for point in run] == [("RESTORE", None)]


def _full(_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_stops_the_run_and_leaves_its_weights(tmp_path, monkeypatch):
    file, model, other = tmp_path / "run.safetensors", micro_model(), micro_model()
    monkeypatch.setattr(checkpoint.os, "fsync", _full)
    with pytest.raises(Unavailable, match=r"run.safetensors: No space left on device") as error:
        list(start(model, checkpoint=file))
    list(itertools.islice(start(other), EVERY))
    assert error.value.code == "checkpoint"
    assert same(tensors_of(model), tensors_of(other))
    assert list(tmp_path.iterdir()) == []


def test_after_a_full_disk_the_run_resumes_from_the_checkpoint_before(undisturbed, tmp_path, monkeypatch):
    file, model = tmp_path / "run.safetensors", micro_model()
    run = start(micro_model(), checkpoint=file)
    list(itertools.islice(run, EVERY + 1))
    monkeypatch.setattr(checkpoint.os, "fsync", _full)
    with pytest.raises(Unavailable):
        list(run)
    monkeypatch.undo()
    list(start(model, checkpoint=file))
    assert same(tensors_of(model), undisturbed[0])


def test_a_folder_that_is_not_there_is_unavailable(tmp_path):
    with pytest.raises(Unavailable, match="can't write"):
        list(start(micro_model(), checkpoint=tmp_path / "gone" / "run.safetensors"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.set_num_threads(1)
    file = tmp_path_factory.mktemp("saved") / "run.safetensors"
    list(start(micro_model(), Plan(1, 4, 0), checkpoint=file))
    return file.read_bytes()


DAMAGE = {
    "empty": lambda data: data[:0],
    "text": lambda data: b"not " + data,
    "truncated": lambda data: data[:-1],
    "a bit of a tensor": lambda data: data[:-40] + bytes([data[-40] ^ 1]) + data[-39:],
    "another step": lambda data: data.replace(b'"step":"1"', b'"step":"2"'),
    "no metadata": lambda data: data.replace(b"__metadata__", b"__metadatb__"),
    "another digest": lambda data: data.replace(b'"sha256":"', b'"sha257":"'),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_checkpoint_is_corrupt_and_touches_nothing(tmp_path, saved, how):
    file, model = tmp_path / "run.safetensors", micro_model()
    damaged = DAMAGE[how](saved)
    assert damaged != saved
    file.write_bytes(damaged)
    fresh = tensors_of(model)
    with pytest.raises(Corrupt, match=r"run.safetensors is not a checkpoint .* delete it") as error:
        next(start(model, checkpoint=file))
    assert error.value.code == "checkpoint"
    assert same(tensors_of(model), fresh)


def test_a_checkpoint_of_another_size_is_corrupt(tmp_path, saved):
    file = tmp_path / "run.safetensors"
    file.write_bytes(saved)
    model = micro_model(Spec("wide", vocab=64, width=24, layers=1, loops=2, heads=2, context=32))
    with pytest.raises(Corrupt, match="has shape"):
        next(start(model, checkpoint=file))


@pytest.mark.parametrize("short", [0, 1])
def test_a_text_too_short_for_a_window_is_rejected(short):
    needed = SPEC.context + AHEAD_TOKENS + 2
    run = train(micro_model(), TEXT[: needed - short], BASINS, Plan(1, 4, 0))
    if not short:
        assert len(list(run)) == 1
        return
    with pytest.raises(Rejected, match=f"{needed - 1} tokens") as error:
        next(run)
    assert error.value.code == "text_too_short"


def test_the_rate_warms_up_stays_and_falls_to_a_twentieth():
    plan = Plan(steps=100, windows=1, seed=0, warmup=10, decay=0.5)
    rates = [loop.rate_at(step, plan) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:51] == [1.0] * 42
    assert np.all(np.diff(rates[50:98]) < 0)
    assert rates[100] == loop.FINAL_RATE


def test_a_plan_without_decay_keeps_its_rate():
    assert loop.rate_at(99, Plan(steps=100, windows=1, seed=0, decay=0.0)) == 1.0


def test_progress_reaches_one():
    shares = []
    list(start(micro_model(), Plan(5, 4, 0), progress=shares.append))
    assert shares == [0.2, 0.4, 0.6, 0.8, 1.0]


def test_while_a_renewal_lasts_the_geometric_loss_goes_on(monkeypatch):
    wanted = []

    def spy(*arguments):
        wanted.append(arguments[5])
        return found(*arguments)

    found = loop.losses
    monkeypatch.setattr(loop, "losses", spy)
    monkeypatch.setattr(loop.guards, "PHI_WINDOW", (0.0, -1.0))
    points = list(start(micro_model(), Plan(3, 4, 0, phi_from=0)))
    assert [point.verdict for point in points] == ["RENEW"] * 3
    assert wanted == [0.79] * 3
