"""Training of the integrator: on members that hold something, deterministic, guarded, and against its controls."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from micro import MICRO, SENTENCES
from trainer_runs import one_thread  # noqa: F401 - a fixture

from common.constants import ROLES
from common.constellation.integrator import SHAPES, from_bytes, to_bytes
from common.constellation.together import members
from common.errors import Rejected
from common.geometry.integration import faculties, integration, moments
from common.geometry.means import frechet_mean
from common.geometry.simplex import distance, from_float16, normalise
from services.trainer import controls
from services.trainer import integrator as room
from services.trainer.integrator import Streams, fit, forward, permuted, streams
from services.trainer.losses import divergence


def lagged(seed, windows=32, tokens=96):
    """Members that each hold a quarter of the cells of one hidden walk, whose cells feed their neighbours: together
    they show what comes next, none alone.
    """
    rng = np.random.default_rng(seed)
    walk = rng.dirichlet(np.full(64, 0.3), (windows, tokens + 1))
    for t in range(1, tokens + 1):
        walk[:, t] = 0.7 * np.roll(walk[:, t - 1], 9, -1) + 0.3 * walk[:, t]
    seen = np.full((windows, tokens, 4, 64), 1e-3)
    for place in range(4):
        own = slice(place * 16, place * 16 + 16)
        seen[:, :, place, own] += walk[:, :-1, own]
    return Streams(
        torch.tensor(np.sqrt(normalise(seen)), dtype=torch.float32), torch.tensor(walk[:, 1:], dtype=torch.float32)
    )


KNOWN, UNSEEN = lagged(0), lagged(1)


@pytest.fixture(scope="module")
def made():
    return fit(KNOWN, seed=0, steps=80, progress=lambda _: None)


def basins(integrator, known):
    return integrator.basin(np.square(known.roots.numpy().astype(np.float64)))


def phi(integrator, found):
    return integration(moments(faculties(found, np.sqrt(integrator.home)))).phi


def test_the_torch_twin_makes_the_same_basins(made):
    twin = forward({name: torch.from_numpy(value) for name, value in made[0].weights.items()}, UNSEEN.roots)
    assert twin.numpy() == pytest.approx(basins(made[0], UNSEEN), abs=1e-6)


def test_it_learns_what_comes_next_on_streams_it_never_saw(made):
    found = torch.from_numpy(basins(made[0], UNSEEN)).float()
    constant = UNSEEN.ahead.mean((0, 1)).expand_as(UNSEEN.ahead)
    assert float(divergence(UNSEEN.ahead, found)) < 0.95 * float(divergence(UNSEEN.ahead, constant))


def test_it_integrates_unseen_streams_and_falls_when_members_listen_elsewhere(made):
    heard = np.square(UNSEEN.roots.numpy().astype(np.float64))
    swapped = controls.swapped(heard, np.random.default_rng(2))
    whole = phi(made[0], made[0].basin(heard))
    assert whole > 0.8
    assert phi(made[0], made[0].basin(swapped)) < whole - 0.1


@pytest.mark.parametrize("place", range(4))
def test_without_any_one_member_it_integrates_less(made, place):
    heard = np.square(UNSEEN.roots.numpy().astype(np.float64))
    assert phi(made[0], made[0].basin(controls.cut(heard, [place]))) < phi(made[0], made[0].basin(heard)) - 0.05


def test_a_random_label_twin_predicts_no_better_than_chance():
    twin, _ = fit(permuted(KNOWN, np.random.default_rng(3)), seed=0, steps=80, progress=lambda _: None)
    found = torch.from_numpy(basins(twin, UNSEEN)).float()
    constant = UNSEEN.ahead.mean((0, 1)).expand_as(UNSEEN.ahead)
    assert float(divergence(UNSEEN.ahead, found)) > 0.97 * float(divergence(UNSEEN.ahead, constant))


def test_permuted_targets_are_the_same_targets_elsewhere():
    twin = permuted(KNOWN, np.random.default_rng(4))
    assert torch.equal(twin.roots, KNOWN.roots)
    assert not torch.equal(twin.ahead, KNOWN.ahead)
    assert sorted(twin.ahead[..., 5].flatten().tolist()) == sorted(KNOWN.ahead[..., 5].flatten().tolist())


def test_the_same_seed_gives_the_same_bytes_and_another_does_not():
    said = [to_bytes(fit(KNOWN, seed=seed, steps=5, progress=lambda _: None)[0]) for seed in (1, 1, 2)]
    assert said[0] == said[1] != said[2]


def test_it_travels_as_it_was_measured_and_its_home_is_its_own(made):
    back = from_bytes(to_bytes(made[0]))
    assert all(np.array_equal(back.weights[name], made[0].weights[name]) for name in SHAPES)
    mean = frechet_mean(basins(made[0], KNOWN).reshape(-1, 64))
    assert float(distance(back.home, mean)) < 2e-3


def test_a_phi_above_a_kernel_s_bound_is_no_renewal_here(made):
    curve = made[1]
    assert max(point.phi for point in curve) > 0.85
    assert {point.verdict for point in curve} == {"GO"}
    assert [point.step for point in curve] == list(range(1, 81))


def dull(movement):
    """Members that hardly move, and nothing to be told from them."""
    return replace(permuted(KNOWN, np.random.default_rng(5)), roots=0.125 + movement * (KNOWN.roots - 0.125))


def test_a_map_that_stands_still_at_first_is_no_fault_and_integrates_later():
    _, curve = fit(dull(0.1), seed=0, steps=60, progress=lambda _: None)
    assert {point.verdict for point in curve} == {"GO"}
    assert None in {point.phi for point in curve[: room.PHI_FROM]}
    assert curve[-1].phi > 0.65


def test_a_map_that_goes_on_standing_still_stops_with_a_reason(monkeypatch):
    monkeypatch.setattr(room, "STILL_STEPS", 3)
    _, curve = fit(dull(0.02), seed=0, steps=60, progress=lambda _: None)
    assert [point.verdict for point in curve] == ["GO"] * 3 + ["RESTORE"]
    assert curve[-1].reason == "phi is not known: a degenerate state"


@pytest.mark.parametrize(("phi", "read"), [(0.84, 0.84), (0.85, 0.85), (0.9, 0.85)])
def test_the_guards_see_no_phi_above_a_kernel_s(phi, read):
    assert room._as_kernel(phi, 0) == read


def test_a_stream_that_is_not_finite_stops_it_with_a_reason():
    broken = replace(KNOWN, ahead=KNOWN.ahead * float("nan"))
    made, curve = fit(broken, seed=0, steps=5, progress=lambda _: None)
    assert (len(curve), curve[-1].verdict) == (1, "RESTORE")
    assert "nan" in curve[-1].reason
    assert all(np.isfinite(value).all() for value in made.weights.values())


def test_progress_ends_at_one():
    told = []
    fit(KNOWN, seed=0, steps=3, progress=told.append)
    assert told == [pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0]


def test_streams_are_the_members_reading_and_the_basins_ahead(micro, monkeypatch):
    monkeypatch.setattr(room, "WINDOWS_A_ROLE", 2)
    texts = {role: [micro.encoder.encode(SENTENCES[role] * 6)] for role in ROLES}
    token_basins = from_float16(micro.coordizer.basins)
    found = streams(micro.states, token_basins, texts)
    assert found.roots.shape == (8, MICRO.context, 4, 64)
    ids = texts["strategy"][0][None, : MICRO.context]
    assert found.roots[2].square().numpy() == pytest.approx(members(micro.states, ids)[0], abs=1e-5)
    later = token_basins[texts["strategy"][0][1:17]].mean(0)
    assert found.ahead[2, 0].numpy() == pytest.approx(later, abs=1e-5)


def test_a_role_without_a_window_of_text_is_rejected(micro):
    texts = {role: [micro.encoder.encode("short")] for role in ROLES}
    with pytest.raises(Rejected, match="text_too_short"):
        streams(micro.states, from_float16(micro.coordizer.basins), texts)
