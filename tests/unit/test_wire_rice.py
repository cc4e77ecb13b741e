import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import Rejected
from common.wire.rice import Reader, pack

columns = st.lists(st.lists(st.integers(0, 40_000) | st.integers(0, 5), max_size=40), min_size=1, max_size=4)


def arrays(lists):
    return [np.array(column, np.int64) for column in lists]


@settings(max_examples=40, deadline=None)
@given(lists=columns)
def test_columns_come_back_and_nothing_is_left(lists):
    ks, unary_bits, data = pack(arrays(lists))
    reader = Reader.of(data, unary_bits)
    assert [reader.take(len(column), k).tolist() for column, k in zip(lists, ks, strict=True)] == lists
    reader.close()


@settings(max_examples=60, deadline=None)
@given(column=st.lists(st.integers(0, 70_000), min_size=1, max_size=30))
def test_the_parameter_is_the_one_of_fewest_bits(column):
    costs = [sum((x >> k) + 1 + k for x in column) for k in range(16)]
    ks, _, data = pack(arrays([column]))
    assert costs[ks[0]] == min(costs)
    assert len(data) == -(-min(costs) // 8)


def test_the_bits_are_those_of_the_drawing():
    assert pack(arrays([[3, 0, 9]])) == ([1], 8, bytes([0b01100001, 0b10100000]))


def reader_of():
    ks, unary_bits, data = pack(arrays([[3, 0, 9]]))
    return ks[0], Reader.of(data, unary_bits)


def test_more_numbers_than_were_coded_are_not_there():
    k, reader = reader_of()
    with pytest.raises(Rejected, match="goes beyond"):
        reader.take(4, k)


def test_remainders_beyond_the_bits_are_not_there():
    _, reader = reader_of()
    with pytest.raises(Rejected, match="goes beyond"):
        reader.take(3, 3)


def test_numbers_left_over_are_an_error():
    ks, unary_bits, data = pack(arrays([[0, 0, 0]]))
    reader = Reader.of(data, unary_bits)
    reader.take(2, ks[0])
    with pytest.raises(Rejected, match="left after"):
        reader.close()


@pytest.mark.parametrize("tail", [b"\x00", b"\x01"])
def test_bits_left_over_are_an_error(tail):
    reader = Reader.of(pack(arrays([[3, 0, 9]]))[2] + tail, 8)
    reader.take(3, 1)
    with pytest.raises(Rejected, match="left after"):
        reader.close()


def test_padding_that_is_not_zero_is_an_error():
    reader = Reader.of(bytes([0b01100001, 0b10100001]), 8)
    reader.take(3, 1)
    with pytest.raises(Rejected, match="left after"):
        reader.close()


@pytest.mark.parametrize(("number", "fits"), [(2**31 - 1, True), (2**31, False)])
def test_a_number_of_32_bits_is_refused(number, fits):
    """k is 15, so its quotient is told by 65,536 bits."""
    ks, unary_bits, data = pack(arrays([[number]]))
    reader = Reader.of(data, unary_bits)
    if fits:
        assert reader.take(1, ks[0]).tolist() == [number]
    else:
        with pytest.raises(Rejected, match="or 2"):
            reader.take(1, ks[0])


def test_a_column_that_is_not_there_takes_no_memory():
    reader = Reader.of(bytes(2), 16)
    tracemalloc.start()
    with pytest.raises(Rejected, match="goes beyond"):
        reader.take(1 << 28, 0)
    assert tracemalloc.get_traced_memory()[1] < 10_000
    tracemalloc.stop()


@pytest.mark.parametrize(("unary_bits", "fits"), [(0, True), (16, True), (17, False)])
def test_the_unary_half_lies_within_the_data(unary_bits, fits):
    if fits:
        Reader.of(bytes(2), unary_bits)
    else:
        with pytest.raises(Rejected, match="unary bits"):
            Reader.of(bytes(2), unary_bits)
