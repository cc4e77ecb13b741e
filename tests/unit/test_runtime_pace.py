import pytest

from common.runtime.pace import Pace


@pytest.mark.parametrize(
    ("most", "entries", "took_s", "then"),
    [(64, 8, 0.9, 16), (12, 8, 0.9, 12), (64, 7, 0.9, 8), (64, 8, 1.0, 8), (64, 8, 2.0, 8), (64, 8, 2.1, 4)],
)
def test_more_are_asked_for_at_once_while_they_come_quickly(most, entries, took_s, then):
    own = Pace(most)
    assert own.entries == 1
    own.entries = 8
    own.came(entries, took_s)
    assert own.entries == then


def test_one_is_asked_for_however_slowly_it_comes():
    own = Pace(64)
    own.came(1, 60.0)
    assert own.entries == 1
