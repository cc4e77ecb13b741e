"""What a step frees is kept for the next one, where the C library can be told so."""

import ctypes

import pytest

from services.trainer.allocator import KEPT_BYTES, LARGEST_BYTES, keep_freed


class Library:
    def __init__(self):
        self.told = {}

    def mallopt(self, name, value):
        self.told[name] = value
        return 1


def test_the_allocator_is_told_what_to_keep(monkeypatch):
    library = Library()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    keep_freed()
    assert library.told == {-1: KEPT_BYTES, -3: LARGEST_BYTES}


def absent(_):
    raise OSError


@pytest.mark.parametrize("library", [absent, lambda _: object()])
def test_another_c_library_is_left_alone(monkeypatch, library):
    asked = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: asked.append(name) or library(name))
    keep_freed()
    assert asked == [None]
