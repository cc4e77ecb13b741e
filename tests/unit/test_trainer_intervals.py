"""An interval of a difference: it holds the truth as often as it says, and pairs what is paired."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from services.trainer.intervals import BLOCKS_MIN, Interval, of_ratio, of_windows, student


@pytest.mark.parametrize("freedom", [3, 4, 10, 60, 2000])
def test_student_s_quantile_is_the_one_of_the_tables(freedom):
    assert student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=0.01)


@pytest.mark.parametrize("blocks", [5, 17, 60])
def test_of_a_hundred_intervals_about_ninety_five_hold_the_truth(blocks):
    rng, truth, held = np.random.default_rng(blocks), 0.02, 0
    for _ in range(600):
        size = rng.uniform(500, 3000, blocks)
        found = of_ratio(size * (truth + rng.normal(0, 0.1, blocks)), size, range(blocks))
        held += found.low <= truth <= found.high
    assert 0.92 < held / 600 < 0.98


def test_what_makes_a_text_hard_for_both_costs_no_certainty():
    rng = np.random.default_rng(1)
    size, hard = np.full(20, 1000.0), rng.uniform(1, 5, 20)
    found = of_ratio(size * (0.99 * hard - hard), size, range(20))
    assert found.high < 0
    assert found.high - found.low < 0.02


def test_passages_of_one_document_count_as_one():
    rng = np.random.default_rng(2)
    shift = np.repeat(rng.normal(0, 1, 6), 10)
    apart = of_ratio(shift, np.ones(60), range(60))
    together = of_ratio(shift, np.ones(60), [place // 10 for place in range(60)])
    assert together.high - together.low > 2 * (apart.high - apart.low)
    one_each = of_ratio(shift[::10], np.ones(6), range(6))
    assert (together.low, together.high) == pytest.approx((one_each.low, one_each.high))


@given(st.integers(0, 12))
def test_with_too_few_blocks_nothing_is_claimed(blocks):
    found = of_ratio(np.arange(blocks, dtype=float), np.ones(blocks), range(blocks))
    assert (found is None) is (blocks < BLOCKS_MIN)


def test_what_did_not_change_changed_by_nothing():
    assert of_ratio(np.zeros(9), np.ones(9), range(9)) == Interval(0.0, 0.0)


def test_a_reading_of_windows_leaves_one_stretch_of_neighbours_out_at_a_time():
    seen = []
    x = np.random.default_rng(3).normal(1, 1, 40)
    found = of_windows(lambda some: seen.append(some) or float(x[some].mean()), 40, 10)
    assert [len(some) for some in seen] == [40] + [36] * 10
    assert sorted(set(range(40)) - set(seen[1].tolist())) == [0, 1, 2, 3]
    same = of_ratio(x, np.ones(40), [place // 4 for place in range(40)])
    assert (found.low, found.high) == pytest.approx((same.low, same.high))


@pytest.mark.parametrize(("windows", "unknown"), [(9, False), (40, True)])
def test_a_reading_that_is_not_known_for_some_windows_has_no_interval(windows, unknown):
    assert of_windows(lambda some: None if unknown and 0 not in some else 1.0, windows, 10) is None
