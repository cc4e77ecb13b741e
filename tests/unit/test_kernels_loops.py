import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.kernels.loops import LOOP_PERIOD_MAX, LOOP_READS, LOOP_TOKENS, looping


def text(*ids):
    return np.array(ids, np.int32)


@pytest.mark.parametrize("period", [1, 2, LOOP_PERIOD_MAX - 1, LOOP_PERIOD_MAX])
@pytest.mark.parametrize(("more", "seen"), [(-1, False), (0, True), (1, True)])
def test_a_loop_is_seen_when_32_tokens_repeat_what_stood_before(period, more, seen):
    rounds = np.arange(LOOP_TOKENS + period + more) % period
    assert looping(text(100, *rounds)) is seen


def test_a_longer_phrase_than_32_tokens_is_no_loop():
    assert not looping(np.tile(np.arange(LOOP_PERIOD_MAX + 1, dtype=np.int32), 4))


@given(st.integers(1, LOOP_TOKENS), st.integers(1, LOOP_PERIOD_MAX))
def test_one_other_token_among_the_last_breaks_it(back, period):
    ids = np.resize(np.arange(period), LOOP_READS).astype(np.int32)
    assert looping(ids)
    ids[-back] = 99
    assert not looping(ids)


@given(st.lists(st.integers(0, 3), max_size=LOOP_READS))
def test_it_agrees_with_comparing_every_period(ids):
    ids = text(*ids)
    periods = range(1, min(LOOP_PERIOD_MAX, len(ids) - LOOP_TOKENS) + 1)
    assert looping(ids) == any((ids[-LOOP_TOKENS:] == ids[-LOOP_TOKENS - p : -p]).all() for p in periods)
