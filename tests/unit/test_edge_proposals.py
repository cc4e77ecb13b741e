"""A merge leaves an edge by hash until enough edges have mentioned it, and never with anything private."""

import numpy as np
import pytest
from micro import SENTENCES

from common.coordizer.artifacts import token_bytes
from common.coordizer.growth import propose
from common.wire.mentions import NO_HASHES, mention, mentions
from common.wire.proposals import PACKET_MAX_MERGES
from services.edge.proposals import MENTIONED_MERGES, MERGE_MAX_BYTES, Growing, proposed

SECRET = bytes(range(32))
TEXTS = ["And it came to pass that the people went up unto the mountain, and the people saw the light. "] * 6


def growing(common=NO_HASHES, mentioned=NO_HASHES):
    return Growing(SECRET, common, mentioned)


def made(micro, pair):
    tokens = token_bytes(micro.coordizer.merges)
    return tokens[pair[0]] + tokens[pair[1]]


def hashed(micro, pairs):
    tokens = token_bytes(micro.coordizer.merges)
    return mentions(SECRET, "merge", [(tokens[left], tokens[right]) for left, right, *_ in pairs])


def test_what_is_not_common_is_mentioned_and_not_said(micro):
    found = proposed(micro.coordizer, TEXTS, growing())
    assert found.said == ()
    wanted = propose(micro.coordizer, TEXTS)[:MENTIONED_MERGES]
    tokens = token_bytes(micro.coordizer.merges)
    assert found.mentions.tolist() == mention(SECRET, "merge", [(tokens[a], tokens[b]) for a, b, _ in wanted]).tolist()


def test_what_is_common_is_said_with_its_count_and_mentioned_no_more(micro):
    wanted = propose(micro.coordizer, TEXTS)
    found = proposed(micro.coordizer, TEXTS, growing(hashed(micro, wanted[:5])))
    assert found.said == wanted[:5]
    assert not np.isin(found.mentions, hashed(micro, wanted[:5])).any()


def test_what_was_mentioned_is_not_mentioned_again(micro):
    first = proposed(micro.coordizer, TEXTS, growing())
    second = proposed(micro.coordizer, TEXTS, growing(mentioned=np.sort(first.mentions)))
    assert not np.isin(second.mentions, first.mentions).any()


def test_a_packet_says_and_mentions_so_many_at_most(micro):
    texts = [" ".join(SENTENCES.values()) * 4, *TEXTS]
    every = propose(micro.coordizer, texts)
    assert len(every) > MENTIONED_MERGES > PACKET_MAX_MERGES
    assert len(proposed(micro.coordizer, texts, growing()).mentions) == MENTIONED_MERGES
    assert len(proposed(micro.coordizer, texts, growing(hashed(micro, every))).said) == PACKET_MAX_MERGES


@pytest.mark.parametrize("private", ["Room 4711. ", "At anna@b.org. ", "١٢٣ ", "x" * 60 + " "])
def test_no_digit_no_address_and_nothing_longer_than_words_are_leaves(micro, private):
    texts = [private * 40]
    everything = growing(hashed(micro, propose(micro.coordizer, texts)))
    found = proposed(micro.coordizer, texts, everything)
    for left, right, _ in found.said:
        spelled = made(micro, (left, right)).decode("utf-8", "ignore")
        assert not any(letter.isdigit() or letter == "@" for letter in spelled)
        assert len(made(micro, (left, right))) <= MERGE_MAX_BYTES


def test_nothing_read_nothing_proposed(micro):
    found = proposed(micro.coordizer, [], growing())
    assert (found.said, len(found.mentions)) == ((), 0)
