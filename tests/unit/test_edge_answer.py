from dataclasses import replace
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.constants import ROLES
from common.errors import Rejected
from common.geometry.integration import moments
from common.geometry.routing import Route, Step
from common.kernels.memory import count
from common.wire.codec import pack, unpack
from common.wire.inference import Answer, Query
from services.edge.answer import Gauge, Gauges, Interaction, Serving, conclude, measured, refusal
from services.edge.generation import Generation, seed_of, voices
from services.edge.local import TERRITORY, absorb, open_new

TEXT = "The heron stood in the marsh and the sea was cold and grey. "


class Asked(NamedTuple):
    answer: Answer
    interaction: Interaction | None
    gauges: Gauges


@pytest.fixture(scope="module")
def serving(micro):
    return Serving(micro, 3, "ab" * 32, "node-1")


def ask(serving, text=TEXT, gauges=None, **fields):
    query = Query(text=text, **{"max_tokens": 8, **fields})
    generation = Generation(serving.answering, query, query.id or "7-0")
    for _ in generation:
        pass
    found = measured(generation, gauges or {})
    return Asked(
        *attrgetter("answer", "interaction")(conclude(serving, generation, found, at_s=100.0, seconds=1.0)), found
    )


def test_an_answer_names_its_query_node_bundle_kernel_and_time(serving):
    made = ask(serving, client="kiosk").answer
    assert (made.query_id, made.client, made.node, made.bundle) == ("7-0", "kiosk", "node-1", 3)
    assert made.kernel in ROLES
    assert made.seconds == 1.0
    assert unpack(Answer, pack(made)) == made


def test_the_query_s_own_id_wins_over_the_entry_s(serving):
    assert ask(serving, id="mine").answer.query_id == "mine"


def test_the_same_query_and_bundle_give_the_same_answer(serving):
    assert ask(serving, seed=5).answer == ask(serving, seed=5).answer
    assert ask(serving).answer == ask(serving).answer


def test_another_seed_or_another_id_gives_another_answer(serving):
    texts = {ask(serving, seed=seed, max_tokens=24).answer.text for seed in range(4)}
    assert len(texts) == 4
    assert seed_of("7-0") != seed_of("7-1")


def test_no_tokens_asked_for_is_a_reading(serving):
    made = ask(serving, max_tokens=0).answer
    assert (made.finish, made.text, made.completion_tokens) == ("read", "", 0)
    assert made.prompt_bits > 0
    assert made.kappa is not None


def test_an_answer_of_all_the_tokens_asked_for_ended_by_length(serving):
    made = ask(serving, temperature=1.0).answer
    assert made.finish == ("length" if made.completion_tokens == 8 else "stop")
    assert made.completion_tokens > 0


def test_the_prompt_s_bits_are_the_leader_s_reading_of_it(serving, micro):
    made = ask(serving, max_tokens=0).answer
    assert made.prompt_bits == pytest.approx(micro.bits(micro.encoder.encode(TEXT), made.domain))
    assert made.prompt_bytes == len(TEXT.encode())


@pytest.mark.parametrize("role", ROLES)
def test_a_pinned_role_leads_and_the_route_still_tells_the_distances(serving, role):
    made = ask(serving, mode=role, max_tokens=1).answer
    assert made.kernel == role
    assert [step.distance_rad for step in made.route] == sorted(step.distance_rad for step in made.route)
    assert len(made.route) == 4


def test_what_is_pinned_elsewhere_is_still_learned_where_it_lies(serving):
    near = ask(serving).answer.route[0].domain
    far = next(role for role in ROLES if role != near)
    one, other = ask(serving).interaction, ask(serving, mode=far).interaction
    assert other.domain == one.domain == near
    assert other.bits == pytest.approx(one.bits)


def test_constellation_mode_is_led_by_the_nearest_of_four(serving, micro):
    found = micro.route(micro.basin(micro.encoder.encode(TEXT)))
    shares = voices(micro, found, "constellation")
    assert list(shares) == [step.name for step in found.steps]
    assert sum(shares.values()) == pytest.approx(1.0)


def test_under_the_margin_the_two_nearest_speak_and_above_it_one(micro):
    steps = (Step("heart", 0.10, 0.5), Step("vocab", 0.11, 0.4), Step("percept", 1.0, 0.1), Step("strategy", 2.0, 0.0))
    assert voices(micro, Route(steps, 0.01, abstained=True), "routed") == pytest.approx(
        {"heart": 5 / 9, "vocab": 4 / 9}
    )
    assert voices(micro, Route(steps, 0.01, abstained=False), "routed") == {"heart": 1.0}


def test_a_pinned_domain_whose_weight_underflows_still_speaks_alone(micro):
    steps = (Step("heart", 0.1, 1.0), Step("vocab", 3.0, 0.0))
    assert voices(micro, Route(steps, 2.9, abstained=False), "vocab") == {"vocab": 1.0}


def test_nothing_is_kept_of_a_query_that_says_so(serving):
    assert ask(serving, store=False).interaction is None
    assert ask(serving).interaction.text == TEXT


def test_phi_is_unknown_until_512_transitions_were_read_and_then_known(serving):
    gauges, known = {}, []
    for _ in range(14):
        done = ask(serving, text=TEXT * 4, gauges=gauges, max_tokens=0, mode="heart")
        gauges = done.gauges
        known.append((gauges["heart"].moments.n >= 512, done.answer.phi is not None))
    assert known[0] == (False, False)
    assert known[-1] == (True, True)
    assert all(enough == told for enough, told in known)


@pytest.mark.parametrize(("tokens", "anew"), [(124, False), (125, False), (126, True)])
def test_phi_is_read_anew_when_an_eighth_of_its_moments_is_new(tokens, anew):
    rng = np.random.default_rng(0)
    before = Gauge.of(moments(rng.normal(size=(2, 501, 8))))
    after = before.then(moments(rng.normal(size=(2, 501, 8))), tokens - 25).then(
        later := moments(rng.normal(size=(2, 501, 8))), 25
    )
    assert after.moments is later
    assert after.reading == (Gauge.of(later) if anew else before).reading
    assert after.since == (0 if anew else tokens)


def test_phi_that_is_not_known_is_read_anew_each_time():
    rng = np.random.default_rng(0)
    few = Gauge.of(moments(rng.normal(size=(1, 512, 8))))
    assert few.reading.phi is None
    assert few.then(moments(rng.normal(size=(1, 513, 8))), 1).reading.phi is not None


def test_gauges_of_other_roles_are_left_alone(serving):
    first = ask(serving, mode="heart").gauges
    assert ask(serving, mode="vocab", gauges=first).gauges["heart"] is first["heart"]


def test_a_prompt_longer_than_the_window_is_read_whole(serving, micro):
    made = ask(serving, text=TEXT * 30, max_tokens=3).answer
    assert made.prompt_tokens > 10 * micro.states["heart"].spec.context
    assert made.completion_tokens > 0 or made.finish == "stop"


@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_gets_an_answer_that_packs(serving, text):
    made = ask(serving, text=text, max_tokens=2).answer
    assert unpack(Answer, pack(made)).prompt_bytes == len(text.encode())


def test_a_lone_surrogate_is_refused_with_a_reason(serving):
    query = Query.model_construct(
        id="1-1", client="c", text="\ud800", max_tokens=0, seed=None, mode="routed", store=True
    )
    with pytest.raises(Rejected) as caught:
        Generation(serving.constellation, query, "1-1")
    made = refusal(serving, query, node="n", error=caught.value)
    assert (made.finish, made.problem.code, made.bundle) == ("refused", "lone_surrogate", 3)


def test_a_refusal_without_a_bundle_says_bundle_0():
    made = refusal(None, Query(text="x", id="q"), node="n", error=Rejected("code", "m" * 600))
    assert (made.bundle, made.query_id, len(made.problem.message)) == (0, "q", 512)


def test_the_interaction_holds_the_prompt_and_its_basin(serving, micro):
    kept = ask(serving).interaction
    assert np.allclose(kept.basin, micro.basin(micro.encoder.encode(TEXT)))
    assert (kept.size_bytes, kept.tokens, kept.at_s) == (len(TEXT), len(micro.encoder.encode(TEXT)), 100.0)


def test_constellation_mode_measures_all_four_together_once_512_transitions_were_heard(serving):
    gauges, told = {}, []
    for number in range(8):
        done = ask(serving, text=TEXT * 4, gauges=gauges, id=f"q{number}", mode="constellation", temperature=1.0)
        gauges = done.gauges
        told.append((gauges["constellation"].moments.n >= 512, done.answer.constellation_phi is not None))
    assert told[0] == (False, False)
    assert told[-1] == (True, True)
    assert all(enough == known for enough, known in told)
    assert done.answer.constellation_phi_p is not None
    assert done.answer.constellation_phi != done.answer.phi


def test_what_the_constellation_hears_and_says_both_count(serving):
    read = ask(serving, mode="constellation", max_tokens=0).gauges["constellation"].moments.n
    spoken = ask(serving, mode="constellation", max_tokens=40, temperature=1.0)
    assert read > 0
    assert spoken.answer.completion_tokens > 16
    assert spoken.gauges["constellation"].moments.n > read + 10


def test_of_other_queries_one_in_thirty_two_is_heard_by_all_four(serving):
    heard = ["constellation" in ask(serving, id=f"q{n}", max_tokens=0).gauges for n in range(160)]
    assert 1 <= sum(heard) <= 12
    assert heard == [seed_of(f"q{n}") % 32 == 0 for n in range(160)]


# What was learned here


@pytest.fixture(scope="module")
def learned(micro, serving):
    """An edge that has counted this text as new territory's, and as the nearest role's."""
    ids = micro.encoder.encode(TEXT)
    residue, basin = count([ids] * 3, 3), micro.basin(ids)
    home = micro.route(basin).steps[0].name
    return replace(serving, local=open_new(absorb(micro, micro, home, residue, None), residue, None, basin))


def test_what_was_learned_here_reads_the_prompt_and_leads_the_answer(serving, learned):
    before, after = ask(serving).answer, ask(learned).answer
    assert (after.domain, after.kernel) == (TERRITORY, before.kernel)
    assert after.prompt_bits < 0.7 * before.prompt_bits
    assert {step.domain for step in after.route} - {step.domain for step in before.route} == {TERRITORY}
    assert after.bundle == before.bundle


@pytest.mark.parametrize("mode", ["routed", "constellation", *ROLES])
def test_where_a_text_belongs_is_judged_by_the_bundle_whatever_was_learned_here(serving, learned, mode):
    before, after = ask(serving, mode=mode).interaction, ask(learned, mode=mode).interaction
    assert after.domain == before.domain
    assert after.bits == pytest.approx(before.bits, rel=1e-12)


def test_all_four_still_speak_once_each(learned):
    made = ask(learned, mode="constellation", max_tokens=20).answer
    assert made.completion_tokens > 0
    assert made.constellation_phi is None or 0 <= made.constellation_phi <= 1
