import json

import numpy as np
import pytest

from common.wire.bundle import part_of
from common.wire.fields import QUERY_MAX_CHARS
from common.wire.inference import Answer, RouteStep
from common.wire.messages import Applied, Bundle, Evidence, Figure, Heartbeat
from services.edge.atlas import atlas
from services.edge.live import ANSWERS_MAX, BUNDLES_MAX, EVENTS_MAX, KEPT_S, SERVICES_MAX, VERDICTS_MAX, Live

T = 1_000.0


@pytest.fixture
def live():
    return Live("edge-1")


def answer(kernel="heart", **fields):
    route = (RouteStep(domain="heart", kernel="heart", distance_rad=0.2, weight=1.0),)
    said = {"query_id": "secret-id", "client": "somebody", "text": "a private text", "node": "edge-1", "bundle": 1}
    basis = {"route": route, "domain": kernel, "phi": 0.8, "kappa": 60.0, "phase": "CRYSTAL", "finish": "stop"}
    return Answer(**(said | basis | {"kernel": kernel, "prompt_bytes": 10, "prompt_bits": 20.0} | fields))


def beat(node="edge-1", at_s=T, **fields):
    return Heartbeat(**({"node": node, "service": "edge", "at_s": at_s, "bundle": 1, "ready": True} | fields))


def bundle(version=1, figures=()):
    return Bundle(
        version=version, id="c", parent=version - 1, parent_digest="", parts={"a": part_of(b"x")},
        evidence=Evidence(figures=figures), released_at_s=T, key=bytes(8), signature=bytes(64),
    )  # fmt: skip


def applied(version=1):
    return Applied(node="edge-1", version=version, verdict="applied", probe_before=2.0, probe_after=1.9, at_s=T)


def test_everything_that_happened_is_in_the_state_and_is_json(live):
    live.serves(3, atlas({"heart": np.array([0.9, 0.1]), "vocab": np.array([0.1, 0.9])}))
    live.answered(answer(constellation_phi=0.9), T, 131.0)
    live.looked([{"stream": "qig:queries", "length": 2}], T)
    live.beat(beat())
    live.applied(applied())
    live.released(bundle(figures=(Figure(name="bits_per_byte", domain="heart", before=2.0, after=1.9, unit="bit/B"),)))
    told = json.loads(json.dumps(live.state(T)))
    assert (told["node"], told["bundle"], told["number"]) == ("edge-1", 3, 6)
    assert told["limits"]["text_max_chars"] == QUERY_MAX_CHARS
    assert told["map"]["names"] == ["heart", "vocab"]
    assert told["series"]["heart"] == [{"at_s": 1000, "phi": 0.8, "phi_n": 131, "kappa": 60.0, "phase": "CRYSTAL"}]
    assert [point["phi"] for point in told["series"]["constellation"]] == [0.9]
    assert told["answers"][0]["bits_per_byte"] == 2.0
    assert told["broker"] == {"at_s": T, "away": None, "streams": [{"stream": "qig:queries", "length": 2}]}
    assert [each["node"] for each in told["services"]] == ["edge-1"]
    assert told["applied"][0]["probe_after"] == 1.9
    assert told["bundles"][0]["figures"] == [{"domain": "heart", "before": 2.0, "after": 1.9}]


def test_no_text_no_client_and_no_id_is_told(live):
    live.answered(answer(), T, 131.0)
    told = json.dumps(live.state(T)) + json.dumps([event.data for event in live.after(0)])
    assert all(word not in told for word in ("private", "somebody", "secret"))


def test_who_saw_the_state_gets_what_came_after_it_once_and_in_order(live):
    live.beat(beat("edge-1"))
    seen = live.state(T)["number"]
    live.answered(answer(), T, 131.0)
    live.looked([], T)
    assert [event.kind for event in live.after(seen)] == ["answer", "broker"]
    assert live.after(live.newest) == []


def test_who_is_too_far_behind_or_saw_another_life_of_the_edge_is_told_everything_anew(live):
    for _ in range(EVENTS_MAX + 1):
        live.looked([], T)
    assert live.after(0) is None
    assert len(live.after(1)) == EVENTS_MAX
    assert live.after(live.newest + 1) is None


def test_a_kernel_has_one_point_a_second_the_last(live):
    for phi, at_s in ((0.1, T), (0.2, T + 0.9), (0.3, T + 1)):
        live.answered(answer(phi=phi), at_s, 131.0)
    assert [point["phi"] for point in live.state(T)["series"]["heart"]] == [0.2, 0.3]


@pytest.mark.parametrize(("age_s", "kept"), [(KEPT_S - 1, 1), (KEPT_S, 1), (KEPT_S + 1, 0)])
def test_what_is_older_than_a_quarter_of_an_hour_is_no_longer_told(live, age_s, kept):
    live.answered(answer(), T, 131.0)
    live.beat(beat())
    told = live.state(T + age_s)
    assert [len(told["series"]["heart"]), len(told["answers"]), len(told["services"])] == [kept] * 3


def test_nothing_grows_without_bound(live):
    for n in range(2 * EVENTS_MAX):
        live.answered(answer(), T + n, 131.0)
        live.beat(beat(f"edge-{n}", T + n))
        live.applied(applied(n + 1))
        live.released(bundle(n + 1))
    told = live.state(T + n)
    assert len(told["answers"]) == ANSWERS_MAX
    assert len(told["series"]["heart"]) <= KEPT_S + 1
    assert (len(told["services"]), len(told["applied"]), len(told["bundles"])) == (
        SERVICES_MAX, VERDICTS_MAX, BUNDLES_MAX,
    )  # fmt: skip
    assert told["services"][-1]["node"] == f"edge-{n}"


def test_a_release_that_comes_again_for_everybody_is_told_once(live):
    for version in (1, 2, 2):
        live.released(bundle(version))
    assert [each["version"] for each in live.state(T)["bundles"]] == [1, 2]
    assert [event.data["version"] for event in live.after(0)] == [1, 2]


def test_an_answer_that_no_kernel_made_is_passed(live):
    live.answered(answer(kernel=None, domain=None, route=(), finish="refused"), T, 131.0)
    assert live.newest == 0


def test_a_broker_that_is_away_leaves_what_was_last_seen_and_its_return_clears_the_reason(live):
    live.looked([{"stream": "qig:queries"}], T)
    live.away("connection refused", T + 2)
    assert live.state(T)["broker"] == {
        "at_s": T + 2,
        "away": "connection refused",
        "streams": [{"stream": "qig:queries"}],
    }
    live.looked([], T + 4)
    assert live.state(T)["broker"]["away"] is None


def test_of_two_beats_of_a_service_the_newer_counts_whatever_their_order(live):
    live.beat(beat(at_s=T, bundle=2))
    live.beat(beat(at_s=T - 5, bundle=1))
    assert [each["bundle"] for each in live.state(T)["services"]] == [2]


def test_other_figures_than_bits_per_byte_are_no_part_of_the_time_line(live):
    live.released(bundle(figures=(Figure(name="kappa", domain="heart", before=None, after=60.0, unit="1"),)))
    assert live.state(T)["bundles"][0]["figures"] == []
