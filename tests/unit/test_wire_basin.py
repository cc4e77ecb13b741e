import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common.errors import Rejected
from common.wire.basin import SUM_TOLERANCE, from_bytes8, from_bytes16, to_bytes8, to_bytes16

FLAT = np.full(64, 1 / 64)
masses = arrays(np.float64, 64, elements=st.floats(0, 1)).filter(lambda x: x.sum() > 1e-3)


def angle(p, q):
    return float(4 * np.arcsin(np.linalg.norm(np.sqrt(p) - np.sqrt(q)) / 2))


@settings(max_examples=40, deadline=None)
@given(mass=masses)
def test_a_packet_moves_a_basin_by_at_most_0_032_rad(mass):
    p = mass / mass.sum()
    assert angle(p, from_bytes8(to_bytes8(p))) <= 0.032


@settings(max_examples=40, deadline=None)
@given(mass=masses)
def test_a_message_moves_a_basin_by_less_than_0_005_rad(mass):
    p = mass / mass.sum()
    assert angle(p, from_bytes16(to_bytes16(p))) < 0.005


def test_a_flat_basin_and_a_corner_are_kept_exactly():
    for p in (FLAT, np.eye(64)[5]):
        assert np.array_equal(from_bytes8(to_bytes8(p)), p)
        assert np.array_equal(from_bytes16(to_bytes16(p)), p)


@pytest.mark.parametrize("scale", [1 - 0.9 * SUM_TOLERANCE, 1 + 0.9 * SUM_TOLERANCE])
def test_a_sum_within_the_tolerance_is_taken_and_normalised(scale):
    assert from_bytes16((FLAT * scale).astype("<f2").tobytes()).sum() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("scale", [0.0, 1 - 1.5 * SUM_TOLERANCE, 1 + 1.5 * SUM_TOLERANCE, 60.0])
def test_a_sum_beyond_the_tolerance_is_off_the_simplex(scale):
    with pytest.raises(Rejected, match="off_simplex"):
        from_bytes16((FLAT * scale).astype("<f2").tobytes())


@pytest.mark.parametrize("cell", [np.nan, np.inf, -np.inf, -0.01])
def test_a_cell_that_is_no_share_is_off_the_simplex(cell):
    bad = FLAT.copy()
    bad[3], bad[4] = cell, 1 / 32 - (cell if np.isfinite(cell) else 0)
    for check in (lambda: from_bytes16(bad.astype("<f2").tobytes()), lambda: to_bytes8(bad), lambda: to_bytes16(bad)):
        with pytest.raises(Rejected, match="off_simplex"):
            check()


@pytest.mark.parametrize(
    ("read", "size"), [(from_bytes8, 63), (from_bytes8, 65), (from_bytes16, 127), (from_bytes16, 129)]
)
def test_a_basin_of_another_length_is_refused(read, size):
    with pytest.raises(Rejected, match="off_simplex"):
        read(bytes([1]) * size)


def test_a_packet_basin_of_zeros_is_refused():
    with pytest.raises(Rejected, match="off_simplex"):
        from_bytes8(bytes(64))
