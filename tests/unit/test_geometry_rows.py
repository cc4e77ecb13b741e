import io

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.geometry.rows import from_bytes, to_bytes


@given(hnp.arrays(st.sampled_from([np.float16, np.float64]), st.tuples(st.integers(0, 40), st.just(8))))
def test_rows_survive_their_bytes_which_numpy_reads_too(rows):
    data = to_bytes(rows)
    assert np.array_equal(from_bytes(data, rows.dtype, 8), rows, equal_nan=True)
    assert np.array_equal(np.load(io.BytesIO(data), allow_pickle=False), rows, equal_nan=True)


@pytest.mark.parametrize("rows", [0, 9, 10, 99_999, 100_000])
def test_any_number_of_rows_has_a_header_of_the_same_length(rows):
    assert len(to_bytes(np.zeros((rows, 1), np.float16))) == 128 + 2 * rows


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((3, 8), np.float32),
        np.zeros((3, 8), ">f8"),
        np.zeros((8, 3)).T,
        np.zeros((6, 4)),
        np.zeros(24),
        np.zeros((3, 8, 1)),
    ],
    ids=["type", "byte order", "column order", "width", "flat", "deep"],
)
def test_other_arrays_are_refused(wrong):
    stream = io.BytesIO()
    np.save(stream, wrong)
    with pytest.raises(ValueError, match="rows of 8 numbers"):
        from_bytes(stream.getvalue(), np.float64, 8)


@pytest.mark.parametrize("cut", [0, 1, 10, 127, 128, 200, -1])
def test_rows_cut_off_are_refused(cut):
    with pytest.raises(ValueError, match="rows of 8 numbers"):
        from_bytes(to_bytes(np.zeros((3, 8)))[:cut], np.float64, 8)


def test_a_header_is_not_read_whatever_stands_in_it():
    data = to_bytes(np.zeros((3, 8)))
    for shape in (b"(3, 9)", b'"""   ', b"------", b"(9**9)", b"(3, 8L"):
        with pytest.raises(ValueError, match="rows of 8 numbers"):
            from_bytes(data.replace(b"(3, 8)", shape), np.float64, 8)
