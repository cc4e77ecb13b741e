import itertools
from dataclasses import replace

import pytest

from common.constants import ROLES
from common.errors import Rejected
from common.kernels.memory import count, merge
from services.edge.pairs import SAID_TOKENS, read_both, say_both

TEXT = "The sea was cold and grey; salt wind stung our eyes and the whale breathed beside the boat. "


@pytest.fixture(scope="module")
def better(micro):
    """The same, having read TEXT."""
    counted = count([micro.encoder.encode(TEXT)] * 9)
    return replace(micro, memories={role: merge([micro.memories[role], counted]) for role in ROLES})


def test_both_read_a_text_as_each_does_alone(micro, better):
    before, after = read_both(micro, better, TEXT)
    ids = micro.encoder.encode(TEXT)
    nearest = micro.route(micro.basin(ids)).steps[0].name
    assert (before, after) == (micro.bits(ids, nearest), better.bits(ids, nearest))
    assert after < before


def test_nothing_to_read_is_refused(micro):
    with pytest.raises(Rejected):
        read_both(micro, micro, "")


@pytest.mark.parametrize(("turned", "ratio"), [(False, 2.0), (True, 0.5)])
def test_the_pace_is_that_of_the_second_over_the_first_whoever_speaks_first(micro, turned, ratio):
    times = iter([0.0, 1.0, 10.0, 12.0])  # who speaks first needs 1 s, the other 2 s
    assert say_both(micro, micro, TEXT, clock=lambda: next(times), turned=turned) == pytest.approx(ratio)


def test_it_says_a_few_tokens_and_no_more(micro):
    ticks = itertools.count()
    assert say_both(micro, micro, TEXT, clock=lambda: float(next(ticks)), turned=False) == 1.0
    assert next(ticks) == 4
    assert SAID_TOKENS <= 32
