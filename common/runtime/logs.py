"""Logging: the standard library, one formatter, one line an event; people on a terminal, JSON everywhere else.

Never in a log: the text of a query or an answer, a message body, a key, a password. Which message a line is about is
bound once, where its life begins, and stands in every line written meanwhile:

>>> with bound(stream="qig:queries", entry="17-0"):
...     sorted(_BOUND.get().items())
[('entry', '17-0'), ('stream', 'qig:queries')]
"""

import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, TextIO

_BOUND: ContextVar[Mapping[str, str]] = ContextVar("bound", default={})  # noqa: B039 -- never mutated, only replaced
LEVELS: Final = ("debug", "info", "warning", "error")
_NOISY: Final = ("uvicorn.access", "faststream", "httpx", "asyncio", "tuf")


@contextmanager
def bound(**names: str) -> Iterator[None]:
    """Every line logged inside names these."""
    token = _BOUND.set({**_BOUND.get(), **names})
    try:
        yield
    finally:
        _BOUND.reset(token)


class _Lines(logging.Formatter):
    def __init__(self, service: str, *, as_json: bool) -> None:
        super().__init__()
        self._service = service
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        about = {"service": self._service, **_BOUND.get()}
        text = record.getMessage()
        trace = self.formatException(record.exc_info) if record.exc_info else None
        if self._as_json:
            line = {"at": round(record.created, 3), "level": record.levelname.lower(), "logger": record.name}
            return json.dumps(
                line | about | {"message": text} | ({"trace": trace} if trace else {}), ensure_ascii=False
            )
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        names = " ".join(f"{name}={value}" for name, value in about.items() if name != "service")
        head = f"{clock} {record.levelname.lower():7} {self._service}: {text}"
        return "  ".join(part for part in (head, names) if part) + (f"\n{trace}" if trace else "")


def configure(service: str, level: str, stream: TextIO = sys.stderr) -> None:
    """Send the process's log to `stream`: JSON lines, or plain ones when it is a terminal."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Lines(service, as_json=not stream.isatty()))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in _NOISY:  # a line a request, a message or a key: the metrics count those, and what is wrong is raised
        noisy = logging.getLogger(name)
        noisy.setLevel(logging.WARNING)
        noisy.handlers.clear()  # FastStream brings a handler of its own
        noisy.propagate = True
