"""Which home a basin is nearest to, how sure that is, and how to share an answer among the homes.

Knows nothing of kernels, domains or text: homes are named basins. The same basins give the same route in every process
and in every order; ties go to the name that sorts first.

>>> import numpy as np
>>> homes = {"left": np.array([0.9, 0.1]), "right": np.array([0.1, 0.9])}
>>> found = Router(homes, margin_min_rad=0.1).route(np.array([0.8, 0.2]))
>>> found.steps[0].name, found.abstained, round(found.margin_rad, 3)
('left', False, 1.287)
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from common.errors import Rejected
from common.geometry.simplex import Floats, check_simplex

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


class Router:
    """Named homes, ready to be asked often: a route takes about ten microseconds. Immutable."""

    def __init__(self, homes: Mapping[str, Floats], *, margin_min_rad: float) -> None:
        """homes: name to basin (D,), at least one; margin_min_rad: >= 0, from which the nearest is a clear answer.

        Raises Rejected("no_homes", "bad_shape" or "off_simplex").
        """
        if not homes:
            raise Rejected("no_homes", "there is no home to route to: load a bundle with at least one domain")
        self._names: Final = tuple(sorted(homes))
        shapes = {np.shape(home) for home in homes.values()}
        if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
            raise Rejected("bad_shape", f"homes of shapes {sorted(shapes)} must be vectors of one length")
        self._s_ND: Final = np.sqrt(check_simplex(np.stack([homes[name] for name in self._names])))
        self._margin_min_rad: Final = margin_min_rad

    def route(self, basin: Floats) -> Route:
        """Homes in the order of their Fisher-Rao distance from a basin (D,), weighted by softmax(-d / T), T = 0.1 rad.

        Distances as `simplex.distance` has them, to 1e-12 rad. Raises Rejected("bad_shape" or "off_simplex").
        """
        if np.shape(basin) != self._s_ND.shape[1:]:
            raise Rejected("bad_shape", f"a basin of shape {np.shape(basin)} for homes of {self._s_ND.shape[1]} cells")
        gap_ND = self._s_ND - np.sqrt(check_simplex(basin))
        chords = np.sqrt(np.einsum("nd,nd->n", gap_ND, gap_ND)).tolist()
        # Few homes: plain floats are faster than arrays, and a sorted pair goes by name among equals.
        near = sorted(
            (min(4.0 * math.asin(min(0.5 * c, 1.0)), math.pi), n) for c, n in zip(chords, self._names, strict=True)
        )
        weights = [math.exp((near[0][0] - away) / ROUTE_TEMPERATURE_RAD) for away, _ in near]
        total = math.fsum(weights)
        steps = tuple(Step(name, away, weight / total) for (away, name), weight in zip(near, weights, strict=True))
        margin_rad = near[1][0] - near[0][0] if len(near) > 1 else math.inf
        return Route(steps, margin_rad, margin_rad < self._margin_min_rad)
