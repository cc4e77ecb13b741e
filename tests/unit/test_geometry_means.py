import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from common.errors import Rejected
from common.geometry.means import carry, drift, frechet_mean, geodesic_median, spread
from common.geometry.simplex import distance, exp_map, log_map, slerp, uniform

few = settings(max_examples=10, deadline=None)
seeds = st.integers(0, 2**32 - 1)
alphas = st.sampled_from([0.05, 1.0, 20.0])
centres = pytest.mark.parametrize("centre", [frechet_mean, geodesic_median])


def basins(seed, alpha=1.0, count=5, cells=64):
    return np.random.default_rng(seed).dirichlet(np.full(cells, alpha), count)


def least_cost(p_ND, weights, power):
    """The least weighted sum of distance^power, by a general minimiser over logits."""

    def cost(logits):
        q = np.exp(logits - logits.max())
        return float(weights @ distance(q / q.sum(), p_ND) ** power)

    return minimize(cost, np.log(p_ND.mean(0)), method="BFGS", options={"gtol": 1e-9}).fun


@few
@given(seeds, alphas)
def test_the_frechet_mean_balances_every_log_map(seed, alpha):
    p = basins(seed, alpha)
    weights = np.random.default_rng(seed + 1).random(5) + 0.01
    mean = frechet_mean(p, weights)
    assert weights @ log_map(np.sqrt(mean), p) == pytest.approx(np.zeros(64), abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_the_frechet_mean_of_basins_that_share_no_cell_balances_as_well(seed):
    weights = np.random.default_rng(seed).exponential(size=64)
    mean = frechet_mean(np.eye(64), weights)
    pull = weights / weights.sum() @ log_map(np.sqrt(mean), np.eye(64))
    assert np.linalg.norm(pull) < 1e-11


@pytest.mark.parametrize(("centre", "power"), [(frechet_mean, 2), (geodesic_median, 1)])
@pytest.mark.parametrize("seed", range(4))
def test_a_centre_costs_no_more_than_a_general_minimiser_finds(centre, power, seed):
    p, weights = basins(seed, count=5, cells=4), np.array([1.0, 2.0, 0.5, 1.0, 1.5])
    cost = float(weights @ distance(centre(p, weights), p) ** power)
    assert cost <= least_cost(p, weights, power) + 1e-7


@few
@given(seeds, alphas)
def test_the_mean_of_two_is_the_middle_of_their_geodesic(seed, alpha):
    p, q = basins(seed, alpha, 2)
    assert float(distance(frechet_mean(np.array([p, q])), slerp(p, q, 0.5))) < 1e-7
    assert float(distance(geodesic_median(np.array([p, q])), slerp(p, q, 0.5))) < 1e-7


@few
@given(seeds, st.floats(0.0, 1.0))
def test_the_weighted_mean_of_two_is_their_slerp(seed, t):
    p, q = basins(seed, 1.0, 2)
    mean = frechet_mean(np.array([p, q]), np.array([1 - t, t]))
    assert float(distance(mean, slerp(p, q, t))) < 1e-7


@centres
@few
@given(seed=seeds)
def test_a_centre_ignores_order_and_counts_weights_as_repetitions(centre, seed):
    p = basins(seed)
    order = np.random.default_rng(seed).permutation(5)
    assert centre(p[order]) == pytest.approx(centre(p), abs=1e-8)
    assert centre(p, np.array([2.0, 1, 1, 3, 1])) == pytest.approx(centre(p[[0, 0, 1, 2, 3, 3, 3, 4]]), abs=1e-8)


@centres
def test_a_centre_of_one_point_or_one_weight_is_that_point(centre):
    p = basins(3)
    assert centre(p[:1]) == pytest.approx(p[0], abs=1e-12)
    assert centre(p, np.array([0.0, 0, 1, 0, 0])) == pytest.approx(p[2], abs=1e-10)


@centres
def test_the_centre_of_all_vertices_is_uniform(centre):
    assert centre(np.eye(64)) == pytest.approx(uniform(), abs=1e-12)


def test_two_outliers_in_five_drag_the_mean_and_not_the_median():
    rng = np.random.default_rng(5)
    honest = rng.dirichlet(2000 * uniform(), 3)
    poisoned = np.vstack([honest, np.eye(64)[[0, 0]]])
    assert drift(geodesic_median(poisoned), uniform()) < 0.3
    assert drift(frechet_mean(poisoned), uniform()) > 0.8


@pytest.mark.parametrize("seed", range(6))
def test_the_median_beside_a_point_that_nearly_holds_it_is_found_as_well(seed):
    """From the mean it is a long way to there, of which each step of Weiszfeld's takes a thousandth."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(8, 0.5), size=3)
    to = np.stack([log_map(np.sqrt(p[0]), other) for other in p[1:]])
    pull = (to / np.linalg.norm(to, axis=1, keepdims=True)).sum(0)
    weights = np.array([0.999 * np.linalg.norm(pull), 1.0, 1.0])
    found = geodesic_median(p, weights)
    that_way = [exp_map(np.sqrt(p[0]), length * pull) for length in np.geomspace(1e-5, 1e-2, 60)]
    costs = [float(weights @ distance(each, p)) for each in (found, *that_way)]
    assert costs[0] <= min(costs) + 1e-9


def test_the_median_of_a_weight_majority_is_that_point():
    p = basins(9)
    assert geodesic_median(p, np.array([4.01, 1, 1, 1, 1])) == pytest.approx(p[0], abs=1e-10)


@centres
@pytest.mark.parametrize("weights", [[0.0, 0], [1, -0.1], [np.nan, 1], [np.inf, 1], [1.0, 1, 1]])
def test_weights_that_are_none_are_rejected(centre, weights):
    with pytest.raises(Rejected, match="bad_weights"):
        centre(basins(1, count=2), np.array(weights))


@centres
def test_the_centre_of_nothing_is_rejected(centre):
    with pytest.raises(Rejected, match="bad_weights"):
        centre(np.empty((0, 64)))


def test_spread_is_the_mean_distance_to_the_mean():
    p, q = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    assert spread(np.array([p, q])) == pytest.approx(np.pi / 2, abs=1e-12)
    assert spread(np.array([p, p, p])) == pytest.approx(0.0, abs=1e-12)


def test_two_random_basins_are_far_apart():
    p = basins(11, count=400)
    assert float(distance(p[::2], p[1::2]).mean()) == pytest.approx(2 * 0.660, abs=0.02)


def test_drift_is_the_distance_of_two_homes():
    p, q = basins(12, count=2)
    assert drift(p, q) == float(distance(p, q))


@given(seeds, alphas)
def test_a_home_is_carried_as_far_as_the_mean_that_was_measured_moved(seed, alpha):
    home, before, after = basins(seed, alpha, 3)
    carried = carry(home, before, after)
    assert carried.sum() == pytest.approx(1.0)
    if (carried > 0).all():
        assert drift(home, carried) == pytest.approx(drift(before, after), abs=1e-6)


@given(seeds, alphas)
def test_a_home_that_was_measured_itself_is_carried_to_the_new_measure(seed, alpha):
    before, after = basins(seed, alpha, 2)
    assert drift(carry(before, before, after), after) < 1e-6
    assert drift(carry(after, before, before), after) < 1e-6


def test_carrying_keeps_the_direction_along_a_geodesic():
    ends = np.array([0.9, 0.1]), np.array([0.1, 0.9])
    thirds = [slerp(*ends, t) for t in (0.2, 0.4, 0.6, 0.8)]
    assert drift(carry(thirds[2], thirds[0], thirds[1]), thirds[3]) < 1e-9
