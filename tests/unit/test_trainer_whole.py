"""What the constellation is beyond its members is measured on one stream, with controls that are controls."""

import numpy as np
import pytest
import torch
from micro import MICRO, SENTENCES

from common.constants import ROLES
from common.constellation.together import members
from common.errors import Rejected
from common.geometry.integration import Integration, faculties, integration, moments
from common.geometry.simplex import from_float16
from services.trainer import losses
from services.trainer.intervals import Interval
from services.trainer.whole import divergence, foreseen, mixed, whole, whole_changed

TEXTS = {role: [SENTENCES[role] * 12] * 2 for role in ROLES}


@pytest.fixture(scope="module")
def found(micro):
    return whole(micro, TEXTS)


def test_every_control_is_measured_on_as_many_transitions(found, micro):
    flat = [found.phi, found.mean, found.rolled, found.shuffled, found.noise, found.swapped, found.untrained]
    flat += [*found.members.values(), *found.without.values(), *found.alone.values()]
    assert all(isinstance(each, Integration) for each in flat)
    assert {each.n for each in flat} == {len(mixed(micro, TEXTS)) * (MICRO.context - 1)}
    assert len(flat) == 7 + 3 * 4


def test_the_constellation_s_phi_is_read_before_and_after_on_the_same_stream(found, micro):
    same = whole_changed(micro, micro, TEXTS)
    assert (same.before, same.after) == (found.phi.phi, found.phi.phi)
    assert same.interval == Interval(0.0, 0.0)
    assert whole_changed(micro, micro, {**TEXTS, "heart": ["O sing"]}) is None


def test_the_mixed_stream_has_as_many_windows_of_each_role(micro):
    windows = mixed(micro, {**TEXTS, "heart": [SENTENCES["heart"] * 3]})
    assert windows.shape[1] == MICRO.context
    assert len(windows) % 4 == 0
    assert np.array_equal(windows[0], micro.encoder.encode(TEXTS["vocab"][0])[: MICRO.context])


def test_phi_is_the_estimator_on_the_integrator_s_basins(found, micro):
    heard = members(micro.states, mixed(micro, TEXTS))
    x = faculties(micro.integrator.basin(heard), np.sqrt(micro.integrator.home))
    assert found.phi == integration(moments(x))


def test_a_member_is_measured_on_the_same_stream_about_its_own_home(found, micro):
    heard = members(micro.states, mixed(micro, TEXTS))
    x = faculties(heard[:, :, ROLES.index("percept")], np.sqrt(micro.homes["percept"]))
    assert found.members["percept"] == integration(moments(x))


def test_measuring_again_gives_the_same(found, micro):
    assert whole(micro, TEXTS) == found


def test_what_is_foreseen_is_what_training_aims_at(micro):
    windows, basins = mixed(micro, TEXTS), from_float16(micro.coordizer.basins)
    tokens = torch.from_numpy(windows.astype(np.int64))
    expected = losses.ahead(tokens, MICRO.context - 16, torch.from_numpy(basins))
    assert foreseen(windows, basins) == pytest.approx(expected.numpy(), abs=1e-12)


def test_the_best_single_basin_is_beaten_by_none_that_is_constant():
    target = np.random.default_rng(0).dirichlet(np.ones(64), (3, 20))
    best = target.reshape(-1, 64).mean(0)
    assert divergence(target, target) == 0.0
    for seed in range(5):
        other = np.random.default_rng(seed).dirichlet(np.ones(64))
        assert divergence(target, best) < divergence(target, other)


def test_an_untrained_constellation_foresees_no_better_than_chance(found):
    told = found.foresight
    assert min(told.constellation, told.routed, *told.members.values()) > told.constant


def test_text_that_fills_no_window_is_rejected(micro):
    with pytest.raises(Rejected, match="text_too_short"):
        whole(micro, {role: ["Sea."] for role in ROLES})
