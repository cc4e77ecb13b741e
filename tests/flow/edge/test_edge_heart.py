import asyncio
import threading

import pytest
from edge_fleet import NODE, TEXT, messages, read

from common.errors import Unavailable
from common.runtime import lanes, scripts, streams
from common.runtime.connection import connect
from common.wire.fields import MAX_DOMAINS
from common.wire.messages import Heartbeat
from services.edge.app import heart
from services.edge.local import TERRITORY
from services.edge.sleep import LOST_AFTER_S

pytestmark = pytest.mark.anyio


async def test_a_heartbeat_tells_bundle_phases_and_fresh_text(edge, redis):
    await read(edge, 2)
    await edge.heart.beat()
    (told,) = await messages(redis, streams.HEART, Heartbeat)
    assert (told.node, told.bundle, told.ready, told.fresh_bytes) == (NODE, 1, True, 2 * len(TEXT))
    assert set(told.kappa) == set(told.phi) == set(edge.node.last) != set()
    assert told.bits_per_byte == {}


async def test_a_heartbeat_tells_how_fresh_text_read_before_it_was_learned(edge, redis, monkeypatch, clock):
    monkeypatch.setattr("services.edge.answer.territory", lambda *_, **__: "heart")
    for first in (0, 8):
        await read(edge, 8, first=first)
        await edge.sleep.round()
        clock[0] += LOST_AFTER_S  # the first packet counts as lost: the next fold need not wait for it
    await edge.heart.beat()
    (told,) = await messages(redis, streams.HEART, Heartbeat)
    assert told.bits_per_byte["heart"] == pytest.approx(
        8
        * edge.node.serving.constellation.bits(edge.node.serving.constellation.encoder.encode(TEXT), "heart")
        / (8 * len(TEXT))
    )
    assert 0 < told.local_bits_per_byte["heart"] < 0.7 * told.bits_per_byte["heart"]


async def test_a_heartbeat_teaches_servers_that_no_heartbeat_lies_on_how_clients_publish(edge, redis, monkeypatch):
    async def elsewhere(*_):
        return "1-0"

    monkeypatch.setattr(scripts, "publish", elsewhere)
    await redis.script_flush()
    await edge.heart.beat()
    assert await redis.script_exists(lanes.digest(scripts._PUBLISH)) == [True]


async def test_an_edge_whose_user_is_of_an_older_release_has_a_heartbeat_and_teaches(edge, redis):
    await redis.acl_setuser(
        "older", enabled=True, nopass=True, keys=["*"], categories=["+@all"], commands=["-script|exists"]
    )
    kept = redis.connection_pool.connection_kwargs
    await redis.script_flush()
    async with connect(f"redis://older:x@{kept['host']}:{kept['port']}") as older:
        await scripts.teach(older)
    await redis.acl_deluser("older")
    assert await redis.script_exists(lanes.digest(scripts._PUBLISH)) == [True]


async def test_an_edge_with_as_many_domains_as_may_be_and_new_territory_has_a_heartbeat(edge, redis):
    await read(edge, 1)
    (one,) = edge.node.last.values()
    edge.node.last = dict.fromkeys([*(f"d-{number}" for number in range(MAX_DOMAINS)), TERRITORY], one)
    await edge.heart.beat()
    (told,) = await messages(redis, streams.HEART, Heartbeat)
    assert len(told.phi) == MAX_DOMAINS


async def test_an_edge_proves_that_it_answers_and_that_leaves_no_trace(edge):
    await edge.heart.prove()
    gauges = edge.node.gauges
    for _ in range(3):
        await edge.heart.prove()
    assert edge.node.gauges is gauges
    assert await asyncio.to_thread(edge.node.record.texts.fresh) == []
    assert edge.node.last == {}


async def test_an_edge_whose_tokens_do_not_come_says_so(edge, monkeypatch):
    stuck = threading.Event()
    monkeypatch.setattr(heart, "PROVE_TIMEOUT_S", 0.05)
    monkeypatch.setattr("services.edge.generation.Generation.say", lambda *_: stuck.wait(10) and "")
    with pytest.raises(Unavailable, match="no token for"):
        await edge.heart.prove()
    stuck.set()


async def test_a_full_waiting_room_is_no_reason_not_to_be_ready(edge, monkeypatch):
    turned_away = []
    monkeypatch.setattr("services.edge.scheduler.Turns.add", lambda *_: turned_away.append(1))
    await edge.heart.prove()
    assert turned_away == [1]
