"""What a constellation is made of: the candidates whose release it has not left behind.

    released   c-a ─▶ 1   c-b ─▶ 2   c-c ─▶ 3   revoke-3-to-2 ─▶ 4   c-d ─▶ 5
    bundle 5   has c-d, and what bundle 4 has: that is what bundle 2 has, c-b and c-a; c-c is taken back

Each release has what the one before it has, but for one that takes back, which has what it goes back to.
"""

import re
from collections.abc import Mapping
from typing import Final

from common.wire.bundle import TAKES_BACK

_BACK: Final = re.compile(re.escape(TAKES_BACK) + r"\d+-to-(?P<version>\d+)")


def ancestry(released: Mapping[str, int], version: int) -> frozenset[str]:
    """The ids of the candidates that the bundle of this version has. released: the publisher's word, id to version."""
    names = {number: name for name, number in released.items()}
    found = set()
    for number in sorted(names, reverse=True):
        if number > version:
            continue
        back = _BACK.fullmatch(names[number])
        if back:
            version = int(back["version"])
        else:
            found.add(names[number])
            version = number - 1
    return frozenset(found)
