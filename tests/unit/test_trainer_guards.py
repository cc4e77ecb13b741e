"""Each guard just below, at and above its threshold, and what holds for every sequence."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.constants import PHI_COLLAPSE_MEASUREMENTS
from services.trainer.guards import DIVERGENCE_FACTOR, Guard, Measurement, step

WELL = Measurement(loss=3.0, phi=0.79)
ARMED = Guard(armed=True, loss=3.0)


def low(phi):
    return math.nextafter(phi, -math.inf)


def high(phi):
    return math.nextafter(phi, math.inf)


def run(guard, *measurements):
    """The guard and the verdicts after these measurements."""
    verdicts = []
    for seen in measurements:
        guard, verdict, _ = step(guard, seen)
        verdicts.append(verdict)
    return guard, verdicts


@pytest.mark.parametrize(("times", "last"), [(9, "GO"), (10, "RESTORE"), (11, "RESTORE")])
def test_ten_measurements_below_the_collapse_bound_restore(times, last):
    _, verdicts = run(ARMED, *[replace(WELL, phi=low(0.65))] * times)
    assert verdicts[-1] == last
    assert verdicts[:9] == ["GO"] * 9


@pytest.mark.parametrize("phi", [0.65, high(0.65)])
def test_at_the_collapse_bound_nothing_has_collapsed(phi):
    guard, verdicts = run(ARMED, *[replace(WELL, phi=phi)] * 11)
    assert verdicts == ["GO"] * 11
    assert guard.low == 0


def test_one_measurement_at_the_bound_begins_the_count_again():
    below = [replace(WELL, phi=0.5)] * (PHI_COLLAPSE_MEASUREMENTS - 1)
    assert set(run(ARMED, *below, replace(WELL, phi=0.65), *below)[1]) == {"GO"}


@pytest.mark.parametrize("times", [9, 10, 11, 100])
def test_a_state_that_never_was_integrated_cannot_collapse(times):
    guard, verdicts = run(Guard(), *[replace(WELL, phi=low(0.65))] * times)
    assert set(verdicts) == {"GO"}
    assert not guard.armed


@pytest.mark.parametrize(("phi", "armed"), [(low(0.65), False), (0.65, True), (high(0.65), True)])
def test_the_collapse_guard_arms_when_phi_first_reaches_its_bound(phi, armed):
    assert step(Guard(), replace(WELL, phi=phi))[0].armed == armed


def test_once_armed_the_collapse_guard_stays_armed():
    assert run(Guard(), WELL, replace(WELL, phi=0.1))[0].armed


@pytest.mark.parametrize(("phi", "verdict"), [(low(0.85), "GO"), (0.85, "GO"), (high(0.85), "RENEW"), (1.0, "RENEW")])
def test_phi_above_its_window_renews(phi, verdict):
    _, found, reason = step(ARMED, replace(WELL, phi=phi))
    assert found == verdict
    assert (verdict == "RENEW") == ("phi" in reason)


@pytest.mark.parametrize(
    ("kappa", "verdict"),
    [(None, "GO"), (0.0, "GO"), (low(70.0), "GO"), (70.0, "GO"), (high(70.0), "RENEW"), (math.inf, "RENEW")],
)
def test_kappa_above_its_bound_renews(kappa, verdict):
    _, found, reason = step(ARMED, replace(WELL, kappa=kappa))
    assert found == verdict
    assert (verdict == "RENEW") == ("kappa" in reason)


def test_a_renewal_ends_with_the_first_healthy_measurement():
    _, verdicts = run(ARMED, replace(WELL, phi=0.9), replace(WELL, phi=0.9), WELL)
    assert verdicts == ["RENEW", "RENEW", "GO"]


@pytest.mark.parametrize(("factor", "verdict"), [(low(2.0), "GO"), (2.0, "GO"), (2.0 + 1e-9, "RESTORE")])
def test_a_loss_above_twice_its_running_mean_restores(factor, verdict):
    assert DIVERGENCE_FACTOR == 2.0
    assert step(ARMED, replace(WELL, loss=3.0 * factor))[1] == verdict


def test_a_first_loss_has_nothing_to_diverge_from():
    guard, verdict, _ = step(Guard(), replace(WELL, loss=1e6))
    assert (verdict, guard.loss) == ("GO", 1e6)


def test_the_running_mean_moves_a_twentieth_of_the_way():
    assert step(ARMED, replace(WELL, loss=4.0))[0].loss == pytest.approx(3.05)


UNSAFE = {
    "loss nan": replace(WELL, loss=math.nan),
    "loss inf": replace(WELL, loss=math.inf),
    "loss -inf": replace(WELL, loss=-math.inf),
    "loss doubled": replace(WELL, loss=6.1),
    "phi None": replace(WELL, phi=None),
    "phi nan": replace(WELL, phi=math.nan),
    "phi inf": replace(WELL, phi=math.inf),
    "phi -inf": replace(WELL, phi=-math.inf),
    "kappa nan": replace(WELL, kappa=math.nan),
    "gradient nan": replace(WELL, gradient=math.nan),
    "gradient inf": replace(WELL, gradient=math.inf),
}


@pytest.mark.parametrize("name", UNSAFE)
@pytest.mark.parametrize("guard", [ARMED, replace(ARMED, low=3), replace(ARMED, armed=False)])
def test_what_is_not_known_or_diverges_is_unsafe_and_says_why(guard, name):
    after, verdict, reason = step(guard, UNSAFE[name])
    assert verdict == "RESTORE"
    assert name.split()[0] in reason
    assert after == guard


healthy = st.builds(
    Measurement,
    loss=st.floats(1.0, 1.9),
    phi=st.floats(0.65, 0.85),
    kappa=st.none() | st.floats(0, 70),
    gradient=st.floats(0, 1e30),
)
anything = st.builds(
    Measurement,
    loss=st.floats(),
    phi=st.none() | st.floats(),
    kappa=st.none() | st.floats(),
    gradient=st.floats(),
)
guards = st.builds(Guard, armed=st.booleans(), low=st.integers(0, 12), loss=st.none() | st.floats(0, 1e6))


@settings(max_examples=30)
@given(st.lists(healthy, max_size=60))
def test_no_sequence_of_healthy_measurements_leaves_go(sequence):
    _, verdicts = run(Guard(), *sequence)
    assert set(verdicts) <= {"GO"}


@settings(max_examples=80)
@given(guards, anything)
def test_restore_never_advances_the_guard_and_only_go_is_silent(guard, seen):
    after, verdict, reason = step(guard, seen)
    assert verdict != "RESTORE" or after == guard
    assert (verdict == "GO") == (reason == "")


@settings(max_examples=80)
@given(guards, anything)
def test_a_guard_never_learns_from_what_is_not_a_number(guard, seen):
    after, verdict, _ = step(guard, seen)
    assert after.loss is None or math.isfinite(after.loss)
    assert verdict == "RESTORE" or (seen.phi is not None and math.isfinite(seen.phi))
