"""Whether this process does its work: what /readyz answers.

Each part reports each time it has done its round. A part is well while its last report was good and not long ago, and
while it says itself that it is alive; so a task that died silently is seen as surely as one that complains.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Part:
    stale_after_s: float
    alive: Callable[[], bool]
    problem: str | None = "not started"
    reported_s: float = field(default=0.0)


class Health:
    """The parts of one service."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._parts: dict[str, _Part] = {}

    def expect(self, name: str, stale_after_s: float, alive: Callable[[], bool] = lambda: True) -> None:
        """From now on `name` must report at least every `stale_after_s`."""
        self._parts[name] = _Part(stale_after_s, alive, reported_s=self._clock())

    def report(self, name: str, problem: str | None = None) -> None:
        """`name` did a round; `problem` says what is wrong with it, None that nothing is."""
        part = self._parts[name]
        part.problem, part.reported_s = problem, self._clock()

    def reasons(self) -> dict[str, str]:
        """Why this service is not ready, by part; empty when it is."""
        found: dict[str, str] = {}
        for name, part in self._parts.items():
            silent_s = self._clock() - part.reported_s
            if part.problem is not None:
                found[name] = part.problem
            elif not part.alive():
                found[name] = "dead"
            elif silent_s > part.stale_after_s:
                found[name] = f"not seen for {silent_s:.0f} s"
        return found
