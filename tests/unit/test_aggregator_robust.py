"""What one node may be of a batch: a node is one, however many packets and keys it sends."""

import numpy as np
import pytest
from aggregator_packets import BASES, KEYS, VOCAB, ledger, ngrams, packet, peak
from hypothesis import given, settings
from hypothesis import strategies as st

from common.kernels import gate
from common.wire import crystals
from common.wire.ngrams import entry
from common.wire.packet import key_id
from services.aggregator.cut import Fleet, Limits, cut
from services.aggregator.merge import combined
from services.aggregator.quorum import Brought
from services.aggregator.robust import DENSITY_MEDIANS, MASS_MEDIANS, NODES_LEAST, agreed, allowed, bounded, mass, score

HONEST = [0.2, 0.3, 0.5]


def heavy(total):
    return crystals.crystals([entry((), 7, count=total // 2, total=total)])


@pytest.mark.parametrize(("amount", "counts"), [(199, 199), (200, 200), (201, 200), (10**7, 200)])
def test_a_node_counts_for_at_most_two_medians(amount, counts):
    assert MASS_MEDIANS == 2
    assert allowed([100, 100, 100, amount], list("abcd")) == [100, 100, 100, counts]


def test_of_an_even_number_the_lower_of_the_two_in_the_middle_is_the_median():
    assert allowed([10, 10, 900, 900], list("abcd")) == [10, 10, 20, 20]


@pytest.mark.parametrize(("nodes", "counts"), [(NODES_LEAST - 1, 10**6), (NODES_LEAST, 200)])
def test_fewer_than_three_nodes_count_as_they_are(nodes, counts):
    amounts = [100] * (nodes - 1) + [10**6]
    assert allowed(amounts, list("abcd")[:nodes])[-1] == counts


def test_the_packets_of_one_node_are_bounded_together():
    assert allowed([100, 100, 300, 500, 0], list("abccc")) == [100, 100, 75, 125, 0]


def test_what_is_bounded_says_the_same_with_less_weight():
    found = bounded([Brought(node, 3, heavy(total)) for node, total in (("a", 100), ("b", 100), ("c", 10_000))], 3)
    assert [mass(one) for one in found] == [100, 100, 200]
    assert found[-1].orders[0].counts.tolist() == [100]


def text(ngrams, count):
    """As many different tokens, each seen so often."""
    return crystals.crystals([entry((), token, count=count, total=ngrams * count) for token in range(ngrams)])


def lent(nodes, ngrams=1):
    """What the pool lends of so many nodes: of each as many n-grams that waited, twice seen."""
    return [Brought(f"{ngrams}-waited-{number}", 32, text(ngrams, 2)) for number in range(nodes)]


@pytest.mark.parametrize("now", [1, 2, 3, 8])
@pytest.mark.parametrize("waited", [0, 2, 30])
def test_what_few_n_grams_of_many_nodes_had_waited_costs_nobody_who_speaks_now(now, waited):
    told = [*lent(waited), *(Brought(f"now-{number}", 40, text(300, 4)) for number in range(now))]
    assert mass(combined(told, 40)) == pytest.approx(2 * waited + 300 * 4 * now, rel=0.02)  # counts go to levels


def test_who_had_few_n_grams_waiting_bounds_nobody_who_had_many_where_nobody_speaks_now():
    told = [*lent(6), *lent(4, ngrams=60)]
    assert sum(mass(one) for one in bounded(told, 40)) == 6 * 2 + 4 * 60 * 2


@pytest.mark.parametrize("weight", [DENSITY_MEDIANS * 2 - 1, DENSITY_MEDIANS * 2, 10**6])
def test_who_speaks_alone_beside_what_waited_counts_each_n_gram_as_four_medians_of_the_others(weight):
    told = [*lent(9), Brought("now", 40, text(5, weight))]
    assert [mass(one) for one in bounded(told, 40)] == [2] * 9 + [5 * min(weight, DENSITY_MEDIANS * 2)]


def test_what_waited_is_bounded_by_what_nodes_bring_now():
    told = [Brought("waited", 0, heavy(10_000)), *(Brought(node, 40, heavy(100)) for node in "abc")]
    assert [mass(one) for one in bounded(told, 40)] == [200, 100, 100, 100]


@given(st.lists(st.integers(0, 10**9), min_size=5, max_size=12), st.lists(st.integers(0, 2**40), max_size=2))
@settings(max_examples=60, deadline=None)
def test_two_liars_of_seven_bring_no_more_than_honest_nodes_at_their_most(honest, lies):
    nodes = [f"n{number}" for number in range(len(honest) + len(lies))]
    found = allowed([*honest, *lies], nodes)
    assert max(found) <= MASS_MEDIANS * max(honest)
    assert all(now <= before for now, before in zip(found, [*honest, *lies], strict=True))


def gates_of(shares, tokens, buckets=gate.BUCKETS):
    sums = np.zeros((gate.BUCKETS, 3))
    sums[:buckets] = np.array(shares) * tokens
    return sums


def test_gates_that_agree_add_up():
    found = agreed([gates_of(HONEST, 40.0)] * 5, list("abcde"))
    assert found == pytest.approx(gates_of(HONEST, 200.0), rel=1e-6)


@pytest.mark.parametrize("lie", [gates_of([1.0, 0.0, 0.0], 1e7), gates_of([0.0, 0.0, 1.0], 1e7), gates_of(HONEST, 0)])
@pytest.mark.parametrize("packets", [1, 20])
def test_two_liars_of_eight_do_not_turn_a_gate_whatever_they_heard_and_however_often_they_say_it(lie, packets):
    sums = [*[gates_of(HONEST, 40.0)] * 6, *[lie] * (2 * packets)]
    found = agreed(sums, [*"abcdef", *"g" * packets, *"h" * packets])
    assert found / found.sum(1, keepdims=True) == pytest.approx(gates_of(HONEST, 1.0), abs=0.02)
    assert found.sum() <= 8 * 40.0 * gate.BUCKETS * 1.001


def test_a_bucket_that_only_the_fewer_heard_stays_as_it_is():
    """What a planted context alone reaches; else its gate would be the planter's."""
    sums = [gates_of(HONEST, 40.0, buckets=20)] * 6 + [gates_of([0.0, 0.0, 1.0], 40.0)] * 2
    assert agreed(sums, list("abcdefgh"))[20:].sum() == 0.0


def test_two_nodes_gates_add_as_they_are():
    found = agreed([gates_of(HONEST, 40.0), gates_of([1.0, 0.0, 0.0], 400.0)], list("ab"))
    assert found == pytest.approx(gates_of(HONEST, 40.0) + gates_of([1.0, 0.0, 0.0], 400.0))


@pytest.mark.parametrize(("lies", "told"), [([], 2.0), ([64e6], 2.5), ([0.0], 2.0), ([64e6, 0.0], 2.0)])
def test_a_score_is_the_median_nodes_however_much_one_says_it_read(lies, told):
    sizes = [1000] * 3 + [10**6] * len(lies)
    assert score([2000.0, 2000.0, 3000.0, *lies], sizes, list("abcde")[: len(sizes)]) == pytest.approx(told)


def test_nobody_read_is_no_score():
    assert score([0.0] * 3, [0] * 3, list("abc")) == score([], [], []) == 0.0


@pytest.mark.parametrize(("enrolled", "speak", "moves"), [(4, 2, True), (5, 2, False), (5, 3, True)])
@pytest.mark.parametrize("opened", [False, True])
def test_the_gate_of_a_role_is_moved_by_three_nodes_where_five_are_enrolled(enrolled, speak, moves, opened):
    """The gate of a domain that was opened is moved by whoever speaks there: nobody else has taught it."""
    nodes = {key_id(KEYS[n].verify_key): f"n{n}" for n in range(enrolled)}
    told = {"domain": None, "at": peak(60)} if opened else {}
    bytes_ = gate.to_bytes(gates_of(HONEST, 4.0)[:, : 3 if opened else 2])
    raws = [packet(key=n, gate=bytes_, tokens=5000, **told) for n in range(speak)]
    found = cut(ledger(*raws), bases=BASES, pending={}, limits=Limits(8, 60.0, 100_000), fleet=Fleet(nodes, {}))
    (update,) = found.batch.domains
    assert bool(update.gate) == (moves or opened)


@pytest.mark.parametrize("other", [b"", gate.to_bytes(gates_of(HONEST, 4.0))], ids=["none", "of an ended domain"])
@pytest.mark.parametrize(("tell", "moves"), [(1, False), (2, False), (3, True)])
def test_nodes_that_bring_no_gate_of_a_role_do_not_help_another_to_turn_it(other, tell, moves):
    nodes = {key_id(KEYS[n].verify_key): f"n{n}" for n in range(5)}
    own = gate.to_bytes(gates_of(HONEST, 4.0)[:, :2])
    raws = [packet(key=n, gate=own if n < tell else other, tokens=5000) for n in range(5)]
    found = cut(ledger(*raws), bases=BASES, pending={}, limits=Limits(8, 60.0, 100_000), fleet=Fleet(nodes, {}))
    (update,) = found.batch.domains
    assert bool(update.gate) == moves


@pytest.mark.parametrize("nothing", [b"", ngrams()])
def test_nodes_that_bring_no_n_gram_of_a_domain_leave_the_others_what_they_bring(nothing):
    nodes = {key_id(KEYS[n].verify_key): f"n{n}" for n in range(4)}
    told = [ngrams(((7,), 9, 256, 512))] + [nothing] * 3
    raws = [packet(key=n, crystals=blob, tokens=5000) for n, blob in enumerate(told)]
    found = cut(ledger(*raws), bases=BASES, pending={}, limits=Limits(8, 60.0, 100_000), fleet=Fleet(nodes, {}))
    (update,) = found.batch.domains
    order = crystals.decode(update.crystals, VOCAB, 1 << 16).orders[1]
    assert (update.packets, order.counts.tolist(), order.totals.tolist()) == (4, [256], [512])


def test_a_batch_bounds_a_machine_that_holds_many_keys():
    """Six keys of one node against three nodes: what they say has the weight of one."""
    nodes = {key_id(KEYS[n].verify_key): f"node-{min(n, 3)}" for n in range(5)}
    told = [ngrams(((), 7, 64, 128))] * 3 + [ngrams(((), 9, 4096, 4096))] * 2
    raws = [packet(key=n, crystals=blob, tokens=5000) for n, blob in enumerate(told)]
    found = cut(ledger(*raws), bases=BASES, pending={}, limits=Limits(8, 60.0, 100_000), fleet=Fleet(nodes, {}))
    (update,) = found.batch.domains
    order = crystals.decode(update.crystals, VOCAB, 1 << 16).orders[0]
    counts = dict(zip(order.keys.tolist(), order.counts.tolist(), strict=True))
    assert counts == {7: 192, 9: 256}
