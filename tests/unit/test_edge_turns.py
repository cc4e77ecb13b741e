import copy
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.edge.turns import Turns


def order(turns, slices):
    """The jobs in the order in which they are worked on, one slice each, none ever done."""
    worked = []
    for _ in range(slices):
        client, job = turns.take()
        worked.append(job)
        turns.give_back(client, job)
    return worked


def test_clients_take_turns_whatever_number_of_jobs_they_have():
    turns = Turns(active_max=8, waiting_max=100)
    for n in range(5):
        turns.add("many", f"m{n}")
    turns.add("one", "o")
    worked = order(turns, 12)
    assert worked.count("o") == 6
    assert [job for job in worked if job != "o"] == ["m0", "m1", "m2", "m3", "m4", "m0"]


def test_a_waiting_job_is_begun_before_its_client_s_begun_ones_go_on():
    turns = Turns(active_max=2, waiting_max=10)
    turns.add("a", "first")
    turns.give_back(*turns.take())
    turns.add("a", "second")
    assert order(turns, 2) == ["second", "first"]


@pytest.mark.parametrize(("active_max", "begun"), [(1, 1), (2, 2), (3, 3), (4, 3)])
def test_no_more_jobs_of_a_client_are_begun_than_may_be_active(active_max, begun):
    turns = Turns(active_max=active_max, waiting_max=10)
    for number in range(3):
        turns.add("a", number)
    taken = [found for found in (turns.take() for _ in range(4)) if found]
    assert (len(taken), turns.active, turns.waiting) == (begun, begun, 3 - begun)


@pytest.mark.parametrize(("others", "begun"), [(1, 1), (2, 2), (3, 2)])
def test_who_has_every_place_keeps_no_other_client_from_beginning_up_to_twice_as_many(others, begun):
    turns = Turns(active_max=2, waiting_max=20)
    for number in range(4):
        turns.add("first", number)
    taken = [turns.take() for _ in range(2)]
    assert not turns.wanted
    for number in range(others):
        turns.add(f"other-{number}", "mine")
    found = [turns.take() for _ in range(others)]
    assert [each is not None for each in found] == [True] * begun + [False] * (others - begun)
    for client, _ in taken:
        turns.drop(client)


@pytest.mark.parametrize(("waiting", "room"), [(3, True), (4, False), (5, False)])
def test_the_waiting_room_is_closed_at_its_limit(waiting, room):
    turns = Turns(active_max=1, waiting_max=4)
    for n in range(waiting):
        turns.add(f"c{n}", n)
    assert turns.add("late", "late") is room


@pytest.mark.parametrize(("own", "room"), [(1, True), (2, False)])
def test_one_client_has_half_of_the_waiting_room_at_most(own, room):
    turns = Turns(active_max=1, waiting_max=4)
    for n in range(own):
        turns.add("greedy", n)
    assert turns.add("greedy", "more") is room
    assert turns.add("other", "other")


def test_a_client_alone_may_wait_even_where_half_of_the_room_is_none():
    assert Turns(active_max=1, waiting_max=1).add("a", 1)


def test_a_job_that_was_not_begun_can_be_taken_out_and_one_that_was_cannot():
    turns = Turns(active_max=1, waiting_max=4)
    turns.add("a", "begun")
    turns.add("a", "waits")
    turns.take()
    assert turns.discard("a", "waits")
    assert not turns.discard("a", "waits")
    assert not turns.discard("a", "begun")
    assert not turns.discard("nobody", "begun")
    assert (turns.active, turns.waiting) == (1, 0)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["add", "take", "back", "drop", "discard"]))))
def test_whatever_happens_every_job_is_in_one_place_and_the_counts_say_so(story):
    turns, there, out, number = Turns(active_max=3, waiting_max=6), Counter(), [], 0
    for client, what in story:
        if what == "add":
            number += 1
            there[client] += turns.add(client, number)
        elif what == "take":
            found = turns.take()
            assert found is None or found not in out
            out += [found] if found else []
        elif what == "discard":
            there[client] -= turns.discard(client, number)
        elif out:
            owner, job = out.pop(0)
            if what == "back":
                turns.give_back(owner, job)
            else:
                turns.drop(owner)
                there[owner] -= 1
        assert 0 <= turns.active <= 6
        assert turns.wanted == (copy.deepcopy(turns).take() is not None)
        assert turns.ready == turns.active - len(out)
        assert 0 <= turns.waiting <= 6
        assert turns.active + turns.waiting == sum(there.values())
    for owner, _ in out:
        turns.drop(owner)
        there[owner] -= 1
    while turns.wanted:
        found = turns.take()
        turns.drop(found[0])
        there[found[0]] -= 1
    assert sum(there.values()) == turns.active == turns.waiting == 0
