"""A node is disowned: heard no more, and taken out of what the batches said; through a real broker."""

import asyncio

import pytest
from centre import NODES, Centre, ref_of

from common.constants import ROLES
from common.errors import Rejected, Unavailable
from common.kernels.memory import merge, subtract
from common.runtime import keys, streams
from common.runtime.broker import Broker
from common.wire.codec import unpack
from common.wire.messages import Batch
from services.aggregator.app import accounts
from services.aggregator.app.hashes import ACCOUNT, ACCOUNTS
from services.cli import disown as command
from services.trainer.updates import memory_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def centre(tmp_path, broker_url, broker, micro_parts, monkeypatch):
    monkeypatch.setattr("services.aggregator.app.CUT_EVERY_S", 0.02)
    keys.init(tmp_path, NODES)
    return Centre(tmp_path, broker_url, broker, micro_parts)


async def cut_waves(centre, eventually, nodes, waves=3):
    """So many batches of a packet of each node."""
    bundle = await centre.release()
    async with centre.running("aggregator", batch_packets=len(nodes)):
        for wave in range(1, 1 + waves):
            await centre.send(*[centre.packet(bundle, node, wave) for node in nodes])
            await eventually(lambda many=wave: has_batches(centre, many))


async def has_batches(centre, number):
    return len(await centre.batches()) >= number


async def sent(centre):
    """The corrections that wait in the outbox, batch by batch."""
    rows = await centre.broker.redis.xrange(streams.outbox(streams.PACKETS))
    return [unpack(Batch, fields[b"__data__"]) for _, fields in rows]


def memory_with(micro, batches, corrections=()):
    """What the trainer makes of it."""
    held = micro.memories["percept"]
    for batch in batches:
        held = merge([held, *(memory_of(update.crystals, micro) for update in batch.domains)])
    for each in corrections:
        held = subtract(merge([held, memory_of(each.now, micro)]), memory_of(each.was, micro))
    return [[column.tolist() for column in table[:4]] for table in held.tables]


async def test_what_a_node_brought_is_taken_out_of_every_batch_to_the_count(centre, eventually, micro):
    await cut_waves(centre, eventually, (0, 1, 2))
    everybody = await centre.batches()
    keys.disown(centre.home, NODES[1])
    done = await accounts.disown(centre.broker, NODES[1])
    assert done == (3, 3, 1)
    (correction,) = await sent(centre)
    assert [each.batch for each in correction.corrections] == [batch.id for batch in everybody]
    await centre.broker.redis.flushall()
    await cut_waves(centre, eventually, (0, 2))
    others = await centre.batches()
    assert memory_with(micro, everybody, correction.corrections) == memory_with(micro, others)
    assert memory_with(micro, everybody) != memory_with(micro, others)


async def test_disowning_once_more_takes_nothing_out_twice(centre, eventually):
    await cut_waves(centre, eventually, (0, 1), waves=2)
    first = await accounts.disown(centre.broker, NODES[1])
    assert await accounts.disown(centre.broker, NODES[1]) == (0, 2, 0)
    assert (first, len(await sent(centre))) == ((2, 2, 1), 1)


async def test_corrections_go_out_in_as_many_messages_as_it_takes(centre, eventually, monkeypatch):
    await cut_waves(centre, eventually, (0, 1), waves=3)
    monkeypatch.setattr("services.aggregator.account.MAX_CORRECTIONS", 2)
    assert await accounts.disown(centre.broker, NODES[0]) == (3, 3, 2)
    assert [len(batch.corrections) for batch in await sent(centre)] == [2, 1]


async def test_what_one_batch_asks_for_goes_out_in_as_many_messages_as_it_takes(centre, eventually, monkeypatch):
    bundle = await centre.release()
    async with centre.running("aggregator", batch_packets=3):
        await centre.send(*[centre.packet(bundle, 0, wave, domain=role) for wave, role in enumerate(ROLES[:3], 1)])
        await eventually(lambda: has_batches(centre, 1))
    monkeypatch.setattr("services.aggregator.account.MAX_CORRECTIONS", 2)
    assert await asyncio.wait_for(accounts.disown(centre.broker, NODES[0]), 10.0) == (1, 1, 2)
    told = [[each.name for each in batch.corrections] for batch in await sent(centre)]
    assert [len(names) for names in told] == [2, 1]
    assert sorted(name for names in told for name in names) == sorted(ROLES[:3])


async def test_a_cut_between_the_look_and_the_commit_is_not_overtaken(centre, eventually):
    await cut_waves(centre, eventually, (0, 1), waves=1)

    class Late(Broker):
        left = 1

        async def commit(self, stream, effects):
            if Late.left:
                Late.left -= 1
                await centre.broker.redis.hset("{qig:packets}:cuts", "count", "9")
            return await Broker.commit(self, stream, effects)

    assert await accounts.disown(Late(centre.broker.redis), NODES[0]) == (1, 1, 1)
    assert len(await sent(centre)) == 1

    class Never(Broker):
        async def commit(self, stream, effects):  # noqa: ARG002 -- as a busy aggregator
            return False

    with pytest.raises(Unavailable, match=r"overtaken.*again"):
        await accounts.disown(Never(centre.broker.redis), NODES[1])


async def test_the_command_moves_the_keys_aside_and_sends_the_corrections(centre, eventually, monkeypatch, capsys):
    await cut_waves(centre, eventually, (0, 1), waves=1)
    keys.edges_dir(centre.home).joinpath(f"{NODES[1]}.pub").rename(
        keys.edges_dir(centre.home) / f"{NODES[0]}@second.pub"
    )
    monkeypatch.setenv("QIG_BROKER_URL", centre.url)
    assert await asyncio.to_thread(command.run, NODES[0], centre.home) == 0
    assert sorted(path.name for path in keys.disowned_dir(centre.home).iterdir()) == [
        f"{NODES[0]}.pub",
        f"{NODES[0]}@second.pub",
    ]
    assert {node for node, _ in keys.load_enrolled(centre.home).values()} == {*NODES[2:]}
    assert len(await sent(centre)) == 1
    assert "enrolled no more" in capsys.readouterr().out
    assert keys.init(centre.home, NODES[:1]) == []
    with pytest.raises(Rejected, match="unknown_node"):
        await asyncio.to_thread(command.run, "nobody", centre.home)


async def test_of_the_notes_the_newest_are_kept(centre, eventually, monkeypatch):
    monkeypatch.setattr("services.aggregator.account.ACCOUNT_BATCHES", 2)
    await cut_waves(centre, eventually, (0,), waves=4)
    numbers = sorted(await centre.broker.read_hash(ACCOUNT))
    assert numbers == sorted(await centre.broker.read_hash(ACCOUNTS)) == ["2", "3"]
    assert ref_of(centre, 0, 4) in await centre.counted()
