import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import vonmises_fisher

from common.errors import Rejected
from common.geometry.concentration import directions, heading, kappa
from common.geometry.simplex import exp_map, uniform

few = settings(max_examples=10, deadline=None)
seeds = st.integers(0, 2**32 - 1)
HOME_S = np.sqrt(uniform())


def in_tangent_space(u_T63):
    """Directions of 63 dimensions laid into the tangent space of the uniform home."""
    frame = np.linalg.qr(np.column_stack([HOME_S, np.eye(64)[:, :63]]))[0][:, 1:]
    return u_T63 @ frame.T


def sample(concentration, count, seed):
    law = vonmises_fisher(np.eye(63)[0], concentration)
    return law.rvs(count, random_state=np.random.default_rng(seed))


def noise(count, seed):
    z = np.random.default_rng(seed).normal(size=(count, 63))
    return in_tangent_space(z / np.linalg.norm(z, axis=1, keepdims=True))


@pytest.mark.parametrize("concentration", [12.0, 50.0, 64.0, 150.0, 2000.0])
def test_kappa_recovers_a_von_mises_fisher_law(concentration):
    u = in_tangent_space(sample(concentration, 4000, 1))
    assert kappa(u) == pytest.approx(concentration, rel=0.02)


@pytest.mark.parametrize("concentration", [12.0, 64.0])
def test_kappa_agrees_with_the_exact_maximum_likelihood_fit(concentration):
    u_T63 = sample(concentration, 4000, 2)
    assert kappa(in_tangent_space(u_T63)) == pytest.approx(vonmises_fisher.fit(u_T63)[1], rel=0.01)


def test_a_window_of_64_tokens_reads_the_law_without_bias():
    readings = [kappa(in_tangent_space(sample(64.0, 64, seed))) for seed in range(60)]
    assert np.mean(readings) == pytest.approx(64.0, rel=0.02)
    assert np.std(readings) < 3.0


def test_noise_reads_near_zero_where_a_biased_estimate_would_read_eight():
    assert np.mean([kappa(noise(64, seed)) for seed in range(100)]) < 2.0


def test_a_repetition_loop_reads_enormous_and_finite():
    assert 1e9 < kappa(np.tile(noise(1, 3), (64, 1))) < 1e11


@few
@given(seeds)
def test_kappa_ignores_the_order_of_tokens_and_of_cells(seed):
    u = in_tangent_space(sample(30.0, 64, seed))
    rng = np.random.default_rng(seed)
    shuffled = u[rng.permutation(64)][:, rng.permutation(64)]
    assert kappa(shuffled) == pytest.approx(kappa(u), rel=1e-9)


def test_kappa_has_its_closed_form_for_two_directions():
    u = np.eye(64)[[1, 2]] @ np.diag(np.ones(64))
    u[1] = 0.6 * u[0] + 0.8 * u[1]
    assert kappa(u) == pytest.approx(np.sqrt(0.6) * (63 - 0.6) / 0.4, rel=1e-12)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_directions_are_rejected(count):
    with pytest.raises(Rejected, match="few_directions"):
        kappa(noise(count, 4))


@pytest.mark.parametrize("factor", [1 - 1e-5, 1 + 1e-5, np.nan])
def test_what_is_no_unit_direction_is_rejected(factor):
    with pytest.raises(Rejected, match="off_sphere"):
        kappa(noise(8, 5) * factor)


def test_a_token_without_direction_loosens_and_never_divides_by_zero():
    loop = np.tile(noise(1, 6), (64, 1))
    loop[:32] = 0.0
    assert 0 < kappa(loop) < 60
    assert kappa(np.zeros((64, 64))) == 0.0


@few
@given(seeds, st.floats(0.01, 0.05))
def test_directions_are_unit_tangent_and_blind_to_how_far_a_basin_is(seed, reach):
    u = noise(10, seed)
    found = directions(exp_map(HOME_S, reach * u), HOME_S)
    assert found == pytest.approx(u, abs=1e-9)


def test_a_basin_at_home_has_no_direction():
    home = np.eye(64)[0]
    assert not directions(np.array([home]), home).any()


def test_directions_from_a_home_that_is_no_unit_vector_are_rejected():
    with pytest.raises(Rejected, match="off_sphere"):
        directions(np.eye(64), uniform())


def test_the_heading_is_the_direction_that_was_drawn_about():
    pole = np.eye(63)[0]
    assert heading(sample(64, 4000, 7)) @ pole > 0.999


@pytest.mark.parametrize("u", [np.zeros((0, 64)), np.zeros((5, 64)), np.array([np.eye(64)[3], -np.eye(64)[3]])])
def test_directions_that_cancel_have_no_heading(u):
    assert not heading(u).any()
