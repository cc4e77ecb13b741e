"""The same reports give the same counts, however often and in whatever order they come."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.wire.messages import Applied
from services.publisher import fleet as module
from services.publisher.fleet import VERSIONS_KEPT, WORDS, Fleet, fold, serving

REPORTS = st.builds(
    Applied,
    node=st.sampled_from(["a", "b", "c"]),
    version=st.integers(1, 3),
    verdict=st.sampled_from(WORDS),
    reason=st.sampled_from(["", "worse"]),
    at_s=st.sampled_from([1.0, 2.0, 3.0]),
)


def report(node="a", version=1, verdict="applied", at_s=1.0):
    return Applied(node=node, version=version, verdict=verdict, at_s=at_s)


def folded(*reports):
    fleet = Fleet()
    for one in reports:
        fleet = fold(fleet, one)
    return fleet


def test_a_nodes_latest_verdict_counts():
    fleet = folded(report(), report("b"), report(verdict="reverted", at_s=2.0), report(verdict="applied", at_s=0.5))
    assert fleet.counts(1) == {"applied": 1, "good": 0, "refused": 0, "reverted": 1}
    assert fleet.counts(2) == {"applied": 0, "good": 0, "refused": 0, "reverted": 0}


def test_what_was_found_good_and_then_left_is_left_and_what_was_only_applied_is_on_trial():
    fleet = folded(report(verdict="good", at_s=2.0), report(), report(verdict="reverted", at_s=3.0), report("b"))
    assert fleet.counts(1) == {"applied": 1, "good": 0, "refused": 0, "reverted": 1}


def test_the_nodes_of_a_version_are_those_of_the_one_before_it_too():
    fleet = folded(report("old", version=1), report("b", version=3), report("c", version=5), report("d", version=6))
    assert [fleet.nodes(version) for version in (1, 3, 5, 9)] == [{"old"}, {"old", "b"}, {"b", "c"}, {"d"}]


@given(st.lists(REPORTS, max_size=12), st.randoms())
@settings(max_examples=100)
def test_order_and_repetition_change_nothing(reports, rng):
    again = reports * 2
    rng.shuffle(again)
    assert folded(*again) == folded(*reports)


def test_only_the_newest_versions_are_kept():
    fleet = folded(*[report(version=n) for n in range(1, VERSIONS_KEPT + 2)])
    assert sorted(fleet.reports) == list(range(2, VERSIONS_KEPT + 2))
    assert fold(fleet, report(version=1)) == fleet


def test_a_version_takes_so_many_nodes_and_then_only_their_news(monkeypatch):
    monkeypatch.setattr(module, "NODES_KEPT", 2)
    fleet = folded(report("a"), report("b"), report("c"), report("a", verdict="reverted", at_s=9.0))
    assert fleet.counts(1) == {"applied": 1, "good": 0, "refused": 0, "reverted": 1}


@pytest.mark.parametrize(("verdict", "version"), [("applied", 2), ("good", 2), ("refused", 1), ("reverted", 1)])
def test_a_node_serves_the_newest_version_that_it_kept(verdict, version):
    fleet = folded(report(verdict="good"), report(version=2, at_s=2.0), report("b"))
    assert serving(fold(fleet, report(version=2, verdict=verdict, at_s=3.0))) == {"a": version, "b": 1}


def test_of_a_node_that_kept_nothing_nobody_knows_what_it_serves():
    assert serving(folded(report(verdict="refused"))) == {}
