import asyncio
import contextlib
import shutil
import sqlite3
from dataclasses import replace

import pytest
from edge_death import Killed, killed, raise_killed
from edge_fleet import (
    NODE,
    TEXT,
    bundles_to,
    delivery_of,
    packets,
    read,
    verdicts,
)
from edge_learned import expected, learned, tokens

from common.constants import PACKET_MAX_BYTES
from common.errors import Corrupt, Unavailable
from common.runtime import keys, streams
from common.runtime.broker import Broker
from common.runtime.entries import body_of
from common.wire.codec import pack, unpack
from common.wire.inference import Query
from common.wire.messages import Bundle, Returned
from common.wire.packet import open_envelope, verify
from services.aggregator.admit import admit, open_packet
from services.aggregator.bases import base_of, expects
from services.aggregator.cut import Limits, cut
from services.aggregator.replay import advance
from services.edge.app import state_dir
from services.edge.app.sleep import NO_ROOM_S
from services.edge.sleep import AGAIN_AFTER_S, LOST_AFTER_S

pytestmark = pytest.mark.anyio


async def test_enough_fresh_text_becomes_one_signed_packet(edge, redis, home):
    await read(edge, 8)
    await edge.sleep.round()
    (raw,) = await packets(redis)
    assert len(raw) <= PACKET_MAX_BYTES
    envelope = open_envelope(raw)
    body = verify(envelope, keys.load_private(home, NODE).verify_key)
    assert (body.interactions, body.fresh_bytes, envelope.sequence) == (8, 8 * len(TEXT), 0)
    assert body.crystals


async def test_an_edge_learns_on_after_its_clock_was_set_back(edge, redis, clock):
    clock[0] += 30 * 86_400.0
    edge.sleep._awake_s = clock[0]
    await read(edge, 8)
    clock[0] -= 30 * 86_400.0
    await edge.sleep.round()
    assert len(await packets(redis)) == 1


async def test_a_packet_for_which_there_is_no_room_waits_in_the_edges_file_and_goes_later(
    edge, redis, broker, clock, monkeypatch
):
    monkeypatch.setitem(streams._KEPT, streams.PACKETS, streams.Retention(entries=1, kind="work"))
    await broker.produce(streams.PACKETS, b"somebody else's", "other")
    await read(edge, 8)
    await edge.sleep.round()
    await redis.delete(streams.PACKETS)
    assert len(edge.node.record.packets("pending")) == 1
    clock[0] += NO_ROOM_S - 0.1
    await edge.sleep.round()
    assert await packets(redis) == []
    clock[0] += 0.1
    await edge.sleep.round()
    assert len(await packets(redis)) == 1
    assert edge.node.record.packets("pending") == []


@pytest.mark.parametrize("domain", ["heart", None])
async def test_the_aggregator_counts_what_an_edge_sends(edge, redis, home, clock, domain, micro_parts, monkeypatch):
    monkeypatch.setattr("services.edge.answer.territory", lambda *_, **__: domain)
    (_, fields), *_ = await redis.xrange(streams.BUNDLES)
    bundle = unpack(Bundle, body_of(fields))
    base = base_of(
        bundle,
        domains=micro_parts["domains.json"],
        kernel=micro_parts["kernels/heart.safetensors"],
        merges=micro_parts["coordizer/merge_rules.json"],
    )
    priors = {role: expects([micro_parts[f"memories/{role}.bin"]], base.vocab_size) for role in base.domains}
    bases = (replace(base, priors=priors),)
    await read(edge, 8)
    await edge.sleep.round()
    (raw,) = await packets(redis)
    at_ms = int(clock[0] * 1000)
    enrolled = keys.load_enrolled(home)
    counted = admit(open_packet(raw), enrolled=enrolled, replay=None, entry_ms=at_ms, bases=bases)
    batch = cut({counted.ref.packed: raw}, bases=bases, pending={}, limits=Limits(1, 0.0, 100_000)).batch
    (update,) = batch.domains
    assert (update.opened, update.packets, len(update.gate)) == (domain is None, 1, 99 if domain is None else 66)


async def test_too_little_text_sends_nothing_until_the_longest_interval(edge, redis, clock):
    await read(edge, 1)
    await edge.sleep.round()
    assert await packets(redis) == []
    clock[0] += 3601
    await edge.sleep.round()
    assert len(await packets(redis)) == 1


async def test_one_packet_of_a_domain_is_on_its_way_at_a_time(edge, redis):
    await read(edge, 8)
    await edge.sleep.round()
    await read(edge, 8, first=8)
    await edge.sleep.round()
    assert len(await packets(redis)) == 1


async def test_probe_text_is_never_counted(life, edge):
    probing = await life(probe_share=2)
    await read(probing, 20)
    kept = sum(fresh.interactions for fresh in probing.node.record.texts.fresh())
    assert 0 < kept < 20
    assert len(probing.node.record.texts.probes(99)) == 20 - kept


async def test_a_kill_after_the_fold_sends_the_packet_once_after_the_restart(edge, life, redis):
    await read(edge, 8)
    edge.sleep._send = killed
    with pytest.raises(Killed):
        await edge.sleep.round()
    assert await packets(redis) == []
    again = await life()
    await again.sleep.round()
    await again.sleep.round()
    assert len(await packets(redis)) == 1


async def test_a_kill_between_sending_and_noting_it_sends_nothing_twice(edge, life, redis, monkeypatch, clock):
    await read(edge, 8)
    monkeypatch.setattr(edge.node.record, "sent", raise_killed, raising=False)
    with pytest.raises(Killed):
        await edge.sleep.round()
    clock[0] += 1000
    again = await life()
    await again.sleep.round()
    assert len(await packets(redis)) == 1
    assert [packet.status for packet in again.node.record.packets("pending", "sent")] == ["sent"]


@pytest.fixture
async def older_copy(edge, life, home, redis, tmp_path, publisher, micro_parts):
    """Begins with a copy of the edge's file that knows packet 0, which counts, and not packet 1, which was sent since;
    and reads.
    """
    file, copy = state_dir(home, NODE) / "edge.db", tmp_path / "copy.db"
    await read(edge, 8)
    await edge.sleep.round()
    await publisher.release(micro_parts, packets=[open_envelope(raw).ref for raw in await packets(redis)])
    await bundles_to(edge, redis)
    with contextlib.closing(sqlite3.connect(file)) as now, contextlib.closing(sqlite3.connect(copy)) as then:
        now.backup(then)
    await read(edge, 8, first=8)
    await edge.sleep.round()
    edge.node.record.close()
    for left in file.parent.glob("edge.db*"):
        left.unlink()
    shutil.copy(copy, file)

    async def begin():
        again = await life()
        await read(again, 8, first=16)
        return again

    return begin


async def test_an_edge_that_begins_with_an_older_copy_numbers_its_packets_beyond_those_that_it_sent_since(
    older_copy, redis, clock
):
    clock[0] += 3600
    again = await older_copy()
    await again.sleep.round()
    numbers = [open_envelope(raw).sequence for raw in await packets(redis)]
    assert numbers == [0, 1, 3600]
    window = None
    for number in numbers:  # each counts
        window = advance(window, epoch=1, sequence=number)
    assert again.node.record.packets("sent")[-1].sequence == 3600


async def test_an_older_copy_that_begins_cut_off_keeps_its_text_until_the_broker_says_which_packets_left(
    older_copy, redis, clock, monkeypatch, publisher, micro_parts
):
    async def away(*_, **__):
        raise Unavailable("broker_away", "no answer")

    clock[0] += 3600
    again = await older_copy()
    with monkeypatch.context() as patch:
        patch.setattr(Broker, "was_published", away)
        patch.setattr(Broker, "produce", away)
        with pytest.raises(Unavailable):
            await again.sleep.round()
    since = [open_envelope(raw).ref for raw in await packets(redis)][1:]
    await publisher.release(micro_parts | {"notes.bin": b"2"}, packets=since)
    await bundles_to(again, redis)
    await again.sleep.round()
    assert [open_envelope(raw).sequence for raw in await packets(redis)] == [0, 1, 3600]
    assert again.node.record.packets("sent")[-1].counts.tokens > 0


async def test_an_older_copy_waits_for_a_clock_that_tells_what_is_beyond_its_packets_and_says_only_then_that_it_moved(
    older_copy, redis, clock, caplog
):
    clock[0] -= 3600
    again = await older_copy()
    for _ in range(2):
        await again.sleep.round()
    assert len(await packets(redis)) == 2
    assert [said for said in caplog.messages if "packet 1 left before" in said] == [
        "packet 1 left before, and the clock is behind: set it, or nothing is folded"
    ]
    clock[0] += 7200
    await again.sleep.round()
    assert [open_envelope(raw).sequence for raw in await packets(redis)] == [0, 1, 3600]
    assert caplog.messages.count("this edge's file is an older copy: packet 1 left before, the next is 3600") == 1


async def test_a_packet_that_waited_is_sealed_when_it_is_sent(edge, life, redis, clock):
    await read(edge, 8)
    edge.sleep._send = killed
    with pytest.raises(Killed):
        await edge.sleep.round()
    clock[0] += 10_000
    await (await life()).sleep.round()
    (raw,) = await packets(redis)
    assert open_envelope(raw).at_s == clock[0]


async def test_a_bundle_that_names_the_packet_takes_its_counts_away_once(edge, publisher, micro_parts, redis, life):
    await read(edge, 8)
    await edge.sleep.round()
    (raw,) = await packets(redis)
    before = tokens(edge)
    bundle = await publisher.release(micro_parts | {"notes.bin": b"2"}, packets=[open_envelope(raw).ref])
    await bundles_to(edge, redis)
    after = tokens(edge)
    assert after < before
    assert [p.status for p in edge.node.record.packets("sent", "acknowledged")] == ["acknowledged"]
    again = await life()
    await again.bundles._settle(bundle, "9-9")
    assert tokens(again) == after


async def test_a_refused_bundle_still_acknowledges(edge, publisher, micro_parts, redis):
    await read(edge, 8)
    await edge.sleep.round()
    (raw,) = await packets(redis)
    await publisher.release(micro_parts | {"domains.json": b"[]"}, packets=[open_envelope(raw).ref])
    await bundles_to(edge, redis)
    assert (await verdicts(redis))[-1] == (2, "refused")
    assert [p.status for p in edge.node.record.packets("sent", "acknowledged")] == ["acknowledged"]


async def away(edge, publisher, micro_parts, redis, *, key=None):
    """An edge that comes back when the release which names its packet is listed no more."""
    await read(edge, 8)
    await edge.sleep.round()
    (raw,) = await packets(redis)
    await publisher.release(micro_parts | {"notes.bin": b"2"}, packets=[open_envelope(raw).ref], key=key)
    for version in (1, 2):
        publisher.released.pop(version, None)
    await publisher.release(micro_parts | {"notes.bin": b"3"})
    await bundles_to(edge, redis)


async def test_a_release_from_before_the_list_settles_what_it_names_and_is_not_reported(
    edge, publisher, micro_parts, redis
):
    await away(edge, publisher, micro_parts, redis)
    assert await verdicts(redis) == [(1, "applied"), (3, "applied")]
    assert [p.status for p in edge.node.record.packets("sent", "acknowledged")] == ["acknowledged"]


async def test_what_a_stranger_says_was_released_before_the_list_settles_nothing(edge, publisher, micro_parts, redis):
    with pytest.raises(Corrupt, match="not_released"):
        await away(edge, publisher, micro_parts, redis, key=keys.load_private(edge.node.settings.home, NODE))
    assert (await verdicts(redis))[-1] == (2, "refused")
    assert [p.status for p in edge.node.record.packets("sent", "acknowledged")] == ["sent"]


async def test_a_packet_of_which_nothing_is_ever_said_lets_the_next_one_go_after_days(edge, redis, clock):
    await read(edge, 8)
    await edge.sleep.round()
    await read(edge, 8, first=8)
    clock[0] += LOST_AFTER_S + 1
    await edge.sleep.round()
    assert [open_envelope(raw).sequence for raw in await packets(redis)] == [0, 1]


async def test_a_centre_that_takes_long_is_not_sent_the_same_counts_under_another_name(edge, redis, clock):
    await read(edge, 8)
    await edge.sleep.round()
    await read(edge, 8, first=8)
    for _ in range(3):
        clock[0] += AGAIN_AFTER_S + 1
        await edge.sleep.round()
    assert [open_envelope(raw).sequence for raw in await packets(redis)] == [0]


async def test_a_broker_that_lost_a_packet_is_sent_it_again_under_its_name(edge, redis, clock):
    await read(edge, 8)
    await edge.sleep.round()
    await redis.delete(streams.PACKETS, streams.seen(streams.PACKETS))
    clock[0] += AGAIN_AFTER_S - 1
    await edge.sleep.round()
    assert await packets(redis) == []
    clock[0] += 2
    await edge.sleep.round()
    (raw,) = await packets(redis)
    assert (open_envelope(raw).sequence, open_envelope(raw).at_s) == (0, clock[0])


async def test_a_packet_that_a_bundle_named_is_not_remembered_as_sent_again(edge, publisher, micro_parts, redis, clock):
    await read(edge, 8)
    await edge.sleep.round()
    clock[0] += AGAIN_AFTER_S + 1
    await edge.sleep.round()
    assert edge.sleep._again_s == {0: clock[0]}
    (raw,) = await packets(redis)
    await publisher.release(micro_parts, packets=[open_envelope(raw).ref])
    await bundles_to(edge, redis)
    await edge.sleep.round()
    assert edge.sleep._again_s == {}


async def test_what_the_centre_dropped_goes_again_with_the_next_text_also_after_a_restart(edge, life, redis):
    await read(edge, 8)
    await edge.sleep.round()
    (first,) = await packets(redis)
    told = Returned(packets=(open_envelope(first).ref,), code="candidate_refused")
    await edge.sleep.on_returned(delivery_of("7-0", streams.RETURNED, pack(told)))
    again = await life()
    assert again.sleep.follow_from == "7-0"
    await read(again, 8, first=8)
    await again.sleep.round()
    second = (await packets(redis))[1]
    assert open_envelope(second).sequence == 1
    carried = [packet.counts.tokens for packet in again.node.record.packets("lost", "sent")]
    assert carried[1] >= carried[0] > 0


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
                await edge.sleep.round()
        assert learned(edge) == expected(edge)
        patch.setattr("services.edge.answer.territory", lambda *_, **__: "vocab")
        await read(edge, 8, first=8)
        clock[0] += 7200
        with pytest.raises(Unavailable):
            await edge.sleep.round()
        assert learned(edge) == expected(edge)
    assert [packet.domain for packet in edge.node.record.packets("pending")] == ["heart", "vocab"]
    await edge.sleep.round()
    await edge.sleep.round()
    assert [open_envelope(raw).sequence for raw in await packets(redis)] == [0, 1]


@pytest.mark.parametrize(("queries", "folds"), [(2, True), (3, False)])
async def test_while_queries_wait_for_a_thread_an_edge_puts_sleep_off(
    edge, redis, clock, eventually, resting, queries, folds
):
    await read(edge, 8)
    resting.made.clear()
    asked = [Query(id=f"long-{n}", text=TEXT, max_tokens=100) for n in range(queries)]
    making = [asyncio.create_task(edge.queries.on_query(delivery_of(), query)) for query in asked]
    await eventually(lambda: sum(edge.queries.scheduler.load) == queries)
    await eventually(lambda: sum(each.tokens == 3 for each in resting.made) >= 2)  # one may have been given back
    await edge.sleep.round()
    assert len(await packets(redis)) == folds
    clock[0] += 3700
    await edge.sleep.round()
    assert len(await packets(redis)) == 1
    resting.wake.set()
    await asyncio.gather(*making)


async def test_an_edge_that_comes_back_is_up_for_its_idle_time_before_it_sleeps(edge, life, clock):
    await read(edge, 8)
    clock[0] += 7200
    again = await life(sleep_idle_s=10.0)
    await again.sleep.round()
    assert again.node.record.packets("pending", "sent") == []
    clock[0] += 30
    await again.sleep.round()
    assert len(again.node.record.packets("sent")) == 1
