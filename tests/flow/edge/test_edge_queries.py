import asyncio
import threading

import pytest
from edge_fleet import NODE, TEXT, answers, bundles_to, delivery_of

from common.constants import PHASES, ROLES
from common.errors import Corrupt, Rejected, Unavailable
from common.runtime import metrics, streams
from common.runtime.effects import follow
from common.runtime.entries import Delivery, body_of
from common.wire.codec import pack, unpack, unpack_reply
from common.wire.inference import Answer, Cancel, Query
from services.edge.answer import conclude
from services.edge.app import queries, state_dir
from services.edge.generation import Generation

pytestmark = pytest.mark.anyio


async def replies(redis, client="anonymous"):
    return [unpack_reply(body_of(fields)) for _, fields in await redis.xrange(streams.answers(client))]


async def test_a_query_is_answered_to_its_client_under_its_id(edge):
    (sent,) = await edge.queries.on_query(delivery_of("7-0"), Query(text=TEXT, client="kiosk", max_tokens=4))
    made = unpack(Answer, sent.message)
    assert (sent.stream, sent.id) == (streams.answers("kiosk"), "7-0")
    assert (made.node, made.bundle, made.query_id) == (NODE, 1, "7-0")


async def test_a_redelivered_query_gets_the_stored_answer_also_after_a_restart(edge, life):
    query = Query(text=TEXT, max_tokens=4, temperature=2.0)
    (first,) = await edge.queries.on_query(delivery_of("7-0"), query)
    (second,) = await (await life()).queries.on_query(delivery_of("7-0"), query)
    assert first == second


@pytest.mark.parametrize("max_tokens", [0, 8])
async def test_of_what_may_not_be_stored_no_byte_is_on_the_disk(edge, home, max_tokens):
    query = Query(text="swordfish " + TEXT, max_tokens=max_tokens, store=False, id="q-7", client="kiosk-9")
    (sent,) = await edge.queries.on_query(delivery_of("7-0"), query)
    assert unpack(Answer, sent.message).prompt_bits > 0
    assert edge.node.record.texts.answer_to("kiosk-9", "q-7") is None
    assert edge.node.record.texts.fresh() == []
    kept = b"".join(path.read_bytes() for path in state_dir(home, NODE).rglob("edge.db*"))
    assert not any(mark in kept for mark in (b"swordfish", TEXT.encode(), b"q-7", b"kiosk-9"))
    await edge.queries.on_query(delivery_of("8-0"), query.model_copy(update={"store": True}))
    kept = b"".join(path.read_bytes() for path in state_dir(home, NODE).rglob("edge.db*"))
    assert b"swordfish" in kept  # the search would have found it


async def test_what_is_redacted_is_on_no_disk_and_the_kernel_reads_it_all_the_same(edge, home):
    texts = ["swordfish@example.org", TEXT + "swordfish@example.org"]
    for number, text in enumerate(texts):
        (sent,) = await edge.queries.on_query(delivery_of(f"{number + 1}-0"), Query(text=text, max_tokens=0))
        assert unpack(Answer, sent.message).prompt_bytes == len(text)
    kept = b"".join(path.read_bytes() for path in state_dir(home, NODE).rglob("edge.db*"))
    assert b"swordfish" not in kept
    assert b"king. [e-mail]" in kept


async def test_an_answer_that_holds_what_is_redacted_is_computed_again_and_not_kept(life, edge, monkeypatch):
    monkeypatch.setattr("services.edge.redaction.BUILT_IN", {"emails": lambda text: "" if text != TEXT else text})
    query = Query(text=TEXT, max_tokens=8)
    strict = await life(redact="emails")
    (first,) = await strict.queries.on_query(delivery_of("7-0"), query)
    assert strict.node.record.texts.answer_to("anonymous", "7-0") is None
    assert [each.interactions for each in strict.node.record.texts.fresh()] == [1]
    (second,) = await strict.queries.on_query(delivery_of("7-0"), query)
    assert unpack(Answer, first.message).text == unpack(Answer, second.message).text != ""


async def test_an_operator_s_function_that_fails_keeps_nothing_and_answers_all_the_same(life, edge):
    failing = await life(redact="builtins:len")
    (sent,) = await failing.queries.on_query(delivery_of("7-0"), Query(text=TEXT, max_tokens=4))
    assert unpack(Answer, sent.message).completion_tokens > 0
    assert failing.node.record.texts.find("anonymous", "7-0") is None


async def test_a_redaction_that_nobody_knows_stops_the_start(life, publisher):
    with pytest.raises(Rejected, match="QIG_REDACT=email"):
        await life(redact="email")


async def test_a_refused_query_is_told_why_and_buried(edge, monkeypatch, redis):
    def refuse(*_, **__):
        raise Rejected("lone_surrogate", "half a character")

    monkeypatch.setattr(queries, "Generation", refuse)
    with pytest.raises(Rejected):
        await edge.queries.on_query(delivery_of("7-0"), Query(text="x"))
    (told,) = await answers(redis)
    assert (told.finish, told.problem.code, told.query_id) == ("refused", "lone_surrogate", "7-0")


async def test_a_query_that_streams_is_told_in_pieces_which_together_are_its_answer(edge, redis):
    query = Query(id="q", text=TEXT, max_tokens=40, stream=True, seed=1)
    (sent,) = await edge.queries.on_query(delivery_of(), query)
    pieces = await replies(redis)
    assert pieces
    assert [(piece.query_id, piece.index) for piece in pieces] == [("q", n) for n in range(len(pieces))]
    made = unpack(Answer, sent.message)
    assert "".join(piece.text for piece in pieces) == made.text
    assert sum(piece.tokens for piece in pieces) == made.completion_tokens


async def test_a_piece_is_with_the_client_while_the_next_is_not_yet_said(edge, redis, eventually, monkeypatch):
    allowed = threading.Semaphore(0)

    class Held(Generation):
        def say(self, _):
            assert allowed.acquire(timeout=10)
            return super().say(1)

    monkeypatch.setattr(queries, "Generation", Held)
    query = Query(id="q", text=TEXT, max_tokens=40, stream=True, seed=1)
    making = asyncio.create_task(edge.queries.on_query(delivery_of(), query))
    await eventually(lambda: any(turn.listening for turn in edge.queries._turns.values()))
    allowed.release()
    await eventually(lambda: replies(redis))
    (first,) = await replies(redis)
    assert not making.done()
    allowed.release(query.max_tokens)
    (sent,) = await making
    told = await replies(redis)
    assert (told[0], first.index, first.tokens) == (first, 0, 1)
    assert len(told) > 1
    assert "".join(piece.text for piece in told) == unpack(Answer, sent.message).text


async def test_without_stream_there_are_no_pieces(edge, redis):
    await edge.queries.on_query(delivery_of(), Query(text=TEXT, max_tokens=40))
    assert await replies(redis) == []


async def test_many_queries_are_answered_at_once_and_each_as_if_it_were_alone(edge):
    queries = [Query(id=f"q{n}", client=f"c{n % 3}", text=TEXT * (n % 4 + 1), max_tokens=20) for n in range(24)]
    together = await asyncio.gather(*(edge.queries.on_query(delivery_of(), query) for query in queries))
    for query, (sent,) in zip(queries, together, strict=True):
        alone = Generation(edge.node.serving.constellation, query, query.id)
        assert list(alone)
        assert unpack(Answer, sent.message).text == alone.text


async def test_a_cancelled_query_ends_between_two_tokens_and_its_answer_says_so(edge, eventually, resting):
    query = Query(id="q", client="me", text=TEXT, max_tokens=100, temperature=1.0)
    making = asyncio.create_task(edge.queries.on_query(delivery_of(), query))
    await eventually(lambda: resting.made and resting.made[0].tokens == 3)
    for wanted in (Cancel(query_id="q", client="you"), Cancel(query_id="other", client="me")):
        await edge.queries.on_cancel(delivery_of("2-0", streams.CANCEL, pack(wanted)))
    assert not edge.queries._turns["me", "q"].left
    await edge.queries.on_cancel(delivery_of("3-0", streams.CANCEL, pack(Cancel(query_id="q", client="me"))))
    resting.wake.set()
    (sent,) = await making
    made = unpack(Answer, sent.message)
    assert (made.finish, made.query_id, made.problem) == ("cancelled", "q", None)
    assert 3 <= made.completion_tokens <= 4
    assert edge.queries._turns == {}


async def test_a_query_whose_cancel_came_first_is_not_begun(edge, resting):
    await edge.queries.on_cancel(delivery_of("1-0", streams.CANCEL, pack(Cancel(query_id="q", client="me"))))
    sent, *then = await edge.queries.on_query(delivery_of(), Query(id="q", client="me", text=TEXT, max_tokens=100))
    made = unpack(Answer, sent.message)
    assert (made.text, made.problem.code) == ("", "cancelled")
    before = [sample("qig_queries_total", outcome=each) for each in ("cancelled", "refused")]
    follow(then)
    assert [sample("qig_queries_total", outcome=each) for each in ("cancelled", "refused")] == [
        before[0] + 1,
        before[1],
    ]
    assert resting.made == []


async def test_of_the_cancels_that_came_first_the_newest_are_remembered(edge, monkeypatch):
    monkeypatch.setattr(queries, "CANCELS_KEPT", 2)
    for name in ("old", "q", "new"):
        await edge.queries.on_cancel(delivery_of("1-0", streams.CANCEL, pack(Cancel(query_id=name, client="me"))))
    assert list(edge.queries._cancelled) == [("me", "q"), ("me", "new")]


@pytest.mark.parametrize("error", [Unavailable("disk_full", "no space left"), Corrupt("not_a_record", "damaged")])
async def test_a_disk_that_is_full_or_damaged_keeps_no_answer_from_its_client(edge, monkeypatch, caplog, error):
    def refuse(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        for step in ("add", "answer_to"):
            patch.setattr(edge.node.record.texts, step, refuse)
        for deliveries in (1, 2):
            query = Query(id=f"q{deliveries}", text=TEXT, max_tokens=2)
            (sent,) = await edge.queries.on_query(Delivery(streams.QUERIES, "1-0", 1, deliveries, b""), query)
            assert unpack(Answer, sent.message).completion_tokens == 2
    assert sum("nothing is kept" in line for line in caplog.messages) == 1
    assert edge.node.record.texts.fresh() == []
    await edge.queries.on_query(delivery_of(), Query(id="later", text=TEXT, max_tokens=2))
    assert [each.interactions for each in edge.node.record.texts.fresh()] == [1]


@pytest.mark.parametrize(("age_s", "finish"), [(1.0, "read"), (2.0, "refused"), (3.0, "refused")])
async def test_a_query_past_its_deadline_is_refused_with_the_time_to_ask_again(edge, clock, age_s, finish):
    at_ms = int(clock[0] * 1000)
    clock[0] = at_ms / 1000 + age_s
    query = Query(id="q", text=TEXT, max_tokens=0, deadline_s=2.0)
    before = sample("qig_queries_total", outcome="refused")
    sent, *then = await edge.queries.on_query(Delivery(streams.QUERIES, f"{at_ms}-0", at_ms, 1, b""), query)
    made = unpack(Answer, sent.message)
    assert made.finish == finish
    if finish == "refused":
        assert sample("qig_queries_total", outcome="refused") == before  # once that is said, and not by a try
        follow(then)
        assert sample("qig_queries_total", outcome="refused") == before + 1
        assert (made.problem.code, made.problem.retry_after_s >= 1) == ("deadline", True)
        assert "the deadline is too short" in made.problem.message
        assert edge.node.record.texts.answer_to("anonymous", "q") is None


@pytest.mark.parametrize(("left_s", "refused"), [(0.31, False), (0.3, True), (0.29, True)])
async def test_a_query_without_three_times_the_expected_time_is_turned_away(edge, clock, monkeypatch, left_s, refused):
    monkeypatch.setattr(edge.queries.scheduler, "expected_s", lambda ahead=0: 0.1 if ahead == 7 else 0.0)
    at_ms = int(clock[0]) * 1000
    clock[0] = at_ms / 1000 + 2.0 - left_s
    delivery = Delivery(streams.QUERIES, f"{at_ms}-0", at_ms, 1, b"")
    effects = edge.queries.turn_away(delivery, Query(text=TEXT, client="me", deadline_s=2.0), 7)
    assert (effects is not None) == refused
    if effects is not None:
        sent = effects[0]
        made = unpack(Answer, sent.message)
        assert (sent.stream, sent.id, made.query_id) == (streams.answers("me"), f"{at_ms}-0", f"{at_ms}-0")
        assert (made.finish, made.problem.code, made.problem.retry_after_s >= 1) == ("refused", "deadline", True)


@pytest.mark.parametrize("ahead_s", [3600.0, -3600.0])
async def test_an_edge_whose_clock_is_wrong_holds_queries_to_their_deadlines(edge, clock, ahead_s):
    at_ms = int(clock[0] * 1000)
    query = Query(id="q", text=TEXT, max_tokens=0, deadline_s=2.0)
    delivery = Delivery(streams.QUERIES, f"{at_ms}-0", at_ms, 1, b"", ahead_s=ahead_s)
    for age_s, refused in ((1.0, False), (3.0, True)):
        clock[0] = at_ms / 1000 + ahead_s + age_s
        assert (edge.queries.turn_away(delivery, query, 0) is not None) == refused
        (sent, *_) = await edge.queries.on_query(delivery, query.model_copy(update={"id": f"q{age_s}"}))
        assert (unpack(Answer, sent.message).finish == "refused") == refused


async def test_a_query_without_a_deadline_is_never_turned_away(edge, monkeypatch):
    monkeypatch.setattr(edge.queries.scheduler, "expected_s", lambda _=0: 1e9)
    assert edge.queries.turn_away(Delivery(streams.QUERIES, "1-0", 1, 1, b""), Query(text=TEXT), 0) is None


async def test_an_answer_that_is_being_made_at_its_deadline_ends_there_and_says_why(edge, clock, eventually, resting):
    at_ms = int(clock[0] * 1000)
    clock[0] = at_ms / 1000 + 1.0  # a second is enough for three tokens on a busy machine too
    query = Query(id="q", text=TEXT, max_tokens=100, temperature=1.0, deadline_s=2.0)
    making = asyncio.create_task(edge.queries.on_query(Delivery(streams.QUERIES, f"{at_ms}-0", at_ms, 1, b""), query))
    await eventually(lambda: resting.made and resting.made[0].tokens == 3)
    await eventually(lambda: edge.queries._turns["anonymous", "q"].left)
    before = [sample("qig_queries_total", outcome=each) for each in ("late", "cancelled")]
    resting.wake.set()
    (sent,) = await making
    assert [sample("qig_queries_total", outcome=each) for each in ("late", "cancelled")] == [before[0] + 1, before[1]]
    made = unpack(Answer, sent.message)
    assert (made.finish, made.problem.code) == ("cancelled", "deadline")
    assert "the deadline is too short" in made.problem.message
    assert 3 <= made.completion_tokens <= 4


async def test_a_query_that_others_kept_from_its_deadline_is_told_that_the_fleet_is_busy(
    edge, clock, eventually, resting
):
    other = asyncio.create_task(edge.queries.on_query(delivery_of(), Query(id="other", text=TEXT, max_tokens=10)))
    await eventually(lambda: resting.made and resting.made[0].tokens == 3)
    at_ms = int(clock[0] * 1000) - 2000
    query = Query(id="q", text=TEXT, max_tokens=10, deadline_s=2.0)
    sent, _ = await edge.queries.on_query(Delivery(streams.QUERIES, f"{at_ms}-0", at_ms, 1, b""), query)
    assert "the fleet is busy" in unpack(Answer, sent.message).problem.message
    resting.wake.set()
    await other


async def test_a_bundle_swapped_in_while_an_answer_is_made_leaves_it_to_the_one_that_began_it(
    edge, publisher, micro_parts, redis, eventually, resting
):
    query = Query(id="q", text=TEXT, max_tokens=10, temperature=1.0)
    making = asyncio.create_task(edge.queries.on_query(delivery_of(), query))
    await eventually(lambda: resting.made and resting.made[0].tokens == 3)
    await publisher.release(micro_parts | {"notes.bin": b"new"})
    await bundles_to(edge, redis)
    resting.wake.set()
    (sent,) = await making
    assert unpack(Answer, sent.message).bundle == 1
    (sent,) = await edge.queries.on_query(delivery_of("2-0"), query.model_copy(update={"id": "later", "max_tokens": 1}))
    assert unpack(Answer, sent.message).bundle == 2


def sample(name, **labels):
    return metrics.REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.mark.parametrize(("said", "counted"), [(63, 0), (64, 1), (65, 1)])
async def test_the_phase_of_an_answer_counts_once_none_of_the_prompt_is_in_its_window(edge, said, counted):
    before = answer_phases()
    (sent,) = await edge.queries.on_query(delivery_of("7-0"), Query(text=TEXT, max_tokens=said))
    made = unpack(Answer, sent.message)
    assert made.completion_tokens == said
    here = {(made.kernel, made.phase): counted}
    assert {name: now - before[name] for name, now in answer_phases().items()} == dict.fromkeys(before, 0) | here


def answer_phases():
    """Every kernel and phase, before there was an answer too."""
    rows = [row for family in metrics.ANSWER_PHASES.collect() for row in family.samples]
    assert len(rows) == len(ROLES) * len(PHASES)
    return {(row.labels["kernel"], row.labels["phase"]): row.value for row in rows}


async def test_the_margin_of_a_query_and_who_is_in_the_schedule_are_shown(edge, monkeypatch):
    before = sum(sample("qig_margin_rad_count", kernel=role) for role in ROLES)
    seen = []
    monkeypatch.setattr(queries, "conclude", lambda *a, **k: seen.append(in_schedule()) or conclude(*a, **k))
    (sent,) = await edge.queries.on_query(delivery_of("7-0"), Query(text=TEXT, max_tokens=4))
    kernel = unpack(Answer, sent.message).kernel
    assert sum(sample("qig_margin_rad_count", kernel=role) for role in ROLES) == before + 1
    assert sample("qig_margin_rad_count", kernel=kernel) >= 1
    assert seen == [(1.0, 0.0)]
    assert in_schedule() == (0.0, 0.0)


def in_schedule():
    return sample("qig_queue", state="answering"), sample("qig_queue", state="waiting")
