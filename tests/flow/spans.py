"""Somebody who looks on at the services in this process."""

from contextlib import contextmanager

from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from common.runtime import tracing
from common.runtime.otel import Spans


class Seen:
    """The spans that have ended."""

    def __init__(self, exporter):
        self._exporter = exporter

    def all(self):
        return self._exporter.get_finished_spans()

    def spans(self, name, **about):
        """Those of this name, with these attributes."""
        return [span for span in self.all() if span.name == name and about.items() <= dict(span.attributes).items()]

    def names(self, trace_id):
        return {span.name for span in self.all() if trace_of(span) == trace_id}


@contextmanager
def looking_on():
    exporter = InMemorySpanExporter()
    tracing.begin(Spans(SimpleSpanProcessor(exporter), "test", "node-1"))
    try:
        yield Seen(exporter)
    finally:
        tracing.end()


def trace_of(span):
    return f"{span.context.trace_id:032x}"


def id_of(span):
    return f"{span.context.span_id:016x}"


def parent_of(span):
    return None if span.parent is None else f"{span.parent.span_id:016x}"
