"""Whether anybody looks on: the extra, the environment, the collector."""

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import SpanProcessor

from common.runtime import causes, tracing
from common.runtime.otel import Spans
from common.runtime.settings import traces_to

HERE = "http://127.0.0.1:4318"
CAUSE = causes.query("kiosk-7", "q-1")


@pytest.fixture(autouse=True)
def nobody_after():
    yield
    tracing.end()


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": HERE}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": HERE}, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": HERE, "OTEL_SDK_DISABLED": "True"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": HERE, "OTEL_TRACES_EXPORTER": "none"}, None),
    ],
)
def test_the_environment_says_whether_anybody_looks_on(environ, wanted):
    assert traces_to(environ) == wanted


WITHOUT = """
import sys
sys.modules["opentelemetry.sdk"] = None  # as where the extra is not installed
import common.runtime.service, services.edge.app
from common.runtime import causes, tracing
assert "common.runtime.otel" not in sys.modules
for environ in ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}):
    tracing.configure("edge", "node-1", environ)
    with tracing.work("some", causes.query("a", "b")), tracing.span("more"):
        tracing.sent([])
    assert not tracing.on() and tracing.provider() is None
tracing.end()
"""


def test_without_the_extra_everything_works_and_a_line_says_that_nothing_is_traced():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(
        "OTEL_EXPORTER_OTLP_ENDPOINT is set, and nothing is traced: that needs the extra otel"
    )


def test_while_nobody_looks_on_there_are_no_spans_and_no_work_is_done_for_them():
    def never():
        raise AssertionError

    with tracing.taken("qig:queries", "1-0", never), tracing.span("some", links=iter([never])):
        tracing.sent([])
    assert tracing.named(CAUSE) == CAUSE.names


class Collector(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.told.append((self.path, ExportTraceServiceRequest.FromString(body)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def collector():
    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        server.told = []
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield server
        server.shutdown()
        serving.join()


@pytest.mark.parametrize("given", [None, "kiosks"])
def test_what_was_seen_is_sent_to_the_collector_at_the_latest_at_the_end(collector, monkeypatch, given):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    if given:
        monkeypatch.setenv("OTEL_SERVICE_NAME", given)
    tracing.configure("edge", "node-1")
    with tracing.work("some", CAUSE):
        pass
    tracing.end()
    ((path, told),) = collector.told
    assert path == "/v1/traces"
    (of,) = told.resource_spans
    about = {each.key: each.value.string_value for each in of.resource.attributes}
    assert (about["service.name"], about["service.instance.id"]) == (given or "qig-edge", "node-1")
    (span,) = of.scope_spans[0].spans
    assert (span.name, span.trace_id.hex()) == ("some", CAUSE.trace_id)


class Held(SpanProcessor):
    def __init__(self):
        self.released = threading.Event()

    def shutdown(self):
        assert self.released.wait(timeout=10)


def test_a_collector_that_does_not_answer_holds_no_stop_up(monkeypatch):
    monkeypatch.setattr(tracing, "FLUSH_S", 0.01)
    held = Held()
    tracing.begin(Spans(held, "edge", "node-1"))
    tracing.end()
    assert not held.released.is_set()
    assert not tracing.on()
    held.released.set()


class Kept(SpanProcessor):
    def __init__(self):
        self.ended = []

    def on_end(self, span):
        self.ended.append(span)


def looked_on():
    kept = Kept()
    tracing.begin(Spans(kept, "edge", "node-1"))
    return kept.ended


def test_what_is_part_of_nothing_is_no_span():
    ended = looked_on()
    with tracing.span("alone"):
        tracing.sent([])
    assert ended == []
    with tracing.span("some", CAUSE), tracing.span("part"):
        pass
    assert [(span.name, f"{span.context.trace_id:032x}") for span in ended] == [
        ("part", CAUSE.trace_id),
        ("some", CAUSE.trace_id),
    ]


def test_a_bug_is_named_by_its_class():
    ended = looked_on()
    with pytest.raises(ZeroDivisionError), tracing.span("some", CAUSE):
        1 / 0  # noqa: B018 -- the error is what is wanted
    assert ended[0].status.description == "ZeroDivisionError"
    assert ended[0].events == ()


def test_services_that_sample_a_share_of_the_traces_sample_the_same(monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    found = []
    for root in (True, False):  # the edge that sends a packet, and the aggregator that takes it
        ended = looked_on()
        for n in range(64):
            cause = causes.query("kiosk-7", f"q-{n}")
            with tracing.span("some", cause if root else causes.replace(cause, span_id="ab" * 8)):
                pass
        found.append({span.context.trace_id for span in ended})
    assert found[0] == found[1]
    assert 0 < len(found[0]) < 64


def test_an_asker_that_is_not_sampled_is_not_looked_at():
    ended = looked_on()
    header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0"
    for flag in (b"0", b"1"):
        with tracing.span("some", causes.query("kiosk-7", "q-1", header.encode() + flag)):
            pass
    assert len(ended) == 1


def test_a_line_within_a_span_is_in_its_trace():
    looked_on()
    with tracing.span("some", CAUSE):
        assert tracing.named(causes.query("kiosk-8", "q-2")) == {"query": "q-2", "trace_id": CAUSE.trace_id}
