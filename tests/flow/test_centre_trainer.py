"""Batches: one after the other however many trainers there are, each once; what is wrong goes back to its edges."""

import asyncio
import dataclasses
import threading
import time
from contextlib import asynccontextmanager

import httpx2
import pytest
from centre import ref_of
from corpora import small_corpora
from micro import MICRO, SENTENCES

from common.coordizer.growth import propose
from common.errors import Rejected, Unavailable
from common.runtime import keys, metrics, streams
from common.runtime.effects import Send
from common.runtime.entries import Delivery
from common.runtime.service import serve
from common.runtime.settings import RunPodSettings, TrainerSettings
from common.runtime.trust import Trust
from common.wire.codec import pack, unpack
from common.wire.crystals import crystals, encode, entry
from common.wire.messages import (
    Batch,
    Candidate,
    Correction,
    DomainUpdate,
    Evidence,
    Merge,
    PacketRef,
    batch_id,
    correction_id,
)
from services.trainer import app as room
from services.trainer import folder, gpu, growth, text
from services.trainer.app import MAX_DELIVERIES, Trainer
from services.trainer.app.runpod import Endpoint
from services.trainer.gpu import Gpu

pytestmark = pytest.mark.anyio


@pytest.fixture
def trainer(centre, few):
    settings = TrainerSettings(
        broker_url=centre.url, home=centre.home, http_port=0, steps=0, data=few, genesis=centre.home / "genesis"
    )
    return Trainer(settings, centre.broker, Trust(centre.broker.redis, keys.load_root(centre.home)))


def batch(centre, crystals):
    ref = PacketRef(key=ref_of(centre, 0, 1)[:8], epoch=1, sequence=1)
    update = DomainUpdate(
        name="percept", kernel="percept", opened=False, basin=bytes(128), crystals=crystals, packets=1, tokens=9,
        fresh_bytes=30, fresh_bits=60.0,
    )  # fmt: skip
    return Batch(id=batch_id([ref]), base_version=1, base_digest="", domains=(update,), packets=(ref,))


def delivery():
    return Delivery(streams.BATCHES, "1-0", 1, 1, b"")


async def test_the_packets_of_a_batch_that_is_wrong_in_itself_go_back_once(centre, trainer):
    await centre.release()
    wrong = batch(centre, b"no crystals")
    for _ in range(2):  # as after a kill between this word and the dead letter
        with pytest.raises(Rejected):
            await trainer.take(delivery(), wrong)
    ((ref, _),) = await centre.returned()
    assert ref == ref_of(centre, 0, 1)


async def test_a_batch_that_no_try_came_to_an_end_with_goes_back_and_is_none_when_it_is_replayed(centre, trainer):
    await centre.release()
    sound = batch(centre, b"no crystals")
    last = Delivery(streams.BATCHES, "1-0", 1, MAX_DELIVERIES, b"")
    name = sound.id[:12]
    with pytest.raises(Rejected, match=rf"never_finished: batch {name}: 4 tries .*`qig batch save {name}`.* go back"):
        await trainer.take(last, sound)
    assert [code for _, code in await centre.returned()] == ["never_finished"]
    with pytest.raises(Rejected, match="batch_returned"):
        await trainer.take(delivery(), sound)
    assert len(await centre.returned()) == 1


async def test_corrections_that_no_try_came_to_an_end_with_are_to_be_replayed(centre, trainer):
    await centre.release()
    last = Delivery(streams.BATCHES, "1-0", 1, MAX_DELIVERIES, b"")
    with pytest.raises(Rejected, match=r"never_finished: batch .* then replay it$"):
        await trainer.take(last, correction_of(numbered(centre, 1)))
    assert await centre.returned() == []


async def test_a_batch_is_not_begun_while_there_is_no_room_for_its_candidate(centre, trainer, monkeypatch):
    await centre.release()
    monkeypatch.setitem(streams._KEPT, streams.CANDIDATES, streams.Retention(entries=1, kind="work"))
    await centre.broker.produce(streams.CANDIDATES, b"an older one", "older")
    monkeypatch.setattr(room, "consolidate", None)
    with pytest.raises(Unavailable, match="stream_full"):
        await trainer.take(delivery(), batch(centre, SOUND))
    assert await centre.returned() == []


async def test_a_batch_of_which_nothing_counts_becomes_a_candidate_of_its_parent_s_parts(centre, trainer):
    bundle = await centre.release()
    mute = batch(centre, b"").model_copy(update={"domains": ()})
    effects = await trainer.take(delivery(), unpack(Batch, pack(mute)))
    (candidate,) = [unpack(Candidate, each.message) for each in effects if isinstance(each, Send)]
    assert (candidate.id, candidate.packets) == (mute.id, mute.packets)
    assert (candidate.parts, candidate.parent) == (bundle.parts, 1)


async def test_the_genesis_is_examined_and_stored_once_while_the_broker_has_it(
    centre, trainer, micro_parts, monkeypatch
):
    folder.write(micro_parts, trainer._settings.genesis)
    examined = []
    monkeypatch.setattr(trainer, "_examine", lambda parts: examined.append(parts) or Evidence(figures=()))
    for _ in range(3):
        await trainer.make_genesis()
    assert len(examined) == 1
    assert await centre.broker.redis.xlen(streams.CANDIDATES) == 1
    await centre.broker.redis.flushall()  # a broker that comes back empty is given all of it again
    for _ in range(3):
        await trainer.make_genesis()
    assert len(examined) == 2
    row = await centre.broker.latest(streams.CANDIDATES)
    for part in unpack(Candidate, row.fields[b"__data__"]).parts.values():
        assert await centre.broker.get_blob(part.digest, part.size_bytes) in micro_parts.values()


async def test_while_a_batch_is_worked_on_it_is_shown_since_when_and_what_of_it_is_kept(centre, trainer, monkeypatch):
    await centre.release()
    seen, began_s = [], time.time()

    def consolidate(_parts, _batch, *, folder, **_):
        folder.mkdir(parents=True)
        (folder / "heart.safetensors").write_bytes(b"")
        seen.append(metrics.BATCH_BEGAN._value.get())
        raise Rejected("bad_batch", "why")

    monkeypatch.setattr(room, "consolidate", consolidate)
    await trainer.measure()
    assert metrics.CHECKPOINT._value.get() == 0.0
    with pytest.raises(Rejected, match="bad_batch"):
        await trainer.take(delivery(), batch(centre, SOUND))
    await trainer.measure()
    assert began_s <= seen[0] <= metrics.CHECKPOINT._value.get() + 1.0
    assert metrics.BATCH_BEGAN._value.get() == 0.0


async def test_a_batch_at_runpod_is_shown_since_it_was_submitted_until_it_ends(centre, trainer):
    await centre.release()
    answers = iter([{"id": "j-1"}, {"status": "IN_PROGRESS"}, {"status": "FAILED"}])
    settings = RunPodSettings(runpod_endpoint="https://api.runpod.ai/v2/e1")
    trainer._endpoint = Endpoint(settings.runpod_endpoint, settings, centre.broker)
    trainer._endpoint._http._transport = httpx2.MockTransport(lambda _: httpx2.Response(200, json=next(answers)))
    seen = []
    for ends in (Unavailable, Unavailable, RuntimeError):
        with pytest.raises(ends):
            await trainer.take(delivery(), batch(centre, SOUND))
        await trainer.measure()
        seen.append(metrics.BATCH_BEGAN._value.get())
    await trainer._endpoint.close()
    assert seen == [seen[0], seen[0], 0.0]
    assert seen[0] > 0


async def test_the_gpus_that_are_there_are_shown_and_those_that_are_gone_are_not(trainer, monkeypatch):
    for found, shown in (([Gpu("0", 0.5, 7, 9), Gpu("1", None, 1, 9)], {"0": 7.0, "1": 1.0}), ([], {})):
        monkeypatch.setattr(gpu, "read", lambda found=found: found)
        await trainer.measure()
        (rows,) = [family.samples for family in metrics.GPU_MEMORY.collect()]
        assert {row.labels["gpu"]: row.value for row in rows if row.labels["kind"] == "used"} == shown
        assert [row.value for family in metrics.GPU_BUSY.collect() for row in family.samples] == [0.5][: len(shown)]


async def test_a_batch_that_waits_gives_nothing_back(centre, trainer):
    with pytest.raises(Unavailable, match="no bundle"):
        await trainer.take(delivery(), batch(centre, b"no crystals"))
    assert await centre.returned() == []


# One batch at a time

CLAIM_S = 1.5
SOUND = encode(crystals([entry((), 40, count=9, total=9), entry((40,), 41, count=9, total=9)]), MICRO.vocab)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return small_corpora(tmp_path_factory.mktemp("text") / "corpora")


@asynccontextmanager
async def running(centre, few, node, steps=0):
    """A trainer as its process runs it, but impatient: what a dead one held is claimed after 1.5 s."""
    settings = TrainerSettings(
        broker_url=centre.url, home=centre.home, http_port=0, node=node, data=few, steps=steps,
        genesis=centre.home / node / "genesis",
    )  # fmt: skip

    async def build(broker):
        wiring = await room.build(settings, broker)
        consumers = [dataclasses.replace(each, claim_after_s=CLAIM_S) for each in wiring.consumers]
        return dataclasses.replace(wiring, consumers=consumers, ticks=[])

    stop = asyncio.Event()
    life = asyncio.create_task(serve(settings, service="trainer", build=build, check_every_s=0.02, stop=stop))
    try:
        yield
    finally:
        stop.set()
        await life


@dataclasses.dataclass
class Watched:
    """What trainers consolidate: every try, and how many were at work at once. The first takes two claim times."""

    tries: list = dataclasses.field(default_factory=list)
    here: int = 0
    most: int = 0


@pytest.fixture
def watched(monkeypatch, centre, few):
    seen, real = Watched(), room.consolidate
    owned = text.load(few)  # once before: what is compiled is read from disk then, and lets no lease be renewed
    real(centre.parts, numbered(centre, 9), replay=owned.replay, held_out=owned.held_out, steps=1, seed=0)

    def consolidate(parts, batch, **given):
        seen.tries.append(batch.id)
        seen.here += 1
        seen.most = max(seen.most, seen.here)
        began = time.monotonic()
        try:
            made = real(parts, batch, **given)
            # The first one's work again and again, until a claim would have been due twice.
            while len(seen.tries) == 1 and time.monotonic() - began < 2 * CLAIM_S:
                made = real(parts, batch, **given)
            return made
        finally:
            seen.here -= 1

    monkeypatch.setattr(room, "consolidate", consolidate)
    return seen


def numbered(centre, number):
    ref = PacketRef(key=ref_of(centre, 0, 1)[:8], epoch=1, sequence=number)
    (update,) = batch(centre, SOUND).domains
    return Batch(id=batch_id([ref]), base_version=1, base_digest="", domains=(update,), packets=(ref,))


async def test_two_trainers_take_one_batch_at_a_time_in_order_and_each_once_though_it_takes_longer_than_a_claim(
    centre, few, watched, eventually
):
    await centre.release()
    batches = [numbered(centre, number) for number in (1, 2)]
    for each in batches:
        await centre.broker.produce(streams.BATCHES, pack(each), each.id)

    async def released():
        return len(await centre.bundles()) == 1 + len(batches)

    async with running(centre, few, "one", 2), running(centre, few, "two", 2), centre.running("publisher"):
        await eventually(released, deadline_s=60)
    assert watched.tries == [each.id for each in batches]
    assert watched.most == 1
    assert [bundle.parent for bundle in await centre.bundles()] == [0, 1, 2]
    assert await centre.returned() == []


async def test_a_batch_that_has_waited_for_years_is_not_given_up(centre, few, eventually):
    waited = metrics.HANDLED.labels(streams.BATCHES, "unavailable")._value
    before = waited.get()
    redis = centre.broker.redis
    await redis.xadd(streams.BATCHES, {"__data__": pack(numbered(centre, 1))}, id="1-0")
    async with running(centre, few, "one"):  # there is no bundle to train on
        await eventually(lambda: waited.get() > before)
    assert await redis.xlen(streams.BATCHES) == 1
    assert await centre.letters(streams.BATCHES) == []


async def test_a_batch_waits_while_an_older_one_is_not_done(centre, trainer):
    await centre.release()
    await centre.broker.produce(streams.BATCHES, pack(numbered(centre, 1)), "first")
    younger = Delivery(streams.BATCHES, f"{1 << 50}-0", 1, 1, b"")
    with pytest.raises(Unavailable, match="batch_before"):
        await trainer.take(younger, numbered(centre, 2))


async def test_a_trainer_that_is_stopped_ends_with_the_next_step_and_its_try_does_not_count(
    centre, few, monkeypatch, eventually
):
    await centre.release()
    begun, real = threading.Event(), room.consolidate

    def consolidate(*args, **given):
        begun.set()
        return real(*args, **given)

    monkeypatch.setattr(room, "consolidate", consolidate)
    await centre.broker.produce(streams.BATCHES, pack(one := numbered(centre, 1)), one.id)
    async with running(centre, few, "one", steps=100_000):  # more than this test has time for
        await eventually(begun.is_set)
    group = streams.GROUPS[streams.BATCHES]
    (row,) = await centre.broker.redis.xpending_range(streams.BATCHES, group, "-", "+", 2)
    assert row["times_delivered"] == 0


async def test_a_trainer_that_is_stopped_leaves_the_training_of_a_genesis(centre, few, monkeypatch, eventually):
    begun = threading.Event()

    def genesis(*_, progress, **__):  # that never ends by itself
        while True:
            begun.set()
            progress("seed", 0.5)

    monkeypatch.setattr("services.trainer.recipe.genesis", genesis)
    settings = TrainerSettings(
        broker_url=centre.url, home=centre.home, http_port=0, size="tiny", data=few, genesis=centre.home / "genesis"
    )
    trainer = Trainer(settings, centre.broker, Trust(centre.broker.redis, keys.load_root(centre.home)))
    making = asyncio.create_task(trainer.make_genesis())
    await eventually(begun.is_set)
    trainer.stop()
    with pytest.raises(Unavailable, match=r"stopping: .* while seed is at 50%"):
        await making


async def test_of_what_training_keeps_only_the_batch_that_is_worked_on_stays(centre, few, eventually):
    await centre.release()
    batches = [numbered(centre, number) for number in (1, 2)]
    for each in batches:
        await centre.broker.produce(streams.BATCHES, pack(each), each.id)

    async def released():
        return len(await centre.bundles()) == 1 + len(batches)

    async with running(centre, few, "one", 1), centre.running("publisher"):
        await eventually(released, deadline_s=60)
    assert [each.name for each in (centre.home / "one" / room.RUNS).iterdir()] == [batches[-1].id]
    assert len(list((centre.home / "one" / room.RUNS / batches[-1].id).glob("*.safetensors"))) == 1


# Corrections


def correction_of(*batches):
    """What takes all that these batches said of a domain out again."""
    nothing = encode(crystals(()), MICRO.vocab)
    told = tuple(Correction(batch=each.id, name="percept", was=SOUND, now=nothing) for each in batches)
    return Batch(id=correction_id(told), base_version=0, base_digest="", domains=(), packets=(), corrections=told)


async def test_a_correction_becomes_a_bundle_without_what_is_taken_out_and_without_a_packet(centre, few, eventually):
    first = await centre.release()
    said = numbered(centre, 1)
    for each in (said, correction_of(said)):
        await centre.broker.produce(streams.BATCHES, pack(each), each.id)

    async def released():
        return len(await centre.bundles()) == 3

    async with running(centre, few, "one", 0), centre.running("publisher"):
        await eventually(released)
    _, taught, corrected = await centre.bundles()
    memory = "memories/percept.bin"
    assert [taught.packets, corrected.packets] == [said.packets, ()]
    assert corrected.id.startswith("correction-")
    assert taught.parts[memory] != first.parts[memory] == corrected.parts[memory]


async def test_a_batch_that_no_release_has_is_not_corrected_and_gives_nothing_back(centre, trainer):
    await centre.release()
    with pytest.raises(Rejected, match=r"nothing_to_correct.*bundle 1"):
        await trainer.take(delivery(), correction_of(numbered(centre, 1)))
    assert await centre.returned() == []


# Growth that was refused


def growing(centre, micro, number):
    """A batch in which three edges propose the same merges."""
    proposals = propose(micro.coordizer, [text * 8 for text in SENTENCES.values()], limit=4)
    said = tuple((bytes([n] * 8), 50) for n in range(3))
    merges = tuple(Merge(left=left, right=right, edges=said) for left, right, _ in proposals)
    return numbered(centre, number).model_copy(update={"merges": merges})


async def made(centre, trainer, given, at_s):
    """The candidate that a batch becomes, sent; how many tokens it has more than its parent, and what failed so far."""
    effects = await trainer.take(Delivery(streams.BATCHES, "1-0", int(1000 * at_s), 1, b""), given)
    await centre.broker.commit(streams.BATCHES, effects)
    (candidate,) = [unpack(Candidate, each.message) for each in effects if isinstance(each, Send)]
    grown = [figure.after - figure.before for figure in candidate.evidence.figures if figure.name == "vocabulary"]
    return sum(grown), len(await centre.broker.read_hash(room.FAILED))


async def test_a_growth_that_the_publisher_refused_waits_and_what_comes_with_it_does_not(
    centre, trainer, micro, monkeypatch
):
    for limit in ("GROWTH_TOLERANCE", "GROWN_TOLERANCE"):
        monkeypatch.setattr(f"services.trainer.proposals.{limit}", 5.0)
    await centre.release()
    batches, hour = [growing(centre, micro, number) for number in range(1, 6)], 3600.0

    async def refuse(given):
        await centre.broker.redis.hset(streams.REFUSED, given.id, b"{}")

    assert await made(centre, trainer, batches[0], hour) == (4, 0)
    await refuse(batches[0])
    assert await made(centre, trainer, batches[1], hour + 1) == (0, 4)
    await refuse(batches[1])  # of something else: no merge was in it
    assert await made(centre, trainer, batches[2], 2 * hour) == (0, 4)
    await refuse(batches[2])
    assert await made(centre, trainer, batches[3], 2 * hour + 1) == (4, 4)
    await refuse(batches[3])
    assert await made(centre, trainer, batches[4], 4 * hour) == (0, 4)  # the second time it waits for two hours


async def test_a_growth_that_costs_too_much_is_not_measured_again_with_every_batch(centre, trainer, micro, monkeypatch):
    monkeypatch.setattr("services.trainer.proposals.GROWTH_TOLERANCE", -10.0)
    await centre.release()
    assert await made(centre, trainer, growing(centre, micro, 1), 100.0) == (0, 4)
    await centre.broker.redis.hset(streams.REFUSED, growing(centre, micro, 1).id, b"{}")
    monkeypatch.setattr(growth, "grown", None)
    assert await made(centre, trainer, growing(centre, micro, 2), 101.0) == (0, 4)
