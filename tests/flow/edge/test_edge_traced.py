"""Which packet a query was counted in, as `qig trace` reads it from an edge's file."""

import pytest
from edge_fleet import NODE, TEXT, delivery_of, packets, read

from common.runtime import causes
from common.wire.inference import Query
from common.wire.packet import open_envelope
from services.cli import trace
from services.cli.chain import Centre

pytestmark = pytest.mark.anyio


async def test_a_query_leads_to_its_packet_and_the_packet_back_to_its_queries(edge, redis, home):
    await read(edge, 1)
    (step,) = trace.found("q0", home, Centre())
    assert step.said == f"asked by anonymous at {NODE}, strategy: it waits to be counted"
    await read(edge, 8, first=1)
    await edge.sleep.round()
    (sent,) = await packets(redis)
    name = causes.packet_name(open_envelope(sent).ref)
    query, packet = trace.found("q0", home, Centre())
    assert query.trace_id == causes.query("anonymous", "q0").trace_id
    assert (packet.id, packet.caused_by) == (name, tuple(f"q{n}" for n in range(9)))
    for called in (name, f"{NODE}:0"):
        assert trace.found(called, home, Centre()) == [packet]
    assert TEXT.strip() not in repr((query, packet))


async def test_a_packet_stands_where_it_left_and_not_where_a_bundle_was_heard_of(edge, redis, home):
    await read(edge, 9)
    await edge.sleep.round()
    (sent,) = await packets(redis)
    left_s = open_envelope(sent).at_s
    edge.node.record.settle([0], {}, {}, cursor=None, at_s=left_s + 3600)
    (step,) = trace.found(f"{NODE}:0", home, Centre())
    assert step.at_s == left_s


async def test_a_query_that_is_not_counted_says_why(edge, life, home, redis):
    await read(edge, 1)
    await edge.interactions.judge("anonymous", "q0", "rejected")
    (step,) = trace.found("q0", home, Centre())
    assert step.said.endswith("its answer was rejected, so it is not counted")
    await edge.queries.on_query(delivery_of("9-0"), Query(text=TEXT, max_tokens=0, id="q-out", store=False))
    assert trace._of_queries("q-out", home, Centre()) == []
