"""The vocabulary grows by what three edges read: mentioned, said, appended, and followed by every edge."""

import numpy as np
import pytest
from centre import Centre
from edge_fleet import Publisher, bundles_to, commons_to, packets, read
from micro import MICRO, SENTENCES

from common.constellation.parts import load
from common.kernels import memory_file
from common.kernels.memory import count
from common.runtime import keys, streams
from common.wire import proposals
from common.wire.packet import open_envelope, verify
from services.aggregator.app.hashes import ACCEPTED
from services.trainer import growth
from services.trainer.consolidate import consolidate

pytestmark = pytest.mark.anyio

NODES = ("node-1", "node-2", "node-3")
SHARED = "The king spake unto the people, and the people answered the king; they kept the commandment. "
OWN = ("Balfalung Kelmorane. ", "Gorhulista Jasnorow. ", "Pelrosard Selcorung. ")
HELD_OUT = {role: [text * 2] for role, text in SENTENCES.items()}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("services.aggregator.app.CUT_EVERY_S", 0.02)
    monkeypatch.setattr("services.edge.answer.territory", lambda *_, **__: "heart")
    # An untrained constellation on one sentence a domain: what it loses says nothing of a real one.
    for limit in ("GROWTH_TOLERANCE", "GROWN_TOLERANCE"):
        monkeypatch.setattr(f"services.trainer.proposals.{limit}", 0.5)


@pytest.fixture
async def publisher(home, broker, micro_parts):
    keys.init(home, NODES)
    keys.make_secret(home)
    made = Publisher(broker, home)
    await made.release(micro_parts)
    return made


@pytest.fixture
def start(publisher, each_life):
    """Starts an edge with the bundle."""
    return each_life


@pytest.fixture
def night(home, broker, broker_url, redis, publisher, micro_parts, eventually):
    """A night of these edges: they sleep, the aggregator cuts, the trainer consolidates, the publisher releases, they
    hear of it. Gives the bodies that left and the parts released last.
    """
    centre, parts, done = Centre(home, broker_url, broker, micro_parts), [micro_parts], []

    async def taken():
        return not (await redis.xlen(streams.PACKETS) or await redis.hlen(ACCEPTED))

    async def pass_by(edges):
        for edge in edges:
            await edge.sleep.round()
        bodies = [body_of(raw, home) for raw in await packets(redis)]
        async with centre.running("aggregator", batch_packets=len(edges)):
            await eventually(taken)
        for batch in (await centre.batches())[len(done) :]:
            done.append(batch)
            made = consolidate(parts[-1], batch, replay={}, held_out=HELD_OUT, steps=0, seed=0)
            assert made.guards == ()
            parts.append(made.parts)
            await publisher.release(made.parts, packets=batch.packets)
        for edge in edges:
            await commons_to(edge, redis)
            await bundles_to(edge, redis)
        return bodies, parts[-1]

    return pass_by


def body_of(raw, home):
    _, key = keys.load_enrolled(home)[open_envelope(raw).key]
    return verify(open_envelope(raw), key)


def merged(body, micro):
    """The strings that a packet proposes as tokens."""
    return {micro.encoder.decode([left, right]) for left, right, _ in proposals.decode(body.merges, MICRO.vocab)}


@pytest.mark.parametrize("private", ["off", "strict"])
async def test_what_three_edges_read_becomes_tokens_of_all_of_them(start, night, micro, private, redis):
    edges = [await start(node, private=private) for node in NODES]
    for edge in edges:
        await bundles_to(edge, redis)
    for number in range(2):
        for edge, own in zip(edges, OWN, strict=True):
            await read(edge, 8, text=SHARED + own, first=8 * number)
        bodies, parts = await night(edges)
        said = [merged(body, micro) for body in bodies]
        assert all(map(bool, said)) == (number == 1)
    for strings, own in zip(said, OWN, strict=True):
        assert not any(string in own.encode() for string in strings if string not in SHARED.encode())
        assert all(string in (SHARED + own).encode() for string in strings)
    larger = load(parts)
    assert larger.coordizer.vocab_size >= MICRO.vocab + 8
    assert len(larger.encoder.encode(SHARED)) < 0.9 * len(micro.encoder.encode(SHARED))
    for edge in edges:
        serving = edge.node.serving
        assert serving.constellation.coordizer.vocab_size == larger.coordizer.vocab_size
        assert serving.bundle == edge.node.record.packets("acknowledged")[-1].base_version + 1
        assert edge.node.record.packets("pending", "sent", "lost") == []


@pytest.fixture
async def outgrown(start, publisher, redis, micro_larger, micro_parts):
    """An edge that slept on what it had counted, and has yet to hear of a bundle with a larger vocabulary."""
    edge = await start(NODES[0])
    await bundles_to(edge, redis)
    await read(edge, 8, text=SHARED)
    await edge.sleep.round()
    await publisher.release({**micro_parts, **growth.parts(micro_larger)})
    return edge


async def test_an_edge_forgets_in_the_grown_vocabulary_what_it_counted_in_the_old_one(outgrown, redis, micro_larger):
    edge = outgrown
    await bundles_to(edge, redis)
    residue = edge.node.record.residue("heart")
    wanted = count([micro_larger.encoder.encode(SHARED)] * 8, 3)
    assert memory_file.to_bytes(residue) == memory_file.to_bytes(wanted)
    for n in range(8):
        assert (await edge.interactions.forget("anonymous", f"q{n}")).counts == "taken"
    assert edge.node.record.residue("heart").entries == 0
    assert edge.node.serving.local is None or edge.node.serving.answering.memories["heart"].tokens


async def test_an_edge_that_was_killed_between_slot_and_record_counts_anew_when_it_starts(
    outgrown, start, redis, micro_larger, monkeypatch
):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("services.edge.app.bundles.follow_vocabulary", killed)
        with pytest.raises(KeyboardInterrupt):
            await bundles_to(outgrown, redis)
    again = await start(NODES[0])
    assert again.node.serving.constellation.coordizer.vocab_size == micro_larger.coordizer.vocab_size
    wanted = count([micro_larger.encoder.encode(SHARED)] * 8, 3)
    assert memory_file.to_bytes(again.node.record.residue("heart")) == memory_file.to_bytes(wanted)
    assert np.array_equal(next(again.node.record.texts.counted()).ids, micro_larger.encoder.encode(SHARED))
