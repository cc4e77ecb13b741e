import numpy as np
import pytest

from common.geometry.concentration import KAPPA_MAX
from common.kernels import generate
from common.kernels.generate import KAPPA_MIN_TOKENS, measure_kappa, sample
from common.kernels.tacking import KEPT_TOKENS, Helm


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


@pytest.mark.parametrize(
    ("top_p", "tokens"),
    [(1.0, {0, 1, 2, 3}), (0.96, {0, 1, 2}), (0.95, {1, 2}), (0.61, {1, 2}), (0.6, {1}), (0.01, {1})],
)
def test_of_the_nucleus_alone_is_drawn_and_the_likeliest_is_always_in_it(top_p, tokens):
    rng = np.random.default_rng(0)
    log_p = np.log(np.float32([0.04, 0.6, 0.35, 0.01]))
    assert {sample(log_p, 1.0, rng, top_p) for _ in range(2000)} == tokens


def test_a_whole_nucleus_draws_as_no_nucleus_does(micro):
    assert [s.token for s in said(micro, 5, top_p=1.0)] == [s.token for s in said(micro, 5)]
    assert [s.token for s in said(micro, 5, top_p=0.05)] != [s.token for s in said(micro, 5)]


def test_an_unknown_kappa_leaves_the_helm_alone(micro):
    steps = said(micro, 5, max_tokens=20)
    assert all((step.kappa is None) == (step.helm == Helm()) for step in steps)
    assert steps[0].kappa is None
    assert steps[-1].kappa is not None


def test_the_lead_alone_is_measured_and_steered(micro):
    fused = said(micro, 5, shares={"percept": 0.5, "heart": 0.5})
    ids = np.concatenate([micro.encoder.encode("the whale of the sea"), [step.token for step in fused]]).astype(
        np.int32
    )
    lead = micro.kernel("percept").state
    basins = lead.extend(lead.start(), ids)[1]
    assert fused[-1].kappa == pytest.approx(measure_kappa(basins, micro.homes["percept"]), rel=1e-3)


def test_a_gain_of_zero_changes_no_distribution(micro, monkeypatch):
    monkeypatch.setattr(generate, "steer", lambda helm, *_: helm)
    untouched = said(micro, 5, max_tokens=60)
    monkeypatch.setattr(generate.Bearing, "heading", lambda _: np.eye(64)[0])
    assert [s.token for s in said(micro, 5, max_tokens=60)] == [s.token for s in untouched]


@pytest.mark.parametrize("loop", [False, True])
def test_a_loop_reads_as_a_perfect_one(micro, monkeypatch, loop):
    monkeypatch.setattr(generate, "looping", lambda _: loop)
    known = [step for step in said(micro, 5, max_tokens=40) if step.kappa is not None]
    assert {step.kappa == KAPPA_MAX for step in known} == {loop}


def test_a_state_that_forgets_goes_on_from_what_was_said_last_and_kappa_knows_the_whole_window(micro):
    voice = generate.Voice(micro.kernel("percept"), micro.homes["percept"], 1.0)
    ids = np.arange(40, dtype=np.int32) % 200 + 40
    reader, fresh = generate._Reader(voice, ids), generate._Reader(voice, ids[-KEPT_TOKENS:])
    before, kappas = reader.logits.copy(), reader.kappas(loop=False)
    reader.forget(ids[-KEPT_TOKENS:])
    assert np.array_equal(reader.logits, fresh.logits)
    assert not np.allclose(reader.logits, before)
    assert reader.kappas(loop=False) == kappas


@pytest.mark.parametrize(("renewal", "times"), [(0, 0), (31, 0), (32, 20), (33, 0)])
def test_a_helm_that_forgets_is_obeyed(micro, monkeypatch, renewal, times):
    kept = []
    monkeypatch.setattr(generate, "steer", lambda *_: Helm(renewal=renewal))
    monkeypatch.setattr(generate._Reader, "forget", lambda _, recent: kept.append(len(recent)))
    said(micro, 5, max_tokens=20)
    asked = 20 - KAPPA_MIN_TOKENS + len(micro.encoder.encode("the whale of the sea"))
    assert kept == [KEPT_TOKENS] * (min(times, asked + 1) if times else 0)
