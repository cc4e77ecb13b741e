from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.constants import ROLES
from common.coordizer.artifacts import token_bytes
from common.errors import Corrupt
from common.kernels.memory import Memory, Table, count
from common.wire.mentions import NO_HASHES, PACKET_MAX_MENTIONS, decode, fit, mention
from common.wire.ngrams import Crystals, Order, entries
from services.edge.answer import Interaction
from services.edge.balance import EMPTY
from services.edge.crystals import select
from services.edge.mentions import DECOYS, EVERYDAY_COUNT, Private, check_told, decoys, mentionable, sayable
from services.edge.sleep import fold

SECRET = bytes(range(32))
OWN = "Balfalung Kelmorane of Tovulfick. "  # no other edge's; the bundle's memories never saw its pairs
NOTHING = Private(SECRET, NO_HASHES, NO_HASHES, strict=False)


def grams(memory):
    """{tokens of an n-gram}, of any memory's first three orders."""
    orders = [Order(t.keys, t.counts, t.contexts, t.totals) for t in memory.tables[:3]]
    return {(*each.context, each.token) for each in entries(Crystals(tuple(orders)))}


def recurring(memory):
    return {gram for gram in grams(memory) if times(memory, gram) >= 2}


def times(memory, gram):
    table, key = memory.tables[len(gram) - 1], 0
    for token in gram:
        key = key << 15 | token
    at = int(np.searchsorted(table.keys, np.uint64(key)))
    return int(table.counts[at]) if at < len(table.keys) and table.keys[at] == key else 0


@pytest.fixture(scope="module")
def tokens(micro):
    return token_bytes(micro.coordizer.merges)


@pytest.fixture(scope="module")
def residue(micro):
    ids = [micro.encoder.encode(text) for text in (OWN, OWN, "O sing again of spring. ", "O sing again. ")]
    return count(ids, 3)


@pytest.fixture(scope="module")
def kernel(micro):
    return micro.kernel("heart")


def hashed(tokens, found):
    """The hashes of n-grams, ascending."""
    return np.unique(mention(SECRET, "ngram", [[tokens[token] for token in gram] for gram in sorted(found)]))


def everyday(micro, found):
    return {gram for gram in found if times(micro.memories["heart"], gram) >= EVERYDAY_COUNT}


def within(gram):
    return {gram[a:b] for a in range(len(gram)) for b in range(a + 1, len(gram) + 1)}


def test_where_nothing_is_common_a_strict_edge_says_nothing(residue, kernel, tokens):
    assert sayable(residue, kernel, tokens, replace(NOTHING, strict=True)).entries == 0


def test_where_nothing_is_common_an_edge_says_what_the_bundle_s_memory_knows_well(micro, residue, kernel, tokens):
    said = grams(sayable(residue, kernel, tokens, NOTHING))
    assert said == everyday(micro, recurring(residue)) != set()
    name = micro.encoder.encode("Balfalung").tolist()
    assert not any(tuple(name[n : n + 3]) in said for n in range(len(name) - 2))


@given(seed=st.integers(0, 10_000), strict=st.booleans(), share=st.floats(0, 1))
def test_an_n_gram_is_said_if_it_is_common_or_within_a_common_one_or_everyday(
    micro, residue, kernel, tokens, seed, strict, share
):
    found = recurring(residue)
    rng = np.random.default_rng(seed)
    common = {gram for gram in sorted(found) if rng.random() < share}
    private = Private(SECRET, hashed(tokens, common), NO_HASHES, strict=strict)
    allowed = set().union(*map(within, common | (set() if strict else everyday(micro, found))))
    assert grams(sayable(residue, kernel, tokens, private)) == allowed & found


def test_what_was_seen_once_is_not_said_however_common_it_is(micro, kernel, tokens):
    once = count([micro.encoder.encode(OWN)], 3)
    private = replace(NOTHING, common=hashed(tokens, grams(once)))
    said = sayable(once, kernel, tokens, private)
    assert grams(said) == recurring(once)


def test_a_context_keeps_its_total_whoever_follows_it(residue, kernel, tokens):
    some = sorted(gram for gram in recurring(residue) if len(gram) == 2)[:1]
    said = sayable(residue, kernel, tokens, Private(SECRET, hashed(tokens, some), NO_HASHES, strict=True))
    (context,) = said.tables[1].contexts
    at = np.searchsorted(residue.tables[1].contexts, context)
    assert said.tables[1].totals.tolist() == [residue.tables[1].totals[at]]


def told(residue, kernel, tokens, private, budget_bytes=400):
    ranked = select(residue, kernel)
    return fit(mentionable(ranked, sayable(residue, kernel, tokens, private), kernel, tokens, private), budget_bytes)


@pytest.mark.parametrize("budget", [0, 10, 50, 400])
def test_the_best_of_what_may_not_be_said_is_mentioned_as_bytes_allow(residue, kernel, tokens, budget):
    hashes, blob = told(residue, kernel, tokens, NOTHING, budget)
    assert len(blob) <= budget
    assert decode(blob, PACKET_MAX_MENTIONS).tolist() == hashes.tolist()
    said = grams(sayable(residue, kernel, tokens, NOTHING))
    assert set(hashes.tolist()) <= set(hashed(tokens, could_be_common(residue, said)).tolist())
    assert (len(hashes) == 0) == (budget < 6)


def could_be_common(residue, said):
    """What is not said, and has in it only what is."""
    return {gram for gram in recurring(residue) - said if within(gram) - {gram} <= said}


def test_an_n_gram_is_mentioned_once_all_within_it_may_be_said(residue, kernel, tokens):
    private = replace(NOTHING, strict=True)
    for _ in range(3):
        said = grams(sayable(residue, kernel, tokens, private))
        hashes, _ = told(residue, kernel, tokens, private, 4000)
        waiting = could_be_common(residue, said)
        assert set(hashes.tolist()) == set(hashed(tokens, waiting & ranked(residue, kernel)).tolist())
        assert {len(gram) for gram in waiting} <= {1} if not said else waiting
        private = replace(private, common=np.union1d(private.common, hashes))


def test_a_triple_is_mentioned_also_when_its_pairs_have_left_the_residue(residue, kernel, tokens):
    triples = [gram for gram in recurring(residue) & ranked(residue, kernel) if len(gram) == 3]
    parts = set().union(*map(within, triples)) - set(triples)
    private = Private(SECRET, hashed(tokens, parts), NO_HASHES, strict=True)
    one, two, three = residue.tables
    settled = Memory((one, Table.counted(two.keys[:0]), three))
    hashes = mentionable(select(residue, kernel), sayable(settled, kernel, tokens, private), kernel, tokens, private)
    assert set(hashed(tokens, triples).tolist()) <= set(hashes.tolist())


def ranked(residue, kernel):
    return {(*each.context, each.token) for each in entries(select(residue, kernel).crystals)}


def test_what_was_mentioned_is_not_mentioned_again_until_nothing_else_is_left(residue, kernel, tokens):
    first, _ = told(residue, kernel, tokens, NOTHING, 40)
    second, _ = told(residue, kernel, tokens, replace(NOTHING, mentioned=first), 40)
    assert not set(first.tolist()) & set(second.tolist())
    every, _ = told(residue, kernel, tokens, NOTHING, 4000)
    again, _ = told(residue, kernel, tokens, replace(NOTHING, mentioned=every), 40)
    assert again.tolist() == first.tolist()


def test_what_goes_again_goes_with_decoys_that_went_before(residue, kernel, tokens):
    fresh, old = decoys(SECRET, [7]), decoys(SECRET, [0])
    private = replace(NOTHING, decoys=fresh, again=old)
    first, _ = told(residue, kernel, tokens, private, 4000)
    again, _ = told(residue, kernel, tokens, replace(private, mentioned=first), 4000)
    assert set(fresh.tolist()) <= set(first.tolist())
    assert set(again.tolist()) == (set(first.tolist()) - set(fresh.tolist())) | set(old.tolist())


def test_under_another_secret_nothing_is_the_same(residue, kernel, tokens):
    mine, _ = told(residue, kernel, tokens, NOTHING, 4000)
    other, _ = told(residue, kernel, tokens, replace(NOTHING, secret=bytes(32)), 4000)
    assert len(mine) == len(other) > 5
    assert not set(mine.tolist()) & set(other.tolist())


# Decoys


def test_decoys_are_an_edge_s_own_and_a_packet_s_own():
    every = [decoys(own, [n]).tolist() for own in (bytes(32), SECRET) for n in range(3)]
    assert {len(each) for each in every} == {DECOYS}
    assert len({each for some in every for each in some}) == 6 * DECOYS
    assert decoys(SECRET, range(3)).tolist() == [each for some in every[3:] for each in some]


def test_a_packet_s_decoys_are_among_its_mentions_however_few_there_are(micro):
    made_up = decoys(SECRET, [7])
    done = folded(micro, replace(NOTHING, decoys=made_up), crystal_bytes=160)
    assert set(made_up.tolist()) < set(done.mentioned.tolist())


@pytest.mark.parametrize(("sequence", "known"), [(7, False), (8, True), (71, True), (72, False)])
def test_decoys_of_the_last_64_packets_are_known_again(sequence, known):
    told = np.sort(decoys(SECRET, [7]))
    if not known:
        check_told(told, SECRET, sequence)
        return
    with pytest.raises(Corrupt, match="false_common"):
        check_told(told, SECRET, sequence)


def test_the_first_packet_s_decoys_are_always_known():
    with pytest.raises(Corrupt, match="false_common"):
        check_told(np.sort(decoys(SECRET, [0])), SECRET, 1000)


# In a fold


def folded(micro, private, texts=(OWN,) * 3, balance=EMPTY, crystal_bytes=400):
    read = []
    for number, text in enumerate(texts):
        ids = micro.encoder.encode(text)
        basin = micro.basin(ids)
        read.append(Interaction(f"q{number}", "c", text, 1.0, "heart", basin, len(ids), len(text), 9.0, 1.0, "FOAM"))
    phi = dict.fromkeys(ROLES, 0.5)
    return fold(micro, "heart", read, balance, crystal_bytes=crystal_bytes, phi=phi, private=private)


def test_an_edge_that_is_not_private_mentions_nothing(micro):
    done = folded(micro, None)
    assert (done.body.mentions, len(done.mentioned)) == (b"", 0)
    assert done.carried.entries > 0


def test_a_private_packet_says_only_what_is_common_and_mentions_the_rest(micro, tokens):
    done = folded(micro, replace(NOTHING, strict=True))
    assert (done.body.crystals, done.carried.entries) == (b"", 0)
    assert decode(done.body.mentions, PACKET_MAX_MENTIONS).tolist() == done.mentioned.tolist()
    common = Private(SECRET, done.mentioned, NO_HASHES, strict=True)
    later = folded(micro, common)
    silent = set(hashed(tokens, grams(later.carried)).tolist()) - set(done.mentioned.tolist())
    assert later.carried.entries > 0
    assert all(gram in set().union(*map(within, grams(later.carried))) for gram in grams(later.carried))
    assert len(silent) < later.carried.entries


@pytest.mark.parametrize("crystal_bytes", [0, 6, 20, 100, 400, 2900])
def test_crystals_and_mentions_share_the_packet_s_bytes(micro, crystal_bytes):
    done = folded(micro, NOTHING, texts=(OWN, "O sing again of spring. ") * 3, crystal_bytes=crystal_bytes)
    assert len(done.body.crystals) + len(done.body.mentions) <= crystal_bytes


def test_a_digit_is_not_even_mentioned(micro, tokens):
    done = folded(micro, NOTHING, texts=("Room 7 of the inn. ",) * 3)
    digit = {gram for gram in grams(done.balance.residue) if any(b"7" in tokens[token] for token in gram)}
    assert digit
    assert not set(hashed(tokens, digit).tolist()) & set(done.mentioned.tolist())


def test_the_residue_and_the_figures_are_the_same_in_private_mode(micro):
    public, private = folded(micro, None), folded(micro, NOTHING)
    blank = {"crystals": b"", "mentions": b""}
    assert public.body.model_copy(update=blank) == private.body.model_copy(update=blank)
    for one, other in zip(public.balance.residue.tables, private.balance.residue.tables, strict=True):
        assert one.keys.tolist() == other.keys.tolist()
