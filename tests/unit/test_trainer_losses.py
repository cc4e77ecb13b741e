"""What the state learns from: against naive loops, the geometry room, and finite differences."""

import math

import numpy as np
import pytest
import torch
from trainer_runs import one_thread  # noqa: F401 - a fixture

from common.constants import AHEAD_TOKENS, PHI_COUPLINGS
from common.geometry.integration import faculties, integration, moments
from services.trainer import losses as room
from services.trainer.losses import ahead, divergence, follow, integration_nats, losses


def moving(seed, windows=8, tokens=128, concentration=1.0, turn=8):
    """Basins that drift, each cell feeding the next faculty's: (W, T, 64)."""
    fresh = np.random.default_rng(seed).dirichlet(np.full(64, concentration), (windows, tokens))
    for t in range(1, tokens):
        fresh[:, t] = 0.6 * np.roll(fresh[:, t - 1], turn, -1) + 0.4 * fresh[:, t]
    return fresh


def unit(tensor):
    reference = follow(None, tensor).double()
    return (reference / reference.norm()).numpy()


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("concentration", [0.2, 1.0, 20.0])
@pytest.mark.parametrize("turn", [0, 8])
def test_the_differentiable_estimator_is_the_geometry_room_s(seed, concentration, turn):
    basins = moving(seed, concentration=concentration, turn=turn)
    tensor = torch.tensor(basins, dtype=torch.float32)
    known = integration(moments(faculties(basins, unit(tensor))))
    assert known.phi_g_nats is not None
    assert float(integration_nats(tensor, follow(None, tensor))) == pytest.approx(known.phi_g_nats, abs=1e-3)


def test_the_ridge_holds_the_regression_and_not_the_couplings(monkeypatch):
    tensor = torch.tensor(moving(0, concentration=20.0), dtype=torch.float32)
    monkeypatch.setattr(room, "RIDGE_SHARE", 0.1)
    assert abs(float(integration_nats(tensor, follow(None, tensor))) - 2.2647) > 1e-2


def test_phi_is_bias_corrected_as_the_geometry_room_reports_it():
    basins = moving(3, windows=5, tokens=110)
    tensor = torch.tensor(basins, dtype=torch.float32)
    found = _losses(tensor, None)
    known = integration(moments(faculties(basins, unit(tensor))))
    assert known.n == 5 * 109
    assert found.phi == pytest.approx(known.phi, abs=1e-3)
    assert PHI_COUPLINGS == 56


def _losses(basins, target, vocab=16):
    windows, tokens = basins.shape[:2]
    rng = np.random.default_rng(8)
    ids = torch.from_numpy(rng.integers(0, vocab, (windows, tokens + AHEAD_TOKENS + 1)))
    token_basins = torch.tensor(rng.dirichlet(np.ones(64), vocab), dtype=torch.float32)
    return losses(torch.tensor(2.5), basins, ids, token_basins, follow(None, basins), target)


STILL = {
    "uniform": np.full((4, 40, 64), 1 / 64),
    "identical": np.tile(np.random.default_rng(1).dirichlet(np.ones(64)), (4, 40, 1)),
    "one cell": np.tile(np.eye(64)[3], (4, 40, 1)),
    "a loop of two": np.tile(np.eye(64)[[3, 9]], (4, 20, 1)),
}


@pytest.mark.parametrize("name", STILL)
def test_the_gradient_is_finite_where_a_state_stands_still(name):
    tensor = torch.tensor(STILL[name], dtype=torch.float32, requires_grad=True)
    nats = integration_nats(tensor, follow(None, tensor))
    nats.backward()
    assert torch.isfinite(nats)
    assert torch.isfinite(tensor.grad).all()


@pytest.mark.parametrize("name", ["uniform", "identical", "one cell"])
def test_phi_of_a_state_that_stands_still_is_not_known(name):
    assert _losses(torch.tensor(STILL[name], dtype=torch.float32), None).phi is None


def test_phi_of_a_state_that_is_not_finite_is_not_known():
    assert _losses(torch.full((4, 40, 64), torch.nan), 0.79).phi is None


def test_a_state_with_one_dead_faculty_is_still_measured():
    basins = moving(4)
    basins[..., 8:16] = 1e-12
    basins /= basins.sum(-1, keepdims=True)
    tensor = torch.tensor(basins, dtype=torch.float32)
    known = integration(moments(faculties(basins, unit(tensor))))
    assert float(integration_nats(tensor, follow(None, tensor))) == pytest.approx(known.phi_g_nats, abs=1e-3)


def test_the_gradient_agrees_with_a_finite_difference():
    logits = torch.from_numpy(np.log(moving(5, windows=2, tokens=40))).requires_grad_()
    reference = follow(None, torch.softmax(logits, -1))
    way = torch.from_numpy(np.random.default_rng(9).normal(0, 1, logits.shape))

    def nats(shift):
        return integration_nats(torch.softmax(logits + shift * way, -1), reference)

    (gradient,) = torch.autograd.grad(nats(0.0), logits)
    difference = (nats(1e-4) - nats(-1e-4)).item() / 2e-4
    assert float((gradient * way).sum()) == pytest.approx(difference, rel=2e-3)
    assert abs(difference) > 1e-2


def test_ahead_is_the_mean_basin_of_the_next_sixteen_tokens():
    rng = np.random.default_rng(10)
    tokens, basins = 20, rng.dirichlet(np.ones(64), 30)
    ids = rng.integers(0, 30, (3, tokens + AHEAD_TOKENS + 1))
    found = ahead(torch.from_numpy(ids), tokens, torch.from_numpy(basins))
    naive = [[basins[row[t + 1 : t + 1 + AHEAD_TOKENS]].mean(0) for t in range(tokens)] for row in ids]
    assert np.allclose(found.numpy(), naive, atol=1e-12)


def test_divergence_is_zero_at_its_target_and_positive_elsewhere():
    p, q = torch.from_numpy(moving(6, 1, 4)), torch.from_numpy(moving(7, 1, 4))
    naive = (p * (p.log() - q.log())).sum(-1).mean()
    assert divergence(p, p).item() == pytest.approx(0, abs=1e-12)
    assert divergence(p, q).item() == pytest.approx(naive.item(), rel=1e-6)
    assert naive > 0


@pytest.mark.parametrize("away", [-0.3, 0.0, 0.3])
def test_the_geometric_loss_is_the_squared_way_to_its_target_from_either_side(away):
    basins = torch.tensor(moving(2, turn=0), dtype=torch.float32)
    phi = 1 - math.exp(-2 * float(integration_nats(basins, follow(None, basins))))
    extra = _losses(basins, phi + away).total - _losses(basins, None).total
    assert float(extra) == pytest.approx(room.PHI_WEIGHT * away**2, abs=1e-6)


def test_the_reference_is_a_unit_vector_that_follows_slowly():
    one, other = (torch.from_numpy(moving(seed, concentration=0.1)) for seed in (1, 2))
    first, second = follow(None, one), follow(None, other)
    moved = follow(first, other)
    assert moved.norm().item() == pytest.approx(1)
    assert (first @ moved).item() > (second @ moved).item()
    assert not moved.requires_grad
