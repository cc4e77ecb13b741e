"""What somebody sees who looks on: real services and a real broker, and the spans in memory."""

import asyncio
import io
import json
import logging
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from broker_node import consumer, counted, finished
from corpora import small_corpora
from edge_fleet import TEXT, answers
from http_edge import COMPILED_S, standing
from opentelemetry.sdk.trace import TracerProvider
from spans import id_of, looking_on, parent_of, trace_of

from common.client import Client
from common.errors import Rejected
from common.runtime import causes, logs, streams
from common.runtime.effects import Send
from common.runtime.service import serve
from common.runtime.settings import EdgeSettings, TrainerSettings
from common.wire.codec import pack
from common.wire.inference import Query
from services.edge.app import build
from services.edge.app.queries import Queries
from services.trainer import app as trainer

pytestmark = pytest.mark.anyio
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"
SAID = {"coordize", "route", "read", "generate", "conclude"}


@pytest.fixture
def seen():
    with looking_on() as found:
        yield found


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return small_corpora(tmp_path_factory.mktemp("text") / "corpora")


@asynccontextmanager
async def running(service, settings, built):
    stop = asyncio.Event()
    work = serve(settings, service=service, build=lambda broker: built(settings, broker), check_every_s=0.05, stop=stop)
    life = asyncio.create_task(work)
    try:
        yield
    finally:
        stop.set()
        await life


def edge_of(centre, node="edge-0", **given):
    basis = {"sleep_after_bytes": 200, "sleep_idle_s": 0.0, "probe_share": 1_000_000, "http_port": 0}
    return EdgeSettings(broker_url=centre.url, home=centre.home, node=node, **(basis | given))


@asynccontextmanager
async def fleet(centre, seen, eventually, *edges):
    """A publisher with its first release, and edges that serve it."""
    async with AsyncExitStack() as begun:
        await begun.enter_async_context(centre.running("publisher"))
        await centre.offer(await centre.candidate())
        for edge in edges:
            await begun.enter_async_context(running("edge", edge, build))
        await eventually(lambda: len(seen.spans("take bundle")) == len(edges), COMPILED_S)
        yield begun


async def test_packet_batch_candidate_and_bundle_lead_to_each_other(centre, few, eventually, seen):
    async with fleet(centre, seen, eventually, edge_of(centre)) as begun:
        texts = [Query(id=f"q{n}", text=TEXT, max_tokens=0) for n in range(9)]
        for query in texts:
            await centre.broker.produce(streams.QUERIES, pack(query), query.id)
        await begun.enter_async_context(centre.running("aggregator", batch_packets=1, batch_age_s=1, crystal_edges=1))
        settings = TrainerSettings(
            broker_url=centre.url, home=centre.home, http_port=0, data=few, genesis=centre.home / "genesis"
        )
        await begun.enter_async_context(running("trainer", settings, trainer.build))
        await eventually(lambda: len(seen.spans("take bundle")) > 1, COMPILED_S)
        released = (await centre.bundles())[-1]

    sent = {each: seen.spans("send qig:packets", **{"messaging.message.id": each})[0]
            for each in map(causes.packet_name, released.packets)}  # fmt: skip
    (cut,) = seen.spans("cut batch", **{"qig.batch": released.id})
    assert {(f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}") for link in cut.links} == {
        (trace_of(span), id_of(span)) for span in sent.values()
    }
    for name, span in sent.items():
        assert parent_of(span) == id_of(seen.spans("send packet", **{"qig.packet": name})[0])
        assert parent_of(seen.spans("process qig:packets", **{"qig.packet": name})[0]) == id_of(span)

    chain = ["cut batch", "send qig:batches", "process qig:batches", "send qig:candidates", "process qig:candidates",
             "send qig:bundles", "take bundle", "send qig:applied"]  # fmt: skip
    spans = [next(span for span in seen.spans(name) if trace_of(span) == trace_of(cut)) for name in chain]
    assert parent_of(spans[0]) is None
    assert [parent_of(span) for span in spans[1:]] == [id_of(span) for span in spans[:-1]]

    asked = {causes.query(query.client, query.id).trace_id for query in texts}
    assert asked <= {trace_of(span) for span in seen.all()}
    told = [link for span in seen.all() for link in span.links]
    assert not asked & {f"{link.context.trace_id:032x}" for link in told}  # a packet leads to no query
    assert not asked & {trace_of(span) for span in [*sent.values(), *spans]}


async def test_a_query_and_its_answer_are_one_trace_whichever_edges_have_it(centre, eventually, seen, redis):
    nodes = [edge_of(centre, node, sleep_after_bytes=1 << 30) for node in ("edge-0", "edge-1")]
    async with fleet(centre, seen, eventually, *nodes):
        for n in range(6):
            query = Query(id=f"q{n}", client="kiosk-7", text=TEXT, max_tokens=3)
            await centre.broker.produce(streams.QUERIES, pack(query), query.id)
        await redis.xadd(streams.QUERIES, {"body": json.dumps({"text": TEXT, "id": "own"}), "traceparent": PARENT})
        await eventually(lambda: len(seen.spans("send qig:answers")) == 7)
    for n in range(6):
        trace_id = causes.query("kiosk-7", f"q{n}").trace_id
        assert seen.names(trace_id) == {"process qig:queries", "send qig:answers", *SAID}
        (taken,) = seen.spans("process qig:queries", **{"qig.query": f"q{n}"})
        assert (trace_of(taken), parent_of(taken)) == (trace_id, None)
    (taken,) = seen.spans("process qig:queries", **{"qig.query": "own"})
    assert (trace_of(taken), parent_of(taken)) == (TRACE, SPAN)
    assert [answer.query_id for answer in await answers(redis)] == ["own"]


async def test_an_asking_program_s_trace_goes_on_at_the_edge(centre, eventually, seen):
    tracer = TracerProvider().get_tracer("app")
    async with (
        fleet(centre, seen, eventually, edge_of(centre, sleep_after_bytes=1 << 30)),
        Client(centre.url, name="kiosk-7") as client,
    ):
        with tracer.start_as_current_span("app") as own:
            await client.ask(TEXT, max_tokens=3, id="inside")
        await client.ask(TEXT, max_tokens=3, id="outside")
    (inside,) = seen.spans("process qig:queries", **{"qig.query": "inside"})
    assert (trace_of(inside), parent_of(inside)) == (trace_of(own), id_of(own))
    (outside,) = seen.spans("process qig:queries", **{"qig.query": "outside"})
    assert trace_of(outside) == causes.query("kiosk-7", "outside").trace_id


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_is_part_of_its_client_s_trace(tmp_path, micro_parts, eventually, seen, stream):
    asking = {"model": "constellation", "prompt": TEXT, "max_tokens": 3, "stream": stream, "n": 2}
    async with standing(tmp_path, micro_parts, eventually) as http:
        assert (await http.post("/v1/completions", json=asking, headers={"traceparent": PARENT})).status_code == 200
    assert seen.names(TRACE) == {"POST /v1/completions", *SAID}
    (request,) = seen.spans("POST /v1/completions")
    assert parent_of(request) == SPAN
    assert [parent_of(span) for span in seen.spans("generate")] == [id_of(request)] * 2
    assert not any(TEXT in str(value) for span in seen.all() for value in span.attributes.values())


def named(delivery, body):
    return causes.query("kiosk-7", body.decode())


async def test_what_fails_says_its_code_and_never_what_it_was_about(redis, start_node, eventually, seen):
    async def handle(delivery, body):
        raise Rejected("off_simplex", "a secret")

    await redis.xadd(streams.QUERIES, {"__data__": b"q"})
    await start_node(consumer(handle, cause=named))
    await eventually(lambda: finished(redis))
    (span,) = seen.spans("process qig:queries")
    assert span.status.description == "off_simplex"
    assert not span.events
    assert "secret" not in span.to_json()


async def test_each_message_of_a_read_is_a_span_with_what_it_sends(redis, start_node, eventually, seen):
    async def handle_read(pairs):
        return [[*counted(body), Send(streams.HEART, body, body.decode())] for _, body in pairs]

    async def never(delivery, body):
        raise AssertionError

    for name in ("a", "b"):
        await redis.xadd(streams.QUERIES, {"__data__": name.encode()})
    await start_node(consumer(never, handle_read=handle_read, cause=named))
    await eventually(lambda: len(seen.spans("process qig:queries")) == 2)  # they end after the entries do
    for name in ("a", "b"):
        (taken,) = seen.spans("process qig:queries", **{"qig.query": name})
        (sent,) = seen.spans("send qig:heart", **{"messaging.message.id": name})
        assert (trace_of(sent), parent_of(sent)) == (trace_of(taken), id_of(taken))
        assert taken.start_time < taken.end_time


@pytest.fixture
def lines():
    """What is logged, as programs read it."""
    root, stream = logging.getLogger(), io.StringIO()
    before = root.handlers[:], root.level
    logs.configure("edge", "edge-0", "info", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:], root.level = before


async def test_a_line_names_its_message_and_its_trace_whether_or_not_anybody_looks_on(
    redis, start_node, eventually, lines
):
    async def handle(delivery, body):
        await asyncio.to_thread(logging.getLogger("room").info, "seen %s", body.decode())
        return counted(body)

    await redis.xadd(streams.QUERIES, {"__data__": b"q"})
    await start_node(consumer(handle, cause=named))
    await eventually(lambda: finished(redis))
    (line,) = [line for line in lines() if line["logger"] == "room"]
    assert line["trace_id"] == causes.query("kiosk-7", "q").trace_id
    assert (line["node"], line["stream"], line["query"]) == ("edge-0", streams.QUERIES, "q")
    assert (line["event"], line["message"]) == ("seen %s", "seen q")


async def test_a_line_about_a_request_is_in_its_client_s_trace(
    tmp_path, micro_parts, eventually, seen, lines, monkeypatch
):
    def loud(self, serving, done):
        logging.getLogger("room").info("concluded")
        return done

    monkeypatch.setattr(Queries, "_redacted", loud)
    asking = {"model": "constellation", "prompt": TEXT, "max_tokens": 3}
    async with standing(tmp_path, micro_parts, eventually) as http:
        told = await http.post("/v1/completions", json=asking, headers={"traceparent": PARENT})
    about = [line for line in lines() if line["logger"] == "room" and "query" in line]
    assert [(line["query"], line["trace_id"]) for line in about] == [(told.json()["id"], TRACE)]
