"""What a batch has of the pool and brings to it, until it is known whether it counts; nothing is there twice."""

from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
from aggregator_packets import AT_MS, BASES, MERGES, NODES, ledger, ngrams, packet, peak
from hypothesis import given, settings
from hypothesis import strategies as st
from test_aggregator_pool import LIMITS, after, cut_of, said

from common.wire.codec import MAX_LIST, canonical
from common.wire.crystals import PACKET_MAX_ENTRIES
from common.wire.fields import MAX_BATCH_PACKETS, NAME_MAX_CHARS
from common.wire.ngrams import ORDERS, crystals, entry
from services.aggregator.claims import Claim, claimed, is_lost, named, settle, unpack, word
from services.aggregator.cut import PATIENCE, Fleet, cut, patient
from services.aggregator.pool import DOMAIN_MAX, FULL_MAX, SHARES_MAX, WAIT_CUTS
from services.aggregator.quorum import Brought
from services.aggregator.shares import MAX_BYTES, MAX_ROWS

SAME = ngrams(((7,), 9, 2, 2))
BATCH, OTHER = "ab" * 32, "cd" * 32


def share(node="edge-0", number=0, count=2):
    return Brought(node, number, crystals([entry((1,), 2, count=count, total=count)]))


def amounts(several):
    """How often each n-gram and each context was seen, by node."""
    found = Counter()
    for one in several:
        for n, order in enumerate(one.crystals.orders):
            columns = (("count", order.keys, order.counts), ("total", order.contexts, order.totals))
            for kind, keys, values in columns:
                for key, value in zip(keys.tolist(), values.tolist(), strict=True):
                    found[one.node, n, kind, key] += value
    return found


def of_pool(pool):
    return amounts(one for some in pool.values() for one in some)


# The words


@pytest.mark.parametrize(
    ("released", "refused", "told"),
    [
        ({}, (), "waits"),
        ({BATCH: 3}, (), "waits"),
        ({OTHER: 2, BATCH: 3}, (), "waits"),
        ({BATCH: 3, OTHER: 4}, (), "counts"),
        ({BATCH: 3, "revoke-3-to-2": 4}, (BATCH,), "returned"),
        ({OTHER: 4}, (BATCH,), "returned"),
    ],
)
def test_a_batch_counts_for_good_once_another_release_follows_its_own(released, refused, told):
    assert word(BATCH, released=released, refused=refused) == told


@pytest.mark.parametrize(("cuts", "lost"), [(WAIT_CUTS + 2, False), (WAIT_CUTS + 3, True), (WAIT_CUTS + 4, True)])
def test_a_claim_of_which_nobody_says_a_word_is_lost_when_what_it_holds_is_too_old(cuts, lost):
    assert is_lost(Claim(3, BATCH, {}, {}).name, cuts) is lost


def test_a_claim_is_named_by_its_cut_and_its_batch():
    assert named(Claim(17, BATCH, {}, {}).name) == (17, BATCH)


def test_a_cut_that_has_nothing_of_the_pool_and_leaves_nothing_claims_nothing():
    assert claimed(3, BATCH, {"heart": []}, {"heart": ()}) is None


# The pool


def test_what_was_lent_comes_back_and_what_waits_does_not_when_a_batch_is_returned():
    claim = Claim(5, BATCH, {"heart": [share("edge-1", 0)]}, {"heart": [share("edge-0", 5)]})
    counts = settle({}, counts=[claim], returned=[])
    back = settle({}, counts=[], returned=[claim])
    assert [one.node for one in counts["heart"]] == ["edge-0"]
    assert [one.node for one in back["heart"]] == ["edge-1"]


def test_a_claim_comes_back_from_the_broker():
    claim = Claim(
        5, BATCH, {"heart": [share("edge-1", 0)]}, {"heart": [share("edge-0", 5)], "vocab": [share("edge-2", 5)]}
    )
    found = unpack(claim.name, claim.packed(BASES[-1]), BASES[-1])
    assert (found.number, found.batch) == (5, BATCH)
    assert (of_pool(found.lent), of_pool(found.waits)) == (of_pool(claim.lent), of_pool(claim.waits))
    assert (list(found.lent), list(found.waits)) == (["heart"], ["heart", "vocab"])
    others = replace(BASES[-1], merges=MERGES[::-1])
    assert unpack(claim.name, claim.packed(BASES[-1]), others) == Claim(5, BATCH, {}, {})


def test_a_claim_on_several_large_pools_comes_back_from_the_broker():
    """More shares than a message may list, and than a message may hold values."""
    one = share()
    lent = {f"d-{n}": [one._replace(node=f"edge-{i}") for i in range(3000)] for n in range(2)}
    claim = Claim(5, BATCH, lent, {"d-0": [share("edge-0", 5)]})
    assert sum(map(len, lent.values())) > MAX_LIST
    found = unpack(claim.name, claim.packed(BASES[-1]), BASES[-1])
    assert {name: [each.node for each in some] for name, some in found.lent.items()} == {
        name: [each.node for each in some] for name, some in lent.items()
    }
    assert of_pool(found.waits) == of_pool(claim.waits)


def test_every_claim_and_every_note_that_a_cut_can_make_can_be_read_again():
    """A triple that a packet names implies two pairs and three single tokens at most."""
    assert FULL_MAX * SHARES_MAX + MAX_BATCH_PACKETS <= MAX_ROWS
    entries = FULL_MAX * DOMAIN_MAX + MAX_BATCH_PACKETS * PACKET_MAX_ENTRIES * (1 + 2 + 3)
    row = len(canonical(("d" * NAME_MAX_CHARS, "n" * NAME_MAX_CHARS, 1 << 32, *[DOMAIN_MAX] * ORDERS)))
    assert entries * sum((8, 4, 4)) + (FULL_MAX * SHARES_MAX + MAX_BATCH_PACKETS) * row <= MAX_BYTES


def test_packets_of_a_batch_that_is_refused_count_once_when_they_come_again():
    """Two bring what a third has brought before; their batch is refused, and they bring it again."""
    before = after(cut_of(packet(key=0, crystals=SAME)))
    first = cut_of(*[packet(key=n, crystals=SAME) for n in (1, 2)], pool=before, cuts=1)
    assert said(first) == {(7, 9): 6}
    back = settle(first.pool, counts=[], returned=[first.claim])
    again = cut_of(*[packet(key=n, sequence=2, crystals=SAME) for n in (1, 2)], pool=back, cuts=2)
    assert said(again) == {(7, 9): 6}
    assert after(again) == {}


def test_what_waits_of_a_refused_batch_counts_once_when_its_quorum_is_met():
    """Two bring one thing, and three another, in a batch that is refused: all they brought is said, and not 16 of 8."""
    told = {n: ngrams(*[((7,), 9, 2, 2)] * (n < 2), ((8,), 3, 2, 2)) for n in range(3)}
    first = cut_of(*[packet(key=n, crystals=each) for n, each in told.items()])
    assert said(first) == {(8, 3): 6}
    back = settle(first.pool, counts=[], returned=[first.claim])
    second = cut_of(*[packet(key=n, sequence=2, crystals=each) for n, each in told.items()], pool=back, cuts=1)
    third = [packet(key=n, crystals=SAME) for n in (3, 4)]
    assert said(cut_of(*third, pool=after(second), cuts=2)) == {(7, 9): 8}


# Mute packets


def test_packets_of_which_nothing_counts_stay_in_the_ledger_for_others_that_say_the_same():
    one = packet(key=0, crystals=SAME)
    alone = cut(ledger(one), bases=BASES, pending={}, limits=LIMITS, fleet=Fleet(NODES, {}), patience=True)
    assert (alone.batch, alone.claim, alone.taken, alone.refused) == (None, None, (), ())
    several = ledger(one, *[packet(key=n, crystals=SAME) for n in (1, 2)])
    together = cut(several, bases=BASES, pending={}, limits=LIMITS, fleet=Fleet(NODES, {}), patience=True)
    assert said(together) == {(7, 9): 6}


def test_what_is_mute_goes_with_what_is_not():
    raws = [packet(key=n, crystals=SAME) for n in range(3)]
    own = packet(key=4, domain="heart", kernel="heart", at=peak(24), crystals=SAME)
    found = cut(ledger(*raws, own), bases=BASES, pending={}, limits=LIMITS, fleet=Fleet(NODES, {}), patience=True)
    assert len(found.taken) == 4
    assert [update.name for update in found.batch.domains] == ["heart", "percept"]
    assert list(found.claim.waits) == ["heart"]


def test_mute_packets_that_waited_long_are_named_by_a_batch_that_says_nothing_more():
    found = cut_of(packet(key=0, crystals=SAME), packet(key=1, domain=None, at=peak(60), crystals=SAME))
    assert (len(found.batch.packets), found.batch.domains, found.note) == (2, (), None)
    assert sorted(found.claim.waits) == sorted(["percept", found.opened[0].name])
    assert found.founded == {found.opened[0].name: "edge-1"}


def test_where_few_are_enrolled_nothing_is_mute():
    few = Fleet({key: node for key, node in NODES.items() if node < "edge-4"}, {})
    found = cut(ledger(packet(crystals=b"")), bases=BASES, pending={}, limits=LIMITS, fleet=few, patience=True)
    assert [update.name for update in found.batch.domains] == ["percept"]


@pytest.mark.parametrize(("age", "stay"), [(PATIENCE - 0.001, True), (PATIENCE, False), (PATIENCE + 0.001, False)])
def test_mute_packets_stay_for_so_long(age, stay):
    assert patient({b"1": 0, b"2": AT_MS}, int(age * 1000 * LIMITS.age_s), LIMITS) is stay


@pytest.mark.parametrize(("many", "stay"), [(MAX_BATCH_PACKETS - 1, True), (MAX_BATCH_PACKETS, False)])
def test_mute_packets_stay_while_they_are_no_whole_batch(many, stay):
    assert patient({bytes([n % 256, n // 256]): 0 for n in range(many)}, 0, LIMITS) is stay


# Nothing is lost, nothing counts twice

WORDS = ((7, 3), (7, 9), (8, 3))
reads = st.tuples(st.integers(0, 3), st.sets(st.sampled_from(WORDS), min_size=1), st.integers(1, 3))
acts = st.lists(
    st.one_of(
        st.tuples(st.just("wave"), st.lists(reads, max_size=3), st.booleans()),
        st.sampled_from([("release",), ("release",), ("refuse",), ("take_back",)]),
    ),
    min_size=8,
    max_size=30,
)
TWO = replace(LIMITS, crystal_edges=2)


@dataclass
class World:
    """A fleet and its centre: packets are at their edges, in the ledger, under way, or in the newest release."""

    homes: list = field(default_factory=list)  # (node, crystals) that go out with the next cut
    pool: dict = field(default_factory=dict)
    claims: dict = field(default_factory=dict)  # by batch
    under_way: list = field(default_factory=list)  # (batch, its packets, what it says)
    releases: list = field(default_factory=list)  # the same; those that are taken back are no more
    newest: int = 0
    released: dict = field(default_factory=dict)
    refused: set = field(default_factory=set)
    cuts: int = 0
    sent: int = 0

    def wave(self, several, patience):
        """What edges read, and a cut of it and of what has come back."""
        self.homes += [(node, told(words, count)) for node, words, count in several]
        if not self.homes:
            return
        raws = [packet(key=n, sequence=self.sent + at, crystals=each) for at, (n, each) in enumerate(self.homes)]
        words = {batch: word(batch, released=self.released, refused=self.refused) for batch in self.claims}
        pool = settle(
            self.pool,
            counts=[self.claims[batch] for batch, each in words.items() if each == "counts"],
            returned=[self.claims[batch] for batch, each in words.items() if each == "returned"],
        )
        fleet = Fleet(NODES, {}, self.cuts, pool)
        given = {"bases": BASES, "pending": {}, "limits": TWO, "fleet": fleet, "patience": patience}
        found, again = (cut(ledger(*each), **given) for each in (raws, raws[::-1]))
        assert of_pool(found.pool) == of_pool(again.pool)
        if found.batch is None:
            return
        self.claims = {batch: claim for batch, claim in self.claims.items() if words[batch] == "waits"}
        if found.claim is not None:
            self.claims[found.batch.id] = unpack(found.claim.name, found.claim.packed(BASES[-1]), BASES[-1])
        self.pool, self.cuts, self.sent = found.pool, self.cuts + 1, self.sent + len(raws)
        says = [] if found.note is None else [one for some in found.note.shares.values() for one in some]
        self.under_way.append((found.batch.id, self.homes, says))
        self.homes = []

    def release(self):
        if self.under_way:
            self.releases.append(self.under_way.pop(0))
            self.newest += 1
            self.released[self.releases[-1][0]] = self.newest

    def refuse(self):
        if self.under_way:
            batch, packets, _ = self.under_way.pop(0)
            self.refused.add(batch)
            self.homes += packets

    def take_back(self):
        if self.releases and self.released[self.releases[-1][0]] == self.newest:
            batch, packets, _ = self.releases.pop()
            self.newest += 1
            self.released[f"revoke-{self.newest}"] = self.newest
            self.refused.add(batch)
            self.homes += packets

    def there(self):
        """Whatever is anywhere: at edges, in the pool, in batches under way, in the fleet's memories."""
        found = amounts(Brought(f"edge-{n}", 0, READ[each]) for n, each in self.homes) + of_pool(self.pool)
        for batch, claim in self.claims.items():
            found += of_pool(claim.lent) if batch in self.refused else of_pool(claim.waits)
        return found + amounts(one for _, _, says in (*self.under_way, *self.releases) for one in says)


READ = {}  # what the centre reads of each packet's crystals


def told(words, count):
    raw = ngrams(*[((a,), b, count, count * sum(a == other for other, _ in words)) for a, b in sorted(words)])
    if raw not in READ:
        (one,) = cut_of(packet(crystals=raw)).claim.waits["percept"]
        READ[raw] = one.crystals
    return raw


@settings(max_examples=80, deadline=None)
@given(acts)
def test_whatever_becomes_of_batches_all_that_was_brought_is_there_once(steps):
    world, brought = World(), Counter()
    for name, *more in steps:
        getattr(world, name)(*more)
        for node, words, count in more[0] if more else ():
            brought += amounts([Brought(f"edge-{node}", 0, READ[told(words, count)])])
        assert world.there() == brought
