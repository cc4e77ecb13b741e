"""What keeps a fleet from answering, from being fed and from agreeing: queries, streams, edges, bundles, keys."""

import asyncio
import contextlib
import time
from urllib.parse import urlsplit

from live_fleet import EDGES, Live, narrow, passages, prepared, settings_for, until
from micro import SENTENCES, make_parts
from proxy import Proxy
from stage import PATIENCE_S, Drill

from common.runtime import keys, streams
from common.runtime.connection import connect
from common.trust import roles
from common.wire.codec import pack
from common.wire.inference import Query
from services.cli.fleet import Fleet

FLOOD = 91_000  # queries: nine tenths of what their stream takes
STEP = 1_000
REPLAYS = 20
FORGOTTEN_S = 700 * 86_400.0  # of the 730 days that offline keys sign for
ROUNDS, ROUND_S = 6, 20.0  # of text, until a second batch waits
TRIAL_S = 300  # of a bundle: edges are killed twice in it
QUERY = pack(Query(text="The whale rose", max_tokens=0, store=False))
HURRIED = pack(Query(text="The whale rose", max_tokens=512, deadline_s=0.001))
NOISE = {streams.DATA_FIELD: b"no message"}


async def play(scratch):
    home = scratch / "home"
    corpora = prepared(home, narrow(make_parts()))
    async with Fleet(home) as fleet, connect(fleet.broker_url) as redis:
        wire = Proxy(urlsplit(fleet.broker_url).port)
        await wire.start()
        try:
            settings = settings_for(fleet, corpora)
            settings |= {node: settings[node] | {"health_s": TRIAL_S} for node in EDGES}
            settings["edge-2"] |= {"broker_url": wire.url}  # it meets the broker by a wire that can be cut
            drill = Drill("serving", Live(fleet, redis, passages()), settings)
            await drill.start("aggregator", *EDGES)
            async with drill.watched(scratch):
                await no_bundle_and_a_flood(drill)
                await what_is_no_message(drill)
                await deadlines_that_cannot_be_kept(drill)
                await packets_replayed(drill)
                await keys_forgotten(drill)
                await an_edge_cut_off(drill, wire)
                await both_edges_killed(drill)
                await edges_that_die_with_a_bundle(drill)
                await no_publisher(drill)
        finally:
            await wire.stop()
    return drill.left


async def no_bundle_and_a_flood(drill):
    """Nobody releases, clients ask without end, and somebody deletes the stream."""
    for first in range(0, FLOOD, STEP):
        async with drill.redis.pipeline(transaction=False) as pipe:
            for _ in range(first, first + STEP):
                pipe.xadd(streams.QUERIES, {streams.DATA_FIELD: QUERY})
            await pipe.execute()
    await drill.fires("NotReady", "ConsumerDead", "StreamFilling", "StreamFull")
    await drill.redis.delete(streams.QUERIES)
    await drill.fires("GroupRemade")
    await drill.start("publisher", "trainer")
    drill.clears("ConsumerDead", "StreamFilling", "StreamFull", "GroupRemade", "NotReady")
    await drill.ready()


async def what_is_no_message(drill):
    for stream in (streams.QUERIES, streams.PACKETS):
        await drill.redis.xadd(stream, NOISE)
    await drill.fires("DeadLetters")
    drill.clears("DeadLetters")


async def deadlines_that_cannot_be_kept(drill):
    async def ask():
        while True:
            await drill.redis.xadd(streams.QUERIES, {streams.DATA_FIELD: HURRIED})
            await asyncio.sleep(0.1)

    asking = asyncio.create_task(ask())
    await drill.fires("QueriesRefused")
    asking.cancel()
    drill.clears("QueriesRefused")


async def packets_replayed(drill):
    """At once: the first refusals of their kind that this aggregator sees."""
    async with drill.live.desk() as desk:
        await drill.live.read(desk, 10)
        await until(lambda: any(raw for raw, _ in drill.live.sent()), "a packet", PATIENCE_S)
    raw = next(raw for raw, _ in drill.live.sent() if raw)
    await until(lambda: drill.holds('qig_packets_total{outcome="accepted"} > 0'), "that it counts", PATIENCE_S)
    for _ in range(REPLAYS):
        await drill.redis.xadd(streams.PACKETS, {streams.DATA_FIELD: raw})
    await drill.fires("PacketRejectRatio")
    drill.clears("PacketRejectRatio")


async def keys_forgotten(drill):
    """What the offline keys sign is of 700 days ago; then somebody signs anew."""
    home = drill.fleet.home
    signers, then = keys._at_hand(keys.offline_dir(home)), time.time() - FORGOTTEN_S
    keys._keep(home, roles.replaced(keys.load_offline(home), {}, signers, now_s=then))
    await drill.fires("TrustEnds")
    keys.replace(home, ["targets"], offline=keys.offline_dir(home))
    drill.clears("TrustEnds")


async def an_edge_cut_off(drill, wire):
    wire.cut(True)
    for _ in range(2):
        await _one_more_release(drill)
    await drill.fires("BundleSkew")
    wire.cut(False)
    drill.clears("BundleSkew")
    await drill.ready()


async def both_edges_killed(drill):
    await asyncio.gather(*(drill.fleet.kill(node, hold=True) for node in EDGES))
    await drill.fires("ServiceDown", "NoEdgeReady", "EdgeGone")
    await asyncio.gather(*map(drill.fleet.restart, EDGES))
    drill.clears("ServiceDown", "NoEdgeReady", "EdgeGone")
    await drill.ready()


async def edges_that_die_with_a_bundle(drill):
    version = (await drill.live.bundles())[-1].version
    await _one_more_release(drill)
    await until(lambda: _is_quiet(drill), "no release on its way", PATIENCE_S)
    await drill.live.newest_on_both_edges(version, PATIENCE_S)
    await drill.fleet.kill("trainer", hold=True)  # only the newest release is taken back: none may follow
    for _ in range(2):
        await asyncio.gather(*map(drill.fleet.kill, EDGES))
        await asyncio.gather(*(drill.fleet.wait_ready(node, PATIENCE_S) for node in EDGES))
    await drill.fires("BundleRolledBack")
    await drill.fleet.restart("trainer")
    drill.clears("BundleRolledBack")


async def no_publisher(drill):
    await drill.fleet.kill("publisher", hold=True)
    async with drill.live.desk() as desk:
        for _ in range(ROUNDS):
            for text in SENTENCES.values():  # of all domains
                for _ in range(8):
                    desk.send(text * 10, max_tokens=0)
            with contextlib.suppress(AssertionError):
                await until(lambda: _a_batch_waits(drill), "", ROUND_S)
                break
        await drill.fires("LearningStuck")
    await drill.fleet.restart("publisher")
    drill.clears("LearningStuck")


async def _a_batch_waits(drill):
    """Behind a candidate that nobody decides on."""
    return await drill.redis.xlen(streams.CANDIDATES) and await drill.redis.xlen(streams.BATCHES)


async def _is_quiet(drill):
    known = {status for _, status in drill.live.sent()}
    return known <= {"acknowledged", "lost"} and await drill.live.at_rest()


async def _one_more_release(drill):
    version = (await drill.live.bundles())[-1].version

    async def came():
        async with drill.live.desk() as desk:
            await drill.live.read(desk, 4)
            await asyncio.sleep(1.0)
        return (await drill.live.bundles())[-1].version > version

    await until(came, f"a release after {version}", PATIENCE_S)
