"""A node's standing: what became of its packets, and how far they lay from where its fleet lies.

    accepted      packets that entered the ledger            refused   the others, by code
    last_ms       when the broker took the newest of them, by its clock
    distance_rad  of its packets in the last batch that had some, the farthest from the robust centre of its domain

It is shown, and nothing is decided on it: a node far from the others may know what they do not. Counted by key, as
envelopes name it: what is refused for its signature is counted where the key was claimed, and is an alarm, not a fault.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from common.errors import Corrupt, Rejected
from common.wire.codec import canonical, parse


@dataclass(frozen=True, slots=True)
class Standing:
    """See this file's head. distance_rad: None before a batch had any of its packets."""

    accepted: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    last_ms: int = 0
    distance_rad: float | None = None

    @property
    def packed(self) -> bytes:
        """As the broker keeps it: a msgpack map of the four."""
        return canonical(
            {
                "accepted": self.accepted,
                "refused": dict(self.refused),
                "last_ms": self.last_ms,
                "distance_rad": self.distance_rad,
            }
        )

    @classmethod
    def unpack(cls, data: bytes) -> "Standing":
        """The inverse of `packed`. Raises Corrupt("standing")."""
        try:
            fields: Any = parse(cls.__name__, data)
            return cls(**fields)
        except (Rejected, TypeError):
            raise Corrupt("standing", f"{len(data)} bytes of a standing that no aggregator wrote: delete it") from None


def taken(before: Standing, at_ms: int) -> Standing:
    """The standing once one more packet was accepted. at_ms: when the broker took it."""
    return replace(before, accepted=before.accepted + 1, last_ms=max(before.last_ms, at_ms))


def turned_away(before: Standing, code: str, at_ms: int) -> Standing:
    """The standing once one more packet was refused. at_ms: when the broker took it."""
    refused = {**before.refused, code: before.refused.get(code, 0) + 1}
    return replace(before, refused=refused, last_ms=max(before.last_ms, at_ms))
