"""Versions grow by one, and a release is signed."""

import pytest
from nacl.signing import SigningKey

from common.errors import Corrupt, Rejected
from common.wire import bundle
from common.wire.messages import Candidate, Evidence, PacketRef, Part
from services.publisher.release import held, release, taken_back

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


def test_an_older_release_comes_back_as_the_next_version_with_its_parts_and_no_packets():
    good = released(0)
    bad = released(1, parent=1).model_copy(update={"parts": {"domains.json": Part(digest="1" * 64, size_bytes=1)}})
    again = release(taken_back(bad, good, {1: good, 2: bad}, last=2), after=2, released_at_s=5.0, signing_key=KEY)
    assert (again.version, again.parent, again.parent_digest) == (3, 2, bundle.digest(bad))
    assert (again.parts, again.evidence, again.packets) == (good.parts, good.evidence, ())
    assert bundle.takes_back(again)
    assert not bundle.takes_back(good)


@pytest.mark.parametrize("version", [2, 3])
def test_what_is_no_older_is_not_gone_back_to(version):
    with pytest.raises(Rejected, match="not_older"):
        taken_back(released(1, parent=1), released(version - 1), {}, last=2)


def line(*steps):
    """Releases by version: of each the packets that a candidate brings, or the version that is gone back to."""
    found = {}
    for version, step in enumerate(steps, 1):
        parent = version - 1
        if isinstance(step, int):
            made = taken_back(found[parent], found[step], found, last=parent)
        else:
            refs = tuple(PacketRef(key=b"edge-key", epoch=1, sequence=n) for n in step)
            made = candidate(parent).model_copy(update={"packets": refs})
        found[version] = release(made, after=parent, released_at_s=5.0, signing_key=KEY)
    return found


def packets_in(version, releases):
    return {ref.sequence for ref in held(version, releases)}


def test_a_release_holds_the_packets_of_all_it_stands_on():
    found = line([1], [2], [3], 2, [4])
    assert [packets_in(version, found) for version in found] == [{1}, {1, 2}, {1, 2, 3}, {1, 2}, {1, 2, 4}]
    assert packets_in(5, {version: found[version] for version in (4, 5)}) == {4}


@pytest.mark.parametrize(
    ("steps", "back", "others"),
    [
        (([], [1], 1), 2, "1"),
        (([], [1, 2], 1, [3]), 2, "1, 3"),
        (([], [1], [], 1), 3, "1"),
        (([1], [2], [3], 1, [4]), 2, "1, 4"),
        (([], [1], 1, [2], 3), 4, "1, 3"),
    ],
)
def test_what_goes_out_again_does_not_come_back_with_an_old_release(steps, back, others):
    found = line(*steps)
    last = len(found)
    with pytest.raises(Rejected, match=rf"packets_returned.*bundle {last}, .*: {others}$"):
        taken_back(found[last], found[back], found, last=last)
    for version in map(int, others.split(", ")):
        assert taken_back(found[last], found[version], found, last=last).parts


@pytest.mark.parametrize(("steps", "back"), [(([], [], 1), 2), (([], [1], [2]), 2), (([1], [2], 1, [3], [4]), 4)])
def test_a_release_whose_packets_are_all_in_still_comes_back(steps, back):
    found = line(*steps)
    assert taken_back(found[len(found)], found[back], found, last=len(found)).packets == ()


def test_a_release_is_signed_and_carries_the_time_it_was_given():
    found = released()
    bundle.verify(found, KEY.verify_key)
    assert found.released_at_s == 5.0
    with pytest.raises(Corrupt, match="bad_signature"):
        bundle.verify(found.model_copy(update={"version": 2}), KEY.verify_key)
