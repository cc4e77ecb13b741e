"""Where a state points from its home, token after token: the kappa of `common.geometry.concentration`, kept current.

One new basin costs one new direction; the sums over the window are taken anew, so that no rounding error adds up.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from common.constants import CELLS, KAPPA_WINDOW_TOKENS
from common.geometry.concentration import AT_HOME_RAD, LOOSENESS_FLOOR, TANGENT_CELLS
from common.kernels.compiled import compiled


class Bearing:
    """The directions of the last KAPPA_WINDOW_TOKENS basins from home. home: a basin, (64,)."""

    def __init__(self, home: npt.NDArray[np.float64]) -> None:
        self._home_s = np.sqrt(home)
        self._directions = np.zeros((KAPPA_WINDOW_TOKENS, CELLS))
        self._read = 0

    @property
    def tokens(self) -> int:
        """Directions held, KAPPA_WINDOW_TOKENS at most."""
        return min(self._read, KAPPA_WINDOW_TOKENS)

    def turn(self, basin: npt.NDArray[np.float32]) -> None:
        """Takes one more basin in, (64,); the oldest direction leaves a full window."""
        _direct(basin, self._home_s, self._directions[self._read % KAPPA_WINDOW_TOKENS])
        self._read += 1

    def kappa(self, last: int = KAPPA_WINDOW_TOKENS) -> float:
        """Kappa of the last directions held, within 1e-9 of the geometry's (relative, tested). Two tokens or more."""
        found: float = _kappa(self._directions, self._read, min(last, self.tokens))
        return found

    def heading(self) -> npt.NDArray[np.float64]:
        """The unit mean direction of the window, (64,); zeros when its directions cancel."""
        found: npt.NDArray[np.float64] = _heading(self._directions, self.tokens)
        return found


@compiled
def _direct(basin: Any, home_s: Any, out: Any) -> None:
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
def _kappa(directions: Any, read: int, count: int) -> Any:
    """Of the last `count` of `read` directions, which lie in a ring."""
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
def _heading(directions: Any, count: int) -> Any:
    """`geometry.concentration.heading` of the first `count` rows."""
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
