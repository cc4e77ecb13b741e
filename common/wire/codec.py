"""Messages to bytes and back: the one border at which the bytes of strangers become values.

    pack(model)        msgpack, the keys of every map in ascending order: one value has one byte form
    unpack(cls, body)  msgpack, or JSON when the body begins with `{` (what a person publishes with a bare XADD)

Knows nothing of streams or signatures. Rules it keeps: the size is checked before a parser sees the bytes, lengths
and the number of values before memory is taken for them; whatever is wrong ends as Rejected with one of CODES, never as
another exception; what a message says (texts, blobs) is not repeated in the error.

>>> from common.wire.messages import Query
>>> unpack(Query, b'{"text": "hello", "temperatur": 1}')
Traceback (most recent call last):
    ...
common.errors.Rejected: unknown_field: Query has no field temperatur (in version 1): leave it out or correct its name
"""

from typing import Any, Final, TypeVar

import msgpack  # type: ignore[import-untyped]  # it ships no types
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from common.errors import Rejected
from common.wire.fields import MAX_BUNDLE_PACKETS, Message, Value
from common.wire.inference import Answer, Piece

CODES: Final = ("oversized", "garbage", "wrong_version", "unknown_field", "bad_field")
MAX_LIST: Final = MAX_BUNDLE_PACKETS  # the longest list of any message; nested empty lists of this length are cheap
MAX_MAP: Final = 1024
MAX_VALUES: Final = 40_000  # the fullest bundle has 38,000: packets, parts and figures, keys of maps counted
MAX_JSON_VALUES: Final = 20_000  # more than the longest query has commas; each complaint shows its own copy of them
UNCOUNTED_BYTES: Final = 4096  # what is no longer holds no more values than bytes
MAX_COMPLAINTS: Final = 64  # that are looked at: one is a kilobyte
SHOWN_CHARS: Final = 64
FIRST_BYTES: Final = 4096  # of the packer's buffer, which grows; its own default is 256 KiB, for a packet of 300 bytes

_LISTS: Final = frozenset([*range(0x90, 0xA0), 0xDC, 0xDD])  # first bytes (msgpack/spec.md)
_MAPS: Final = frozenset([*range(0x80, 0x90), 0xDE, 0xDF])
_JSON_MARKS: Final = (b",", b":", b"[", b"{")

AnyMessage = TypeVar("AnyMessage", bound=Message)
AnyValue = TypeVar("AnyValue", bound=Value)


def canonical(value: Any) -> bytes:
    """Msgpack with the keys of every map sorted: the byte form that is sent, hashed and signed."""
    return bytes(msgpack.packb(_ordered_keys(value), use_bin_type=True, buf_size=FIRST_BYTES))


def _ordered_keys(value: Any) -> Any:
    """The same value; maps at every depth iterate in the order of their keys."""
    if isinstance(value, dict):
        return {key: _ordered_keys(value[key]) for key in sorted(value)}
    if isinstance(value, tuple):
        return tuple(_ordered_keys(item) for item in value)
    return value


def pack(message: Message) -> bytes:
    """The message's one byte form. Raises Rejected("oversized") above its class's max_bytes."""
    body = canonical(message.model_dump())
    _check_size(type(message), len(body))
    return body


def unpack(cls: type[AnyMessage], body: bytes) -> AnyMessage:
    """The message in `body`: msgpack, or JSON when the first byte is `{`.

    Raises Rejected: oversized, garbage (neither msgpack nor JSON), wrong_version, unknown_field, bad_field.
    """
    _check_size(cls, len(body))
    if not body.startswith(b"{"):
        return validated(cls, parse(cls.__name__, body))
    if sum(map(body.count, _JSON_MARKS)) > MAX_JSON_VALUES:
        raise Rejected("garbage", f"{cls.__name__}: JSON of more than {MAX_JSON_VALUES} values: send msgpack, or less")
    try:
        return cls.model_validate_json(body)
    except ValidationError as error:
        raise _rejected(cls, error) from None


def unpack_reply(body: bytes) -> Piece | Answer:
    """What a client finds on its stream of answers; a Piece is what has an `index`. Raises as `unpack`."""
    _check_size(Answer, len(body))
    fields = parse(Answer.__name__, body)
    if isinstance(fields, dict) and "index" in fields:
        return validated(Piece, fields)
    return validated(Answer, fields)


def parse(what: str, body: bytes, *, most_listed: int = MAX_LIST, most_values: int = MAX_VALUES) -> Any:
    """One msgpack value; lists come as tuples. Raises Rejected("garbage") for anything else, bombs included.

    most_listed, most_values: of the longest list, and in all; more than a message's where a service reads its own.
    """
    try:
        _check_whole(body, most_values)
        return msgpack.unpackb(
            body,
            raw=False,
            use_list=False,
            max_array_len=most_listed,
            max_map_len=MAX_MAP,
            max_ext_len=0,
        )
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise Rejected(
            "garbage",
            f"{what}: {len(body)} bytes that are no msgpack value ({str(error)[:SHOWN_CHARS]}): "
            "send one msgpack map, or JSON that begins with {",
        ) from None


def _check_whole(body: bytes, most_values: int) -> None:
    """Raises what msgpack raises, or ValueError, unless everything that is announced is there.

    The parser makes room for a list when it reads its length: 3 bytes for 32 KB, and again for each list in a list.
    """
    unpacker = msgpack.Unpacker(read_size=max(1, len(body)), max_buffer_size=len(body))  # else it takes 1 MB
    unpacker.feed(body)
    if len(body) <= UNCOUNTED_BYTES:
        unpacker.skip()
        return
    values = left = 1
    while left:
        first = body[unpacker.tell()] if unpacker.tell() < len(body) else 0
        inside = 0
        if first in _LISTS:
            inside = unpacker.read_array_header()
        elif first in _MAPS:
            inside = 2 * unpacker.read_map_header()
        else:
            unpacker.skip()
        left += inside - 1
        values += inside
        if values > most_values:
            raise ValueError(f"more than {most_values} values")


def validated(cls: type[AnyValue], fields: Any) -> AnyValue:
    """The fields as a value of the class. Raises Rejected: wrong_version, unknown_field, bad_field."""
    try:
        return cls.model_validate(fields)
    except ValidationError as error:
        raise _rejected(cls, error) from None


def _check_size(cls: type[Message], size_bytes: int) -> None:
    if size_bytes > cls.max_bytes:
        raise Rejected(
            "oversized",
            f"{cls.__name__} of {size_bytes} bytes; the limit is {cls.max_bytes}: send less, or put it in the store",
        )


def _rejected(cls: type[Value], error: ValidationError) -> Rejected:
    """The gravest complaint of the validator (version, then unknown field, then the first) as one sentence."""
    if error.error_count() > MAX_COMPLAINTS:
        return Rejected("bad_field", f"{cls.__name__}: {error.error_count()} fields are wrong: see docs/wire")
    complaints = error.errors(include_url=False, include_context=False)
    for complaint in complaints:
        if complaint["loc"] == ("v",):
            return Rejected(
                "wrong_version",
                f"{cls.__name__}: v is {_shown(complaint)}, this software reads 1: upgrade the older of the two",
            )
    for complaint in complaints:
        if complaint["type"] == "extra_forbidden":
            return Rejected(
                "unknown_field",
                f"{cls.__name__} has no field {_where(complaint)} (in version 1): leave it out or correct its name",
            )
    first = complaints[0]
    if first["type"] == "json_invalid":
        return Rejected(
            "garbage", f"{cls.__name__}: not JSON ({first['msg'][: 2 * SHOWN_CHARS]}): send one JSON object"
        )
    more = f", and {len(complaints) - 1} more" if len(complaints) > 1 else ""
    at = f".{_where(first)}" if first["loc"] else ""
    got = "" if first["type"] == "missing" else f", got {_shown(first)}"
    return Rejected("bad_field", f"{cls.__name__}{at}: {first['msg']}{got}{more}: see docs/wire")


def _where(complaint: ErrorDetails) -> str:
    path = ".".join(str(step) for step in complaint["loc"])
    return path.encode("utf-8", "backslashreplace").decode()[:SHOWN_CHARS]


def _shown(complaint: ErrorDetails) -> str:
    """A number or a name's type and length: never what somebody wrote."""
    value = complaint["input"]
    if value is None or isinstance(value, bool | int | float):
        return repr(value)[:SHOWN_CHARS]
    size = f" of length {len(value)}" if isinstance(value, str | bytes | tuple | list | dict) else ""
    return f"a {type(value).__name__}{size}"
