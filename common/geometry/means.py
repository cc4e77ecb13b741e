"""Centres of basins on the sphere s = sqrt(p): the Frechet mean, and the geodesic median that outliers cannot drag.

Knows nothing of tokens, replicas or packets. Both centres do not depend on the order of the rows, and stay on the
simplex: the orthant of the sphere is geodesically convex.
Shapes: N points, D cells.

>>> import numpy as np
>>> ends_ND = np.array([[1.0, 0.0], [0.0, 1.0]])
>>> frechet_mean(ends_ND).round(6).tolist(), round(spread(ends_ND), 6)
([0.5, 0.5], 1.570796)
"""

from typing import Final

import numpy as np

from common.errors import Rejected
from common.geometry.simplex import Array, Floats, check_simplex, distance, from_sphere, sphere_exp, sphere_log

STEP_RAD: Final = 1e-12  # a step this short is the last
MEAN_STEPS: Final = 256  # bound: below ten in use; a hundred for points that are all a right angle apart
MEDIAN_STEPS: Final = 512  # bound: Weiszfeld is linear
RIGHT_RAD: Final = 0.5 * np.pi  # the orthant is so wide


def frechet_mean(p_ND: Floats, weights: Floats | None = None) -> Array:
    """The basin that minimises sum_i w_i d(m, p_i)^2: the Karcher mean on the sqrt sphere.

    p_ND: (N, D) basins, N >= 1; weights: (N,), >= 0, sum > 0, default equal. Returns (D,), with a mean log map below
    1e-11 rad; at one end of the weights it is that point to 1e-12 rad. Raises Rejected("off_simplex", "bad_weights").
    Source: Karcher 1977; unit steps from the normalised chordal mean.
    """
    s_ND, share_N = _points(p_ND, weights)
    return from_sphere(_karcher(s_ND, share_N))


def geodesic_median(p_ND: Floats, weights: Floats | None = None) -> Array:
    """The basin that minimises sum_i w_i d(m, p_i): up to half the weight may lie anywhere without dragging it away.

    p_ND: (N, D) basins, N >= 1; weights: (N,), >= 0, sum > 0, default equal. Returns (D,) whose sum of distances is
    within 1e-9 of the least. For two points of equal weight every point between is a median; this returns their middle.
    Raises Rejected("off_simplex", "bad_weights").
    Source: Fletcher, Venkatasubramanian & Joshi 2009 (Weiszfeld on manifolds); Vardi & Zhang 2000 at a data point.
    """
    s_ND, share_N = _points(p_ND, weights)
    centre = _karcher(s_ND, share_N)
    for _ in range(MEDIAN_STEPS):
        step = _weiszfeld(centre, s_ND, share_N)
        if _length(step) < STEP_RAD:
            break
        centre = _far(centre, step, s_ND, share_N)
    # Weiszfeld creeps towards a median that is a data point: offer the nearest one outright.
    nearest = s_ND[int(np.argmax(np.where(share_N > 0, s_ND @ centre, -1.0)))]
    better = _cost(nearest, s_ND, share_N) < _cost(centre, s_ND, share_N) - STEP_RAD
    return from_sphere(nearest if better else centre)


def spread(p_ND: Floats) -> float:
    """Mean distance of the basins to their Frechet mean, (1/N) sum_i d(m, p_i).

    p_ND: (N, D) basins, N >= 1. Returns radians in [0, pi]; 0 for one basin to 1e-12. Between replicas it stays
    below 0.10; between roles it must not. Raises Rejected("off_simplex", "bad_weights").
    """
    return float(distance(frechet_mean(p_ND), p_ND).mean())


def drift(p: Floats, q: Floats) -> float:
    """How far a home basin moved from its parent's: the distance of two basins (D,), in radians in [0, pi]."""
    return float(distance(p, q))


def carry(home: Floats, before: Floats, after: Floats) -> Array:
    """The basin that lies from `home` as `after` lies from `before`, (D,): a home that can't be measured again, moved
    as a mean moved that can.

    log_before(after), by parallel transport along the geodesic from before to home (do Carmo 1992; closed form on a
    sphere), then the exponential map; a cell that would fall below 0 stops there. But for that, drift(home, carried) =
    drift(before, after) within 1e-7 rad; home = before gives after. Raises Rejected("off_simplex").
    """
    at, there, to = (np.sqrt(check_simplex(p)) for p in (before, home, after))
    step = sphere_log(at, to)
    step = step - (there @ step) / (1.0 + at @ there) * (at + there)
    return from_sphere(np.maximum(sphere_exp(there, step), 0.0))


def _points(p_ND: Floats, weights: Floats | None) -> tuple[Array, Array]:
    s_ND: Array = np.sqrt(check_simplex(p_ND))
    weight_N: Array = np.ones(len(s_ND)) if weights is None else np.asarray(weights, np.float64)
    if s_ND.ndim != 2 or weight_N.shape != (len(s_ND),):
        raise Rejected("bad_weights", f"{weight_N.shape} weights for points of shape {s_ND.shape}: one weight a point")
    total = float(weight_N.sum())
    if not (bool(np.all(weight_N >= 0)) and 0.0 < total < np.inf):
        raise Rejected("bad_weights", f"weights sum to {total:.3g} or fall below 0: give at least one positive weight")
    return _unit(s_ND), weight_N / total


def _karcher(s_ND: Array, share_N: Array) -> Array:
    centre = _unit(share_N @ s_ND)
    for _ in range(MEAN_STEPS):
        step: Array = share_N @ sphere_log(centre, s_ND)
        centre = _unit(sphere_exp(centre, step))
        if _length(step) < STEP_RAD:
            break
    return centre


def _weiszfeld(centre: Array, s_ND: Array, share_N: Array) -> Array:
    v_ND = sphere_log(centre, s_ND)
    length_N = np.sqrt(np.sum(v_ND * v_ND, -1))
    apart_N = length_N > STEP_RAD
    pull_N = np.divide(share_N, length_N, out=np.zeros_like(share_N), where=apart_N)
    force: Array = pull_N @ v_ND
    # A data point under the centre holds it with its own weight; the others must pull harder to move it.
    held, strength = float(share_N[~apart_N].sum()), _length(force)
    if strength <= held:
        return np.zeros_like(centre)
    return np.asarray(force * (1.0 - held / strength) / pull_N.sum())


def _far(centre: Array, step: Array, s_ND: Array, share_N: Array) -> Array:
    """Along a step, doubled as long as that costs less: near a heavy point Weiszfeld's own are as short as the point
    is near. A step and its double lie in the orthant as far as they are taken.
    """
    found = _unit(sphere_exp(centre, step))
    cost = _cost(found, s_ND, share_N)
    while _length(step) < RIGHT_RAD / 2:
        step = 2.0 * step
        further = _unit(sphere_exp(centre, step))
        least = _cost(further, s_ND, share_N)
        if least >= cost or float(further.min()) < 0:
            break
        found, cost = further, least
    return found


def _cost(s: Array, s_ND: Array, share_N: Array) -> float:
    v_ND = sphere_log(s, s_ND)
    return float(share_N @ np.sqrt(np.sum(v_ND * v_ND, -1)))


def _length(v: Array) -> float:
    return float(np.sqrt(v @ v))


def _unit(s: Array) -> Array:
    return np.asarray(s / np.sqrt(np.sum(s * s, -1, keepdims=True)))
