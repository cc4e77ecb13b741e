"""A tenth first and three at least, then everybody, or back: at, below and above each threshold."""

import pytest

from common.trust.rings import EVERYBODY, is_open
from common.wire.messages import Applied
from services.publisher import rings
from services.publisher.fleet import Fleet, fold
from services.publisher.rings import FEWEST_NODES, PATIENCE_S, PEERS_LEAST, judge, judge_open, ring

NODES = [f"edge-{number}" for number in range(40)]
RING = ring(NODES)
FIRST = [node for node in NODES if is_open(RING, node)]
VERSION = 5


def told(node, verdict="good", before=None, after=None):
    return Applied(
        node=node, version=VERSION, verdict=verdict, reason="why", probe_before=before, probe_after=after, at_s=1.0
    )


def judged(*reports, waited_s=0.0, nodes=NODES, ring=RING):
    fleet = Fleet()
    for report in reports:
        fleet = fold(fleet, report)
    return judge(fleet, VERSION, ring=ring, nodes=nodes, waited_s=waited_s)


@pytest.mark.parametrize(("count", "first"), [(FEWEST_NODES, 3), (30, 3), (31, 4), (40, 4)])
def test_a_tenth_of_the_nodes_gets_it_first_and_three_at_least(count, first):
    nodes = NODES[:count]
    assert sum(is_open(ring(nodes), node) for node in nodes) == first


@pytest.mark.parametrize("count", [0, 1, FEWEST_NODES - 1])
def test_a_few_nodes_get_it_all_at_once(count):
    assert ring(NODES[:count]) == EVERYBODY


def test_the_nodes_that_come_first_are_always_the_same_whatever_the_order():
    assert ring(NODES[::-1]) == RING
    assert len(FIRST) == 4


@pytest.mark.parametrize(("good", "word"), [(0, "wait"), (2, "wait"), (3, "open"), (4, "open")])
def test_it_goes_to_everybody_when_three_quarters_found_it_good(good, word):
    reports = [*(told(node) for node in FIRST[:good]), *(told(node, "applied") for node in FIRST[good:])]
    assert judged(*reports).word == word


@pytest.mark.parametrize("verdict", ["refused", "reverted"])
@pytest.mark.parametrize(("bad", "word"), [(0, "open"), (1, "open"), (2, "halt"), (3, "halt")])
def test_it_goes_back_when_a_quarter_and_two_at_least_did_not_keep_it(verdict, bad, word):
    found = judged(*(told(node, verdict) for node in FIRST[:bad]), *(told(node) for node in FIRST[bad:]))
    assert found.word == word
    if word == "halt":
        assert f"{bad} of 4 that got it first did not keep it, {FIRST[0]} because: why" == found.reason


@pytest.mark.parametrize(("bad", "word"), [(2, "open"), (3, "halt")])
def test_of_many_a_quarter_still_takes_it_back(bad, word):
    nodes, first = among(120)
    assert len(first) == 12
    reports = [*(told(node, "refused") for node in first[:bad]), *(told(node) for node in first[bad:])]
    assert judged(*reports, nodes=nodes, ring=ring(nodes)).word == word


def among(count):
    """Nodes, and those of them that get a release first."""
    nodes = [f"edge-{number}" for number in range(count)]
    return nodes, [node for node in nodes if is_open(ring(nodes), node)]


# Peer review: three of them, one a liar


PEERS, (LIAR, ONE, OTHER) = among(FEWEST_NODES)
LIES = [
    told(LIAR, "refused"), told(LIAR, "reverted"), told(LIAR, before=1.0, after=1e6), told(LIAR, before=1.0, after=0.0),
    told(LIAR), None,
]  # fmt: skip


def reviewed(*reports, waited_s=0.0):
    said = [report for report in reports if report is not None]
    return judged(*said, nodes=PEERS, ring=ring(PEERS), waited_s=waited_s).word


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("figures", [{}, {"before": 2.0, "after": 1.9}, {"before": 2.0, "after": 2.0099}])
def test_one_liar_of_three_stops_no_good_release(lie, figures):
    assert PEERS_LEAST == 3
    assert reviewed(lie, told(ONE, **figures), told(OTHER, **figures)) == "open"
    assert reviewed(lie, told(ONE), told(OTHER, **figures)) == "open"


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("bad", [{"verdict": "refused"}, {"verdict": "reverted"}, {"before": 2.0, "after": 2.0101}])
def test_one_liar_of_three_passes_no_bad_release(lie, bad):
    assert reviewed(lie, told(ONE, **bad), told(OTHER, **bad)) == "halt"
    assert reviewed(lie, told(ONE, "refused"), told(OTHER, **bad), waited_s=PATIENCE_S + 1) == "halt"


def test_a_release_of_which_two_of_three_say_nothing_is_not_opened_by_the_third():
    assert [reviewed(told(LIAR), waited_s=waited_s) for waited_s in (0.0, PATIENCE_S + 1)] == ["wait", "halt"]


@pytest.mark.parametrize(("verdicts", "word"), [(("applied", None), "wait"), (("applied", "refused"), "halt")])
def test_where_two_are_left_both_must_keep_it(verdicts, word):
    reports = [told(node, verdict) for node, verdict in zip(PEERS[:2], verdicts, strict=True) if verdict]
    assert judged(*reports, nodes=PEERS[:2], ring=EVERYBODY).word == word


@pytest.mark.parametrize(("after", "word"), [(1.99, "open"), (2.0099, "open"), (2.0101, "halt")])
def test_it_goes_back_when_those_who_found_it_good_read_worse_by_more_than_the_limit(after, word):
    assert judged(*(told(node, before=2.0, after=after) for node in FIRST)).word == word


@pytest.mark.parametrize(("worse", "word"), [(1, "open"), (2, "open"), (3, "halt"), (4, "halt")])
def test_the_median_counts_and_who_has_no_probe_text_reads_it_as_before(worse, word):
    reports = [told(node, before=2.0, after=2.019) for node in FIRST[:worse]]
    assert judged(*reports, *map(told, FIRST[worse:])).word == word


@pytest.mark.parametrize(("waited_s", "word"), [(PATIENCE_S, "wait"), (PATIENCE_S + 1, "halt")])
def test_silence_is_bad_news_after_a_while_and_so_is_a_trial_without_end(waited_s, word):
    found = judged(*map(told, FIRST[:2]), told(FIRST[2], "applied"), waited_s=waited_s)
    assert found.word == word
    if word == "halt":
        assert found.reason == "2 of 4 that got it first did not say for 601 s whether it is good"


def test_what_others_say_does_not_count():
    others = [node for node in NODES if node not in FIRST]
    assert (
        judged(*(told(node, "refused") for node in others), *(told("stranger", "refused") for _ in "x")).word == "wait"
    )


def judged_open(of, left, verdict="reverted"):
    reports = [told(node, verdict) for node in NODES[:left]] + [told(node, "good") for node in NODES[left:of]]
    fleet = Fleet()
    for report in reports:
        fleet = fold(fleet, report)
    return judge_open(fleet, VERSION)


@pytest.mark.parametrize(
    ("of", "left", "word"),
    [
        (1, 0, "wait"), (1, 1, "halt"), (2, 1, "wait"), (2, 2, "halt"), (4, 1, "wait"), (4, 2, "halt"),
        (8, 1, "wait"), (8, 2, "halt"), (12, 2, "wait"), (12, 3, "halt"), (40, 9, "wait"), (40, 10, "halt"),
    ],
)  # fmt: skip
def test_what_everybody_has_goes_back_when_a_quarter_and_two_or_all_went_back_from_it(of, left, word):
    found = judged_open(of, left)
    assert found.word == word
    if word == "halt":
        assert found.reason == f"{left} of {of} went back from it, {NODES[0]} because: why"


def test_what_everybody_has_does_not_go_back_for_those_who_refuse_it():
    assert judged_open(4, 4, "refused").word == "wait"


def test_those_who_are_still_to_report_count_as_nodes_that_did_not_go_back():
    fleet = Fleet()
    for node in NODES:
        fleet = fold(fleet, told(node).model_copy(update={"version": VERSION - 1}))
    for node in NODES[:9]:
        fleet = fold(fleet, told(node, "reverted"))
    assert judge_open(fleet, VERSION).word == "wait"
    assert judge_open(fold(fleet, told(NODES[9], "reverted")), VERSION).word == "halt"


def test_where_nobody_is_known_nothing_is_opened_and_nothing_taken_back():
    assert judged(nodes=[], waited_s=PATIENCE_S * 10).word == "wait"


def test_the_limit_of_the_median_is_below_what_an_edge_refuses_by_itself():
    assert rings.WORSE_LIMIT < 0.01
