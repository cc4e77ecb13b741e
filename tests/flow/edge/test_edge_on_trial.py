"""A bundle on trial on a running edge: kept, or gone back from, with what it had learned and what packets brought."""

import asyncio
import contextlib
import time

import numpy as np
import pytest
from edge_death import Killed, killed_at
from edge_fleet import TEXT, bundles_to, delivery_of, messages, packets, read, verdicts
from edge_learned import expected, learned
from listing import list_releases

from common.constants import PHI_COLLAPSE_MEASUREMENTS, ROLES
from common.constellation import parts as bundle_parts
from common.errors import Unavailable
from common.geometry.integration import NO_MOMENTS, Integration
from common.kernels import memory_file
from common.kernels.memory import count, merge
from common.runtime import metrics, streams
from common.runtime.broker import Broker
from common.trust.rings import EVERYBODY
from common.wire.bundle import TAKES_BACK
from common.wire.codec import pack
from common.wire.inference import Query
from common.wire.messages import TAKEN_BACK, Applied, Returned
from common.wire.packet import open_envelope
from services.edge.answer import Gauge
from services.edge.app import bundles
from services.edge.app import health as shell
from services.edge.generation import Generation
from services.edge.health import FAILED_MIN, TEXTS_MIN, Judgement
from services.edge.scheduler import Turn
from services.edge.slots import Slots
from services.trainer import growth

pytestmark = pytest.mark.anyio


def spoilt(micro, micro_parts):
    """Parts of a constellation that has read noise, and expects it."""
    noise = "".join(map(chr, np.random.default_rng(0).integers(33, 120, 3000)))
    grown = {role: merge([micro.memories[role], count([micro.encoder.encode(noise)] * 50)]) for role in ROLES}
    changed = [bundle_parts.memory_part(role, memory) for role, memory in grown.items()]
    return micro_parts | {path: data for part in changed for path, data in part.items()}


@pytest.fixture
async def on_trial(edge, publisher, micro, micro_parts, redis):
    """An edge that serves a bundle which has proved good nothing, and reads worse than the one before."""
    await publisher.release(spoilt(micro, micro_parts))
    await bundles_to(edge, redis)
    assert edge.node.serving.bundle == 2
    return edge


TEXTS = max(TEXTS_MIN, 3000 // len(TEXT))


async def test_a_bundle_that_serves_well_is_good_once_its_window_ends(edge, publisher, micro_parts, redis, clock):
    await publisher.release(micro_parts | {"notes.bin": b"two"})
    await bundles_to(edge, redis)
    await read(edge, TEXTS)
    await edge.bundles.watch()
    assert await verdicts(redis) == [(1, "applied"), (2, "applied")]
    assert metrics.REGISTRY.get_sample_value("qig_bundle_on_trial") == 1.0
    clock[0] += edge.node.settings.health_s
    await edge.bundles.watch()
    await edge.bundles.watch()
    told = (await messages(redis, streams.APPLIED, Applied))[-1]
    assert (told.version, told.verdict, told.probe_before == told.probe_after) == (2, "good", True)
    assert f"{TEXTS} answers in 60 s; reads" in told.reason
    assert await verdicts(redis) == [(1, "applied"), (2, "applied"), (2, "good")]
    assert metrics.REGISTRY.get_sample_value("qig_bundle_on_trial") == 0.0


@pytest.mark.parametrize("set_s", [86_400.0, -86_400.0])
async def test_a_clock_that_is_set_makes_a_window_neither_shorter_nor_longer(
    edge, publisher, micro_parts, redis, clock, set_s
):
    steady_s = [0.0]
    edge.node.steady = lambda: steady_s[0]
    await publisher.release(micro_parts | {"notes.bin": b"two"})
    await bundles_to(edge, redis)
    clock[0] += set_s
    await edge.bundles.watch()
    assert edge.health.bundle.version == 2
    steady_s[0] += edge.node.settings.health_s
    await edge.bundles.watch()
    assert edge.health.bundle is None


async def test_fresh_text_is_read_once_the_oldest_first_and_so_much_at_a_look(edge):
    await read(edge, 4)
    record = edge.node.record
    rows = record.texts.after(0, 1 << 20)
    assert [text for _, text in rows] == [TEXT] * 4
    assert record.texts.last_row() == rows[-1][0]
    size_bytes = len(TEXT.encode())
    assert [len(record.texts.after(0, room)) for room in (size_bytes - 1, size_bytes, size_bytes + 1)] == [
        1,
        1,
        2,
    ]
    assert record.texts.after(rows[1][0], 1 << 20) == rows[2:]


async def test_a_bundle_that_reads_fresh_text_worse_is_gone_back_from(on_trial, redis):
    await read(on_trial, TEXTS)
    await on_trial.bundles.watch()
    assert on_trial.node.serving.bundle == 1
    told = (await messages(redis, streams.APPLIED, Applied))[-1]
    assert (told.version, told.verdict) == (2, "reverted")
    assert told.probe_after > 1.01 * told.probe_before
    assert "of fresh text +" in told.reason


async def test_going_back_takes_less_than_a_second_with_the_look_before_it(on_trial):
    await read(on_trial, 4)
    for n in range(FAILED_MIN):
        on_trial.health.failed(f"q{n}")
    began_s = time.process_time()  # elapsed time is the neighbours' too; benchmarks/trust.py says both
    await on_trial.bundles.watch()
    assert on_trial.node.serving.bundle == 1
    assert shell.WATCH_EVERY_S + time.process_time() - began_s < 1.0


async def test_what_it_counted_meanwhile_stays(on_trial, redis):
    await read(on_trial, TEXTS)
    await on_trial.sleep.round()
    counted = memory_file.to_bytes(on_trial.node.record.residue("heart"))
    await on_trial.bundles.watch()
    assert on_trial.node.serving.bundle == 1
    assert memory_file.to_bytes(on_trial.node.record.residue("heart")) == counted
    assert learned(on_trial) == expected(on_trial)


@pytest.fixture
async def left(on_trial):
    """An edge that went back."""
    await read(on_trial, TEXTS)
    await on_trial.bundles.watch()
    assert on_trial.node.serving.bundle == 1
    return on_trial


async def test_a_bundle_that_was_gone_back_from_is_never_taken_again(left, life, publisher, redis, home):
    (two,) = [message for version, message in publisher.released.items() if version == 2]
    await redis.xadd(streams.BUNDLES, {"__data__": two})
    await list_releases(redis, home, publisher.released, rings={2: EVERYBODY})
    await bundles_to(left, redis)
    await left.bundles.look_again()
    again = await life()
    await bundles_to(again, redis)
    await again.bundles.look_again()
    await again.bundles.watch()
    assert again.node.serving.bundle == 1
    assert await verdicts(redis) == [(1, "applied"), (2, "applied"), (2, "reverted")]


async def test_the_next_bundle_is_taken_and_held_against_the_last_good_one(left, publisher, micro_parts, redis):
    await publisher.release(micro_parts | {"notes.bin": b"three"})
    await bundles_to(left, redis)
    assert left.node.serving.bundle == 3
    assert left.health.before.bundle == 1


async def test_while_one_is_on_trial_another_one_has_the_same_good_one_to_go_back_to(
    on_trial, publisher, micro, micro_parts, redis
):
    await publisher.release(spoilt(micro, micro_parts) | {"notes.bin": b"three"})
    await bundles_to(on_trial, redis)
    assert (on_trial.node.serving.bundle, on_trial.health.before.bundle) == (3, 1)
    await read(on_trial, TEXTS)
    await on_trial.bundles.watch()
    assert on_trial.node.serving.bundle == 1
    assert (await verdicts(redis))[-1] == (3, "reverted")


async def test_a_bundle_that_takes_another_back_is_good_at_once(on_trial, publisher, micro_parts, redis, life):
    await publisher.release(micro_parts, name=f"{TAKES_BACK}2-to-1")
    await bundles_to(on_trial, redis)
    assert on_trial.health.bundle is None
    for _ in range(3):
        on_trial = await life()
        assert on_trial.node.serving.bundle == 3


async def test_a_bundle_that_takes_another_back_is_on_no_trial_after_a_kill_either(
    on_trial, publisher, micro_parts, redis, life, monkeypatch
):
    await publisher.release(micro_parts, name=f"{TAKES_BACK}2-to-1")
    with monkeypatch.context() as patch:
        patch.setattr(Slots, "approve", killed_at(Slots.approve, 1, done=False))
        with pytest.raises(Killed):
            await bundles_to(on_trial, redis)
    again = await life()
    assert (again.node.serving.bundle, again.health.bundle) == (3, None)
    assert again.bundles._slots.standing.good == again.node.serving.digest


async def test_a_bad_bundle_is_gone_back_from_while_the_next_one_is_on_its_way(
    on_trial, publisher, micro_parts, redis, monkeypatch
):
    get, on_its_way, here = Broker.get_blob, asyncio.Event(), asyncio.Event()

    async def slow(*args):
        on_its_way.set()
        await here.wait()
        return await get(*args)

    monkeypatch.setattr(Broker, "get_blob", slow)
    await publisher.release(micro_parts | {"notes.bin": b"three"})
    taking = asyncio.create_task(bundles_to(on_trial, redis))
    async with asyncio.timeout(10):
        await on_its_way.wait()
        await read(on_trial, TEXTS)
        await on_trial.bundles.watch()
    assert on_trial.node.serving.bundle == 1
    here.set()
    await taking
    assert (on_trial.node.serving.bundle, on_trial.health.before.bundle) == (3, 1)


def full(*_):
    raise Unavailable("disk_full", "no space left")


async def test_a_bad_bundle_is_gone_back_from_once_the_disk_has_room_again(on_trial, redis, monkeypatch):
    await read(on_trial, TEXTS)
    with monkeypatch.context() as patch:
        patch.setattr(Slots, "_stand", full)
        with pytest.raises(Unavailable, match="disk_full"):
            await on_trial.bundles.watch()
    await on_trial.bundles.watch()
    assert on_trial.node.serving.bundle == 1
    assert await verdicts(redis) == [(1, "applied"), (2, "applied"), (2, "reverted")]


async def test_a_bad_bundle_is_gone_back_from_whole_once_the_record_takes_it(on_trial, redis, monkeypatch):
    """It was noted as bad, and its vocabulary could not be left yet: by now it may look as good as any."""
    await read(on_trial, TEXTS)
    with monkeypatch.context() as patch:
        patch.setattr(bundles, "follow_vocabulary", full)
        with pytest.raises(Unavailable, match="disk_full"):
            await on_trial.bundles.watch()
    assert on_trial.node.serving.bundle == 2

    async def well():
        return Judgement("good", "64 answers")

    monkeypatch.setattr(on_trial.health, "look", well)
    await on_trial.bundles.watch()
    assert (on_trial.node.serving.bundle, on_trial.health.bundle) == (1, None)
    assert await verdicts(redis) == [(1, "applied"), (2, "applied"), (2, "reverted")]
    assert "it reads" in on_trial.bundles._slots.standing.left[0].reason
    assert "it reads" in (await messages(redis, streams.APPLIED, Applied))[-1].reason


async def test_the_first_bundle_serves_on_where_there_is_nothing_to_go_back_to(edge, redis):
    assert edge.health.bundle.version == 1
    for n in range(FAILED_MIN):
        edge.health.failed(f"q{n}")
    await edge.bundles.watch()
    assert (edge.node.serving.bundle, edge.health.bundle) == (1, None)
    assert await verdicts(redis) == [(1, "applied")]


async def test_a_bundle_whose_answers_fail_is_gone_back_from(edge, publisher, micro_parts, redis, monkeypatch):
    await publisher.release(micro_parts | {"notes.bin": b"two"})
    await bundles_to(edge, redis)

    def broken(*_):
        raise ZeroDivisionError("a state that diverges")

    monkeypatch.setattr(Generation, "say", broken)
    for n in range(FAILED_MIN):
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                await edge.queries.on_query(delivery_of(f"{n + 1}-0"), Query(text=TEXT, max_tokens=4, id=f"q{n}"))
        await edge.bundles.watch()
        assert edge.node.serving.bundle == (1 if n + 1 == FAILED_MIN else 2)
    assert (await messages(redis, streams.APPLIED, Applied))[-1].reason == "3 of 3 queries failed; the limit is 10%"


async def test_queries_that_are_refused_or_left_say_nothing_of_a_bundle(on_trial):
    for n in range(FAILED_MIN):
        turn = on_trial.queries.ask(Query(text="hello", max_tokens=64, id=f"q{n}"))
        turn.leave()
        with contextlib.suppress(Exception):
            await on_trial.queries.finish(turn)
    await on_trial.bundles.watch()
    assert on_trial.node.serving.bundle == 2


async def test_a_slower_bundle_is_gone_back_from(edge, publisher, micro_parts, redis, monkeypatch):
    await publisher.release(micro_parts | {"notes.bin": b"two"})
    await bundles_to(edge, redis)
    monkeypatch.setattr(shell, "say_both", lambda *_, **__: 1.3)
    await read(edge, 16)
    await edge.bundles.watch()
    assert edge.node.serving.bundle == 1
    assert (
        "a token takes 1.30 times (error 0.00) as long" in (await messages(redis, streams.APPLIED, Applied))[-1].reason
    )


def gauge_of(phi):
    return Gauge(NO_MOMENTS, Integration(phi, 0.0, 0.0, 1024.0, None))


@pytest.mark.parametrize(("before", "serving"), [(0.8, 1), (0.6, 2), (None, 2)])
async def test_a_phi_that_collapses_is_gone_back_from_where_it_was_sound(
    edge, publisher, micro_parts, redis, monkeypatch, before, serving
):
    monkeypatch.setattr(edge.node, "gauges", dict.fromkeys(ROLES, gauge_of(before)))
    await publisher.release(micro_parts | {"notes.bin": b"two"})
    await bundles_to(edge, redis)
    monkeypatch.setattr(shell, "measured", lambda *_: dict.fromkeys(ROLES, gauge_of(0.5)))
    await read(edge, PHI_COLLAPSE_MEASUREMENTS)
    await edge.bundles.watch()
    assert edge.node.serving.bundle == serving
    if serving == 1:
        assert "was below 0.65 10 times in a row" in (await messages(redis, streams.APPLIED, Applied))[-1].reason


async def test_phi_is_measured_anew_from_the_swap_on_and_of_the_bundle_on_trial_alone(
    edge, publisher, micro_parts, redis
):
    await read(edge, 4)
    long_ago = max(gauge.moments.n for gauge in edge.node.gauges.values())
    await publisher.release(micro_parts | {"notes.bin": b"two"})
    await bundles_to(edge, redis)
    assert edge.health._gauges == {}
    await read(edge, 1, first=4)
    (since,) = {gauge.moments.n for gauge in edge.health._gauges.values()}
    assert 0 < since < long_ago < max(gauge.moments.n for gauge in edge.node.gauges.values())


async def test_a_bundle_that_gives_no_token_in_time_has_failed(on_trial, monkeypatch):
    async def hang(_):
        raise TimeoutError

    monkeypatch.setattr(Turn, "result", hang)
    for n in range(FAILED_MIN):
        on_trial.node.now = lambda n=n: 1_000.0 + n
        with pytest.raises(Unavailable, match="no_token"):
            await on_trial.heart.prove()
    await on_trial.bundles.watch()
    assert on_trial.node.serving.bundle == 1


async def test_after_two_deaths_the_last_good_bundle_serves_again_and_that_is_told(on_trial, life, redis):
    first = await life()
    assert (first.node.serving.bundle, first.health.bundle.version, first.health.before.bundle) == (2, 2, 1)
    second = await life()
    assert (second.node.serving.bundle, second.health.bundle) == (1, None)
    await second.bundles.watch()
    told = (await messages(redis, streams.APPLIED, Applied))[-1]
    assert (told.version, told.verdict) == (2, "reverted")
    assert told.reason.startswith("2 processes in a row")


async def test_a_life_that_is_stopped_in_good_order_is_no_death(on_trial, life):
    for _ in range(3):
        on_trial = await life()
        assert on_trial.node.serving.bundle == 2
        await on_trial.bundles.rest()


async def test_a_window_goes_on_after_a_death_and_finds_what_the_bundle_does(on_trial, life, redis):
    again = await life()
    await read(again, TEXTS)
    await again.bundles.watch()
    assert again.node.serving.bundle == 1
    assert (await verdicts(redis))[-1] == (2, "reverted")


async def test_while_the_broker_is_away_it_goes_back_and_tells_later(on_trial, life, redis, monkeypatch):
    await read(on_trial, TEXTS)

    async def away(*_):
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(Broker, "produce", away)
        with pytest.raises(ConnectionError):
            await on_trial.bundles.watch()
    assert on_trial.node.serving.bundle == 1
    again = await life()
    await again.bundles.watch()
    await again.bundles.watch()
    assert await verdicts(redis) == [(1, "applied"), (2, "applied"), (2, "reverted")]


@pytest.fixture
async def watched(edge, publisher, micro_parts, redis, clock):
    """An edge whose bundle has served well until its window ends."""
    await publisher.release(micro_parts | {"notes.bin": b"two"})
    await bundles_to(edge, redis)
    await read(edge, TEXTS)
    clock[0] += edge.node.settings.health_s
    return edge


async def test_while_the_broker_is_away_a_good_bundle_is_on_trial_no_more_and_that_is_told_later(
    watched, life, redis, monkeypatch
):
    edge = watched

    async def away(*_):
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(Broker, "produce", away)
        with pytest.raises(ConnectionError):
            await edge.bundles.watch()
        assert (edge.node.serving.bundle, edge.health.bundle) == (2, None)
        for _ in range(3):  # power cuts
            edge = await life()
            assert (edge.node.serving.bundle, edge.health.bundle) == (2, None)
    await edge.bundles.watch()
    await edge.bundles.watch()
    told = await messages(redis, streams.APPLIED, Applied)
    assert [(each.version, each.verdict) for each in told] == [(1, "applied"), (2, "applied"), (2, "good")]
    assert told[-1].probe_before == told[-1].probe_after


async def test_a_publisher_that_could_not_be_told_is_told_again_after_a_pause(watched, redis, clock, monkeypatch):
    async def away(*_):
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(Broker, "produce", away)
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await watched.bundles.watch()
            clock[0] += bundles.TELL_AGAIN_S - 0.1
            await watched.bundles.watch()
            clock[0] += 0.2
    for _ in range(2):
        await watched.bundles.watch()
        assert await verdicts(redis) == [(1, "applied"), (2, "applied"), (2, "good")]


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("step", ["keep", "produce", "told"])
async def test_a_kill_at_any_step_of_keeping_ends_with_the_good_bundle_and_one_report(
    watched, life, redis, clock, monkeypatch, step, done
):
    with monkeypatch.context() as patch:
        owner = Broker if step == "produce" else Slots
        patch.setattr(owner, step, killed_at(getattr(owner, step), 1, done=done))
        with pytest.raises(Killed):
            await watched.bundles.watch()
    again = await life()
    clock[0] += again.node.settings.health_s  # killed before the first step, it still has to find out
    await again.bundles.watch()
    await again.bundles.watch()
    assert (again.node.serving.bundle, again.health.bundle) == (2, None)
    assert await verdicts(redis) == [(1, "applied"), (2, "applied"), (2, "good")]


STEPS = [("go_back", 1), ("follow_vocabulary", 1), ("rehome", 1), ("relearned", 1), ("produce", 1), ("told", 1)]


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize(("step", "nth"), STEPS)
async def test_a_kill_at_any_step_of_going_back_ends_with_the_good_bundle_and_one_report(
    on_trial, life, redis, monkeypatch, step, nth, done
):
    await read(on_trial, TEXTS)
    await on_trial.sleep.round()
    with monkeypatch.context() as patch:
        owner = next(each for each in (Broker, Slots, bundles) if hasattr(each, step))
        patch.setattr(owner, step, killed_at(getattr(owner, step), nth, done=done))
        with pytest.raises(Killed):
            await on_trial.bundles.watch()
    again = await life()
    await read(again, TEXTS, first=TEXTS)  # killed before the first step, it still has to find out
    await again.bundles.watch()
    await again.bundles.watch()
    assert again.node.serving.bundle == 1
    assert await verdicts(redis) == [(1, "applied"), (2, "applied"), (2, "reverted")]
    await again.sleep.round()
    assert learned(again) == expected(again)


# What packets brought


@pytest.fixture
async def with_packet(edge, publisher, micro, micro_parts, redis, monkeypatch):
    """An edge whose packet a bundle named that it went back from; the packet, and that bundle."""
    monkeypatch.setattr("services.edge.answer.territory", lambda *_, **__: "heart")
    await read(edge, 8)
    await edge.sleep.round()
    (packet,) = edge.node.record.packets("sent")
    ref = open_envelope((await packets(redis))[0]).ref
    two = await publisher.release(spoilt(micro, micro_parts), packets=[ref])
    await bundles_to(edge, redis)
    await read(edge, TEXTS, first=8)
    await edge.bundles.watch()
    assert edge.node.serving.bundle == 1
    return edge, packet, two


async def test_a_packet_of_a_bundle_that_only_this_edge_left_counts_once(with_packet, publisher, micro_parts, redis):
    edge, packet, _ = with_packet
    heart = bundle_parts.load(micro_parts).memories["heart"]
    await publisher.release(micro_parts | bundle_parts.memory_part("heart", merge([heart, packet.counts])))
    await bundles_to(edge, redis)
    await edge.sleep.round()
    sent = [open_envelope(raw).sequence for raw in await packets(redis)]
    assert sent == sorted(set(sent))
    assert [each.sequence for each in edge.node.record.packets("acknowledged")] == [packet.sequence]
    tokens = (8 + TEXTS) * len(edge.node.serving.constellation.encoder.encode(TEXT))
    assert edge.node.serving.answering.memories["heart"].tokens == heart.tokens + tokens
    assert learned(edge) == expected(edge)


async def test_a_packet_of_a_bundle_that_the_publisher_took_back_goes_again(with_packet, publisher, micro_parts, redis):
    edge, packet, two = with_packet
    heart = bundle_parts.load(micro_parts).memories["heart"]
    told = Returned(packets=two.packets, code=TAKEN_BACK, reason="bundle 2 was taken back")
    await edge.sleep.on_returned(delivery_of("7-0", streams.RETURNED, pack(told)))
    await publisher.release(micro_parts, name=f"{TAKES_BACK}2-to-1")
    await bundles_to(edge, redis)
    assert edge.node.serving.bundle == 3
    await edge.sleep.round()
    assert [each.sequence for each in edge.node.record.packets("taken_back")] == [packet.sequence]
    tokens = (8 + TEXTS) * len(edge.node.serving.constellation.encoder.encode(TEXT))
    assert edge.node.record.residue("heart").tokens == tokens
    assert edge.node.serving.answering.memories["heart"].tokens == heart.tokens + tokens
    assert len(await packets(redis)) == 2


async def test_a_vocabulary_that_grew_is_left_with_the_bundle_that_brought_it(
    edge, publisher, micro, micro_parts, micro_larger, redis
):
    await read(edge, 8)
    await edge.sleep.round()
    before = memory_file.to_bytes(edge.node.record.residue("heart"))
    await publisher.release({**micro_parts, **growth.parts(micro_larger)})
    await bundles_to(edge, redis)
    assert edge.node.serving.bundle == 2
    for n in range(FAILED_MIN):
        edge.health.failed(f"q{n}")
    await edge.bundles.watch()
    assert edge.node.serving.constellation.coordizer.vocab_size == micro.coordizer.vocab_size
    assert memory_file.to_bytes(edge.node.record.residue("heart")) == before
