"""Versions grow by one, and a release is signed."""

import pytest
from nacl.signing import SigningKey

from common.errors import Corrupt
from common.wire import bundle
from common.wire.messages import Candidate, Evidence, Part
from services.publisher.release import newer, release

KEY = SigningKey(b"p" * 32)


def candidate(parent=0):
    return Candidate(
        id="c-1",
        parent=parent,
        parent_digest="ab" * 32 if parent else "",
        parts={"domains.json": Part(digest="0" * 64, size_bytes=1)},
        evidence=Evidence(),
    )


def released(current=None, parent=0):
    return release(candidate(parent), current=current, released_at_s=5.0, signing_key=KEY)


def test_the_first_release_is_version_one_and_each_next_is_one_more():
    first = released()
    second = released(first, parent=1)
    assert (first.version, second.version, released(second, parent=2).version) == (1, 2, 3)


def test_a_rollback_is_a_higher_version_too():
    ninth = released().model_copy(update={"version": 9})
    assert released(ninth, parent=3).version == 10


def test_a_release_is_signed_and_carries_the_time_it_was_given():
    found = released()
    bundle.verify(found, KEY.verify_key)
    assert found.released_at_s == 5.0
    with pytest.raises(Corrupt, match="bad_signature"):
        bundle.verify(found.model_copy(update={"version": 2}), KEY.verify_key)


def test_of_two_current_bundles_the_higher_version_is_current():
    first = released()
    second = released(first, parent=1)
    assert newer(first, second) == newer(second, first) == second
    assert newer(None, first) == newer(first, None) == first
    assert newer(None, None) is None
