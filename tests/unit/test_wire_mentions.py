import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Rejected
from common.wire.mentions import (
    HEADER_BYTES,
    MAX_MENTIONS,
    PACKET_MAX_MENTIONS,
    SPACE,
    decode,
    encode,
    fit,
    mention,
    mentions,
    rice_k,
)

SECRET = bytes(range(32))
VECTORS = Path(__file__).resolve().parents[2] / "docs" / "wire" / "vectors" / "mentions.json"
hashes = st.lists(st.integers(0, SPACE - 1) | st.integers(0, 5), unique=True, max_size=300).map(
    lambda found: np.array(sorted(found), np.uint32)
)


def read(blob):
    """The set, None where it is refused."""
    try:
        return decode(blob, MAX_MENTIONS)
    except Rejected:
        return None


@given(some=hashes)
def test_a_set_comes_back_from_its_bytes(some):
    assert decode(encode(some), MAX_MENTIONS).tolist() == some.tolist()


@given(some=hashes.filter(len), seed=st.integers(0, 1000))
def test_a_flipped_bit_gives_another_set_or_none(some, seed):
    blob = bytearray(encode(some))
    place = seed % (8 * len(blob))
    blob[place // 8] ^= 1 << place % 8
    found = read(bytes(blob))
    assert found is None or (found.tolist() != some.tolist() and encode(found) == bytes(blob))


@given(blob=st.binary(max_size=400))
def test_whatever_the_bytes_they_are_a_set_s_only_form_or_refused(blob):
    found = read(blob)
    assert found is None or encode(found) == blob


@pytest.mark.parametrize(("allowed", "taken"), [(99, False), (100, True), (101, True)])
def test_a_reader_takes_as_many_hashes_as_it_allows(allowed, taken):
    blob = encode(np.arange(100, dtype=np.uint32))
    if taken:
        assert len(decode(blob, allowed)) == 100
    else:
        with pytest.raises(Rejected, match="100 hashes"):
            decode(blob, allowed)


def test_the_parameter_is_near_the_best_for_hashes_that_lie_evenly():
    rng = np.random.default_rng(0)
    for count in (1, 10, 100, 1000, 5000):
        found = np.unique(rng.integers(0, SPACE, count))
        gaps = np.diff(found, prepend=-1) - 1
        costs = [int((gaps >> k).sum()) + len(gaps) * (1 + k) for k in range(32)]
        assert costs[rice_k(len(found))] <= 1.02 * min(costs)


def test_300_hashes_take_17_bits_each():
    found = np.unique(np.random.default_rng(0).integers(0, SPACE, 300)).astype(np.uint32)
    assert 17 * 300 / 8 <= len(encode(found)) <= 17.6 * 300 / 8


@pytest.mark.parametrize("budget", [0, HEADER_BYTES, 5, 6, 100, 651])
def test_as_many_of_the_best_are_mentioned_as_fit(budget):
    ranked = np.random.default_rng(1).integers(0, SPACE, 400).astype(np.uint32)
    chosen, blob = fit(ranked, budget)
    assert len(blob) <= budget
    assert decode(blob, PACKET_MAX_MENTIONS).tolist() == chosen.tolist() == sorted(ranked[: len(chosen)].tolist())
    one_more = encode(np.unique(ranked[: len(chosen) + 1]))
    assert len(one_more) > budget


def test_a_hash_is_that_of_the_page_in_any_implementation_of_blake2():
    pieces = [b"the", b" cat"]
    said = b"".join(len(piece).to_bytes(2, "little") + piece for piece in pieces)
    digest = hashlib.blake2b(said, digest_size=3, key=SECRET, person=b"qig/ngram/1").digest()
    assert mention(SECRET, "ngram", [pieces]).tolist() == [int.from_bytes(digest, "little")]


def test_the_vectors_are_read_as_they_are_written():
    told = json.loads(VECTORS.read_bytes())
    secret = bytes.fromhex(told["secret"])
    for each in told["hashed"]:
        pieces = [bytes.fromhex(piece) for piece in each["pieces"]]
        assert mention(secret, each["kind"], [pieces]).tolist() == [each["hash"]]
    for each in told["sets"]:
        assert decode(bytes.fromhex(each["blob"]), MAX_MENTIONS).tolist() == each["hashes"]


def test_kinds_secrets_and_cuts_between_pieces_tell_hashes_apart():
    things = [(b"a", b"bc"), (b"ab", b"c"), (b"abc",), (b"", b"abc"), ()]
    every = [
        *mention(SECRET, "ngram", things).tolist(),
        *mention(SECRET, "merge", things).tolist(),
        *mention(bytes(32), "ngram", things).tolist(),
    ]
    assert len(set(every)) == len(every)


def test_the_same_thing_twice_is_one_mention():
    assert len(mentions(SECRET, "ngram", [(b"a",), (b"a",), (b"b",)])) == 2
