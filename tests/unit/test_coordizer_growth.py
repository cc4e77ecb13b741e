from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from test_kernels_recount import merged

from common.constants import ROLES
from common.coordizer import growth
from common.coordizer.artifacts import BOS, digest, from_parts, pairs_from, prefix, to_parts, token_bytes
from common.coordizer.build import build
from common.coordizer.encode import Encoder
from common.coordizer.growth import grow, propose
from common.coordizer.words import PATTERN

TEXT = "the heron waded through the marsh; the marsh was cold and the heron was grey. "
OWN = "kubernetes pods restart when the kubernetes probe fails; kubernetes restarts the pods. "


@pytest.fixture(scope="module")
def old():
    return build([(role, TEXT * 5) for role in ROLES], vocab_size=290)


@pytest.fixture(scope="module")
def proposed(old):
    return propose(old, [OWN * 5])


def everywhere(proposals, edges=3):
    return {f"edge-{number}": proposals for number in range(edges)}


def naive(coordizer, texts, limit):
    """Merge by count alone on freshly encoded words, recounting every pair of every word at every step."""
    encoder, table = Encoder(coordizer), token_bytes(coordizer.merges)
    words = Counter(piece for text in texts for piece in regex.findall(PATTERN, text))
    spelled = {word: tuple(table[number] for number in encoder.encode(word)) for word in words}
    rank = {token: number for number, token in enumerate(table) if token}
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    alphabet = [*visible, *(byte for byte in range(256) if byte not in visible)]
    order = {token: alphabet.index(token[0]) if number < 256 else number for token, number in rank.items()}
    found, strings = [], set(table)
    for step in range(limit):
        pairs = Counter()
        for word, tokens in spelled.items():
            for pair in pairwise(tokens):
                pairs[pair] += words[word]
        fit = [(-n, order[a], order[b], a, b) for (a, b), n in pairs.items() if n >= 2 and a + b not in strings]
        if not fit:
            break
        _, _, _, left, right = min(fit)
        strings.add(left + right)
        order[left + right] = 10**6 + step
        spelled = {word: join(tokens, left, right) for word, tokens in spelled.items()}
        made = sum(n * spelled[word].count(left + right) for word, n in words.items())
        if left in rank and right in rank:
            found.append((rank[left], rank[right], made))
    return sorted(found, key=lambda proposal: (-proposal[2], proposal))


def join(tokens, left, right):
    out = []
    for token in tokens:
        if out and out[-1] == left and token == right:
            out[-1] = left + right
        else:
            out.append(token)
    return tuple(out)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.text(alphabet="heron maé.", max_size=40), min_size=1, max_size=6))
def test_proposals_equal_a_naive_recount_of_freshly_encoded_text(old, texts):
    assert list(propose(old, texts, limit=12)) == naive(old, texts, 12)


def test_what_three_edges_propose_becomes_a_token(old, proposed):
    grown = grow(old, everywhere(proposed))
    assert len(grown.accepted) > 5
    assert grown.coordizer.vocab_size == old.vocab_size + len(grown.accepted)
    assert len(Encoder(grown.coordizer).encode(OWN)) < len(Encoder(old).encode(OWN))


def test_old_ids_keep_their_bytes_and_basins_and_old_ids_decode_alike(old, proposed):
    grown = grow(old, everywhere(proposed)).coordizer
    assert (grown.basins[: old.vocab_size] == old.basins).all()
    assert token_bytes(grown.merges)[: old.vocab_size] == token_bytes(old.merges)
    ids = Encoder(old).encode(TEXT + OWN)
    assert Encoder(grown).decode(ids) == (TEXT + OWN).encode()
    assert to_parts(prefix(grown, old.vocab_size))["merge_rules.json"] == to_parts(old)["merge_rules.json"]


def test_a_grown_coordizer_is_a_whole_artifact_that_names_its_parent(old, proposed):
    grown = grow(old, everywhere(proposed)).coordizer
    assert to_parts(from_parts(to_parts(grown))) == to_parts(grown)
    assert grown.provenance.parent == digest(old)


@pytest.mark.parametrize(("edges", "fine"), [(2, False), (3, True), (4, True)])
def test_a_merge_needs_three_distinct_edges(old, proposed, edges, fine):
    found = grow(old, everywhere(proposed, edges), count_min=1)
    assert bool(found.accepted) == fine
    assert fine or set(found.refused.values()) == {"too_few_edges"}


def test_one_edge_that_repeats_itself_is_one_edge(old, proposed):
    assert not grow(old, {"edge-0": proposed * 5}).accepted


@pytest.mark.parametrize(("count", "fine"), [(3, False), (4, True), (5, True)])
def test_a_merge_needs_twelve_occurrences_in_all(old, proposed, count, fine):
    left, right, _ = proposed[0]
    found = grow(old, everywhere([(left, right, count)]))
    assert found.accepted == (((left, right),) if fine else ())


def test_no_edge_outvotes_the_others(old, proposed):
    (a, b, _), (c, d, _) = [p for p in proposed if not {p[0], p[1]} & {proposed[0][0]}][:2]
    votes = {"loud": [(a, b, 10**9), (c, d, 5)]} | {f"e{n}": [(a, b, 4), (c, d, 1000)] for n in range(3)}
    assert growth._tally(votes)[0] == {(a, b): 1012, (c, d): 3005}


def test_a_string_that_exists_is_a_collision_whichever_way_it_is_made(old):
    table = token_bytes(old.merges)
    left, right = old.merges[0].tolist()
    assert grow(old, everywhere([(left, right, 50)])).refused == {(left, right): "collision"}
    e, s = table.index(b"k"), table.index(b"q")
    both = grow(old, everywhere([(e, s, 50), (e, e, 40)]))
    assert len(both.accepted) == 2


@pytest.mark.parametrize("pair", [(-1, 97), (97, 10**6), (BOS, 97), (97, BOS + 2)])
def test_ids_that_are_no_tokens_of_ours_are_refused(old, pair):
    assert grow(old, everywhere([(*pair, 50)])).refused == {pair: "unknown_id"}


def test_a_token_never_crosses_two_pieces(old):
    pair = (ord("a"), ord(" "))
    assert grow(old, everywhere([(*pair, 50)])).refused == {pair: "not_one_piece"}


def test_halves_that_have_nothing_to_do_together_are_refused(old, monkeypatch):
    monkeypatch.setattr(growth, "_farthest", lambda *_: 0.0)
    pair = (ord("k"), ord("q"))
    assert grow(old, everywhere([(*pair, 50)])).refused == {pair: "far_apart"}


def test_what_finds_no_room_waits(old, proposed):
    found = grow(old, everywhere(proposed), limit=2)
    assert len(found.accepted) == 2
    assert "no_room" in found.refused.values()


def test_the_order_of_edges_and_proposals_does_not_matter(old, proposed):
    other = {edge: proposals[::-1] for edge, proposals in reversed(everywhere(proposed).items())}
    assert to_parts(grow(old, other).coordizer) == to_parts(grow(old, everywhere(proposed)).coordizer)


def test_nothing_proposed_changes_nothing(old):
    assert grow(old, {}).coordizer is old
    assert propose(old, []) == ()
    assert propose(old, [OWN], limit=0) == ()
    assert np.array_equal(grow(old, {"edge": ()}).coordizer.merges, old.merges)


WORDS = st.lists(st.text(alphabet="thermas", min_size=1, max_size=9), min_size=1, max_size=12).map(" ".join)


@settings(max_examples=40, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=6), WORDS)
def test_the_grown_encoding_is_the_old_one_with_each_new_merge_made_in_its_turn(old, texts, other):
    """What memories are counted anew by."""
    grown = grow(old, everywhere(propose(old, texts * 4, limit=40)), count_min=1).coordizer
    pairs = pairs_from(grown.merges, old.vocab_size)
    before, after = Encoder(old), Encoder(grown)
    for piece in regex.findall(PATTERN, " ".join([*texts, other])):
        assert merged(before.encode(piece).tolist(), pairs, old.vocab_size) == after.encode(piece).tolist()
