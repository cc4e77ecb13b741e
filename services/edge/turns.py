"""Who is served next: a bounded queue of jobs that are worked on in slices, fair between clients.

    add ─▶ waiting (bounded: refused at the limit) ─▶ active (at most `active_max`) ─take▶ out ─give_back▶ active
                                                                                        └─drop▶ done

Clients take turns whatever number of jobs they have, and a client's jobs take turns among themselves; a job that waits
is begun as soon as its client's turn comes and there is room, since its first token is what somebody is waiting for.
Pure: knows no thread, no clock and nothing of the jobs.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

J = TypeVar("J")

CLIENT_SHARE: Final = 0.5  # of the waiting room: one client alone cannot close it for the others


@dataclass(slots=True)
class _Client(Generic[J]):
    waiting: deque[J] = field(default_factory=deque)
    ready: deque[J] = field(default_factory=deque)
    jobs: int = 0


class Turns(Generic[J]):
    """active_max: jobs begun and not done; waiting_max: jobs not begun, of which one client has half at most."""

    def __init__(self, *, active_max: int, waiting_max: int) -> None:
        self._active_max = active_max
        self._waiting_max = waiting_max
        self._clients: OrderedDict[str, _Client[J]] = OrderedDict()
        self.active = 0
        self.waiting = 0
        self.ready = 0  # begun, and nobody works on them now

    def add(self, client: str, job: J) -> bool:
        """A new job at the end of its client's line; False, and nothing done, when there is no room."""
        here = self._clients.get(client)
        own = len(here.waiting) if here else 0
        if self.waiting >= self._waiting_max or own >= max(1, int(self._waiting_max * CLIENT_SHARE)):
            return False
        here = self._clients.setdefault(client, _Client())
        here.waiting.append(job)
        here.jobs += 1
        self.waiting += 1
        return True

    def take(self) -> tuple[str, J] | None:
        """The next job to work on and its client, until `give_back` or `drop`; None when there is nothing to do."""
        for client, here in self._clients.items():
            if here.waiting and self.active < self._active_max:
                job = here.waiting.popleft()
                self.waiting -= 1
                self.active += 1
            elif here.ready:
                job = here.ready.popleft()
                self.ready -= 1
            else:
                continue
            self._clients.move_to_end(client)
            return client, job
        return None

    @property
    def wanted(self) -> bool:
        """Whether `take` would find something."""
        return self.ready > 0 or (self.waiting > 0 and self.active < self._active_max)

    def give_back(self, client: str, job: J) -> None:
        """A slice of a taken job is done, and it is not."""
        self._clients[client].ready.append(job)
        self.ready += 1

    def drop(self, client: str) -> None:
        """A taken job is done: its place is free."""
        self.active -= 1
        self._leave(client)

    def discard(self, client: str, job: J) -> bool:
        """Takes a job out that was not begun; False when it was begun, or is not there."""
        here = self._clients.get(client)
        if here is None or job not in here.waiting:
            return False
        here.waiting.remove(job)
        self.waiting -= 1
        self._leave(client)
        return True

    def _leave(self, client: str) -> None:
        here = self._clients[client]
        here.jobs -= 1
        if here.jobs == 0:
            del self._clients[client]
