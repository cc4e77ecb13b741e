"""The streams as an AsyncAPI 3.0.0 document: what travels on each, who sends it and who reads it.

docs/asyncapi.json is made from FLOWS; a test holds them to what the broker lets each role do (rights.py).
https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from common.constants import PACKET_MAX_BYTES
from common.runtime import streams
from common.runtime.rights import OPERATOR
from common.wire import export
from common.wire.fields import Message
from common.wire.inference import Answer, Cancel, Piece, Query
from common.wire.messages import (
    Applied,
    Batch,
    Bundle,
    Candidate,
    Common,
    DeadLetter,
    Heartbeat,
    Returned,
)
from common.wire.packet import Envelope

CLIENT: Final = "client"
SERVICES: Final = ("edge", "aggregator", "trainer", "publisher")
DEFINED: Final = "#/components/schemas/"


@dataclass(frozen=True, slots=True)
class Flow:
    """One stream. address: its name, {parameter} where there are several; senders, readers: roles of rights.py, or
    "client".
    """

    address: str
    messages: tuple[type[Message], ...]
    senders: tuple[str, ...]
    readers: tuple[str, ...]
    what: str


FLOWS: Final = (
    Flow(streams.QUERIES, (Query,), (CLIENT,), ("edge",), "Questions; one edge answers each."),
    Flow(
        f"{streams.ANSWERS}{{client}}", (Piece, Answer), ("edge",), (CLIENT,),
        "What a client is answered: pieces first, where its query says `stream`.",
    ),
    Flow(streams.CANCEL, (Cancel,), (CLIENT,), ("edge",), "Queries that nobody waits for any more."),
    Flow(streams.PACKETS, (Envelope,), ("edge",), ("aggregator",), "Sleep packets: what an edge tells of its text."),
    Flow(streams.BATCHES, (Batch,), ("aggregator",), ("trainer",), "Packets merged, or corrections of them."),
    Flow(
        streams.COMMON, (Common,), ("aggregator",), ("edge",),
        "What enough edges have mentioned by keyed hash, and may now be said.",
    ),
    Flow(streams.CANDIDATES, (Candidate,), ("trainer",), ("publisher",), "Bundles to be, each with its evidence."),
    Flow(
        streams.BUNDLES, (Bundle,), ("publisher",), SERVICES,
        "Releases. What an edge believes is not this message but the TUF metadata that lists it.",
    ),
    Flow(
        streams.RETURNED, (Returned,), ("aggregator", "trainer", "publisher"), ("edge",),
        "Packets that go into no bundle, so that their edge lets its counts go again.",
    ),
    Flow(streams.APPLIED, (Applied,), ("edge",), ("publisher", "edge"), "What became of a bundle on an edge."),
    Flow(streams.HEART, (Heartbeat,), SERVICES, ("edge", OPERATOR), "Every few seconds: who lives, and is ready."),
    Flow(
        streams.dead("{stream}"), (DeadLetter,), SERVICES, (OPERATOR,),
        "What could not be done, kept with its reason: `qig dead list`, `qig dead replay`.",
    ),
)  # fmt: skip
_PARAMETERS: Final = {
    "client": {"description": "The name that the query gave: 1 to 64 of A-Z a-z 0-9 . _ -."},
    "stream": {
        "description": "A work stream, in the braces of its hash tag.",
        "enum": [f"{{{name}}}" for name in streams.GROUPS],
    },
}
_ABOUT: Final = (
    "What travels between the services of a constellation, over Redis streams. A message is one msgpack map (a packet:"
    f" an array), or one JSON object when its first byte is an opening brace, in the field `{streams.DATA_FIELD}` of a"
    " stream entry. Bytes are bin in msgpack and lower-case hex in JSON. docs/wire/README.md says the rest."
)


def slug(cls: type[Message]) -> str:
    """What a message is called: a packet travels as its envelope."""
    return "Packet" if cls is Envelope else cls.__name__


def limit_bytes(cls: type[Message]) -> int:
    """The longest form that is read."""
    return PACKET_MAX_BYTES if cls is Envelope else cls.max_bytes


def document() -> dict[str, Any]:
    """The AsyncAPI document."""
    golden = {type(each): each for each in export.golden()}
    messages: dict[str, Any] = {}
    schemas: dict[str, Any] = {}
    for cls in dict.fromkeys(cls for flow in FLOWS for cls in flow.messages):
        payload = cls.model_json_schema(ref_template=f"{DEFINED}{{model}}")
        schemas |= payload.pop("$defs", {}) | {slug(cls): payload}
        messages[slug(cls)] = {
            "summary": (cls.__doc__ or "").partition("\n")[0],
            "contentType": "application/msgpack",
            "payload": {"$ref": DEFINED + slug(cls)},
            "x-max-bytes": limit_bytes(cls),
        } | ({"examples": [{"payload": golden[cls].model_dump(mode="json")}]} if cls in golden else {})
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "QIG Constellation",
            "version": "1",
            "description": _ABOUT,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/msgpack",
        "channels": {_channel(flow): _described(flow) for flow in FLOWS},
        "operations": dict(_operations()),
        "components": {"messages": messages, "schemas": schemas},
    }


def render() -> bytes:
    """docs/asyncapi.json."""
    return json.dumps(document(), indent=1, ensure_ascii=False).encode() + b"\n"


def _channel(flow: Flow) -> str:
    """`qig:answers:{client}` is answers, `{{stream}}:dead` is dead."""
    return next(part for part in flow.address.split(":") if part != "qig" and "{" not in part)


def _described(flow: Flow) -> dict[str, Any]:
    named = {name: each for name, each in _PARAMETERS.items() if f"{{{name}}}" in flow.address}
    return {
        "address": flow.address,
        "description": flow.what,
        "messages": {slug(cls): {"$ref": f"#/components/messages/{slug(cls)}"} for cls in flow.messages},
    } | ({"parameters": named} if named else {})


def _operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for flow in FLOWS:
        channel = f"#/channels/{_channel(flow)}"
        for action, roles in (("send", flow.senders), ("receive", flow.readers)):
            for role in roles:
                yield (
                    f"{role}.{action}.{_channel(flow)}",
                    {
                        "action": action,
                        "channel": {"$ref": channel},
                        "tags": [{"name": role}],
                        "messages": [{"$ref": f"{channel}/messages/{slug(cls)}"} for cls in flow.messages],
                    },
                )
