"""One guarded training run of one state: batches, losses, optimisers, guards, checkpoints.

Deterministic: batch i depends on (seed, i) alone, so a run resumed from a checkpoint continues bit for bit (on the same
machine and number of threads). Muon trains the blocks' matrices (Jordan et al. 2024), AdamW the rest.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from common.constants import PHI_TARGET
from common.errors import Corrupt, Rejected, Unavailable
from services.trainer import guards
from services.trainer.losses import AHEAD_TOKENS, follow, losses
from services.trainer.model import StateModel, is_matrix

MUON_RATE: Final = 0.02
ADAM_RATE: Final = 4e-3
FINAL_RATE: Final = 0.05  # of the peak, at the end of a decaying run
CHECKPOINT_STEPS: Final = 50

Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """steps of `windows` windows each; warm-up steps; decay: the share of steps, at the end, over which the rate falls
    to 5 %.

    phi_from: the step from which the geometric loss counts (a state must first learn something to integrate).
    """

    steps: int
    windows: int
    seed: int
    warmup: int = 30
    decay: float = 0.6
    rate: float = 1.0
    phi_target: float = PHI_TARGET
    phi_from: int = 50


@dataclass(frozen=True, slots=True)
class Point:
    """One step on the curve. loss: cross-entropy in nats a token; phi None: not known; reason: of the verdict, "" for
    GO.
    """

    step: int
    loss: float
    basin: float
    phi: float | None
    verdict: guards.Verdict
    reason: str = ""


@dataclass(slots=True)
class _Run:
    """All that a checkpoint holds."""

    model: StateModel
    optimisers: list[tuple[torch.optim.Optimizer, float]]
    reference: Tensor | None
    guard: guards.Guard
    step: int


def train(
    model: StateModel,
    ids: npt.NDArray[np.int32],
    token_basins: npt.NDArray[np.floating],
    plan: Plan,
    *,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> Iterator[Point]:
    """Trains in place, yielding a point a step; ends after plan.steps, or at the guards' first RESTORE, which puts
    back the last good weights and says why in its point.

    ids: one text of the run's domain(s), longer than a window and its 17 tokens of foresight, else
    Rejected("text_too_short"). checkpoint: a file to resume from when it exists, and to keep; Unavailable("checkpoint")
    when it can't be written or read, Corrupt("checkpoint") when it is damaged or of another model.
    """
    if len(ids) <= model.spec.context + AHEAD_TOKENS + 1:
        raise Rejected(
            "text_too_short",
            f"{len(ids)} tokens to train on; a window of {model.spec.context} needs {AHEAD_TOKENS + 2} more",
        )
    run = _Run(model, _optimisers(model), None, guards.Guard(), 0)
    if checkpoint is not None and checkpoint.exists():
        _load(run, checkpoint)
    basins = torch.from_numpy(np.array(token_basins, np.float32))
    text = torch.from_numpy(ids.astype(np.int64))
    good = _snapshot(run)
    while run.step < plan.steps:
        point = _step(run, text, basins, plan)
        if point.verdict == "RESTORE":
            _restore(run, *good)
        yield point
        if point.verdict == "RESTORE":
            return
        if run.step % CHECKPOINT_STEPS == 0 or run.step == plan.steps:
            good = _snapshot(run)
            if checkpoint is not None:
                _save(good, checkpoint)
        if progress is not None:
            progress(run.step / plan.steps)


def _step(run: _Run, text: Tensor, token_basins: Tensor, plan: Plan) -> Point:
    for optimiser, peak in run.optimisers:
        for group in optimiser.param_groups:
            group["lr"] = peak * plan.rate * _rate(run.step, plan)
    ids = _draw(text, plan, run.step, run.model.spec.context)
    logits, basins = run.model(ids[:, : run.model.spec.context])
    run.reference = follow(run.reference, basins)
    wanted = plan.phi_target if run.step >= plan.phi_from and not run.guard.renewing else None
    found = losses(logits, basins, ids, token_basins, run.reference, wanted)
    for optimiser, _ in run.optimisers:
        optimiser.zero_grad()
    found.total.backward()  # type: ignore[no-untyped-call]  # torch's own annotation is missing
    # The norm is measured before the step: a gradient that is not finite would reach the weights, and with them the
    # next checkpoint, before any loss shows it.
    gradient = torch.nn.utils.get_total_norm([p.grad for p in run.model.parameters() if p.grad is not None])
    seen = guards.Measurement(found.cross_entropy, found.phi, gradient=float(gradient))
    run.guard, verdict, reason = guards.step(run.guard, seen)
    if verdict != "RESTORE":
        for optimiser, _ in run.optimisers:
            optimiser.step()
        run.step += 1
    return Point(run.step, found.cross_entropy, found.basin, found.phi, verdict, reason)


def _rate(step: int, plan: Plan) -> float:
    """Warm-up, a plateau, and a linear decay: a plan with decay 0 can be continued by another run."""
    left = (plan.steps - step) / max(plan.steps * plan.decay, 1e-9)
    return min(1.0, (step + 1) / plan.warmup) * max(FINAL_RATE, min(1.0, left))


def _draw(text: Tensor, plan: Plan, step: int, context: int) -> Tensor:
    length = context + AHEAD_TOKENS + 1
    starts = np.random.default_rng([plan.seed, step]).integers(0, len(text) - length, plan.windows)
    return torch.stack([text[start : start + length] for start in starts])


def _optimisers(model: StateModel) -> list[tuple[torch.optim.Optimizer, float]]:
    named = dict(model.tensors.items())
    matrices = [p for name, p in named.items() if is_matrix(name)]
    rest = [p for name, p in named.items() if not is_matrix(name)]
    return [
        (torch.optim.Muon(matrices, lr=MUON_RATE, momentum=0.95, weight_decay=0.0), MUON_RATE),
        (torch.optim.AdamW(rest, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.01), ADAM_RATE),
    ]


def _snapshot(run: _Run) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Every tensor of the run under a flat name, and the rest as strings: the two halves of a safetensors file."""
    tensors = {f"model/{k}": v.detach().clone() for k, v in run.model.tensors.items()}
    for number, (optimiser, _) in enumerate(run.optimisers):
        for index, state in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{number}/{index}/{k}": torch.as_tensor(v).clone() for k, v in state.items()}
    if run.reference is not None:
        tensors["reference"] = run.reference.clone()
    return tensors, {"step": str(run.step), "guard": json.dumps(dataclasses.asdict(run.guard))}


def _digest(tensors: dict[str, Tensor], scalars: dict[str, str]) -> str:
    """Sha256 over all that a checkpoint holds: safetensors itself checks the layout only."""
    found = hashlib.sha256(f"{scalars['step']} {scalars['guard']}\n".encode())
    for name in sorted(tensors):
        found.update(f"{name} {tuple(tensors[name].shape)}\n".encode() + tensors[name].cpu().numpy().tobytes())
    return found.hexdigest()


def _restore(run: _Run, tensors: dict[str, Tensor], scalars: dict[str, str]) -> None:
    with torch.no_grad():
        for name, parameter in run.model.tensors.items():
            parameter.copy_(tensors[f"model/{name}"])
    for number, (optimiser, _) in enumerate(run.optimisers):
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            kind, *where = name.split("/")
            if kind == "optimiser" and int(where[0]) == number:
                state.setdefault(int(where[1]), {})[where[2]] = value.clone()
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    run.reference = tensors.get("reference")
    run.step, run.guard = int(scalars["step"]), guards.Guard(**json.loads(scalars["guard"]))


def _save(snapshot: tuple[dict[str, Tensor], dict[str, str]], path: Path) -> None:
    """Atomic: a crash leaves the old file or the new one, never half of one."""
    staged = path.with_suffix(".part")
    tensors, scalars = snapshot
    try:
        with staged.open("wb") as file:
            file.write(safetensors.torch.save(tensors, scalars | {"sha256": _digest(tensors, scalars)}))
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            staged.unlink(missing_ok=True)  # half a file on a full disk helps nobody
        raise Unavailable(
            "checkpoint", f"can't write {path}: {error.strerror}. Free some space and run again: it resumes"
        ) from error


def _load(run: _Run, path: Path) -> None:
    try:
        with safetensors.safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is no mapping
            scalars = file.metadata()
        _check(run, tensors, scalars)
        _restore(run, tensors, scalars)
    except OSError as error:
        raise Unavailable("checkpoint", f"can't read {path}: {error.strerror}; check its permissions") from error
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        raise Corrupt(
            "checkpoint", f"{path} is not a checkpoint of this run ({error}): delete it to start again"
        ) from error


def _check(run: _Run, tensors: dict[str, Tensor], scalars: dict[str, str]) -> None:
    """Raises ValueError unless the file is whole and of a model like this one."""
    if scalars["sha256"] != _digest(tensors, scalars):
        raise ValueError("its digest does not fit")
    for name, parameter in run.model.tensors.items():
        if (shape := tensors[f"model/{name}"].shape) != parameter.shape:
            raise ValueError(f"{name} has shape {tuple(shape)}, not {tuple(parameter.shape)}")
