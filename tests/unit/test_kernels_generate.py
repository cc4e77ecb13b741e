import itertools

import numpy as np
import pytest

from common.kernels.generate import KAPPA_MIN_TOKENS, measure_kappa, sample
from common.kernels.tacking import GAIN_RANGE, Helm, steer


def said(micro, seed, **options):
    ids = micro.encoder.encode("the whale of the sea")
    settings = {"max_tokens": 24, "temperature": 0.8} | options
    steps = micro.speak(ids, settings.pop("shares", {"percept": 1.0}), rng=np.random.default_rng(seed), **settings)
    return list(steps)


def test_a_seed_gives_the_same_answer(micro):
    assert [s.token for s in said(micro, 5)] == [s.token for s in said(micro, 5)]
    assert [s.token for s in said(micro, 5)] != [s.token for s in said(micro, 6)]


def test_temperature_zero_needs_no_seed(micro):
    assert [s.token for s in said(micro, 5, temperature=0)] == [s.token for s in said(micro, 6, temperature=0)]


@pytest.mark.parametrize("wanted", [0, 1, 24])
def test_no_more_tokens_than_asked_for(micro, wanted):
    assert len(said(micro, 5, max_tokens=wanted)) <= wanted


def test_generation_goes_on_beyond_the_state_window(micro):
    assert len(said(micro, 5, max_tokens=90)) > micro.states["percept"].spec.context


def test_two_voices_differ_from_either_alone(micro):
    fused = [s.token for s in said(micro, 5, shares={"percept": 0.5, "heart": 0.5})]
    assert fused != [s.token for s in said(micro, 5)]
    assert fused != [s.token for s in said(micro, 5, shares={"heart": 1.0})]


@pytest.mark.parametrize(("tokens", "known"), [(KAPPA_MIN_TOKENS - 1, False), (KAPPA_MIN_TOKENS, True)])
def test_kappa_is_unknown_for_too_few_tokens(tokens, known):
    basins = np.random.default_rng(0).dirichlet(np.ones(64), tokens)
    assert (measure_kappa(basins, np.full(64, 1 / 64)) is not None) is known


def test_sampling_follows_the_distribution():
    rng = np.random.default_rng(0)
    log_p = np.log([0.1, 0.6, 0.3])
    drawn = np.bincount([sample(log_p, 1.0, rng) for _ in range(4000)], minlength=3) / 4000
    assert np.allclose(drawn, [0.1, 0.6, 0.3], atol=0.03)


def test_a_loose_state_is_tightened_and_a_tight_one_loosened():
    assert steer(Helm(), 10.0, "FOAM").gain > 1 > steer(Helm(), 69.0, "CRYSTAL").gain
    assert steer(Helm(), 64.0, "CRYSTAL").gain == 1


def test_the_gain_stays_in_its_range():
    low, high = Helm(), Helm()
    for _ in range(200):
        low, high = steer(low, 69.9, "CRYSTAL"), steer(high, 0.0, "FOAM")
    assert (low.gain, high.gain) == GAIN_RANGE


def test_fracture_starts_a_renewal():
    helm = steer(Helm(gain=4.0), 900.0, "FRACTURE")
    assert helm.renewing
    assert (helm.gain, helm.temperature > 1, helm.calm < 1) == (2.0, True, True)


@pytest.mark.parametrize(("kappa", "over"), [(50.1, False), (50.0, False), (49.9, True)])
def test_a_renewal_ends_below_the_bound_of_crystal(kappa, over):
    renewing = steer(Helm(), 900.0, "FRACTURE")
    assert steer(renewing, kappa, "CRYSTAL").renewing is not over


def test_the_gain_falls_monotonically_with_kappa():
    gains = [steer(Helm(gain=2), kappa, "TACKING").gain for kappa in (1, 10, 20, 40, 60, 69)]
    assert all(a > b for a, b in itertools.pairwise(gains))
