"""Candidates in, signed bundles or kept refusals out, through a real broker."""

import json
import time

import pytest
from centre import NODES, Centre

from common.constellation import parts as bundle_parts
from common.errors import Rejected, Unavailable
from common.runtime import keys, metrics, streams
from common.runtime.entries import Delivery
from common.runtime.releases import newest_release
from common.runtime.trust import Trust
from common.wire import bundle as bundles
from common.wire.codec import pack, unpack
from common.wire.messages import Applied, Bundle, Figure, PacketRef
from services.publisher import app, metadata
from services.publisher.app import candidates, state

pytestmark = pytest.mark.anyio
WORSE = Figure(name="bits_per_byte", domain="heart", before=2.0, after=2.1, unit="bit/B")


@pytest.fixture
def centre(tmp_path, broker_url, broker, micro_parts):
    keys.init(tmp_path, NODES)
    return Centre(tmp_path, broker_url, broker, micro_parts)


async def drained(centre):
    return await centre.broker.redis.xlen(streams.CANDIDATES) == 0


async def decided(centre, eventually):
    await eventually(lambda: drained(centre))
    await eventually(lambda: carried(centre))


async def carried(centre):
    return await centre.broker.redis.xlen(streams.outbox(streams.CANDIDATES)) == 0


async def refusal(centre, candidate):
    return json.loads((await centre.broker.read_hash(state.REFUSED))[candidate.id])["reasons"]


async def test_a_genesis_and_its_child_become_versions_one_and_two(centre, eventually):
    async with centre.running("publisher"):
        await centre.offer(await centre.candidate(id="genesis", figures=()))
        await decided(centre, eventually)
        (first,) = await centre.bundles()
        await centre.offer(await centre.candidate(first, id="child"))
        await decided(centre, eventually)
    first, second = await centre.bundles()
    assert (first.version, second.version, second.parent, second.id) == (1, 2, 1, "child")
    assert second.parent_digest == bundles.digest(first)
    trust = Trust(centre.broker.redis, keys.load_root(centre.home))
    assert await newest_release(centre.broker.redis, trust) == second


async def test_a_refused_candidate_is_kept_with_its_reasons_and_dead_lettered(centre, eventually):
    parent = await centre.release()
    worse = await centre.candidate(parent, figures=(WORSE,))
    async with centre.running("publisher"):
        await centre.offer(worse)
        await decided(centre, eventually)
    assert "5.00% worse" in (await refusal(centre, worse))[0]
    (letter,) = await centre.letters(streams.CANDIDATES)
    assert (letter.code, letter.body) == ("candidate_refused", pack(worse))
    assert len(await centre.bundles()) == 1


async def test_the_packets_of_a_refused_candidate_go_back_and_it_is_released_no_more(centre, eventually):
    parent = await centre.release()
    ref = PacketRef(key=b"k" * 8, epoch=1, sequence=1)
    worse = await centre.candidate(parent, figures=(WORSE,), packets=(ref,))
    async with centre.running("publisher"):
        await centre.offer(worse)
        await decided(centre, eventually)
        await eventually(centre.returned)
    async with centre.running("publisher", regress_limit=1.0):
        await centre.offer(worse, message_id="replayed by hand")
        await eventually(lambda: letters_to(centre, 2))
    assert await centre.returned() == [(ref.packed, "candidate_refused")]
    assert len(await centre.bundles()) == 1


async def letters_to(centre, number):
    return len(await centre.letters(streams.CANDIDATES)) == number


async def test_of_two_candidates_on_one_parent_the_second_is_out_of_date(centre, eventually):
    parent = await centre.release()
    one, two = await centre.candidate(parent, id="one"), await centre.candidate(parent, id="two")
    async with centre.running("publisher"), centre.running("publisher"):
        await centre.offer(one)
        await centre.offer(two)
        await decided(centre, eventually)
    assert [bundle.version for bundle in await centre.bundles()] == [1, 2]
    (loser,) = await centre.broker.read_hash(state.REFUSED)
    assert "train on that one" in (await refusal(centre, {"one": one, "two": two}[loser]))[0]


async def test_a_candidate_that_comes_again_after_its_release_is_neither_released_nor_refused(centre, eventually):
    genesis = await centre.candidate(id="genesis")
    async with centre.running("publisher"):
        for attempt in range(3):
            await centre.offer(genesis, f"attempt-{attempt}")
        await decided(centre, eventually)
    assert [bundle.version for bundle in await centre.bundles()] == [1]
    assert await centre.letters(streams.CANDIDATES) == []
    assert await centre.broker.read_hash(state.REFUSED) == {}


async def test_after_a_restart_versions_go_on_even_when_the_notes_are_lost(centre, eventually):
    async with centre.running("publisher"):
        await centre.offer(await centre.candidate())
        await decided(centre, eventually)
    await centre.broker.redis.delete(state.CURRENT, state.RELEASED)
    (first,) = await centre.bundles()
    async with centre.running("publisher"):
        await centre.offer(await centre.candidate(first))
        await decided(centre, eventually)
    assert [bundle.version for bundle in await centre.bundles()] == [1, 2]


async def test_a_running_publisher_keeps_its_list_fresh_and_hands_out_new_keys(centre, eventually, monkeypatch):
    monkeypatch.setattr(app, "TRUST_EVERY_S", 0.02)
    redis = centre.broker.redis
    async with centre.running("publisher"):
        await centre.offer(await centre.candidate())
        await decided(centre, eventually)
        (bundle,) = await centre.bundles()
        reader = Trust(redis, keys.load_root(centre.home))
        await reader.verify(1, pack(bundle))
        keys.replace(centre.home, ["publisher", "root-1"], offline=keys.offline_dir(centre.home))
        await eventually(lambda: redis.hexists(streams.METADATA, "2.root.json"))
        assert await newest_release(redis, Trust(redis, keys.load_root(centre.home))) == bundle
        await centre.offer(await centre.candidate(bundle))
        await decided(centre, eventually)
        _, second = await centre.bundles()
        assert second.key == keys.key_id(keys.load_private(centre.home, keys.PUBLISHER).verify_key)
        await redis.delete(streams.METADATA)
        await eventually(lambda: redis.hexists(streams.METADATA, "timestamp.json"))
        assert await newest_release(redis, reader) == second


async def test_releases_of_before_there_was_a_list_are_listed_at_the_start(centre, eventually, monkeypatch):
    first = await centre.release()
    await centre.broker.redis.delete(streams.METADATA)
    async with centre.running("publisher"):
        await eventually(lambda: centre.broker.redis.hexists(streams.METADATA, "timestamp.json"))
    trust = Trust(centre.broker.redis, keys.load_root(centre.home))
    assert await newest_release(centre.broker.redis, trust) == first


async def test_after_a_theft_the_fleet_goes_on_from_the_last_good_release(centre, eventually):
    good = await centre.release()
    evil = await centre.release(2, good)
    offline = keys.offline_dir(centre.home)
    keys.replace(centre.home, ["publisher"], offline=offline, stolen=True, believed=bundles.digest(good))
    async with centre.running("publisher"):
        await eventually(lambda: centre.broker.redis.hexists(streams.METADATA, "2.root.json"))
        operator = app.Publisher(centre.settings("publisher"), centre.broker)
        trust = Trust(centre.broker.redis, keys.load_root(centre.home))
        assert await newest_release(centre.broker.redis, trust) == good
        # at once, for the edges that serve the thief's
        assert await operator.releases.take_back(1, "why") == (evil.version + 1, 1)
        await decided(centre, eventually)
        back = await newest_release(centre.broker.redis, trust)
        assert (back.parts, back.parent_digest) == (good.parts, bundles.digest(good))
        await centre.offer(await centre.candidate(back, id="after"))
        await decided(centre, eventually)
        newest = await newest_release(centre.broker.redis, trust)
    assert (newest.id, newest.version) == ("after", 4)


async def test_a_release_that_is_taken_back_is_followed_by_the_parts_before_it(centre, eventually):
    async with centre.running("publisher"):
        await centre.offer(await centre.candidate())
        await decided(centre, eventually)
        (good,) = await centre.bundles()
        carried = (PacketRef(key=b"edge-key", epoch=1, sequence=7),)
        await centre.offer(await centre.candidate(good, change={"notes.bin": b"bad"}, packets=carried))
        await decided(centre, eventually)
        operator = app.Publisher(centre.settings("publisher"), centre.broker)
        assert await operator.releases.take_back(None, "why") == (3, 1)
        assert await centre.returned() == [(carried[0].packed, "taken_back")]
        await decided(centre, eventually)
        _, bad, back = await centre.bundles()
        assert (back.parts, back.parent, back.parent_digest) == (good.parts, 2, bundles.digest(bad))
        trust = Trust(centre.broker.redis, keys.load_root(centre.home))
        assert await newest_release(centre.broker.redis, trust) == back
        for nowhere in (3, 7):
            with pytest.raises(Rejected, match=r"not_older|not_listed"):
                await operator.releases.take_back(nowhere, "why")
        await centre.offer(await centre.candidate(back))
        await decided(centre, eventually)
    assert [each.version for each in await centre.bundles()] == [1, 2, 3, 4]


async def test_before_two_releases_there_is_nothing_to_go_back_to(centre):
    operator = app.Publisher(centre.settings("publisher"), centre.broker)
    with pytest.raises(Rejected, match=r"not_listed.*none"):
        await operator.releases.take_back(None, "why")
    await centre.release()
    with pytest.raises(Rejected, match=r"not_listed.*none"):
        await operator.releases.take_back(None, "why")


async def test_a_candidate_cannot_take_a_release_back(centre, eventually):
    parent = await centre.release()
    sly = await centre.candidate(parent, id=f"{bundles.TAKES_BACK}1-to-0")
    async with centre.running("publisher"):
        await centre.offer(sly)
        await decided(centre, eventually)
    assert "only a publisher takes a release back" in (await refusal(centre, sly))[0]


async def test_a_key_that_no_root_names_signs_nothing_and_says_so(centre, eventually):
    keys.private_path(centre.home, keys.PUBLISHER).write_text("07" * 32)
    publisher = app.Publisher(centre.settings("publisher"), centre.broker)
    with pytest.raises(Unavailable, match=r"key_not_trusted.*qig keys rotate"):
        await publisher.releases.renew()
    assert await centre.broker.read_hash(streams.METADATA) == {}


async def test_of_two_publishers_that_sign_at_once_one_signs_again(centre, eventually):
    one, two = (app.Publisher(centre.settings("publisher"), centre.broker) for _ in range(2))
    genesis = await centre.candidate(id="genesis")
    late = await one.candidates.take(Delivery(streams.CANDIDATES, "1-0", 0, 1, pack(genesis)), genesis)
    await two.releases.renew()
    assert not await centre.broker.commit(streams.CANDIDATES, late)
    again = await one.candidates.take(Delivery(streams.CANDIDATES, "1-0", 0, 2, pack(genesis)), genesis)
    assert await centre.broker.commit(streams.CANDIDATES, again)


@pytest.mark.parametrize(("age_days", "warned"), [(730 - 91, False), (730 - 90 + 1, True)])
async def test_the_end_of_what_the_offline_keys_signed_is_told_in_time(centre, monkeypatch, caplog, age_days, warned):
    publisher = app.Publisher(centre.settings("publisher"), centre.broker)
    later = time.time() + age_days * metadata.DAY_S
    monkeypatch.setattr(time, "time", lambda: later)
    await publisher.releases.renew()
    assert ("qig keys rotate targets" in caplog.text) == warned


# Rings

FLEET = [f"edge-{number}" for number in range(40)]


async def say(centre, version, nodes, verdict="good", **probe):
    for node in nodes:
        told = Applied(node=node, version=version, verdict=verdict, at_s=time.time(), reason="why", **probe)
        await centre.broker.produce(streams.APPLIED, pack(told), f"{node}:{version}:{verdict}")


async def first_and_rest(centre, bundle):
    """Who of the fleet may take a bundle now."""
    trust = Trust(centre.broker.redis, keys.load_root(centre.home))
    open_to = [node for node in FLEET if await trust.is_open(bundle.version, pack(bundle), node)]
    return open_to, [node for node in FLEET if node not in open_to]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(app, "RINGS_EVERY_S", 0.02)


async def test_a_release_goes_to_a_tenth_first_and_to_everybody_once_they_found_it_good(centre, eventually, quick):
    async with centre.running("publisher"):
        one = await released_to(centre, eventually)
    async with centre.running("publisher"):  # hears at its start what the edges said
        two = await released_to(centre, eventually, one)
        first, _ = await first_and_rest(centre, two)
        assert len(first) == 4
        next_one = await centre.candidate(two)
        waiting = app.Publisher(centre.settings("publisher"), centre.broker)
        with pytest.raises(Unavailable, match="ring_pending"):
            await waiting.candidates.take(Delivery(streams.CANDIDATES, "1-0", 0, 1, pack(next_one)), next_one)
        await say(centre, 2, first)
        await eventually(lambda: entries(centre, 3))
    assert await first_and_rest(centre, two) == (FLEET, [])
    assert [each.version for each in await centre.bundles()] == [1, 2, 2]


async def released_to(centre, eventually, parent=None):
    """The next release, and the whole fleet's word on it when it is the first."""
    await centre.offer(await centre.candidate(parent, change={"notes.bin": b"%d" % time.monotonic_ns()}))
    await decided(centre, eventually)
    newest = (await centre.bundles())[-1]
    if parent is None:
        await say(centre, newest.version, FLEET)
    return newest


async def entries(centre, count):
    return await centre.broker.redis.xlen(streams.BUNDLES) == count


@pytest.mark.parametrize(("verdict", "probe"), [("refused", {}), ("good", {"probe_before": 2.0, "probe_after": 2.015})])
async def test_a_release_that_the_first_refuse_or_read_worse_is_taken_back(centre, eventually, quick, verdict, probe):
    async with centre.running("publisher"):
        one = await released_to(centre, eventually)
    async with centre.running("publisher"):
        two = await released_to(centre, eventually, one)
        first, rest = await first_and_rest(centre, two)
        await say(centre, 2, first, verdict, **probe)
        await eventually(lambda: entries(centre, 3))
        await eventually(lambda: noted(centre, two))
        back = (await centre.bundles())[-1]
        assert (back.version, back.parts) == (3, one.parts)
        assert (await first_and_rest(centre, back))[1] == []
        assert (await first_and_rest(centre, two))[1] == rest
        assert "that got it first" in (await refusal(centre, two))[0]
        await centre.offer(await centre.candidate(back))
        await decided(centre, eventually)
        assert (await centre.bundles())[-1].version == 4


async def noted(centre, bundle):
    return bundle.id in await centre.broker.read_hash(state.REFUSED)


async def test_a_ring_stays_while_lists_are_renewed_and_publishers_restart(centre, eventually):
    async with centre.running("publisher"):
        one = await released_to(centre, eventually)
    async with centre.running("publisher"):
        two = await released_to(centre, eventually, one)
        first, _ = await first_and_rest(centre, two)
    await centre.broker.redis.hset(streams.METADATA, "1.root.json", b"changed by hand")
    again = app.Publisher(centre.settings("publisher"), centre.broker)
    await again.verdicts.catch_up()
    await again.releases.renew()
    assert (await centre.broker.read_hash(streams.METADATA))["1.root.json"] != b"changed by hand"
    assert (await first_and_rest(centre, two))[0] == first
    keys.replace(centre.home, ["publisher"], offline=keys.offline_dir(centre.home))
    again = app.Publisher(centre.settings("publisher"), centre.broker)
    await again.verdicts.catch_up()
    await again.releases.renew()
    assert (await first_and_rest(centre, two))[0] == first


async def test_old_lists_are_cleared_away(centre):
    publisher = app.Publisher(centre.settings("publisher"), centre.broker)
    for _ in range(10):
        await centre.broker.redis.hset(streams.METADATA, "targets.json", b"changed by hand")
        held = await centre.broker.read_hash(streams.METADATA)
        files = metadata.signed(publisher.releases._offline, {}, held, publisher.releases._key, now_s=time.time())
        assert await centre.broker.commit(streams.CANDIDATES, state.listed(held, files))
    left = await centre.broker.read_hash(streams.METADATA)
    assert sum(name.endswith("bundles.json") for name in left) == metadata.KEPT
    assert sum(name.endswith("snapshot.json") for name in left) == metadata.KEPT


async def test_what_others_write_into_the_bundles_stream_does_not_count_as_a_release(centre, eventually):
    parent = await centre.release()
    forged = parent.model_copy(update={"version": 99})
    await centre.broker.redis.xadd(streams.BUNDLES, {"__data__": pack(forged)})
    await centre.broker.redis.xadd(streams.BUNDLES, {"__data__": b"garbage"})
    async with centre.running("publisher"):
        await centre.offer(await centre.candidate(parent))
        await decided(centre, eventually)
    newest = await centre.broker.latest(streams.BUNDLES)
    assert unpack(Bundle, newest.fields[b"__data__"]).version == 2


async def test_a_candidate_waits_for_a_part_that_is_late(centre, eventually):
    candidate = await centre.candidate()
    late = centre.parts["homes.npy"]
    chunk = f"qig:blob:{candidate.parts['homes.npy'].digest}:0"
    await centre.broker.redis.delete(chunk)
    async with centre.running("publisher"):
        await centre.offer(candidate)
        await eventually(lambda: tried(centre))
        assert await centre.bundles() == []
        await centre.broker.put_blob(late)
        await decided(centre, eventually)
    assert len(await centre.bundles()) == 1


async def tried(centre):
    return any(group["pending"] for group in await centre.broker.redis.xinfo_groups(streams.CANDIDATES))


async def test_a_part_that_never_comes_is_a_refusal_after_a_while(centre, eventually, monkeypatch):
    monkeypatch.setattr(candidates, "PARTS_WAIT_S", 0.1)
    candidate = await centre.candidate()
    await centre.broker.redis.delete(f"qig:blob:{candidate.parts['homes.npy'].digest}:0")
    async with centre.running("publisher"):
        await centre.offer(candidate)
        await decided(centre, eventually)
    assert "blob_missing" in (await refusal(centre, candidate))[0]


async def test_a_part_that_is_not_what_its_digest_says_is_never_signed(centre, eventually):
    candidate = await centre.candidate()
    part = candidate.parts["kernels/heart.safetensors"]
    await centre.broker.redis.setrange(f"qig:blob:{part.digest}:0", 100, b"\0\1\2\3")
    async with centre.running("publisher"):
        await centre.offer(candidate)
        await decided(centre, eventually)
    assert [letter.code for letter in await centre.letters(streams.CANDIDATES)] == ["part_digest"]
    assert "part_digest" in (await refusal(centre, candidate))[0]
    assert await centre.bundles() == []


async def test_a_memory_that_domains_name_and_parts_lack_is_a_refusal(centre, eventually):
    lacking = await centre.candidate(change={bundle_parts.memory_path("heart"): None})
    async with centre.running("publisher"):
        await centre.offer(lacking)
        await decided(centre, eventually)
    assert await refusal(centre, lacking) == ["part memories/heart.bin is missing, and domains.json names it"]


async def test_a_domain_that_is_gone_without_an_heir_is_a_refusal(centre, eventually, micro):
    opened = micro.domains["heart"].model_copy(update={"name": "d-1"})
    parts = bundle_parts.domains_part({**micro.domains, "d-1": opened})
    first = await centre.release(parent=None, change=parts)
    gone = await centre.candidate(first)
    async with centre.running("publisher"):
        await centre.offer(gone)
        await decided(centre, eventually)
    (reason,) = await refusal(centre, gone)
    assert reason.startswith("domain d-1 is gone and has no heir")


async def test_a_bug_met_again_and_again_is_a_refusal_too_so_that_the_trainer_goes_on(centre, eventually, monkeypatch):
    def broken(*_args, **_given):
        raise ZeroDivisionError("judge is broken")

    monkeypatch.setattr(candidates, "judge", broken)
    for each in (app, candidates):
        monkeypatch.setattr(each, "MAX_DELIVERIES", 2)
    candidate = await centre.candidate()
    async with centre.running("publisher"):
        await centre.offer(candidate)
        await decided(centre, eventually)
    assert "judge is broken" in (await refusal(centre, candidate))[0]
    assert [letter.code for letter in await centre.letters(streams.CANDIDATES)] == ["handler_failed"]


def gauge(name, **labels):
    return metrics.REGISTRY.get_sample_value(name, labels) or 0.0


async def test_verdicts_and_versions_are_counted(centre, broker, eventually):
    before = gauge("qig_bundle_applied_total", verdict="applied")
    report = Applied(node="edge-0", version=1, verdict="applied", at_s=time.time())
    async with centre.running("publisher"):
        await centre.offer(await centre.candidate())
        for number in range(2):
            await broker.produce(streams.APPLIED, pack(report), f"report-{number}")
        await eventually(lambda: gauge("qig_bundle_applied_total", verdict="applied") == before + 1)
        await eventually(lambda: gauge("qig_bundle_version") == 1)
    assert gauge("qig_held_out_bits_per_byte", domain="heart") == 2.0


async def test_without_the_private_key_it_says_which_file_is_missing(centre):
    keys.private_path(centre.home, keys.PUBLISHER).unlink()
    with pytest.raises(Unavailable, match=r"missing_key.*publisher\.key"):
        await app.build(centre.settings("publisher"), centre.broker)
