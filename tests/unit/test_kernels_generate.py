import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.constants import PHASE_BOUNDS, PHASES
from common.coordizer.artifacts import EOS
from common.errors import Rejected
from common.geometry.concentration import KAPPA_MAX
from common.geometry.phases import phase_of
from common.geometry.simplex import uniform
from common.kernels import gate
from common.kernels.bearing import Bearing
from common.kernels.blend import mix, steered
from common.kernels.engine import State
from common.kernels.generate import KAPPA_MIN_TOKENS, Speech, Step, Voice, measure_kappa, sample
from common.kernels.kernel import Kernel
from common.kernels.loops import LOOP_READS, looping
from common.kernels.memory import count
from common.kernels.say import UNKNOWN, phase_after
from common.kernels.spec import Spec
from common.kernels.tacking import FRESH_TOKENS, KEPT_TOKENS, REACH, Helm, steer
from common.kernels.weights import shapes

pytestmark = pytest.mark.timeout(600)  # the first on a machine compiles all that speaks


def said(micro, seed, **options):
    ids = micro.encoder.encode("the whale of the sea")
    how = {"max_tokens": 24, "temperature": 0.8} | options
    steps = micro.speak(ids, how.pop("shares", {"percept": 1.0}), rng=np.random.default_rng(seed), **how)
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


@pytest.mark.parametrize("temperature", [0, 5e-324, 2.3e-308, 1e-39, 3e-39, 1e-30, 1e-9])
@pytest.mark.parametrize("top_p", [0.5, 1.0])
def test_however_cold_it_is_the_likeliest_token_is_drawn(temperature, top_p):
    log_p = np.log([0.2, 0.5, 0.3]).astype(np.float32)
    drawn = {sample(log_p, temperature, np.random.default_rng(seed), top_p) for seed in range(8)}
    assert drawn == {1}


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


def by_token(voices, prompt, *, max_tokens, temperature, stop, rng, top_p=1.0):
    """What `Speech` says, one part after the other as each room offers it."""
    kernels = [voice.kernel for voice in voices]
    caches = [voice.kernel.state.start() for voice in voices]
    bearing, helm, phase, text, logits = Bearing(voices[0].home), Helm(), None, prompt, []

    def read(place, ids):
        state = voices[place].kernel.state
        hidden, basins = state.extend(caches[place], ids)
        return basins, state.speak(hidden[-1], basins[-1])

    for place in range(len(voices)):
        basins, expected = read(place, prompt)
        logits.append(expected)
        if place == 0:
            bearing.turn(basins[-64:])
    for _ in range(max_tokens):
        p, log_p = np.zeros(len(logits[0])), np.empty(len(logits[0]), np.float32)
        for kernel, voice, expected in zip(kernels, voices, logits, strict=True):
            mix(expected, kernel.addresses, kernel.bases, kernel.gate, text[-3:], voice.share, p)
        steered(p, voices[0].kernel.state.roots, bearing.held, helm.gain, REACH, log_p)
        token = sample(log_p, temperature * helm.temperature, rng, top_p)
        if token in stop:
            return
        text = np.append(text, np.int32(token))
        basins, logits = zip(*(read(place, text[-1:]) for place in range(len(voices))), strict=True)
        logits, value = [*logits], None
        bearing.turn(basins[0])
        if bearing.tokens >= KAPPA_MIN_TOKENS:
            loops = looping(text[-LOOP_READS:])
            value, fresh = (KAPPA_MAX, KAPPA_MAX) if loops else (bearing.kappa(), bearing.kappa(FRESH_TOKENS))
            phase = phase_of(value, None, phase)
            helm = steer(helm, value, fresh, phase)
            if helm.forgets:
                caches[0] = voices[0].kernel.state.start()
                logits[0] = read(0, text[-KEPT_TOKENS:])[1]
        yield Step(token, basins[0][0], np.concatenate(basins), value, phase, helm)


@pytest.fixture(scope="module")
def obsessed():
    """A voice that knows nothing but one phrase, with the phrase said three times as its prompt."""
    phrase, rng = np.arange(10, 30, dtype=np.int32), np.random.default_rng(0)
    spec = Spec("test", vocab=64, width=16, layers=1, loops=1, heads=2, context=64)
    # As a bundle holds them: of other numbers `say` would be compiled once more, for this test alone.
    drawn = {k: rng.normal(0, 0.05, s).astype(np.float16) for k, s in shapes(spec).items()}
    tensors = {k: half.astype(np.float32) for k, half in drawn.items()}
    state = State(spec, tensors, np.sqrt(rng.dirichlet(np.ones(64), spec.vocab)))
    kernel = Kernel(state, (count([np.tile(phrase, 40)]),), np.tile([1e-9, 1 - 1e-9], (gate.BUCKETS, 1)))
    return Voice(kernel, uniform(), 1.0), np.tile(phrase, 3)


def agree(voices, prompt, **how):
    """The steps of a speech in stretches, held to those by token."""
    speech = Speech(voices, prompt, rng=np.random.default_rng(3), **how)
    lengths, found = itertools.cycle((1, 2, 7, 30)), []
    while not speech.ended:
        found += speech.say(next(lengths)).steps()
    expected = list(by_token(voices, prompt, rng=np.random.default_rng(3), **how))
    assert [step.token for step in found] == [step.token for step in expected]
    assert [step.phase for step in found] == [step.phase for step in expected]
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine.kappa is None) == (theirs.kappa is None)
        assert (mine.kappa or 0) == pytest.approx(theirs.kappa or 0, rel=1e-4)
        assert mine.helm == pytest.approx(theirs.helm, rel=1e-4)
        assert np.allclose(mine.basins, theirs.basins, atol=1e-6)
        assert np.array_equal(mine.basin, mine.basins[0])
    return found


@pytest.mark.parametrize("shares", [{"percept": 1.0}, {"percept": 0.6, "opened": 0.4}], ids=["alone", "fused"])
@pytest.mark.parametrize("how", [{"temperature": 0.8}, {"temperature": 0}, {"temperature": 0.8, "top_p": 0.9}], ids=str)
def test_what_is_said_in_stretches_is_what_is_said_by_token(micro, shares, how):
    kernel = micro.kernel("heart")
    opened = Kernel(kernel.state, (*kernel.memories, micro.memories["vocab"]), gate.prior(3))
    known = {"percept": micro.kernel("percept"), "opened": opened}
    voices = [Voice(known[name], micro.homes["percept"], share) for name, share in shares.items()]
    prompt = micro.encoder.encode("the whale of the sea")
    assert len(agree(voices, prompt, max_tokens=120, stop=frozenset(), **how)) == 120 > 3 * kernel.state.spec.context
    agree(voices, prompt, max_tokens=120, stop=frozenset((EOS,)), **how)


@pytest.mark.parametrize("repeats", [4, 9, 20])
def test_after_a_prompt_longer_than_the_window_the_same_is_said(micro, repeats):
    voices = [Voice(micro.kernel(role), micro.homes[role], 0.5) for role in ("percept", "heart")]
    prompt = micro.encoder.encode("the whale of the sea " * repeats)
    assert len(prompt) > micro.states["percept"].spec.context
    agree(voices, prompt, max_tokens=40, temperature=0.8, stop=frozenset())


def test_a_state_that_forgets_in_a_renewal_says_the_same_in_stretches_too(obsessed):
    voice, prompt = obsessed
    found = agree([voice], prompt, max_tokens=100, temperature=0, stop=frozenset())
    assert any(step.helm.forgets for step in found)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(1, 60))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_same_is_said_whatever_is_said_at_a_time(micro, lengths, wanted):
    voices = [Voice(micro.kernel("percept"), micro.homes["percept"], 1.0)]
    how = {"max_tokens": wanted, "temperature": 0.8, "stop": frozenset((EOS,))}
    prompt = micro.encoder.encode("the whale of the sea")
    speech = Speech(voices, prompt, rng=np.random.default_rng(5), **how)
    found, order = [], itertools.cycle(lengths)
    while not speech.ended:
        found += speech.say(next(order)).steps()
    whole = Speech(voices, prompt, rng=np.random.default_rng(5), **how).say(wanted).steps()
    assert [(s.token, s.kappa, s.phase, s.helm) for s in found] == [(s.token, s.kappa, s.phase, s.helm) for s in whole]


@pytest.mark.parametrize("repeats", [1, 4, 9])
def test_a_state_that_has_read_the_prompt_goes_on_as_one_that_reads_it_again(micro, repeats):
    prompt = micro.encoder.encode("the whale of the sea " * repeats)
    reading, listening = micro.listen(prompt, "percept")
    assert (listening is not None) == (len(prompt) <= micro.states["percept"].spec.context)
    assert np.array_equal(reading.experts, micro.read(prompt, "percept").experts)
    found = [
        [
            (step.token, step.kappa)
            for step in micro.speak(
                prompt,
                {"percept": 0.7, "heart": 0.3},
                max_tokens=40,
                temperature=0.8,
                rng=np.random.default_rng(5),
                listening=given_it,
            )
        ]
        for given_it in (None, listening)
    ]
    assert found[0] == found[1]


def test_nothing_is_said_when_nothing_is_wanted(micro):
    assert said(micro, 5, max_tokens=0) == []


def test_a_loop_reads_as_a_perfect_one(obsessed):
    voice, prompt = obsessed
    rng = np.random.default_rng(0)
    steps = list(Speech([voice], prompt, max_tokens=60, temperature=0, stop=frozenset(), rng=rng))
    text = np.concatenate([prompt, [step.token for step in steps]])
    loops = [looping(text[: len(prompt) + n + 1][-LOOP_READS:]) for n in range(len(steps))]
    assert loops[0]
    assert [step.kappa == KAPPA_MAX for step in steps] == loops
    assert all(step.phase == "FRACTURE" for step, loop in zip(steps, loops, strict=True) if loop)


@given(st.floats(0, 1e11), st.sampled_from([None, *PHASES]))
def test_the_compiled_phase_is_the_geometry_s(kappa, before):
    place = UNKNOWN if before is None else PHASES.index(before)
    assert PHASES[phase_after(kappa, place)] == phase_of(kappa, None, before)


@pytest.mark.parametrize("before", [None, *PHASES])
@pytest.mark.parametrize("kappa", sorted(b + d for b in PHASE_BOUNDS for d in (-2, -1e-9, 0, 1e-9, 2)))
def test_the_compiled_phase_is_the_geometry_s_at_every_bound(kappa, before):
    place = UNKNOWN if before is None else PHASES.index(before)
    assert PHASES[phase_after(kappa, place)] == phase_of(kappa, None, before)


def test_a_state_that_diverged_is_told(micro):
    kernel = micro.kernel("percept")
    state = State(kernel.state.spec, kernel.state.weights, kernel.state.sqrt_basins)
    state.body = state.body._replace(basin_bias=np.full(64, np.nan, np.float32))
    voice = Voice(Kernel(state, kernel.memories, kernel.gate), micro.homes["percept"], 1.0)
    with pytest.raises(Rejected, match="bad_reading"):
        list(
            Speech(
                [voice],
                np.arange(40, dtype=np.int32),
                max_tokens=20,
                temperature=1.0,
                stop=frozenset(),
                rng=np.random.default_rng(0),
            )
        )
