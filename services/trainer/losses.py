"""What the state learns from: the next token, the basin of what comes next, and integration (DESIGN.md, section 4).

loss = cross-entropy + L_b KL(mean basin of the next 16 tokens || b_t) + L_phi (phi* - phi_batch)^2
"""

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from common.constants import AHEAD_TOKENS, CELLS_PER_FACULTY, FACULTIES, PHI_COUPLINGS
from common.geometry.integration import RIDGE_RAD2, RIDGE_SHARE
from services.trainer.team import ALONE, Team

BASIN_WEIGHT: Final = 1.0  # chosen, both (docs/experiments.md): at 0.3 and 3 the basins foresee worse than a constant,
PHI_WEIGHT: Final = 0.5  # and the less Phi is asked for, the less of it is read on shuffled tokens
MINIMISE_ROUNDS: Final = 12  # majorise-minimise steps of Phi_G; more change nothing in float32
REFERENCE_DECAY: Final = 0.95
STILL_SHARE: Final = 1e-14  # of the total variance: lost in rounding for a faculty that moves
STILL_RAD2: Final = 1e-30  # where nothing moves at all


@dataclass(frozen=True, slots=True)
class Losses:
    """total: what is differentiated; the rest are floats for the curve. phi is bias-corrected, as common/geometry
    reports it; None when not known: a state that stands still (variance below 1e-6 rad^2), or one that is not finite.
    """

    total: Tensor
    cross_entropy: float
    basin: float
    phi: float | None


def losses(
    cross_entropy: Tensor,
    basins: Tensor,
    ids: Tensor,
    token_basins: Tensor,
    reference: Tensor,
    phi_target: float | None,
    team: Team = ALONE,
) -> Losses:
    """cross_entropy: of the next tokens, in nats. basins (B, T, 64): of the first T of ids (B, T + 17). reference
    (64,): the running unit mean of sqrt(b).

    phi_target None leaves integration out of the total (early training); it is measured all the same.
    team: its processes hold equal shares of one batch; every figure is the whole batch's.
    """
    tokens = basins.shape[1]
    basin = divergence(ahead(ids, tokens, token_basins), basins)
    seen = team.mean(second_moments(faculties(basins, reference)))
    nats = geometric_nats(seen)
    total = cross_entropy + BASIN_WEIGHT * basin
    if phi_target is not None:
        total = total + PHI_WEIGHT * (phi_target - (1 - torch.exp(-2 * nats))).square()
    means = team.mean(torch.stack([cross_entropy.detach(), basin.detach()]))
    transitions = team.size * len(basins) * (tokens - 1)
    return Losses(total, float(means[0]), float(means[1]), known_phi(nats.detach(), seen.detach(), transitions))


def ahead(ids: Tensor, tokens: int, token_basins: Tensor) -> Tensor:
    """Mean basin of the AHEAD_TOKENS tokens after each of the first `tokens` places, (B, tokens, 64)."""
    summed = torch.cumsum(functional.pad(token_basins[ids], (0, 0, 1, 0)), 1)
    return (summed[:, 1 + AHEAD_TOKENS : 1 + AHEAD_TOKENS + tokens] - summed[:, 1 : 1 + tokens]) / AHEAD_TOKENS


def divergence(target: Tensor, basins: Tensor) -> Tensor:
    """Mean KL(target || basins) in nats."""
    nats: Tensor = (target * (target.clamp_min(1e-9).log() - basins.clamp_min(1e-9).log())).sum(-1).mean()
    return nats


def follow(reference: Tensor | None, basins: Tensor, team: Team = ALONE) -> Tensor:
    """The running unit mean of sqrt(b), about which the batch's tangent vectors are taken. No gradient passes through
    it.
    """
    mean = team.mean(basins.detach().clamp_min(1e-12).sqrt().mean((0, 1)))
    moved = mean if reference is None else REFERENCE_DECAY * reference + (1 - REFERENCE_DECAY) * mean
    unit: Tensor = moved / moved.norm()
    return unit


def integration_nats(basins: Tensor, reference: Tensor) -> Tensor:
    """Phi_G of a batch in nats, differentiable, without bias correction. basins (B, T, 64), reference (64,).

    Within 1e-3 nats of common/geometry/integration.py (float32). A state that stands still reads 0, one that
    has no regression NaN; `losses` reports both as not known.
    """
    return geometric_nats(second_moments(faculties(basins, reference)))


def faculties(basins: Tensor, reference: Tensor) -> Tensor:
    """Log map at the reference, summed over each faculty's cells, centred in each window: (B, T, 64) to (B, T, 8)."""
    roots = basins.clamp_min(1e-12).sqrt()
    cosine = (roots @ reference).clamp(-0.999999, 0.999999)
    tangent = roots - cosine[..., None] * reference
    tangent = tangent / (tangent.norm(dim=-1, keepdim=True) + 1e-6) * cosine.arccos()[..., None]
    x = tangent.view(*basins.shape[:-1], len(FACULTIES), CELLS_PER_FACULTY).sum(-1)
    centred: Tensor = x - x.mean(1, keepdim=True)
    return centred


def second_moments(x: Tensor) -> Tensor:
    """Of centred activations (B, T, 8): past with past, present with present, past with present, (3, 8, 8)."""
    past, present = x[:, :-1].flatten(0, 1), x[:, 1:].flatten(0, 1)
    return torch.stack([past.T @ past, present.T @ present, past.T @ present]) / len(past)


def geometric_nats(seen: Tensor) -> Tensor:
    """Phi_G of second moments (3, 8, 8); the inner minimum is a constant by the envelope theorem."""
    s_x, s_y, s_xy = seen
    # The ridge holds the regression, not the couplings' covariance: there it would read a constant sum of faculties as
    # integration.
    ridge = (RIDGE_RAD2 + RIDGE_SHARE * s_x.diagonal().mean()) * torch.eye(len(FACULTIES), device=seen.device)
    # The _ex forms do not raise: what has no solution comes out as NaN, and the guards know what to do with that.
    a = torch.linalg.solve_ex(s_x + ridge, s_xy)[0].T
    s_e = s_y + ridge - a @ (s_x + ridge) @ a.T
    with torch.no_grad():
        # W o S is singular where a faculty never moves, and its own coefficient is then free: this picks 0.
        moving = s_x + (STILL_SHARE * s_x.trace() + STILL_RAD2) * torch.eye(len(FACULTIES), device=seen.device)
        kept = a.diagonal().clone()
        for _ in range(MINIMISE_ROUNDS):
            cut = a - torch.diag(kept)
            w = torch.linalg.inv_ex(s_e + cut @ s_x @ cut.T)[0]
            kept = torch.linalg.solve_ex(w * moving, (w @ a @ s_x).diagonal())[0]
    cut = a - torch.diag(kept)
    return 0.5 * (torch.logdet(s_e + cut @ s_x @ cut.T) - torch.logdet(s_e))


def known_phi(nats: Tensor, seen: Tensor, transitions: int) -> float | None:
    """Phi of a batch, its bias removed, from its Phi_G and the second moments (3, 8, 8) of so many transitions.

    None for a state that common/geometry/integration.py would not know either: still, or not finite.
    """
    if not (bool(nats.isfinite()) and float(seen[0].diagonal().mean()) >= RIDGE_RAD2):
        return None
    return -math.expm1(-2.0 * max(0.0, float(nats) - PHI_COUPLINGS / (2.0 * transitions)))
