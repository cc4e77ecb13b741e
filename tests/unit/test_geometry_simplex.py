import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import Rejected
from common.geometry import simplex as g

few = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 2**32 - 1)
alphas = st.sampled_from([0.02, 0.2, 1.0, 20.0])
fractions = st.floats(0.0, 1.0)


def basins(seed, alpha=1.0, count=3, cells=64):
    return np.random.default_rng(seed).dirichlet(np.full(cells, alpha), count)


def vertex(cell, cells=64):
    return np.eye(cells)[cell]


# Reference values are stated as arccos BC; the distance here is its double.
@pytest.mark.parametrize(
    ("p", "q", "single_rad"),
    [
        (g.uniform(), vertex(5), 1.4454684956268313),
        (vertex(0), vertex(1), 1.5707963267948966),
        ([0.5, 0.5], [0.9, 0.1], 0.46364760900080615),
        ([0.25] * 4, [0.7, 0.1, 0.1, 0.1], 0.46755781083289344),
    ],
)
def test_distance_is_twice_the_reference_angle(p, q, single_rad):
    assert float(g.distance(np.array(p), np.array(q))) == pytest.approx(2 * single_rad, abs=1e-12)


def test_uniform_lies_twice_arccos_one_eighth_from_every_vertex():
    assert g.distance(g.uniform(), np.eye(64)) == pytest.approx(np.full(64, 2 * np.arccos(1 / 8)), abs=1e-12)


def test_distance_of_two_reference_byte_basins_is_twice_the_reference_angle():
    t, h = (np.random.RandomState(ord(byte) + 42).dirichlet(np.ones(64)) for byte in "th")
    assert float(g.distance(t, h)) == pytest.approx(2 * 0.645541627966111, abs=1e-12)


@few
@given(seeds, alphas)
def test_distance_is_a_metric(seed, alpha):
    p, q, r = basins(seed, alpha)
    assert g.distance(p, p) == 0.0
    assert g.distance(p, q) == g.distance(q, p)
    assert 0.0 < g.distance(p, q) <= np.pi
    assert g.distance(p, r) <= g.distance(p, q) + g.distance(q, r) + 1e-10


@few
@given(seeds, alphas)
def test_distance_ignores_the_order_of_cells(seed, alpha):
    p, q, _ = basins(seed, alpha)
    order = np.random.default_rng(seed).permutation(64)
    assert g.distance(p[order], q[order]) == pytest.approx(g.distance(p, q), abs=1e-12)


@few
@given(seeds, alphas)
def test_merging_cells_never_brings_basins_farther_apart(seed, alpha):
    p, q, _ = basins(seed, alpha)
    coarse = g.distance(p.reshape(8, 8).sum(-1), q.reshape(8, 8).sum(-1))
    assert coarse <= g.distance(p, q) + 1e-12


@few
@given(seeds)
def test_distance_and_log_map_keep_their_digits_when_basins_nearly_touch(seed):
    p, q, _ = basins(seed)
    home_s = np.sqrt(p)
    v = 1e-9 * g.log_map(home_s, q)
    assert g.distance(p, g.exp_map(home_s, v)) == pytest.approx(2 * np.sqrt(v @ v), abs=1e-14)
    assert g.log_map(home_s, g.exp_map(home_s, v)) == pytest.approx(v, abs=1e-15)


def test_distance_broadcasts_over_leading_axes():
    p = basins(1, count=6).reshape(2, 3, 64)
    found = g.distance(p[:, :, None], p[:, None, :])
    assert found.shape == (2, 3, 3)
    assert found[1, 0, 2] == g.distance(p[1, 0], p[1, 2])


@pytest.mark.parametrize("bad", [[0.5, 0.6], [-0.1, 1.1], [np.nan, 1.0], [np.inf, 0.0], [1.0], 1.0])
def test_what_is_off_the_simplex_is_rejected(bad):
    with pytest.raises(Rejected, match="off_simplex"):
        g.distance(np.array(bad), np.array([0.5, 0.5]))


@pytest.mark.parametrize("error", [-0.9e-6, 0.9e-6])
def test_a_sum_off_by_less_than_the_tolerance_passes(error):
    assert g.check_simplex(np.array([0.5, 0.5 + error])).dtype == np.float64


@pytest.mark.parametrize("error", [-1.1e-6, 1.1e-6])
def test_a_sum_off_by_more_than_the_tolerance_is_rejected(error):
    with pytest.raises(Rejected, match=r"off one by 1\.1e-06"):
        g.check_simplex(np.array([0.5, 0.5 + error]))


@few
@given(seeds, st.floats(1e-3, 1e3))
def test_normalise_is_idempotent_and_blind_to_scale(seed, scale):
    p = basins(seed)
    once = g.normalise(scale * p)
    assert once == pytest.approx(p, abs=1e-12)
    assert g.normalise(once) == pytest.approx(once, abs=1e-15)


@pytest.mark.parametrize("bad", [[0.0, 0.0], [-1e-12, 1.0], [np.nan, 1.0]])
def test_normalise_rejects_what_has_no_direction(bad):
    with pytest.raises(Rejected, match="off_simplex"):
        g.normalise(np.array(bad))


@few
@given(seeds, alphas)
def test_exp_undoes_log(seed, alpha):
    home, *p = basins(seed, alpha)
    assert g.exp_map(np.sqrt(home), g.log_map(np.sqrt(home), np.array(p))) == pytest.approx(np.array(p), abs=1e-12)


@few
@given(seeds, alphas)
def test_log_map_is_tangent_and_half_a_distance_long(seed, alpha):
    home, p, _ = basins(seed, alpha)
    v = g.log_map(np.sqrt(home), p)
    assert v @ np.sqrt(home) == pytest.approx(0.0, abs=1e-12)
    assert 2 * np.sqrt(v @ v) == pytest.approx(float(g.distance(home, p)), abs=1e-12)


def test_log_map_of_home_is_zero():
    assert not g.log_map(vertex(3), vertex(3)).any()


def test_a_basin_in_the_place_of_its_square_root_is_rejected():
    with pytest.raises(Rejected, match=r"pass sqrt\(basin\)"):
        g.log_map(g.uniform(), g.uniform())


def test_exp_map_rejects_a_vector_that_leaves_the_simplex():
    home_s = np.sqrt([0.5, 0.5])
    along = np.array([1.0, -1.0]) / np.sqrt(2)
    assert g.exp_map(home_s, 0.7853 * along)[1] == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(Rejected, match="off_orthant"):
        g.exp_map(home_s, 0.7855 * along)


def test_exp_map_rejects_a_vector_that_is_not_tangent():
    with pytest.raises(Rejected, match="off_tangent"):
        g.exp_map(np.sqrt([0.5, 0.5]), np.array([0.1, 0.1]))


@pytest.mark.parametrize(("t", "expected"), [(0.5, [0.5, 0.5]), (0.25, [0.853553390593, 0.146446609407])])
def test_slerp_between_vertices_has_its_closed_form(t, expected):
    assert g.slerp(vertex(0, 2), vertex(1, 2), t) == pytest.approx(np.array(expected), abs=1e-12)


def test_slerp_agrees_with_the_reference_up_to_its_floor():
    assert g.slerp(vertex(0, 2), vertex(1, 2), 0.25) == pytest.approx([0.85355303704, 0.14644696296], abs=1e-5)


@few
@given(seeds, alphas, fractions)
def test_slerp_travels_its_share_of_the_distance(seed, alpha, t):
    p, q, _ = basins(seed, alpha)
    between = g.slerp(p, q, t)
    assert float(g.distance(p, between)) == pytest.approx(t * float(g.distance(p, q)), abs=1e-7)
    assert float(g.distance(between, q)) == pytest.approx((1 - t) * float(g.distance(p, q)), abs=1e-7)


@few
@given(seeds, alphas)
def test_slerp_ends_at_its_ends_and_stays_when_they_are_equal(seed, alpha):
    p, q, _ = basins(seed, alpha)
    assert g.slerp(p, q, np.array([0.0, 1.0])) == pytest.approx(np.array([p, q]), abs=1e-12)
    assert g.slerp(p, p, 0.3) == pytest.approx(p, abs=1e-12)


@pytest.mark.parametrize("t", [-1e-9, 1 + 1e-9, np.nan])
def test_slerp_past_an_end_is_rejected(t):
    with pytest.raises(Rejected, match="bad_fraction"):
        g.slerp(vertex(0), vertex(1), t)


@few
@given(seeds, alphas)
def test_stored_rows_sum_to_exactly_one_and_storing_again_changes_nothing(seed, alpha):
    stored = g.to_float16(basins(seed, alpha, 8))
    assert stored.dtype == np.float16
    assert np.all(stored.astype(np.float64).sum(-1) == 1.0)
    assert np.array_equal(g.from_float16(stored), stored.astype(np.float64))
    assert np.array_equal(g.to_float16(g.from_float16(stored)), stored)


@few
@given(seeds, st.sampled_from([0.2, 1.0, 20.0]))
def test_storing_a_spread_out_basin_moves_it_less_than_its_promise(seed, alpha):
    p = basins(seed, alpha, 8)
    assert g.distance(p, g.from_float16(g.to_float16(p))).max() < 0.0015


@few
@given(st.floats(-8.0, -0.1))
def test_storing_a_basin_near_a_vertex_moves_it_less_than_its_promise(exponent):
    rest = 10.0**exponent
    p = np.concatenate([[1 - rest], np.full(63, rest / 63)])
    stored = g.to_float16(p)
    assert stored.astype(np.float64).sum() == 1.0
    assert g.distance(p, g.from_float16(stored)) < 0.032


def test_a_stored_vertex_is_the_vertex():
    assert np.array_equal(g.to_float16(np.eye(64)), np.eye(64, dtype=np.float16))


def test_rows_merely_rounded_to_float16_are_read_and_sum_to_one():
    read = g.from_float16(basins(7, 0.2, 50).astype(np.float16))
    assert read.sum(-1) == pytest.approx(np.ones(50), abs=1e-14)


@pytest.mark.parametrize(("excess", "passes"), [(2.0**-11, True), (2.0**-10, True), (3 * 2.0**-11, False)])
def test_a_stored_row_may_be_off_one_by_its_tolerance_only(excess, passes):
    stored = np.array([0.5, 0.5 + excess], np.float16)
    if passes:
        assert g.from_float16(stored).sum() == 1.0
    else:
        with pytest.raises(Rejected, match="off_simplex"):
            g.from_float16(stored)


def test_stored_infinity_is_rejected():
    with pytest.raises(Rejected, match="off_simplex"):
        g.from_float16(np.array([np.inf, 0.5], np.float16))
