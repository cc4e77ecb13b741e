"""Whom a release is for yet: a place for every node, and a ring that the publisher's list gives to a release.

A node's place is 16 bits of its name's sha256: the same for ever, whoever asks. A release whose ring is R is open to
the nodes whose place is below R; one without a ring, to everybody.
"""

import hashlib
from typing import Final

EVERYBODY: Final = 1 << 16
RING: Final = "ring"  # the target's custom field


def place(node: str) -> int:
    """0 to EVERYBODY - 1."""
    return int.from_bytes(hashlib.sha256(node.encode()).digest()[:2], "big")


def is_open(ring: int, node: str) -> bool:
    """Whether a release of this ring is for the node."""
    return place(node) < ring
