"""Candidates in, signed bundles or kept refusals out, through a real broker."""

import math
import time

import pytest
from centre import decided, refusal

from common.constellation import parts as bundle_parts
from common.errors import Rejected, Unavailable
from common.runtime import keys, metrics, streams
from common.runtime.entries import Delivery
from common.runtime.releases import newest_release
from common.runtime.trust import Trust
from common.wire import bundle as bundles
from common.wire.codec import pack
from common.wire.messages import Applied, Figure, PacketRef
from services.publisher import app
from services.publisher.app import candidates, state

pytestmark = pytest.mark.anyio
WORSE = Figure(name="bits_per_byte", domain="heart", before=2.0, after=2.1, unit="bit/B")


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
    (loser,) = await centre.broker.read_hash(streams.REFUSED)
    assert "train on that one" in (await refusal(centre, {"one": one, "two": two}[loser]))[0]


async def test_a_candidate_that_comes_again_after_its_release_is_neither_released_nor_refused(centre, eventually):
    genesis = await centre.candidate(id="genesis")
    async with centre.running("publisher"):
        for attempt in range(3):
            await centre.offer(genesis, f"attempt-{attempt}")
        await decided(centre, eventually)
    assert [bundle.version for bundle in await centre.bundles()] == [1]
    assert await centre.letters(streams.CANDIDATES) == []
    assert await centre.broker.read_hash(streams.REFUSED) == {}


async def test_after_a_restart_versions_go_on_even_when_the_notes_are_lost(centre, eventually):
    async with centre.running("publisher"):
        await centre.offer(await centre.candidate())
        await decided(centre, eventually)
    await centre.broker.redis.delete(state.CURRENT, streams.RELEASED)
    (first,) = await centre.bundles()
    async with centre.running("publisher"):
        await centre.offer(await centre.candidate(first))
        await decided(centre, eventually)
    assert [bundle.version for bundle in await centre.bundles()] == [1, 2]


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


async def test_a_candidate_that_no_try_came_to_an_end_with_is_a_refusal_too(centre):
    candidate = await centre.candidate(packets=(PacketRef(key=b"k" * 8, epoch=1, sequence=1),))
    publisher = app.Publisher(centre.settings("publisher"), centre.broker)
    last = Delivery(streams.CANDIDATES, "1-0", 1, candidates.MAX_DELIVERIES, b"")
    with pytest.raises(Rejected, match="never_finished"):
        await publisher.candidates.take(last, candidate)
    assert await refusal(centre, candidate) == ["4 tries came to no end"]
    ((_, sent),) = await centre.broker.redis.xrange(streams.outbox(streams.CANDIDATES))
    assert sent[b"stream"].decode() == streams.RETURNED


async def test_the_try_before_the_last_still_releases(centre):
    candidate = await centre.candidate()
    publisher = app.Publisher(centre.settings("publisher"), centre.broker)
    late = Delivery(streams.CANDIDATES, "1-0", 1, candidates.MAX_DELIVERIES - 1, b"")
    assert await publisher.candidates.take(late, candidate)
    assert await centre.broker.read_hash(streams.REFUSED) == {}


async def brought(centre):
    """A candidate that packets have changed."""
    ref, change = PacketRef(key=b"k" * 8, epoch=1, sequence=1), {"homes.npy": centre.parts["homes.npy"] + b"\0"}
    return await centre.candidate(await centre.release(), change=change, packets=(ref,))


async def test_what_another_publisher_releases_meanwhile_is_not_refused_and_its_packets_stay(centre, monkeypatch):
    child = await brought(centre)
    slow, quick = (app.Publisher(centre.settings("publisher"), centre.broker) for _ in range(2))
    first, past = Delivery(streams.CANDIDATES, "1-0", 1, 1, b""), slow.releases.past

    async def overtaken():
        assert await centre.broker.commit(streams.CANDIDATES, await quick.candidates.take(first, child))
        return await past()

    monkeypatch.setattr(slow.releases, "past", overtaken)
    with pytest.raises(Unavailable, match="overtaken"):
        await slow.candidates.take(first, child)
    assert await slow.candidates.take(first, child) == []
    assert await centre.broker.read_hash(streams.REFUSED) == {}
    assert await centre.returned() == []


async def test_what_another_publisher_refuses_meanwhile_is_not_released(centre):
    child = await brought(centre)
    slow, quick = (app.Publisher(centre.settings("publisher"), centre.broker) for _ in range(2))
    effects = await slow.candidates.take(Delivery(streams.CANDIDATES, "1-0", 1, 1, b""), child)
    with pytest.raises(Rejected, match="never_finished"):
        await quick.candidates.take(Delivery(streams.CANDIDATES, "1-0", 1, candidates.MAX_DELIVERIES, b""), child)
    assert not await centre.broker.commit(streams.CANDIDATES, effects)
    assert list(await centre.broker.read_hash(streams.REFUSED)) == [child.id]


async def test_a_release_is_counted_once_it_is_made_and_not_by_a_try(centre):
    released = lambda: gauge("qig_candidates_total", verdict="released")  # noqa: E731
    before, candidate = released(), await centre.candidate()
    publisher = app.Publisher(centre.settings("publisher"), centre.broker)
    tries = [await publisher.candidates.take(Delivery(streams.CANDIDATES, "1-0", 1, n, b""), candidate) for n in (1, 2)]
    assert released() == before
    assert [await centre.broker.commit(streams.CANDIDATES, effects) for effects in tries] == [True, False]
    assert released() == before + 1


async def test_a_refusal_is_counted_once_however_often_it_is_met(centre):
    refused = lambda: gauge("qig_candidates_total", verdict="refused")  # noqa: E731
    before, worse = refused(), await centre.candidate(await centre.release(), figures=(WORSE,))
    publisher = app.Publisher(centre.settings("publisher"), centre.broker)
    for deliveries in (1, 2):  # a kill between the refusal and its dead letter
        with pytest.raises(Rejected, match="candidate_refused"):
            await publisher.candidates.take(Delivery(streams.CANDIDATES, "1-0", 1, deliveries, b""), worse)
    assert refused() == before + 1


async def test_a_candidate_is_never_given_up_without_a_word(centre):
    (consumer,) = (await app.build(centre.settings("publisher"), centre.broker)).consumers
    assert consumer.give_up_after_s == math.inf


def gauge(name, **labels):
    return metrics.REGISTRY.get_sample_value(name, labels) or 0.0


async def test_the_version_and_its_figures_are_shown(centre, eventually):
    async with centre.running("publisher"):
        await centre.offer(await centre.candidate())
        await eventually(lambda: gauge("qig_bundle_version") == 1)
        await eventually(lambda: gauge("qig_held_out_bits_per_byte", domain="heart") == 2.0)


async def test_a_verdict_that_was_said_while_no_publisher_ran_is_known_and_none_is_known_twice(centre, broker):
    reports = [Applied(node=f"edge-{n}", version=1, verdict="applied", at_s=time.time()) for n in range(2)]
    await broker.produce(streams.APPLIED, pack(reports[0]), "report-0")
    verdicts = app.Publisher(centre.settings("publisher"), centre.broker).verdicts
    await verdicts.catch_up()
    for report, edges in zip((*reports, reports[1]), (1, 2, 2), strict=True):
        await verdicts.hear(Delivery(streams.APPLIED, "1-0", 1, 1, pack(report)))
        assert verdicts.fleet.counts(1)["applied"] == edges


async def test_without_the_private_key_it_says_which_file_is_missing(centre):
    keys.private_path(centre.home, keys.PUBLISHER).unlink()
    with pytest.raises(Unavailable, match=r"missing_key.*publisher\.key"):
        await app.build(centre.settings("publisher"), centre.broker)
