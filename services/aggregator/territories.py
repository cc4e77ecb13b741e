"""Which domain a packet belongs to: the one it names, one that was opened meanwhile, or a new one.

    names a domain of the current bundle  ─▶ that domain
    names one that has ended since        ─▶ its heir
    new territory (None, or a name that the bundle has no more)
        ├ near a domain that its base did not know ─▶ that domain          opened by another edge's packets meanwhile
        ├ near one that an earlier batch opened    ─▶ that one             no bundle brings it yet
        └ else grouped with its like               ─▶ a new domain, d-XXXXXXXX

An edge knew the domains of its base and found its text in none of them, by prediction as well as by place; so none of
those is offered again (a sleep of scripture lies at 0.7 of a prose domain's radius, and is not prose). Groups are the
single-linkage clusters of the packets' basins: whatever the order of the packets, the same groups and names.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from common.constants import ROLES, Role
from common.errors import Corrupt
from common.geometry.means import geodesic_median
from common.geometry.simplex import distance, from_float16, to_float16
from common.wire import basin
from common.wire.crystals import Crystals
from common.wire.fields import BASIN_BYTES, MAX_DOMAINS
from common.wire.messages import PacketRef
from common.wire.packet import PacketBody
from services.aggregator.bases import Base
from services.aggregator.quota import Nodes, may_open, node_of

# Chosen. Measured on the seed corpora: two sleeps (20 KB) of one domain lie 0.03-0.15 rad apart, a domain's radius is
# 0.15-0.19 rad, role domains lie 0.25-0.45 rad apart, scripture 0.12 rad from the nearest prose.
LINK_RADIUS_RAD: Final = 0.15
NAME_DIGITS: Final = 8
PENDING_CUTS: Final = (
    64  # chosen: batches after which a place that none of them named, nor a bundle brought, is given up
)
_NOTE: Final = re.compile(rf"(?P<role>[a-z]+) (?P<basin>[0-9a-f]{{{2 * BASIN_BYTES}}})(?: (?P<cuts>[0-9]{{1,15}}))?")

NOBODY: Final[Mapping[Any, str]] = {}

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """A packet of the ledger, read. ref: the 16 bytes of `packet`; told: its n-grams, with the shorter ones that they
    imply; basin: (64,).
    """

    ref: bytes
    packet: PacketRef
    base: Base
    body: PacketBody
    told: Crystals
    basin: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A domain as the merge sees it. experts: columns of its gate; opened: no bundle knows it yet."""

    name: str
    role: Role
    basin: Floats
    radius_rad: float
    experts: int
    opened: bool

    def packed(self, cuts: int) -> bytes:
        """What the broker keeps of an opened place until a bundle brings it: role, basin, and how many batches had been
        cut when one last named it, as text.
        """
        return f"{self.role} {to_float16(self.basin).astype('<f2').tobytes().hex()} {cuts}".encode()


def opened_place(name: str, role: Role, at: Floats, current: Base) -> Place:
    """A domain that no bundle knows: it will speak with its role's state and memory, and a memory of its own."""
    experts = 2 + len(current.domains[role].memories)
    return Place(name, role, at, LINK_RADIUS_RAD, experts, opened=True)


def unpack_place(name: str, data: bytes, current: Base) -> tuple[Place, int]:
    """The inverse of `Place.packed`; the first releases wrote no number of batches, which reads 0.

    Raises Corrupt("opened_domain").
    """
    match = _NOTE.fullmatch(data.decode("ascii", "replace"))
    known = next((one for one in ROLES if match is not None and one == match["role"]), None)
    if match is None or known is None:
        raise Corrupt("opened_domain", f"domain {name} is noted with {len(data)} bytes that no aggregator wrote")
    at = from_float16(np.frombuffer(bytes.fromhex(match["basin"]), "<f2").astype(np.float16))
    return opened_place(name, known, at, current), int(match["cuts"] or 0)


def known_places(current: Base) -> dict[str, Place]:
    """The domains of the current bundle."""
    return {
        name: Place(name, d.role, d.basin_array, d.radius_rad, 1 + len(d.memories), opened=False)
        for name, d in current.domains.items()
    }


@dataclass(frozen=True, slots=True, eq=False)
class Settled:
    """places: every one by name; begun: those opened now; members: the packets of each that has some; crowded: packets
    for which no domain can be opened any more; greedy: those whose node has opened enough of them alone.
    """

    places: dict[str, Place]
    begun: frozenset[str]
    members: dict[str, list[Waiting]]
    crowded: tuple[Waiting, ...]
    greedy: tuple[Waiting, ...]


def settle(
    packets: Sequence[Waiting],
    current: Base,
    pending: Mapping[str, Place],
    *,
    founded: Mapping[str, str] = NOBODY,
    nodes: Nodes = NOBODY,
) -> Settled:
    """Where each packet belongs.

    packets: in the order of their refs. pending: places that earlier batches opened and `current` does not know.
    founded: of each domain of which one node alone has brought text, that node.
    """
    places = {**known_places(current), **pending}
    members: dict[str, list[Waiting]] = {}
    homeless: list[Waiting] = []
    for packet in packets:
        name = _home(packet, current, places)
        if name is None:
            homeless.append(packet)
        else:
            members.setdefault(name, []).append(packet)
    crowded: list[Waiting] = []
    greedy: list[Waiting] = []
    alone = dict(founded)
    for group in linked(homeless):
        who = {node_of(nodes, packet.packet.key) for packet in group}
        if len(places) >= MAX_DOMAINS:
            crowded += group
            continue
        if len(who) == 1 and not may_open(min(who), alone, nodes):
            greedy += group
            continue
        place = _open(group, current, places, nodes)
        places[place.name] = place
        members[place.name] = group
        if len(who) == 1:
            alone[place.name] = who.pop()
    begun = places.keys() - pending.keys() - current.domains.keys()
    return Settled(places, frozenset(begun), members, tuple(crowded), tuple(greedy))


def founders(
    settled: Settled, brought: Mapping[str, Sequence[Waiting]], founded: Mapping[str, str], nodes: Nodes
) -> dict[str, str]:
    """Of each domain of which one node alone has brought text, that node, once what was brought is merged.

    brought: packets by domain, of those that are in the batch.
    """
    of_each = {name: {node_of(nodes, one.packet.key) for one in packets} for name, packets in brought.items()}
    found = {name: node for name, node in founded.items() if name in settled.places}
    for name, who in of_each.items():
        if name in settled.begun and len(who) == 1:
            found[name] = next(iter(who))
        elif name in found and who != {found[name]}:
            del found[name]
    return found


def _home(packet: Waiting, current: Base, places: Mapping[str, Place]) -> str | None:
    if packet.body.domain is not None and packet.body.domain in current.domains:
        return packet.body.domain
    if packet.body.domain is not None and packet.body.domain in current.heirs:
        return current.heirs[packet.body.domain]
    new_since = [place for name, place in sorted(places.items()) if name not in packet.base.domains]
    near = [(float(distance(packet.basin, place.basin)), place.name, place.radius_rad) for place in new_since]
    return min(((d, name) for d, name, radius in near if d <= radius), default=(0.0, None))[1]


def linked(packets: Sequence[Waiting]) -> list[list[Waiting]]:
    """Single-linkage clusters at LINK_RADIUS_RAD, each in the order of `packets`, ordered by their first member."""
    if not packets:
        return []
    points = np.stack([packet.basin for packet in packets])
    near = np.stack([distance(point, points) <= LINK_RADIUS_RAD for point in points])
    first = np.arange(len(packets))
    while True:  # each round hands the least label of a neighbourhood on; at most one round a packet
        least = np.where(near, first[None, :], len(packets)).min(1)
        if np.array_equal(least, first):
            return [[packets[i] for i in np.flatnonzero(first == label).tolist()] for label in np.unique(first)]
        first = least


def _open(group: Sequence[Waiting], current: Base, places: Mapping[str, Place], nodes: Nodes) -> Place:
    """A node has one voice in where it lies and whose it is, shared out over its packets."""
    named = hashlib.sha256(b"".join(packet.ref for packet in group)).hexdigest()
    taken = places.keys() | current.heirs.keys()
    name = next(f"d-{named[:n]}" for n in range(NAME_DIGITS, len(named)) if f"d-{named[:n]}" not in taken)
    own = [node_of(nodes, packet.packet.key) for packet in group]
    voices = [Fraction(1, own.count(node)) for node in own]
    votes = {one: sum(v for v, packet in zip(voices, group, strict=True) if packet.body.kernel == one) for one in ROLES}
    role = max(ROLES, key=lambda one: (votes[one], -ROLES.index(one)))
    at = geodesic_median(np.stack([packet.basin for packet in group]), np.array(voices, np.float64))
    return opened_place(name, role, at, current)


def read_basin(body: PacketBody) -> Floats:
    """The basin of a packet, (64,). Raises Rejected("off_simplex")."""
    return basin.from_bytes8(body.basin)
