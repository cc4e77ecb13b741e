"""Refusals, kept with their reasons: what an operator and the trainer look a candidate up in."""

import json
from collections.abc import Mapping, Sequence
from typing import Final

KEPT: Final = 1_000  # chosen: years of nights; the oldest go


def note(why: Sequence[str], at_s: float) -> bytes:
    """One refusal as JSON: when, and every reason."""
    return json.dumps({"at_s": at_s, "reasons": list(why)}, sort_keys=True).encode()


def when(note_: bytes) -> float:
    """When a refusal was noted; a note that cannot be read is the oldest."""
    try:
        return float(json.loads(note_)["at_s"])
    except (ValueError, KeyError, TypeError):
        return 0.0


def reasons(note_: bytes) -> tuple[str, ...]:
    """Why, in the order in which it was found; of a note that cannot be read, that."""
    try:
        return tuple(map(str, json.loads(note_)["reasons"]))
    except (ValueError, KeyError, TypeError):
        return ("its note in the broker cannot be read",)


def outdated(notes: Mapping[str, bytes]) -> list[str]:
    """The ids to forget so that, with one more, KEPT remain."""
    oldest_first = sorted(notes, key=lambda name: (when(notes[name]), name))
    return oldest_first[: max(0, len(notes) + 1 - KEPT)]
