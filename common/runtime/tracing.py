"""Spans of the work, for whoever looks on with OpenTelemetry; without it nothing is imported and nothing is done.

On with the extra `otel` and OTEL_EXPORTER_OTLP_ENDPOINT (or ..._TRACES_ENDPOINT); docs/tracing.md. Which trace work is
in follows from the message's name (causes.py), and so does the id of the span that sends a message: whoever handles it
knows its parent without being told.

FastStream's RedisTelemetryMiddleware does not fit: it puts its header into an envelope where ours are bare messages
which scripts publish, and its span ends when a read is handed to the intake, before the first of its messages is done.
"""

import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

from common.runtime import settings
from common.runtime.causes import Cause
from common.runtime.effects import Effect, Send
from common.runtime.logs import Names, bound

if TYPE_CHECKING:
    from common.runtime.otel import Spans

log = logging.getLogger(__name__)

Attributes = Mapping[str, str | int]
Kind = Literal["internal", "consumer", "producer"]
FLUSH_S: Final = 3.0  # chosen: at a stop, for what a collector that answers has not got yet
_OFF: Final[AbstractContextManager[None]] = nullcontext()
_NOTHING: Final[Attributes] = MappingProxyType({})
_spans: "Spans | None" = None


def configure(service: str, node: str, environ: Mapping[str, str] | None = None) -> None:
    """Trace from here on, if the environment asks for it."""
    wanted = settings.traces_to(environ)
    if wanted is None:
        return
    try:
        from common.runtime import otel  # noqa: PLC0415 -- only then: it needs the extra
    except ImportError as error:
        log.warning("%s is set, and nothing is traced: that needs the extra otel (docs/tracing.md): %s", wanted, error)
        return
    begin(otel.exported(service, node))


def begin(spans: "Spans") -> None:
    """Trace by these."""
    global _spans  # noqa: PLW0603 -- of the process, as the metrics are
    _spans = spans


def end() -> None:
    """Trace no more; what was seen is sent off, if that takes FLUSH_S at most."""
    global _spans
    spans, _spans = _spans, None
    if spans is not None:
        flushing = threading.Thread(target=spans.end, daemon=True)
        flushing.start()
        flushing.join(FLUSH_S)


def on() -> bool:
    """Whether anybody looks on."""
    return _spans is not None


def provider() -> Any:
    """OpenTelemetry's TracerProvider, for libraries that make spans of their own; None while nobody looks on."""
    return None if _spans is None else _spans.provider


def traceparent() -> str:
    """The current span of the program that we are part of, as W3C Trace Context writes it; "" where it has none, or
    does not use OpenTelemetry: then nobody has imported that.
    """
    api = sys.modules.get("opentelemetry.trace")
    found = api.get_current_span().get_span_context() if api is not None else None
    if found is None or not found.is_valid:
        return ""
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"


def span(
    name: str,
    cause: Cause | None = None,
    *,
    kind: Kind = "internal",
    links: Iterable[Cause] = (),
    began_ns: int | None = None,
    about: Attributes = _NOTHING,
) -> AbstractContextManager[None]:
    """What is done inside is a span, current meanwhile. cause: what it is done for; without, it is part of the current
    span, and where there is none, no span. links: what led to it besides. began_ns: since 1970, where it began before
    this call. about: its attributes; never a text.
    """
    if _spans is None:
        return _OFF
    return _spans.span(name, cause, kind=kind, links=links, began_ns=began_ns, about=about)


@contextmanager
def work(
    name: str, cause: Cause, *, kind: Kind = "internal", links: Iterable[Cause] = (), began_ns: int | None = None
) -> Iterator[None]:
    """A `span`, and every line logged inside names its cause, whether or not anybody looks on."""
    with bound(**cause.names), span(name, cause, kind=kind, links=links, began_ns=began_ns):
        yield


def named(cause: Cause) -> Names:
    """What a line in the log says of a message: the current trace, where it is handled in one that is not its own."""
    current = "" if _spans is None else _spans.current_trace()
    return cause.names | ({"trace_id": current} if current else {})


def taken(
    stream: str, entry: str, cause: Callable[[], Cause | None], *, began_ns: int | None = None
) -> AbstractContextManager[None]:
    """The span of one message's handling. cause: asked where somebody looks on; None where its consumer can't tell."""
    found = None if _spans is None else cause()
    if found is None:
        return _OFF
    about = {"messaging.system": "redis", "messaging.destination.name": stream, "messaging.message.id": entry}
    return span(f"process {stream}", found, kind="consumer", began_ns=began_ns, about=about)


def sent(effects: Sequence[Effect]) -> None:
    """What was done: each message in it that was published is a span, part of the current one."""
    if _spans is not None:
        for effect in effects:
            if isinstance(effect, Send):
                _spans.sent(effect.stream, effect.id)
