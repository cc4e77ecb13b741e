"""What caused what, by the names of messages alone: the trace that each belongs to, and the span that sent it.

    query ─▶ answer                              its own trace, or its asker's (a W3C `traceparent`)
    packet ─▶ ledger                             its own trace, which leads to no query (docs/privacy.md)
    batch ─▶ candidate ─▶ bundle ─▶ applied      one trace; its first span links to the spans that sent the packets

Ids are hashes of names, so nothing travels for them: whoever has a message knows its trace, through outboxes, dead
letters, replays and restarts, whether those before it are traced or not.

>>> query("kiosk-7", "q-1").trace_id == query("kiosk-7", "q-1").trace_id != query("kiosk-8", "q-1").trace_id
True
"""

import hashlib
import re
from dataclasses import dataclass, replace
from typing import Final, Literal

from common.runtime.streams import BATCHES, BUNDLES, CANDIDATES, PACKETS
from common.wire.bundle import candidate_id, digest
from common.wire.messages import Batch, Bundle, Candidate, PacketRef

TRACE_DIGITS: Final = 32
SPAN_DIGITS: Final = 16
_TRACEPARENT: Final = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(-.*)?"
)
Kind = Literal["query", "packet", "batch", "candidate"]


@dataclass(frozen=True, slots=True)
class Cause:
    """A message by its name, and the span that sent it. trace_id: 32 hex digits; span_id: 16, "" where the work on the
    message is the first of its trace. sampled: as its asker said; None: nobody did.
    """

    kind: Kind
    name: str
    trace_id: str
    span_id: str = ""
    sampled: bool | None = None

    @property
    def names(self) -> dict[str, str]:
        """What a line in the log says of it."""
        return {self.kind: self.name, "trace_id": self.trace_id}

    @property
    def root(self) -> "Cause":
        """For the work that makes it: that is the first of the trace."""
        return replace(self, span_id="")


def query(client: str, query_id: str, traceparent: bytes = b"") -> Cause:
    """traceparent: as its asker sent it along; what is none, is passed over."""
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None or not (int(found["trace"], 16) and int(found["span"], 16)):
        return Cause("query", query_id, _trace("query", client, query_id))
    sampled = bool(int(found["flags"], 16) & 1)
    return Cause("query", query_id, found["trace"].decode(), found["span"].decode(), sampled)


def packet(ref: PacketRef) -> Cause:
    """As it was sent by its edge."""
    name = packet_name(ref)
    return Cause("packet", name, _trace("packet", name), span_of(PACKETS, name))


def packet_name(ref: PacketRef) -> str:
    """Under which a packet is published, and found again: KEY:EPOCH:SEQUENCE."""
    return f"{ref.key.hex()}:{ref.epoch}:{ref.sequence}"


def batch(message: Batch) -> Cause:
    """As it was sent by an aggregator. Its trace is its candidate's, which may be called otherwise."""
    return Cause("batch", message.id, trace_of_candidate(candidate_id(message)), span_of(BATCHES, message.id))


def candidate(message: Candidate) -> Cause:
    """As it was sent by a trainer."""
    return Cause("candidate", message.id, trace_of_candidate(message.id), span_of(CANDIDATES, message.id))


def bundle(message: Bundle) -> Cause:
    """As it was released by a publisher: still the candidate, in its trace."""
    sent = span_of(BUNDLES, bundle_name(message))
    return Cause("candidate", message.id, trace_of_candidate(message.id), sent)


def bundle_name(message: Bundle) -> str:
    """Under which a release is published."""
    return f"{message.version}-{digest(message)}"


def trace_of_candidate(name: str) -> str:
    """The trace of what a candidate of this id was made of, and became."""
    return _trace("candidate", name)


def span_of(stream: str, message_id: str) -> str:
    """The span that published a message, by the id that it was published under."""
    return _hash("span", stream, message_id)[:SPAN_DIGITS]


def _trace(*names: str) -> str:
    return _hash("trace", *names)[:TRACE_DIGITS]


def _hash(*names: str) -> str:
    return hashlib.sha256("\0".join(names).encode()).hexdigest()
