r"""What lies in a stream, as values: an entry, its body, and one delivery of it.

A body is the bytes of the field `__data__`; by hand `body` or `data` do as well, when the entry has nothing else:

    redis-cli XADD qig:queries '*' __data__ '{"v":1,"text":"Where does the river go?"}'

A FastStream client's envelope (\x89BIN, header table, body) is taken off. What we publish is the bare message. Beside
it an asker may put `traceparent` (W3C Trace Context), which makes the answer a part of its own trace (causes.py).

>>> body_of({b"__data__": b"{}"}), body_of({b"data": b"{}"}), body_of({b"colour": b"red"})
(b'{}', b'{}', None)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from faststream.redis.parser import BinaryMessageFormatV1

from common.runtime.streams import DATA_FIELD

TRACEPARENT: Final = b"traceparent"
_BY_HAND: Final = (b"body", b"data")


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a stream as the broker holds it."""

    id: str
    fields: Mapping[bytes, bytes]

    @property
    def at_ms(self) -> int:
        """When the broker took it, milliseconds since 1970, by the broker's clock."""
        return int(self.id.partition("-")[0])


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery of an entry to a handler: the `deliveries`-th, counted by the broker from 1. traceparent: as it came
    beside the body; empty without. ahead_s: how far this process's clock is ahead of the broker's, for all that is
    known; behind it below 0.
    """

    stream: str
    entry_id: str
    at_ms: int
    deliveries: int
    body: bytes
    traceparent: bytes = b""
    ahead_s: float = 0.0

    @property
    def at_s(self) -> float:
        """When the broker took it, seconds since 1970, by this process's clock: what an age is counted from."""
        return self.at_ms / 1000 + self.ahead_s


def body_of(fields: Mapping[bytes, bytes]) -> bytes | None:
    """The message of an entry, or None when it holds none that we know."""
    body = fields.get(DATA_FIELD.encode())
    if body is None and len(fields) - (TRACEPARENT in fields) == 1:
        body = next((fields[name] for name in _BY_HAND if name in fields), None)
    if body is not None and body.startswith(BinaryMessageFormatV1.IDENTITY_HEADER):
        body, _headers = BinaryMessageFormatV1.parse(body)
    return body
