"""Where a state points from its home, token after token: the kappa of `common.geometry.concentration`, kept current.

One new basin costs one new direction; the sums over the window are taken anew, so that no rounding error adds up.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from common.constants import CELLS, KAPPA_WINDOW_TOKENS
from common.geometry.concentration import AT_HOME_RAD, LOOSENESS_FLOOR, TANGENT_CELLS
from common.kernels.compiled import brief, compiled


class Bearing:
    """The directions of the last KAPPA_WINDOW_TOKENS basins from home. home: a basin, (64,).

    directions: (64, 64), a ring: that of basin number n lies at n % 64; read: basins that were taken in.
    """

    def __init__(self, home: npt.NDArray[np.float64]) -> None:
        self.home_s = np.sqrt(home)
        self.directions = np.zeros((KAPPA_WINDOW_TOKENS, CELLS))
        self.read = 0

    @property
    def tokens(self) -> int:
        """Directions held, KAPPA_WINDOW_TOKENS at most."""
        return min(self.read, KAPPA_WINDOW_TOKENS)

    def turn(self, basins: npt.NDArray[np.float32]) -> None:
        """Takes more basins in, (N, 64); the oldest directions leave a full window."""
        _turn(basins, self.home_s, self.directions, self.read)
        self.read += len(basins)

    def kappa(self, last: int = KAPPA_WINDOW_TOKENS) -> float:
        """Kappa of the last directions held, within 1e-9 of the geometry's (relative, tested). Two tokens or more."""
        found: float = kappa_of(self.directions, self.read, min(last, self.tokens))
        return found

    @property
    def held(self) -> npt.NDArray[np.float64]:
        """The directions of the window, (tokens, 64), in no order; a view."""
        return self.directions[: self.tokens]


@brief
def _turn(basins: Any, home_s: Any, directions: Any, read: int) -> None:
    for t in range(len(basins)):
        direct(basins[t], home_s, directions[(read + t) % len(directions)])


@compiled
def direct(basin: Any, home_s: Any, out: Any) -> None:
    """The unit tangent direction at home of a basin, to out (64,); zeros for a basin at home."""
    along = 0.0
    for i in range(len(out)):
        out[i] = np.sqrt(np.float64(basin[i]))
        along += out[i] * home_s[i]
    across = 0.0
    for i in range(len(out)):
        out[i] -= along * home_s[i]
        across += out[i] * out[i]
    across = np.sqrt(across)
    scale = 1.0 / across if np.arctan2(across, along) > AT_HOME_RAD else 0.0
    for i in range(len(out)):
        out[i] *= scale


@compiled
def kappa_of(directions: Any, read: int, count: int) -> Any:
    """Kappa of the last `count` of `read` directions, which lie in a ring."""
    squares, resultant = 0.0, 0.0
    total = np.zeros(directions.shape[1])
    for t in range(read - count, read):
        row = directions[t % len(directions)]
        for i in range(len(total)):
            total[i] += row[i]
            squares += row[i] * row[i]
    for i in range(len(total)):
        resultant += total[i] * total[i]
    r2 = min(max((resultant - squares) / (count * (count - 1)), 0.0), 1.0)
    return np.sqrt(r2) * (TANGENT_CELLS - r2) / max(1.0 - r2, LOOSENESS_FLOOR)


@compiled
def mean_direction(directions: Any) -> Any:
    """`geometry.concentration.heading` (64,) of unit directions (T, 64): zeros when they cancel, or there are none."""
    count = len(directions)
    total, squares = np.zeros(directions.shape[1]), 0.0
    for t in range(count):
        for i in range(len(total)):
            total[i] += directions[t, i]
    for i in range(len(total)):
        squares += total[i] * total[i]
    length = np.sqrt(squares)
    scale = 1.0 / length if length > AT_HOME_RAD * count else 0.0
    for i in range(len(total)):
        total[i] *= scale
    return total
