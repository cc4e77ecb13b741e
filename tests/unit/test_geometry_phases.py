import math

import pytest

from common.constants import PHASES
from common.errors import Rejected
from common.geometry.phases import phase_of

above = math.inf
below = -math.inf


def near(value, towards):
    return math.nextafter(value, towards)


@pytest.mark.parametrize(
    ("kappa", "phase"),
    [
        (0.0, "FOAM"),
        (near(20.0, below), "FOAM"),
        (20.0, "TACKING"),
        (near(50.0, below), "TACKING"),
        (50.0, "CRYSTAL"),
        (70.0, "CRYSTAL"),
        (near(70.0, above), "FRACTURE"),
        (math.inf, "FRACTURE"),
    ],
)
def test_without_a_previous_phase_the_bounds_hold_as_they_are(kappa, phase):
    assert phase_of(kappa, None, None) == phase


@pytest.mark.parametrize(
    ("previous", "kappa", "phase"),
    [
        ("FOAM", 21.99, "FOAM"),
        ("FOAM", 22.0, "TACKING"),
        ("TACKING", 51.99, "TACKING"),
        ("TACKING", 52.0, "CRYSTAL"),
        ("CRYSTAL", 72.0, "CRYSTAL"),
        ("CRYSTAL", 72.01, "FRACTURE"),
    ],
)
def test_rising_takes_the_bound_and_the_hysteresis(previous, kappa, phase):
    assert phase_of(kappa, None, previous) == phase


@pytest.mark.parametrize(
    ("previous", "kappa", "phase"),
    [
        ("FRACTURE", 68.01, "FRACTURE"),
        ("FRACTURE", 68.0, "CRYSTAL"),
        ("CRYSTAL", 48.0, "CRYSTAL"),
        ("CRYSTAL", 47.99, "TACKING"),
        ("TACKING", 18.0, "TACKING"),
        ("TACKING", 17.99, "FOAM"),
    ],
)
def test_falling_takes_the_bound_and_the_hysteresis(previous, kappa, phase):
    assert phase_of(kappa, None, previous) == phase


@pytest.mark.parametrize("previous", PHASES)
@pytest.mark.parametrize(("kappa", "phase"), [(5.0, "FOAM"), (35.0, "TACKING"), (60.0, "CRYSTAL"), (90.0, "FRACTURE")])
def test_deep_inside_a_phase_the_past_does_not_matter(previous, kappa, phase):
    assert phase_of(kappa, 0.8, previous) == phase


def test_a_leap_over_a_phase_goes_only_as_far_as_the_hysteresis_allows():
    assert phase_of(51.0, None, "FOAM") == "TACKING"
    assert phase_of(49.0, None, "FRACTURE") == "CRYSTAL"


def test_noise_within_the_hysteresis_never_flaps():
    phase, seen = "FOAM", set()
    for kappa in [21.9, 18.1, 21.0, 19.0, 20.0] * 5:
        phase = phase_of(kappa, None, phase)
        seen.add(phase)
    assert seen == {"FOAM"}


@pytest.mark.parametrize(
    ("phi", "phase"),
    [(near(0.85, below), "TACKING"), (0.85, "TACKING"), (near(0.85, above), "FRACTURE"), (None, "TACKING")],
)
def test_phi_above_its_window_is_fracture_and_unknown_phi_decides_nothing(phi, phase):
    assert phase_of(30.0, phi, "TACKING") == phase


def test_fracture_by_phi_ends_when_phi_does():
    assert phase_of(30.0, 0.84, "FRACTURE") == "TACKING"


@pytest.mark.parametrize(("kappa", "phi"), [(math.nan, None), (-0.1, None), (30.0, math.nan)])
def test_a_reading_that_is_no_number_is_rejected_and_never_healthy(kappa, phi):
    with pytest.raises(Rejected, match="bad_reading"):
        phase_of(kappa, phi, None)
