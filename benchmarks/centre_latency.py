"""Claim: from the packet that completes a batch to the new bundle serving on every edge, at most 60 s at size tiny.

A broker, aggregator, trainer, publisher and four edges, each a process of its own, as `qig up` starts them. The edges
read scripture that no kernel has seen, sleep, and send packets; four make a batch. Every time is the broker's, of the
entry in its stream: the batch's last packet, the batch, the candidate, the bundle, each edge's verdict. The machine has
to be idle for the claim: all of it shares two cores.

    python benchmarks/centre_latency.py [--genesis FOLDER] [--batches 5] [--steps 0] [--edges 4]
    --genesis: of size tiny, made by `qig train --size tiny --out FOLDER`; default .qig/genesis
"""

import argparse
import asyncio
import itertools
import json
import tempfile
from pathlib import Path

import numpy as np

from common.client import Client
from common.runtime import keys, streams
from common.runtime.connection import connect
from common.runtime.follower import FROM_START, Follower, follow
from common.runtime.health import Health
from common.wire.codec import unpack
from common.wire.messages import Applied, Batch, Bundle, Candidate
from common.wire.packet import open_envelope
from services.cli import home as places
from services.cli.desk import Desk
from services.cli.fleet import Fleet
from services.trainer import folder
from services.trainer.corpora.document import documents
from services.trainer.corpora.split import split

CLAIM = "from a batch's last packet to the new bundle serving on every edge in at most 60 s, size tiny"
DATA = Path("data").resolve()
LIMIT_S, DEADLINE_S, BATCH_PACKETS = 60.0, 600.0, 4
STAGES = ("packet to batch", "batch to candidate", "candidate to bundle", "bundle to the last edge")


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--genesis", type=Path, default=Path(".qig/genesis"))
    asked.add_argument("--batches", type=int, default=5)
    asked.add_argument("--steps", type=int, default=0)
    asked.add_argument("--edges", type=int, default=4)
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as where:
        found = np.array(asyncio.run(_measured(Path(where) / "home", given)))
    case = f"{given.edges} edges, {given.steps} steps"
    for stage, seconds in zip(STAGES, found.T, strict=True):
        _show(f"{case}: {stage}", seconds)
    _show(f"{case}: all", found.sum(1), limit=LIMIT_S)


def _show(case, seconds, **more) -> None:
    line = {"claim": CLAIM, "case": case, "value": round(float(np.median(seconds)), 2), "unit": "s"}
    print(json.dumps(line | {"each": np.round(seconds, 2).tolist()} | more), flush=True)


class Times:
    """When each message came to its stream, by the broker's clock, in seconds."""

    def __init__(self):
        self.packets, self.batches, self.candidates, self.bundles, self.applied = {}, {}, {}, {}, {}
        self.news = asyncio.Condition()

    def followers(self):
        """Of every stream that a packet's way leads through."""
        named = {
            streams.PACKETS: self._packet,
            streams.BATCHES: lambda body: self._note(self.batches, unpack(Batch, body)),
            streams.CANDIDATES: lambda body: self._note(self.candidates, unpack(Candidate, body)),
            streams.BUNDLES: lambda body: self._note(self.bundles, unpack(Bundle, body)),
            streams.APPLIED: self._verdict,
        }
        return [Follower(stream, FROM_START, self._noting(note)) for stream, note in named.items()]

    def _noting(self, note):
        async def handle(delivery):
            async with self.news:
                self.now = delivery.at_ms / 1000
                note(delivery.body)
                self.news.notify_all()

        return handle

    def _packet(self, body):
        self.packets.setdefault(open_envelope(body).ref, self.now)

    def _note(self, seen, message):
        seen.setdefault(message.id, (self.now, message))

    def _verdict(self, body):
        told = unpack(Applied, body)
        assert told.verdict == "applied", told
        self.applied[told.version, told.node] = self.now

    async def until(self, condition):
        """What the condition gives, once that is something."""
        async with asyncio.timeout(DEADLINE_S), self.news:
            while not (found := condition()):
                await self.news.wait()
            return found


async def _measured(home, given):
    nodes = [f"edge-{number}" for number in range(1, given.edges + 1)]
    parts = folder.read(given.genesis)
    assert parts, f"no genesis in {given.genesis}"
    home.mkdir()
    folder.write(parts, places.genesis_dir(home))
    keys.init(home, nodes)
    async with Fleet(home) as fleet, connect(fleet.broker_url) as redis:
        await fleet.start("publisher", "publisher")
        await fleet.start("aggregator", "aggregator", batch_packets=BATCH_PACKETS, batch_age_s=3600)
        genesis = places.genesis_dir(home)
        await fleet.start("trainer", "trainer", genesis=genesis, data=DATA, steps=given.steps)
        for node in nodes:
            await fleet.start("edge", node, sleep_after_bytes=6_000, sleep_idle_s=0)
        await fleet.wait_all_ready(DEADLINE_S)
        times = Times()
        readers = [asyncio.create_task(follow(redis, each, Health())) for each in times.followers()]
        async with Client(fleet.broker_url) as client:
            reading = asyncio.create_task(_read(Desk(client)))
            rows = [await _batch(times, nodes, number) for number in range(given.batches)]
            reading.cancel()
        for each in readers:
            each.cancel()
    return rows


async def _read(desk):
    """The edges are given scripture for as long as it takes, a few passages at a time."""
    for passage in itertools.cycle(each.text for each in split(documents("unseen/scripture", root=DATA)).train):
        desk.send(passage, max_tokens=0)
        await asyncio.sleep(0.2)


async def _batch(times, nodes, number):
    """Seconds of each stage of the bundle that follows `number` others."""
    version = number + 2
    bundle_s, bundle = await times.until(
        lambda: next((row for row in times.bundles.values() if row[1].version == version), None)
    )
    await times.until(lambda: all((version, node) in times.applied for node in nodes))
    batch_s, batch = times.batches[bundle.id]
    packet_s = max(times.packets[ref] for ref in batch.packets)
    served_s = max(times.applied[version, node] for node in nodes)
    candidate_s, _ = times.candidates[bundle.id]
    return [batch_s - packet_s, candidate_s - batch_s, bundle_s - candidate_s, served_s - bundle_s]


if __name__ == "__main__":
    main()
