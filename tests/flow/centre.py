"""The centre in a test: keys, a real bundle, sealed packets, and services to be started and stopped."""

import asyncio
import dataclasses
import json
import time
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
from listing import list_releases
from micro import MICRO

from common.constants import CELLS
from common.runtime import keys, streams
from common.runtime.service import serve
from common.runtime.settings import AggregatorSettings, PublisherSettings
from common.wire import basin
from common.wire import bundle as bundles
from common.wire.codec import pack, unpack
from common.wire.crystals import crystals, encode, entry
from common.wire.mentions import MAX_MENTIONS, decode
from common.wire.mentions import encode as encode_mentions
from common.wire.messages import Batch, Bundle, Candidate, Common, DeadLetter, Evidence, Figure, Part, Returned
from common.wire.packet import PacketBody, base_prefix, seal
from services.aggregator import app as aggregator
from services.publisher import app as publisher

NODES = [f"edge-{n}" for n in range(4)]
APPS = {"aggregator": (aggregator.build, AggregatorSettings), "publisher": (publisher.build, PublisherSettings)}


@dataclasses.dataclass
class Centre:
    """One fleet's centre: its keys in `home`, its broker, and the parts of its first bundle."""

    home: Path
    url: str
    broker: object
    parts: dict

    def settings(self, service, **given):
        model = APPS[service][1]
        return model(broker_url=self.url, home=self.home, http_port=0, node="centre", **given)

    @asynccontextmanager
    async def running(self, service, **given):
        """The service in this process, from start to good end; yields its base URL."""
        build = APPS[service][0]
        settings = self.settings(service, **given)
        stop, url = asyncio.Event(), asyncio.get_running_loop().create_future()
        life = asyncio.create_task(
            serve(
                settings,
                service=service,
                build=lambda broker: build(settings, broker),
                check_every_s=0.05,
                stop=stop,
                on_start=url.set_result,
            )
        )
        try:
            await asyncio.wait({life, url}, return_when=asyncio.FIRST_COMPLETED)
            if life.done():
                await life
            yield await url
        finally:
            stop.set()
            await life

    async def candidate(self, parent=None, figures=None, change=None, **fields):
        """A whole candidate that gains, with its parts in the store. change: parts by path, None to leave one out."""
        parts = {path: data for path, data in (self.parts | (change or {})).items() if data is not None}
        listed = {
            path: Part(digest=await self.broker.put_blob(data), size_bytes=len(data)) for path, data in parts.items()
        }
        gain = Figure(name="bits_per_byte", domain="heart", before=3.0, after=2.0, unit="bit/B")
        given = {
            "id": f"c-{time.monotonic_ns()}",
            "parent": parent.version if parent else 0,
            "parent_digest": bundles.digest(parent) if parent else "",
            "parts": listed,
            "evidence": Evidence(figures=(gain,) if figures is None else figures),
        }
        return Candidate(**{**given, **fields})

    async def offer(self, candidate, message_id=None):
        await self.broker.produce(streams.CANDIDATES, pack(candidate), message_id or candidate.id)

    async def release(self, version=1, parent=None, change=None):
        """A bundle straight into the stream, as the publisher would. change: as of `candidate`."""
        made = bundles.sign(
            await self.candidate(parent, change=change),
            version=version,
            released_at_s=time.time(),
            signing_key=keys.load_private(self.home, keys.PUBLISHER),
        )
        before = {bundle.version: pack(bundle) for bundle in await self.bundles()}
        await list_releases(self.broker.redis, self.home, before | {version: pack(made)})
        await self.broker.produce(streams.BUNDLES, pack(made), f"{version}-{bundles.digest(made)}")
        return made

    def packet(self, bundle, node=0, sequence=1, epoch=1, **change):
        """A packet of an edge that says one n-gram: (node, sequence) once."""
        counted = crystals([entry((), node, count=1, total=1), entry((node,), sequence, count=1, total=1)])
        p = np.full(CELLS, 1.0)
        p[3] = 40.0
        fields = {
            "kernel": "percept",
            "domain": "percept",
            "basin": basin.to_bytes8(p / p.sum()),
            "interactions": 1,
            "tokens": 9,
            "fresh_bytes": 30,
            "fresh_bits": 60.0,
            "phi": None,
            "kappa": 20.0,
            "phases": (1, 0, 0, 0),
            "crystals": encode(counted, MICRO.vocab),
        }
        return seal(
            PacketBody(**{**fields, **change}),
            signing_key=keys.load_private(self.home, NODES[node]),
            epoch=epoch,
            sequence=sequence,
            base_version=bundle.version,
            base=base_prefix(bundles.digest(bundle)),
            at_s=time.time(),
        )

    async def send(self, *packets):
        """Each packet as an entry of its own, whatever was sent before."""
        for raw in packets:
            await self.broker.redis.xadd(streams.PACKETS, {"__data__": raw})

    async def read(self, stream, cls):
        rows = await self.broker.redis.xrange(stream)
        return [unpack(cls, fields[b"__data__"]) for _, fields in rows]

    async def batches(self):
        return await self.read(streams.BATCHES, Batch)

    async def told(self):
        """What became common, each hash as often as it was told; and the packets that only mentioned."""
        told = await self.read(streams.COMMON, Common)
        hashes = [each for one in told for each in decode(one.hashes, MAX_MENTIONS).tolist()]
        return sorted(hashes), sorted(ref.packed for one in told for ref in one.packets)

    async def bundles(self):
        return await self.read(streams.BUNDLES, Bundle)

    async def letters(self, stream):
        return await self.read(streams.dead(stream), DeadLetter)

    async def returned(self):
        """Every packet that the centre said it dropped, as (reference, code); one said twice is there twice."""
        told = await self.read(streams.RETURNED, Returned)
        return sorted((ref.packed, each.code) for each in told for ref in each.packets)

    async def counted(self):
        """Every packet of every batch, as (key, epoch, sequence); a packet counted twice is there twice."""
        return sorted(ref.packed for batch in await self.batches() for ref in batch.packets)


def mentioning(*hashes):
    """What a packet brings that says no n-gram."""
    return {"crystals": b"", "mentions": encode_mentions(np.array(sorted(hashes), np.uint32))}


def ref_of(centre, node, sequence, epoch=1):
    """How a batch names a packet."""
    key = keys.key_id(keys.load_private(centre.home, NODES[node]).verify_key)
    return key + epoch.to_bytes(4, "big") + sequence.to_bytes(4, "big")


async def decided(centre, eventually):
    """Every candidate has its end, and what the publisher has to say is where it goes."""
    await eventually(lambda: drained(centre))
    await eventually(lambda: carried(centre))


async def drained(centre):
    return await centre.broker.redis.xlen(streams.CANDIDATES) == 0


async def carried(centre):
    return await centre.broker.redis.xlen(streams.outbox(streams.CANDIDATES)) == 0


async def refusal(centre, candidate):
    """The reasons that are kept."""
    return json.loads((await centre.broker.read_hash(streams.REFUSED))[candidate.id])["reasons"]
