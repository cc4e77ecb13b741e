"""A home, or its broker alone, put back from a copy: nothing is lost, nothing counts twice, and nobody is wiped."""

import asyncio
import contextlib
import shutil
import sqlite3

import numpy as np
import pytest
from live_counts import MASS_CAP, check_memories, described
from live_fleet import EDGES, LOOK_FAR_S, Live, begin, live, narrow, until
from typer.testing import CliRunner

from common.kernels import memory, memory_file
from common.kernels.spec import MAX_VOCAB
from common.runtime import keys
from common.runtime.connection import connect
from common.wire import packet
from common.wire.packet import key_id
from services.cli import home as places
from services.cli.app import app
from services.cli.fleet import Fleet
from services.edge.record import ORDERS, read_packets
from services.edge.record.rows import IDS
from services.edge.record.schema import SCHEMA_VERSION

pytestmark = [pytest.mark.live, pytest.mark.anyio, pytest.mark.timeout(300)]
CENTRE = ("publisher", "aggregator", "trainer")


@pytest.fixture
async def lively(micro_parts, tmp_path):
    async with live(tmp_path / "first", narrow(micro_parts), mass_cap=MASS_CAP) as running:
        yield running


async def teach(lively, desk):
    """One more bundle on both edges."""
    version = (await lively.bundles())[-1].version
    await lively.read(desk, 10)
    return await lively.newest_on_both_edges(above=version)


async def told(lively):
    """Whether nothing of any packet is open; one that is lost to its edge goes again under another name."""
    return {status for _, status in lively.sent()} <= {"acknowledged", "lost"} and await lively.at_rest()


def file_of(home, node):
    return places.node_dir(home, node) / "edges" / node / "edge.db"


def as_before(path):
    """Makes an edge's file one of the schema before."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("ALTER TABLE packets DROP COLUMN settled_by")
        db.execute("ALTER TABLE packets DROP COLUMN release")
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION - 1}")


def packets_of(lively, node):
    return read_packets(file_of(lively.home, node))


def epoch_of(lively, node):
    return packets_of(lively, node)[0]


def settled_by(lively):
    """The packets that edges believe to be in bundles."""
    settled = [raw for raw, status in lively.sent() if status == "acknowledged"]
    return sorted(packet.open_envelope(raw).ref.packed for raw in settled)


async def counted_of(lively, node):
    """Whether a bundle has a packet of this life of an edge."""
    key, epoch = key_id(keys.load_private(lively.home, node).verify_key), epoch_of(lively, node)
    named = [ref for bundle in await lively.bundles() for ref in bundle.packets]
    return any((ref.key, ref.epoch) == (key, epoch) for ref in named)


def is_balanced(lively, node):
    """Whether what an edge has seen is, to the count, what bundles have of it and what waits (balance.py)."""
    ids = [np.frombuffer(row, IDS) for (row,) in lively.rows(node, "SELECT ids FROM interactions WHERE folded")]
    books = lively.rows(node, "SELECT memory, owed FROM residue")
    residues = [memory_file.from_bytes(residue, MAX_VOCAB) for residue, _ in books]
    owed = [memory_file.from_bytes(each, MAX_VOCAB) for _, each in books if each]
    told = [each.counts for each in packets_of(lively, node)[1] if each.status == "acknowledged"]
    seen = memory.count(ids, ORDERS)
    return described(memory.merge([seen, *owed])) == described(memory.merge([*told, *residues]))


def books(lively):
    """Of each edge, what nobody has yet: its residues and packets."""
    residues = "SELECT domain, memory, owed FROM residue ORDER BY domain"
    packets = "SELECT sequence, domain, status, body, raw FROM packets"
    return {node: (lively.rows(node, residues), lively.rows(node, packets)) for node in EDGES}


async def test_a_broker_that_is_older_than_its_edges_is_told_so_once_and_nothing_counts_twice(lively, tmp_path):
    fleet, data = lively.fleet, places.broker_dir(lively.home)
    async with lively.desk() as desk:
        await teach(lively, desk)
        await lively.settled()
        known = await lively.bundles()
        await fleet.kill_broker(hold=True)
        shutil.copytree(data, tmp_path / "copy")
        await fleet.restart_broker()
        for _ in range(2):
            await teach(lively, desk)
        await lively.settled()
        last = (await lively.bundles())[-1]
        await desk.all_answered()
    await fleet.kill_broker(hold=True)
    shutil.rmtree(data)
    shutil.copytree(tmp_path / "copy", data)
    await fleet.restart_broker()
    await asyncio.gather(*map(fleet.restart, CENTRE))
    await fleet.wait_all_ready()
    assert await lively.bundles() == known
    assert {await lively.version(node) for node in EDGES} == {float(last.version)}
    words = ["bundle", "revoke", "--above", str(last.version), "--home", str(lively.home)]
    done = await asyncio.to_thread(CliRunner().invoke, app, words)
    assert done.exit_code == 0, done.output
    await lively.newest_on_both_edges(above=last.version)
    async with lively.desk() as desk:
        await teach(lively, desk)
        what = "every packet in a bundle or back, and nothing on its way"
        await until(lambda: told(lively), what, look_s=LOOK_FAR_S)
        await desk.all_answered()
        assert desk.lost == 0
    bundles = await lively.bundles()
    found = [ref.packed for bundle in bundles for ref in bundle.packets]
    assert len(found) == len(set(found))
    assert settled_by(lively) == sorted(found)
    await check_memories(lively, bundles, {packet.open_envelope(raw).ref.packed: raw for raw, _ in lively.sent()})
    assert [node for node in EDGES if not is_balanced(lively, node)] == []


async def test_an_edge_that_lost_its_disk_begins_an_epoch_and_its_packets_count(lively):
    before = (await lively.bundles())[-1].version
    own = places.node_dir(lively.home, "edge-2") / "edges"
    epoch = epoch_of(lively, "edge-2")
    await lively.fleet.kill("edge-2", hold=True)
    shutil.rmtree(own)
    await lively.fleet.restart("edge-2")
    await lively.fleet.wait_ready("edge-2")
    assert await lively.version("edge-2") == before
    assert epoch_of(lively, "edge-2") > epoch
    await lively.fleet.kill("edge-1", hold=True)  # it would take what the other is to read
    async with lively.desk() as desk:
        await lively.read(desk, 10)
        what = "a packet of the new epoch in a bundle"
        await until(lambda: counted_of(lively, "edge-2"), what, look_s=LOOK_FAR_S)


async def test_a_fleet_goes_on_elsewhere_from_a_copy_with_a_file_of_the_schema_before_too(lively, tmp_path):
    async with lively.desk() as desk:
        await teach(lively, desk)
        await lively.settled()
        await desk.ask(next(lively.passages), max_tokens=0)  # learned, and too little to be sent
    bundles = await lively.bundles()
    await lively.fleet.stop()
    kept = books(lively)
    shutil.copytree(lively.home, tmp_path / "home", symlinks=True)
    as_before(file_of(tmp_path / "home", "edge-1"))
    async with Fleet(tmp_path / "home") as fleet, connect(fleet.broker_url) as redis:
        await begin(fleet, lively.home / "corpora", mass_cap=MASS_CAP)
        again = Live(fleet, redis, lively.passages)
        assert books(again) == kept
        assert await again.bundles() == bundles
        assert {await again.version(node) for node in EDGES} == {float(bundles[-1].version)}
        async with again.desk() as desk:
            await teach(again, desk)
            await desk.all_answered()
            assert desk.lost == 0
