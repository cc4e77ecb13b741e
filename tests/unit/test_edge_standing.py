from hypothesis import given
from hypothesis import strategies as st

from services.edge.standing import BOOTS_MAX, LEFT_KEPT, Left, Proved, Standing


def left(digest, version=2):
    return Left(digest=digest, version=version, reason="why", before=2.0, after=2.5, at_s=9.0)


def booted(times, digest="new", standing=None):
    standing = standing or Standing(good="old")
    for _ in range(times):
        standing = standing.booted(digest)
    return standing


def test_two_boots_in_a_row_are_too_many():
    assert [booted(times).died_too_often for times in range(BOOTS_MAX + 2)] == [False, False, True, True]
    assert BOOTS_MAX == 2


def test_a_life_that_ended_in_good_order_begins_the_count_anew_and_so_does_another_bundle():
    assert not booted(1, standing=booted(1).rested()).died_too_often
    assert booted(1, "newer", booted(1)).boots == 1


def test_what_proved_good_is_on_trial_no_more():
    assert booted(1).approved("new") == Standing(good="new")


PROVED = Proved(digest="new", version=2, reason="64 answers", before=2.5, after=2.0)


def test_what_was_found_good_is_on_trial_no_more_before_that_is_told():
    standing = booted(1).found_good(PROVED)
    assert standing == Standing(good="new", proved=PROVED)
    assert standing.untold == (PROVED,)
    assert standing.told("old") == standing
    assert standing.told("new") == Standing(good="new")


def test_what_was_found_good_and_what_was_left_after_it_are_both_told():
    standing = booted(1).found_good(PROVED).booted("newer").without(left("newer", 3))
    assert [each.digest for each in standing.untold] == ["new", "newer"]
    assert [each.digest for each in standing.told("new").untold] == ["newer"]
    assert standing.approved("another").proved == PROVED


def test_a_standing_of_before_good_was_told_afterwards_is_read():
    old = '{"good":"old","trial":"new","boots":1,"left":[]}'
    assert Standing.model_validate_json(old) == Standing(good="old", trial="new", boots=1)


def test_what_was_left_is_remembered_once_and_told_once():
    standing = booted(2).without(left("new")).without(left("new"))
    assert standing.has_left("new")
    assert not standing.has_left("old")
    assert [each.digest for each in standing.untold] == ["new"]
    assert standing.told("new").untold == ()
    assert standing.told("new").has_left("new")


def test_the_oldest_that_were_left_are_forgotten():
    standing = Standing(good="old")
    for number in range(LEFT_KEPT + 1):
        standing = standing.without(left(str(number)))
    assert [standing.has_left(name) for name in ("0", "1", str(LEFT_KEPT))] == [False, True, True]


@given(st.text(), st.integers(0, 9), st.lists(st.text(min_size=1), max_size=4))
def test_what_is_kept_is_read_back(good, boots, names):
    standing = Standing(good=good, trial="x", boots=boots, left=tuple(map(left, names)), proved=PROVED)
    assert Standing.model_validate_json(standing.model_dump_json()) == standing
