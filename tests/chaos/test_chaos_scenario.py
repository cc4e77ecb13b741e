import pytest
from faults import _FAULTS
from scenario import CLOCK_MAX_S, FAULTS_MAX, LIGHT, LOAD_S, WAVE, WHOLE, Fault, Scenario, light, whole

SEEDS = range(500)


def test_a_seed_is_one_scenario_and_another_seed_another():
    assert [light(seed) for seed in SEEDS] == [light(seed) for seed in SEEDS]
    assert len({(light(seed).faults, light(seed).queries) for seed in SEEDS}) == len(SEEDS)
    assert whole(7) == whole(7)


def test_the_500_scenarios_have_every_fault_often_and_several_at_once():
    drawn = [fault.what for seed in SEEDS for fault in light(seed).faults]
    assert {what for what in LIGHT if drawn.count(what) >= 20} == LIGHT.keys()
    assert sum(len(light(seed).faults) > 1 for seed in SEEDS) > 300


def test_every_fault_that_is_drawn_can_be_done():
    assert LIGHT.keys() | WHOLE.keys() == _FAULTS.keys()


@pytest.mark.parametrize("seed", range(0, 500, 17))
def test_what_is_drawn_is_within_its_bounds(seed):
    drawn = light(seed)
    assert 1 <= len(drawn.faults) <= FAULTS_MAX
    for fault in drawn.faults:
        _, shortest, longest = LIGHT[fault.what]
        assert 0 <= fault.at_s <= LOAD_S
        assert shortest <= fault.for_s <= longest
        assert abs(fault.by_s) <= CLOCK_MAX_S
        assert bool(fault.by_s) == (fault.what == "clock")
    assert all(sum(packet.endswith("plain") for packet in wave) == WAVE for wave in drawn.waves)
    assert len({asked.name for asked in drawn.queries}) == len(drawn.queries)


@pytest.mark.parametrize(
    ("kinds", "forgets"),
    [
        (["flush"], True), (["broker_forget"], True), (["disk", "broker_kill"], True),
        (["disk"], False), (["broker_kill"], False), (["kill", "clock"], False),
    ],
)  # fmt: skip
def test_the_broker_forgets_what_was_flushed_and_what_it_could_not_write(kinds, forgets):
    assert Scenario(0, True, tuple(Fault(0.1, what, 0, 0.1) for what in kinds)).forgets == forgets


def test_in_the_whole_world_nothing_is_forgotten():
    drawn = [fault.what for seed in SEEDS for fault in whole(seed).faults]
    assert set(drawn) == WHOLE.keys()
    assert not any(whole(seed).forgets for seed in SEEDS)


def test_only_a_step_backwards_turns_the_clock_back():
    steps = {by_s: Scenario(0, True, (Fault(0.1, "clock", 0, 0.0, by_s),)).turns_back for by_s in (-2.0, 2.0)}
    assert steps == {-2.0: True, 2.0: False}
