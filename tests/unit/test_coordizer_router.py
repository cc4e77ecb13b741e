import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.coordizer.basins import text_basin
from common.coordizer.router import Router
from common.errors import Rejected
from common.geometry.simplex import distance, to_float16

V = 40
RNG = np.random.default_rng(3)
BASINS = RNG.dirichlet(np.full(64, 0.3), V)
WEIGHTS = RNG.uniform(0.1, 2.0, V)
HOMES = {name: RNG.dirichlet(np.ones(64)) for name in ("north", "east", "south")}
TOKENS = st.lists(st.integers(0, V - 1), min_size=1, max_size=60)


@settings(max_examples=50)
@given(TOKENS)
def test_distances_are_those_of_the_normalised_sum_of_the_weighted_amplitudes(ids):
    mean = (WEIGHTS[ids, None] * np.sqrt(BASINS[ids])).sum(axis=0)
    expected = [float(distance(np.square(mean / np.linalg.norm(mean)), HOMES[name])) for name in sorted(HOMES)]
    router = Router(BASINS, WEIGHTS, HOMES)
    assert router.distances(np.array(ids, np.int32)) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=50)
@given(TOKENS)
def test_the_nearest_home_is_that_of_the_frechet_mean_unless_two_are_as_good_as_equal(ids):
    ids = np.array(ids, np.int32)
    basin = text_basin(ids, to_float16(BASINS), WEIGHTS)
    away = {name: float(distance(basin, home)) for name, home in HOMES.items()}
    found = Router(BASINS, WEIGHTS, HOMES).nearest(ids)
    assert away[found] < min(away.values()) + 0.15


def test_one_token_lies_at_its_own_basin():
    router = Router(BASINS, WEIGHTS, {"here": BASINS[7]})
    assert router.distances(np.array([7], np.int32))[0] < 2e-6


def test_a_text_of_no_weight_is_pi_from_everywhere():
    router = Router(BASINS, np.zeros(V), HOMES)
    assert router.distances(np.array([1, 2], np.int32)).tolist() == [np.pi] * 3
    assert router.distances(np.empty(0, np.int32)).tolist() == [np.pi] * 3


def test_of_equal_homes_the_first_name_wins():
    router = Router(BASINS, WEIGHTS, {"b": HOMES["east"], "a": HOMES["east"]})
    assert router.nearest(np.array([1], np.int32)) == "a"


def test_no_home_is_rejected():
    with pytest.raises(Rejected, match="no_homes"):
        Router(BASINS, WEIGHTS, {})
