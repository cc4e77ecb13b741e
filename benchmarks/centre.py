"""Claims: a thousand packets are verified, validated and merged in a second, and nothing counts twice, whoever dies.

    python benchmarks/centre.py [packets] [kills] [replays] [--times 100] [--replays 10000] [--seed 0]

packets: the pure rooms, processor time of one thread, warm: a thousand packets of EDGES edges with the shipped genesis,
who have read scripture, opened, verified (ed25519), validated and cut in batches of 256; each share of it, and the
whole.

kills, replays: a real aggregator on an embedded broker, batches of WAVE packets. kills: it is killed (SIGKILL) at a
random moment while packets come, as often as --times says, and another started; then the batches are compared, byte for
byte, with those that one makes which nobody killed. replays: what it has counted is sent so often again, in any order;
then the batches and every hash of its ledger are compared with what they were. Both take minutes; packets alone runs
when nothing is named.
"""

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # before numpy: it reads them when it is imported

import numpy as np
from nacl.signing import SigningKey
from redis.exceptions import ResponseError

from common.constellation import parts as bundle_parts
from common.constellation.priors import prior_of
from common.coordizer.artifacts import FIRST_MERGE, token_bytes
from common.kernels import gate, memory
from common.kernels.kernel import Kernel
from common.runtime import embedded, keys, streams
from common.runtime.broker import Broker
from common.runtime.connection import connect
from common.wire import basin, crystals, mentions
from common.wire.bundle import digest, part_of, sign
from common.wire.codec import pack
from common.wire.messages import Candidate, Evidence
from common.wire.packet import PacketBody, base_prefix, key_id, seal
from services.aggregator.admit import admit, open_packet
from services.aggregator.bases import Base
from services.aggregator.cut import Fleet, Limits, cut
from services.edge.crystals import select
from services.edge.screen import Screen
from services.publisher import metadata
from services.trainer import folder
from services.trainer.corpora.document import documents
from services.trainer.corpora.split import split

PACKETS, EDGES, BATCH = 1000, 50, 256
BUDGETS = (1024, 2900)  # QIG_CRYSTAL_BYTES by default, and at most
READ_BYTES = 24_000  # of text, of a sleep
MASS_CAP = 100_000  # QIG_MASS_CAP
LIMIT_S = 1.0
NODES = [f"edge-{n}" for n in range(8)]
WAVE, KILLS_A_WAVE, WAVE_S = 48, 10, 90.0
REPEATS = 5
AT_S = 1_700_000_000.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=["packets", "kills", "replays", []], default=[])
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--replays", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for case in given.cases or ["packets"]:
        if case == "packets":
            for budget in BUDGETS:
                _packets(budget)
            continue
        with tempfile.TemporaryDirectory() as scratch:
            running = embedded.start(Path(scratch) / "broker")
            try:
                centre = Centre(Path(scratch) / "home", running.url)
                work = centre.kills(given.times, given.seed) if case == "kills" else centre.replays(given.replays)
                asyncio.run(work)
            finally:
                running.stop()


def say(case, value, unit, *, peer=None, peer_value=None, decimals=3, **more) -> None:
    ratio = None if not peer_value else round(value / peer_value, 3)
    line = {
        "claim": "centre", "case": case, "value": round(value, decimals), "unit": unit,
        "peer": peer, "peer_value": peer_value, "ratio": ratio, **more,
    }  # fmt: skip
    print(json.dumps(line), flush=True)


# Packets


def _packets(budget) -> None:
    base, raws, enrolled = _sent(budget)
    nodes = {key: node for key, (node, _) in enrolled.items()}
    shares = {"open": [], "admit": [], "cut": []}
    for _ in range(REPEATS):
        windows = {}

        def taken(envelope, windows=windows):
            found = admit(
                envelope, enrolled=enrolled, replay=windows.get(envelope.key), entry_ms=int(1000 * AT_S), bases=(base,)
            )
            windows[envelope.key] = found.window
            return found

        envelopes, seconds = _timed(lambda: [open_packet(raw) for raw in raws])
        shares["open"].append(seconds)
        admitted, seconds = _timed(lambda e=envelopes: [taken(each) for each in e])
        shares["admit"].append(seconds)
        read = dict(zip(raws, admitted, strict=True))
        rows = [(one.ref.packed, raw) for raw, one in read.items()]
        ledgers = [dict(rows[at : at + BATCH]) for at in range(0, PACKETS, BATCH)]
        limits = Limits(BATCH, 60.0, MASS_CAP)
        cuts, seconds = _timed(
            lambda each=ledgers, read=read, limits=limits: [
                cut(ledger, bases=(base,), pending={}, limits=limits, fleet=Fleet(nodes, {}), admitted=read)
                for ledger in each
            ]
        )
        shares["cut"].append(seconds)
    where = f"{PACKETS} packets of {budget} B of crystals"
    for part, values in shares.items():
        say(f"{part}, {where}", float(np.median(values)), "s")
    whole = [sum(each) for each in zip(*shares.values(), strict=True)]
    entries = sum(
        crystals.decode(update.crystals, base.vocab_size, 1 << 17).entries
        for found in cuts
        for update in found.batch.domains
    )
    counted = sum(len(found.taken) for found in cuts)
    say(
        f"verified, validated, merged, {where}", float(np.median(whole)), "s", peer="limit", peer_value=LIMIT_S,
        bytes_median=float(np.median([len(raw) for raw in raws])), counted=counted, entries=entries,
    )  # fmt: skip


def _sent(budget):
    """The base, PACKETS sealed packets, and who is enrolled: each edge has read text of its own, in an order of its
    own, and has sent a packet a sleep.
    """
    made = bundle_parts.load(folder.read(Path("data/genesis")))
    heart = made.kernel("heart")
    vocab, prior = made.coordizer.vocab_size, prior_of(heart.memories, made.coordizer.vocab_size)
    merges = tuple(map(tuple, made.coordizer.merges[: vocab - FIRST_MERGE].tolist()))
    base = Base(1, "ab" * 32, vocab, merges, dict(made.domains), {"heart": prior})
    kernel = Kernel(heart.state, (*heart.memories, memory.count([], 3)), gate.prior(3))
    screen = Screen.of(token_bytes(made.coordizer.merges))
    passages = [
        made.encoder.encode(each.text) for each in split(documents("unseen/scripture", root=Path("data"))).train
    ]
    keys = [SigningKey(bytes([n]) * 32) for n in range(EDGES)]
    raws = []
    rng = np.random.default_rng(0)
    told = [_told(passages, made.encoder, screen, kernel, prior, vocab, budget, rng) for _ in range(EDGES)]
    for sequence in range(PACKETS // EDGES):
        for key, (blob, tokens) in zip(keys, told, strict=True):
            at = rng.dirichlet(made.domains["heart"].basin_array * 400 + 0.01)
            sums = np.full((gate.BUCKETS, 2), tokens / gate.BUCKETS / 2)
            body = PacketBody(
                kernel="heart", domain="heart", basin=basin.to_bytes8(at), interactions=40, tokens=tokens,
                fresh_bytes=READ_BYTES, fresh_bits=2.2 * READ_BYTES, phi=0.8, kappa=50.0, phases=(1, 2, 3, 0),
                gate=gate.to_bytes(sums), crystals=blob,
            )  # fmt: skip
            raws.append(
                seal(body, signing_key=key, epoch=1, sequence=sequence, base_version=1, base=base.prefix, at_s=AT_S)
            )
    enrolled = {key_id(key.verify_key): (f"edge-{n}", key.verify_key) for n, key in enumerate(keys)}
    return base, raws, enrolled


def _told(passages, encoder, screen, kernel, prior, vocab, budget, rng):
    """What one edge says of READ_BYTES of text, and how many tokens that were."""
    taken, size = [], 0
    for at in rng.permutation(len(passages)):
        taken.append(passages[at])
        size += len(encoder.decode(passages[at]))
        if size >= READ_BYTES:
            break
    chosen = select(screen.speakable(memory.count(taken, 3)), kernel)
    _, blob = crystals.fit(chosen.crystals, chosen.ranking, vocab_size=vocab, budget_bytes=budget, prior=prior)
    return blob, sum(map(len, taken))


# Kills and replays


class Centre:
    """A home, a broker, and aggregators that come and go."""

    def __init__(self, home, url, nodes=NODES):
        self.home, self.url, self.nodes = home, url, nodes
        keys.init(home, nodes)
        self.made = folder.read(Path("data/genesis"))
        parts = {path: part_of(data) for path, data in self.made.items()}
        candidate = Candidate(id="c1", parent=0, parent_digest="", parts=parts, evidence=Evidence())
        key = keys.load_private(home, keys.PUBLISHER)
        self.bundle = sign(candidate, version=1, released_at_s=time.time(), signing_key=key)
        found = bundle_parts.load(self.made)
        heart = found.kernel("heart")
        vocab, prior = found.coordizer.vocab_size, prior_of(heart.memories, found.coordizer.vocab_size)
        kernel = Kernel(heart.state, (*heart.memories, memory.count([], 3)), gate.prior(3))
        screen = Screen.of(token_bytes(found.coordizer.merges))
        passages = [found.encoder.encode(e.text) for e in split(documents("unseen/scripture", root=Path("data"))).train]
        rng = np.random.default_rng(0)
        self.told = [_told(passages, found.encoder, screen, kernel, prior, vocab, 1024, rng) for _ in NODES]
        self.at = basin.to_bytes8(found.domains["heart"].basin_array)

    async def release(self, redis):
        """A broker with nothing but the genesis."""
        await redis.flushall()
        broker = Broker(redis)
        for data in self.made.values():
            await broker.put_blob(data)
        key = keys.load_private(self.home, keys.PUBLISHER)
        listed = {1: pack(self.bundle)}
        files = metadata.signed(keys.load_offline(self.home), listed, {}, key, now_s=time.time())
        await redis.hset(streams.METADATA, mapping=dict(files))
        await broker.produce(streams.BUNDLES, pack(self.bundle), "1")

    def packet(self, number):
        """The number-th packet: sealed when it is sent, for the centre looks at the clock."""
        node, sequence = number % len(self.nodes), number // len(self.nodes)
        blob, tokens = self.told[node % len(self.told)]
        body = PacketBody(
            kernel="heart", domain="heart", basin=self.at, interactions=40, tokens=tokens, fresh_bytes=READ_BYTES,
            fresh_bits=2.2 * READ_BYTES, phi=0.8, kappa=50.0, phases=(1, 2, 3, 0), crystals=blob,
            mentions=mentions.encode(np.array(sorted({7, 100 + number}), np.uint32)),
        )  # fmt: skip
        key = keys.load_private(self.home, self.nodes[node])
        base = base_prefix(digest(self.bundle))
        return seal(body, signing_key=key, epoch=1, sequence=sequence, base_version=1, base=base, at_s=time.time())

    def start(self):
        environ = {"QIG_BROKER_URL": self.url, "QIG_HOME": str(self.home), "QIG_HTTP_PORT": "0"}
        environ |= {"QIG_BATCH_PACKETS": str(WAVE), "QIG_BATCH_AGE_S": "3600"}
        command = [sys.executable, "-m", "services.aggregator.app"]
        return subprocess.Popen(command, env=os.environ | environ, stderr=subprocess.DEVNULL)

    async def send(self, redis, numbers):
        raws = [self.packet(number) for number in numbers]
        for raw in raws:
            await redis.xadd(streams.PACKETS, {"__data__": raw})
        return raws

    async def wave_done(self, redis, number):
        """All of a wave is in its batch, and the batch on its stream. Raises TimeoutError where it never will be."""
        async with asyncio.timeout(WAVE_S):
            while await redis.xlen(streams.BATCHES) < number or await redis.xlen(streams.PACKETS):  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def batches(self, redis):
        return [fields[b"__data__"] for _, fields in await redis.xrange(streams.BATCHES)]

    async def kills(self, times, seed):
        """Undisturbed first; then dying all the time."""
        rng, waves = random.Random(seed), -(-times // KILLS_A_WAVE)
        async with connect(self.url) as redis:
            await self.release(redis)
            process = self.start()
            for wave in range(waves):
                await self.send(redis, range(wave * WAVE, (wave + 1) * WAVE))
                await self.wave_done(redis, wave + 1)
            process.kill()
            expected = await self.batches(redis)
            await self.release(redis)
            began, killed = time.monotonic(), 0
            for wave in range(waves):
                numbers = list(range(wave * WAVE, (wave + 1) * WAVE))
                left = min(KILLS_A_WAVE, times - killed)
                for last in range(left - 1, -1, -1):  # the last when all have come: about the cut
                    process = self.start()
                    await self._reads(redis)
                    here = [numbers.pop(0) for _ in range(len(numbers) // (last + 1))]
                    await self.send(redis, here)
                    await asyncio.sleep(rng.uniform(0.0, 0.1 if last else 1.5))
                    process.kill()
                    process.wait()
                    killed += 1
                process = self.start()
                await self.wave_done(redis, wave + 1)
                process.kill()
                process.wait()
            found = await self.batches(redis)
            same = sum(mine == theirs for mine, theirs in zip(found, expected, strict=False))
            say(
                f"batches that are the bytes of an undisturbed run, {killed} kills", same, "batches", peer="all",
                peer_value=len(expected), made=len(found), seconds=round(time.monotonic() - began),
                dead=await redis.xlen(streams.dead(streams.PACKETS)),
            )  # fmt: skip

    async def _reads(self, redis):
        """Until a started aggregator reads: it has another consumer then."""
        before = await self._consumers(redis)
        while await self._consumers(redis) <= before:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async def _consumers(self, redis):
        try:
            return {
                row["name"] for row in await redis.xinfo_consumers(streams.PACKETS, streams.GROUPS[streams.PACKETS])
            }
        except ResponseError:
            return set()

    async def replays(self, times):
        """What was counted, again and again."""
        async with connect(self.url) as redis:
            await self.release(redis)
            process = self.start()
            try:
                raws = []
                for wave in range(4):
                    raws += await self.send(redis, range(wave * WAVE, (wave + 1) * WAVE))
                    await self.wave_done(redis, wave + 1)
                before, rng = await self._state(redis), np.random.default_rng(0)
                began = time.monotonic()
                for place in rng.integers(0, len(raws), times):
                    await redis.xadd(streams.PACKETS, {"__data__": raws[place]})
                await self.wave_done(redis, 4)
                seconds = time.monotonic() - began
                changed = sum(before.get(key) != value for key, value in (await self._state(redis)).items())
            finally:
                process.kill()
            say(
                f"keys that {times} replays of {len(raws)} packets changed", changed, "keys", peer="none", peer_value=0,
                seconds=round(seconds), dead=await redis.xlen(streams.dead(streams.PACKETS)),
            )  # fmt: skip

    async def _state(self, redis):
        """Every key of the aggregator but those that count what was refused."""
        names = [key.decode() for key in await redis.keys("*")]
        kept = [name for name in names if not name.endswith((":standing", ":dead", ":seen")) and "packets" in name]
        found = {name: await redis.dump(name) for name in kept if name != streams.PACKETS}
        return found | {name: await redis.dump(name) for name in (streams.BATCHES, streams.COMMON)}


def _timed(work):
    start = time.process_time()
    done = work()
    return done, time.process_time() - start


if __name__ == "__main__":
    main()
