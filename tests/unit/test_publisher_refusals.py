"""Refusals are kept with their reasons, and not for ever."""

import json

import pytest

from services.publisher.refusals import KEPT, note, outdated, when


def test_a_refusal_says_when_and_why():
    kept = note(["heart got worse", "no gain"], 12.5)
    assert json.loads(kept) == {"at_s": 12.5, "reasons": ["heart got worse", "no gain"]}
    assert when(kept) == 12.5


@pytest.mark.parametrize(("notes", "forgotten"), [(KEPT - 1, 0), (KEPT, 1), (KEPT + 1, 2)])
def test_with_one_more_so_many_are_kept_and_the_oldest_go(notes, forgotten):
    kept = {f"c{n}": note([], 1000.0 - n) for n in range(notes)}
    assert outdated(kept) == [f"c{notes - 1 - n}" for n in range(forgotten)]


@pytest.mark.parametrize("odd", [b"", b"{}", b"[]", b'{"at_s": null}'])
def test_a_note_that_cannot_be_read_goes_first(odd):
    kept = {f"c{n}": note([], 5.0) for n in range(KEPT - 1)} | {"odd": odd}
    assert outdated(kept) == ["odd"]
