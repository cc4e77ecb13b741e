"""What one node alone says waits at the centre for two more, through a real broker, refusals, kills and restarts."""

import asyncio
import time

import numpy as np
import pytest
from centre import NODES, Centre, decided, mentioning, ref_of
from centre_death import LEAVES_OPEN, Death, buried, dies, install  # noqa: F401 -- a fixture
from micro import MICRO
from test_centre_kill import WRITES_MAX, served
from test_centre_races import Late, accept, aggregator

from common.constellation import parts
from common.kernels import gate, memory
from common.runtime import keys, streams
from common.wire.codec import unpack
from common.wire.crystals import crystals, decode, encode, entry
from common.wire.messages import Batch
from common.wire.ngrams import implied
from services.aggregator.app.hashes import CUTS, LEDGER, POOL, UNSETTLED
from services.aggregator.claims import Claim, named
from services.aggregator.quorum import Brought
from services.publisher import app

pytestmark = [pytest.mark.anyio, LEAVES_OPEN]
EDGES = [*NODES, "edge-4", "edge-5"]
GIVEN = {"batch_packets": 3, "batch_age_s": 0.02}


@pytest.fixture
def centre(tmp_path, broker_url, broker, micro_parts, monkeypatch):
    monkeypatch.setattr("services.aggregator.app.CUT_EVERY_S", 0.02)
    monkeypatch.setattr("services.publisher.app.candidates.PATIENCE_S", 0.0)
    keys.init(tmp_path, EDGES)
    return Centre(tmp_path, broker_url, broker, micro_parts)


@pytest.fixture
def pair(micro):
    """Tokens that the bundle has not met together, and what a packet says that has seen them twice."""
    held = set(micro.memories["percept"].tables[1].keys.tolist())
    a, b = next((a, b) for a in range(3, 90) for b in range(3, 90) if a << 15 | b not in held)
    return a, b, crystals([entry((a,), b, count=2, total=2)])


def pairs(batch):
    """What a batch says of one domain at most."""
    found = [decode(update.crystals, MICRO.vocab, 1 << 16).orders[1] for update in batch.domains]
    told = [(order.keys.tolist(), order.counts.tolist()) for order in found]
    return {(key >> 15, key & 0x7FFF): count for own in told for key, count in zip(*own, strict=True)}


async def has_batches(centre, number):
    return len(await centre.batches()) == number


async def end(centre, eventually, change=None):
    """What the publisher makes of the newest batch: a release with these other parts or with none, or a refusal of one
    whose parts are others and no better.
    """
    batch, parent = (await centre.batches())[-1], (await centre.bundles())[-1]
    refused = change == "worse"
    other = {"notes.bin": b"%d" % time.monotonic_ns()} if change else None
    nothing = () if refused or change is None else None
    await centre.offer(await centre.candidate(parent, nothing, change=other, id=batch.id, packets=batch.packets))
    await decided(centre, eventually)
    assert batch.id in await centre.broker.read_hash(streams.REFUSED if refused else streams.RELEASED)


async def test_a_pair_counts_once_three_nodes_have_brought_it_whatever_was_restarted_between(centre, eventually, pair):
    """What the newest release left waiting is not in the pool, for that may be taken back: it takes one packet more."""
    a, b, told = pair
    said = encode(told, MICRO.vocab)
    async with centre.running("publisher"):
        await centre.offer(await centre.candidate())
        await decided(centre, eventually)
        (bundle,) = await centre.bundles()
        for node in range(5):
            async with centre.running("aggregator", **GIVEN):
                await centre.send(centre.packet(bundle, node % 3, node + 1, crystals=said))
                await eventually(lambda many=node + 1: has_batches(centre, many))
            await end(centre, eventually)
            bundle = (await centre.bundles())[-1]
    assert [pairs(batch) for batch in await centre.batches()] == [{}, {}, {}, {}, {(a, b): 8}]
    assert [len(batch.domains) for batch in await centre.batches()] == [0, 0, 0, 0, 1]
    assert {len(bundle.parts) for bundle in await centre.bundles()} == {len((await centre.bundles())[0].parts)}
    assert await centre.broker.read_hash(POOL) == {}
    assert await centre.returned() == []


async def test_what_a_refused_batch_said_of_others_waits_again_and_its_packets_count_once(centre, eventually, pair):
    a, b, told = pair
    said = encode(told, MICRO.vocab)
    async with centre.running("publisher"), centre.running("aggregator", **GIVEN):
        await centre.offer(await centre.candidate())
        await decided(centre, eventually)
        (bundle,) = await centre.bundles()
        for node in (0, 1):
            await centre.send(centre.packet(bundle, node, crystals=said))
            await eventually(lambda many=node + 1: has_batches(centre, many))
            await end(centre, eventually, change="better")
        bundle = (await centre.bundles())[-1]
        for sequence in (2, 3):
            await centre.send(*[centre.packet(bundle, node, sequence, crystals=said) for node in (2, 3)])
            await eventually(lambda many=sequence + 1: has_batches(centre, many))
            await end(centre, eventually, change="worse" if sequence == 2 else "better")
        assert [pairs(batch) for batch in (await centre.batches())[2:]] == [{(a, b): 6}, {(a, b): 6}]
        refs = [ref_of(centre, node, 2) for node in (2, 3)]
        assert await centre.returned() == sorted((ref, "candidate_refused") for ref in refs)


async def test_what_waits_of_a_release_that_is_taken_back_is_not_in_the_pool(centre, eventually, pair):
    _, _, told = pair
    said = encode(told, MICRO.vocab)
    async with centre.running("publisher"), centre.running("aggregator", **GIVEN):
        await centre.offer(await centre.candidate())
        await decided(centre, eventually)
        (bundle,) = await centre.bundles()
        await centre.send(centre.packet(bundle, 0, crystals=said))
        await eventually(lambda: has_batches(centre, 1))
        await end(centre, eventually, change="better")
        (two,) = (await centre.bundles())[1:]
        operator = app.Publisher(centre.settings("publisher"), centre.broker)
        assert await operator.releases.take_back(None, "by hand") == (3, 1)
        await eventually(centre.returned)
        await centre.send(centre.packet(two, 0, 2, crystals=said))
        await eventually(lambda: has_batches(centre, 2))
    names = list(await centre.broker.read_hash(UNSETTLED))
    assert [named(name) for name in names] == [(1, (await centre.batches())[1].id)]
    assert await centre.broker.read_hash(POOL) == {}


# Kills


class Before:
    """What earlier cuts left: two nodes' share of a pair, one in a batch that counts, one lent to a batch that does
    not; and what waits of that one's packets, which their edges send again.
    """

    counts, returned = "ab" * 32, "cd" * 32

    def __init__(self, centre, base, told):
        self.centre, self.base, self.told = centre, base, told

    def share(self, node, number):
        return {"percept": [Brought(EDGES[node], number, self.told)]}

    async def put(self):
        claims = [
            Claim(0, self.counts, {}, self.share(4, 0)),
            Claim(1, self.returned, self.share(5, 0), self.share(0, 1)),
        ]
        redis = self.centre.broker.redis
        for claim in claims:
            await redis.hset(UNSETTLED, claim.name, claim.packed(self.base))
        await redis.hset(streams.RELEASED, mapping={self.counts: 1, "c-next": 2})
        await redis.hset(streams.REFUSED, self.returned, b"{}")
        await redis.hset(CUTS, "count", "2")


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_an_aggregator_killed_at_any_write_of_a_cut_settles_every_claim_once(centre, pair, monkeypatch, moment):
    install(monkeypatch)
    a, b, told = pair

    async def finished():
        return await has_batches(centre, 1) and not await centre.broker.read_hash(LEDGER)

    for nth in range(1, WRITES_MAX):
        await centre.broker.redis.flushall()
        bundle = await centre.release()
        who = aggregator(centre)
        await who.window.catch_up()
        await Before(centre, who.window.bases[-1], implied(told)).put()
        await centre.send(centre.packet(bundle, 1, crystals=encode(told, MICRO.vocab)))
        async with asyncio.timeout(10):
            died = await dies(Death(nth, moment), served(centre, "aggregator", **GIVEN), finished)
            if died:
                await dies(Death(10**9, moment), served(centre, "aggregator", **GIVEN), finished)
        (batch,) = await centre.batches()
        assert pairs(batch) == {(a, b): 6}, f"killed {moment} write {nth}"
        assert list(await centre.broker.read_hash(UNSETTLED)) == [f"2-{batch.id}"]
        assert await centre.broker.read_hash(POOL) == {}
        if not died:
            assert nth > 2  # the packet, the cut
            return
    pytest.fail(f"more than {WRITES_MAX} writes for one packet")


async def test_of_two_aggregators_that_cut_at_once_one_settles_the_claims(centre, pair):
    a, b, told = pair
    bundle, late = await centre.release(), Late(centre.broker.redis)
    one, two = aggregator(centre, late, batch_packets=1), aggregator(centre, batch_packets=1)
    assert await accept(centre, one, centre.packet(bundle, 1, crystals=encode(told, MICRO.vocab))) == "done"
    await two.window.catch_up()
    await Before(centre, one.window.bases[-1], implied(told)).put()
    late.others.append(two.batches.cut_due)
    await one.batches.cut_due()
    rows = await centre.broker.redis.xrange(streams.outbox(streams.PACKETS))
    (batch,) = [unpack(Batch, fields[b"__data__"]) for _, fields in rows]
    assert pairs(batch) == {(a, b): 6}
    assert list(await centre.broker.read_hash(UNSETTLED)) == [f"2-{batch.id}"]
    assert await centre.broker.read_hash(POOL) == {}


async def test_a_batch_that_the_trainer_gives_back_lends_nothing_any_more(centre, eventually, pair):
    a, b, told = pair
    bundle, who = await centre.release(), aggregator(centre)
    await who.window.catch_up()
    base, before = who.window.bases[-1], Before(centre, None, implied(told))
    lent = {"percept": [*before.share(4, 0)["percept"], *before.share(5, 0)["percept"]]}
    claim = Claim(1, "ef" * 32, lent, {})
    await centre.broker.redis.hset(UNSETTLED, claim.name, claim.packed(base))
    await centre.broker.redis.hset(CUTS, "count", "2")
    await centre.broker.produce(streams.RETURNED, b"told", claim.batch)
    async with centre.running("aggregator", **GIVEN):
        await centre.send(centre.packet(bundle, 1, crystals=encode(told, MICRO.vocab)))
        await eventually(lambda: has_batches(centre, 1))
    assert pairs((await centre.batches())[0]) == {(a, b): 6}


async def test_packets_that_wait_are_looked_at_again_when_a_refusal_gives_back_what_was_lent(centre, pair):
    a, b, told = pair
    bundle, who = await centre.release(), aggregator(centre, batch_packets=1)
    before = Before(centre, None, implied(told))
    lent = {"percept": [*before.share(4, 0)["percept"], *before.share(5, 0)["percept"]]}
    claim = Claim(1, "ef" * 32, lent, {})
    raw = centre.packet(bundle, 1, crystals=encode(told, MICRO.vocab))
    assert await accept(centre, who, raw) == "done"
    await centre.broker.redis.hset(UNSETTLED, claim.name, claim.packed(who.window.bases[-1]))
    await centre.broker.redis.hset(CUTS, "count", "2")
    outbox = streams.outbox(streams.PACKETS)
    for _ in range(2):
        await who.batches.cut_due()
        assert await centre.broker.redis.xlen(outbox) == 0
    await centre.broker.redis.hset(streams.REFUSED, claim.batch, b"{}")
    await who.batches.cut_due()
    ((_, fields),) = await centre.broker.redis.xrange(outbox)
    assert pairs(unpack(Batch, fields[b"__data__"])) == {(a, b): 6}


async def test_a_claim_of_which_nobody_says_a_word_is_forgotten_when_it_is_too_old(centre, pair):
    _, _, told = pair
    bundle, who = await centre.release(), aggregator(centre, batch_packets=1, batch_age_s=0)
    assert await accept(centre, who, centre.packet(bundle)) == "done"
    before = Before(centre, None, implied(told))
    for number in (1, 2):
        claim = Claim(number, f"{number}" * 64, {}, before.share(4, number))
        await centre.broker.redis.hset(UNSETTLED, claim.name, claim.packed(who.window.bases[-1]))
    await centre.broker.redis.hset(CUTS, mapping={"count": "1000", "batches": "257"})
    await who.batches.cut_due()
    assert sorted(named(name)[0] for name in await centre.broker.read_hash(UNSETTLED)) == [2, 257]
    assert await centre.broker.read_hash(CUTS) == {"count": b"1001", "batches": b"258"}


async def test_a_broker_that_has_counted_no_batches_yet_counts_on_from_its_cuts(centre):
    bundle, who = await centre.release(), aggregator(centre, batch_packets=1, batch_age_s=0)
    await centre.broker.redis.hset(CUTS, "count", "7")
    assert await accept(centre, who, centre.packet(bundle)) == "done"
    await who.batches.cut_due()
    assert await centre.broker.read_hash(CUTS) == {"count": b"8", "batches": b"8"}


async def test_a_cut_that_only_hears_mentions_ages_nothing_that_waits(centre):
    bundle, who = await centre.release(), aggregator(centre, batch_packets=1, batch_age_s=0)
    await centre.broker.redis.hset(CUTS, mapping={"count": "7", "batches": "3"})
    assert await accept(centre, who, centre.packet(bundle, **mentioning(7))) == "done"
    await who.batches.cut_due()
    assert await centre.broker.read_hash(CUTS) == {"count": b"8", "batches": b"3"}


async def test_what_a_domain_was_taught_counts_at_once_and_what_its_role_knows_waits(centre, eventually, micro, pair):
    """Wrong followers that a role's memory happens to know are wrong; in a domain's own is what a quorum brought."""
    a, b, _ = pair
    known = int(micro.memories["percept"].tables[1].keys[0])
    own = memory.count([np.array([a, b], np.int32)], 3)
    rows = tuple(map(tuple, gate.prior(3).tolist()))
    change = {"name": "d-own", "memories": ("percept", "d-own"), "gate": rows}
    domains = {**micro.domains, "d-own": micro.domains["percept"].model_copy(update=change)}
    bundle = await centre.release(change=parts.memory_part("d-own", own) | parts.domains_part(domains))
    told = {(a,): b, (known >> 15,): known & 0x7FFF}
    said = encode(crystals([entry(context, token, count=2, total=2) for context, token in told.items()]), MICRO.vocab)
    async with centre.running("aggregator", **GIVEN):
        await centre.send(centre.packet(bundle, domain="d-own", crystals=said))
        await eventually(lambda: has_batches(centre, 1))
    (batch,) = await centre.batches()
    assert pairs(batch) == {(a, b): 2}
    assert list(await centre.broker.read_hash(UNSETTLED)) == [f"0-{batch.id}"]
