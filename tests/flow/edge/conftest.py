"""Fixtures of an edge in this process: lives on one state, a publisher, a clock to move."""

import contextlib
import gc
import threading
import time
from types import SimpleNamespace

import pytest
from edge_fleet import NODE, Publisher, both_settings_of, bundles_to

from common.runtime import keys
from common.runtime.trust import Trust
from services.edge.app import Edge, queries, state_dir
from services.edge.generation import Generation
from services.edge.record import Record
from services.edge.slots import Slots


@pytest.fixture(scope="module", autouse=True)
def tidy():
    """What the files before left behind would be looked through with each bundle that an edge takes."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def clock():
    """Seconds since 1970 that a test may move."""
    return [time.time()]


@pytest.fixture
async def life(home, broker, broker_url, clock):
    """Starts an edge on the same state again and again; the one before is gone as if killed: nothing is finished."""
    with contextlib.ExitStack() as open_records:
        records, edges = [], []

        async def begin(**fields):
            settings, privacy = both_settings_of(home, broker_url, **fields)
            for one in edges:
                await one.queries.scheduler.stop()
            for record in records:
                record.close()
            records[:] = [Record(state_dir(home, NODE) / "edge.db", now_s=clock[0])]
            slots = Slots(state_dir(home, NODE) / "bundles")
            trust = Trust(broker.redis, keys.load_root(home), state_dir(home, NODE) / "trust")
            clocks = {"now": lambda: clock[0], "steady": lambda: clock[0]}
            edge = Edge(settings, broker, records[0], slots, trust, privacy=privacy, **clocks)
            edges[:] = [edge]
            await edge.start()
            return edge

        yield begin
        for edge in edges:
            await edge.queries.scheduler.stop()
        for record in records:
            open_records.callback(record.close)


@pytest.fixture
async def each_life(home, broker, broker_url, redis, clock):
    """Starts any node, with the bundles there are; the same node's life before is over as if it was killed."""
    records, edges = {}, []

    async def begin(node, **fields):
        if node in records:
            records[node].close()
        settings, privacy = both_settings_of(home, broker_url, **fields)
        settings = settings.model_copy(update={"node": node})
        records[node] = Record(state_dir(home, node) / "edge.db", now_s=clock[0])
        slots = Slots(state_dir(home, node) / "bundles")
        trust = Trust(broker.redis, keys.load_root(home), state_dir(home, node) / "trust")
        clocks = {"now": lambda: clock[0], "steady": lambda: clock[0]}
        edges.append(Edge(settings, broker, records[node], slots, trust, privacy=privacy, **clocks))
        await edges[-1].start()
        await bundles_to(edges[-1], redis)
        return edges[-1]

    with contextlib.ExitStack() as undo:
        yield begin
        for edge in edges:
            await edge.queries.scheduler.stop()
        for record in records.values():
            undo.callback(record.close)


@pytest.fixture
async def publisher(life, broker, home):
    await life()  # makes the keys
    return Publisher(broker, home)


@pytest.fixture
async def edge(life, publisher, micro_parts, redis):
    await publisher.release(micro_parts)
    started = await life()
    await bundles_to(started, redis)
    return started


@pytest.fixture
def resting(monkeypatch):
    """Every generation rests after its third token until `wake`; those that were begun are `made`."""
    told = SimpleNamespace(made=[], wake=threading.Event())

    class Resting(Generation):
        def say(self, _):
            if not self.tokens:
                told.made.append(self)
            if self.tokens == 3:
                assert told.wake.wait(timeout=10)
            return super().say(1)

    monkeypatch.setattr(queries, "Generation", Resting)
    yield told
    told.wake.set()
