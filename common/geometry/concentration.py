"""Kappa: how strongly a state is held in one direction from its home, as a von Mises-Fisher concentration.

Knows nothing of phases or of control. kappa = K / D is the stationary law of a direction pulled with strength K against
noise D; a text state reads tens, noise about 0, a repetition loop thousands.
Shapes: T tokens of one window, C = 64 cells (the directions live in the 63 dimensions tangent at home).

>>> import numpy as np
>>> loop_TC = np.tile(np.eye(64)[1], (64, 1))
>>> kappa(loop_TC) > 1e6
True
"""

import math
from typing import Final

import numpy as np

from common.constants import CELLS
from common.errors import Rejected
from common.geometry.simplex import SUM_TOLERANCE, Array, Floats, log_map

TANGENT_CELLS: Final = CELLS - 1  # dimensions of the tangent space at home
AT_HOME_RAD: Final = 1e-12  # nearer than this a direction is rounding noise
LOOSENESS_FLOOR: Final = 1e-9  # of 1 - R^2: a perfect loop reads 6e10, not a division by zero
KAPPA_MAX: Final = (TANGENT_CELLS - 1) / LOOSENESS_FLOOR  # what it reads


def directions(basins_TC: Floats, home_s: Floats) -> Array:
    """Unit tangent directions u_t = log_home(b_t) / |log_home(b_t)|.

    basins_TC: (T, 64) basins; home_s: (64,) unit vector sqrt(home basin). Returns (T, 64), orthogonal to home_s; a row
    of zeros for a basin within 1e-12 rad of home, which has no direction. Raises Rejected("off_simplex", "off_sphere").
    """
    v_TC = log_map(home_s, basins_TC)
    length_T1 = np.sqrt(np.sum(v_TC * v_TC, -1, keepdims=True))
    return np.asarray(np.divide(v_TC, length_T1, out=np.zeros_like(v_TC), where=length_T1 > AT_HOME_RAD))


def kappa(u_TC: Floats) -> float:
    """The concentration kappa = R (63 - R^2) / (1 - R^2), R^2 = max(0, mean cosine of two different tokens).

    u_TC: (T, 64) unit tangent directions of one window, T >= 2 (64 in use); rows of zeros count as no direction.
    Returns a number in [0, 6.2e10]. For unit rows R^2 = (T |mean u|^2 - 1) / (T - 1), which is unbiased: noise reads
    near 0, where the plain resultant of 64 tokens would read 8. The closed form is within 1 % of the exact
    concentration in 63 dimensions; at T = 64 sampling error is a few percent at kappa 64, and readings below about 5
    are noise. Raises Rejected("few_directions"), Rejected("off_sphere").
    Source: Banerjee, Dhillon, Ghosh & Sra, JMLR 2005, eq. 4.4.
    """
    u_TC = np.asarray(u_TC, np.float64)
    if u_TC.ndim != 2 or len(u_TC) < 2:
        raise Rejected("few_directions", f"directions of shape {u_TC.shape}: kappa needs two tokens or more")
    squares_T = np.sum(u_TC * u_TC, -1)
    unit_T = (squares_T == 0) | (np.abs(squares_T - 1) <= 2 * SUM_TOLERANCE)
    if not bool(unit_T.all()):
        raise Rejected("off_sphere", "a direction is neither of length one nor zero: take directions() of the basins")
    count, total = len(u_TC), u_TC.sum(0)
    r2 = (float(total @ total) - float(squares_T.sum())) / (count * (count - 1))
    r2 = min(max(r2, 0.0), 1.0)
    return math.sqrt(r2) * (TANGENT_CELLS - r2) / max(1.0 - r2, LOOSENESS_FLOOR)


def heading(u_TC: Floats) -> Array:
    """The unit mean direction of a window, the maximum-likelihood mean of a von Mises-Fisher law.

    u_TC: (T, 64) unit tangent directions, T >= 0. Returns (64,), unit length; zeros where the directions cancel within
    1e-12 a token, or there are none. Source: Banerjee et al. 2005, eq. 2.4.
    """
    total = np.asarray(u_TC, np.float64).sum(0)
    length = math.sqrt(float(total @ total))
    return total / length if length > AT_HOME_RAD * len(u_TC) else np.zeros_like(total)
