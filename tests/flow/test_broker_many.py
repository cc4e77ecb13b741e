"""A broker of several servers: what holds on one holds there, and when a master is killed while there is work."""

import asyncio
import time
from contextlib import AsyncExitStack

import pytest
from broker_many import cluster, watched
from broker_node import COUNTS, Node, consumer, counted, finished
from client_edge import edge
from redis.exceptions import ConnectionError, ResponseError  # noqa: A004 -- redis-py's

from common.client.client import Client
from common.errors import Rejected, Unavailable
from common.runtime import lanes, relay, scripts, store, streams
from common.runtime.broker import Broker
from common.runtime.connection import connect, greet
from common.runtime.effects import Absent, HashSet, Send
from common.runtime.follower import FROM_START, Follower, follow
from common.runtime.health import Health
from common.runtime.rates import Rates
from common.wire.codec import unpack
from common.wire.messages import DeadLetter

pytestmark = pytest.mark.anyio
KINDS = {"cluster": cluster, "sentinels": watched}
LEDGER = streams.side_key(streams.PACKETS, "ledger")


@pytest.fixture(scope="module", params=KINDS)
def standing(request, tmp_path_factory):
    with KINDS[request.param](tmp_path_factory.mktemp(request.param)) as many:
        yield many


@pytest.fixture
async def redis(standing):
    async with connect(standing.url) as client:
        await client.flushall()
        yield client


async def answer(delivery, body):
    """Two effects in the slot of the queries, and one in that of a client's answers."""
    return [*counted(body), Send(streams.answers(f"kiosk-{body[-1] % 4}"), body, body.decode())]


async def answered(redis):
    rows = [await redis.xrange(streams.answers(f"kiosk-{number}")) for number in range(4)]
    return sorted(fields[b"__data__"].decode() for kiosk in rows for _, fields in kiosk)


async def start(url, start_node, redis):
    return await start_node(consumer(answer), url=url, direct=not await scripts.has_slots(redis))


async def test_queries_are_handled_once_and_answered_once(redis, standing, start_node, eventually):
    names = [f"q{number}" for number in range(60)]
    await asyncio.gather(*(Broker(redis).produce(streams.QUERIES, name.encode(), name) for name in names))
    node = await start(standing.url, start_node, redis)
    await start(standing.url, start_node, redis)
    await eventually(lambda: finished(redis))
    await eventually(lambda: finished(redis, streams.outbox(streams.QUERIES)))
    assert await redis.hgetall(COUNTS) == {name.encode(): b"1" for name in names}
    assert await answered(redis) == sorted(names)
    await eventually(lambda: not node.health.reasons())


async def test_every_server_that_takes_writes_is_taught_how_clients_publish(redis, standing):
    await redis.script_flush()
    await Broker(redis).teach()
    masters = [server for server in standing.servers if server.ask("INFO")["role"] == "master"]
    known = [server.ask("SCRIPT EXISTS", lanes.digest(scripts._PUBLISH)) for server in masters]
    assert known == [[True]] * len(masters) != []


async def test_blobs_that_nobody_needs_go_from_every_server_and_others_from_none(redis):
    broker = Broker(redis)
    kept, old = bytes(9 * store.CHUNK_BYTES), bytes(9 * store.CHUNK_BYTES - 1)
    digest = await broker.put_blob(kept)
    await broker.put_blob(old)
    assert await broker.forget_blobs({digest}, 3_600.0) == 0
    assert await broker.forget_blobs({digest}, 0.0) == 9
    assert await broker.get_blob(digest, len(kept)) == kept


async def test_a_full_stream_takes_no_more_and_what_is_sent_to_it_waits_in_its_outbox(redis, monkeypatch):
    monkeypatch.setitem(streams._KEPT, streams.BATCHES, streams.Retention(entries=1, kind="work"))
    broker = Broker(redis)
    await broker.produce(streams.BATCHES, b"old", "old")
    with pytest.raises(Unavailable, match="stream_full"):
        await broker.produce(streams.BATCHES, b"new", "new")
    await broker.commit(streams.PACKETS, [Send(streams.BATCHES, b"b", "b1"), Send(streams.RETURNED, b"r", "r1")])
    await relay.drain(redis, streams.PACKETS)
    box = streams.outbox(streams.PACKETS)
    assert [await redis.xlen(each) for each in (box, streams.BATCHES, streams.RETURNED)] == [1, 1, 1]
    await redis.delete(streams.BATCHES)
    await relay.drain(redis, streams.PACKETS)
    assert [await redis.xlen(each) for each in (box, streams.BATCHES, streams.RETURNED)] == [0, 1, 1]


async def test_what_can_go_nowhere_becomes_a_dead_letter_and_what_is_behind_it_goes_on(redis, broker_letters):
    box = streams.outbox(streams.PACKETS)
    await redis.set(streams.BATCHES, "no stream")
    await redis.set(streams.seen(streams.BUNDLES), "no set")
    lost = {"stream": streams.BATCHES, "id": "b1", "__data__": b"b"}
    of_another_release = lost | {"stream": "qig:newer"}
    wrong = [{"x": "y"}, {"stream": b"\xff", "id": "1", "__data__": b"b"}, lost, lost | {"stream": streams.BUNDLES}]
    wrong.append(of_another_release)
    for fields in wrong * 20:  # more than one look takes
        await redis.xadd(box, fields)
    await Broker(redis).commit(streams.PACKETS, [Send(streams.RETURNED, b"r", "r1")])
    await asyncio.gather(*(relay.drain(redis, streams.PACKETS) for _ in range(3)))
    assert await redis.xlen(box) == 0
    assert [fields for _, fields in await redis.xrange(streams.RETURNED)] == [{b"__data__": b"r"}]
    found = await broker_letters()
    assert [each.code for each in found] == ["no_body", "no_body", "wrong_type", "wrong_type", "no_stream"] * 20
    assert {each.stream for each in found} == {box}
    assert "qig:batches, or what was seen there, is a key of another kind" in found[2].reason


@pytest.fixture
def broker_letters(redis):
    """The dead letters of the packets, in the order of their entries."""

    async def read():
        rows = await redis.xrange(streams.dead(streams.PACKETS))
        found = [unpack(DeadLetter, fields[b"__data__"]) for _, fields in rows]
        return sorted(found, key=lambda letter: tuple(map(int, letter.entry.split("-"))))

    return read


async def test_an_outbox_whose_dead_letters_are_no_stream_keeps_what_can_go_nowhere(redis):
    box = streams.outbox(streams.PACKETS)
    await redis.set(streams.dead(streams.PACKETS), "no stream")
    await redis.xadd(box, {"x": "y"})
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await relay.carry(redis, streams.PACKETS)
    assert await redis.xlen(box) == 1


async def test_what_is_done_outside_a_handler_is_done_there_too(redis, standing, eventually):
    broker = Broker(redis)
    assert [await broker.produce(streams.PACKETS, b"p", "a1:7") for _ in range(2)] == [True, False]
    effects = [Absent(LEDGER, "a1:7"), HashSet(LEDGER, "a1:7", b"x")]
    assert [await broker.commit(streams.PACKETS, effects) for _ in range(2)] == [True, False]
    assert await broker.read_hash(LEDGER) == {"a1:7": b"x"}
    data = bytes(range(256)) * 4_000  # chunks that lie on several servers
    assert await broker.get_blob(await broker.put_blob(data), len(data)) == data
    heard = []

    async def hear(delivery):
        heard.append(delivery.body)

    following = asyncio.create_task(follow(redis, Follower(streams.HEART, FROM_START, hear), Health()))
    for word in (b"one", b"two"):
        await asyncio.wait([broker.tell(streams.HEART, word)])
    await eventually(lambda: heard == [b"one", b"two"])
    following.cancel()
    assert (await broker.latest(streams.HEART)).fields == {b"__data__": b"two"}
    assert {row.stream: row.length for row in await broker.depths()} == dict.fromkeys(streams.GROUPS, 0) | {
        streams.PACKETS: 1
    }


async def test_scripts_of_many_slots_at_once_each_get_their_own_answer(redis):
    given = [(streams.answers(f"kiosk-{number % 40}"), b"%d" % number, str(number)) for number in range(200)]
    entries = await asyncio.gather(*(scripts.publish(redis, *one) for one in given))
    for (stream, message, _), entry in zip(given, entries, strict=True):
        ((_, fields),) = await redis.xrange(stream, min=entry, max=entry)
        assert fields[b"__data__"] == message


async def test_the_rate_of_a_client_is_counted_there(redis, standing, monkeypatch):
    monkeypatch.setattr("common.runtime.rates.LOOK_TIMEOUT_S", 10.0)  # a busy machine counts late, and must count here
    rates = Rates(standing.url, per_minute=2)
    hits = [await rates.hit("kiosk", time.time()) for _ in range(3)]
    await rates.close()
    assert [hit.allowed for hit in hits if hit] == [True, True, False]


@pytest.mark.parametrize("standing", ["cluster"], indirect=True)
async def test_a_slot_that_moves_to_another_master_amid_the_work_loses_nothing(redis, standing, start_node, eventually):
    slot, source = redis.keyslot(streams.QUERIES), standing.master_of(streams.QUERIES)
    target = standing.master_of("qig:answers:kiosk-0")
    assert target is not source
    node = await start(standing.url, start_node, redis)
    names = [f"q{number}" for number in range(400)]
    asking = [asyncio.create_task(Broker(redis).produce(streams.QUERIES, name.encode(), name)) for name in names]
    await eventually(lambda: redis.hlen(COUNTS))
    name = target.ask("CLUSTER MYID").decode()
    source.ask("CLUSTER MIGRATESLOTS", "SLOTSRANGE", str(slot), str(slot), "NODE", name)
    await asyncio.gather(*asking)
    await eventually(lambda: standing.master_of(streams.QUERIES) is target)
    await eventually(lambda: finished(redis))
    await eventually(lambda: finished(redis, streams.outbox(streams.QUERIES)))
    assert await redis.hgetall(COUNTS) == {name.encode(): b"1" for name in names}
    assert await answered(redis) == sorted(names)
    await eventually(lambda: not node.health.reasons())


async def test_a_client_asks_and_is_answered(redis, standing, start_node):
    await start_node(consumer(edge(redis)), url=standing.url, direct=not await scripts.has_slots(redis))
    async with Client(standing.url, name="kiosk") as client:
        said = await asyncio.gather(*(client.ask(f"to the sea {number}", deadline_s=10) for number in range(8)))
        reply = client.stream("a b c", deadline_s=10)
        assert "".join([piece.text async for piece in reply]) == reply.answer.text == "a b c"
    assert [answer.text for answer in said] == [f"to the sea {number}" for number in range(8)]


async def test_a_server_that_is_no_cluster_is_refused_and_one_that_is_away_is_waited_for(broker_url):
    plain = broker_url.replace("redis://", "redis+cluster://")
    async with connect(plain, retries=0) as client:
        with pytest.raises(Rejected, match=r"broker_refused: .*Cluster mode is not enabled"):
            await greet(client, plain)
    for url in ("redis+cluster://127.0.0.1:1,127.0.0.1:2", "redis+sentinel://127.0.0.1:1/fleet"):
        async with connect(url, retries=0) as client:
            with pytest.raises(ConnectionError):
                await greet(client, url)
        with pytest.raises(Unavailable, match="broker_away"):
            async with Client(url):
                pass


@pytest.mark.parametrize("standing", ["sentinels"], indirect=True)
async def test_no_sentinel_is_lost_of_many_who_ask_while_the_first_is_away(standing):
    """redis-py's own walk loses one for good, and leaves its connection open."""
    standing.sentinels[0].kill()
    async with connect(standing.url) as client:
        await asyncio.gather(*(client.ping() for _ in range(10)))
        known = {id(sentinel) for sentinel in client.connection_pool.sentinel_manager.sentinels}
    standing.whole()
    assert len(known) == len(standing.sentinels)


async def test_who_asks_while_no_sentinel_answers_waits_as_long_as_one_would_alone(monkeypatch):
    monkeypatch.setattr("common.runtime.connection.SOCKET_TIMEOUT_S", 0.2)
    asked, over = [], asyncio.Event()

    async def silent(_, writer):
        asked.append(writer)
        await over.wait()
        writer.close()

    async with AsyncExitStack() as servers:
        each = [await servers.enter_async_context(await asyncio.start_server(silent, "127.0.0.1", 0)) for _ in "abc"]
        hosts = ",".join(f"127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in each)
        async with connect(f"redis+sentinel://{hosts}/fleet", retries=0) as client:
            found = await asyncio.gather(*(client.ping() for _ in range(8)), return_exceptions=True)
        over.set()
    assert all(isinstance(error, ConnectionError) for error in found)
    assert len(asked) == len(each)


@pytest.mark.parametrize("standing", ["sentinels"], indirect=True)
async def test_sentinels_that_know_no_such_master_are_waited_for(standing):
    async with connect(f"{standing.url}-2", retries=0) as client:
        with pytest.raises(ConnectionError, match="No master found for 'fleet-2'"):
            await client.ping()


async def test_the_password_is_the_servers(standing):
    url = standing.url.replace("://", "://me:secret@")
    async with connect(url, retries=0) as client:
        with pytest.raises(Rejected, match=r"broker_refused: \S+://me:\*\*\*@"):
            await greet(client, url)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_master_killed_under_load_loses_and_doubles_nothing(kind, tmp_path, eventually):
    with KINDS[kind](tmp_path) as many:
        async with connect(many.url) as redis:
            direct = not await scripts.has_slots(redis)
            nodes = [Node(many.url, consumer(answer), f"node-{number}", direct=direct) for number in range(2)]
            for node in nodes:
                await node.start()
            acknowledged = []

            async def ask(name):
                while name not in acknowledged:
                    try:
                        await Broker(redis).produce(streams.QUERIES, name.encode(), name)
                        acknowledged.append(name)
                    except Unavailable:
                        await asyncio.sleep(0.1)

            asking = [asyncio.create_task(ask(f"q{number}")) for number in range(100)]
            await eventually(lambda: redis.hlen(COUNTS))
            many.master_of(streams.QUERIES).kill()
            asking += [asyncio.create_task(ask(f"q{number}")) for number in range(100, 300)]
            await asyncio.gather(*asking)
            await eventually(lambda: finished(redis))
            await eventually(lambda: finished(redis, streams.outbox(streams.QUERIES)))
            assert await redis.hgetall(COUNTS) == {name.encode(): b"1" for name in acknowledged}
            assert await answered(redis) == sorted(acknowledged)
            for node in nodes:
                await eventually(lambda node=node: not node.health.reasons())
                await node.stop()
