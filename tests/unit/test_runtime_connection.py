import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.runtime.connection import BACKOFF_LEAST, BACKOFF_MAX_S, RETRIES, pause_s, retry


@given(away_s=st.floats(0.0, 1.0), chances=st.lists(st.floats(0.0, 1.0), min_size=40, max_size=40))
def test_a_broker_that_was_away_for_up_to_a_second_is_found_within_half_a_second(away_s, chances):
    looked_s, failures = 0.0, 0
    while looked_s < away_s:
        failures += 1
        looked_s += pause_s(failures, chances[failures])
    assert looked_s <= away_s + 0.5


def test_a_command_rides_out_about_seven_seconds():
    whole_s = sum(pause_s(failures, 0.5) for failures in range(1, RETRIES + 1))
    assert 6.0 < whole_s < 8.0


@pytest.mark.parametrize("failures", [12, 100, 10**9])
def test_whoever_waits_long_waits_at_most_a_second_and_not_with_all_the_others(failures):
    pauses = [pause_s(failures, chance / 10) for chance in range(11)]
    assert len(set(pauses)) == len(pauses)
    assert all(0.6 * BACKOFF_MAX_S < pause <= BACKOFF_MAX_S for pause in pauses)
    assert pauses[0] == pytest.approx(BACKOFF_LEAST * pauses[-1])


def test_two_connections_draw_their_pauses_apart():
    backoffs = [retry()._backoff for _ in range(2)]
    random.seed(1)
    assert backoffs[0].compute(20) != backoffs[1].compute(20)
