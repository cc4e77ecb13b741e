import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import solve_discrete_lyapunov
from scipy.optimize import minimize
from scipy.stats import chi2, kstest

from common.errors import Rejected
from common.geometry.integration import (
    NO_MOMENTS,
    Moments,
    centred,
    chi2_survival,
    combine,
    faculties,
    geometric_nats,
    integration,
    moments,
    participation,
    rolled,
    standard_error,
)
from common.geometry.simplex import distance, normalise, uniform

few = settings(max_examples=10, deadline=None)
seeds = st.integers(0, 2**32 - 1)
HOME_S = np.sqrt(uniform())

_rng = np.random.default_rng(20)
SYSTEMS = {
    "alone": np.diag(np.linspace(0.2, 0.8, 8)),
    "weak": 0.5 * np.eye(8) + 0.05 * _rng.normal(size=(8, 8)),
    "mean field": 0.3 * np.eye(8) + 0.6 / 8,
    "dense": 0.4 * np.eye(8) + 0.1 * _rng.normal(size=(8, 8)),
    "ring": 0.1 * np.eye(8) + 0.7 * np.roll(np.eye(8), 1, 0),
    "rotation": 0.9 * np.linalg.qr(_rng.normal(size=(8, 8)))[0],
}
systems = pytest.mark.parametrize("name", SYSTEMS)


def covariances(A, noise):
    """Stationary <x x^T> and <x y^T> of y = A x + e, <e e^T> = noise."""
    past = solve_discrete_lyapunov(A, noise)
    return past, past @ A.T


def true_nats(A, noise):
    """Phi_G from the true A, by a general minimiser over the diagonal of A'."""
    past, _ = covariances(A, noise)

    def log_det(a):
        D = A - np.diag(a)
        return np.linalg.slogdet(noise + D @ past @ D.T)[1]

    starts = [np.diag(A), np.zeros(8), np.full(8, 0.5)]
    least = min(minimize(log_det, start, method="BFGS", options={"gtol": 1e-9}).fun for start in starts)
    return 0.5 * (least - np.linalg.slogdet(noise)[1])


def exact_moments(A, noise, n=1e9):
    past, cross = covariances(A, noise)
    return Moments(n, n * np.block([[past, cross], [cross.T, past]]))


def walk(A, tokens, seed, windows=1, scale=0.1):
    """Windows of a VAR(1) run, started 64 tokens before the first is kept."""
    rng, x = np.random.default_rng(seed), np.zeros((tokens + 64, windows, 8))
    for t in range(1, tokens + 64):
        x[t] = x[t - 1] @ A.T + scale * rng.normal(size=(windows, 8))
    return centred(x[64:].swapaxes(0, 1))


@systems
def test_the_minimum_is_the_one_a_general_minimiser_finds(name):
    A, noise = SYSTEMS[name], np.diag(np.linspace(0.5, 2.0, 8)) + 0.2
    past, cross = covariances(A, noise)
    assert geometric_nats(past, past, cross) == pytest.approx(true_nats(A, noise), abs=1e-6)


@pytest.mark.parametrize("name", ["alone", "weak", "mean field"])
def test_the_ridge_leaves_a_known_var_within_a_thousandth_of_a_nat(name):
    A = SYSTEMS[name]
    assert integration(exact_moments(A, np.eye(8))).phi_g_nats == pytest.approx(true_nats(A, np.eye(8)), abs=1e-3)


@systems
def test_phi_of_a_known_var_is_known_to_two_thousandths_under_the_ridge(name):
    A = SYSTEMS[name]
    expected = 1 - math.exp(-2 * true_nats(A, np.eye(8)))
    assert integration(exact_moments(A, np.eye(8))).phi == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("name", ["weak", "mean field", "ring"])
def test_a_simulated_var_reads_its_phi(name):
    A = SYSTEMS[name]
    read = integration(moments(walk(A, 1000, 3, windows=40)))
    assert read.phi == pytest.approx(1 - math.exp(-2 * true_nats(A, np.eye(8))), abs=0.02)
    assert read.p_value < 1e-6


def test_independent_faculties_read_nothing_and_rolling_uncouples_a_ring():
    ring = walk(SYSTEMS["ring"], 64, 4, windows=60)
    assert integration(moments(walk(SYSTEMS["alone"], 1000, 5, windows=4))).phi < 0.02
    assert integration(moments(ring)).phi > 0.9
    assert integration(moments(rolled(ring, np.random.default_rng(6)))).phi < 0.15


def test_faculties_with_a_constant_sum_and_no_coupling_read_nothing():
    x = walk(0.8 * np.eye(8), 2000, 7) @ (np.eye(8) - 1 / 8)
    read = integration(moments(x))
    assert read.phi < 0.02
    assert read.p_value > 1e-3


def test_a_faculty_that_never_moves_leaves_the_others_measured():
    x = walk(SYSTEMS["ring"], 2000, 8)
    x[..., 3] = 0.0
    assert 0.5 < integration(moments(x)).phi < 1.0


def test_p_values_without_coupling_are_uniform():
    found = [integration(moments(walk(0.5 * np.eye(8), 1000, seed))).p_value for seed in range(40)]
    assert kstest(found, "uniform").pvalue > 0.01


@few
@given(seeds, st.sampled_from(list(SYSTEMS)))
def test_phi_ignores_the_names_and_the_signs_of_faculties(seed, name):
    rng, m = np.random.default_rng(seed), exact_moments(SYSTEMS[name], np.eye(8))
    turn = np.kron(np.eye(2), np.eye(8)[rng.permutation(8)] * rng.choice([-1, 1], 8))
    turned = Moments(m.n, turn @ m.second @ turn.T)
    assert integration(turned).phi_g_nats == pytest.approx(integration(m).phi_g_nats, abs=1e-5)


@pytest.mark.parametrize(("tokens", "reason"), [(512, "few_transitions"), (513, None), (514, None)])
def test_phi_is_known_from_512_transitions_on(tokens, reason):
    read = integration(moments(walk(SYSTEMS["ring"], tokens, 9)))
    assert (read.n, read.reason, read.phi is None) == (tokens - 1, reason, reason is not None)


def test_the_bias_of_finite_data_is_taken_off():
    read = integration(moments(walk(SYSTEMS["ring"], 1001, 10)))
    assert read.phi == pytest.approx(1 - math.exp(-2 * (read.phi_g_nats - 56 / 2000)), abs=1e-12)


@pytest.mark.parametrize(("variance", "reason"), [(0.0, "degenerate"), (0.99e-6, "degenerate"), (1.01e-6, None)])
def test_a_state_that_hardly_moves_has_no_phi(variance, reason):
    read = integration(Moments(1000.0, 1000.0 * variance * np.eye(16)))
    assert (read.reason, read.p_value is None) == (reason, reason is not None)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_state_with_a_value_that_is_not_finite_has_no_phi(bad):
    x = walk(SYSTEMS["ring"], 1000, 11)
    x[0, 5, 2] = bad
    with np.errstate(invalid="ignore"):
        read = integration(moments(x))
    assert (read.phi, read.phi_g_nats, read.p_value, read.reason) == (None, None, None, "not_finite")


def test_moments_that_are_no_covariance_have_no_phi():
    second = np.eye(16)
    second[0, 8] = second[8, 0] = 2.0
    assert integration(Moments(1000.0, 1000.0 * second)).reason == "degenerate"


def test_moments_of_windows_add_up_and_never_cross_a_border():
    x = walk(SYSTEMS["weak"], 30, 12, windows=3)
    whole, parts = moments(x), combine(moments(x[:1]), moments(x[1:]))
    assert whole.n == parts.n == 3 * 29
    assert parts.second == pytest.approx(whole.second, rel=1e-12)


def test_moments_are_sums_of_outer_products():
    x = walk(SYSTEMS["weak"], 4, 13)
    pairs = [np.concatenate([x[0, t], x[0, t + 1]]) for t in range(3)]
    assert moments(x).second == pytest.approx(sum(np.outer(pair, pair) for pair in pairs), rel=1e-12)


def test_nothing_remembered_is_neutral_and_a_decayed_past_counts_less():
    m = moments(walk(SYSTEMS["weak"], 30, 14))
    assert combine(NO_MOMENTS, m).n == m.n
    kept = combine(m, m, keep=0.25)
    assert kept.n == 1.25 * m.n
    assert kept.second == pytest.approx(1.25 * m.second, rel=1e-12)


@pytest.mark.parametrize("keep", [-0.01, 1.01, math.nan])
def test_a_share_to_keep_outside_its_range_is_rejected(keep):
    with pytest.raises(Rejected, match="bad_fraction"):
        combine(NO_MOMENTS, NO_MOMENTS, keep)


@pytest.mark.parametrize("tokens", [0, 1])
def test_windows_without_a_transition_add_nothing(tokens):
    m = moments(centred(np.ones((3, tokens, 8))))
    assert (m.n, integration(m).reason) == (0.0, "few_transitions")


def test_faculties_are_summed_log_maps_centred_in_each_window():
    basins = np.random.default_rng(15).dirichlet(np.ones(64), (2, 40))
    x = faculties(basins, HOME_S)
    assert x.shape == (2, 40, 8)
    assert x.mean(1) == pytest.approx(np.zeros((2, 8)), abs=1e-12)


def test_a_push_on_one_faculty_moves_that_faculty_most():
    pushed = np.ones((1, 2, 64))
    pushed[0, 1, 16:24] = 2.0
    x = faculties(normalise(pushed), HOME_S)
    assert np.argmax(x[0, 1]) == 2
    assert x[0, 1, 2] - x[0, 0, 2] < distance(pushed[0, 1] / pushed[0, 1].sum(), uniform()) * math.sqrt(8) / 2


@pytest.mark.parametrize("shape", [(40, 64), (1, 40, 63)])
def test_basins_of_another_shape_are_rejected(shape):
    with pytest.raises(Rejected, match="bad_shape"):
        faculties(np.full(shape, 1 / shape[-1]), HOME_S)


def test_activations_of_another_shape_are_rejected():
    with pytest.raises(Rejected, match="bad_shape"):
        moments(np.zeros((4, 10, 7)))


@few
@given(seeds, st.integers(12, 100))
def test_rolling_moves_every_faculty_by_an_offset_of_its_own(seed, tokens):
    ramp = np.tile(np.arange(tokens, dtype=float)[None, :, None], (3, 1, 8))
    moved = rolled(ramp, np.random.default_rng(seed))
    offsets = (tokens - moved[:, 0, :]) % tokens
    assert np.all(offsets >= tokens / 6)
    assert all(len(set(row)) == 8 for row in offsets)
    assert np.array_equal(np.sort(moved, 1), ramp)


def test_rolling_a_window_below_twelve_tokens_is_rejected():
    with pytest.raises(Rejected, match="short_window"):
        rolled(np.zeros((1, 11, 8)), np.random.default_rng(0))


@pytest.mark.parametrize("x", [0.0, 1e-9, 1.0, 30.0, 56.0, 90.0, 400.0, 1400.0])
def test_the_survival_function_is_the_chi_square_one(x):
    assert chi2_survival(x, 56) == pytest.approx(chi2.sf(x, 56), rel=1e-10)


def test_an_overwhelming_statistic_has_p_zero_and_no_overflow():
    assert chi2_survival(1e9, 56) == 0.0


def test_the_standard_error_is_the_spread_over_fresh_runs():
    runs = [walk(SYSTEMS["weak"], 128, seed, windows=40) for seed in range(24)]
    spread = np.std([integration(moments(x)).phi for x in runs])
    assert 0.5 * spread < np.mean([standard_error(x) for x in runs]) < 2.0 * spread


@pytest.mark.parametrize(("windows", "tokens", "known"), [(9, 128, False), (10, 128, True), (10, 50, False)])
def test_the_standard_error_needs_a_block_to_spare(windows, tokens, known):
    x = walk(SYSTEMS["weak"], tokens, 16, windows=windows)
    assert (standard_error(x) is not None) is known


@pytest.mark.parametrize(("scales", "dimensions"), [([1] * 8, 8.0), ([1, 1] + [0] * 6, 2.0), ([1] + [0] * 7, 1.0)])
def test_participation_counts_the_dimensions_a_state_moves_in(scales, dimensions):
    x = walk(0.5 * np.eye(8), 4000, 17) * np.array(scales)
    turn = np.linalg.qr(np.random.default_rng(18).normal(size=(8, 8)))[0]
    assert participation(moments(x @ turn)) == pytest.approx(dimensions, rel=0.05)


def test_participation_of_too_little_text_is_not_known():
    assert participation(moments(walk(SYSTEMS["weak"], 512, 19))) is None
