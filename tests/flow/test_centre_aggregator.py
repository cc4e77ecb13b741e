"""Packets in, batches out, through a real broker: each packet once, each refusal with its reason."""

import asyncio
import json
import logging
import urllib.error
import urllib.request

import numpy as np
import pytest
from centre import NODES, mentioning, ref_of
from micro import MICRO

from common.constellation import parts as bundle_parts
from common.constellation.paths import MERGES
from common.constellation.priors import prior_of
from common.errors import Unavailable
from common.runtime import keys, metrics, streams
from common.runtime.trust import Trust
from common.wire import crystals
from common.wire.codec import pack, unpack
from common.wire.messages import Bundle, Heartbeat
from common.wire.proposals import encode
from services.aggregator import app
from services.aggregator.app.hashes import ACCEPTED, OPENED
from services.aggregator.app.window import Window
from services.aggregator.proposals import MERGES_LEAST

pytestmark = pytest.mark.anyio


@pytest.fixture
def centre(centre, monkeypatch):
    monkeypatch.setattr("services.aggregator.app.CUT_EVERY_S", 0.02)
    return centre


def grams(batches):
    """All n-grams that the batches count, with how often."""
    counts = {}
    for update in (update for batch in batches for update in batch.domains):
        order = crystals.decode(update.crystals, MICRO.vocab, 1 << 16).orders[1]
        for key, count in zip(order.keys.tolist(), order.counts.tolist(), strict=True):
            counts[divmod(key, 1 << 15)] = counts.get(divmod(key, 1 << 15), 0) + count
    return counts


def readiness(url):
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return json.load(error)


async def test_nothing_is_cut_while_the_trainer_is_too_far_behind_and_all_of_it_later(
    centre, eventually, monkeypatch, caplog
):
    caplog.set_level(logging.INFO, "services.aggregator.app.batches")
    monkeypatch.setitem(streams._KEPT, streams.BATCHES, streams.Retention(entries=1, kind="work"))
    await centre.broker.produce(streams.BATCHES, b"an older one", "older")
    bundle = await centre.release()
    await centre.send(*[centre.packet(bundle, node) for node in range(4)])
    async with centre.running("aggregator", batch_packets=4) as url:
        await eventually(lambda: accepted(centre, 4))
        await eventually(lambda: "stream_full" in caplog.text)
        assert "tick cut" not in (await asyncio.to_thread(readiness, url)).get("reasons", {})
        assert await centre.broker.redis.xlen(streams.outbox(streams.PACKETS)) == 0
        await centre.broker.redis.delete(streams.BATCHES)
        await eventually(centre.batches)
    (batch,) = await centre.batches()
    assert len(batch.packets) == 4
    before, after = caplog.text.split("there is room")
    assert before.count("stream_full") == 1
    assert after.count("stream_full") <= 1  # of this batch


async def accepted(centre, count):
    return await centre.broker.redis.hlen(ACCEPTED) == count


async def test_packets_of_several_edges_become_one_batch(centre, eventually):
    bundle = await centre.release()
    await centre.send(*[centre.packet(bundle, node, sequence) for node in range(4) for sequence in (1, 2)])
    async with centre.running("aggregator", batch_packets=8):
        await eventually(centre.batches)
    (batch,) = await centre.batches()
    assert (batch.base_version, len(batch.packets), batch.domains[0].packets) == (1, 8, 8)
    assert grams([batch]) == {(node, sequence): 1 for node in range(4) for sequence in (1, 2)}


async def test_n_grams_told_by_what_a_bundle_expects_are_counted_while_it_is_in_the_window(centre, eventually, micro):
    bundle = await centre.release()
    prior = prior_of(micro.kernel("percept").memories, MICRO.vocab)
    found = crystals.crystals([crystals.entry((3,), 5, count=2, total=2)])
    told = crystals.fit(found, np.arange(1), vocab_size=MICRO.vocab, budget_bytes=100, prior=prior)[1]
    await centre.send(centre.packet(bundle, sequence=1, crystals=told))
    async with centre.running("aggregator", batch_packets=2):
        for version in (2, 3):
            bundle = await centre.release(version, bundle)
        await centre.send(centre.packet(bundle, sequence=2, crystals=told))
        await eventually(centre.batches)
    assert grams(await centre.batches()) == {(3, 5): 4}


async def test_what_waits_too_long_is_cut_before_there_are_enough(centre, eventually):
    bundle = await centre.release()
    await centre.send(centre.packet(bundle))
    async with centre.running("aggregator", batch_packets=200, batch_age_s=0.2):
        await eventually(centre.batches)
    assert await centre.counted() == [ref_of(centre, 0, 1)]


async def test_replays_count_once_in_any_order_and_are_told_so(centre, eventually):
    bundle = await centre.release()
    raws = [centre.packet(bundle, sequence=n) for n in (5, 3, 4)]
    await centre.send(*raws, *raws, *raws[::-1])
    async with centre.running("aggregator", batch_packets=3):
        await eventually(lambda: drained(centre, streams.PACKETS))
        await eventually(centre.batches)
    assert await centre.counted() == [ref_of(centre, 0, n) for n in (3, 4, 5)]
    assert [letter.code for letter in await centre.letters(streams.PACKETS)] == ["replayed"] * 6


async def drained(centre, stream):
    return await centre.broker.redis.xlen(stream) == 0


async def test_every_wrong_packet_ends_as_a_dead_letter_and_the_good_one_counts(centre, eventually):
    bundle = await centre.release()
    good = centre.packet(bundle)
    stranger = good[:4] + b"\xff" * 8 + good[12:]
    forged = bytearray(centre.packet(bundle, sequence=2))
    forged[-1] ^= 1
    wrong = {
        "malformed": good[:-1],
        "oversized": bytes(5000),
        "unknown_key": stranger,
        "bad_signature": bytes(forged),
        "implausible": centre.packet(bundle, sequence=3, domain="nowhere"),
    }
    await centre.send(*wrong.values(), good)
    async with centre.running("aggregator", batch_packets=1):
        await eventually(lambda: drained(centre, streams.PACKETS))
        await eventually(centre.batches)
    letters = await centre.letters(streams.PACKETS)
    assert {letter.code: letter.body for letter in letters} == wrong
    assert await centre.counted() == [ref_of(centre, 0, 1)]
    assert await centre.returned() == [(ref_of(centre, 0, 3), "implausible")]  # the others may be anybody's


async def test_a_packet_that_was_dropped_counts_no_more_under_its_name(centre, eventually):
    bundle = await centre.release()
    await centre.send(centre.packet(bundle, domain="nowhere"), centre.packet(bundle), centre.packet(bundle, sequence=2))
    async with centre.running("aggregator", batch_packets=1):
        await eventually(lambda: drained(centre, streams.PACKETS))
        await eventually(centre.batches)
    assert await centre.counted() == [ref_of(centre, 0, 2)]
    assert await centre.returned() == [(ref_of(centre, 0, 1), "implausible")]
    assert [letter.code for letter in await centre.letters(streams.PACKETS)] == ["implausible", "replayed"]


async def test_a_packet_that_no_batch_can_take_any_more_goes_back_to_its_edge(centre, eventually):
    first = await centre.release()
    async with centre.running("aggregator", batch_packets=2, batch_age_s=600.0):
        await centre.send(centre.packet(first))
        await eventually(lambda: drained(centre, streams.PACKETS))
        parent = first
        for version in (2, 3, 4):
            parent = await centre.release(version, parent)
        await eventually(lambda: bundle_is_base(centre, 4))
        await centre.send(centre.packet(parent, sequence=2))
        await eventually(centre.batches)
        await eventually(centre.returned)
    assert await centre.counted() == [ref_of(centre, 0, 2)]
    assert await centre.returned() == [(ref_of(centre, 0, 1), "base_window")]


async def test_until_there_is_a_bundle_packets_wait_and_the_service_is_not_ready(centre, eventually):
    async with centre.running("aggregator", batch_packets=1) as url:
        await eventually(lambda: asyncio.to_thread(lambda: "no bundle was released" in str(readiness(url))))
        bundle = await centre.release()
        await centre.send(centre.packet(bundle))
        await eventually(centre.batches)
        await eventually(lambda: asyncio.to_thread(lambda: readiness(url)["ready"]))
    assert await centre.counted() == [ref_of(centre, 0, 1)]


async def test_before_it_has_read_the_bundles_it_does_not_say_that_there_is_none(centre, eventually):
    bundle = await centre.release()
    digest = bundle.parts[MERGES].digest
    await centre.broker.redis.delete(f"qig:blob:{digest}:0")
    async with centre.running("aggregator") as url:
        await eventually(lambda: asyncio.to_thread(lambda: "reads the newest bundles" in str(readiness(url))))
        assert "no bundle was released" not in str(await asyncio.to_thread(readiness, url))
        await centre.broker.put_blob(centre.parts[MERGES])
        await eventually(lambda: asyncio.to_thread(lambda: readiness(url)["ready"]))


async def test_a_packet_on_a_bundle_that_the_aggregator_has_not_seen_yet_is_not_refused(centre, eventually):
    bundle = await centre.release()
    async with centre.running("aggregator", batch_packets=1):
        for version in (2, 3, 4):
            bundle = await centre.release(version, bundle)
            await centre.send(centre.packet(bundle, sequence=version))
        await eventually(lambda: drained(centre, streams.PACKETS))
        await eventually(lambda: counted_to(centre, 3))
    assert await centre.letters(streams.PACKETS) == []


async def counted_to(centre, number):
    return len(await centre.counted()) == number


async def test_after_a_restart_the_base_window_is_the_newest_three(centre, eventually):
    bundles = [await centre.release()]
    for version in (2, 3, 4):
        bundles.append(await centre.release(version, bundles[-1]))
    await centre.send(*[centre.packet(bundle, sequence=bundle.version) for bundle in bundles])
    async with centre.running("aggregator", batch_packets=3):
        await eventually(centre.batches)
    assert await centre.counted() == [ref_of(centre, 0, n) for n in (2, 3, 4)]
    assert [letter.code for letter in await centre.letters(streams.PACKETS)] == ["base_window"]


@pytest.mark.parametrize("entries", [1, 2])
async def test_a_release_that_was_opened_to_everybody_is_one_of_the_base_window_s_three(centre, entries):
    bundle = None
    for version in (1, 2, 3, 4):
        bundle = await centre.release(version, bundle)
        for again in range(1, entries):
            await centre.broker.produce(streams.BUNDLES, pack(bundle), f"{version}-again-{again}")
    trust = Trust(centre.broker.redis, keys.load_root(centre.home))
    window = Window(centre.broker, trust)
    await window.catch_up()
    assert [base.version for base in window.bases] == [2, 3, 4]
    after = await centre.broker.redis.xrange(streams.BUNDLES, min=f"({await window.first_position()}")
    assert [unpack(Bundle, fields[b"__data__"]).version for _, fields in after] == sorted([2, 3, 4] * entries)


async def test_an_edge_that_is_enrolled_while_the_aggregator_runs_is_heard(centre, eventually):
    bundle = await centre.release()
    late = keys.edges_dir(centre.home) / f"{NODES[3]}.pub"
    hidden = late.read_text()
    late.unlink()
    async with centre.running("aggregator", batch_packets=1):
        late.write_text(hidden)
        await centre.send(centre.packet(bundle, node=3))
        await eventually(centre.batches)
    assert await centre.counted() == [ref_of(centre, 3, 1)]


async def test_two_aggregators_share_the_work_and_count_nothing_twice(centre, eventually):
    bundle = await centre.release()
    raws = [centre.packet(bundle, node, sequence) for sequence in range(1, 16) for node in range(4)]
    given = {"batch_packets": 7, "batch_age_s": 0.3}
    async with centre.running("aggregator", **given), centre.running("aggregator", **given):
        await centre.send(*raws, *raws[::5])
        await eventually(lambda: drained(centre, streams.PACKETS))
        await eventually(lambda: counted_to(centre, 60))
    batches = await centre.batches()
    assert grams(batches) == {(node, sequence): 1 for node in range(4) for sequence in range(1, 16)}
    assert [letter.code for letter in await centre.letters(streams.PACKETS)] == ["replayed"] * 12


async def test_new_territory_keeps_its_name_over_batches_until_a_bundle_brings_it(centre, eventually):
    bundle = await centre.release()
    async with centre.running("aggregator", batch_packets=2):
        for sequence in (1, 2):
            await centre.send(*[centre.packet(bundle, node, sequence, domain=None) for node in (0, 1)])
            await eventually(lambda many=sequence: batches_to(centre, many))
    first, second = [batch.domains[0] for batch in await centre.batches()]
    assert (first.opened, second.opened) == (True, True)
    assert first.name == second.name


async def test_what_was_said_of_a_domain_that_ended_meanwhile_is_its_heir_s(centre, eventually, micro):
    opened = micro.domains["percept"].model_copy(update={"name": "d-1"})
    first = await centre.release(change=bundle_parts.domains_part({**micro.domains, "d-1": opened}))
    async with centre.running("aggregator", batch_packets=1):
        await centre.send(centre.packet(first, 0, domain=None))
        await eventually(lambda: batches_to(centre, 1))
        (noted,) = await centre.broker.read_hash(OPENED)
        heir = micro.domains["percept"].model_copy(update={"formerly": ("d-1", noted)})
        await centre.release(2, first, change=bundle_parts.domains_part({**micro.domains, "percept": heir}))
        await eventually(lambda: bundle_is_base(centre, 2))
        await centre.send(centre.packet(first, 1, domain="d-1"))
        await eventually(lambda: batches_to(centre, 2))
    update = (await centre.batches())[1].domains[0]
    assert (update.name, update.kernel, update.opened, update.packets) == ("percept", "percept", False, 1)
    assert await centre.broker.read_hash(OPENED) == {}


async def test_of_a_domain_that_has_ended_no_spread_stays(centre, eventually, micro):
    def shown():
        names = ("d-1", "percept")
        return [metrics.REGISTRY.get_sample_value("qig_spread_rad", {"domain": name}) for name in names]

    opened = micro.domains["percept"].model_copy(update={"name": "d-1"})
    first = await centre.release(change=bundle_parts.domains_part({**micro.domains, "d-1": opened}))
    async with centre.running("aggregator", batch_packets=4):
        for sequence, domain in enumerate(("d-1", "percept"), 1):
            await centre.send(*[centre.packet(first, node, sequence, domain=domain) for node in (0, 1)])
        await eventually(lambda: None not in shown())
        kept = shown()[1]
        heir = micro.domains["percept"].model_copy(update={"formerly": ("d-1",)})
        await centre.release(2, first, change=bundle_parts.domains_part({**micro.domains, "percept": heir}))
        await eventually(lambda: bundle_is_base(centre, 2))
        assert shown() == [None, kept]


async def bundle_is_base(centre, version):
    beats = await centre.read(streams.HEART, Heartbeat)
    return bool(beats) and beats[-1].bundle == version


async def batches_to(centre, number):
    return len(await centre.batches()) == number


async def test_without_the_publishers_public_key_it_says_which_file_is_missing(centre):
    keys.root_path(centre.home).unlink()
    with pytest.raises(Unavailable, match=r"missing_root.*root\.json"):
        await app.build(centre.settings("aggregator"), centre.broker)


# Mentions


async def test_what_three_edges_mention_is_told_to_all_and_a_replay_makes_no_third(centre, eventually):
    bundle = await centre.release()
    raws = [centre.packet(bundle, node, **mentioning(7, 100 + node)) for node in (0, 1)]
    await centre.send(*raws, *raws, centre.packet(bundle, 0, sequence=2, **mentioning(7, 8)))
    async with centre.running("aggregator", batch_packets=3):
        await eventually(lambda: drained(centre, streams.PACKETS))
        await eventually(lambda: has_told(centre, 3))
        assert await centre.told() == ([], sorted(ref_of(centre, *packet) for packet in ((0, 1), (1, 1), (0, 2))))
        await centre.send(*[centre.packet(bundle, node, sequence=3, **mentioning(7)) for node in (2, 1, 3)])
        await eventually(lambda: has_told(centre, 6))
    assert (await centre.told())[0] == [7]
    assert await centre.batches() == []
    assert [letter.code for letter in await centre.letters(streams.PACKETS)] == ["replayed"] * 2


async def has_told(centre, packets):
    return len((await centre.told())[1]) == packets


async def test_an_edge_that_mentions_what_is_common_is_told_again(centre, eventually):
    bundle = await centre.release()
    async with centre.running("aggregator", batch_packets=3):
        await centre.send(*[centre.packet(bundle, node, **mentioning(7)) for node in range(3)])
        await eventually(lambda: has_told(centre, 3))
        await centre.send(*[centre.packet(bundle, 3, sequence=n, **mentioning(7, n)) for n in range(3)])
        await eventually(lambda: has_told(centre, 6))
    assert (await centre.told())[0] == [7, 7]


async def test_a_packet_that_says_and_mentions_is_in_the_batch_and_counted_too(centre, eventually):
    bundle = await centre.release()
    mentions = {"mentions": mentioning(7)["mentions"]}
    await centre.send(*[centre.packet(bundle, node, **mentions) for node in range(3)])
    async with centre.running("aggregator", batch_packets=3):
        await eventually(centre.batches)
        await eventually(lambda: has_told_hashes(centre, [7]))
    assert len(await centre.counted()) == 3
    assert grams(await centre.batches()) == {(node, 1): 1 for node in range(3)}


async def has_told_hashes(centre, hashes):
    return await centre.told() == (hashes, [])


# Merges


async def test_merges_that_three_edges_propose_leave_with_a_batch_and_a_replay_makes_no_third(centre, eventually):
    bundle = await centre.release()
    some = {"merges": encode([(101, 102 + n, 9) for n in range(MERGES_LEAST)])}
    raws = [centre.packet(bundle, node, **some) for node in (0, 1)]
    async with centre.running("aggregator", batch_packets=2):
        await centre.send(*raws, *raws)
        await eventually(centre.batches)
        assert [batch.merges for batch in await centre.batches()] == [()]
    async with centre.running("aggregator", batch_packets=1):
        await centre.send(centre.packet(bundle, 2, **some))
        await eventually(lambda: has_batches(centre, 2))
        await centre.send(centre.packet(bundle, 3, **some))
        await eventually(lambda: has_batches(centre, 3))
    merges = [batch.merges for batch in await centre.batches()]
    assert [len(each) for each in merges] == [0, MERGES_LEAST, 0]
    assert [count for _, count in merges[1][0].edges] == [9, 9, 9]


async def has_batches(centre, number):
    return len(await centre.batches()) == number
