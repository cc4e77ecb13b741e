from dataclasses import replace

import numpy as np
import pytest

from common.constants import ROLES
from common.constellation.priors import prior_of
from common.geometry.simplex import distance
from common.kernels import gate
from common.kernels.memory import count, merge, subtract
from common.wire import basin as basins
from common.wire import crystals as codec
from common.wire.messages import PacketRef
from common.wire.ngrams import implied
from services.edge import sleep
from services.edge.answer import Interaction
from services.edge.balance import EMPTY, NOTHING, Balance, bounded
from services.edge.crystals import SHARDS
from services.edge.local import TERRITORY, absorb, open_new, tune
from services.edge.record import Fresh, Packet
from services.edge.sleep import (
    AGAIN_AFTER_S,
    LOST_AFTER_S,
    Rhythm,
    as_memory,
    due,
    fold,
    is_probe,
    overdue,
    settle,
    turn_of,
    unheard,
)

NEW = "The king spake unto the people, and the people answered the king. "
RHYTHM = Rhythm(after_bytes=1000, idle_s=5.0, max_s=3600.0)
KEY = b"k" * 8


def fresh(size_bytes=1000, oldest_s=100.0):
    return Fresh("heart", 3, size_bytes, oldest_s)


def interaction(micro, text=NEW, domain="heart", number=0):
    ids = micro.encoder.encode(text)
    return Interaction(f"q{number}", "c", text, 1.0, domain, micro.basin(ids), len(ids), len(text), 9.0, 12.0, "FOAM")


def folded(micro, domain="heart", texts=(NEW,) * 4, balance=EMPTY, **settings):
    read = [interaction(micro, text, domain, number) for number, text in enumerate(texts)]
    return fold(micro, domain, read, balance, **{"crystal_bytes": 400, "phi": dict.fromkeys(ROLES, 0.5), **settings})


def packet(done, domain="heart", sequence=0, status="sent", at_s=0.0):
    return Packet(sequence, domain, status, at_s, 1, b"b" * 8, done.body.basin, b"", done.carried)


def ref(sequence, key=KEY, epoch=7):
    return PacketRef(key=key, epoch=epoch, sequence=sequence)


def same(one, other):
    return all(
        np.array_equal(a.keys, b.keys) and np.array_equal(a.counts, b.counts) and np.array_equal(a.totals, b.totals)
        for a, b in zip(one.tables, other.tables, strict=True)
    )


def with_domain(micro, name, basin, radius_rad=0.8):
    opened = micro.domains["heart"].model_copy(
        update={"name": name, "basin": tuple(basin.tolist()), "radius_rad": radius_rad}
    )
    return replace(micro, domains={**micro.domains, name: opened})


# HEART's clock


@pytest.mark.parametrize(("size_bytes", "expected"), [(999, "too_little"), (1000, "sleep"), (1001, "sleep")])
def test_an_edge_sleeps_once_enough_is_fresh(size_bytes, expected):
    assert due(200.0, fresh(size_bytes), 190.0, RHYTHM, in_flight=False) == expected


@pytest.mark.parametrize(("idle_s", "expected"), [(4.999, "busy"), (5.0, "sleep"), (5.001, "sleep")])
def test_it_waits_until_it_is_idle(idle_s, expected):
    assert due(200.0, fresh(), 200.0 - idle_s, RHYTHM, in_flight=False) == expected


@pytest.mark.parametrize(("age_s", "expected"), [(3599.0, "too_little"), (3600.0, "sleep"), (3601.0, "sleep")])
def test_at_the_maximum_interval_it_sleeps_busy_or_not_on_little_or_much(age_s, expected):
    assert due(100.0 + age_s, fresh(size_bytes=1), 100.0 + age_s, RHYTHM, in_flight=False) == expected


@pytest.mark.parametrize(("late_s", "expected"), [(59.999, "busy"), (60.0, "sleep"), (60.001, "sleep")])
def test_what_is_overdue_is_put_off_while_queries_wait_but_not_for_ever(late_s, expected):
    now_s = 100.0 + RHYTHM.max_s + late_s
    assert due(now_s, fresh(), 0.0, RHYTHM, in_flight=False, crowded=True) == expected
    assert due(now_s, fresh(), 0.0, RHYTHM, in_flight=False, crowded=False) == "sleep"


def test_an_edge_where_queries_wait_is_not_idle():
    assert due(200.0, fresh(), 0.0, RHYTHM, in_flight=False, crowded=True) == "busy"


@pytest.mark.parametrize(("awake_s", "expected"), [(4.999, "waking"), (5.0, "sleep"), (5.001, "sleep")])
@pytest.mark.parametrize("oldest_s", [100.0, -1e6])
def test_after_an_outage_it_is_up_for_its_idle_time_first_however_late_it_is(awake_s, expected, oldest_s):
    found = due(200.0, fresh(oldest_s=oldest_s), 0.0, RHYTHM, in_flight=False, awake_s=200.0 - awake_s)
    assert found == expected


MONTH_S = 30 * 86_400.0


def test_a_clock_that_was_a_month_ahead_keeps_no_edge_awake_for_a_month():
    """Set back to 200, after the edge had begun and was last asked."""
    ahead = {"in_flight": False, "awake_s": 200.0 + MONTH_S}
    assert due(200.0, fresh(oldest_s=199.0), 200.0 + MONTH_S, RHYTHM, **ahead) == "sleep"
    assert due(200.0, fresh(size_bytes=1, oldest_s=199.0), 200.0 + MONTH_S, RHYTHM, **ahead) == "too_little"
    assert due(200.0, fresh(size_bytes=1, oldest_s=150.0 + MONTH_S), 199.0, RHYTHM, **ahead) == "sleep"


def test_a_thousand_nodes_do_not_sleep_at_once():
    """Of nodes that fall idle, or begin an interval, at one moment: at most 3 in 20 in any tenth of the spread."""
    rhythms = [RHYTHM.of(f"node-{number}", "heart") for number in range(1000)]
    for times, first, last in (
        ([each.idle_s for each in rhythms], 5.0, 15.0),
        ([each.max_s for each in rhythms], 2700.0, 3600.0),
    ):
        assert first <= min(times) <= max(times) <= last
        tenths, _ = np.histogram(times, bins=10, range=(first, last))
        assert 50 < tenths.min() <= tenths.max() < 150
        assert len(set(times)) == 1000


def test_a_node_keeps_its_own_time_for_each_domain_whenever_it_is_asked():
    mine = {RHYTHM.of("node-1", domain).idle_s for domain in (*ROLES, None)}
    assert len(mine) == 5
    assert RHYTHM.of("node-1", "heart") == RHYTHM.of("node-1", "heart")
    assert RHYTHM.of("node-1", "heart").idle_s == pytest.approx(7.317634)  # on every machine
    assert RHYTHM.of("node-1", "heart").after_bytes == RHYTHM.after_bytes


def test_nothing_fresh_never_sleeps():
    assert due(1e9, None, 0.0, RHYTHM, in_flight=False) == "nothing_fresh"


def test_a_packet_on_its_way_holds_the_next_one_back():
    assert due(1e9, fresh(10**9), 0.0, RHYTHM, in_flight=True) == "in_flight"


@pytest.mark.parametrize(("late_s", "again"), [(-1.0, []), (0.0, [0]), (1.0, [0])])
def test_a_packet_of_which_nothing_was_said_is_handed_over_again_and_then_again(micro, late_s, again):
    away, now_s = [packet(folded(micro), at_s=50.0)], 50.0 + AGAIN_AFTER_S + late_s
    assert [each.sequence for each in unheard(now_s, away, {})] == again
    assert [each.sequence for each in unheard(now_s + 7.0, away, {0: 57.0})] == again
    assert unheard(now_s, [replace(away[0], status="pending")], {}) == []


@pytest.mark.parametrize(("late_s", "again"), [(-1.0, []), (0.0, [0]), (1.0, [0])])
def test_a_packet_that_was_sent_by_a_clock_that_was_ahead_is_handed_over_again_all_the_same(micro, late_s, again):
    away = [packet(folded(micro), at_s=50.0 + MONTH_S)]
    assert [each.sequence for each in unheard(50.0, away, {})] == [0]
    assert [each.sequence for each in unheard(50.0 + AGAIN_AFTER_S + late_s, away, {0: 50.0})] == again


@pytest.mark.parametrize(("age_s", "lost"), [(LOST_AFTER_S - 1.0, []), (LOST_AFTER_S, [0]), (LOST_AFTER_S + 1.0, [0])])
def test_a_packet_that_nobody_named_for_long_counts_as_lost(micro, age_s, lost):
    done = folded(micro)
    assert overdue(50.0 + age_s, [packet(done, at_s=50.0)]) == lost
    assert overdue(50.0 + age_s, [packet(done, at_s=50.0, status="pending")]) == []


@pytest.mark.parametrize(("late_s", "lost"), [(-1.0, []), (0.0, [0]), (1.0, [0])])
def test_a_packet_that_carries_no_counts_is_lost_sooner(micro, late_s, lost):
    empty = replace(packet(folded(micro), at_s=50.0), counts=NOTHING)
    assert overdue(50.0 + AGAIN_AFTER_S + late_s, [empty]) == lost


def test_one_interaction_in_n_is_a_probe_and_always_the_same_ones():
    chosen = [number for number in range(4000) if is_probe("c", f"q{number}", 8)]
    assert 400 < len(chosen) < 600
    assert chosen == [number for number in range(4000) if is_probe("c", f"q{number}", 8)]
    assert is_probe("c", "q", 1)


# Folding


def test_the_residue_is_all_counts_of_all_texts_and_what_was_there(micro):
    before = count([micro.encoder.encode("sing again")], 3)
    done = folded(micro, balance=Balance(before))
    ids = micro.encoder.encode(NEW)
    assert same(done.balance.residue, merge([before, count([ids] * 4, 3)]))


def test_the_body_says_what_was_read_and_how_well(micro):
    body, ids = folded(micro).body, micro.encoder.encode(NEW)
    assert (body.kernel, body.domain, body.interactions, body.phases) == ("heart", "heart", 4, (4, 0, 0, 0))
    assert (body.tokens, body.fresh_bytes) == (4 * len(ids), 4 * len(NEW))
    assert body.fresh_bits == pytest.approx(4 * micro.bits(ids, "heart"))
    assert (body.phi, body.kappa) == (0.5, 12.0)


def test_the_score_is_of_the_kernel_that_has_not_read_the_text(micro):
    again = folded(micro, balance=folded(micro).balance).body
    assert again.fresh_bits == pytest.approx(folded(micro).body.fresh_bits)


def test_the_basin_is_the_mean_of_the_texts(micro):
    one = folded(micro, texts=(NEW,)).body
    assert distance(basins.from_bytes8(one.basin), interaction(micro).basin) < 0.04


def test_crystals_keep_the_budget_and_what_they_carry_is_what_a_reader_decodes(micro):
    prior = prior_of([micro.memories["heart"]], 320)
    for budget in (60, 200, 400):
        done = folded(micro, crystal_bytes=budget)
        assert len(done.body.crystals) <= budget
        assert same(done.carried, as_memory(implied(codec.decode(done.body.crystals, 320, 4096, prior=prior))))
    assert done.carried.entries > 10


@pytest.mark.parametrize(("domain", "experts"), [("heart", 2), (None, 3)])
def test_the_gate_s_statistics_add_up_to_the_tokens_read(micro, domain, experts):
    body = folded(micro, domain).body
    sums = gate.from_bytes(body.gate, experts)
    assert sums.sum() == pytest.approx(body.tokens, rel=0.05)


def test_new_territory_is_read_by_the_nearest_role(micro):
    body = folded(micro, None).body
    basin = basins.from_bytes8(body.basin)
    assert body.domain is None
    assert body.kernel == micro.route(basin).steps[0].name
    assert body.fresh_bits == pytest.approx(4 * micro.bits(micro.encoder.encode(NEW), body.kernel))


def test_new_territory_s_gate_learns_to_trust_its_own_memory_as_text_repeats(micro):
    sums = gate.from_bytes(folded(micro, None, texts=(NEW,) * 8).body.gate, 3)
    known = sums[1:].sum(0)
    assert known[2] > known[:2].sum()


def test_one_loop_among_the_texts_does_not_decide_kappa_and_a_fleet_of_loops_is_capped(micro):
    loops = [replace(interaction(micro, number=n), kappa=kappa) for n, kappa in enumerate([12.0, 13.0, 6e10])]
    told = [fold(micro, "heart", some, EMPTY, crystal_bytes=100, phi={}).body.kappa for some in (loops, loops[2:])]
    assert told == [13.0, 1e6]


def test_a_text_of_one_odd_character_folds(micro):
    body = folded(micro, texts=("é",)).body
    assert (body.interactions, body.fresh_bytes) == (1, 1)


def test_a_residue_above_its_limit_drops_what_was_seen_once_and_keeps_its_totals(micro):
    memory = count([micro.encoder.encode(NEW * 2 + "Sing")], 3)
    kept = bounded(Balance(memory), memory.entries - 1).residue
    assert same(bounded(Balance(memory), memory.entries).residue, memory)
    assert all((table.counts > 1).all() for table in kept.tables)
    assert kept.tokens == memory.tokens


# What answers here


def test_what_answers_here_is_scored_beside_the_bundle_and_before_it_counts_the_text(micro):
    first = folded(micro)
    assert first.local_bits == pytest.approx(first.body.fresh_bits)
    local = absorb(micro, micro, "heart", first.balance.residue, None)
    again = folded(micro, balance=first.balance, local=local)
    assert again.body.fresh_bits == pytest.approx(first.body.fresh_bits)
    assert again.local_bits == pytest.approx(4 * local.bits(micro.encoder.encode(NEW), "heart"))
    assert again.local_bits < 0.6 * again.body.fresh_bits


def test_new_territory_is_scored_by_its_own_memory_once_it_has_one(micro):
    first = folded(micro, None)
    assert first.local_bits == pytest.approx(first.body.fresh_bits)
    local = open_new(micro, first.balance.residue, None, interaction(micro).basin)
    again = folded(micro, None, balance=first.balance, local=local)
    assert again.local_bits == pytest.approx(4 * local.bits(micro.encoder.encode(NEW), TERRITORY))


def test_new_territory_whose_own_domain_lies_beside_another_role_is_scored_all_the_same(micro):
    first = folded(micro, None)
    far = next(role for role in ROLES if role != first.body.kernel)
    local = open_new(micro, first.balance.residue, None, micro.domains[far].basin_array)
    again = folded(micro, None, balance=first.balance, local=local)
    assert again.local_bits == pytest.approx(4 * local.bits(micro.encoder.encode(NEW), TERRITORY))


@pytest.mark.parametrize(("domain", "experts"), [("heart", 2), (None, 3)])
def test_a_gate_learned_from_one_fold_reads_the_next_better(micro, domain, experts):
    first = folded(micro, domain)
    tuned = tune(None, first.gate, first.heard)
    again = folded(micro, domain, balance=first.balance)
    assert (tuned.gate.shape, tuned.gain_bits) == ((gate.BUCKETS, experts), 0.0)
    assert tune(tuned, again.gate, again.heard).gain_bits > 0.0


def test_the_packet_is_the_same_whatever_was_learned_here(micro):
    first = folded(micro)
    tuned = replace(tune(None, first.gate, first.heard), gain_bits=1.0)
    local = absorb(micro, micro, "heart", first.balance.residue, tuned)
    assert folded(micro, local=local).body == first.body


@pytest.mark.parametrize(("step", "sleeps"), [(1, 6), (2, 6), (3, 6), (4, 6), (5, 25), (6, 25)])
def test_every_share_of_the_contexts_has_its_turn_however_many_domains_sleep(step, sleeps):
    turns = [turn_of("edge-1", "heart", sequence) % SHARDS for sequence in range(3, 3 + sleeps * step, step)]
    assert set(turns) == set(range(SHARDS))


def test_nodes_and_domains_do_not_take_the_same_turns():
    turns = {turn_of(node, domain, 0) % SHARDS for node in ("edge-1", "edge-2", "edge-3") for domain in ("heart", None)}
    assert len(turns) > 1


# Acknowledgement


def acknowledged(micro, refs, packets, balances, waiting=()):
    return settle(micro, refs, own=(KEY, 7), packets=packets, balances=balances, waiting=waiting)


def test_only_what_was_carried_leaves_the_residue_and_only_when_named(micro):
    done = folded(micro)
    ignored = acknowledged(micro, [ref(1)], [packet(done)], {"heart": done.balance})
    named = acknowledged(micro, [ref(0)], [packet(done)], {"heart": done.balance})
    assert (ignored.acknowledged, ignored.balances) == ((), {})
    assert named.acknowledged == (0,)
    assert same(named.balances["heart"].residue, subtract(done.balance.residue, done.carried))


@pytest.mark.parametrize("wrong", [ref(0, key=b"x" * 8), ref(0, epoch=6)])
def test_another_edge_s_or_another_life_s_packet_is_not_ours(micro, wrong):
    done = folded(micro)
    assert acknowledged(micro, [wrong], [packet(done)], {"heart": done.balance}).acknowledged == ()


def test_a_lost_packet_that_a_bundle_names_after_all_is_acknowledged(micro):
    done = folded(micro)
    assert acknowledged(micro, [ref(0)], [packet(done, status="lost")], {"heart": done.balance}).acknowledged == (0,)


def test_new_territory_moves_to_the_opened_domain_nearest_its_packet(micro):
    done = folded(micro, None)
    there = basins.from_bytes8(done.body.basin)
    far = np.eye(64)[0] * 0.9 + 0.1 / 64
    opened = with_domain(with_domain(micro, "scripture", there), "atlas", far)
    found = acknowledged(opened, [ref(0)], [packet(done, None)], {None: done.balance})
    assert found.balances[None].residue.entries == 0
    assert same(found.balances["scripture"].residue, subtract(done.balance.residue, done.carried))


@pytest.mark.parametrize(("elsewhere", "target"), [(False, "heart"), (True, "heart"), (None, "scripture")])
def test_new_territory_whose_domain_went_home_at_once_follows_it_to_the_role(micro, elsewhere, target):
    """elsewhere: a domain far off is open too; None: one that reaches the text is."""
    done = folded(micro, None)
    there = basins.from_bytes8(done.body.basin)
    heart = micro.domains["heart"].model_copy(update={"formerly": ("d-1",)})
    home = replace(micro, domains={**micro.domains, "heart": heart})
    if elsewhere is not False:
        at = 0.02 / 64 + 0.98 * np.eye(64)[0] if elsewhere else there
        home = with_domain(home, "scripture", at)
        opened = home.domains["scripture"].model_copy(update={"formerly": ()})
        home = replace(home, domains={**home.domains, "scripture": opened})
    found = acknowledged(home, [ref(0)], [packet(done, None)], {None: done.balance})
    assert found.opened == target
    assert same(found.balances[target].residue, subtract(done.balance.residue, done.carried))
    assert found.balances[None].residue.entries == 0


def test_while_no_domain_is_opened_new_territory_stays(micro):
    done = folded(micro, None, crystal_bytes=50)
    found = acknowledged(micro, [ref(0)], [packet(done, None)], {None: done.balance})
    assert list(found.balances) == [None]
    assert found.balances[None].residue.entries > 0


@pytest.mark.parametrize(("radius_rad", "moved"), [(0.5, {4: "scripture"}), (0.0, {})])
def test_fresh_text_of_new_territory_follows_to_a_domain_that_reaches_it(micro, radius_rad, moved):
    waiting = interaction(micro, domain=None)
    there = waiting.basin if radius_rad else micro.domains["heart"].basin_array
    opened = with_domain(micro, "scripture", there, radius_rad)
    assert acknowledged(opened, [], [], {}, [(4, waiting)]).moved == moved


def test_the_rounds_of_two_packets_subtract_what_both_carried(micro):
    first = folded(micro)
    second = folded(micro, texts=("O sing unto the king. ",) * 3, balance=first.balance)
    found = acknowledged(
        micro, [ref(0), ref(1)], [packet(first), packet(second, sequence=1)], {"heart": second.balance}
    )
    without = subtract(subtract(second.balance.residue, first.carried), second.carried)
    assert same(found.balances["heart"].residue, without)
    assert sleep.ORDERS == 3
