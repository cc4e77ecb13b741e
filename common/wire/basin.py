"""A basin as bytes: 128 in a message (float16), 64 in a packet (one byte a cell).

    message   64 x float16, little-endian; rows of a stored basin, sum within SUM_TOLERANCE of one
    packet    64 x u8: square-root amplitudes as multiples of the largest, so that no cell count is lost to a flat basin

Both decode to a point of the simplex, float64, summing to one; the packet's form moves a basin by at most 0.032 rad
(64 roundings of half a step, worst case) and by 0.004 rad when it is flat.

>>> from_bytes8(to_bytes8(np.full(64, 1 / 64)))[0]
np.float64(0.015625)
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from common.constants import CELLS
from common.errors import Rejected

Array = npt.NDArray[np.float64]
SUM_TOLERANCE: Final = 0.01  # 64 roundings to float16 move the sum by less than 64 * 2^-11 * p; ten times that
STEPS: Final = 255


def to_bytes16(basin: Array) -> bytes:
    """The 128 bytes of a message. basin: (64,) on the simplex. Raises Rejected("off_simplex")."""
    return bytes(_on_simplex(basin).astype("<f2").tobytes())


def from_bytes16(data: bytes) -> Array:
    """The basin in a message's 128 bytes: (64,) float64, sums to one. Raises Rejected("off_simplex")."""
    _check_length(data, 2 * CELLS)
    return _on_simplex(np.frombuffer(data, dtype="<f2").astype(np.float64))


def to_bytes8(basin: Array) -> bytes:
    """The 64 bytes of a packet: floor(255 sqrt(p / max p) + 1/2). Raises Rejected("off_simplex")."""
    p = _on_simplex(basin)
    return bytes(np.floor(STEPS * np.sqrt(p / p.max()) + 0.5).astype(np.uint8).tobytes())


def from_bytes8(data: bytes) -> Array:
    """The basin in a packet's 64 bytes: (64,) float64, sums to one. Raises Rejected("off_simplex") when all are 0."""
    _check_length(data, CELLS)
    squares = np.frombuffer(data, dtype=np.uint8).astype(np.float64) ** 2
    if squares.sum() == 0.0:
        raise Rejected("off_simplex", "a basin of 64 zeros has no direction: send amplitudes, the largest as 255")
    basin: Array = squares / squares.sum()
    return basin


def _on_simplex(basin: Array) -> Array:
    p = np.asarray(basin, dtype=np.float64)
    total = float(p.sum())
    if p.shape != (CELLS,) or not np.isfinite(p).all() or p.min() < 0.0 or abs(total - 1.0) > SUM_TOLERANCE:
        raise Rejected(
            "off_simplex",
            f"a basin of shape {p.shape} that sums to {total}: it must be {CELLS} finite shares >= 0 that sum to one",
        )
    return p / total


def _check_length(data: bytes, size_bytes: int) -> None:
    if len(data) != size_bytes:
        raise Rejected("off_simplex", f"a basin of {len(data)} bytes; it takes {size_bytes}")
