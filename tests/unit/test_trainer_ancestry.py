import pytest

from services.trainer.ancestry import ancestry

RELEASED = {"a": 1, "b": 2, "c": 3, "revoke-3-to-2": 4, "d": 5, "e": 6, "revoke-6-to-1": 7}


@pytest.mark.parametrize(
    ("version", "has"),
    [(0, ""), (1, "a"), (2, "ab"), (3, "abc"), (4, "ab"), (5, "abd"), (6, "abde"), (7, "a"), (9, "a")],
)
def test_a_bundle_has_what_was_released_before_it_and_not_taken_back(version, has):
    assert ancestry(RELEASED, version) == set(has)


def test_what_went_back_past_a_taking_back_leaves_that_one_too():
    released = {"a": 1, "b": 2, "revoke-2-to-1": 3, "c": 4, "revoke-4-to-3": 5, "d": 6}
    assert ancestry(released, 6) == {"a", "d"}


def test_a_version_that_was_skipped_or_forgotten_is_passed_over():
    assert ancestry({"b": 7, "c": 9}, 9) == {"b", "c"}
