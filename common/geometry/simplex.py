"""Basins: points of the probability simplex under the Fisher-Rao metric, pictured as unit vectors s = sqrt(p).

    simplex        p, rows sum to 1          sphere         s = sqrt(p), the orthant s >= 0 of the unit sphere
    distance       d in [0, pi]        =     twice the angle between s_p and s_q

Knows nothing of tokens, kernels or cells: D is any dimension above 1. Rules: arithmetic in float64; what enters is
checked and refused, never clipped or folded back; nothing here is a Euclidean distance or mean of basins.
Shapes: D cells, N rows, ... any leading axes.

>>> import numpy as np
>>> p, q = np.array([1.0, 0.0]), np.array([0.0, 1.0])
>>> float(distance(p, p)), round(float(distance(p, q)), 6)
(0.0, 3.141593)
>>> slerp(p, q, 0.5).round(6).tolist()
[0.5, 0.5]
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from common.constants import CELLS
from common.errors import Rejected

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Half = npt.NDArray[np.float16]

SUM_TOLERANCE: Final = 1e-6  # chosen: ten times what 64 float32 terms lose
STORED_SUM_TOLERANCE: Final = 2.0**-10  # 64 terms each rounded to nearest float16 stay within 2**-11


def normalise(p: Floats) -> Array:
    """Rows divided by their sum: p / sum(p).

    p: (..., D), finite, entries >= 0, each row's sum > 0. Returns float64 rows that sum to 1 within 1e-15 D; idempotent
    to 1e-12. Raises Rejected("off_simplex") for anything else: a negative entry is never clipped, since two ways of
    clipping put one vector in two places.
    """
    rows = _non_negative(p)
    total = rows.sum(-1, keepdims=True)
    if not bool(np.all(total > 0)) or not bool(np.all(np.isfinite(total))):
        raise Rejected("off_simplex", "a row sums to zero or overflows: it has no direction; leave it out or smooth it")
    return np.asarray(rows / total)


def check_simplex(p: Floats, tolerance: float = SUM_TOLERANCE) -> Array:
    """The rows p as float64, once every row is known to lie on the simplex: entries >= 0, sums within `tolerance` of 1.

    p: (..., D). Raises Rejected("off_simplex") naming the worst value, NaN and infinity included.
    """
    rows = _non_negative(p)
    worst = float(np.abs(rows.sum(-1) - 1.0).max(initial=0.0))
    if not worst <= tolerance:
        raise Rejected(
            "off_simplex", f"a row's sum is off one by {worst:.3g}, the limit is {tolerance:.3g}: normalise it"
        )
    return rows


def check_unit(s: Floats) -> Array:
    """The vector s as float64, once it is known to be one unit vector of the orthant, as sqrt(basin) is.

    s: (D,), entries >= 0, norm within 1e-6 of 1. Raises Rejected("off_sphere"): the usual cause is a basin
    handed over where its square root belongs.
    """
    home: Array = np.asarray(s, np.float64)
    norm = float(np.sqrt(np.sum(home * home)))
    if home.ndim != 1 or not abs(norm - 1.0) <= SUM_TOLERANCE or bool(np.any(home < 0)):
        raise Rejected(
            "off_sphere", f"home of shape {home.shape} and norm {norm:.6g} is no unit vector: pass sqrt(basin)"
        )
    return home


def uniform(cells: int = CELLS) -> Array:
    """The basin that prefers nothing: (cells,), every entry 1 / cells."""
    return np.full(cells, 1.0 / cells)


def distance(p: Floats, q: Floats) -> Array:
    """Fisher-Rao distance d = 2 arccos(sum sqrt(p q)), computed as 4 arcsin(|sqrt(p) - sqrt(q)| / 2).

    p, q: (..., D), rows sum to 1 within 1e-6, entries >= 0; broadcast against each other. Returns (...) radians in
    [0, pi]; exactly 0 for equal rows and exactly symmetric. The half-angle form is accurate to 1e-15 where arccos loses
    half the digits; rows whose sum is off by e add up to e rad. Raises Rejected("off_simplex").
    Source: Rao 1945; Amari 2016, sec. 2.
    """
    return _angle_twice(np.sqrt(check_simplex(p)), np.sqrt(check_simplex(q)))


def log_map(home_s: Floats, p: Floats) -> Array:
    """Tangent vectors at home that point to each basin: v = theta * (s - c h) / |s - c h|, c = <s, h>.

    home_s: (D,) unit vector sqrt(home); p: (..., D) basins. Returns (..., D), orthogonal to home_s, whose norm is the
    sphere angle theta in [0, pi/2] rad: half the distance. Accurate to 1e-15 also at home, where v is 0.
    Raises Rejected("off_sphere" or "off_simplex").
    """
    return sphere_log(check_unit(home_s), np.sqrt(check_simplex(p)))


def exp_map(home_s: Floats, v: Floats) -> Array:
    """The basins at the end of tangent vectors: (cos|v| h + sin|v| v / |v|)^2, the inverse of log_map.

    home_s: (D,) unit vector sqrt(home); v: (..., D), orthogonal to home_s within 1e-6, |v| in rad on the sphere.
    Returns (..., D) basins, exp(log(p)) = p to 1e-12. Raises Rejected("off_tangent") for a vector that is not tangent,
    Rejected("off_orthant") for one that leaves the simplex: squaring would fold it back in silence.
    """
    home, tangent = check_unit(home_s), np.asarray(v, np.float64)
    lean = float(np.abs(tangent @ home).max(initial=0.0))
    if not lean <= SUM_TOLERANCE:
        raise Rejected("off_tangent", f"a vector leans {lean:.3g} along home: project it on the tangent space first")
    return from_sphere(sphere_exp(home, tangent))


def slerp(p: Floats, q: Floats, t: Floats | float) -> Array:
    """The point a share t along the geodesic from p to q: (sin((1-t) a) sqrt(p) + sin(t a) sqrt(q))^2 / sin(a)^2.

    p, q: (..., D) basins; t: scalar or (...) in [0, 1]. Returns (..., D) basins with d(p, slerp) = t d(p, q) to 1e-12;
    t = 0 gives p and t = 1 gives q to 1e-15. Raises Rejected("off_simplex"), Rejected("bad_fraction") for t outside
    [0, 1] (past an end the geodesic may leave the simplex). Source: Shoemake 1985, on sqrt(p).
    """
    share: Array = np.asarray(t, np.float64)[..., None]
    if not bool(np.all((share >= 0) & (share <= 1))):
        raise Rejected("bad_fraction", "slerp's t must lie in [0, 1]: it is the share of the way from p to q")
    s_p, s_q = np.sqrt(check_simplex(p)), np.sqrt(check_simplex(q))
    angle = 0.5 * _angle_twice(s_p, s_q)[..., None]
    # At a = 0 both weights tend to the linear ones; np.sinc keeps the limit without a branch.
    far = (1 - share) * np.sinc((1 - share) * angle / np.pi) * s_p
    far = far + share * np.sinc(share * angle / np.pi) * s_q
    return from_sphere(np.asarray(far / np.sinc(angle / np.pi)))


def sphere_log(home_s: Array, s: Array) -> Array:
    """log_map for unit vectors already taken and checked: home_s (D,), s (..., D). Returns (..., D), |v| = angle."""
    along = s @ home_s
    v = s - along[..., None] * home_s
    across = np.sqrt(np.sum(v * v, -1))
    # arctan2 keeps all digits near home, where arccos(along) would keep half of them.
    ratio = np.divide(np.arctan2(across, along), across, out=np.ones_like(across), where=across > 0)
    return np.asarray(v * ratio[..., None])


def sphere_exp(home_s: Array, v: Array) -> Array:
    """The unit vectors at the end of tangent vectors: home_s (D,), v (..., D) at home_s. Returns (..., D)."""
    angle = np.sqrt(np.sum(v * v, -1, keepdims=True))
    return np.asarray(np.cos(angle) * home_s + np.sinc(angle / np.pi) * v)


def from_sphere(s: Array) -> Array:
    """The basins s^2 of unit vectors s (..., D), renormalised. Raises Rejected("off_orthant") below -1e-9."""
    low = float(s.min(initial=0.0))
    if not low >= -1e-9:
        raise Rejected("off_orthant", f"a coordinate of {low:.3g} lies outside the simplex: shorten the step")
    p: Array = np.square(np.maximum(s, 0.0))
    return np.asarray(p / p.sum(-1, keepdims=True))


def to_float16(p: Floats) -> Half:
    """Basins as stored: float16 rows that sum to exactly one.

    p: (..., D) basins. Returns (..., D); storing what was stored changes no bit. From the largest cell to the
    smallest, each is rounded after rescaling to the mass still to give, so the smallest nonzero one takes a remainder
    that float16 holds exactly. d(p, stored) stays below 0.0015 rad for spread-out rows and below 0.032 rad always:
    beside a cell above 0.5, which moves in steps of 2^-11, a mass under 2^-12 cannot be kept.
    Raises Rejected("off_simplex").
    """
    rows = normalise(check_simplex(p))
    order = np.argsort(-rows, -1, kind="stable")
    falling = np.take_along_axis(rows, order, -1)
    rest = np.cumsum(falling[..., ::-1], -1)[..., ::-1]  # exact for stored rows: all multiples of 2^-24
    stored = np.zeros_like(falling)
    left = np.ones(rows.shape[:-1])
    for cell in range(rows.shape[-1]):
        share = np.divide(left, rest[..., cell], out=np.zeros_like(left), where=rest[..., cell] > 0)
        rounded = (falling[..., cell] * share).astype(np.float16)
        stored[..., cell] = rounded
        left = left - rounded
    back = np.empty_like(rows)
    np.put_along_axis(back, order, stored, -1)
    return back.astype(np.float16)


def from_float16(stored: Half) -> Array:
    """Stored basins as float64: (..., D) rows divided by their sum, which is exactly one for rows of `to_float16`.

    Rows merely rounded to float16 pass too (sums within 2^-10). Raises Rejected("off_simplex").
    """
    return normalise(check_simplex(stored, STORED_SUM_TOLERANCE))


def _non_negative(p: Floats) -> Array:
    rows: Array = np.asarray(p, np.float64)
    if rows.ndim == 0 or rows.shape[-1] < 2:
        raise Rejected(
            "off_simplex", f"shape {rows.shape} holds no distribution: the last axis needs two cells or more"
        )
    low = float(rows.min(initial=0.0))  # NaN wins a minimum, and fails the comparison
    if not low >= 0 or not bool(np.all(np.isfinite(rows))):
        raise Rejected("off_simplex", f"an entry is {low:.3g} or not finite; probabilities are >= 0")
    return rows


def _angle_twice(s_p: Array, s_q: Array) -> Array:
    gap = s_p - s_q
    half_chord: Array = 0.5 * np.sqrt(np.sum(gap * gap, -1))
    return np.asarray(np.minimum(4.0 * np.arcsin(np.minimum(half_chord, 1.0)), np.pi))
