"""Private mode through a real broker: what leaves an edge, round after round, and what a kill changes of it."""

import numpy as np
import pytest
from centre import Centre
from edge_death import Killed, killed_at
from edge_fleet import NODE, Publisher, commons_to, packets, read

from common.constellation.priors import prior_of
from common.errors import Rejected, Unavailable
from common.runtime import keys, streams
from common.runtime.broker import Broker
from common.wire import crystals
from common.wire.codec import pack
from common.wire.mentions import PACKET_MAX_MENTIONS, decode, encode
from common.wire.messages import Common
from common.wire.ngrams import entries
from common.wire.packet import open_envelope, verify
from services.aggregator.app.hashes import ACCEPTED
from services.edge.app import common, sleep, state_dir
from services.edge.mentions import decoys
from services.edge.record import Record
from services.edge.record.mentions import Mentions

pytestmark = pytest.mark.anyio

NODES = ("node-1", "node-2", "node-3")
SHARED = "The king spake unto the people, and the people answered the king. "
OWN = ("Balfalung Kelmorane of Tovulfick. ", "Gorhulista Jasnorow of Maveth. ", "Pelrosard Selcorung of Denick. ")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("services.aggregator.app.CUT_EVERY_S", 0.02)
    monkeypatch.setattr("services.edge.answer.territory", lambda *_, **__: "heart")


@pytest.fixture
async def centre(home, broker, broker_url, micro_parts):
    keys.init(home, NODES)
    keys.make_secret(home)
    await Publisher(broker, home).release(micro_parts)
    return Centre(home, broker_url, broker, micro_parts)


@pytest.fixture
def start(centre, each_life):
    """Starts an edge with the bundle, private and strict unless told otherwise."""
    return lambda node, **fields: each_life(node, **({"private": "strict"} | fields))


def body_of(raw, home):
    _, key = keys.load_enrolled(home)[open_envelope(raw).key]
    return verify(open_envelope(raw), key)


def said(body, micro):
    """The texts of the n-grams that a packet says."""
    if not body.crystals:
        return set()
    size = micro.coordizer.vocab_size
    found = crystals.decode(body.crystals, size, 4096, prior=prior_of([micro.memories["heart"]], size))
    return {micro.encoder.decode((*each.context, each.token)) for each in entries(found)}


def said_of(texts, micro):
    """The texts of all n-grams of three tokens and less in these."""
    ids = [micro.encoder.encode(text).tolist() for text in texts]
    return {
        micro.encoder.decode(own[at : at + size])
        for own in ids
        for size in (1, 2, 3)
        for at in range(len(own) - size + 1)
    }


async def slept(edges, redis):
    """Each sleeps once; the packets that are in the stream then."""
    for edge in edges:
        await edge.sleep.round()
    return await packets(redis)


async def settled(centre, edges, redis, eventually):
    """The aggregator cuts what waits, and every edge hears of it."""

    async def taken():
        return not (await redis.xlen(streams.PACKETS) or await redis.hlen(ACCEPTED))

    async with centre.running("aggregator", batch_packets=len(edges)):
        await eventually(taken)
    for edge in edges:
        await commons_to(edge, redis)


def on_their_way(edge):
    return edge.node.record.packets("pending", "sent", "lost")


async def test_three_edges_say_in_the_second_round_what_all_hold_and_never_what_one_holds(
    start, centre, micro, redis, home, eventually
):
    edges = [await start(node) for node in NODES]
    for edge, own in zip(edges, OWN, strict=True):
        await read(edge, 8, text=SHARED + own)
    first = [body_of(raw, home) for raw in await slept(edges, redis)]
    assert [(body.crystals, body.mentions != b"") for body in first] == [(b"", True)] * 3
    await settled(centre, edges, redis, eventually)
    assert await centre.batches() == []
    assert list(map(on_their_way, edges)) == [[]] * 3
    for edge, own in zip(edges, OWN, strict=True):
        await read(edge, 8, text=SHARED + own, first=8)
    second = [body_of(raw, home) for raw in await slept(edges, redis)]
    await settled(centre, edges, redis, eventually)
    held = set.intersection(*(said_of([(SHARED + own) * 8], micro) for own in OWN))
    for body in second:
        assert set() < said(body, micro) <= held
    (batch,) = await centre.batches()
    assert len(batch.packets) == 3


async def test_of_two_edges_none_says_anything_and_no_packet_waits_for_a_bundle(start, centre, redis, home, eventually):
    edges = [await start(node) for node in NODES[:2]]
    for number in range(3):
        for edge in edges:
            await read(edge, 8, text=SHARED, first=8 * number)
        bodies = [body_of(raw, home) for raw in await slept(edges, redis)]
        assert [(body.crystals, body.mentions != b"") for body in bodies] == [(b"", True)] * 2
        await settled(centre, edges, redis, eventually)
        assert list(map(on_their_way, edges)) == [[]] * 2
    assert (await centre.told())[0] == []


async def test_what_the_bundle_s_memory_knows_well_is_said_in_the_first_round(start, micro, redis, home):
    edge = await start(NODE, private="on")
    await read(edge, 8, text="O sing again, my heart. " + OWN[0])
    (raw,) = await slept([edge], redis)
    told = said(body_of(raw, home), micro)
    name = micro.encoder.encode("Balfalung").tolist()
    assert told
    assert not told & {micro.encoder.decode(name[at : at + 3]) for at in range(len(name) - 2)}


async def test_an_edge_that_lost_its_file_is_told_again_what_is_common(start, centre, redis, home, eventually, clock):
    edges = [await start(node) for node in NODES]
    for edge in edges:
        await read(edge, 8, text=SHARED)
    await slept(edges, redis)
    await settled(centre, edges, redis, eventually)
    known = edges[0].node.record.mentions.common().tolist()
    assert known
    edges[0].node.record.close()
    (state_dir(home, NODE) / "edge.db").unlink()
    await redis.delete(streams.COMMON)
    clock[0] += 5
    again = await start(NODE)
    await read(again, 8, text=SHARED)
    await slept([again], redis)
    await settled(centre, [again], redis, eventually)
    assert again.node.record.mentions.common().tolist() == known


async def test_without_the_secret_a_private_edge_does_not_start(start, home):
    keys.secret_path(home).unlink()
    with pytest.raises(Unavailable, match="missing_secret"):
        await start(NODE)


async def test_what_is_told_in_no_message_changes_nothing(start, broker, redis):
    edge = await start(NODE)
    await broker.produce(streams.COMMON, b"\xc1", "broken")
    with pytest.raises(Rejected, match="garbage"):
        await commons_to(edge, redis)
    assert edge.node.record.mentions.common_cursor is None


STEPS = [
    ("fold_domain", 1), ("slept", 1), ("leaving", 1), ("produce", 1), ("sent", 1), ("produce", 2), ("hear_common", 1),
    ("heard", 1),
]  # fmt: skip


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize(("step", "nth"), STEPS)
async def test_a_kill_at_any_step_loses_no_mention_and_no_answer_to_it(
    start, broker, redis, home, monkeypatch, step, nth, done
):
    """Killed as a step begins, or once it is done; this test is the centre, to which everything is common but what the
    edge made up.
    """
    own = bytes(keys.load_private(home, NODE))

    def common_of(raw):
        mentioned = decode(body_of(raw, home).mentions, PACKET_MAX_MENTIONS)
        return np.setdiff1d(mentioned, decoys(own, [open_envelope(raw).sequence]))

    async def through(one):
        for raw in await slept([one], redis):
            told = Common(hashes=encode(common_of(raw)), packets=(open_envelope(raw).ref,))
            await broker.produce(streams.COMMON, pack(told), "1")
        await commons_to(one, redis)

    edge = await start(NODE)
    await read(edge, 8, text=SHARED)
    with monkeypatch.context() as patch:
        owners = [owner for owner in (Record, Mentions, Broker, common, sleep) if hasattr(owner, step)]
        patch.setattr(owners[0], step, killed_at(getattr(owners[0], step), nth, done=done))
        with pytest.raises(Killed):
            await through(edge)
    again = await start(NODE)
    await through(again)
    (raw,) = await packets(redis)
    record = again.node.record
    assert record.mentions.mentioned().tolist() == sorted(decoys(own, [0]).tolist())
    assert record.mentions.common().tolist() == common_of(raw).tolist()
    assert [packet.status for packet in record.packets("pending", "sent", "lost", "acknowledged")] == ["acknowledged"]
    await read(again, 8, text=SHARED, first=8)
    *_, later = await slept([again], redis)
    assert body_of(later, home).crystals
