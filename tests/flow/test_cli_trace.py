"""`qig trace` on what edges and the centre really keep."""

import json

import pytest
from centre import decided

from common.errors import Rejected, Unavailable
from common.runtime import causes, streams
from common.wire.codec import pack
from common.wire.messages import Common, PacketRef, Returned
from common.wire.packet import open_envelope
from services.cli import trace
from services.cli.chain import Centre

pytestmark = pytest.mark.anyio


async def looked(name, centre):
    return trace.found(name, centre.home, await trace._look(centre.url, centre.home))


async def test_a_packet_is_followed_through_the_centre(centre, eventually):
    first = await centre.release()
    packet = centre.packet(first)
    ref = open_envelope(packet).ref
    name = causes.packet_name(ref)
    await centre.send(packet)
    assert [step.said for step in await looked(name, centre)] == ["lies in the stream, nobody has looked at it yet"]
    async with centre.running("aggregator", batch_packets=1, batch_age_s=1, crystal_edges=1):
        await eventually(lambda: has_batch(centre))
    for called in (name, ref.packed.hex()):
        _, batch = await looked(called, centre)
        assert (batch.kind, batch.caused_by, batch.said) == ("batch", (name,), "1 packets: waits for a trainer")
    candidate = await centre.candidate(first, change={"notes.bin": b"new"}, id=batch.id, packets=(ref,))
    await centre.broker.redis.delete(streams.BATCHES)
    async with centre.running("publisher"):
        await centre.offer(candidate)
        await decided(centre, eventually)
    for called in (name, batch.id[:9], "2"):
        steps = await looked(called, centre)
        assert [step.kind for step in steps][-3:] == ["batch", "candidate", "bundle"]
        assert (steps[-1].id, steps[-1].caused_by) == ("2", (batch.id,))


async def has_batch(centre):
    return await centre.broker.redis.xlen(streams.BATCHES) == 1


async def test_a_packet_in_no_batch_says_why(centre):
    first = await centre.release()
    refs = [open_envelope(centre.packet(first, sequence=n)).ref for n in range(2)]
    told = Returned(packets=(refs[0],), code="clock", reason="[red]late")
    await centre.broker.produce(streams.RETURNED, pack(told), "1")
    await centre.broker.produce(streams.COMMON, pack(Common(packets=(refs[1],))), "2")
    said = [(await looked(causes.packet_name(ref), centre))[0].said for ref in refs]
    assert said[0] == "went back to its edge, clock: [red]late"
    assert said[1].startswith("was heard: it only mentions")


async def test_what_is_not_there_and_what_is_not_clear_is_said(centre):
    await centre.release()
    for name in ("d-1", "d-2"):
        await centre.offer(await centre.candidate(id=name))
    with pytest.raises(Unavailable, match=r"unknown_id.*qig packet list"):
        await looked("q-77", centre)
    with pytest.raises(Rejected, match=r"begins 2 ids.*d-1, d-2"):
        await looked("d-", centre)


@pytest.mark.parametrize("json_wanted", [True, False])
def test_it_is_a_line_a_step(tmp_path, broker_url, monkeypatch, capsys, json_wanted):
    async def nothing(*_):
        return Centre()

    monkeypatch.setattr(trace, "_look", nothing)
    monkeypatch.setenv("QIG_BROKER_URL", broker_url)
    ref = PacketRef(key=bytes(8), epoch=1, sequence=2)
    assert trace.run(causes.packet_name(ref), tmp_path, json=json_wanted) == 0
    out = capsys.readouterr().out
    if json_wanted:
        line = json.loads(out)
        assert (line["kind"], line["id"], line["caused_by"]) == ("packet", "0000000000000000:1:2", [])
    else:
        assert causes.packet(ref).trace_id in out
