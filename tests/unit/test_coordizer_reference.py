"""Vectors of the reference implementation, qig-coordizer 0.1.5 (MIT): its three adversarial corpora and what it merges.

Distances there are arccos, half of ours. Its two trainers score a pair by count · coupling, one divides by the entropy
of the pair's contexts besides, where coupling = min(1000 (count / length) / (distance + 0.1), 100).
"""

import hashlib
import math
from collections import Counter
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from test_coordizer_train import begin, count_pairs, distance, learn, midpoint, replace

from common.coordizer import merges as loop_

ASCII = (
    "the geometry is the truth trust the phi. fisher rao distance on the simplex is the unique markov invariant "
    "metric. coordinates are the primitive not an afterthought. text goes in basin coordinates come out in one pass. "
    "the incremental cache recomputes only what changed the naive oracle rescans the whole corpus. consciousness "
    "equals information geometry. the manifold needs depth which equals abstraction token phrase sentence document. "
)
UNICODE = (
    "café — naïve coördination résumé. “smart quotes” and ‘apostrophes’. Δ⁶³ basins on the Fisher–Rao manifold; "
    "range π/2. 量子情報幾何 と 意識。 geometry is the truth — trust the φ. αβγ coupling, κ attractor. "
)
CORPORA = {
    "ascii": (ASCII.encode() * 20)[:8000],
    "unicode": (UNICODE.encode() * 40)[:8000],
    "reverse": ((bytes([3, 1, 2, 0, 0, 2, 1, 3]) + b" ") * 667)[:6000],
}
DIGESTS = {"ascii": "a679e591db205c3a", "unicode": "c132cf4d87819aa9", "reverse": "3fda85d405a5c66d"}
FIRST_MERGES = {
    ("ascii", "plain"): [(101, 32), (116, 104), (257, 256), (32, 258), (115, 32), (105, 110), (116, 114), (97, 110)],
    ("ascii", "entropy"): [
        (101, 32), (101, 101), (116, 104), (258, 256), (32, 259), (111, 111), (115, 115), (105, 110)
    ],
    ("unicode", "plain"): [
        (226, 128), (116, 114), (104, 101), (46, 32), (258, 32), (116, 260), (32, 261), (32, 256)
    ],
    ("unicode", "entropy"): [
        (116, 116), (226, 128), (32, 116), (116, 258), (104, 101), (46, 32), (261, 257), (229, 173)
    ],
    ("reverse", "plain"): [(0, 0), (1, 2), (3, 257), (256, 2), (258, 259), (1, 3), (32, 260), (261, 262)],
    ("reverse", "entropy"): [(1, 3), (2, 256), (257, 32), (0, 258), (1, 2), (0, 259), (260, 261), (3, 262)],
}  # fmt: skip


def reference_basins():
    return np.array([np.random.RandomState(byte + 42).dirichlet(np.ones(64)) for byte in range(256)])


def contexts(word, window=5):
    """What stands around each pair, up to five symbols a side."""
    found = {}
    for at, pair in enumerate(pairwise(word)):
        around = (*word[max(0, at - window) : at], *word[at + 2 : at + 2 + window])
        found.setdefault(pair, Counter())[around] += 1
    return found


def entropy(counts):
    total = sum(counts.values())
    return -sum(n / total * math.log(n / total + 1e-10) for n in counts.values())


def merged(stream, score, merges):
    """The first merges by a score of the reference's, on our distance and our midpoint."""
    word, s, found = list(stream), list(np.sqrt(reference_basins())), []
    while len(found) < merges:
        around = contexts(word) if score == "entropy" else None
        scored = []
        for (a, b), n in count_pairs([(word, 1)]).items():
            coupling = min(1000 * n / len(word) / (distance(s[a], s[b]) / 2 + 0.1), 100.0)
            scored.append((-n * coupling / (entropy(around[a, b]) + 0.1 if around else 1.0), (a, b)))
        left, right = min(scored)[1]
        s.append(midpoint(s[left], s[right], 0.5))
        word = replace(word, (left, right), 256 + len(found))
        found.append((left, right))
    return found


@pytest.mark.parametrize("name", CORPORA)
def test_the_reference_s_corpora_are_the_bytes_it_merged(name):
    assert hashlib.sha256(CORPORA[name]).hexdigest()[:16] == DIGESTS[name]


@pytest.mark.parametrize(("name", "score"), FIRST_MERGES)
def test_the_reference_s_merges_come_out_of_our_distance_and_midpoint_under_its_score(name, score):
    assert merged(CORPORA[name], score, 8) == FIRST_MERGES[name, score]


@pytest.mark.parametrize(("name", "score"), FIRST_MERGES)
def test_our_merges_differ_from_the_reference_s_because_our_score_counts_once_and_has_no_clamp_and_no_contexts(
    name, score
):
    loop = begin({CORPORA[name]: 1}, 8, np.sqrt(reference_basins()))
    loop_.advance(loop, 8, 0.5, 2)
    assert [tuple(pair) for pair in loop.merges.tolist()] != FIRST_MERGES[name, score]


@pytest.mark.parametrize("lam", [0.0, 0.5])
@pytest.mark.parametrize("name", CORPORA)
def test_every_merge_is_the_best_of_a_recount_on_the_reference_s_corpora_to_their_end(name, lam):
    """Vocabularies of 300, 512, 1,024 and 4,096 are prefixes of this: no pair is left to merge before the last."""
    loop = begin({CORPORA[name]: 1}, 4096 - 256, lam=lam)
    loop_.advance(loop, 4096 - 256, lam, 2)
    pull = cache(lambda a, b: math.exp(-lam * distance(loop.amplitude[a], loop.amplitude[b])))
    word, strings = list(CORPORA[name]), [bytes([byte]) for byte in range(256)]
    for left, right in loop.merges[: loop.used[loop_.MERGES]].tolist():
        counts = count_pairs([(word, 1)]).items()
        allowed = [(a, b, n) for (a, b), n in counts if n > 1 and strings[a] + strings[b] not in strings]
        assert min((-n * pull(a, b), (a, b)) for a, b, n in allowed)[1] == (left, right)
        strings.append(strings[left] + strings[right])
        word = replace(word, (left, right), len(strings) - 1)
    assert all(n == 1 or strings[a] + strings[b] in strings for (a, b), n in count_pairs([(word, 1)]).items())


def test_the_reference_s_byte_basins_lie_as_far_apart_and_its_midpoint_is_ours():
    amplitude = np.sqrt(reference_basins())
    assert loop_._distance(amplitude, ord("t"), ord("h")) == pytest.approx(2 * 0.645541627966111, abs=1e-12)
    loop = begin({b"th": 2}, 1, amplitude)
    loop_.advance(loop, 1, 0.5, 2)
    expected = [0.005002885158, 0.007365917471, 0.009077809785, 0.008121395416]
    assert np.square(loop.amplitude[256, :4]) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("byte", "first"), [(0, 0.007878240003), (97, 0.009889855887)])
def test_the_reference_s_byte_basins_are_drawn_by_its_rule(byte, first):
    assert reference_basins()[byte, 0] == pytest.approx(first, abs=1e-11)


def test_a_doubled_byte_has_no_pull_beyond_its_distance_of_zero_unlike_the_reference():
    """There its distance of 0 against .65 of any other pair gives it 7.6 times the score."""
    assert learn({b"ee": 4, b"th": 100}, 1, lam=1.0) == [(ord("t"), ord("h"))]
