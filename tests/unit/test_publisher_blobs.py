"""What names a blob keeps it."""

from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from common.wire.messages import Candidate, Evidence, Part
from services.publisher.blobs import needed
from services.publisher.release import release

KEY = SigningKey(b"p" * 32)
DIGESTS = [f"{number:064x}" for number in range(12)]
contents = st.lists(st.sets(st.sampled_from(DIGESTS), min_size=1), max_size=4)


def candidate(digests):
    parts = {f"part-{number}": Part(digest=each, size_bytes=1) for number, each in enumerate(sorted(digests))}
    return Candidate(id="c-1", parent=0, parent_digest="", parts=parts, evidence=Evidence())


def bundle(digests):
    return release(candidate(digests), after=0, released_at_s=5.0, signing_key=KEY)


@given(listed=contents, undecided=contents)
def test_a_blob_is_needed_exactly_when_a_listed_bundle_or_an_undecided_candidate_names_it(listed, undecided):
    found = needed(map(bundle, listed), map(candidate, undecided))
    for digest in DIGESTS:
        assert (digest in found) == any(digest in each for each in listed + undecided)


@given(listed=contents, undecided=contents, more=contents)
def test_whatever_is_named_besides_takes_no_blob_away(listed, undecided, more):
    before = needed(map(bundle, listed), map(candidate, undecided))
    assert before <= needed(map(bundle, listed + more), map(candidate, undecided))
    assert before <= needed(map(bundle, listed), map(candidate, undecided + more))
