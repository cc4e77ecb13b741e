"""Spans as OpenTelemetry has them. The one file that imports its SDK; tracing.py alone imports it, when it is wanted.

Of an error a span says its code or its class, never its message: that may be about a text.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from common.errors import QigError
from common.runtime import metrics
from common.runtime.causes import Cause, span_of
from common.runtime.logs import bound
from common.wire.fields import MAX_BATCH_PACKETS

_KINDS: Final = {"internal": SpanKind.INTERNAL, "consumer": SpanKind.CONSUMER, "producer": SpanKind.PRODUCER}
_given: ContextVar[tuple[str, str]] = ContextVar("given", default=("", ""))  # trace and span of the next; "": any


class _Ids(RandomIdGenerator):
    """The ids that causes.py gives, else random ones."""

    def generate_trace_id(self) -> int:
        return int(_given.get()[0] or "0", 16) or super().generate_trace_id()

    def generate_span_id(self) -> int:
        return int(_given.get()[1] or "0", 16) or super().generate_span_id()


class Spans:
    """The spans of this process. service, node: what they are of, unless OTEL_SERVICE_NAME or
    OTEL_RESOURCE_ATTRIBUTES say otherwise.
    """

    def __init__(self, processor: SpanProcessor, service: str, node: str) -> None:
        ours = Resource({"service.name": f"qig-{service}", "service.instance.id": node})
        resource = Resource.create(ours.merge(OTELResourceDetector().detect()).attributes)
        limits = SpanLimits(max_links=MAX_BATCH_PACKETS)
        self.provider = TracerProvider(
            resource=resource, id_generator=_Ids(), span_limits=limits, shutdown_on_exit=False
        )
        self.provider.add_span_processor(processor)
        self._tracer = self.provider.get_tracer("qig")

    def end(self) -> None:
        """Sends off what there is, and nothing more."""
        self.provider.shutdown()

    @contextmanager
    def span(
        self,
        name: str,
        cause: Cause | None,
        *,
        kind: str,
        links: Iterable[Cause] = (),
        began_ns: int | None = None,
        about: Mapping[str, str | int],
    ) -> Iterator[None]:
        """As `tracing.span`."""
        if cause is None and not trace.get_current_span().get_span_context().is_valid:
            yield
            return
        made = self._begin(name, cause, kind=kind, links=links, began_ns=began_ns, about=about)
        ids = made.get_span_context()
        names = {"trace_id": f"{ids.trace_id:032x}", "span_id": f"{ids.span_id:016x}"}
        with bound(**names), trace.use_span(made, True, record_exception=False, set_status_on_exception=False):
            try:
                yield
            except Exception as error:
                what = error.code if isinstance(error, QigError) else type(error).__name__
                made.set_status(Status(StatusCode.ERROR, what))
                raise

    def current_trace(self) -> str:
        """Its id in hex; "" outside of every span."""
        found = trace.get_current_span().get_span_context()
        return f"{found.trace_id:032x}" if found.is_valid else ""

    def sent(self, stream: str, message_id: str) -> None:
        """A message was published, as part of the current span: a span without length, under the id that follows from
        the message's.
        """
        if not trace.get_current_span().get_span_context().is_valid:
            return
        label = metrics.stream_label(stream)  # names no client
        about = {"messaging.system": "redis", "messaging.destination.name": label, "messaging.message.id": message_id}
        with _ids("", span_of(stream, message_id)):
            self._tracer.start_span(f"send {label}", kind=SpanKind.PRODUCER, attributes=about).end()

    def _begin(
        self,
        name: str,
        cause: Cause | None,
        *,
        kind: str,
        links: Iterable[Cause],
        began_ns: int | None,
        about: Mapping[str, str | int],
    ) -> Span:
        context, trace_id = None, ""
        if cause is not None:
            about = {**about, f"qig.{cause.kind}": cause.name}
            trace_id, context = cause.trace_id, Context()
            if cause.span_id:
                context = trace.set_span_in_context(NonRecordingSpan(self._sent_by(cause, name)), context)
        with _ids(trace_id, ""):
            return self._tracer.start_span(
                name,
                context,
                kind=_KINDS[kind],
                attributes=about,
                links=[Link(self._sent_by(each, name)) for each in links],
                start_time=began_ns,
            )

    def _sent_by(self, cause: Cause, name: str) -> SpanContext:
        """The span that sent a message. Where nobody said whether it was sampled, it was if the first span of its trace
        would be here: services that sample by the trace's id agree.
        """
        trace_id, sampled = int(cause.trace_id, 16), cause.sampled
        if sampled is None:
            decision = self.provider.sampler.should_sample(Context(), trace_id, name).decision
            sampled = decision is Decision.RECORD_AND_SAMPLE
        flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
        return SpanContext(trace_id, int(cause.span_id, 16), is_remote=True, trace_flags=flags)


def exported(service: str, node: str) -> Spans:
    """Spans that go to the collector which the environment names."""
    return Spans(BatchSpanProcessor(OTLPSpanExporter()), service, node)


@contextmanager
def _ids(trace_id: str, span_id: str) -> Iterator[None]:
    token = _given.set((trace_id, span_id))
    try:
        yield
    finally:
        _given.reset(token)
