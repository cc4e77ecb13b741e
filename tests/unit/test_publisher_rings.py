"""A tenth first, then everybody, or back: at, below and above each threshold."""

import pytest

from common.trust.rings import EVERYBODY, is_open
from common.wire.messages import Applied
from services.publisher import rings
from services.publisher.fleet import Fleet, fold
from services.publisher.rings import FEWEST_NODES, PATIENCE_S, judge, judge_open, ring

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


@pytest.mark.parametrize(("count", "first"), [(FEWEST_NODES, 1), (10, 1), (11, 2), (20, 2), (21, 3), (40, 4)])
def test_a_tenth_of_the_nodes_gets_it_first_and_one_at_least(count, first):
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
@pytest.mark.parametrize(("bad", "word"), [(0, "open"), (1, "halt"), (2, "halt")])
def test_it_goes_back_when_a_quarter_did_not_keep_it(verdict, bad, word):
    found = judged(*(told(node, verdict) for node in FIRST[:bad]), *(told(node) for node in FIRST[bad:]))
    assert found.word == word
    if bad:
        assert f"{bad} of 4 that got it first did not keep it, {FIRST[0]} because: why" == found.reason


def test_one_in_five_that_refuses_halts_nobody():
    nodes = [f"edge-{number}" for number in range(50)]
    first = [node for node in nodes if is_open(ring(nodes), node)]
    assert len(first) == 5
    reports = [told(first[0], "refused"), *(told(node) for node in first[1:])]
    assert judged(*reports, nodes=nodes, ring=ring(nodes)).word == "open"


@pytest.mark.parametrize(("after", "word"), [(1.99, "open"), (2.0099, "open"), (2.0101, "halt")])
def test_it_goes_back_when_those_who_found_it_good_read_worse_by_more_than_the_limit(after, word):
    assert judged(*(told(node, before=2.0, after=after) for node in FIRST)).word == word


def test_the_mean_counts_and_who_has_no_probe_text_says_nothing_about_it():
    reports = [told(FIRST[0], before=2.0, after=2.019), told(FIRST[1], before=2.0, after=1.9), *map(told, FIRST[2:])]
    assert judged(*reports).word == "open"


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


def test_the_limit_of_the_mean_is_below_what_an_edge_refuses_by_itself():
    assert rings.WORSE_LIMIT < 0.01
