"""What waits for a quorum: from cut to cut, until enough nodes have brought it or it is too old."""

from dataclasses import replace

import numpy as np
import pytest
from aggregator_packets import BASES, KEYS, MERGES, NODES, VOCAB, base, domain, ledger, ngrams, packet, peak
from hypothesis import given, settings
from hypothesis import strategies as st
from test_aggregator_quorum import packets, rows

from common.coordizer.artifacts import FIRST_MERGE
from common.errors import Corrupt
from common.wire import crystals
from common.wire.ngrams import crystals as made
from common.wire.ngrams import entry, implied
from common.wire.packet import key_id
from services.aggregator import pool as room
from services.aggregator.claims import settle
from services.aggregator.cut import Fleet, Limits, cut
from services.aggregator.pool import WAIT_CUTS, WAIT_STEP, from_bytes, gathered, kept, to_bytes
from services.aggregator.quorum import Brought

IDS = [key_id(key.verify_key) for key in KEYS]
LIMITS = Limits(packets=8, age_s=60.0, mass_cap=100_000, crystal_edges=3)
SECRET = ngrams(((7,), 9, 3, 4))  # what each of them says alone would be its client's


def cut_of(*raws, pool=None, cuts=0, bases=BASES, nodes=NODES, limits=LIMITS, pending=None):
    fleet = Fleet(nodes, {}, cuts, pool or {})
    return cut(ledger(*raws), bases=bases, pending=pending or {}, limits=limits, fleet=fleet)


def after(found):
    """The pool once the batch of a cut counts for good."""
    return settle(found.pool, counts=[found.claim] if found.claim else [], returned=[])


def said(found, order=1, name="percept"):
    """The n-grams that a batch says of a domain, with their counts."""
    update = next((each for each in found.batch.domains if each.name == name), None)
    if update is None:
        return {}
    told = crystals.decode(update.crystals, VOCAB, 1 << 16).orders[order]
    keys = [(int(key) >> 15, int(key) & 0x7FFF) for key in told.keys]
    return dict(zip(keys, told.counts.tolist(), strict=True))


def test_what_one_and_two_nodes_bring_waits_and_what_a_third_brings_counts_with_all_they_brought():
    first = cut_of(packet(key=0, crystals=SECRET), packet(key=1, crystals=SECRET))
    assert (said(first), len(first.taken), len(after(first)["percept"])) == ({}, 2, 2)
    second = cut_of(packet(key=0, sequence=2, crystals=SECRET), pool=after(first), cuts=1)
    assert said(second) == {}
    third = cut_of(packet(key=2, crystals=SECRET), pool=after(second), cuts=2)
    assert said(third) == {(7, 9): 12}
    assert after(third) == {}


def test_what_waits_and_is_too_much_for_one_batch_is_said_in_several(monkeypatch):
    """A quorum that is asked no more: all of the pool would be said at once."""
    monkeypatch.setattr("services.aggregator.merge.MAX_DOMAIN_ENTRIES", 5)
    pool = {"percept": [Brought(f"edge-{n}", 0, made([entry((n,), 9, count=2, total=2)])) for n in range(6)]}
    alone, told = replace(LIMITS, crystal_edges=1), {}
    for cuts in range(1, 5):
        found = cut_of(packet(sequence=cuts, crystals=ngrams(((7,), 9, 2, 2))), pool=pool, cuts=cuts, limits=alone)
        assert len(found.taken) == 1
        assert found.claim is None or not found.claim.waits
        told |= {pair: told.get(pair, 0) + count for pair, count in said(found).items()}
        pool = found.pool
    assert (told, pool) == ({(7, 9): 8, **{(n, 9): 2 for n in range(6)}}, {})


def test_what_a_quorum_has_brought_to_a_domain_needs_nobody_else():
    known = tuple(np.sort(order.keys) for order in implied(crystals.decode(SECRET, VOCAB, 99)).orders)
    current = replace(BASES[-1], known={"percept": known})
    assert said(cut_of(packet(crystals=SECRET), bases=(*BASES[:-1], current))) == {(7, 9): 3}


def test_new_territory_waits_whatever_is_known_elsewhere():
    known = tuple(np.sort(order.keys) for order in implied(crystals.decode(SECRET, VOCAB, 99)).orders)
    current = replace(BASES[-1], known={"percept": known})
    found = cut_of(packet(domain=None, at=peak(60), crystals=SECRET), bases=(*BASES[:-1], current))
    assert (len(found.opened), found.batch.domains, list(found.claim.waits)) == (1, (), [found.opened[0].name])


def test_where_few_are_enrolled_everything_counts_at_once():
    assert said(cut_of(packet(crystals=SECRET), nodes={key: NODES[key] for key in IDS[:4]})) == {(7, 9): 3}


def test_with_a_quorum_of_one_what_waits_counts_with_the_next_packet_of_its_domain():
    waits = after(cut_of(packet(key=0, crystals=SECRET)))
    found = cut_of(packet(key=1), pool=waits, cuts=1, limits=replace(LIMITS, crystal_edges=1))
    assert said(found)[7, 9] == 6
    assert found.pool == {}


def test_what_the_account_notes_is_what_counted():
    first = cut_of(*[packet(key=n, crystals=SECRET) for n in range(2)])
    third = cut_of(packet(key=2, crystals=SECRET), pool=after(first), cuts=1)
    noted = third.note.shares["percept"]
    assert sorted(one.node for one in noted) == sorted(NODES[key] for key in IDS[:3])
    assert first.note is None


@given(st.permutations(range(5)))
@settings(max_examples=15, deadline=None)
def test_the_same_packets_in_any_order_leave_the_same_pool(order):
    told = {(n, s): ngrams(((7,), 9 + (n + s) % 4, 3, 9), ((8,), n, 2, 5)) for n in range(5) for s in (1, 2)}
    raws = [packet(key=n, sequence=s, crystals=each) for (n, s), each in told.items()]
    mixed = [raw for n in order for raw in raws[2 * n : 2 * n + 2]]
    one, other = cut_of(*raws), cut_of(*mixed)
    assert to_bytes(after(one), BASES[-1]) == to_bytes(after(other), BASES[-1])
    assert one.claim.packed(BASES[-1]) == other.claim.packed(BASES[-1])
    assert one.note.packed == other.note.packed


# What leaves


def share(node="edge-0", cut_number=0, *grams):
    told = grams or (((1,), 2),)
    found = made([entry(ctx, token, count=2, total=2 * len(told)) for ctx, token in told])
    return Brought(node, cut_number, found)


def left(*several, cuts=0, nodes=("edge-0", "edge-1"), places=("heart",), name="heart", current=BASES[-1]):
    found = kept({name: several}, current, places=places, nodes=nodes, cuts=cuts)
    return {domain: [(one.node, one.cut) for one in some] for domain, some in found.items()}


@pytest.mark.parametrize(("cuts", "waits"), [(WAIT_CUTS - 1, True), (WAIT_CUTS, False), (WAIT_CUTS + 1, False)])
def test_what_waits_too_long_is_dropped(cuts, waits):
    assert left(share(), cuts=cuts) == ({"heart": [("edge-0", 0)]} if waits else {})


def test_what_is_of_nobody_or_of_no_domain_is_dropped():
    assert left(share("edge-9")) == {}
    assert left(share(), places=("vocab",)) == {}


def test_a_domain_that_has_ended_leaves_its_pool_to_its_heir():
    current = base(7, domain("d-2", peak(60)).model_copy(update={"formerly": ("d-1",)}))
    assert left(share(), name="d-1", current=current, places=("d-2",)) == {"d-2": [("edge-0", 0)]}


def test_of_a_node_the_newest_wait_and_no_more_than_so_many(monkeypatch):
    monkeypatch.setattr(room, "WAITING_MAX", 2)
    several = [share("edge-0", n * WAIT_STEP) for n in range(4)] + [share("edge-1", 0)]
    assert left(*several) == {"heart": [("edge-0", 2 * WAIT_STEP), ("edge-0", 3 * WAIT_STEP), ("edge-1", 0)]}
    monkeypatch.setattr(room, "DOMAIN_MAX", 1)
    assert left(*several) == {"heart": [("edge-0", 3 * WAIT_STEP)]}
    monkeypatch.setattr(room, "SHARES_MAX", 0)
    assert left(*several) == {"heart": []}


@pytest.mark.parametrize(
    ("bound", "rows_left"), [("WAITING_MAX", 2), ("WAITING_MAX", 3), ("DOMAIN_MAX", 2), ("DOMAIN_MAX", 1)]
)
def test_of_what_a_node_brought_in_few_cuts_the_most_counted_waits_where_it_is_too_much(monkeypatch, bound, rows_left):
    """They are one share: were it dropped whole, nothing that its edge has sent would wait, the newest least of all."""
    monkeypatch.setattr(room, bound, rows_left)
    monkeypatch.setattr(room, "FULL_MAX", 1)
    each = {7: 5, 8: 1, 9: 3}
    several = [
        Brought("edge-0", n, made([entry((1,), token, count=count, total=2 * count)]))
        for n, (token, count) in enumerate(each.items())
    ]
    (found,) = kept(
        {"heart": [*several, share("edge-0", -WAIT_STEP)]}, BASES[-1], places=["heart"], nodes=["edge-0"], cuts=9
    )["heart"]
    order = found.crystals.orders[1]
    told = sorted(each.values(), reverse=True)[:rows_left]
    assert sorted(order.counts.tolist(), reverse=True) == told
    assert order.totals.tolist() == [2 * sum(told)]


@pytest.mark.parametrize(("domains", "kept_shares"), [(2, 4), (3, 2), (4, 2), (5, 1)])
def test_where_many_domains_have_a_pool_each_holds_its_part(monkeypatch, domains, kept_shares):
    monkeypatch.setattr(room, "FULL_MAX", 2)
    several = [share("edge-0", n * WAIT_STEP) for n in range(4)]
    names = [f"d-{n}" for n in range(domains)]
    for bound in ("SHARES_MAX", "DOMAIN_MAX"):
        with monkeypatch.context() as patch:
            patch.setattr(room, bound, 4)
            found = kept(dict.fromkeys(names, several), BASES[-1], places=names, nodes=("edge-0",), cuts=0)
            assert {name: len(some) for name, some in found.items()} == dict.fromkeys(names, kept_shares)


def test_shares_of_a_node_are_one_while_they_are_of_an_age():
    several = [share("edge-0", n) for n in (0, WAIT_STEP - 1, WAIT_STEP)]
    found = gathered(several)
    assert [(one.node, one.cut) for one in found] == [("edge-0", 0), ("edge-0", WAIT_STEP)]
    assert found[0].crystals.orders[1].counts.tolist() == [4]


@settings(max_examples=30, deadline=None)
@given(st.lists(packets(), max_size=4))
def test_a_pool_comes_back_from_the_broker(several):
    found = from_bytes(to_bytes({"heart": several}, BASES[-1]), BASES[-1])
    assert [(one.node, one.cut, rows(one.crystals)) for one in found.get("heart", [])] == [
        (one.node, one.cut, rows(one.crystals)) for one in several
    ]


def test_a_pool_over_a_smaller_vocabulary_is_counted_anew_and_one_over_others_is_dropped():
    small = base(4, vocab=500)
    left_half, right_half = MERGES[500 - FIRST_MERGE]
    told = made([
        entry((), left_half, count=4, total=8),
        entry((), right_half, count=4, total=8),
        entry((left_half,), right_half, count=4, total=4),
    ])  # fmt: skip
    data = to_bytes({"heart": [Brought("edge-0", 3, told)]}, small)
    (found,) = from_bytes(data, BASES[-1])["heart"]
    assert 500 in found.crystals.orders[0].keys.tolist()
    assert from_bytes(to_bytes({"heart": [found]}, BASES[-1]), small) == {}
    others = replace(BASES[-1], merges=MERGES[::-1])
    assert from_bytes(data, others) == {}


@pytest.mark.parametrize("data", [b"", bytes(32), bytes(40)])
def test_what_no_aggregator_wrote_is_corrupt(data):
    with pytest.raises(Corrupt, match="shares"):
        from_bytes(data, BASES[-1])
