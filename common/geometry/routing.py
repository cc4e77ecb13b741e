"""Which home a basin is nearest to, how sure that is, and how to share an answer among the homes.

Knows nothing of kernels, domains or text: homes are named basins. The same basins give the same route in every process
and in every order; ties go to the name that sorts first.

>>> import numpy as np
>>> homes = {"left": np.array([0.9, 0.1]), "right": np.array([0.1, 0.9])}
>>> found = route(np.array([0.8, 0.2]), homes, margin_min_rad=0.1)
>>> found.steps[0].name, found.abstained, round(found.margin_rad, 3)
('left', False, 1.287)
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from common.errors import Rejected
from common.geometry.simplex import Floats, distance

# Chosen: a home 0.2 rad farther than the nearest gets e^-2 = 14 % of its weight; two random points lie 1.3 rad apart.
ROUTE_TEMPERATURE_RAD: Final = 0.1


@dataclass(frozen=True, slots=True)
class Step:
    """One home on a route: its distance in radians in [0, pi], and its share of the answer in [0, 1]."""

    name: str
    distance_rad: float
    weight: float


@dataclass(frozen=True, slots=True)
class Route:
    """Homes from nearest to farthest, weights summing to one.

    margin_rad: distance of the second less that of the first, >= 0; infinity with one home. abstained: the margin is
    below what was asked, so the nearest home is no clear answer.
    """

    steps: tuple[Step, ...]
    margin_rad: float
    abstained: bool


def route(basin: Floats, homes: Mapping[str, Floats], *, margin_min_rad: float) -> Route:
    """Homes in the order of their Fisher-Rao distance, weighted by softmax(-d / T), T = 0.1 rad.

    basin: (D,); homes: name to basin (D,), at least one; margin_min_rad: >= 0, the margin at which the nearest
    home is a clear answer. Raises Rejected("no_homes", "bad_shape" or "off_simplex").
    """
    if not homes:
        raise Rejected("no_homes", "there is no home to route to: load a bundle with at least one domain")
    names = sorted(homes)
    if any(np.shape(homes[name]) != np.shape(basin) for name in names) or np.ndim(basin) != 1:
        raise Rejected("bad_shape", f"a basin of shape {np.shape(basin)} and its homes must be vectors of one length")
    distance_N = distance(np.stack([homes[name] for name in names]), basin)
    order = np.argsort(distance_N, kind="stable")  # stable keeps the order of names among equals
    near_N = distance_N[order]
    weight_N = np.exp((near_N[0] - near_N) / ROUTE_TEMPERATURE_RAD)
    weight_N = weight_N / weight_N.sum()
    steps = tuple(Step(names[i], float(d), float(w)) for i, d, w in zip(order, near_N, weight_N, strict=True))
    margin_rad = float(near_N[1] - near_N[0]) if len(near_N) > 1 else math.inf
    return Route(steps, margin_rad, margin_rad < margin_min_rad)
