"""What the basins of whole windows amount to: Phi about a home, or about their own mean, and what is read with it.

Shapes: W windows, T tokens, 64 cells; a home is a basin, (64,).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from common.constants import CELLS
from common.geometry.integration import (
    Integration,
    faculties,
    integration,
    moments,
    participation,
    rolled,
    standard_error,
)
from common.geometry.means import frechet_mean

Floats = npt.NDArray[np.float64]


class Integrated(NamedTuple):
    """error: the standard error of phi; rolled: Phi of faculties without neighbours; participation: dimensions they
    move in, of 8. None: not known.
    """

    phi: Integration
    error: float | None
    rolled: Integration
    participation: float | None


def integrated(basins_WTC: Floats, home: Floats, rng: np.random.Generator) -> Integrated:
    """Of basins about a home; rng rolls the control."""
    x = faculties(basins_WTC, np.sqrt(home))
    return Integrated(
        integration(moments(x)), standard_error(x), integration(moments(rolled(x, rng))), participation(moments(x))
    )


def about(basins_WTC: Floats, home: Floats) -> Integration:
    """Phi of basins about a home."""
    return integration(moments(faculties(basins_WTC, np.sqrt(home))))


def about_their_mean(basins_WTC: Floats) -> Integration:
    """Phi of basins about the Fréchet mean of them all."""
    return about(basins_WTC, frechet_mean(basins_WTC.reshape(-1, CELLS)))


def phi_of(x_WTF: Floats) -> float | None:
    """Phi of faculties, (W, T, 8), for who takes some windows of them out; None while it is not known."""
    return integration(moments(x_WTF)).phi
