"""A control takes away the one thing it is a control for, and nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from micro import MICRO

from common.geometry.simplex import uniform
from common.kernels import weights
from common.kernels.engine import State
from services.trainer import controls


@pytest.fixture
def rng():
    return np.random.default_rng(0)


WINDOWS = np.random.default_rng(1).integers(0, 300, (6, 40)).astype(np.int32)
MEMBERS = np.random.default_rng(2).dirichlet(np.ones(64), (6, 40, 4))


def test_shuffling_keeps_every_window_s_tokens_and_moves_most(rng):
    found = controls.shuffled(WINDOWS, rng)
    assert np.array_equal(np.sort(found, 1), np.sort(WINDOWS, 1))
    assert (found != WINDOWS).mean() > 0.8


def test_random_tokens_are_as_many_from_all_ids(rng):
    found = controls.random_tokens(WINDOWS, 300, rng)
    assert (found.shape, found.dtype) == (WINDOWS.shape, np.int32)
    assert 0 <= found.min() <= 20
    assert 280 <= found.max() < 300


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(4, 12))
def test_swapped_members_never_share_a_conversation_and_lose_none(seed, windows):
    named = np.broadcast_to(np.arange(windows)[:, None, None, None], (windows, 3, 4, 64)).astype(float)
    found = controls.swapped(named, np.random.default_rng(seed))
    for window in found[:, 0, :, 0]:
        assert len(set(window)) == 4
    assert all(sorted(found[:, 0, place, 0]) == list(range(windows)) for place in range(4))


@pytest.mark.parametrize("places", [[0], [3], [1, 2], [0, 1, 2, 3]])
def test_a_cut_member_says_the_uniform_basin_and_the_others_go_on(places):
    found = controls.cut(MEMBERS, places)
    kept = [place for place in range(4) if place not in places]
    assert np.array_equal(found[:, :, kept], MEMBERS[:, :, kept])
    assert (found[:, :, places] == uniform()).all()


@pytest.mark.parametrize(("draw", "remembers"), [(controls.untrained, False), (controls.random_weights, True)])
def test_an_untrained_state_sees_the_last_token_alone_and_one_of_random_weights_all(rng, draw, remembers):
    drawn = draw(MICRO, rng)
    weights.check(MICRO, drawn)
    state = State(MICRO, drawn, np.sqrt(rng.dirichlet(np.ones(64), MICRO.vocab)))
    first, last = (np.arange(20, dtype=np.int32)[None] for _ in range(2))
    first[0, 0], last[0, -1] = 99, 99
    plain = state.read(np.arange(20, dtype=np.int32)[None])[1][0, -1]
    assert np.allclose(state.read(first)[1][0, -1], plain, atol=1e-6) is not remembers
    assert not np.allclose(state.read(last)[1][0, -1], plain, atol=1e-4)


def test_replicas_that_are_the_same_have_no_spread_and_others_have(micro):
    ids = np.random.default_rng(3).integers(0, MICRO.vocab, (4, MICRO.context)).astype(np.int32)
    same, other = micro.states["vocab"], micro.states["heart"]
    assert controls.replica_spread([same, same, same], ids) < 1e-6
    assert controls.replica_spread([same, other], ids) > 1e-3
