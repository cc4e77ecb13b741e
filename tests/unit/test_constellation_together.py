"""Constellation mode: four states on the same tokens, one basin."""

import numpy as np
import pytest
from micro import MICRO, SENTENCES

from common.constants import ROLES
from common.constellation.together import members
from common.errors import Rejected

SHARES = {"percept": 0.4, "heart": 0.3, "vocab": 0.2, "strategy": 0.1}


def said(micro, *, shares=SHARES, tokens=20, seed=0):
    """Steps, and the constellation's basin after each."""
    prompt = micro.encoder.encode(SENTENCES["percept"])
    steps = list(micro.speak(prompt, shares, max_tokens=tokens, temperature=1.0, rng=np.random.default_rng(seed)))
    return steps, micro.hold(shares, np.array([step.basins for step in steps]))


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


def test_the_constellation_s_basin_is_the_integrator_s_of_the_roles_in_order(micro):
    steps, basins = said(micro)
    assert basins.shape == (len(steps), 64)
    for step, basin in zip(steps, basins, strict=True):
        by_role = dict(zip(SHARES, step.basins, strict=True))
        expected = micro.integrator.basin(np.stack([by_role[role] for role in ROLES]).astype(np.float64))
        assert basin == pytest.approx(expected, abs=1e-6)


def test_of_no_step_nothing_is_held(micro):
    assert micro.hold(SHARES, np.empty((0, 4, 64), np.float32)).shape == (0, 64)


def test_the_order_of_the_voices_does_not_change_whose_basin_is_whose(micro):
    reordered = {role: SHARES[role] for role in ("percept", "strategy", "vocab", "heart")}
    (one,), (held,) = said(micro, tokens=1)
    (other,), (again,) = said(micro, shares=reordered, tokens=1)
    assert one.token == other.token
    assert held == pytest.approx(again, abs=1e-6)


@pytest.mark.parametrize("shares", [{"heart": 1.0}, {"heart": 0.5, "vocab": 0.5}])
def test_fewer_than_four_roles_hold_nothing_together(micro, shares):
    with pytest.raises(Rejected, match="one of each role"):
        said(micro, shares=shares)
