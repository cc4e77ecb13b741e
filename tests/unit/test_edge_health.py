"""When a bundle on trial is kept and when it is gone back from: at, below and above each threshold."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.constants import PHI_COLLAPSE, PHI_COLLAPSE_MEASUREMENTS
from services.edge.health import (
    DOUBT,
    FAILED_MIN,
    PAIRS_MIN,
    SLOWER_LIMIT,
    TEXTS_MIN,
    Limits,
    Paired,
    Window,
    answered,
    failed,
    judge,
    pace_error,
)
from services.edge.trial import PROBE_MIN_BYTES, WORSE_LIMIT

LIMITS = Limits(answers=64, seconds=60.0)
BEGAN = 1_000.0
NEW = Window(BEGAN)


def word(window, *, now_s=BEGAN + 1.0, **given):
    return judge(window, LIMITS, now_s=now_s, **given).word


def after_answers(window, number, state="heart", phi=None):
    for _ in range(number):
        window = answered(window, state, phi)
    return window


def read(pairs, size_bytes=300):
    """Texts of so many bits before and after."""
    text = Paired()
    for before, after in pairs:
        text = text.then(size_bytes, before, after)
    return replace(NEW, text=text)


# The end of the window


@pytest.mark.parametrize(("answers", "said"), [(0, "watch"), (63, "watch"), (64, "good"), (65, "good")])
def test_a_bundle_is_good_after_so_many_answers(answers, said):
    assert word(after_answers(NEW, answers)) == said


@pytest.mark.parametrize(("passed_s", "said"), [(59.9, "watch"), (60.0, "good"), (60.1, "good")])
def test_a_bundle_is_good_after_so_long_whatever_was_asked(passed_s, said):
    assert word(NEW, now_s=BEGAN + passed_s) == said


def test_answers_do_not_end_the_window_while_fresh_text_waits_to_be_read_but_time_does():
    window = after_answers(NEW, 64)
    assert word(window, unread=True) == "watch"
    assert word(window, unread=True, now_s=BEGAN + 60.0) == "good"


def test_what_is_bad_is_bad_even_as_the_window_ends():
    assert word(replace(NEW, pace=(9.0,) * PAIRS_MIN), now_s=BEGAN + 60.0) == "bad"


# Failures


@pytest.mark.parametrize(("number", "said"), [(FAILED_MIN - 1, "watch"), (FAILED_MIN, "bad")])
def test_so_many_failed_queries_are_bad(number, said):
    window = NEW
    for n in range(number):
        window = failed(window, f"q{n}")
    assert word(window) == said


@pytest.mark.parametrize(("answers", "said"), [(36, "watch"), (35, "bad")])
def test_a_tenth_of_all_may_fail(answers, said):
    window = after_answers(NEW, answers)
    for n in range(4):
        window = failed(window, f"q{n}")
    assert word(window) == said


def test_one_query_that_is_tried_again_and_again_counts_once():
    window = NEW
    for _ in range(5):
        window = failed(window, "poison")
    assert word(window) == "watch"


# Phi

SOUND = replace(NEW, sound=frozenset({"heart"}))


@pytest.mark.parametrize(
    ("times", "said"), [(PHI_COLLAPSE_MEASUREMENTS - 1, "watch"), (PHI_COLLAPSE_MEASUREMENTS, "bad")]
)
def test_a_phi_that_stays_below_its_limit_is_bad(times, said):
    assert word(after_answers(SOUND, times, phi=0.6)) == said


@pytest.mark.parametrize(("phi", "said"), [(PHI_COLLAPSE, "watch"), (math.nextafter(PHI_COLLAPSE, 0.0), "bad")])
def test_phi_at_its_limit_is_not_below_it(phi, said):
    assert word(after_answers(SOUND, PHI_COLLAPSE_MEASUREMENTS, phi=phi)) == said


def test_an_unknown_phi_is_neither_bad_nor_good():
    window = after_answers(SOUND, PHI_COLLAPSE_MEASUREMENTS - 1, phi=0.6)
    window = after_answers(window, 20, phi=None)
    assert word(window) == "watch"
    assert word(after_answers(window, 1, phi=0.6)) == "bad"


def test_one_good_measurement_begins_the_count_anew():
    window = after_answers(SOUND, PHI_COLLAPSE_MEASUREMENTS - 1, phi=0.6)
    window = after_answers(answered(window, "heart", 0.7), PHI_COLLAPSE_MEASUREMENTS - 1, phi=0.6)
    assert word(window) == "watch"


def test_each_state_is_counted_by_itself_and_one_that_was_low_before_cannot_fall():
    window = after_answers(SOUND, PHI_COLLAPSE_MEASUREMENTS, state="vocab", phi=0.1)
    assert word(after_answers(window, PHI_COLLAPSE_MEASUREMENTS - 1, phi=0.1)) == "watch"


# Fresh text


@pytest.mark.parametrize(
    ("worse", "said"), [(0.0, "watch"), (WORSE_LIMIT - 1e-9, "watch"), (WORSE_LIMIT + 1e-9, "bad"), (math.inf, "bad")]
)
def test_text_that_takes_more_bits_than_the_limit_is_bad(worse, said):
    assert word(read([(600.0, 600.0 * (1.0 + worse))] * 10)) == said


@pytest.mark.parametrize(("texts", "size_bytes", "said"), [
    (TEXTS_MIN - 1, PROBE_MIN_BYTES, "watch"), (TEXTS_MIN, PROBE_MIN_BYTES // TEXTS_MIN, "bad"),
    (TEXTS_MIN, PROBE_MIN_BYTES // TEXTS_MIN - 1, "watch"),
])  # fmt: skip
def test_with_too_little_fresh_text_nothing_is_said_of_it(texts, size_bytes, said):
    assert word(read([(600.0, 900.0)] * texts, size_bytes)) == said


def test_what_may_be_chance_is_not_bad_and_more_of_the_same_is_none():
    pair = [(600.0, 570.0), (600.0, 660.0)]  # 2.5 % worse on the mean
    assert word(read(pair * 4)) == "watch"
    assert word(read(pair * 200)) == "bad"


@given(st.lists(st.tuples(st.floats(100.0, 2000.0), st.floats(0.8, 1.3)), min_size=TEXTS_MIN, max_size=40))
def test_the_error_is_that_of_a_ratio_of_means(pairs):
    before, after = np.array([[bits, bits * ratio] for bits, ratio in pairs]).T
    text = read(list(zip(before.tolist(), after.tolist(), strict=True))).text
    ratio = after.sum() / before.sum()
    rest = after - ratio * before
    wanted = np.sqrt(len(pairs) * (rest @ rest) / (len(pairs) - 1)) / before.sum()
    assert text.worse == pytest.approx(ratio - 1.0, abs=1e-12)
    assert text.error == pytest.approx(wanted, abs=1e-6)


def test_of_a_hundred_windows_of_a_bundle_that_reads_as_before_hardly_one_is_bad_at_any_look():
    rng = np.random.default_rng(5)
    bad = 0
    for _ in range(100):
        looks = [Paired()]
        for bits in rng.uniform(300.0, 900.0, 60):
            looks.append(looks[-1].then(300, bits, bits * rng.normal(1.0, 0.05)))
        bad += any(word(replace(NEW, text=text)) == "bad" for text in looks)
    assert bad <= 1
    assert DOUBT == 3.0


# Pace


@pytest.mark.parametrize(("slower", "said"), [(SLOWER_LIMIT, "watch"), (math.nextafter(SLOWER_LIMIT, 9.0), "bad")])
def test_a_token_that_takes_longer_than_the_limit_is_bad(slower, said):
    assert word(replace(NEW, pace=(slower,) * PAIRS_MIN)) == said


@pytest.mark.parametrize(("pairs", "said"), [(PAIRS_MIN - 1, "watch"), (PAIRS_MIN, "bad")])
def test_a_few_pairs_say_nothing(pairs, said):
    assert word(replace(NEW, pace=(2.0,) * pairs)) == said


def test_what_the_neighbours_do_now_and_then_is_not_the_bundle_s_fault():
    assert word(replace(NEW, pace=(1.0,) * 10 + (30.0,) * 9)) == "watch"


@pytest.mark.parametrize(("slower", "said"), [(1.0, "watch"), (1.2, "watch"), (1.25, "watch"), (1.5, "bad")])
def test_a_pace_that_varies_has_to_be_beyond_doubt(slower, said):
    rng = np.random.default_rng(1)
    assert word(replace(NEW, pace=tuple(slower * rng.normal(1.0, 0.15, 32)))) == said


def test_the_error_of_the_median_is_what_medians_of_samples_vary_by():
    rng = np.random.default_rng(3)
    samples = rng.normal(1.0, 0.2, (2_000, 32))
    assert np.mean([pace_error(sample) for sample in samples]) == pytest.approx(np.median(samples, 1).std(), rel=0.1)


@pytest.mark.parametrize(("texts", "said"), [(0, "no"), (1, "300")])
def test_the_reason_says_that_there_was_too_little_text_to_tell(texts, said):
    window = replace(after_answers(NEW, 64), text=read([(600.0, 540.0)] * texts).text)
    assert f"reads {said} bytes of fresh text, too few to tell" in judge(window, LIMITS, now_s=BEGAN + 3.0).reason


def test_the_reason_has_the_figures():
    window = replace(after_answers(NEW, 64), text=read([(600.0, 540.0)] * 10).text, pace=(1.1,) * PAIRS_MIN)
    assert judge(window, LIMITS, now_s=BEGAN + 3.0).reason == (
        "64 answers in 3 s; reads 3000 bytes of fresh text -10.00% (error 0.00%);"
        " time a token: 1.10 times (error 0.00); 0 failed"
    )
    assert judge(read([(600.0, 660.0)] * 10), LIMITS, now_s=BEGAN).reason == (
        "it reads 3000 bytes of fresh text +10.00% (error 0.00%); the limit is 1% worse, beyond doubt"
    )
