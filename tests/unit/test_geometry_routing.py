import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import Rejected
from common.geometry.routing import ROUTE_TEMPERATURE_RAD, Router
from common.geometry.simplex import distance, slerp

few = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def route(basin, homes, *, margin_min_rad):
    return Router(homes, margin_min_rad=margin_min_rad).route(basin)


def world(seed, count=5):
    basin, *homes = np.random.default_rng(seed).dirichlet(np.ones(64), count + 1)
    return basin, {f"home-{i}": home for i, home in enumerate(homes)}


@few
@given(seeds)
def test_steps_run_from_nearest_to_farthest_with_falling_weights(seed):
    basin, homes = world(seed)
    found = route(basin, homes, margin_min_rad=0.0)
    distances = [step.distance_rad for step in found.steps]
    weights = [step.weight for step in found.steps]
    assert distances == sorted(distances)
    assert weights == sorted(weights, reverse=True)
    assert sum(weights) == pytest.approx(1.0, abs=1e-12)


@few
@given(seeds)
def test_weights_are_a_softmax_of_distances(seed):
    first, second, *_ = route(*world(seed), margin_min_rad=0.0).steps
    gap_rad = second.distance_rad - first.distance_rad
    assert first.weight / second.weight == pytest.approx(math.exp(gap_rad / ROUTE_TEMPERATURE_RAD), rel=1e-9)


@few
@given(seeds)
def test_the_order_homes_are_given_in_does_not_matter(seed):
    basin, homes = world(seed)
    assert route(basin, dict(reversed(homes.items())), margin_min_rad=0.1) == route(basin, homes, margin_min_rad=0.1)


def test_equal_homes_go_by_name():
    basin, homes = world(1, 1)
    twins = {"b": homes["home-0"], "a": homes["home-0"], "c": homes["home-0"]}
    found = route(basin, twins, margin_min_rad=0.0)
    assert [step.name for step in found.steps] == ["a", "b", "c"]
    assert found.margin_rad == 0.0
    assert not found.abstained


def test_a_basin_at_home_is_at_distance_zero():
    _, homes = world(2)
    found = route(homes["home-3"], homes, margin_min_rad=0.1)
    assert (found.steps[0].name, found.steps[0].distance_rad) == ("home-3", 0.0)


def test_one_home_is_a_clear_answer_with_all_the_weight():
    found = route(*world(3, 1), margin_min_rad=math.pi)
    assert (found.margin_rad, found.abstained, found.steps[0].weight) == (math.inf, False, 1.0)


def test_a_route_abstains_below_the_least_margin_and_not_at_it():
    _, homes = world(4, 2)
    basin = slerp(homes["home-0"], homes["home-1"], 0.45)
    margin = route(basin, homes, margin_min_rad=0.0).margin_rad
    assert route(basin, homes, margin_min_rad=math.nextafter(margin, 9.0)).abstained
    assert not route(basin, homes, margin_min_rad=margin).abstained
    assert not route(basin, homes, margin_min_rad=math.nextafter(margin, 0.0)).abstained


@few
@given(seeds)
def test_distances_are_fisher_rao(seed):
    basin, homes = world(seed)
    for step in route(basin, homes, margin_min_rad=0.0).steps:
        assert step.distance_rad == pytest.approx(float(distance(basin, homes[step.name])), abs=1e-12)


def test_a_basin_off_the_simplex_is_rejected():
    with pytest.raises(Rejected, match="off_simplex"):
        route(np.full(64, 0.1), world(8)[1], margin_min_rad=0.0)


def test_no_homes_are_rejected():
    with pytest.raises(Rejected, match="no_homes"):
        route(world(5)[0], {}, margin_min_rad=0.0)


def test_a_home_of_another_length_is_rejected():
    with pytest.raises(Rejected, match="bad_shape"):
        route(np.array([0.5, 0.5]), world(6)[1], margin_min_rad=0.0)


def test_a_home_off_the_simplex_is_rejected():
    with pytest.raises(Rejected, match="off_simplex"):
        route(world(7)[0], {"broken": np.full(64, np.nan)}, margin_min_rad=0.0)
