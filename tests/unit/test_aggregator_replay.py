"""A packet counts once, in whatever order packets arrive."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import Corrupt, QigError
from services.aggregator.replay import WINDOW, ReplayWindow, advance

MAX_U32 = (1 << 32) - 1


def take(window, sequence, epoch=1):
    return advance(window, epoch=epoch, sequence=sequence)


def code(window, sequence, epoch=1):
    with pytest.raises(QigError) as caught:
        take(window, sequence, epoch)
    return caught.value.code


@given(st.integers(0, MAX_U32 - WINDOW), st.sets(st.integers(0, WINDOW - 1), min_size=1), st.randoms())
@settings(max_examples=150)
def test_any_order_of_distinct_packets_within_the_window_is_counted_once_each(start, offsets, rng):
    order = [start + offset for offset in offsets]
    rng.shuffle(order)
    window = None
    for sequence in order:
        window = take(window, sequence)
    assert window.highest == max(order)
    assert window.bitmap.bit_count() == len(order)
    assert {code(window, sequence) for sequence in order} == {"replayed"}


@given(st.lists(st.integers(0, 200), max_size=300))
@settings(max_examples=100)
def test_whatever_arrives_nothing_is_counted_twice_and_nothing_recent_is_refused(arrivals):
    window, counted = None, set()
    for sequence in arrivals:
        recent = window is None or sequence > window.highest - WINDOW
        if recent and sequence not in counted:
            window = take(window, sequence)
        else:
            assert code(window, sequence) == ("replayed" if recent else "stale_sequence")
        counted.add(sequence)


def test_sixty_three_behind_is_remembered_and_sixty_four_is_not():
    window = take(None, 1000)
    assert take(window, 1000 - WINDOW + 1).bitmap == 1 << WINDOW - 1 | 1
    assert code(window, 1000 - WINDOW) == "stale_sequence"
    assert code(window, 1000 - WINDOW - 1) == "stale_sequence"


@pytest.mark.parametrize("ahead", [WINDOW - 1, WINDOW, WINDOW + 1])
def test_a_leap_forgets_exactly_what_falls_out_of_the_window(ahead):
    window = take(take(None, 5), 5 + ahead)
    assert code(window, 5) == ("replayed" if ahead < WINDOW else "stale_sequence")


def test_a_higher_epoch_starts_anew_and_ends_the_one_before():
    window = take(take(None, 900, epoch=3), 0, epoch=4)
    assert window == ReplayWindow(4, 0, 1)
    assert code(window, 901, epoch=3) == "stale_epoch"
    assert code(window, 0, epoch=4) == "replayed"


def test_the_last_sequence_there_is_can_be_counted():
    window = take(None, MAX_U32, epoch=MAX_U32)
    assert ReplayWindow.unpack(window.packed) == window


@given(st.integers(0, MAX_U32), st.integers(0, MAX_U32), st.integers(0, (1 << 64) - 1))
def test_a_window_survives_its_sixteen_bytes(epoch, highest, bitmap):
    window = ReplayWindow(epoch, highest, bitmap | 1)
    assert len(window.packed) == 16
    assert ReplayWindow.unpack(window.packed) == window


@pytest.mark.parametrize("data", [b"", bytes(16), random.Random(1).randbytes(15), bytes(17)])
def test_bytes_that_are_no_window_are_corrupt(data):
    with pytest.raises(Corrupt, match="replay_window"):
        ReplayWindow.unpack(data)
