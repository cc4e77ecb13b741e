import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.constants import KAPPA_WINDOW_TOKENS
from common.geometry.concentration import directions, heading
from common.geometry.simplex import uniform
from common.kernels.bearing import Bearing, mean_direction
from common.kernels.generate import measure_kappa

HOMES = {"uniform": uniform(), "peaked": np.random.default_rng(8).dirichlet(np.full(64, 0.2))}


def basins(tokens, sharpness, seed):
    p = np.random.default_rng(seed).dirichlet(np.full(64, sharpness), tokens).astype(np.float32)
    return p / p.sum(1, keepdims=True)


@pytest.mark.parametrize("home", HOMES.values(), ids=HOMES)
@given(st.integers(16, 150), st.integers(16, 64), st.sampled_from([0.1, 1.0, 30.0]), st.integers(0, 50))
def test_kappa_kept_current_equals_kappa_of_the_window(home, tokens, last, sharpness, seed):
    read, bearing = basins(tokens, sharpness, seed), Bearing(home)
    bearing.turn(read[: tokens // 3])
    bearing.turn(read[tokens // 3 :])
    assert bearing.tokens == min(tokens, KAPPA_WINDOW_TOKENS)
    assert np.isclose(bearing.kappa(), measure_kappa(read, home), rtol=1e-9, atol=1e-9)
    assert np.isclose(bearing.kappa(last), measure_kappa(read[-last:], home), rtol=1e-9, atol=1e-9)
    window = directions(read[-KAPPA_WINDOW_TOKENS:].astype(np.float64), np.sqrt(home))
    assert np.allclose(mean_direction(bearing.held), heading(window), atol=1e-9)


def test_a_basin_at_home_has_no_direction():
    bearing = Bearing(uniform())
    bearing.turn(np.stack([uniform(), uniform(), *basins(20, 1.0, 1)]))
    assert np.isclose(bearing.kappa(), measure_kappa(np.stack([uniform()] * 2 + list(basins(20, 1.0, 1))), uniform()))


def test_a_loop_reads_as_fracture():
    bearing = Bearing(uniform())
    for _ in range(KAPPA_WINDOW_TOKENS):
        bearing.turn(basins(1, 1.0, 3))
    assert bearing.kappa() > 1e6
