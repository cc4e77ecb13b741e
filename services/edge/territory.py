"""Territory: does a text belong to the domain it was routed to, or to ground that no domain covers?

Pure: distances, radii and code lengths in, a domain's name or None out. A text is as strange as it lies far out and is
badly predicted, each in units of the domain's own held-out text:

    strangeness = (distance / radius_rad) * (bits per byte / the domain's own bits per byte)

A short text scatters about its place, by about 1 / sqrt(length): the limit is wider for it, and below OPEN_MIN_BYTES
nothing is told from a single text. A few strange texts are no territory either: see learning.go_home.
"""

import math
from collections.abc import Mapping
from typing import Final

from common.constellation.domains import Domain
from common.geometry.routing import Route

OPEN_MIN_BYTES: Final = 512
# Chosen on passages of 0.5 to 4 KB, so that of 1 KB passages 7 % of the four roles' held-out text are taken for new
# territory and 15 % of an unseen domain's are not (docs/experiments.md).
STRANGE: Final = 0.7
STRANGE_PER_ROOT_KB: Final = 0.25


def territory(route: Route, domains: Mapping[str, Domain], *, bits: float, size_bytes: int) -> str | None:
    """The nearest domain's name, or None for new territory.

    route: all domains, nearest first; bits: the text's code length under the nearest domain's kernel before anything
    was learned from it; size_bytes: its length. The distance is taken to whichever domain reaches farthest towards the
    text. A domain whose own bits per byte nobody knows is judged by distance alone.
    """
    home = route.steps[0].name
    if size_bytes < OPEN_MIN_BYTES:
        return home
    out = min(_reach(step.distance_rad, domains[step.name].radius_rad) for step in route.steps)
    own = domains[home].bits_per_byte
    badly = bits / size_bytes / own if own else 1.0
    return None if out * badly > limit(size_bytes) else home


def limit(size_bytes: int) -> float:
    """The strangeness up to which a text of this length belongs to a domain."""
    return STRANGE + STRANGE_PER_ROOT_KB / math.sqrt(size_bytes / 1024)


def _reach(distance_rad: float, radius_rad: float) -> float:
    """Distance in radii; a domain without extent reaches nowhere."""
    return distance_rad / radius_rad if radius_rad > 0 else math.inf if distance_rad > 0 else 0.0
