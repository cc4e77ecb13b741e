"""`qig packet list` and `qig packet show`: what left an edge, as its operator can read it.

An edge's packets lie in its edge.db, which is read as it stands, running or not. The coordizer that turns ids into text
is the edge's own bundle's, and without one the genesis's: ids never change, so a later one reads an earlier packet.
"""

import contextlib
import json as json_text
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nacl.signing import VerifyKey
from rich.table import Table

from common.constants import PACKET_MAX_BYTES, PHASES
from common.constellation.domains import from_json
from common.constellation.parts import coordizer_of
from common.constellation.paths import DOMAINS, memory_path
from common.constellation.priors import prior_of
from common.coordizer.artifacts import token_bytes
from common.errors import Rejected, Unavailable
from common.kernels import memory_file
from common.runtime import keys
from common.wire import crystals, proposals
from common.wire.codec import unpack
from common.wire.expected import Prior
from common.wire.mentions import PACKET_MAX_MENTIONS, decode
from common.wire.ngrams import MAX_VOCAB, Crystals, Entry, Order, empty, entries, implied
from common.wire.packet import Envelope, PacketBody, open_envelope, verify
from common.wire.proposals import Proposal
from services.cli import genesis as genesis_parts
from services.cli.forget import edge_files
from services.cli.mentioned import Mentioned, readable
from services.cli.show import Listing, console, number, plain, verbatim
from services.edge.record import Packet, read_packets
from services.edge.slots import Slots

NEW_TERRITORY: Final = "new territory"
_LEFT: Final = ("edge", "status", "when", "domain", "text")
_LATER: Final = ("mentions", "merges")  # sections that only some packets have


@dataclass(frozen=True, slots=True)
class Seen:
    """A packet and what is known of it. envelope, raw: None where it was never sealed, so that it has not left."""

    node: str | None
    status: str
    sequence: int
    at_s: float
    body: PacketBody
    ngrams: Crystals
    raw: bytes | None
    envelope: Envelope | None

    @property
    def sections(self) -> dict[str, int]:
        """Bytes by section; once sealed they add up to the packet's size."""
        size = len(self.raw) if self.raw is not None else 0
        body = self.body
        parts = {"crystals": len(body.crystals), "gate": len(body.gate), "basin": len(body.basin)}
        parts |= {name: len(data) for name in _LATER if (data := getattr(body, name))}
        if self.envelope is not None:
            parts |= {"signature": len(self.envelope.signature)}
            parts |= {"envelope": size - len(self.envelope.body) - parts["signature"]}
            said = sum(parts.get(name, 0) for name in ("crystals", "gate", "basin", *_LATER))
            parts |= {"figures": len(self.envelope.body) - said}
        return parts

    @property
    def hashes(self) -> list[int]:
        """What it mentions. Raises Rejected("bad_mentions")."""
        return [int(each) for each in decode(self.body.mentions, PACKET_MAX_MENTIONS)]

    @property
    def merges(self) -> tuple[Proposal, ...]:
        """What it proposes. Raises Rejected("bad_merges")."""
        return proposals.decode(self.body.merges, MAX_VOCAB)


def listing(*, node: str | None, home: Path, json: bool) -> int:
    """`qig packet list`."""
    rows = [_of_record(file.parent.name, packet) for file in edge_files(home, node) for packet in read_packets(file)[1]]
    if json:
        for seen in rows:
            sys.stdout.write(
                json_text.dumps(_head(seen) | {"ngrams": seen.ngrams.entries, "mentions": len(seen.hashes)}) + "\n"
            )
    elif rows:
        console().print(_list_table(rows))
    else:
        console().print("no packets yet: an edge makes one when it sleeps")
    return 0


def show(*, packet: str, node: str | None, genesis: Path | None, home: Path, json: bool) -> int:
    """`qig packet show`."""
    if packet.isascii() and packet.isdigit():
        found = _by_sequence(int(packet), edge_files(home, node))
    else:
        found = [(_of_file(Path(packet), home, genesis or genesis_parts.default(home)), None)]
    for seen, folder in found:
        texts = _texts(folder, genesis or genesis_parts.default(home))
        listed = [_ngram(each, texts) for each in entries(seen.ngrams)]
        read = _mentions(seen, folder, texts)
        if json:
            told = _told(seen) | {"ngrams": listed, "mentions": read, "merges": _merges(seen, texts)}
            sys.stdout.write(json_text.dumps(told, ensure_ascii=False) + "\n")
        else:
            _print(seen, listed, read, _merges(seen, texts))
    return 0


def _mentions(seen: Seen, folder: Path | None, texts: list[bytes]) -> list[dict[str, Any]]:
    """What a packet mentions, each with its text where that is known."""
    hashes = seen.hashes
    if folder is None:
        found = [Mentioned(each, None, made_up=False) for each in hashes]
    else:
        found = readable(folder.parent / "edge.db", seen.sequence, hashes, texts)
    return [
        {"hash": each.hash, "text": None if each.text is None else _spelled(each.text), "made_up": each.made_up}
        for each in found
    ]


def _by_sequence(sequence: int, files: list[Path]) -> list[tuple[Seen, Path | None]]:
    """The packet of each edge that made one of this sequence, with where the edge keeps its bundles."""
    found: list[tuple[Seen, Path | None]] = []
    for file in files:
        made = [packet for packet in read_packets(file)[1] if packet.sequence == sequence]
        found += [(_of_record(file.parent.name, packet), file.parent / "bundles") for packet in made]
    if not found:
        there = [f"{file.parent.name} {_spans(read_packets(file)[1])}" for file in files]
        raise Rejected("no_packet", f"no packet {sequence} (there: {', '.join(there)}): `qig packet list` shows them")
    return found


def _spans(packets: list[Packet]) -> str:
    """The sequences of packets, oldest first, as people write them: 0 to 4."""
    if not packets:
        return "none"
    first, last = packets[0].sequence, packets[-1].sequence
    return str(first) if first == last else f"{first} to {last}"


def _of_record(node: str, packet: Packet) -> Seen:
    body = unpack(PacketBody, packet.body)
    envelope = None if packet.raw is None else open_envelope(packet.raw)
    return Seen(node, packet.status, packet.sequence, packet.at_s, body, _carried(packet), packet.raw, envelope)


def _carried(packet: Packet) -> Crystals:
    """What an edge noted that its packet carries, named and implied: to read it from the bytes would take the bundle
    that it names.
    """
    orders = [Order(each.keys, each.counts, each.contexts, each.totals) for each in packet.counts.tables]
    one, two, three = (*orders, *empty().orders[len(orders) :])
    return Crystals((one, two, three))


def _of_file(path: Path, home: Path, genesis: Path) -> Seen:
    try:
        with path.open("rb") as file:
            raw = file.read(PACKET_MAX_BYTES + 1)
    except OSError as error:
        raise Unavailable(
            "no_file", f"{path}: {error.strerror}; name a packet's sequence, or a file with one"
        ) from None
    try:
        envelope = open_envelope(raw)
    except Rejected as error:
        raise Rejected(error.code, f"{path} holds no whole packet: {error.message}") from error
    node, key = _signer(envelope, home)
    body = verify(envelope, key)
    ngrams = _read(envelope, body, home, genesis)
    return Seen(node, "file", envelope.sequence, envelope.at_s, body, ngrams, raw, envelope)


def _read(envelope: Envelope, body: PacketBody, home: Path, genesis: Path) -> Crystals:
    """A packet's n-grams, by what the bundle expects that it names, or one with the same memories."""
    blob = body.crystals
    if not blob:
        return empty()
    vocab_size = crystals.stated_vocabulary(blob)
    if not crystals.is_based(blob):
        return _decoded(blob, vocab_size, None)
    for parts in _bundles(home, genesis):
        prior = _expected(parts, body, vocab_size)
        if prior is not None and crystals.is_based(blob, prior):
            return _decoded(blob, vocab_size, prior)
    raise Rejected(
        "unknown_base",
        f"packet {envelope.sequence} is told by what bundle {envelope.base_version} ({envelope.base.hex()}) expects, "
        f"which no edge of {home} runs: name a folder with its parts with --genesis",
    )


def _decoded(blob: bytes, vocab_size: int, prior: Prior | None) -> Crystals:
    """What crystals name, and what follows from that: the centre counts both."""
    limits = crystals.PACKET_MAX_ENTRIES, crystals.PACKET_MAX_TOTAL
    return implied(crystals.decode(blob, vocab_size, limits[0], max_total=limits[1], prior=prior))


def _bundles(home: Path, genesis: Path) -> Iterator[Mapping[str, bytes]]:
    """The parts of what each edge of a home runs, then of the genesis."""
    with contextlib.suppress(Rejected):  # a home without edges
        for file in edge_files(home, None):
            installed = Slots(file.parent / "bundles").load()
            if installed is not None:
                yield installed.parts
    with contextlib.suppress(Unavailable):  # a home without a genesis
        yield genesis_parts.parts_of(genesis)


def _expected(parts: Mapping[str, bytes], body: PacketBody, vocab_size: int) -> Prior | None:
    """None where the parts have no such domain, or no memory over this vocabulary."""
    with contextlib.suppress(Rejected, KeyError):
        domains = {domain.name: domain for domain in from_json(parts[DOMAINS])}
        memories = [parts[memory_path(name)] for name in domains[body.domain or body.kernel].memories]
        return prior_of([memory_file.from_bytes(data, vocab_size) for data in memories], vocab_size)
    return None


def _signer(envelope: Envelope, home: Path) -> tuple[str, VerifyKey]:
    known = keys.load_enrolled(home)
    if envelope.key not in known:
        message = f"signed with key {envelope.key.hex()}, which is not in {keys.edges_dir(home)}: see --home"
        raise Rejected("unknown_key", message)
    return known[envelope.key]


def _texts(bundles: Path | None, genesis: Path) -> list[bytes]:
    """The bytes of every token."""
    installed = Slots(bundles).load() if bundles is not None else None
    parts = installed.parts if installed is not None else genesis_parts.parts_of(genesis)
    return token_bytes(coordizer_of(parts).merges)


def _merges(seen: Seen, texts: list[bytes]) -> list[dict[str, Any]]:
    """The merges that it proposes, each as a pair of tokens."""
    return [_ngram(Entry((left,), right, count, count), texts) for left, right, count in seen.merges]


def _ngram(each: Entry, texts: list[bytes]) -> dict[str, Any]:
    """An n-gram as its operator reads it; a token that the coordizer does not know is its number in brackets."""
    tokens = (*each.context, each.token)
    spelled = b"".join(texts[token] if token < len(texts) else b"<%d>" % token for token in tokens)
    return {"text": _spelled(spelled), "tokens": list(tokens), "count": each.count, "total": each.total}


def _spelled(text: bytes) -> str:
    return text.decode("utf-8", "backslashreplace")


def _head(seen: Seen) -> dict[str, Any]:
    return {
        "node": seen.node,
        "sequence": seen.sequence,
        "status": seen.status,
        "at_s": seen.at_s,
        "size_bytes": None if seen.raw is None else len(seen.raw),
        "domain": seen.body.domain,
        "interactions": seen.body.interactions,
        "fresh_bytes": seen.body.fresh_bytes,
    }


def _told(seen: Seen) -> dict[str, Any]:
    told = _head(seen) | {"sections": seen.sections}
    if seen.envelope is not None:
        told |= {"envelope": seen.envelope.model_dump(mode="json", exclude={"body"})}
    return told | {"body": seen.body.model_dump(mode="json", exclude={"crystals", "mentions", "merges"})}


def _list_table(rows: list[Seen]) -> Table:
    table = Listing()
    for column in (
        "edge",
        "packet",
        "status",
        "when",
        "domain",
        "bytes",
        "n-grams",
        "mentions",
        "texts",
        "fresh bytes",
    ):
        table.add_column(column, justify="left" if column in _LEFT else "right")
    for seen in rows:
        size = "not sealed" if seen.raw is None else str(len(seen.raw))
        figures = (
            size,
            *map(str, (seen.ngrams.entries, len(seen.hashes), seen.body.interactions, seen.body.fresh_bytes)),
        )
        domain = plain(seen.body.domain or NEW_TERRITORY)
        table.add_row(plain(seen.node or ""), str(seen.sequence), seen.status, _when(seen.at_s), domain, *figures)
    return table


def _print(seen: Seen, listed: list[dict[str, Any]], read: list[dict[str, Any]], merges: list[dict[str, Any]]) -> None:
    out, body = console(), seen.body
    out.print(f"packet {seen.sequence} of {plain(seen.node or '')}: {seen.status}, {_when(seen.at_s)}")
    if seen.envelope is None:
        out.print("not sealed yet: it has certainly not left")
    else:
        if seen.status == "pending":
            out.print("handed to the broker, which did not say that it took it: it may have left")
        terms = seen.envelope
        out.print(f"key {terms.key.hex()}, epoch {terms.epoch}, base {terms.base_version} ({terms.base.hex()})")
    sizes = ", ".join(f"{name} {size}" for name, size in seen.sections.items())
    out.print(f"{sum(seen.sections.values())} bytes: {sizes}")
    phases = ", ".join(f"{name} {count}" for name, count in zip(PHASES, body.phases, strict=True) if count)
    out.print(f"{plain(body.domain or NEW_TERRITORY)} ({body.kernel}): {body.interactions} texts, {body.tokens} tokens")
    out.print(f"{body.fresh_bytes} fresh bytes in {body.fresh_bits:.0f} bits; phases: {phases or 'none'}")
    out.print(f"phi {number(body.phi)}, kappa {number(body.kappa)}; and a basin: 64 shares of what the texts are about")
    if read:
        made_up, known = sum(each["made_up"] for each in read), [each for each in read if each["text"] is not None]
        out.print(f"{len(read)} hashes mentioned, {made_up} of them made up; of what is still held, {len(known)}:")
        out.print(verbatim("  ".join(json_text.dumps(each["text"], ensure_ascii=False) for each in known)))
    if merges:
        shown = ", ".join(json_text.dumps(each["text"], ensure_ascii=False) for each in merges)
        out.print(f"{len(merges)} merges proposed as tokens, which enough edges have mentioned:")
        out.print(verbatim(shown))
    out.print(f"{len(listed)} n-grams:" if listed else "no n-grams")
    if listed:
        out.print(_ngram_table(listed))


def _ngram_table(listed: list[dict[str, Any]]) -> Table:
    table = Listing()
    for column in ("text", "tokens", "count", "of"):
        table.add_column(column, justify="left" if column in _LEFT else "right")
    for each in listed:
        quoted = json_text.dumps(each["text"], ensure_ascii=False)  # blanks and line ends can be seen
        table.add_row(verbatim(quoted), str(len(each["tokens"])), str(each["count"]), str(each["total"]))
    return table


def _when(at_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_s))
