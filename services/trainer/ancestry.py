"""What a constellation is made of: the candidates whose release it has not left behind.

    released   c-a ─▶ 1   c-b ─▶ 2   c-c ─▶ 3   revoke-3-to-2 ─▶ 4   c-d ─▶ 5
    bundle 5   has c-d, and what bundle 4 has: that is what bundle 2 has, c-b and c-a; c-c is taken back

Each release has what the one before it has, but for one that takes back, which has what it goes back to.
"""

from collections.abc import Mapping

from common.wire.bundle import brings_back


def ancestry(released: Mapping[str, int], version: int) -> frozenset[str]:
    """The ids of the candidates that the bundle of this version has. released: the publisher's word, id to version."""
    names = {number: name for name, number in released.items()}
    found = set()
    for number in sorted(names, reverse=True):
        if number > version:
            continue
        back = brings_back(names[number])
        if back is None:
            found.add(names[number])
        version = number - 1 if back is None else back
    return frozenset(found)
