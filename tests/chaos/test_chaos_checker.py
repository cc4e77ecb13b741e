"""The checker finds each thing that can be wrong, and nothing where all is well."""

from dataclasses import replace

import pytest
from checker import Left, Letter, Told, Work, answer_of, batch_of, complaints

WAVE = ("p0 plain", "p1 plain")
QUERIES = ("q0 plain", "q1 wrong", "q2 deadly")
WRONG = Letter("2-0", "wrong", "it was made so", "q1 wrong")
DEADLY = Letter("3-0", "never_finished", "delivered 6 times", "q2 deadly")


@pytest.fixture
def told():
    outcomes = {"q0 plain": [answer_of("q0 plain")], "q1 wrong": ["wrong"], "q2 deadly": ["never_finished"]}
    return Told(QUERIES, outcomes, (WAVE,), {batch_of(WAVE)})


@pytest.fixture
def left():
    names = ("edge.7.ab", "edge.7.ab-claim")
    queries = Work(added=3, counts={"1-0": 1}, letters=(WRONG, DEADLY), consumers=names)
    return Left(
        work={"queries": queries, "packets": Work(added=2, counts={"1-0": 1, "2-0": 1})},
        answers=(("q0", answer_of("q0 plain")),),
        batches=(batch_of(WAVE),),
        heard={"edge": (("7", "1-0"), ("7", "2-0"), ("8", "2-0"), ("8", "10-0"))},
        news=("1-0", "2-0", "10-0"),
        alive=(7,),
    )


def with_work(left, stream, **change):
    return replace(left, work={**left.work, stream: replace(left.work[stream], **change)})


def one(found, text):
    """There is one complaint, and it says this."""
    assert len(found) == 1, found
    assert text in found[0]


def test_there_is_nothing_to_complain_of_where_all_is_accounted_for(told, left):
    assert complaints(told, left) == []


@pytest.mark.parametrize("got", [[], ["never_finished"], [answer_of("q0 plain")] * 2, ["nonsense"]])
def test_a_client_that_is_not_told_the_one_right_thing(told, left, got):
    told.outcomes["q0 plain"] = got
    one(complaints(told, left, forgot=True), "the client of 'q0 plain' was told")


def test_a_query_that_is_answered_twice(told, left):
    one(complaints(told, replace(left, answers=left.answers * 2)), "query q0 has 2 answers")


@pytest.mark.parametrize("answer", [("q0", "nonsense"), ("q1", answer_of("q1 wrong")), ("q9", "?")])
def test_an_answer_that_nobody_should_have(told, left, answer):
    found = complaints(told, replace(left, answers=(*left.answers, answer)), forgot=True)
    assert f"query {answer[0]} has the answer {answer[1]!r}" in found


def test_an_answer_may_be_gone_only_where_the_broker_forgot(told, left):
    gone = replace(left, answers=())
    one(complaints(told, gone), "query q0 has no answer in its stream")
    assert complaints(told, gone, forgot=True) == []


def test_a_batch_that_is_there_twice(told, left):
    found = complaints(told, replace(left, batches=left.batches * 2))
    assert "the batch of wave 0 is there 2 times" in found
    assert f"packet {b'p0 plain'!r} is in 2 batches" in found


def test_a_batch_may_be_gone_only_where_the_broker_forgot_and_its_producer_saw_it(told, left):
    gone = replace(left, batches=())
    one(complaints(told, gone), "there is no batch with just the packets of wave 0")
    assert complaints(told, gone, forgot=True) == []
    told.batched.clear()
    one(complaints(told, gone, forgot=True), "there is no batch with just the packets of wave 0")


@pytest.mark.parametrize("batch", [b"p0 plain", b"p0 plain\np1 plain\np2 plain"])
def test_a_batch_that_lacks_a_packet_or_has_a_foreign_one(told, left, batch):
    found = complaints(told, replace(left, batches=(batch,)))
    assert found == [
        "there is no batch with just the packets of wave 0", f"a batch that no undisturbed run has: {batch!r}"
    ]  # fmt: skip


@pytest.mark.parametrize("what", ["pending", "outbox"])
def test_something_that_is_left_on_its_way(told, left, what):
    one(complaints(told, with_work(left, "packets", **{what: 1})), "packets: 1 ")


def test_an_entry_that_still_waits(told, left):
    one(complaints(told, with_work(left, "packets", length=1, added=3)), "packets: 1 waiting")


def test_a_packet_that_waits_in_the_ledger(told, left):
    one(complaints(told, replace(left, ledger=1)), "1 packets wait in the ledger")


def test_an_entry_that_is_gone_without_an_effect(told, left):
    one(complaints(told, with_work(left, "packets", added=3)), "of 3 entries 2 had an end")


def test_an_entry_that_had_its_effect_twice(told, left):
    one(complaints(told, with_work(left, "packets", counts={"1-0": 1, "2-0": 2})), "entry 2-0 had its effect 2 times")


def test_an_entry_that_had_its_effect_and_is_a_dead_letter(told, left):
    both = with_work(left, "queries", counts={"1-0": 1, "2-0": 1}, added=4)
    one(complaints(told, both), "entry 2-0 had its effect, and is a dead letter")


def test_an_entry_that_is_two_dead_letters(told, left):
    one(complaints(told, with_work(left, "queries", letters=(WRONG, WRONG, DEADLY))), "entry 2-0 is 2 dead letters")


@pytest.mark.parametrize(
    "letter",
    [replace(WRONG, text="q0 plain"), replace(WRONG, code="never_finished"), replace(WRONG, reason="")],
)
def test_a_dead_letter_of_a_good_message_or_for_a_wrong_reason_or_for_none(told, left, letter):
    one(complaints(told, with_work(left, "queries", letters=(letter, DEADLY))), "is a dead letter")


def test_a_packet_may_be_refused_as_a_replay_only_if_it_came_twice(told, left):
    again = with_work(left, "packets", added=3, letters=(Letter("3-0", "replayed", "it was taken before", "p0 plain"),))
    one(complaints(told, again), "'p0 plain' is a dead letter, replayed")
    told.again.add("p0 plain")
    assert complaints(told, again) == []


def test_a_consumer_of_a_process_that_is_gone_stays_only_where_the_clock_was_set_back(told, left):
    gone = replace(left, alive=(8,))
    assert len(complaints(told, gone)) == 2
    assert complaints(told, gone, turned_back=True) == []


def test_a_broadcast_that_a_follower_did_not_hear(told, left):
    one(complaints(told, replace(left, news=(*left.news, "11-0"))), "edge did not hear ['11-0']")


def test_broadcasts_that_a_follower_heard_out_of_order_in_one_life(told, left):
    mixed = replace(left, heard={"edge": (("7", "10-0"), ("7", "2-0"), ("7", "1-0"))})
    assert complaints(told, mixed) == ["edge heard 2-0 after 10-0", "edge heard 1-0 after 2-0"]
    assert complaints(told, mixed, forgot=True) == []


def test_a_process_that_ended_by_itself(told, left):
    one(complaints(told, replace(left, ended=("edge ended with code 1",))), "edge ended with code 1")
