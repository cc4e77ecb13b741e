"""kill -9 at any moment loses nothing and counts nothing twice: at every single write, and at random under load."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from centre import APPS, mentioning, ref_of
from centre_death import LEAVES_OPEN, Death, buried, dies, install  # noqa: F401 -- a fixture

from common.runtime import embedded, streams
from common.runtime.broker import Broker
from common.runtime.connection import connect
from common.runtime.service import serve
from common.wire.crystals import decode
from common.wire.messages import PacketRef

pytestmark = [pytest.mark.anyio, LEAVES_OPEN]
WRITES_MAX = 60  # more than any run below makes: the loop ends when a run is not hit any more


@pytest.fixture
def centre(centre, monkeypatch):
    monkeypatch.setattr("services.aggregator.app.CUT_EVERY_S", 0.02)
    return centre


def served(centre, service, **given):
    """The service as its process runs it, but impatient: what a dead one held is claimed after 50 ms."""
    settings = centre.settings(service, **given)

    async def build(broker):
        wiring = await APPS[service][0](settings, broker)
        return replace(wiring, consumers=[replace(each, claim_after_s=0.05) for each in wiring.consumers])

    return serve(settings, service=service, build=build, check_every_s=0.02)


async def settled(centre, stream):
    """Nothing waits in a work stream or its outbox."""
    redis = centre.broker.redis
    return await redis.xlen(stream) == 0 and await redis.xlen(streams.outbox(stream)) == 0


async def outlived(centre, service, finished, nth, moment, **given):
    """One life that ends at its nth write, then one that does not; whether the first was hit at all."""
    died = await dies(Death(nth, moment), served(centre, service, **given), finished)
    if died:
        await dies(Death(10**9, moment), served(centre, service, **given), finished)
    return died


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_an_aggregator_killed_at_any_write_counts_every_packet_once(centre, monkeypatch, moment):
    install(monkeypatch)
    expected = sorted(ref_of(centre, node, 1) for node in range(3))

    async def finished():
        return await settled(centre, streams.PACKETS) and len(await centre.counted()) >= 3

    for nth in range(1, WRITES_MAX):
        await centre.broker.redis.flushall()
        bundle = await centre.release()
        wrong = centre.packet(bundle, 3, domain="nowhere")
        await centre.send(centre.packet(bundle, 0), wrong, *[centre.packet(bundle, node) for node in (1, 2)])
        async with asyncio.timeout(10):
            died = await outlived(centre, "aggregator", finished, nth, moment, batch_packets=3)
        assert await centre.counted() == expected, f"killed {moment} write {nth}"
        assert [batch.domains[0].packets for batch in await centre.batches()] == [3]
        assert await centre.returned() == [(ref_of(centre, 3, 1), "implausible")], f"killed {moment} write {nth}"
        assert len(await centre.letters(streams.PACKETS)) == 1
        if not died:
            assert nth > 3  # the packets, the one that is wrong, the cut
            return
    pytest.fail(f"more than {WRITES_MAX} writes for four packets")


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_an_aggregator_killed_at_any_write_counts_every_edge_s_mentions_once(centre, monkeypatch, moment):
    install(monkeypatch)
    expected = ([7], sorted(ref_of(centre, node, 1) for node in range(3)))

    async def finished():
        return await settled(centre, streams.PACKETS) and len((await centre.told())[1]) >= 3

    for nth in range(1, WRITES_MAX):
        await centre.broker.redis.flushall()
        bundle = await centre.release()
        await centre.send(*[centre.packet(bundle, node, **mentioning(7, node)) for node in range(3)])
        async with asyncio.timeout(10):
            died = await outlived(centre, "aggregator", finished, nth, moment, batch_packets=3)
        assert await centre.told() == expected, f"killed {moment} write {nth}"
        if not died:
            assert nth > 2  # the packets, the cut
            return
    pytest.fail(f"more than {WRITES_MAX} writes for three packets")


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_publisher_killed_at_any_write_releases_each_candidate_once(centre, monkeypatch, moment):
    install(monkeypatch)

    async def finished():
        return await settled(centre, streams.CANDIDATES) and len(await centre.bundles()) >= 1

    for nth in range(1, WRITES_MAX):
        await centre.broker.redis.flushall()
        await centre.offer(await centre.candidate(id="good"))
        ref = PacketRef(key=b"k" * 8, epoch=1, sequence=1)
        await centre.offer(await centre.candidate(id="bad", change={"homes.npy": None}, packets=(ref,)))
        async with asyncio.timeout(10):
            died = await outlived(centre, "publisher", finished, nth, moment)
        assert [(bundle.version, bundle.id) for bundle in await centre.bundles()] == [(1, "good")]
        assert [letter.code for letter in await centre.letters(streams.CANDIDATES)] == ["candidate_refused"]
        assert list(await centre.broker.read_hash("{qig:candidates}:refused")) == ["bad"]
        assert await centre.returned() == [(ref.packed, "candidate_refused")], f"killed {moment} write {nth}"
        if not died:
            assert nth > 2  # both candidates
            return
    pytest.fail(f"more than {WRITES_MAX} writes for two candidates")


@pytest.fixture
def process(centre, broker_url):
    """Starts a service as a process of its own."""
    started = []

    def start(service, **given):
        environ = {"QIG_BROKER_URL": broker_url, "QIG_HOME": str(centre.home), "QIG_HTTP_PORT": "0"}
        environ |= {f"QIG_{name.upper()}": str(value) for name, value in given.items()}
        command = [sys.executable, "-m", f"services.{service}.app"]
        started.append(subprocess.Popen(command, env=os.environ | environ, stderr=subprocess.DEVNULL))
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.wait()


@pytest.mark.live
async def test_aggregators_killed_at_random_under_load_count_every_packet_once(centre, process, eventually):
    bundle = await centre.release()
    sent = [(node, sequence) for sequence in range(1, 41) for node in range(4)]
    rng = random.Random(20160)
    given = {"batch_packets": 16, "batch_age_s": 1.0}
    victims = [process("aggregator", **given)]
    for number, (node, sequence) in enumerate(sent):
        await centre.send(centre.packet(bundle, node, sequence))
        if number % 40 == 20:
            victims.append(process("aggregator", **given))
            await eventually(lambda: accepting(centre), 60.0)
            await asyncio.sleep(rng.uniform(0, 0.05))
            victims.pop(0).send_signal(signal.SIGKILL)
    await eventually(lambda: complete(centre, len(sent)), 60.0)
    batches = await centre.batches()
    counts = [decode(each.crystals, 320, 1 << 16).orders[1] for batch in batches for each in batch.domains]
    assert await centre.counted() == sorted(ref_of(centre, *each) for each in sent)
    assert sum(int(order.counts.sum()) for order in counts) == len(sent)


async def accepting(centre):
    groups = await centre.broker.redis.xinfo_groups(streams.PACKETS)
    return any(group["consumers"] for group in groups)


async def complete(centre, number):
    return await settled(centre, streams.PACKETS) and len(await centre.counted()) >= number


class Mortal:
    """A broker of one's own, to be killed and started again on its data."""

    def __init__(self, data_dir):
        self.data_dir = data_dir
        self.running = embedded.start(data_dir)

    def die_and_rise(self):
        port = int(self.running.url.rpartition(":")[2])
        self.running.process.kill()
        self.running.process.wait()
        self.running = embedded.start(self.data_dir, port)


@pytest.fixture
def mortal(tmp_path):
    broker = Mortal(tmp_path / "broker")
    yield broker
    broker.running.stop()


@pytest.mark.live
async def test_a_broker_killed_under_load_loses_no_packet_and_no_batch(centre, mortal, eventually):
    async with connect(mortal.running.url) as redis:
        mine = replace(centre, url=mortal.running.url, broker=Broker(redis))
        bundle = await mine.release()
        async with mine.running("aggregator", batch_packets=4, batch_age_s=0.5):
            for sequence in range(1, 21):
                await mine.send(*[mine.packet(bundle, node, sequence) for node in range(4)])
                if sequence % 8 == 0:
                    mortal.die_and_rise()
            await eventually(lambda: complete(mine, 80), 30.0)
        assert await mine.counted() == sorted(ref_of(mine, n, s) for s in range(1, 21) for n in range(4))
