"""Constellation mode: four states on the same tokens, one basin, and its running Phi."""

import numpy as np
import pytest
from micro import MICRO, SENTENCES

from common.constants import ROLES
from common.constellation.together import members, window_tokens
from common.errors import Rejected
from common.geometry.integration import NO_MOMENTS, combine, faculties, integration, moments
from common.geometry.online import EMPTY, HALF_LIFE, WINDOW_MIN_TOKENS, close

SHARES = {"percept": 0.4, "heart": 0.3, "vocab": 0.2, "strategy": 0.1}


def said(micro, *, shares=SHARES, tokens=20, seed=0, stream=EMPTY):
    prompt = micro.encoder.encode(SENTENCES["percept"])
    rng = np.random.default_rng(seed)
    return list(micro.together(prompt, shares, stream, max_tokens=tokens, temperature=1.0, rng=rng))


def test_members_are_what_each_state_holds_in_the_order_of_the_roles(micro):
    windows = np.random.default_rng(0).integers(0, MICRO.vocab, (10, MICRO.context)).astype(np.int32)
    found = members(micro.states, windows)
    assert found.shape == (10, MICRO.context, 4, 64)
    for place, role in enumerate(ROLES):
        assert found[:, :, place] == pytest.approx(micro.states[role].read(windows)[1], abs=1e-5)


@pytest.mark.parametrize("tokens", [1, 31, 32, 33, 70])
def test_a_text_of_any_length_is_heard_token_by_token(micro, tokens):
    ids = np.random.default_rng(1).integers(0, MICRO.vocab, tokens).astype(np.int32)
    basins = micro.hear(ids)
    assert basins.shape == (tokens, 64)
    last = ids[(tokens - 1) // 32 * 32 :]
    assert basins[-len(last) :] == pytest.approx(micro.integrator.basin(members(micro.states, last[None])[0]))


def test_constellation_mode_says_what_the_same_voices_say(micro):
    prompt, rng = micro.encoder.encode(SENTENCES["percept"]), np.random.default_rng(0)
    steps = micro.speak(prompt, SHARES, max_tokens=20, temperature=1.0, rng=rng)
    assert [s.token for s in steps] == [beat.step.token for beat in said(micro)]


def test_the_constellation_s_basin_is_the_integrator_s_of_the_roles_in_order(micro):
    first = said(micro)[0]
    by_role = dict(zip(SHARES, first.step.basins, strict=True))
    expected = micro.integrator.basin(np.stack([by_role[role] for role in ROLES]).astype(np.float64))
    assert first.basin == pytest.approx(expected, abs=1e-6)


def test_the_order_of_the_voices_does_not_change_whose_basin_is_whose(micro):
    reordered = {role: SHARES[role] for role in ("percept", "strategy", "vocab", "heart")}
    one, other = said(micro, tokens=1), said(micro, shares=reordered, tokens=1)
    assert one[0].step.token == other[0].step.token
    assert one[0].basin == pytest.approx(other[0].basin, abs=1e-6)


@pytest.fixture(scope="module")
def conversations(micro):
    """Beats of many short conversations that share one stream."""
    stream, found = EMPTY, []
    for seed in range(14):
        beats = said(micro, tokens=80, seed=seed, stream=stream)
        stream = close(beats[-1].stream) if beats else stream
        found.append(beats)
    return [beats for beats in found if beats]


def test_phi_is_not_known_until_512_transitions_of_conversation(conversations):
    readings = [beats[-1].phi for beats in conversations]
    assert readings[0].reason == "few_transitions"
    assert readings[-1].phi is not None
    assert all((r.phi is None) == (r.n < 512) for r in readings)


def test_the_running_phi_is_that_of_the_basins_yielded(micro, conversations):
    past, home_s = NO_MOMENTS, np.sqrt(micro.integrator.home)
    for beats in conversations:
        basins = np.stack([beat.basin for beat in beats])
        for start in range(0, len(basins), window_tokens(micro.states)):
            window = basins[start : start + window_tokens(micro.states)]
            fresh = moments(faculties(window[None], home_s)) if len(window) >= WINDOW_MIN_TOKENS else NO_MOMENTS
            past = combine(past, fresh, 0.5 ** (fresh.n / HALF_LIFE))
    running = conversations[-1][-1].phi
    assert running.n == pytest.approx(past.n)
    assert running.phi_g_nats == pytest.approx(integration(past).phi_g_nats, rel=1e-6)


@pytest.mark.parametrize("shares", [{"heart": 1.0}, {"heart": 0.5, "vocab": 0.5}])
def test_fewer_than_four_roles_do_not_speak_together(micro, shares):
    with pytest.raises(Rejected, match="one of each role"):
        said(micro, shares=shares)
