"""Every name in the broker, in one file: streams, the keys beside them, who consumes what, how long entries stay.

    qig:queries ──▶ edge ──qig:answers:CLIENT──▶ client
                    edge ──qig:packets──▶ aggregator ──qig:batches──▶ trainer ──qig:candidates──▶ publisher
                    edge ◀──qig:bundles── publisher ◀──qig:applied── edge          qig:heart: every service
    edge ◀──qig:common── aggregator
                    edge ◀──qig:returned── whoever on that way drops packets for good
    client ──qig:cancel──▶ every edge

A *work stream* is read by one group; a finished entry is deleted with its acknowledgement, so what is in the stream is
exactly what is still to be done (a group that is lost and made anew at 0 redelivers that, and nothing else). One that
is full refuses more; what is not finished is never trimmed. A *broadcast* (answers, bundles, returned, common, applied,
heart, cancel) is kept to its retention and read by followers.

A stream's side keys carry its name as their hash tag, so they share its Redis Cluster slot and its transactions:

>>> side_key(PACKETS, "ledger")
'{qig:packets}:ledger'
>>> answers("kiosk-7")
'qig:answers:kiosk-7'
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

QUERIES: Final = "qig:queries"
PACKETS: Final = "qig:packets"
BATCHES: Final = "qig:batches"
CANDIDATES: Final = "qig:candidates"
BUNDLES: Final = "qig:bundles"
COMMON: Final = "qig:common"
RETURNED: Final = "qig:returned"
APPLIED: Final = "qig:applied"
HEART: Final = "qig:heart"
CANCEL: Final = "qig:cancel"
ANSWERS: Final = "qig:answers:"  # one stream a client
BLOB: Final = "qig:blob:"
RATES: Final = "qig:rates"  # windows of the HTTP API's clients, which end by themselves

GROUPS: Final[dict[str, str]] = {
    QUERIES: "edge",
    PACKETS: "aggregator",
    BATCHES: "trainer",
    CANDIDATES: "publisher",
}

DATA_FIELD: Final = "__data__"  # FastStream's field name: what its clients and ours agree on
_CLIENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Retention:
    """How much of a stream is kept: about `entries` at most, and the key itself `idle_s` after its last entry.

    At the limit the oldest go: of `letters` also by their size, so that DEAD_MAX_BYTES stay. Of `work` nothing goes
    that is not finished: what is published is refused.
    """

    entries: int
    kind: Literal["work", "news", "letters"] = "news"
    idle_s: int | None = None


DEAD_MAX_BYTES: Final = 64 << 20  # chosen: a letter may be as large as a message, and those are mostly small
OUTBOX_MAX_ENTRIES: Final = 10_000  # chosen: one that is as full is not being carried
_LETTERS: Final = Retention(entries=100_000, kind="letters")  # chosen: a dead letter waits for a person
_KEPT: Final[dict[str, Retention]] = {
    # Measured: 490 B of memory each with a text of 300 B, 49 MB. Against larger ones the broker's own bound stands.
    QUERIES: Retention(entries=100_000, kind="work"),
    PACKETS: Retention(entries=20_000, kind="work"),  # 80 MB of the largest
    BATCHES: Retention(entries=64, kind="work"),  # 64 MB of the largest, hours of work for a trainer
    CANDIDATES: Retention(entries=64, kind="work"),  # each brings megabytes of blobs
    BUNDLES: Retention(entries=1_000),
    COMMON: Retention(entries=10_000),  # what an edge missed is told again once it mentions it again
    RETURNED: Retention(entries=10_000),
    APPLIED: Retention(entries=10_000),
    HEART: Retention(entries=10_000),
    CANCEL: Retention(entries=1_000),
}
_ANSWERS_KEPT: Final = Retention(entries=10_000, idle_s=86_400)  # chosen: a client that is a day away asks again


def is_client(name: str) -> bool:
    """Whether a client may have that name: it becomes part of a key."""
    return _CLIENT.fullmatch(name) is not None


def answers(client: str) -> str:
    """The stream on which a client finds its answers. Raises ValueError for what cannot name one."""
    if not is_client(client):
        msg = f"client {client!r} is no slug (letters, digits and . _ -, at most 64 characters)"
        raise ValueError(msg)
    return ANSWERS + client


def retention(stream: str) -> Retention:
    """The retention of a stream, or of the dead letters of one. Raises KeyError for what is neither."""
    if stream.startswith(ANSWERS):
        return _ANSWERS_KEPT
    return _LETTERS if stream in map(dead, GROUPS) else _KEPT[stream]


def side_key(stream: str, name: str) -> str:
    """A key in the slot of `stream`: `{stream}:name`; beside a key that has its tag already, `{tag}...:name`.

    >>> side_key(dead(PACKETS), "seen")
    '{qig:packets}:dead:seen'
    """
    return f"{stream}:{name}" if stream.startswith("{") else f"{{{stream}}}:{name}"


def dead(stream: str) -> str:
    """Where the dead letters of a stream lie."""
    return side_key(stream, "dead")


def outbox(stream: str) -> str:
    """What handlers of `stream` have sent and the relay has not yet carried to its target."""
    return side_key(stream, "outbox")


def seen(stream: str) -> str:
    """The ids lately published to `stream`, by time: what makes a second publication of one id do nothing."""
    return side_key(stream, "seen")


# TUF's files by name. Beside qig:candidates and not qig:bundles: a release and its metadata are one transaction, and
# whoever sees the bundle finds the metadata there.
METADATA: Final = side_key(CANDIDATES, "metadata")

# The publisher's words on a candidate, by its id: the version that it was released as, and why it was refused, or taken
# back. The trainer and the aggregator, which wait for one or the other, read them there.
RELEASED: Final = side_key(CANDIDATES, "released")
REFUSED: Final = side_key(CANDIDATES, "refused")
