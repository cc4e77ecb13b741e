"""Logging: the standard library, one formatter, one line an event; people on a terminal, JSON everywhere else.

Never in a log: the text of a query or an answer, a message body, a key, a password. Which message a line is about is
bound once, where its life begins, and stands in every line written meanwhile, with its trace (causes.py):

>>> with bound(stream="qig:queries", entry="17-0"):
...     sorted(names().items())
[('entry', '17-0'), ('stream', 'qig:queries')]

In a line of JSON `event` is the message before its values were put in: the same for every line of its kind.
"""

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, TextIO

Names = Mapping[str, str]
_BOUND: ContextVar[Names] = ContextVar("bound", default={})  # noqa: B039 -- never mutated, only replaced
_ABOUT: ContextVar[Callable[[], Names] | None] = ContextVar("about", default=None)
LEVELS: Final = ("debug", "info", "warning", "error")
_NOISY: Final = ("uvicorn.access", "faststream", "httpx", "asyncio", "tuf")


@contextmanager
def bound(about: Callable[[], Names] | None = None, /, **given: str) -> Iterator[None]:
    """Every line logged inside names these. about: asked when there is a line, for what costs something to know."""
    told, token = _ABOUT.set(about or _ABOUT.get()), _BOUND.set({**_BOUND.get(), **given})
    try:
        yield
    finally:
        _BOUND.reset(token)
        _ABOUT.reset(told)


def names() -> Names:
    """What a line that is logged here names."""
    about = _ABOUT.get()
    return {**(about() if about else {}), **_BOUND.get()}


class _Lines(logging.Formatter):
    def __init__(self, service: str, node: str, *, as_json: bool) -> None:
        super().__init__()
        self._service = service
        self._node = node
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        text, about = record.getMessage(), names()
        traceback = self.formatException(record.exc_info) if record.exc_info else None
        if self._as_json:
            line = {"at": round(record.created, 3), "level": record.levelname.lower(), "logger": record.name}
            line |= {"service": self._service, "node": self._node, **about, "event": str(record.msg), "message": text}
            return json.dumps(line | ({"traceback": traceback} if traceback else {}), ensure_ascii=False)
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        shown = " ".join(f"{name}={value}" for name, value in about.items())
        head = f"{clock} {record.levelname.lower():7} {self._service}: {text}"
        return "  ".join(part for part in (head, shown) if part) + (f"\n{traceback}" if traceback else "")


def configure(service: str, node: str, level: str, stream: TextIO = sys.stderr) -> None:
    """Send the process's log to `stream`: JSON lines, or plain ones when it is a terminal."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Lines(service, node, as_json=not stream.isatty()))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in _NOISY:  # a line a request, a message or a key: the metrics count those, and what is wrong is raised
        noisy = logging.getLogger(name)
        noisy.setLevel(logging.WARNING)
        noisy.handlers.clear()  # FastStream brings a handler of its own
        noisy.propagate = True
