import contextlib

import pytest
from edge_death import Killed, killed_at
from edge_fleet import TEXT, bundles_to, delivery_of, packets, read, verdicts
from edge_learned import expected, learned, tokens

from common.constellation import parts as bundle_parts
from common.kernels import gate
from common.kernels.memory import count, merge
from common.runtime import metrics
from common.runtime.broker import Broker
from common.wire.codec import unpack
from common.wire.inference import Answer, Query
from common.wire.packet import open_envelope
from services.edge.app import bundles, node, sleep
from services.edge.local import TERRITORY
from services.edge.record import Record
from services.edge.slots import Slots

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("domain", ["heart", None])
async def test_what_was_read_answers_at_once_and_after_a_restart(edge, life, monkeypatch, domain):
    monkeypatch.setattr("services.edge.answer.territory", lambda *_, **__: domain)
    await read(edge, 8)
    assert edge.node.serving.local is None
    await edge.sleep.round()
    assert learned(edge) == expected(edge) != {}
    assert tokens(edge) > 0
    query, base = Query(id="again", text=TEXT, max_tokens=0, mode=domain or "routed"), edge.node.serving.constellation
    (sent,) = await edge.queries.on_query(delivery_of("99-0"), query)
    made = unpack(Answer, sent.message)
    assert made.domain == (domain or TERRITORY)
    assert made.prompt_bits < 0.7 * base.bits(base.encoder.encode(TEXT), made.kernel)
    before = learned(edge)
    again = await life()
    assert learned(again) == before


async def test_a_bundle_that_brings_it_back_counts_nothing_twice(edge, publisher, micro_parts, redis, monkeypatch):
    monkeypatch.setattr("services.edge.answer.territory", lambda *_, **__: "heart")
    await read(edge, 8)
    await edge.sleep.round()
    whole = learned(edge)
    (raw,) = await packets(redis)
    (packet,) = edge.node.record.packets("sent")
    memory = merge([edge.node.serving.constellation.memories["heart"], packet.counts])
    parts = micro_parts | bundle_parts.memory_part("heart", memory)
    await publisher.release(parts, packets=[open_envelope(raw).ref])
    seen, report = [], edge.bundles._report

    async def reporting(*args):
        seen.append(learned(edge))
        await report(*args)

    monkeypatch.setattr(edge.bundles, "_report", reporting)
    await bundles_to(edge, redis)
    assert edge.node.serving.bundle == 2
    assert learned(edge) == expected(edge) == whole
    assert seen == [whole]


async def test_a_refused_bundle_takes_its_counts_out_of_what_answers_until_one_is_used(
    edge, publisher, micro_parts, redis
):
    await read(edge, 8)
    await edge.sleep.round()
    (raw,) = await packets(redis)
    await publisher.release(micro_parts | {"domains.json": b"[]"}, packets=[open_envelope(raw).ref])
    await bundles_to(edge, redis)
    assert learned(edge) == expected(edge)


async def test_what_is_forgotten_or_rejected_answers_no_more_and_comes_back(edge):
    await read(edge, 8)
    await edge.sleep.round()
    full = learned(edge)
    assert await edge.interactions.judge("anonymous", "q3", "rejected")
    assert learned(edge) == expected(edge) != full
    assert await edge.interactions.judge("anonymous", "q3", None)
    assert learned(edge) == expected(edge) == full
    await edge.interactions.forget("anonymous", "q0")
    assert learned(edge) == expected(edge) != full


@contextlib.contextmanager
def killing(step, nth, *, done):
    """What is done here dies as a step begins for the nth time, or once it is done."""
    with pytest.MonkeyPatch.context() as patch:
        owners = [owner for owner in (Record, Broker, Slots, node, bundles, sleep) if hasattr(owner, step)]
        deadly = killed_at(getattr(owners[0], step), nth, done=done)
        for owner in owners:
            patch.setattr(owner, step, deadly)
        with pytest.raises(Killed):
            yield


# What a sleep and a bundle do, in their order; the second thing that is produced is the bundle.
STEPS = [
    ("fold_domain", 1), ("relearned", 1), ("leaving", 1), ("produce", 1), ("sent", 1), ("activate", 1),
    ("settle_bundle", 1), ("relearned", 2), ("produce", 3), ("settle_bundle", 2),
]  # fmt: skip


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize(("step", "nth"), STEPS)
async def test_a_kill_at_any_step_loses_nothing_and_counts_nothing_twice(  # noqa: PLR0917 -- fixtures
    edge, life, publisher, micro_parts, redis, monkeypatch, step, nth, done
):
    """Killed as a step begins, or once it is done."""
    monkeypatch.setattr("services.edge.answer.territory", lambda *_, **__: "heart")
    before = edge.node.serving.constellation.memories["heart"]

    async def through(one):
        """A sleep; what was sent comes back in a bundle, once."""
        await one.sleep.round()
        if publisher.version == 1 and (raws := await packets(redis)):
            (packet,) = one.node.record.packets("pending", "sent")
            parts = micro_parts | bundle_parts.memory_part("heart", merge([before, packet.counts]))
            await publisher.release(parts, packets=[open_envelope(raws[0]).ref])
        await bundles_to(one, redis)

    await read(edge, 8)
    with killing(step, nth, done=done):
        await through(edge)
    again = await life()
    await through(again)
    assert len(await packets(redis)) == 1
    assert await verdicts(redis) == [(1, "applied"), (2, "applied")]
    assert learned(again) == expected(again)
    read_tokens = 8 * len(again.node.serving.constellation.encoder.encode(TEXT))
    assert again.node.serving.answering.memories["heart"].tokens == before.tokens + read_tokens


# From the swap on the same where the bundle that comes back has made one of two domains.
ENDINGS = [
    ("activate", 1), ("settle_bundle", 1), ("rehome", 2), ("inherit", 1), ("relearned", 2), ("settle_bundle", 2),
]  # fmt: skip


def with_opened(micro, memories, formerly=()):
    """The parts of a bundle with domains d-N of HEART's; the last bears the former names."""
    rows = tuple(map(tuple, gate.prior(3).tolist()))
    opened = {
        name: micro.domains["heart"].model_copy(update={"name": name, "memories": ("heart", name), "gate": rows})
        for name in memories
    }
    last = list(opened)[-1]
    opened[last] = opened[last].model_copy(update={"formerly": formerly})
    grown = [bundle_parts.memory_part(name, each) for name, each in memories.items()]
    return {path: data for part in grown for path, data in part.items()} | bundle_parts.domains_part(
        {**micro.domains, **opened}
    )


async def test_of_a_domain_that_has_ended_no_gauge_stays(edge, publisher, micro, micro_parts, redis, monkeypatch):
    def shown(domain):
        names = ("qig_bits_per_byte", "qig_local_bits_per_byte")
        return [metrics.REGISTRY.get_sample_value(name, {"domain": domain}) for name in names]

    none = count([], 3)
    await publisher.release(micro_parts | with_opened(micro, {"d-1": none, "d-2": none}))
    await bundles_to(edge, redis)
    for first, domain in enumerate(("d-1", "d-2")):
        monkeypatch.setattr("services.edge.answer.territory", lambda *_, domain=domain, **__: domain)
        await read(edge, 8, first=8 * first)
        await edge.sleep.round()
    kept = shown("d-1")
    assert None not in [*kept, *shown("d-2")]
    await publisher.release(micro_parts | with_opened(micro, {"d-1": none}, formerly=("d-2",)))
    await bundles_to(edge, redis)
    assert (shown("d-1"), shown("d-2")) == (kept, [None, None])


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize(("step", "nth"), ENDINGS)
async def test_a_domain_that_ends_leaves_nothing_behind_whatever_step_is_the_last(  # noqa: PLR0917 -- fixtures
    edge, life, publisher, micro, micro_parts, redis, monkeypatch, step, nth, done
):
    """Text of d-2 is folded and sent, some waits; the bundle that names the packet has d-2 in d-1."""
    monkeypatch.setattr("services.edge.answer.territory", lambda *_, **__: "d-2")
    none = count([], 3)
    await publisher.release(micro_parts | with_opened(micro, {"d-1": none, "d-2": none}))
    await bundles_to(edge, redis)

    async def through(one):
        await one.sleep.round()
        if publisher.version == 2 and (raws := await packets(redis)):
            (packet,) = one.node.record.packets("pending", "sent")
            await read(one, 4, first=8)
            parts = with_opened(micro, {"d-1": packet.counts}, formerly=("d-2",))
            await publisher.release(micro_parts | parts, packets=[open_envelope(raws[0]).ref])
        await bundles_to(one, redis)

    await read(edge, 8)
    with killing(step, nth, done=done):
        await through(edge)
    again = await life()
    await through(again)
    await again.sleep.round()
    assert again.node.record.domains() == ["d-1"]
    assert learned(again) == expected(again)
    read_tokens = len(again.node.serving.constellation.encoder.encode(TEXT))
    folded = sum(len(ids) for packet in again.node.record.packets("pending", "sent", "acknowledged")
                 for ids in again.node.record.texts.members(packet.sequence).values())  # fmt: skip
    assert folded == 12 * read_tokens
    assert again.node.serving.answering.memories["d-1"].tokens == folded
