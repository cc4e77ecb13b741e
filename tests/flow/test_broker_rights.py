"""What each user may do at the broker and what not: the whole table, asked of the servers themselves."""

import asyncio
import time
from fnmatch import fnmatchcase

import pytest
from broker_node import Node, consumer, finished
from broker_users import SERVERS, as_root, furnish, server
from redis.exceptions import AuthenticationError, NoPermissionError, NoScriptError, ResponseError

from common.client import Client
from common.errors import Rejected, Unavailable
from common.runtime import access, lanes, rights, scripts, streams
from common.runtime.broker import Broker
from common.runtime.connection import connect
from common.runtime.effects import Send
from common.runtime.rates import Rates
from common.wire.codec import pack
from common.wire.messages import DeadLetter
from services.cli import dead, trace
from services.cli.chain import Centre

pytestmark = [pytest.mark.anyio, pytest.mark.live]
IN_A_SCRIPT = "can't access at least one of the keys|No permissions to access a key"
CLIENT, OTHER = "kiosk", "clinic"
USERS = [*rights.ROLES, CLIENT]

ARGUMENTS = {  # by command, KEY for the key
    "del": "KEY",
    "eval": "return 1 KEY",
    "evalsha": "0123456789012345678901234567890123456789 1 KEY",
    "exists": "KEY",
    "expire": "KEY 1",
    "get": "KEY",
    "getrange": "KEY 0 1",
    "hdel": "KEY f",
    "hexists": "KEY f",
    "hget": "KEY f",
    "hgetall": "KEY",
    "hincrby": "KEY f 1",
    "hkeys": "KEY",
    "hmget": "KEY f",
    "hset": "KEY f v",
    "hstrlen": "KEY f",
    "object|idletime": "KEY",
    "incrby": "KEY 1",
    "pttl": "KEY",
    "rename": "KEY KEY",
    "set": "KEY v",
    "type": "KEY",
    "unlink": "KEY",
    "xack": "KEY g 1-0",
    "xadd": "KEY * f v",
    "xautoclaim": "KEY g c 0 0",
    "xclaim": "KEY g c 0 1-0",
    "xdel": "KEY 1-0",
    "xgroup|create": "KEY g 0",
    "xgroup|delconsumer": "KEY g c",
    "xinfo|consumers": "KEY g",
    "xinfo|groups": "KEY",
    "xinfo|stream": "KEY",
    "xlen": "KEY",
    "xpending": "KEY g",
    "xrange": "KEY - +",
    "xread": "STREAMS KEY 0",
    "xreadgroup": "GROUP g c STREAMS KEY >",
    "xrevrange": "KEY + -",
    "zadd": "KEY 1 m",
    "zremrangebyrank": "KEY 0 1",
    "zremrangebyscore": "KEY 0 1",
    "zscore": "KEY m",
    # nobody's
    "xtrim": "KEY MAXLEN 0",
    "append": "KEY v",
    "copy": "KEY KEY",
    "dump": "KEY",
    "flushall": "",
    "keys": "*",
    "publish": "channel m",
    "restore": "KEY 0 v",
    "scan": "0",
    "setrange": "KEY 0 v",
    "subscribe": "channel",
    "xgroup|destroy": "KEY g",
    "xgroup|setid": "KEY g 0",
    "xsetid": "KEY 1-0",
    "zrange": "KEY 0 1",
    "acl|getuser": "edge",
    "asking": "",
    "cluster|nodes": "",
    "cluster|slots": "",
    "command": "",
    "acl|list": "",
    "acl|load": "",
    "acl|setuser": "edge",
    "acl|whoami": "",
    "client|kill": "ID 1",
    "client|list": "",
    "config|get": "dir",
    "config|set": "dir /",
    "debug": "sleep 0",
    "function|load": "code",
    "info": "",
    "monitor": "",
    "multi": "",
    "replicaof": "host 1",
    "save": "",
    "script|flush": "",
    "script|exists": "0",
    "script|load": "code",
    "shutdown": "",
    "time": "",
}
NAMED = [
    *streams.GROUPS,
    *(streams.dead(stream) for stream in streams.GROUPS),
    *(streams.outbox(stream) for stream in streams.GROUPS),
    *(streams.side_key(stream, "ledger") for stream in streams.GROUPS),
    streams.BUNDLES,
    streams.COMMON,
    streams.RETURNED,
    streams.APPLIED,
    streams.HEART,
    streams.CANCEL,
    streams.METADATA,
    streams.RELEASED,
    streams.REFUSED,
    *(streams.answers(name) for name in (CLIENT, f"{CLIENT}.7", f"{CLIENT}2", f"{CLIENT}-2", OTHER, "operator")),
    f"{streams.BLOB}ab:0",
    f"{streams.RATES}:{{x}}",
    "qig",
    "other",
]
KEYS = [*NAMED, *(streams.seen(key) for key in NAMED)]


@pytest.fixture(scope="module", params=SERVERS)
def url(request, tmp_path_factory):
    home = tmp_path_factory.mktemp("users")
    furnish(home, [CLIENT, OTHER])
    with server(request.param, home) as address:
        yield lambda user: as_root(address) if user is None else access.login(home, user, address)


def allowed(user, command, key):
    """What the table says. key: None for a command without keys."""
    own = rights.of(user)
    if key is None:
        return command in own.keyless
    return any(
        command in grant.commands and any(fnmatchcase(key, pattern) for pattern in grant.keys) for grant in own.grants
    )


def probes():
    """Every command, on every key where it takes one."""
    for command, arguments in ARGUMENTS.items():
        for key in KEYS if "KEY" in arguments.split() else [None]:
            yield command, [*command.split("|"), *(key if word == "KEY" else word for word in arguments.split())], key


def test_every_command_of_the_table_is_probed():
    granted = {command for user in USERS for grant in rights.of(user).grants for command in grant.commands}
    assert granted <= set(ARGUMENTS)
    keyless = {command for user in USERS for command in rights.of(user).keyless}
    assert keyless - {"auth", "hello", "ping"} <= set(ARGUMENTS)


@pytest.mark.parametrize("user", USERS)
async def test_the_server_allows_what_the_table_says_and_nothing_else(url, user):
    async with connect(url(None)) as root:
        asked = list(probes())
        pipeline = root.pipeline(transaction=False)
        for _, words, _ in asked:
            pipeline.execute_command("ACL", "DRYRUN", user, *words)
        answers = await pipeline.execute()
    found = [(command, key) for (command, _, key), answer in zip(asked, answers, strict=True) if answer == b"OK"]
    assert found == [(command, key) for command, _, key in asked if allowed(user, command, key)]


WRONG = {
    "an edge that releases a bundle": ("edge", "XADD", streams.BUNDLES, "*", "f", "v"),
    "an edge that reads others' packets": ("edge", "XRANGE", streams.PACKETS, "-", "+"),
    "an edge that changes what was listed": ("edge", "HSET", streams.METADATA, "f", "v"),
    "an edge that puts a blob": ("edge", "SET", f"{streams.BLOB}ab:0", "v"),
    "an aggregator that releases a bundle": ("aggregator", "XADD", streams.BUNDLES, "*", "f", "v"),
    "an aggregator that reads queries": ("aggregator", "XRANGE", streams.QUERIES, "-", "+"),
    "a trainer that releases a bundle": ("trainer", "XADD", streams.BUNDLES, "*", "f", "v"),
    "a trainer that reads packets": ("trainer", "XREAD", "STREAMS", streams.PACKETS, "0"),
    "a publisher that reads answers": ("publisher", "XRANGE", streams.answers(CLIENT), "-", "+"),
    "an operator who reads answers": ("operator", "XRANGE", streams.answers(CLIENT), "-", "+"),
    "a client that reads another's answers": (CLIENT, "XREAD", "STREAMS", streams.answers(OTHER), "0"),
    "a client that reads the answers of one whose name begins like its own": (
        CLIENT, "XREAD", "STREAMS", streams.answers(f"{CLIENT}2"), "0",
    ),
    "a client that answers": (CLIENT, "XADD", streams.answers(CLIENT), "*", "f", "v"),
    "a client that reads queries": (CLIENT, "XRANGE", streams.QUERIES, "-", "+"),
    "a client that reads dead letters": (CLIENT, "XRANGE", streams.dead(streams.QUERIES), "-", "+"),
    "a client that writes scripts": (CLIENT, "EVAL", "return 1", "0"),
    "a client that deletes another's answers": (CLIENT, "DEL", streams.answers(OTHER)),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
async def test_what_must_never_be_allowed_is_refused(url, what):
    user, *words = WRONG[what]
    async with connect(url(user)) as redis:
        with pytest.raises(NoPermissionError):
            await redis.execute_command(*words)


async def test_a_scripts_commands_are_checked_against_its_callers_rights(url):
    """Also on keys that it did not declare, and that of a script that somebody else has told the server."""
    script = f"return redis.call('XADD', '{streams.BUNDLES}', '*', 'f', 'v')"
    async with connect(url("edge")) as edge, connect(url(CLIENT)) as client, connect(url(None)) as root:
        with pytest.raises(ResponseError, match=IN_A_SCRIPT):
            await edge.eval(script, 0)
        with pytest.raises(ResponseError, match=IN_A_SCRIPT):
            await edge.eval(script.replace(f"'{streams.BUNDLES}'", "KEYS[1]"), 1, streams.BUNDLES)
        reading = await root.script_load(f"return redis.call('XRANGE', '{streams.answers(OTHER)}', '-', '+')")
        with pytest.raises(ResponseError, match=IN_A_SCRIPT):
            await client.evalsha(reading, 0)
        assert await root.exists(streams.BUNDLES) == 0


async def test_a_client_publishes_by_id_once_a_service_has_told_the_server_how(url):
    async with connect(url("edge")) as edge, connect(url(CLIENT)) as client, connect(url(None)) as root:
        await root.flushall()
        await root.script_flush()
        with pytest.raises(NoPermissionError) as refused:
            await scripts.publish(client, streams.QUERIES, b"q", "kiosk:1")
        assert lanes.is_untold(refused.value)
        await scripts.publish(edge, streams.HEART, b"beat", "1")
        assert await scripts.publish(client, streams.QUERIES, b"q", "kiosk:1") is not None
        assert await scripts.publish(client, streams.QUERIES, b"q", "kiosk:1") is None


async def test_a_client_whose_server_was_not_taught_yet_waits_and_says_for_what(url, eventually, caplog):
    async with connect(url("edge")) as edge, connect(url(None)) as root:
        await root.flushall()
        await root.script_flush()
        async with Client(url(CLIENT), name=CLIENT) as client:
            asked = asyncio.create_task(client.ask("The whale rose"))
            await eventually(lambda: "no service has told the new broker how to take queries yet" in caplog.text)
            assert "permissions" not in caplog.text
            await Broker(edge).teach()
            await eventually(lambda: root.xlen(streams.QUERIES))
            asked.cancel()


async def test_a_client_publishes_by_id_once_an_edge_has_taught_the_server(url):
    async with connect(url("edge")) as edge, connect(url(CLIENT)) as client, connect(url(None)) as root:
        await root.flushall()
        await root.script_flush()
        await Broker(edge).teach()
        assert await scripts.publish(client, streams.QUERIES, b"q", "kiosk:1") is not None
        assert await scripts.publish(client, streams.CANCEL, b"c", "kiosk:1") is not None
        with pytest.raises(Unavailable, match="broker_away: cannot tell the broker how"):
            await Broker(client).teach()


@pytest.mark.parametrize("direct", [True, False])
async def test_an_edge_takes_refuses_and_answers_queries_and_no_command_of_it_is_refused(url, eventually, direct):
    async def answer(_delivery, body):
        if body == b"wrong":
            raise Rejected("wrong", "it is")
        return [Send(streams.answers(OTHER), body, body.decode())]

    async with connect(url(None)) as root:
        await root.flushall()
        await root.acl_log_reset()
        node = Node(url("edge"), consumer(answer, max_records=2), "edge-1", direct=direct)
        await node.start()
        for body in (b"q1", b"wrong", b"q2"):
            await root.xadd(streams.QUERIES, {"__data__": body})

        async def done():
            counts = await root.xlen(streams.answers(OTHER)), await root.xlen(streams.dead(streams.QUERIES))
            return counts == (2, 1) and await finished(root)

        await eventually(done)
        await node.stop()
        assert await root.acl_log() == []


@pytest.mark.parametrize(
    ("user", "stream"), [(CLIENT, streams.QUERIES), ("edge", streams.PACKETS), ("trainer", streams.CANDIDATES)]
)
async def test_who_publishes_work_is_told_when_its_stream_is_full(url, monkeypatch, user, stream):
    monkeypatch.setitem(streams._KEPT, stream, streams.Retention(entries=2, kind="work"))
    async with connect(url("edge")) as edge, connect(url(user)) as redis, connect(url(None)) as root:
        await root.flushall()
        await root.xgroup_create(stream, streams.GROUPS[stream], id="0", mkstream=True)
        await scripts.publish(edge, streams.HEART, b"beat", "1")
        for number in range(2):
            await scripts.publish(redis, stream, b"work", f"{number}")
        with pytest.raises(Unavailable, match="stream_full"):
            await scripts.publish(redis, stream, b"work", "3")


async def test_an_operator_replays_a_dead_letter(url):
    async with connect(url("edge")) as edge, connect(url(None)) as root:
        await root.flushall()
        await root.script_flush()
        await root.acl_log_reset()
        told = {"stream": streams.QUERIES, "entry": "1-1", "code": "garbage", "reason": "no map", "deliveries": 1}
        letter = pack(DeadLetter(**told, at_s=1e9, body=b"one"))
        await edge.xadd(streams.dead(streams.QUERIES), {streams.DATA_FIELD: letter})
        assert await dead._replay(streams.QUERIES, None, url("operator")) == (1, 0, {})
        assert [fields for _, fields in await root.xrange(streams.QUERIES)] == [{b"__data__": b"one"}]
        assert await root.xlen(streams.dead(streams.QUERIES)) == 0
        assert await root.acl_log() == []


async def test_an_operator_sees_what_led_to_what(url, tmp_path):
    async with connect(url(None)) as root:
        await root.flushall()
        await root.acl_log_reset()
        assert await trace._look(url("operator"), tmp_path) == Centre(batches=[], candidates=[], bundles=[])
        assert await root.acl_log() == []


async def test_a_publisher_sweeps_blobs_and_an_edge_reads_what_a_trainer_stored(url):
    async with connect(url("trainer")) as trainer, connect(url("edge")) as edge, connect(url("publisher")) as publisher:
        digest = await Broker(trainer).put_blob(b"part")
        assert await Broker(edge).get_blob(digest, 4) == b"part"
        assert await Broker(publisher).forget_blobs(set(), -1.0) == 1


async def test_an_edge_counts_requests_to_its_api(url, monkeypatch):
    monkeypatch.setattr("common.runtime.rates.LOOK_TIMEOUT_S", 10.0)  # a busy machine counts late, and must count here
    rates = Rates(url("edge"), 2)
    asked = [await rates.hit("me", time.time()) for _ in range(3)]
    assert [each and each.allowed for each in asked] == [True, True, False]
    await rates.close()


async def test_nobody_comes_in_without_a_name_or_with_another_password(url):
    for wrong in ("", "default:x@", "edge:x@", "nobody:x@"):
        address = url("edge")
        async with connect(f"redis://{wrong}{address.rpartition('@')[2]}", retries=0) as redis:
            with pytest.raises(AuthenticationError):
                await redis.ping()
    async with connect(url("edge")) as redis:
        assert await redis.ping()
        with pytest.raises(NoScriptError):
            await redis.evalsha("0" * 40, 0)
