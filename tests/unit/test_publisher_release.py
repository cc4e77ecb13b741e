"""Versions grow by one, and a release is signed."""

import pytest
from nacl.signing import SigningKey

from common.errors import Corrupt
from common.wire import bundle
from common.wire.messages import Candidate, Evidence, Part
from services.publisher.release import release

KEY = SigningKey(b"p" * 32)


def candidate(parent=0):
    return Candidate(
        id="c-1",
        parent=parent,
        parent_digest="ab" * 32 if parent else "",
        parts={"domains.json": Part(digest="0" * 64, size_bytes=1)},
        evidence=Evidence(),
    )


def released(after=0, parent=0):
    return release(candidate(parent), after=after, released_at_s=5.0, signing_key=KEY)


def test_the_first_release_is_version_one_and_each_next_is_one_more():
    assert [released(after, parent=after).version for after in range(3)] == [1, 2, 3]


def test_a_rollback_is_a_higher_version_too():
    assert released(9, parent=3).version == 10


def test_a_release_is_signed_and_carries_the_time_it_was_given():
    found = released()
    bundle.verify(found, KEY.verify_key)
    assert found.released_at_s == 5.0
    with pytest.raises(Corrupt, match="bad_signature"):
        bundle.verify(found.model_copy(update={"version": 2}), KEY.verify_key)
