import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.constants import KAPPA_WINDOW_TOKENS, PHASE_BOUNDS, PHASE_HYSTERESIS
from common.geometry.phases import phase_of
from common.kernels.tacking import FIRST_TRIM, FORGET_TOKENS, FRESH_TOKENS, GAIN_MAX, HEAT_MAX, Helm, steer

PROMPT_TOKENS = 32
READINGS = st.floats(0, 1e11)


def sail(response, tokens, *, noise=0.0, loop_at=(), **aim):
    """Steers a simulated text after an untouched prompt, and returns what was read: (kappa, phase, helm) a token.

    A token is held with r = mean cosine to the heading, which answers to the gain at once; a reading is kappa of the
    mean r in its window. response: log kappa of a gain; loop_at: tokens at which the text falls into a loop, r = 1,
    which only a gain under -23 breaks.
    """
    rng, helm, phase, looping, seen = np.random.default_rng(3), Helm(), None, False, []
    held = [mean_cosine(math.exp(response(0.0)))] * PROMPT_TOKENS
    for t in range(tokens):
        looping = (looping or t in loop_at) and helm.gain > -23
        held.append(1.0 if looping else mean_cosine(math.exp(response(helm.gain) + noise * rng.normal())))
        readings = [concentration(float(np.mean(held[-size:]))) for size in (KAPPA_WINDOW_TOKENS, FRESH_TOKENS)]
        phase = phase_of(readings[0], None, phase)
        helm = steer(helm, *readings, phase, **aim)
        seen.append((readings[0], phase, helm))
    return seen


def concentration(r):
    """Kappa of a mean cosine."""
    return r * (63 - r * r) / max(1 - r * r, 1e-9)


def mean_cosine(kappa):
    """Its inverse, within 2 % of kappa."""
    return (math.sqrt(63**2 + 4 * kappa**2) - 63) / (2 * kappa)


@pytest.mark.parametrize("slope", [0.15, 0.25, 0.35])
@pytest.mark.parametrize("untouched", [8.0, 14.0, 23.0])
def test_kernels_of_any_measured_kind_are_steered_into_the_band(untouched, slope):
    seen = sail(lambda gain: math.log(untouched) + slope * gain, 512, noise=0.5)
    assert 50 <= np.median([kappa for kappa, _, _ in seen]) <= 70


def test_a_kernel_that_answers_twice_as_hard_is_still_steered():
    seen = sail(lambda gain: math.log(14) + 0.7 * gain, 1024, noise=0.3)
    assert 45 <= np.median([kappa for kappa, _, _ in seen[256:]]) <= 75


def test_the_set_point_is_where_it_is_put():
    seen = sail(lambda gain: math.log(10) + 0.25 * gain, 1024, noise=0.3, target=30.0)
    assert np.median([kappa for kappa, _, _ in seen[256:]]) == pytest.approx(30, rel=0.1)


def test_a_loose_state_is_tightened_and_a_tight_one_loosened():
    loose, held, tight = (steer(Helm(), kappa, kappa, "CRYSTAL").gain for kappa in (20.0, 64.0, 90.0))
    assert loose > held > tight
    assert held == FIRST_TRIM


def test_the_gain_falls_monotonically_with_kappa():
    gains = [steer(Helm(), kappa, kappa, "TACKING").gain for kappa in (30, 40, 50, 60, 69)]
    assert all(a > b for a, b in itertools.pairwise(gains))


@given(st.lists(st.tuples(READINGS, READINGS), max_size=40))
def test_the_gain_stays_in_its_range_and_positive_outside_renewals(readings):
    helm, phase = Helm(), None
    for kappa, fresh in readings:
        phase = phase_of(kappa, None, phase)
        helm = steer(helm, kappa, fresh, phase)
        assert -GAIN_MAX <= helm.gain <= GAIN_MAX
        assert 0 <= helm.trim <= GAIN_MAX
        assert helm.renewal or helm.gain >= 0


def test_a_text_that_does_not_answer_winds_the_trim_up_no_further_than_its_bound():
    low, high = Helm(), Helm()
    for _ in range(2000):
        low, high = steer(low, 69.9, 69.9, "CRYSTAL"), steer(high, 0.0, 0.0, "FOAM")
    assert (low.trim, high.trim, high.gain) == (0.0, GAIN_MAX, GAIN_MAX)


def test_fracture_turns_the_gain_against_the_heading_and_leaves_the_trim():
    helm = steer(Helm(gain=9.0, trim=7.0), 900.0, 900.0, "FRACTURE")
    assert (helm.renewal, helm.trim) == (1, 7.0)
    assert helm.gain < 0


def test_a_light_fracture_is_pushed_less_than_a_loop():
    light, loop = (steer(Helm(), kappa, kappa, "FRACTURE").gain for kappa in (73.0, 6e10))
    assert loop == -GAIN_MAX < light < 0


def test_the_longer_a_renewal_the_hotter_it_gets_and_no_harder():
    helms = list(itertools.accumulate(range(20), lambda helm, _: steer(helm, 200.0, 60.0, "FRACTURE"), initial=Helm()))
    assert all(a.gain == b.gain < 0 and a.temperature < b.temperature for a, b in itertools.pairwise(helms[1:]))


def test_the_tighter_a_renewal_is_held_the_harder_it_pushes():
    gains = [steer(Helm(), 200.0, fresh, "FRACTURE").gain for fresh in (60.0, 90.0, 200.0)]
    assert 0 > gains[0] > gains[1] > gains[2]


def test_a_renewal_forgets_at_every_32nd_token_of_it_and_at_no_other():
    helm, forgot = Helm(), []
    for token in range(1, 100):
        helm = steer(helm, 200.0, 60.0, "FRACTURE")
        forgot += [token] * helm.forgets
    assert forgot == [FORGET_TOKENS, 2 * FORGET_TOKENS, 3 * FORGET_TOKENS]
    assert not steer(helm, 40.0, 40.0, "TACKING").forgets


def test_the_temperature_rises_by_half_at_most_and_is_itself_again_afterwards():
    helm = Helm()
    for _ in range(100):
        helm = steer(helm, 200.0, 60.0, "FRACTURE")
    assert helm.temperature == HEAT_MAX
    assert steer(helm, 49.0, 40.0, "TACKING").temperature == 1


@pytest.mark.parametrize(("kappa", "over"), [(50.1, False), (50.0, False), (49.9, True)])
def test_a_renewal_ends_below_the_bound_of_crystal(kappa, over):
    renewing = steer(Helm(), 900.0, 900.0, "FRACTURE")
    assert (steer(renewing, kappa, kappa, "CRYSTAL").renewal == 0) is over


@pytest.mark.parametrize(("step", "starts"), [(-0.1, False), (0.0, False), (0.1, True)])
def test_a_renewal_starts_above_the_bound_and_its_hysteresis(step, starts):
    kappa = PHASE_BOUNDS[2] + PHASE_HYSTERESIS + step
    assert bool(steer(Helm(), kappa, kappa, phase_of(kappa, None, "CRYSTAL")).renewal) is starts


def test_every_loop_is_left_within_128_tokens():
    seen = sail(lambda gain: math.log(14) + 0.25 * gain, 1024, noise=0.4, loop_at=(100, 400, 401, 700))
    ages = [helm.renewal for _, _, helm in seen]
    assert max(kappa for kappa, _, _ in seen) > 150
    assert 32 < max(ages) < 128
    assert 0 in ages[-128:]


def test_a_text_that_loops_again_and_again_visits_all_phases():
    seen = sail(lambda gain: math.log(14) + 0.25 * gain, 1024, noise=0.4, loop_at=(200, 500, 800))
    assert {phase for _, phase, _ in seen} == {"FOAM", "TACKING", "CRYSTAL", "FRACTURE"}
