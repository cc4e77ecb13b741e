import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Rejected
from common.wire.proposals import COUNT_MAX, PACKET_MAX_MERGES, decode, encode

VOCAB = 2048
TOKENS = st.integers(0, VOCAB - 1)
PROPOSALS = st.dictionaries(st.tuples(TOKENS, TOKENS), st.integers(1, COUNT_MAX), max_size=PACKET_MAX_MERGES)


@given(PROPOSALS)
def test_proposals_cross_and_whatever_their_order_they_have_one_form(found):
    rows = [(left, right, count) for (left, right), count in found.items()]
    assert decode(encode(rows), VOCAB) == tuple(sorted(rows))
    assert encode(rows[::-1]) == encode(rows)
    assert len(encode(rows)) == 6 * len(rows)


@given(st.binary(max_size=200))
def test_any_bytes_are_proposals_in_their_one_form_or_refused(blob):
    try:
        found = decode(blob, VOCAB)
    except Rejected:
        return
    assert encode(found) == blob


def test_what_was_seen_more_often_than_can_be_said_is_said_as_the_most():
    assert decode(encode([(1, 2, COUNT_MAX + 5)]), VOCAB) == ((1, 2, COUNT_MAX),)


@pytest.mark.parametrize(("number", "fine"), [(PACKET_MAX_MERGES, True), (PACKET_MAX_MERGES + 1, False)])
def test_a_packet_holds_so_many(number, fine):
    blob = encode([(n, n + 1, 2) for n in range(number)])
    if fine:
        assert len(decode(blob, VOCAB)) == number
    else:
        with pytest.raises(Rejected, match="bad_merges"):
            decode(blob, VOCAB)


def test_a_token_that_the_base_does_not_know_is_refused():
    with pytest.raises(Rejected, match="below 259"):
        decode(encode([(258, 259, 2)]), 259)
