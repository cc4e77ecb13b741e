"""What happens between a look and a commit: made to happen, at the worst moment."""

import dataclasses

import pytest
from centre import NODES, ref_of

from common.errors import Unavailable
from common.runtime import keys, metrics, scripts, streams
from common.runtime.broker import Broker
from common.runtime.entries import Delivery
from common.runtime.trust import Trust
from services.aggregator import app
from services.aggregator.admit import open_packet
from services.aggregator.app.hashes import ACCEPTED, LEDGER

pytestmark = pytest.mark.anyio


@dataclasses.dataclass(frozen=True)
class Late(Broker):
    """A broker whose next commit is preceded by somebody else's work."""

    others: list = dataclasses.field(default_factory=list)

    async def commit(self, stream, effects):
        if self.others:
            await self.others.pop()()
        return await Broker.commit(self, stream, effects)


def aggregator(centre, broker=None, **given):
    trust = Trust(centre.broker.redis, keys.load_root(centre.home))
    return app.Aggregator(centre.settings("aggregator", **given), broker or centre.broker, trust)


async def accept(centre, who, raw):
    """The packet as the consumer hands it over, committed."""
    now_ms = int((await centre.broker.redis.time())[0]) * 1000
    delivery = Delivery(streams.PACKETS, f"{now_ms}-0", now_ms, 1, raw)
    return await scripts.commit(
        centre.broker.redis, streams.PACKETS, await who.packets.take(delivery, open_packet(raw))
    )


async def sent(centre):
    """The batches that wait in the outbox."""
    rows = await centre.broker.redis.xrange(streams.outbox(streams.PACKETS))
    return [fields[b"id"].decode() for _, fields in rows]


async def test_a_cut_that_was_overtaken_takes_nothing(centre):
    bundle = await centre.release()
    late = Late(centre.broker.redis)
    one, two = aggregator(centre, late, batch_packets=1), aggregator(centre, batch_packets=1)

    async def overtake():
        assert await accept(centre, two, centre.packet(bundle, 1)) == "done"
        await two.batches.cut_due()

    assert await accept(centre, one, centre.packet(bundle, 0)) == "done"
    late.others.append(overtake)
    await one.batches.cut_due()
    assert len(await sent(centre)) == 1
    assert await centre.broker.read_hash(ACCEPTED) == await centre.broker.read_hash(LEDGER) == {}


async def test_two_acceptances_decided_on_one_window_are_not_both_made(centre):
    bundle = await centre.release()
    who = aggregator(centre)
    raw = centre.packet(bundle)
    delivery = Delivery(streams.PACKETS, "1-0", int((await centre.broker.redis.time())[0]) * 1000, 1, raw)
    accepted = {"outcome": "accepted", "code": ""}
    before = metrics.REGISTRY.get_sample_value("qig_packets_total", accepted)
    twice = [await who.packets.take(delivery, open_packet(raw)) for _ in range(2)]
    assert [await centre.broker.commit(streams.PACKETS, effects) for effects in twice] == [True, False]
    assert metrics.REGISTRY.get_sample_value("qig_packets_total", accepted) == before + 1
    assert list(await centre.broker.read_hash(LEDGER)) == [ref_of(centre, 0, 1).hex()]


async def test_a_bundle_that_the_follower_has_not_seen_is_looked_up(centre):
    first = await centre.release()
    who = aggregator(centre)
    assert await accept(centre, who, centre.packet(first, sequence=1)) == "done"
    second = await centre.release(2, first)
    assert await accept(centre, who, centre.packet(second, sequence=2)) == "done"


async def test_an_enrolment_that_is_being_written_refuses_nobody(centre):
    bundle = await centre.release()
    public = keys.edges_dir(centre.home) / f"{NODES[0]}.pub"
    whole = public.read_text()
    public.unlink()
    who = aggregator(centre)
    public.write_text(whole[:7])
    with pytest.raises(Unavailable, match="enrolment_unreadable"):
        await accept(centre, who, centre.packet(bundle))
    public.write_text(whole)
    assert await accept(centre, who, centre.packet(bundle)) == "done"


async def test_a_packet_whose_base_left_the_window_while_it_waited_is_a_dead_letter(centre):
    bundles = [await centre.release()]
    who = aggregator(centre, batch_packets=2)
    await accept(centre, who, centre.packet(bundles[0], 0))
    for version in (2, 3, 4):
        bundles.append(await centre.release(version, bundles[-1]))
    await accept(centre, who, centre.packet(bundles[-1], 1))
    await who.batches.cut_due()
    rows = await centre.broker.redis.xrange(streams.outbox(streams.PACKETS))
    assert [fields[b"stream"].decode() for _, fields in rows] == [
        streams.dead(streams.PACKETS),
        streams.RETURNED,
        streams.BATCHES,
    ]
    assert await centre.broker.read_hash(LEDGER) == {}


async def test_a_packet_that_somebody_deleted_by_hand_does_not_stop_the_next_cut(centre):
    bundle = await centre.release()
    who = aggregator(centre, batch_packets=2)
    for node in range(2):
        await accept(centre, who, centre.packet(bundle, node))
    await centre.broker.redis.hdel(LEDGER, ref_of(centre, 0, 1).hex())
    await who.batches.cut_due()
    assert len(await sent(centre)) == 1
    assert await centre.broker.read_hash(ACCEPTED) == {}


async def test_a_ledger_of_nothing_but_deleted_packets_is_cleared(centre):
    bundle = await centre.release()
    who = aggregator(centre, batch_packets=1)
    await accept(centre, who, centre.packet(bundle))
    await centre.broker.redis.delete(LEDGER)
    await who.batches.cut_due()
    assert await sent(centre) == []
    assert await centre.broker.read_hash(ACCEPTED) == {}


async def test_a_full_ledger_goes_out_in_several_batches(centre):
    bundle = await centre.release()
    who = aggregator(centre, batch_packets=256, node_packets=75)
    for sequence in range(1, 76):
        for node in range(4):
            await accept(centre, who, centre.packet(bundle, node, sequence))
    who.batches._limits = dataclasses.replace(who.batches._limits, packets=1)
    await who.batches.cut_due()
    assert len(await sent(centre)) == 2
