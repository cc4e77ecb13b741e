import asyncio
import json
import time

import pytest
from centre import NODES
from rich.console import Console

from common.runtime import keys, streams
from common.runtime.overview import BEATING, READ_MAX
from common.wire.codec import canonical, pack
from common.wire.messages import Applied, DeadLetter, Heartbeat
from services.cli import nodes

pytestmark = pytest.mark.anyio


def key_of(centre, node):
    return keys.key_id(keys.load_private(centre.home, node).verify_key).hex()


async def tell(centre, stream, *messages):
    for message in messages:
        await centre.broker.redis.xadd(stream, {streams.DATA_FIELD: pack(message)})


def beat(node, at_s, bundle=3, **fields):
    return Heartbeat(**{"node": node, "service": "edge", "at_s": at_s, "bundle": bundle, "ready": True} | fields)


def said(node, version, verdict, at_s, reason=""):
    return Applied(node=node, version=version, verdict=verdict, reason=reason, at_s=at_s)


async def looked(centre):
    return {row.node: row for row in await nodes._look(centre.url, centre.home)}


async def test_every_edge_that_is_enrolled_is_a_row_though_it_never_spoke(centre):
    found = await looked(centre)
    assert sorted(found) == NODES
    assert found["edge-1"] == nodes.Row(
        "edge-1", key_of(centre, "edge-1"), nodes.Packets(), None, None, None, None, None, None, ""
    )


async def test_of_a_large_fleet_who_fell_silent_a_while_ago_is_seen_too(centre):
    beats = [beat("silent", 5.0), *(beat(f"edge-{number % (BEATING + 1)}", 9.0) for number in range(READ_MAX))]
    async with centre.broker.redis.pipeline() as together:
        for each in beats:
            together.xadd(streams.HEART, {streams.DATA_FIELD: pack(each)})
        await together.execute()
    assert (await looked(centre))["silent"].seen_s == 5.0


async def test_a_row_has_what_became_of_its_packets_its_newest_beat_and_its_last_verdict(centre):
    now_s = time.time()
    standing = {"accepted": 7, "refused": {"clock": 2, "quota": 1}, "last_ms": 5_000, "distance_rad": 0.25}
    await centre.broker.redis.hset(nodes.STANDING, key_of(centre, "edge-1"), canonical(standing))
    await tell(centre, streams.HEART, beat("edge-1", now_s - 9, bundle=2), beat("edge-1", now_s))
    await tell(centre, streams.HEART, beat("centre", now_s, service="publisher"), beat("stranger", now_s))
    reports = [("applied", 1.0), ("reverted", 3.0), ("applied", 2.0)]
    await tell(centre, streams.APPLIED, *(said("edge-1", 3, verdict, at_s, "why") for verdict, at_s in reports))
    found = await looked(centre)
    assert sorted(found) == [*NODES, "stranger"]
    row = found["edge-1"]
    assert row.packets == nodes.Packets(7, {"clock": 2, "quota": 1}, 5.0, 0.25)
    assert (row.seen_s, row.bundle, row.ready) == (now_s, 3, True)
    assert (row.version, row.verdict, row.reason) == (3, "reverted", "why")
    assert (found["stranger"].key, found["stranger"].bundle) == (None, 3)


async def test_the_last_code_is_that_of_the_newest_packet_of_its_key_that_was_refused(centre):
    bundle = await centre.release()
    letters = [(0, "clock"), (1, "quota"), (0, "base_window")]
    for number, (node, code) in enumerate(letters):
        raw = centre.packet(bundle, node=node, sequence=number)
        fields = {"stream": streams.PACKETS, "entry": "1-1", "reason": "", "deliveries": 1, "at_s": 1.0}
        await tell(centre, streams.dead(streams.PACKETS), DeadLetter(code=code, body=raw, **fields))
    garbage = DeadLetter(stream=streams.PACKETS, entry="1-1", code="x", reason="", deliveries=1, at_s=1.0, body=b"?")
    await tell(centre, streams.dead(streams.PACKETS), garbage)
    found = await looked(centre)
    assert [found[node].last_code for node in NODES] == ["base_window", "quota", None, None]


def test_an_edge_with_several_keys_has_a_row_for_each():
    packets = {"aa": nodes.Packets(1), "bb": nodes.Packets(2)}
    found = nodes.rows({"bb": "edge-1", "aa": "edge-1"}, packets, [beat("edge-1", 5.0)], [], [])
    assert [(row.node, row.key, row.packets.accepted, row.seen_s) for row in found] == [
        ("edge-1", "aa", 1, 5.0), ("edge-1", "bb", 2, 5.0),
    ]  # fmt: skip


@pytest.mark.parametrize("data", [b"", b"\xc1", canonical([1]), canonical({"accepted": "many"}), canonical({})])
async def test_a_standing_that_is_none_is_as_good_as_absent(centre, data):
    await centre.broker.redis.hset(nodes.STANDING, key_of(centre, "edge-1"), data)
    assert (await looked(centre))["edge-1"].packets == nodes.Packets()


def test_the_table_says_when_how_far_and_why():
    row = nodes.Row(
        node="edge-1", key="ab" * 8, packets=nodes.Packets(7, {"clock": 3}, 5.0, 0.25), last_code="clock",
        seen_s=940.0, ready=True, bundle=2, version=3, verdict="reverted", reason="[b]slow",
    )  # fmt: skip
    silent = nodes.Row("edge-2", None, nodes.Packets(), None, None, None, None, None, None, "")
    out = Console(width=200)
    with out.capture() as shown:
        out.print(nodes.table([row, silent], 1_000.0))
    _, first, second = shown.get().splitlines()
    wanted = ["edge-1", "ab" * 8, "7", "3", "clock", "0.250", "rad", "1", "min", "2", "bundle", "3", "reverted:"]
    assert first.split() == [*wanted, "[b]slow"]
    assert second.split() == ["edge-2", "not", "enrolled", "0", "0", "–", "–", "–"]


async def test_for_programs_it_is_a_line_a_node(centre, monkeypatch, capsys):
    monkeypatch.setenv("QIG_BROKER_URL", centre.url)
    assert await asyncio.to_thread(nodes.run, home=centre.home, json=True) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["node"] for line in lines] == NODES
    assert lines[0]["packets"] == {"accepted": 0, "refused": {}, "last_s": None, "distance_rad": None}


@pytest.mark.usefixtures("redis")
async def test_where_there_is_no_edge_that_is_said(tmp_path, broker_url, monkeypatch, capsys):
    monkeypatch.setenv("QIG_BROKER_URL", broker_url)
    assert await asyncio.to_thread(nodes.run, home=tmp_path, json=False) == 0
    assert "no edge is enrolled" in capsys.readouterr().out
