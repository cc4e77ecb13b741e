"""Territory: does a text belong to the domain it was routed to, or to ground that no domain covers?

Pure: distances, radii and code lengths in, a domain's name or None out. What counts is measured on passages of about
1 KB (docs/experiments.md); a short text scatters too widely to open anything, and belongs where it was routed.
"""

from collections.abc import Mapping
from typing import Final

from common.constellation.domains import Domain
from common.geometry.routing import Route

OPEN_MIN_BYTES: Final = 256  # chosen: below it a passage's basin scatters beyond its own domain's radius
FAR_FACTOR: Final = 1.0  # of the radius: beyond it a passage lies outside the domain
NEAR_FACTOR: Final = 0.75  # of the radius: between the two, bad prediction decides
BADLY_PREDICTED: Final = 1.25  # times the domain's own held-out bits per byte


def territory(route: Route, domains: Mapping[str, Domain], *, bits: float, size_bytes: int) -> str | None:
    """The nearest domain's name, or None for new territory.

    route: all domains, nearest first; bits: the text's code length under the nearest domain's kernel before anything
    was learned from it; size_bytes: its length. New territory, once there are OPEN_MIN_BYTES: farther than the radius
    from every domain; or farther than NEAR_FACTOR of each radius, and more than BADLY_PREDICTED times the nearest
    domain's own bits per byte (where that figure is known).
    """
    home = route.steps[0].name
    if size_bytes < OPEN_MIN_BYTES:
        return home
    outside = min(_reach(step.distance_rad, domains[step.name].radius_rad) for step in route.steps)
    if outside > FAR_FACTOR:
        return None
    own = domains[home].bits_per_byte
    badly = own is not None and bits / size_bytes > BADLY_PREDICTED * own
    return None if badly and outside > NEAR_FACTOR else home


def _reach(distance_rad: float, radius_rad: float) -> float:
    """Distance in radii; a domain without extent reaches nowhere."""
    return distance_rad / radius_rad if radius_rad > 0 else float("inf") if distance_rad > 0 else 0.0
