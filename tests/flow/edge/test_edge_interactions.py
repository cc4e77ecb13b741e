import asyncio

import pytest
from edge_death import Killed, killed
from edge_fleet import NODE, TEXT, packets, read

from common.runtime import keys, streams
from common.runtime.broker import Broker
from common.wire.packet import open_envelope, verify
from services.edge.learning import forget

pytestmark = pytest.mark.anyio


async def test_a_forgotten_text_is_in_no_packet_that_had_not_left(edge, redis, home):
    await read(edge, 8)
    await read(edge, 1, text="swordfish, said the king. " * 3, first=8)
    edge.sleep._send = killed
    with pytest.raises(Killed):
        await edge.sleep.round()
    del edge.sleep._send
    done = await edge.interactions.forget("anonymous", "q8")
    assert (done.withdrawn, done.left) == ((0,), ())
    await edge.sleep.round()
    (raw,) = await packets(redis)
    body = verify(open_envelope(raw), keys.load_private(home, NODE).verify_key)
    assert (body.interactions, body.fresh_bytes) == (8, 8 * len(TEXT))


async def test_a_packet_that_was_about_to_leave_when_the_edge_was_killed_counts_as_left(edge, life, monkeypatch):
    await read(edge, 8)
    monkeypatch.setattr(type(edge.node.broker), "produce", killed)
    with pytest.raises(Killed):
        await edge.sleep.round()
    monkeypatch.undo()
    done = await (await life()).interactions.forget("anonymous", "q0")
    assert (done.withdrawn, [each.sequence for each in done.left]) == ((), [0])


async def test_who_has_a_text_forgotten_does_not_wait_for_a_broker_that_takes_no_packet(edge, redis, monkeypatch):
    produce, on_its_way, taken = Broker.produce, asyncio.Event(), asyncio.Event()

    async def late(broker, stream, *what):
        if stream == streams.PACKETS:
            on_its_way.set()
            await taken.wait()
        return await produce(broker, stream, *what)

    monkeypatch.setattr(Broker, "produce", late)
    await read(edge, 8)
    sending = asyncio.create_task(edge.sleep.round())
    async with asyncio.timeout(10):
        await on_its_way.wait()
        done = await edge.interactions.forget("anonymous", "q0")
    assert (done.withdrawn, [each.sequence for each in done.left]) == ((), [0])
    taken.set()
    await sending
    assert (len(await packets(redis)), len(edge.node.record.packets("sent"))) == (1, 1)


async def test_a_packet_that_is_withdrawn_before_its_turn_to_leave_does_not_leave(edge, redis, monkeypatch):
    looked_up = edge.node.record.packets

    def then_forgotten(*statuses):
        found = looked_up(*statuses)
        if statuses == ("pending",) and found:
            forget(edge.node.record, "anonymous", "q0")
        return found

    await read(edge, 8)
    with monkeypatch.context() as patch:
        patch.setattr(edge.node.record, "packets", then_forgotten)
        await edge.sleep.round()
    assert (await packets(redis), looked_up("pending", "sent")) == ([], [])


async def test_a_rejected_text_is_not_learned(edge, redis, home):
    await read(edge, 9)
    assert await edge.interactions.judge("anonymous", "q3", "rejected")
    assert not await edge.interactions.judge("anonymous", "unknown", "rejected")
    await edge.sleep.round()
    (raw,) = await packets(redis)
    assert verify(open_envelope(raw), keys.load_private(home, NODE).verify_key).interactions == 8


@pytest.mark.parametrize(("days", "left"), [(1.9, 0), (2.1, 8)])
async def test_what_is_older_than_the_setting_says_goes_while_the_edge_runs(edge, life, clock, days, left):
    await read(edge, 8)
    clock[0] += 2 * 86_400
    keeping = await life(keep_days=days)
    await keeping.interactions.prune()
    assert sum(each.interactions for each in keeping.node.record.texts.fresh()) == left


async def test_what_is_more_than_the_setting_says_goes_oldest_first(edge, life):
    await read(edge, 8)
    keeping = await life(keep_bytes=0)
    await keeping.interactions.prune()
    assert keeping.node.record.texts.fresh() == []
