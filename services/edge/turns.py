"""Who is served next: a bounded queue of jobs that are worked on in slices, fair between clients.

    add ─▶ waiting (bounded: refused at the limit) ─▶ active (about `active_max`) ─take▶ out ─give_back▶ active
                                                                                      └─drop▶ done

Clients take turns whatever number of jobs they have, and a client's jobs take turns among themselves; a job that waits
is begun as soon as its client's turn comes and there is room, since its first token is what somebody is waiting for. A
client of whom nothing is begun finds room up to twice `active_max`: who came first keeps no other from beginning.
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
    begun: int = 0

    @property
    def shut_out(self) -> bool:
        """Whether it waits, and nothing of it is begun."""
        return bool(self.waiting) and self.begun == 0


class Turns(Generic[J]):
    """active_max: jobs begun and not done, of clients with more than one; waiting_max: jobs not begun, of which one
    client has half at most.
    """

    def __init__(self, *, active_max: int, waiting_max: int) -> None:
        self._active_max = active_max
        self._waiting_max = waiting_max
        self._clients: OrderedDict[str, _Client[J]] = OrderedDict()
        self.active = 0
        self.waiting = 0
        self.ready = 0  # begun, and nobody works on them now
        self._shut_out = 0  # clients

    def add(self, client: str, job: J) -> bool:
        """A new job at the end of its client's line; False, and nothing done, when there is no room."""
        here = self._clients.get(client)
        own = len(here.waiting) if here else 0
        if self.waiting >= self._waiting_max or own >= max(1, int(self._waiting_max * CLIENT_SHARE)):
            return False
        here = self._clients.setdefault(client, _Client())
        self._shut_out -= here.shut_out
        here.waiting.append(job)
        self.waiting += 1
        self._shut_out += here.shut_out
        return True

    def take(self) -> tuple[str, J] | None:
        """The next job to work on and its client, until `give_back` or `drop`; None when there is nothing to do."""
        for client, here in self._clients.items():
            if here.waiting and self._has_room(shut_out=here.shut_out):
                self._shut_out -= here.shut_out
                job = here.waiting.popleft()
                here.begun += 1
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
        room = self.waiting > 0 and self._has_room(shut_out=False)
        return self.ready > 0 or room or (self._shut_out > 0 and self._has_room(shut_out=True))

    def _has_room(self, *, shut_out: bool) -> bool:
        return self.active < self._active_max * (2 if shut_out else 1)

    def give_back(self, client: str, job: J) -> None:
        """A slice of a taken job is done, and it is not."""
        self._clients[client].ready.append(job)
        self.ready += 1

    def drop(self, client: str) -> None:
        """A taken job is done: its place is free."""
        here = self._clients[client]
        self.active -= 1
        here.begun -= 1
        self._shut_out += here.shut_out
        self._forget(client)

    def discard(self, client: str, job: J) -> bool:
        """Takes a job out that was not begun; False when it was begun, or is not there."""
        here = self._clients.get(client)
        if here is None or job not in here.waiting:
            return False
        self._shut_out -= here.shut_out
        here.waiting.remove(job)
        self.waiting -= 1
        self._shut_out += here.shut_out
        self._forget(client)
        return True

    def _forget(self, client: str) -> None:
        here = self._clients[client]
        if not here.waiting and not here.begun:
            del self._clients[client]
