import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.wire.ranges import CHANCES, STATE, Block, begin, end, number, pick

NUMBERS = Block(0, 3, 4)


@st.composite
def some_steps(draw):
    """Numbers up to a most in a context, and subsets of a weighted list."""
    steps = []
    for _ in range(draw(st.integers(0, 12))):
        if draw(st.booleans()):
            most = draw(st.integers(0, 70))
            steps.append((draw(st.integers(0, 2)), most, draw(st.integers(0, most))))
        else:
            weights = draw(st.lists(st.integers(1, 2048), min_size=1, max_size=40))
            steps.append((weights, draw(st.sets(st.integers(0, len(weights) - 1)))))
    return steps


def split(weights):
    """The weights as `pick` takes them: of each place up to 50, and of every third what it weighs besides."""
    own = [min(weight, 50) if n % 3 == 0 else weight for n, weight in enumerate(weights)]
    places = np.arange(0, len(weights), 3, dtype=np.uint16)
    more = [weights[n] - own[n] for n in places]
    sums = [np.array([0, *np.cumsum(each)], np.uint32) for each in (own, more)]
    return sums[0], places, sums[1], len(places)


def walk(data, steps, encoding):
    """What the steps say, and how many bytes they take."""
    state, odds, told = np.zeros(STATE, np.int64), np.zeros((NUMBERS.end, 2), np.uint16), []
    odds[:, 0] = CHANCES >> 1
    begin(state, data, encoding)
    for step in steps:
        if len(step) == 3:
            told.append((*step[:2], number(state, data, odds, NUMBERS, step[0], step[1], step[2] * encoding)))
        else:
            place, members = 0, []
            for n, member in enumerate(sorted(step[1])):
                left = len(step[1]) - n
                place = pick(state, data, split(step[0]), place, len(step[0]), left, member * encoding) + 1
                members.append(place - 1)
            told.append((step[0], set(members)))
    return told, end(state, data)


def written(steps):
    data = np.zeros(4000, np.uint8)
    told, size = walk(data, steps, 1)
    assert told == steps
    assert not data[size:].any()
    return data[:size]


@settings(max_examples=150, deadline=None)
@given(steps=some_steps())
def test_what_was_written_is_read(steps):
    data = written(steps)
    assert walk(data.copy(), steps, 0) == (steps, len(data))


@pytest.mark.parametrize("bits", range(100))
def test_a_code_beyond_the_range_says_nothing_however_it_goes_on(bits):
    data = np.frombuffer(bytearray.fromhex("ffffffffffffffffffff7f"), np.uint8)
    state = np.zeros(STATE, np.int64)
    begin(state, data, 0)
    for _ in range(bits):
        number(state, data, np.full((2, 2), (CHANCES >> 1, 0), np.uint16), Block(0, 1, 1), 0, 1, 0)
    assert end(state, data) == -1


@settings(max_examples=80, deadline=None)
@given(steps=some_steps(), more=st.binary(min_size=1, max_size=6), cut=st.integers(1, 3))
def test_no_other_bytes_say_the_same(steps, more, cut):
    data = written(steps)
    longer = np.frombuffer(bytearray(data.tobytes() + more), np.uint8)
    told, size = walk(longer, steps, 0)
    assert size == -1 or told != steps
    if len(data):
        told, size = walk(data[:-cut].copy(), steps, 0)
        assert size == -1 or told != steps


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=60), steps=some_steps())
def test_any_bytes_read_as_something_that_is_in_bounds(data, steps):
    told, size = walk(np.frombuffer(bytearray(data), np.uint8), steps, 0)
    assert size in (-1, len(data))
    for asked, got in zip(steps, told, strict=True):
        if len(asked) == 3:
            assert 0 <= got[2] <= asked[1]
        else:
            assert len(got[1]) == len(asked[1])
            assert all(0 <= member < len(asked[0]) for member in got[1])


def test_too_little_room_is_told_by_a_size_beyond_it_and_touches_no_other_byte():
    steps = [([1] * 40, set(range(0, 40, 2)))] * 5
    whole = len(written(steps))
    for room in range(whole):
        data = np.zeros(room + 8, np.uint8)
        assert walk(data[:room], steps, 1)[1] > room
        assert not data[room:].any()


@pytest.mark.parametrize(("share", "over"), [(0.5, 1.02), (0.9, 1.04), (0.99, 1.12)])
def test_bits_cost_about_their_entropy(share, over):
    rng = np.random.default_rng(1)
    bits = (rng.random(6000) < share).astype(int).tolist()
    entropy = -share * math.log2(share) - (1 - share) * math.log2(1 - share)
    assert 8 * len(written([(0, 1, bit) for bit in bits])) < over * 6000 * entropy


@pytest.mark.parametrize(("members", "over"), [(1, 1.1), (5, 1.1), (40, 1.1), (99, 3.2)])
def test_a_set_costs_about_what_it_says(members, over):
    rng = np.random.default_rng(2)
    steps = [([7] * 100, set(rng.choice(100, members, replace=False).tolist())) for _ in range(40)]
    ideal = 40 * math.log2(math.comb(100, members))
    assert 8 * len(written(steps)) < over * ideal


def test_a_heavy_place_is_cheaper():
    weights = [1] * 50 + [2048] + [1] * 49
    assert len(written([(weights, {50})] * 40)) < 10 < len(written([(weights, {49})] * 40))


def test_a_context_begins_where_its_parent_stands():
    taught = [(0, 1, 1)] * 30
    assert len(written([*taught, *[(1, 1, 1)] * 4])) == len(written(taught))
    assert len(written([*taught, *[(1, 1, 0)] * 4])) > len(written(taught))
