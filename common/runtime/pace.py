"""How many entries to ask for at once: one, and twice as many at a time while they come quickly.

What a wide link carries in no time takes a thin one a minute, an entry may be as large as a message, and nothing of an
answer is of use before it is whole. What a group's reader asks for is its own from that moment on: what it waits for
nobody else handles, and after a claim time it is taken for left behind.
"""

from typing import Final

FIRST: Final = 1
# Chosen: the way there and back is in it, by a satellite 0.6 s and more; and twice as many take two seconds then, of
# the five after which an entry may be claimed.
QUICK_S: Final = 1.0
SLOW_S: Final = 2.0


class Pace:
    """Of one reader. most: never more entries than that."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.entries = min(FIRST, most)

    def came(self, entries: int, took_s: float) -> None:
        """So many came, after so long."""
        if entries >= self.entries and took_s < QUICK_S:
            self.entries = min(self._most, 2 * self.entries)
        elif took_s > SLOW_S:
            self.entries = max(1, self.entries // 2)
