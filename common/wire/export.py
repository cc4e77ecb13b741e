"""The wire for readers without Python: JSON Schemas, and golden vectors of every message, of a packet and of crystals.

`render()` is pure and gives the files of docs/wire by name; docs/wire/README.md, written by hand, explains them. A test
fails when they are stale. The signing seed of the vectors is printed in them: it protects nothing.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from nacl.signing import SigningKey

from common.constants import CELLS, PACKET_MAX_BYTES
from common.wire import basin, bundle, codec, crystals, mentions, packet
from common.wire.fields import Message
from common.wire.inference import Answer, Cancel, Piece, Query, RouteStep
from common.wire.messages import (
    MESSAGES,
    Applied,
    Batch,
    Candidate,
    Common,
    DeadLetter,
    DomainUpdate,
    Evidence,
    Figure,
    Heartbeat,
    PacketRef,
    Returned,
    batch_id,
)

SEED: Final = bytes(range(32))
VOCAB_SIZE: Final = 2048
AT_S: Final = 1_790_000_000.5
NODE: Final = "edge-1"


def export(directory: Path) -> None:
    """Writes the generated files of docs/wire into the directory."""
    for name, data in render().items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def render() -> dict[str, bytes]:
    """Every generated file of docs/wire, by its name there."""
    files = {}
    classes: tuple[type[Message], ...] = (*MESSAGES, packet.Envelope, packet.PacketBody)
    for cls in classes:
        files[f"schemas/{_slug(cls)}.json"] = _json(cls.model_json_schema())
    for message in golden():
        files[f"vectors/{_slug(type(message))}.msgpack"] = codec.pack(message)
        files[f"vectors/{_slug(type(message))}.json"] = _json(message.model_dump(mode="json"))
    raw = golden_packet()
    files["vectors/packet.msgpack"] = raw
    files["vectors/packet.json"] = _json(_packet_facts(raw))
    blob = crystals.encode(golden_crystals(), VOCAB_SIZE)
    files["vectors/crystals.bin"] = blob
    files["vectors/crystals.json"] = _json(_crystal_facts(blob))
    files["vectors/mentions.json"] = _json(_mention_facts())
    files["vectors/rejected.json"] = _json([_refusal(*case) for case in refused()])
    return files


def golden() -> tuple[Message, ...]:
    """One message of each class, every field filled."""
    refs = tuple(PacketRef(key=_key_id(), epoch=1, sequence=n) for n in (1, 2))
    candidate = golden_candidate(refs)
    return (
        Query(
            id="q-1",
            client="kiosk-7",
            text="Wohin fließt der Fluß? 🌊",
            max_tokens=64,
            seed=7,
            mode="constellation",
            top_p=0.9,
            stop=("\n\n",),
            stream=True,
            deadline_s=30.0,
        ),
        Piece(query_id="q-1", client="kiosk-7", node=NODE, index=0, text="Zum ", tokens=2),
        _answer(),
        Cancel(query_id="q-1", client="kiosk-7"),
        Batch(id=batch_id(refs), base_version=0, base_digest="", domains=(_domain(),), packets=refs),
        Common(hashes=mentions.encode(golden_mentions()), packets=refs),
        candidate,
        bundle.sign(candidate, version=1, released_at_s=AT_S, signing_key=SigningKey(SEED)),
        Returned(packets=refs, code="candidate_refused", reason="bits_per_byte of heart is 2.00% worse"),
        Applied(node=NODE, version=1, verdict="applied", reason="", probe_before=2.5, probe_after=2.25, at_s=AT_S),
        Heartbeat(
            node=NODE,
            service="edge",
            at_s=AT_S,
            bundle=1,
            ready=True,
            phases={"heart": "CRYSTAL", "vocab": "TACKING"},
            phi={"heart": 0.79, "vocab": None},
            kappa={"heart": 64.0, "vocab": 31.5},
            bits_per_byte={"heart": 2.5},
            local_bits_per_byte={"heart": 2.25},
            fresh_bytes=20_000,
        ),
        DeadLetter(
            stream="qig:queries",
            entry="1790000000500-0",
            code="garbage",
            reason="Query: 1 bytes that are no msgpack value",
            deliveries=1,
            body=b"\xc1",
            at_s=AT_S,
        ),
    )


def _answer() -> Answer:
    near = RouteStep(domain="heart", kernel="heart", distance_rad=0.25, weight=0.75)
    far = RouteStep(domain="sea", kernel="percept", distance_rad=0.5, weight=0.25)
    return Answer(
        query_id="q-1",
        client="kiosk-7",
        node=NODE,
        bundle=1,
        text="Zum Meer.",
        finish="stop",
        prompt_tokens=9,
        completion_tokens=4,
        prompt_bytes=28,
        prompt_bits=61.5,
        route=(near, far),
        margin_rad=0.25,
        kernel="heart",
        domain="heart",
        phi=0.79,
        phi_p=0.001,
        kappa=64.0,
        phase="CRYSTAL",
        seconds=0.125,
    )


def golden_candidate(refs: tuple[PacketRef, ...]) -> Candidate:
    """A candidate of two small parts, with one figure."""
    parts = {"domains.json": bundle.part_of(b"{}"), "memories/sea.bin": bundle.part_of(b"waves")}
    figure = Figure(name="held_out", domain="sea", before=3.5, after=2.25, unit="bits/byte")
    evidence = Evidence(figures=(figure,), guards=("renewal",), seconds=12.5)
    return Candidate(id="c-1", parent=0, parent_digest="", parts=parts, evidence=evidence, packets=refs)


def _domain() -> DomainUpdate:
    return DomainUpdate(
        name="sea",
        kernel="percept",
        opened=True,
        basin=basin.to_bytes16(_slope()),
        crystals=crystals.encode(golden_crystals(), VOCAB_SIZE),
        gate=bytes(range(99)),
        packets=2,
        tokens=9_000,
        fresh_bytes=30_000,
        fresh_bits=90_000.5,
    )


def golden_crystals() -> crystals.Crystals:
    """The n-grams of "the cat sat", "the cat ran" and a few levels, with a context that is no entry of its own."""
    the, cat, sat, ran = 290, 517, 1033, 2047
    rows: tuple[tuple[tuple[int, ...], int, int, int], ...] = (
        ((), the, 40, 300),
        ((), cat, 9, 300),
        ((the,), cat, 9, 41),
        ((cat,), sat, 5, 9),
        ((cat,), ran, 2, 9),
        ((the, cat), sat, 5, 7),
        ((the, cat), ran, 2, 7),
        ((ran, the), cat, 3, 3),
    )
    return crystals.crystals(crystals.entry(c, token, count=n, total=total) for c, token, n, total in rows)


def golden_mentions() -> mentions.Hashes:
    """Three n-grams and a merge, hashed with SEED as the secret."""
    ngrams = mentions.mention(SEED, "ngram", [(b"the",), (b"the", b" cat"), (b"the", b" cat", b" sat")])
    hashes: mentions.Hashes = np.unique(np.append(ngrams, mentions.mention(SEED, "merge", [(b" c", b"at")])))
    return hashes


def golden_packet() -> bytes:
    """A sealed packet, signed with SEED."""
    body = packet.PacketBody(
        kernel="percept",
        domain="sea",
        basin=basin.to_bytes8(_slope()),
        interactions=12,
        tokens=4_500,
        fresh_bytes=15_000,
        fresh_bits=45_000.25,
        phi=0.79,
        kappa=None,
        phases=(1, 20, 30, 4),
        gate=bytes(range(99)),
        crystals=_adaptive(golden_crystals()),
    )
    return packet.seal(
        body, signing_key=SigningKey(SEED), epoch=1, sequence=2, base_version=3, base=bytes(range(8)), at_s=AT_S
    )


def _adaptive(found: crystals.Crystals) -> bytes:
    ranking = np.arange(found.entries)
    return crystals.fit(found, ranking, vocab_size=VOCAB_SIZE, budget_bytes=PACKET_MAX_BYTES)[1]


def refused() -> Iterator[tuple[type[Message], bytes, str]]:
    """Bodies that every reader must refuse, with the code of the reason."""
    yield Query, b"", "garbage"
    yield Query, b"\xc1", "garbage"
    yield Query, codec.canonical({"text": "hi"})[:-1], "garbage"
    yield Query, codec.canonical({"text": "hi"}) + b"\xc0", "garbage"
    yield Query, codec.canonical({"text": "hi", "v": 2}), "wrong_version"
    yield Query, codec.canonical({"text": "hi", "temprature": 1.0}), "unknown_field"
    yield Query, codec.canonical({}), "bad_field"
    yield Query, codec.canonical({"text": "hi", "temperature": float("nan")}), "bad_field"
    yield Query, codec.canonical({"text": "hi", "max_tokens": -1}), "bad_field"
    yield Query, codec.canonical({"text": "hi", "max_tokens": "5"}), "bad_field"
    yield Query, codec.canonical({"text": "hi", "client": "a:b"}), "bad_field"
    yield Query, b'{"text": "hi"', "garbage"
    yield Applied, codec.canonical({"node": NODE, "version": 0, "verdict": "applied", "at_s": AT_S}), "bad_field"


def _refusal(cls: type[Message], body: bytes, code: str) -> dict[str, str]:
    return {"message": cls.__name__, "body": body.hex(), "code": code}


def _packet_facts(raw: bytes) -> dict[str, Any]:
    envelope = packet.open_envelope(raw)
    body = packet.verify(envelope, SigningKey(SEED).verify_key)
    return {
        "seed": SEED.hex(),
        "public_key": bytes(SigningKey(SEED).verify_key).hex(),
        "envelope": envelope.model_dump(mode="json"),
        "body": body.model_dump(mode="json"),
    }


def _crystal_facts(blob: bytes) -> dict[str, Any]:
    decoded = crystals.decode(blob, VOCAB_SIZE, crystals.PACKET_MAX_ENTRIES)
    orders = [
        {name: getattr(order, name).tolist() for name in ("keys", "counts", "contexts", "totals")}
        for order in decoded.orders
    ]
    return {"vocab_size": VOCAB_SIZE, "blob": blob.hex(), "orders": orders}


def _mention_facts() -> dict[str, Any]:
    things: list[tuple[mentions.Kind, list[bytes]]] = [
        ("ngram", [b"the"]), ("ngram", [b"the", b" cat"]), ("ngram", [b"the", b" cat", b" sat"]),
        ("merge", [b" c", b"at"]), ("ngram", [b" c", b"at"]), ("ngram", [b" cat"]), ("ngram", []),
    ]  # fmt: skip
    hashed = [
        {
            "kind": kind,
            "pieces": [piece.hex() for piece in pieces],
            "hash": int(mentions.mention(SEED, kind, [pieces])[0]),
        }
        for kind, pieces in things
    ]
    sets = [
        np.array(each, np.uint32)
        for each in ([], [0], [mentions.SPACE - 1], [7, 8, 9], range(0, mentions.SPACE, 1 << 14))
    ]
    coded = [{"blob": mentions.encode(each).hex(), "hashes": each.tolist()} for each in [*sets, golden_mentions()]]
    return {"secret": SEED.hex(), "hashed": hashed, "sets": coded}


def _slope() -> basin.Array:
    ramp = np.arange(1, CELLS + 1, dtype=np.float64)
    return ramp / float(ramp.sum())


def _key_id() -> bytes:
    return packet.key_id(SigningKey(SEED).verify_key)


def _slug(cls: type[Message]) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in cls.__name__).lstrip("_")


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
