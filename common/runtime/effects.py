"""What a handler wants to happen, as values. The runtime makes all of it happen with the acknowledgement, or none.

A handler returns a sequence of effects; the shell makes them of what the pure core answered. They are applied in
one server-side script in the slot of the consumed stream: first every condition is looked at, then the entry is
acknowledged (if somebody else already has, nothing further happens), then the writes are made.

    Exists, Absent, Equals    conditions; one that does not hold undoes the whole commit, and the handler runs again
    HashSet, HashDelete, HashAdd    writes to side keys of the consumed stream, `streams.side_key(stream, ...)`
    Send    arrives at its target exactly once by `id`; on a Cluster it leaves through the stream's outbox
    Then    here in this process, once all of it was done: what is counted and said of it

>>> from common.runtime import streams
>>> ledger = streams.side_key(streams.PACKETS, "ledger")
>>> accepted = [Absent(ledger, "a1:7"), HashSet(ledger, "a1:7", b"...")]
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

log = logging.getLogger(__name__)

ID_MAX_BYTES: Final = 256  # in UTF-8
EFFECTS_MAX: Final = 4_096  # effects in one commit: the script runs them without letting anyone else in


@dataclass(frozen=True, slots=True)
class Exists:
    """The commit needs `field` in the hash `key`."""

    key: str
    field: str


@dataclass(frozen=True, slots=True)
class Absent:
    """The commit needs no `field` in the hash `key`."""

    key: str
    field: str


@dataclass(frozen=True, slots=True)
class Equals:
    """The commit needs `field` of the hash `key` to hold `value`: what the handler read before it decided."""

    key: str
    field: str
    value: bytes


@dataclass(frozen=True, slots=True)
class HashSet:
    """Set `field` of the hash `key`."""

    key: str
    field: str
    value: bytes


@dataclass(frozen=True, slots=True)
class HashDelete:
    """Delete `field` of the hash `key`, if it is there."""

    key: str
    field: str


@dataclass(frozen=True, slots=True)
class HashAdd:
    """Add `by` to the decimal integer in `field` of the hash `key` (0 when absent)."""

    key: str
    field: str
    by: int


@dataclass(frozen=True, slots=True)
class Send:
    """Publish `message` (packed bytes) on `stream`; a second one with the same `id` does nothing."""

    stream: str
    message: bytes
    id: str


@dataclass(frozen=True, slots=True)
class Then:
    """Call `do` once all else of the commit was done by it: never for a try that came to nothing, nor where somebody
    else was first. A process that ends between the two calls nothing.
    """

    do: Callable[[], object]


Change = Exists | Absent | Equals | HashSet | HashDelete | HashAdd | Send
Effect = Change | Then


def follow(effects: Sequence[Effect]) -> None:
    """What is to be done here, now that the rest was; a bug in it is logged, and stops nothing."""
    for effect in effects:
        if isinstance(effect, Then):
            try:
                effect.do()
            except Exception:  # what was done is not undone for it, nor what else follows
                log.exception("what follows on a commit failed; the commit stands")


def check(stream: str, effects: Sequence[Effect]) -> None:
    """Programmer errors, found before anything is written: a foreign slot, no or too long an id, too many effects."""
    if len(effects) > EFFECTS_MAX:
        msg = f"{len(effects)} effects in one commit on {stream}; the limit is {EFFECTS_MAX}: split the work"
        raise ValueError(msg)
    for effect in effects:
        if isinstance(effect, Send):
            if not 0 < len(effect.id.encode()) <= ID_MAX_BYTES:
                msg = f"Send to {effect.stream} needs an id of 1 to {ID_MAX_BYTES} bytes, got {effect.id!r}"
                raise ValueError(msg)
        elif not isinstance(effect, Then) and not effect.key.startswith(f"{{{stream}}}:"):
            msg = f"key {effect.key!r} is not in the slot of {stream}: name it with streams.side_key({stream!r}, ...)"
            raise ValueError(msg)
