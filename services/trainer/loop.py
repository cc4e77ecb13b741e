"""One guarded training run of one state: batches, losses, optimisers, guards, checkpoints.

Deterministic: batch i depends on (seed, i) alone, so a run resumed from a checkpoint continues bit for bit, on the same
processor and number of threads; CUDA adds in no fixed order. Muon trains the blocks' matrices (Jordan et al. 2024),
AdamW the rest.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from common.constants import AHEAD_TOKENS, PHI_TARGET
from common.errors import Rejected
from services.trainer import checkpoint as checkpoints
from services.trainer import guards
from services.trainer.checkpoint import Run
from services.trainer.losses import follow, losses
from services.trainer.model import StateModel, is_matrix
from services.trainer.team import ALONE, Team

MUON_RATE: Final = 0.02
ADAM_RATE: Final = 8e-3
FINAL_RATE: Final = 0.05  # of the peak, at the end of a decaying run
CHECKPOINT_STEPS: Final = 50
STRETCH_WINDOWS: Final = 64  # chosen: several documents of one source

Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """steps of `windows` windows each; warm-up steps; decay: the share of steps, at the end, over which the rate falls
    to 5 %.

    phi_from: the step from which the geometric loss counts (a state must first learn something to integrate).
    mixed_precision: multiply in bfloat16.
    """

    steps: int
    windows: int
    seed: int
    warmup: int = 30
    decay: float = 0.6
    rate: float = 1.0
    phi_target: float = PHI_TARGET
    phi_from: int = 50
    mixed_precision: bool = False


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


def train(
    model: StateModel,
    ids: npt.NDArray[np.int32],
    token_basins: npt.NDArray[np.floating],
    plan: Plan,
    *,
    following: npt.NDArray[np.int32] | None = None,
    team: Team = ALONE,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> Iterator[Point]:
    """Trains in place, yielding a point a step; ends after plan.steps, or at the guards' first RESTORE, which puts
    back the last good weights and says why in its point.

    ids: one text of the run's domain(s), longer than a window and its 17 tokens of foresight, else
    Rejected("text_too_short"). following: as many ids, what is to be said after each; None: what the text goes on with.
    checkpoint: a file to resume from when it exists, and to keep; Unavailable("checkpoint")
    when it can't be written or read, Corrupt("checkpoint") when it is damaged or of another model. team: every process
    of it runs this on a model of its own, on its device, from equal weights; the first one writes the checkpoint.
    """
    if len(ids) <= model.spec.context + AHEAD_TOKENS + 1:
        raise Rejected(
            "text_too_short",
            f"{len(ids)} tokens to train on; a window of {model.spec.context} needs {AHEAD_TOKENS + 2} more",
        )
    run = Run(model, _optimisers(model))
    if checkpoint is not None and checkpoint.exists():
        checkpoints.load(run, checkpoint)
    model.mixed_precision = plan.mixed_precision
    together = team.together(model)
    basins = torch.from_numpy(np.array(token_basins, np.float32)).to(team.device)
    text = torch.from_numpy(ids.astype(np.int64))
    told = text[1:] if following is None else torch.from_numpy(following.astype(np.int64))
    good = checkpoints.snapshot(run)
    while run.step < plan.steps:
        point = _step(run, together, (text, told), basins, plan, team)
        if point.verdict == "RESTORE":
            checkpoints.restore(run, *good)
        yield point
        if point.verdict == "RESTORE":
            return
        if run.step % CHECKPOINT_STEPS == 0 or run.step == plan.steps:
            good = checkpoints.snapshot(run)
            if checkpoint is not None and team.rank == 0:
                checkpoints.save(good, checkpoint)
        if progress is not None:
            progress(run.step / plan.steps)


def _step(
    run: Run, together: nn.Module, read: tuple[Tensor, Tensor], token_basins: Tensor, plan: Plan, team: Team
) -> Point:
    """read: the text, and what is to be said after each of its places."""
    for optimiser, peak in run.optimisers:
        for group in optimiser.param_groups:
            group["lr"] = peak * plan.rate * rate_at(run.step, plan)
    context = run.model.spec.context
    starts = draw(len(read[0]), plan, run.step, context)[team.share(plan.windows)]
    length = context + AHEAD_TOKENS + 1
    ids = torch.stack([read[0][start : start + length] for start in starts]).to(team.device)
    told = torch.stack([read[1][start : start + context] for start in starts]).to(team.device)
    nats, basins = together(ids[:, :context], told)
    run.reference = follow(run.reference, basins, team)
    wanted = plan.phi_target if run.step >= plan.phi_from else None
    found = losses(nats, basins, ids, token_basins, run.reference, wanted, team)
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


def rate_at(step: int, plan: Plan) -> float:
    """Warm-up, a plateau, and a linear decay: a plan with decay 0 can be continued by another run."""
    left = (plan.steps - step) / max(plan.steps * plan.decay, 1e-9)
    return min(1.0, (step + 1) / plan.warmup) * max(FINAL_RATE, min(1.0, left))


def draw(tokens: int, plan: Plan, step: int, context: int) -> npt.NDArray[np.int64]:
    """Where a step's windows begin in a text of so many tokens, (windows,): anywhere in even steps, in one stretch of
    the text in odd ones.

    Integration is asked of a batch: from batches of all sources at once it may come from what tells them apart, and be
    missing in each (docs/experiments.md).
    """
    length = context + AHEAD_TOKENS + 1
    rng = np.random.default_rng([plan.seed, step])
    first, last = 0, tokens - length
    if step % 2:
        first = int(rng.integers(0, max(1, last - STRETCH_WINDOWS * length)))
        last = min(last, first + STRETCH_WINDOWS * length)
    return rng.integers(first, last, plan.windows)


def _optimisers(model: StateModel) -> list[tuple[torch.optim.Optimizer, float]]:
    named = dict(model.tensors.items())
    matrices = [p for name, p in named.items() if is_matrix(name)]
    rest = [p for name, p in named.items() if not is_matrix(name)]
    return [
        (torch.optim.Muon(matrices, lr=MUON_RATE, momentum=0.95, weight_decay=0.0), MUON_RATE),
        (torch.optim.AdamW(rest, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.01), ADAM_RATE),
    ]
