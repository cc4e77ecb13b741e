import asyncio
import contextlib
import dataclasses
import inspect
import itertools
import threading
import time
from types import SimpleNamespace

import pytest
from edge_fleet import (
    NODE,
    TEXT,
    Publisher,
    answers,
    bundles_to,
    delivery_of,
    messages,
    other_key,
    read,
    settings_of,
    verdicts,
)

from common.constants import PACKET_MAX_BYTES
from common.constellation import parts as bundle_parts
from common.errors import Corrupt, Rejected, Unavailable
from common.kernels.memory import count, merge
from common.runtime import keys, streams
from common.runtime.broker import Broker
from common.runtime.entries import Delivery, body_of
from common.wire.codec import pack, unpack, unpack_reply
from common.wire.messages import MAX_DOMAINS, Answer, Bundle, Cancel, Heartbeat, Query
from common.wire.packet import open_envelope, verify
from services.aggregator.admit import admit, open_packet
from services.aggregator.bases import base_of, expects
from services.aggregator.cut import Limits, cut
from services.edge import app
from services.edge.app import Edge, state_dir
from services.edge.generation import Generation
from services.edge.local import TERRITORY
from services.edge.record import Record
from services.edge.slots import Slots

pytestmark = pytest.mark.anyio


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def clock():
    """Seconds since 1970 that a test may move."""
    return [time.time()]


@pytest.fixture
async def life(home, broker, broker_url, clock):
    """Starts an edge on the same state again and again; the one before is gone as if killed: nothing is finished."""
    with contextlib.ExitStack() as open_records:
        records, edges = [], []

        async def begin(**fields):
            settings = settings_of(home, broker_url, **fields)
            for one in edges:
                await one.scheduler.stop()
            for record in records:
                record.close()
            records[:] = [Record(state_dir(home, NODE) / "edge.db", now_s=clock[0])]
            edge = Edge(settings, broker, records[0], Slots(state_dir(home, NODE) / "bundles"), now=lambda: clock[0])
            edges[:] = [edge]
            await edge.start()
            return edge

        yield begin
        for edge in edges:
            await edge.scheduler.stop()
        for record in records:
            open_records.callback(record.close)


@pytest.fixture
async def publisher(life, broker, home):
    await life()  # makes the keys
    return Publisher(broker, home)


@pytest.fixture
async def edge(life, publisher, micro_parts, redis):
    await publisher.release(micro_parts)
    started = await life()
    await bundles_to(started, redis)
    return started


def tokens(edge):
    return sum(memory.tokens for memory in edge._record.residues().values())


async def packets(redis):
    return [body_of(fields) for _, fields in await redis.xrange(streams.PACKETS)]


# Bundles


async def test_an_edge_without_a_bundle_is_not_ready_and_lets_queries_wait(life):
    edge = await life()
    assert edge.ready() == "waits for the first bundle"
    with pytest.raises(Unavailable, match="no_bundle"):
        await edge.on_query(delivery_of(), Query(text="hello"))


async def test_the_first_bundle_makes_it_ready_and_is_reported(edge, redis):
    assert edge.ready() is None
    assert await verdicts(redis) == [(1, "applied")]


async def test_a_restart_serves_the_last_good_slot_without_the_broker(edge, life, redis):
    await redis.flushall()
    again = await life()
    assert again.serving.bundle == 1
    assert again.follow_from != "0-0"


async def test_only_the_parts_it_lacks_are_fetched(edge, publisher, micro_parts, redis):
    newest = await publisher.release(micro_parts | {"notes.bin": b"new"})
    for key in await redis.keys(f"{streams.BLOB}*"):
        if newest.parts["notes.bin"].digest.encode() not in key:
            await redis.delete(key)
    await bundles_to(edge, redis)
    assert edge.serving.bundle == 2


async def test_an_edge_that_was_away_takes_only_the_newest(life, publisher, micro_parts, redis):
    for number in range(3):
        await publisher.release(micro_parts | {"notes.bin": b"%d" % number})
    edge = await life()
    await bundles_to(edge, redis)
    assert await verdicts(redis) == [(3, "applied")]


async def test_a_part_with_a_flipped_byte_is_refused_and_the_old_bundle_serves(edge, publisher, micro_parts, redis):
    await publisher.release(micro_parts | {"notes.bin": b"0123456789"}, flip="notes.bin")
    await bundles_to(edge, redis)
    assert edge.serving.bundle == 1
    assert await verdicts(redis) == [(1, "applied"), (2, "refused")]


async def test_a_forged_bundle_is_refused_and_passed_over(edge, publisher, micro_parts, redis):
    await publisher.release(micro_parts, key=other_key())
    with pytest.raises(Corrupt, match="bad_signature"):
        await bundles_to(edge, redis)
    assert (edge.serving.bundle, (await verdicts(redis))[-1]) == (1, (2, "refused"))


async def test_a_bundle_that_does_not_load_is_refused(edge, publisher, micro_parts, redis):
    await publisher.release({path: data for path, data in micro_parts.items() if path != "domains.json"})
    await bundles_to(edge, redis)
    assert (edge.serving.bundle, (await verdicts(redis))[-1]) == (1, (2, "refused"))


async def test_a_part_that_is_not_there_yet_is_waited_for(edge, publisher, micro_parts, redis):
    await publisher.release(micro_parts | {"notes.bin": b"late"}, withhold="notes.bin")
    with pytest.raises(Unavailable, match="blob_missing"):
        await bundles_to(edge, redis)


async def test_a_replayed_old_bundle_changes_nothing(edge, publisher, micro_parts, redis):
    _, old = (await redis.xrange(streams.BUNDLES))[0]
    await publisher.release(micro_parts | {"notes.bin": b"2"})
    await redis.xadd(streams.BUNDLES, old)
    await bundles_to(edge, redis)
    assert edge.serving.bundle == 2


async def test_a_kill_between_the_swap_and_the_report_ends_with_one_report(edge, life, publisher, micro_parts, redis):
    await publisher.release(micro_parts | {"notes.bin": b"2"})
    edge._settle = killed
    with pytest.raises(Killed):
        await bundles_to(edge, redis)
    again = await life()
    assert again.serving.bundle == 2
    await bundles_to(again, redis)
    assert await verdicts(redis) == [(1, "applied"), (2, "applied")]


async def test_damage_on_disk_falls_back_and_the_newest_bundle_is_fetched_again(
    edge, life, publisher, micro_parts, redis, home
):
    newest = await publisher.release(micro_parts | {"notes.bin": b"two"})
    await bundles_to(edge, redis)
    (state_dir(home, NODE) / "bundles" / "parts" / newest.parts["notes.bin"].digest).write_bytes(b"torn")
    again = await life()
    assert (again.serving.bundle, again.follow_from) == (1, "0-0")
    await bundles_to(again, redis)
    assert again.serving.bundle == 2


# Queries


async def test_a_query_is_answered_to_its_client_under_its_id(edge):
    (sent,) = await edge.on_query(delivery_of("7-0"), Query(text=TEXT, client="kiosk", max_tokens=4))
    made = unpack(Answer, sent.message)
    assert (sent.stream, sent.id) == (streams.answers("kiosk"), "7-0")
    assert (made.node, made.bundle, made.query_id) == (NODE, 1, "7-0")


async def test_a_redelivered_query_gets_the_stored_answer_also_after_a_restart(edge, life):
    query = Query(text=TEXT, max_tokens=4, temperature=2.0)
    (first,) = await edge.on_query(delivery_of("7-0"), query)
    (second,) = await (await life()).on_query(delivery_of("7-0"), query)
    assert first == second


@pytest.mark.parametrize("max_tokens", [0, 8])
async def test_of_what_may_not_be_stored_no_byte_is_on_the_disk(edge, home, max_tokens):
    query = Query(text="swordfish " + TEXT, max_tokens=max_tokens, store=False, id="q-7", client="kiosk-9")
    (sent,) = await edge.on_query(delivery_of("7-0"), query)
    assert unpack(Answer, sent.message).prompt_bits > 0
    assert edge._record.answer_to("kiosk-9", "q-7") is None
    assert edge._record.fresh() == []
    kept = b"".join(path.read_bytes() for path in state_dir(home, NODE).rglob("edge.db*"))
    assert not any(mark in kept for mark in (b"swordfish", TEXT.encode(), b"q-7", b"kiosk-9"))
    await edge.on_query(delivery_of("8-0"), query.model_copy(update={"store": True}))
    kept = b"".join(path.read_bytes() for path in state_dir(home, NODE).rglob("edge.db*"))
    assert b"swordfish" in kept  # the search would have found it


async def test_what_is_redacted_is_on_no_disk_and_the_kernel_reads_it_all_the_same(edge, home):
    texts = ["swordfish@example.org", TEXT + "swordfish@example.org"]
    for number, text in enumerate(texts):
        (sent,) = await edge.on_query(delivery_of(f"{number + 1}-0"), Query(text=text, max_tokens=0))
        assert unpack(Answer, sent.message).prompt_bytes == len(text)
    kept = b"".join(path.read_bytes() for path in state_dir(home, NODE).rglob("edge.db*"))
    assert b"swordfish" not in kept
    assert b"king. [e-mail]" in kept


async def test_an_answer_that_holds_what_is_redacted_is_computed_again_and_not_kept(life, edge, monkeypatch):
    monkeypatch.setattr("services.edge.redaction.BUILT_IN", {"emails": lambda text: "" if text != TEXT else text})
    query = Query(text=TEXT, max_tokens=8)
    strict = await life(redact="emails")
    (first,) = await strict.on_query(delivery_of("7-0"), query)
    assert strict._record.answer_to("anonymous", "7-0") is None
    assert [each.interactions for each in strict._record.fresh()] == [1]
    (second,) = await strict.on_query(delivery_of("7-0"), query)
    assert unpack(Answer, first.message).text == unpack(Answer, second.message).text != ""


async def test_an_operator_s_function_that_fails_keeps_nothing_and_answers_all_the_same(life, edge):
    failing = await life(redact="builtins:len")
    (sent,) = await failing.on_query(delivery_of("7-0"), Query(text=TEXT, max_tokens=4))
    assert unpack(Answer, sent.message).completion_tokens > 0
    assert failing._record.find("anonymous", "7-0") is None


async def test_a_redaction_that_nobody_knows_stops_the_start(life, publisher):
    with pytest.raises(Rejected, match="QIG_REDACT=email"):
        await life(redact="email")


async def test_a_refused_query_is_told_why_and_buried(edge, monkeypatch, redis):
    def refuse(*_, **__):
        raise Rejected("lone_surrogate", "half a character")

    monkeypatch.setattr(app, "Generation", refuse)
    with pytest.raises(Rejected):
        await edge.on_query(delivery_of("7-0"), Query(text="x"))
    (told,) = await answers(redis)
    assert (told.finish, told.problem.code, told.query_id) == ("refused", "lone_surrogate", "7-0")


@pytest.fixture
def resting(monkeypatch):
    """Every generation rests after its third token until `wake`; those that were begun are `made`."""
    told = SimpleNamespace(made=[], wake=threading.Event())

    class Resting(Generation):
        def __iter__(self):
            told.made.append(self)
            for number, piece in enumerate(super().__iter__(), 1):
                if number == 3:
                    assert told.wake.wait(timeout=10)
                yield piece

    monkeypatch.setattr(app, "Generation", Resting)
    yield told
    told.wake.set()


async def replies(redis, client="anonymous"):
    return [unpack_reply(body_of(fields)) for _, fields in await redis.xrange(streams.answers(client))]


async def test_a_query_that_streams_is_told_in_pieces_which_together_are_its_answer(edge, redis):
    query = Query(id="q", text=TEXT, max_tokens=40, stream=True, seed=1)
    (sent,) = await edge.on_query(delivery_of(), query)
    pieces = await replies(redis)
    assert pieces
    assert [(piece.query_id, piece.index) for piece in pieces] == [("q", n) for n in range(len(pieces))]
    made = unpack(Answer, sent.message)
    assert "".join(piece.text for piece in pieces) == made.text
    assert sum(piece.tokens for piece in pieces) == made.completion_tokens


async def test_without_stream_there_are_no_pieces(edge, redis):
    await edge.on_query(delivery_of(), Query(text=TEXT, max_tokens=40))
    assert await replies(redis) == []


async def test_many_queries_are_answered_at_once_and_each_as_if_it_were_alone(edge):
    queries = [Query(id=f"q{n}", client=f"c{n % 3}", text=TEXT * (n % 4 + 1), max_tokens=20) for n in range(24)]
    together = await asyncio.gather(*(edge.on_query(delivery_of(), query) for query in queries))
    for query, (sent,) in zip(queries, together, strict=True):
        alone = Generation(edge.serving.constellation, query, query.id)
        assert list(alone)
        assert unpack(Answer, sent.message).text == alone.text


async def test_a_cancelled_query_ends_between_two_tokens_and_its_answer_says_so(edge, eventually, resting):
    query = Query(id="q", client="me", text=TEXT, max_tokens=100, temperature=1.0)
    making = asyncio.create_task(edge.on_query(delivery_of(), query))
    await eventually(lambda: resting.made and len(resting.made[0].steps) == 3)
    for wanted in (Cancel(query_id="q", client="you"), Cancel(query_id="other", client="me")):
        await edge.on_cancel(delivery_of("2-0", streams.CANCEL, pack(wanted)))
    assert not edge._turns["me", "q"].left
    await edge.on_cancel(delivery_of("3-0", streams.CANCEL, pack(Cancel(query_id="q", client="me"))))
    resting.wake.set()
    (sent,) = await making
    made = unpack(Answer, sent.message)
    assert (made.finish, made.query_id, made.problem) == ("cancelled", "q", None)
    assert 3 <= made.completion_tokens <= 4
    assert edge._turns == {}


async def test_a_query_whose_cancel_came_first_is_not_begun(edge, resting):
    await edge.on_cancel(delivery_of("1-0", streams.CANCEL, pack(Cancel(query_id="q", client="me"))))
    (sent,) = await edge.on_query(delivery_of(), Query(id="q", client="me", text=TEXT, max_tokens=100))
    made = unpack(Answer, sent.message)
    assert (made.text, made.problem.code) == ("", "cancelled")
    assert resting.made == []


async def test_of_the_cancels_that_came_first_the_newest_are_remembered(edge, monkeypatch):
    monkeypatch.setattr(app, "CANCELS_KEPT", 2)
    for name in ("old", "q", "new"):
        await edge.on_cancel(delivery_of("1-0", streams.CANCEL, pack(Cancel(query_id=name, client="me"))))
    assert list(edge._cancelled) == [("me", "q"), ("me", "new")]


@pytest.mark.parametrize(("age_s", "finish"), [(1.0, "read"), (2.0, "refused"), (3.0, "refused")])
async def test_a_query_past_its_deadline_is_refused_with_the_time_to_ask_again(edge, clock, age_s, finish):
    at_ms = int(clock[0] * 1000)
    clock[0] = at_ms / 1000 + age_s
    query = Query(id="q", text=TEXT, max_tokens=0, deadline_s=2.0)
    (sent,) = await edge.on_query(Delivery(streams.QUERIES, f"{at_ms}-0", at_ms, 1, b""), query)
    made = unpack(Answer, sent.message)
    assert made.finish == finish
    if finish == "refused":
        assert (made.problem.code, made.problem.retry_after_s >= 1) == ("deadline", True)
        assert "the deadline is too short" in made.problem.message
        assert edge._record.answer_to("anonymous", "q") is None


async def test_an_answer_that_is_being_made_at_its_deadline_ends_there_and_says_why(edge, clock, eventually, resting):
    at_ms = int(clock[0] * 1000)
    clock[0] = at_ms / 1000 + 1.9
    query = Query(id="q", text=TEXT, max_tokens=100, temperature=1.0, deadline_s=2.0)
    making = asyncio.create_task(edge.on_query(Delivery(streams.QUERIES, f"{at_ms}-0", at_ms, 1, b""), query))
    await eventually(lambda: resting.made and len(resting.made[0].steps) == 3)
    await eventually(lambda: edge._turns["anonymous", "q"].left)
    resting.wake.set()
    (sent,) = await making
    made = unpack(Answer, sent.message)
    assert (made.finish, made.problem.code) == ("cancelled", "deadline")
    assert "the deadline is too short" in made.problem.message
    assert 3 <= made.completion_tokens <= 4


async def test_a_query_that_others_kept_from_its_deadline_is_told_that_the_fleet_is_busy(
    edge, clock, eventually, resting
):
    other = asyncio.create_task(edge.on_query(delivery_of(), Query(id="other", text=TEXT, max_tokens=10)))
    await eventually(lambda: resting.made and len(resting.made[0].steps) == 3)
    at_ms = int(clock[0] * 1000) - 2000
    query = Query(id="q", text=TEXT, max_tokens=10, deadline_s=2.0)
    (sent,) = await edge.on_query(Delivery(streams.QUERIES, f"{at_ms}-0", at_ms, 1, b""), query)
    assert "the fleet is busy" in unpack(Answer, sent.message).problem.message
    resting.wake.set()
    await other


async def test_a_bundle_swapped_in_while_an_answer_is_made_leaves_it_to_the_one_that_began_it(
    edge, publisher, micro_parts, redis, eventually, resting
):
    query = Query(id="q", text=TEXT, max_tokens=10, temperature=1.0)
    making = asyncio.create_task(edge.on_query(delivery_of(), query))
    await eventually(lambda: resting.made and len(resting.made[0].steps) == 3)
    await publisher.release(micro_parts | {"notes.bin": b"new"})
    await bundles_to(edge, redis)
    resting.wake.set()
    (sent,) = await making
    assert unpack(Answer, sent.message).bundle == 1
    (sent,) = await edge.on_query(delivery_of("2-0"), query.model_copy(update={"id": "later", "max_tokens": 1}))
    assert unpack(Answer, sent.message).bundle == 2


# Sleep


async def test_enough_fresh_text_becomes_one_signed_packet(edge, redis, home):
    await read(edge, 8)
    await edge.sleep()
    (raw,) = await packets(redis)
    assert len(raw) <= PACKET_MAX_BYTES
    envelope = open_envelope(raw)
    body = verify(envelope, keys.load_private(home, NODE).verify_key)
    assert (body.interactions, body.fresh_bytes, envelope.sequence) == (8, 8 * len(TEXT), 0)
    assert body.crystals


@pytest.mark.parametrize("domain", ["heart", None])
async def test_the_aggregator_counts_what_an_edge_sends(edge, redis, home, clock, domain, micro_parts, monkeypatch):
    monkeypatch.setattr("services.edge.answer.territory", lambda *_, **__: domain)
    (_, fields), *_ = await redis.xrange(streams.BUNDLES)
    bundle = unpack(Bundle, body_of(fields))
    base = base_of(bundle, domains=micro_parts["domains.json"], kernel=micro_parts["kernels/heart.safetensors"])
    priors = {role: expects([micro_parts[f"memories/{role}.bin"]], base.vocab_size) for role in base.domains}
    bases = (dataclasses.replace(base, priors=priors),)
    await read(edge, 8)
    await edge.sleep()
    (raw,) = await packets(redis)
    at_ms = int(clock[0] * 1000)
    enrolled = keys.load_enrolled(home)
    counted = admit(open_packet(raw), enrolled=enrolled, replay=None, entry_ms=at_ms, bases=bases)
    batch = cut({counted.ref.packed: raw}, bases=bases, pending={}, limits=Limits(1, 0.0, 100_000)).batch
    (update,) = batch.domains
    assert (update.opened, update.packets, len(update.gate)) == (domain is None, 1, 99 if domain is None else 66)


async def test_too_little_text_sends_nothing_until_the_longest_interval(edge, redis, clock):
    await read(edge, 1)
    await edge.sleep()
    assert await packets(redis) == []
    clock[0] += 3601
    await edge.sleep()
    assert len(await packets(redis)) == 1


async def test_one_packet_of_a_domain_is_on_its_way_at_a_time(edge, redis):
    await read(edge, 8)
    await edge.sleep()
    await read(edge, 8, first=8)
    await edge.sleep()
    assert len(await packets(redis)) == 1


async def test_probe_text_is_never_counted(life, edge):
    probing = await life(probe_share=2)
    await read(probing, 20)
    kept = sum(fresh.interactions for fresh in probing._record.fresh())
    assert 0 < kept < 20
    assert len(probing._record.probes(99)) == 20 - kept


async def test_a_kill_after_the_fold_sends_the_packet_once_after_the_restart(edge, life, redis):
    await read(edge, 8)
    edge._send = killed
    with pytest.raises(Killed):
        await edge.sleep()
    assert await packets(redis) == []
    again = await life()
    await again.sleep()
    await again.sleep()
    assert len(await packets(redis)) == 1


async def test_a_kill_between_sending_and_noting_it_sends_nothing_twice(edge, life, redis, monkeypatch, clock):
    await read(edge, 8)
    monkeypatch.setattr(edge._record, "sent", raise_killed, raising=False)
    with pytest.raises(Killed):
        await edge.sleep()
    clock[0] += 1000
    again = await life()
    await again.sleep()
    assert len(await packets(redis)) == 1
    assert [packet.status for packet in again._record.packets("pending", "sent")] == ["sent"]


async def test_a_packet_that_waited_is_sealed_when_it_is_sent(edge, life, redis, clock):
    await read(edge, 8)
    edge._send = killed
    with pytest.raises(Killed):
        await edge.sleep()
    clock[0] += 10_000
    await (await life()).sleep()
    (raw,) = await packets(redis)
    assert open_envelope(raw).at_s == clock[0]


async def test_a_bundle_that_names_the_packet_takes_its_counts_away_once(edge, publisher, micro_parts, redis, life):
    await read(edge, 8)
    await edge.sleep()
    (raw,) = await packets(redis)
    before = tokens(edge)
    bundle = await publisher.release(micro_parts | {"notes.bin": b"2"}, packets=[open_envelope(raw).ref])
    await bundles_to(edge, redis)
    after = tokens(edge)
    assert after < before
    assert [p.status for p in edge._record.packets("sent", "acknowledged")] == ["acknowledged"]
    again = await life()
    await again._settle(bundle, "9-9")
    assert tokens(again) == after


async def test_a_refused_bundle_still_acknowledges(edge, publisher, micro_parts, redis):
    await read(edge, 8)
    await edge.sleep()
    (raw,) = await packets(redis)
    await publisher.release(micro_parts | {"domains.json": b"[]"}, packets=[open_envelope(raw).ref])
    await bundles_to(edge, redis)
    assert (await verdicts(redis))[-1] == (2, "refused")
    assert [p.status for p in edge._record.packets("sent", "acknowledged")] == ["acknowledged"]


async def test_a_packet_that_nobody_named_for_long_lets_the_next_one_go(edge, redis, clock):
    await read(edge, 8)
    await edge.sleep()
    await read(edge, 8, first=8)
    clock[0] += 1801
    await edge.sleep()
    assert [open_envelope(raw).sequence for raw in await packets(redis)] == [0, 1]


# What answers here


def learned(edge):
    """The counts of every memory that answers, by name."""
    return {
        name: [(table.keys.tolist(), table.counts.tolist(), table.totals.tolist()) for table in memory.tables]
        for name, memory in edge.serving.answering.memories.items()
    }


def expected(edge):
    """The bundle's memories, and what the record says that no bundle has taken."""
    base = edge.serving.constellation.memories
    own = {domain or TERRITORY: residue for domain, residue in edge._record.residues().items()}
    grown = {name: merge([base.get(name, count([], 3)), own.get(name, count([], 3))]) for name in {**base, **own}}
    return {
        name: [(table.keys.tolist(), table.counts.tolist(), table.totals.tolist()) for table in memory.tables]
        for name, memory in grown.items()
        if memory.entries
    }


@pytest.mark.parametrize("domain", ["heart", None])
async def test_what_was_read_answers_at_once_and_after_a_restart(edge, life, monkeypatch, domain):
    monkeypatch.setattr("services.edge.answer.territory", lambda *_, **__: domain)
    await read(edge, 8)
    assert edge.serving.local is None
    await edge.sleep()
    assert learned(edge) == expected(edge) != {}
    assert tokens(edge) > 0
    query, base = Query(id="again", text=TEXT, max_tokens=0, mode=domain or "routed"), edge.serving.constellation
    (sent,) = await edge.on_query(delivery_of("99-0"), query)
    made = unpack(Answer, sent.message)
    assert made.domain == (domain or TERRITORY)
    assert made.prompt_bits < 0.7 * base.bits(base.encoder.encode(TEXT), made.kernel)
    before = learned(edge)
    again = await life()
    assert learned(again) == before


async def test_a_bundle_that_brings_it_back_counts_nothing_twice(edge, publisher, micro_parts, redis, monkeypatch):
    monkeypatch.setattr("services.edge.answer.territory", lambda *_, **__: "heart")
    await read(edge, 8)
    await edge.sleep()
    whole = learned(edge)
    (raw,) = await packets(redis)
    (packet,) = edge._record.packets("sent")
    memory = merge([edge.serving.constellation.memories["heart"], packet.counts])
    parts = micro_parts | bundle_parts.memory_part("heart", memory)
    await publisher.release(parts, packets=[open_envelope(raw).ref])
    seen, report = [], edge._report

    async def reporting(*args):
        seen.append(learned(edge))
        await report(*args)

    monkeypatch.setattr(edge, "_report", reporting)
    await bundles_to(edge, redis)
    assert edge.serving.bundle == 2
    assert learned(edge) == expected(edge) == whole
    assert seen == [whole]


async def test_a_refused_bundle_takes_its_counts_out_of_what_answers_until_one_is_used(
    edge, publisher, micro_parts, redis
):
    await read(edge, 8)
    await edge.sleep()
    (raw,) = await packets(redis)
    await publisher.release(micro_parts | {"domains.json": b"[]"}, packets=[open_envelope(raw).ref])
    await bundles_to(edge, redis)
    assert learned(edge) == expected(edge)


async def test_what_is_forgotten_or_rejected_answers_no_more_and_comes_back(edge):
    await read(edge, 8)
    await edge.sleep()
    full = learned(edge)
    assert await edge.judge("anonymous", "q3", "rejected")
    assert learned(edge) == expected(edge) != full
    assert await edge.judge("anonymous", "q3", None)
    assert learned(edge) == expected(edge) == full
    await edge.forget("anonymous", "q0")
    assert learned(edge) == expected(edge) != full


# What a sleep and a bundle do, in their order; the second thing that is produced is the bundle.
STEPS = [
    ("fold_domain", 1), ("relearned", 1), ("leaving", 1), ("produce", 1), ("sent", 1), ("activate", 1),
    ("settle_bundle", 1), ("relearned", 2), ("produce", 3), ("settle_bundle", 2),
]  # fmt: skip


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize(("step", "nth"), STEPS)
async def test_a_kill_at_any_step_loses_nothing_and_counts_nothing_twice(  # noqa: PLR0917 -- fixtures
    edge, life, publisher, micro_parts, redis, monkeypatch, step, nth, done
):
    """Killed as a step begins, or once it is done."""
    monkeypatch.setattr("services.edge.answer.territory", lambda *_, **__: "heart")
    heart = edge.serving.constellation.memories["heart"]

    async def through(one):
        """A sleep; what was sent comes back in a bundle, once."""
        await one.sleep()
        if publisher.version == 1 and (raws := await packets(redis)):
            (packet,) = one._record.packets("pending", "sent")
            parts = micro_parts | bundle_parts.memory_part("heart", merge([heart, packet.counts]))
            await publisher.release(parts, packets=[open_envelope(raws[0]).ref])
        await bundles_to(one, redis)

    await read(edge, 8)
    with monkeypatch.context() as patch:
        owner = {"leaving": Record, "sent": Record, "produce": Broker, "activate": Slots}.get(step, app)
        patch.setattr(owner, step, killed_at(getattr(owner, step), nth, done=done))
        with pytest.raises(Killed):
            await through(edge)
    again = await life()
    await through(again)
    assert len(await packets(redis)) == 1
    assert await verdicts(redis) == [(1, "applied"), (2, "applied")]
    assert learned(again) == expected(again)
    read_tokens = 8 * len(again.serving.constellation.encoder.encode(TEXT))
    assert again.serving.answering.memories["heart"].tokens == heart.tokens + read_tokens


# HEART's clock


async def test_in_an_outage_of_the_broker_an_edge_learns_on_and_then_sends_each_packet_once(
    edge, redis, clock, monkeypatch
):
    async def away(*_, **__):
        raise Unavailable("broker_away", "no answer")

    with monkeypatch.context() as patch:
        patch.setattr(Broker, "produce", away)
        patch.setattr("services.edge.answer.territory", lambda *_, **__: "heart")
        await read(edge, 8)
        for _ in range(3):
            with pytest.raises(Unavailable):
                await edge.sleep()
        assert learned(edge) == expected(edge)
        patch.setattr("services.edge.answer.territory", lambda *_, **__: "vocab")
        await read(edge, 8, first=8)
        clock[0] += 7200
        with pytest.raises(Unavailable):
            await edge.sleep()
        assert learned(edge) == expected(edge)
    assert [packet.domain for packet in edge._record.packets("pending")] == ["heart", "vocab"]
    await edge.sleep()
    await edge.sleep()
    assert [open_envelope(raw).sequence for raw in await packets(redis)] == [0, 1]


@pytest.mark.parametrize(("queries", "folds"), [(2, True), (3, False)])
async def test_while_queries_wait_for_a_thread_an_edge_puts_sleep_off(
    edge, redis, clock, eventually, resting, queries, folds
):
    await read(edge, 8)
    resting.made.clear()
    asked = [Query(id=f"long-{n}", text=TEXT, max_tokens=100) for n in range(queries)]
    making = [asyncio.create_task(edge.on_query(delivery_of(), query)) for query in asked]
    await eventually(lambda: sum(edge.scheduler.load) == queries)
    await eventually(lambda: sum(len(each.steps) == 3 for each in resting.made) == 2)
    await edge.sleep()
    assert len(await packets(redis)) == folds
    clock[0] += 3700
    await edge.sleep()
    assert len(await packets(redis)) == 1
    resting.wake.set()
    await asyncio.gather(*making)


async def test_an_edge_that_comes_back_is_up_for_its_idle_time_before_it_sleeps(edge, life, clock):
    await read(edge, 8)
    clock[0] += 7200
    again = await life(sleep_idle_s=10.0)
    await again.sleep()
    assert again._record.packets("pending", "sent") == []
    clock[0] += 30
    await again.sleep()
    assert len(again._record.packets("sent")) == 1


# One interaction, afterwards


async def test_a_forgotten_text_is_in_no_packet_that_had_not_left(edge, redis, home):
    await read(edge, 8)
    await read(edge, 1, text="swordfish, said the king. " * 3, first=8)
    edge._send = killed
    with pytest.raises(Killed):
        await edge.sleep()
    del edge._send
    done = await edge.forget("anonymous", "q8")
    assert (done.withdrawn, done.left) == ((0,), ())
    await edge.sleep()
    (raw,) = await packets(redis)
    body = verify(open_envelope(raw), keys.load_private(home, NODE).verify_key)
    assert (body.interactions, body.fresh_bytes) == (8, 8 * len(TEXT))


async def test_a_packet_that_was_about_to_leave_when_the_edge_was_killed_counts_as_left(edge, life, monkeypatch):
    await read(edge, 8)
    monkeypatch.setattr(type(edge._broker), "produce", killed)
    with pytest.raises(Killed):
        await edge.sleep()
    monkeypatch.undo()
    done = await (await life()).forget("anonymous", "q0")
    assert (done.withdrawn, [each.sequence for each in done.left]) == ((), [0])


async def test_a_rejected_text_is_not_learned(edge, redis, home):
    await read(edge, 9)
    assert await edge.judge("anonymous", "q3", "rejected")
    assert not await edge.judge("anonymous", "unknown", "rejected")
    await edge.sleep()
    (raw,) = await packets(redis)
    assert verify(open_envelope(raw), keys.load_private(home, NODE).verify_key).interactions == 8


@pytest.mark.parametrize(("days", "left"), [(1.9, 0), (2.1, 8)])
async def test_what_is_older_than_the_setting_says_goes_while_the_edge_runs(edge, life, clock, days, left):
    await read(edge, 8)
    clock[0] += 2 * 86_400
    keeping = await life(keep_days=days)
    await keeping.prune()
    assert sum(each.interactions for each in keeping._record.fresh()) == left


async def test_what_is_more_than_the_setting_says_goes_oldest_first(edge, life):
    await read(edge, 8)
    keeping = await life(keep_bytes=0)
    await keeping.prune()
    assert keeping._record.fresh() == []


# Heart


async def test_a_heartbeat_tells_bundle_phases_and_fresh_text(edge, redis):
    await read(edge, 2)
    await edge.beat()
    (told,) = await messages(redis, streams.HEART, Heartbeat)
    assert (told.node, told.bundle, told.ready, told.fresh_bytes) == (NODE, 1, True, 2 * len(TEXT))
    assert set(told.kappa) == set(told.phi) == set(edge._last) != set()
    assert told.bits_per_byte == {}


async def test_a_heartbeat_tells_how_fresh_text_read_before_it_was_learned(edge, redis, monkeypatch, clock):
    monkeypatch.setattr("services.edge.answer.territory", lambda *_, **__: "heart")
    for first in (0, 8):
        await read(edge, 8, first=first)
        await edge.sleep()
        clock[0] += 1801  # the first packet counts as lost: the next fold need not wait for it
    await edge.beat()
    (told,) = await messages(redis, streams.HEART, Heartbeat)
    assert told.bits_per_byte["heart"] == pytest.approx(
        8 * edge.serving.constellation.bits(edge.serving.constellation.encoder.encode(TEXT), "heart") / (8 * len(TEXT))
    )
    assert 0 < told.local_bits_per_byte["heart"] < 0.7 * told.bits_per_byte["heart"]


async def test_an_edge_with_as_many_domains_as_may_be_and_new_territory_has_a_heartbeat(edge, redis):
    await read(edge, 1)
    (one,) = edge._last.values()
    edge._last = dict.fromkeys([*(f"d-{number}" for number in range(MAX_DOMAINS)), TERRITORY], one)
    await edge.beat()
    (told,) = await messages(redis, streams.HEART, Heartbeat)
    assert len(told.phi) == MAX_DOMAINS


class Killed(BaseException):
    pass


async def killed(*_, **__):
    raise Killed


def raise_killed(*_, **__):
    raise Killed


async def test_an_edge_proves_that_it_answers_and_that_leaves_no_trace(edge):
    await edge.prove()
    gauges = edge._gauges
    for _ in range(3):
        await edge.prove()
    assert edge._gauges is gauges
    assert await asyncio.to_thread(edge._record.fresh) == []
    assert edge._last == {}


async def test_an_edge_whose_tokens_do_not_come_says_so(edge, monkeypatch):
    stuck = threading.Event()
    monkeypatch.setattr(app, "PROVE_TIMEOUT_S", 0.05)
    monkeypatch.setattr("services.edge.generation.Generation.__iter__", lambda _: iter(stuck.wait, True))
    with pytest.raises(Unavailable, match="no token for"):
        await edge.prove()
    stuck.set()


async def test_a_full_waiting_room_is_no_reason_not_to_be_ready(edge, monkeypatch):
    monkeypatch.setattr("services.edge.scheduler.Turns.add", lambda *_: False)
    await edge.prove()


def killed_at(what, nth, *, done):
    """`what`, whose nth call is a kill: before it, or once it is done."""
    calls = itertools.count(1)

    def call(*args, **kwargs):
        deadly = next(calls) == nth
        if deadly and not done:
            raise Killed
        result = what(*args, **kwargs)
        if deadly:
            raise Killed
        return result

    async def call_async(*args, **kwargs):
        deadly = next(calls) == nth
        if deadly and not done:
            raise Killed
        result = await what(*args, **kwargs)
        if deadly:
            raise Killed
        return result

    return call_async if inspect.iscoroutinefunction(what) else call
