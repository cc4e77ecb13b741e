"""Golden packets beyond the one in export.py: every form that a packet takes, and what a reader must refuse.

`render()` is pure and gives files of docs/wire by name. tests/unit/packet.mjs reads them without a line of this code.
"""

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from nacl.signing import SigningKey

from common.constants import CELLS, PACKET_MAX_BYTES
from common.wire import adaptive, crystals, export, mentions, packet, proposals
from common.wire.codec import canonical, parse
from common.wire.expected import Expected, Prior
from common.wire.fields import MAX_COUNT, MAX_U32
from common.wire.mentions import PACKET_MAX_MENTIONS
from common.wire.ngrams import MAX_VOCAB, Crystals, entries
from common.wire.packet import DOMAIN_SEPARATION, PACKET_GATE_MAX_BYTES, ROOM_BYTES, PacketBody
from common.wire.proposals import COUNT_MAX, PACKET_MAX_MERGES

KEY: Final = SigningKey(export.SEED)
CRYSTALS_MOST: Final = 2900


@dataclass(frozen=True, slots=True)
class Case:
    """A packet that a reader of `vocab_size` tokens takes."""

    raw: bytes
    vocab_size: int
    what: str
    prior: Prior | None = None  # what its base expects

    @property
    def body(self) -> PacketBody:
        """What it says, signature checked."""
        return packet.verify(packet.open_envelope(self.raw), KEY.verify_key)


def render() -> dict[str, bytes]:
    """The files by their names in docs/wire."""
    taken = {name: _facts(case) for name, case in cases().items()}
    refused = [{"raw": raw.hex(), "code": code, "what": what} for raw, code, what in refusals()]
    key = {"public_key": bytes(KEY.verify_key).hex()}
    return {
        "vectors/packets.json": _json(key | {"packets": taken}),
        "vectors/prior.json": json.dumps(_expected(golden_prior())).encode() + b"\n",
        "vectors/packets_refused.json": _json(key | {"vocab_size": export.VOCAB_SIZE, "packets": refused}),
    }


def cases() -> dict[str, Case]:
    """Packets by name."""
    grid, triples = _grid(24), _scattered(300)
    full, blob = crystals.fit(_scattered(2000), np.arange(2000), vocab_size=MAX_VOCAB, budget_bytes=CRYSTALS_MOST)
    _, most = mentions.fit(_spread(PACKET_MAX_MENTIONS), ROOM_BYTES - len(blob))
    return {
        "golden": Case(export.golden_packet(), export.VOCAB_SIZE, "`vectors/packet.msgpack`"),
        "smallest": Case(_seal({}, {"epoch": 0, "sequence": 0, "base_version": 0, "base": bytes(8)}), 2048,
                         "nothing known: nil, zero or empty wherever that may be; new territory, genesis"),
        "dense": Case(_seal({"crystals": _adaptive(grid, 4096)}), 4096, "every pair of 24 tokens"),
        "plain": Case(_seal({"crystals": crystals.encode(grid, 4096)}), 4096, "the same in the plain form"),
        "based": Case(_seal({"crystals": _adaptive(_spoken(), export.VOCAB_SIZE, golden_prior())}), export.VOCAB_SIZE,
                      "what its base expects, and two pairs that it does not expect", golden_prior()),
        "sparse": Case(_seal({"crystals": _adaptive(triples, MAX_VOCAB)}), MAX_VOCAB,
                       "triples all over the largest vocabulary"),
        "proposing": Case(_seal({"merges": proposals.encode([(116, 104, 9), (32, 116, 12), (32, 300, COUNT_MAX + 1)])}),
                          2048, "nothing said, 3 merges proposed"),
        "mentioning": Case(_seal({"mentions": mentions.encode(export.golden_mentions())}), 2048,
                           "nothing said, 4 hashes mentioned"),
        "largest": Case(_seal({"crystals": blob, "mentions": most} | _LONGEST, {"epoch": MAX_U32, "sequence": MAX_U32,
                              "base_version": MAX_COUNT}), MAX_VOCAB,
                        f"every field at its longest, {CRYSTALS_MOST} bytes for {full.entries} n-grams and "
                        f"{len(most)} for hashes"),
    }  # fmt: skip


def refusals() -> Iterator[tuple[bytes, str, str]]:
    """Packets that a reader over export.VOCAB_SIZE tokens must refuse: bytes, code, what is wrong."""
    raw = export.golden_packet()
    fields = parse("packet", raw)
    yield bytes(PACKET_MAX_BYTES + 1), "packet_too_large", "4,097 bytes"
    yield raw[:-1], "garbage", "cut off"
    yield raw + b"\xc0", "garbage", "a byte left over"
    yield b"", "garbage", "no bytes"
    yield canonical(fields[:-1]), "bad_field", "8 fields"
    yield canonical((2, *fields[1:])), "wrong_version", "version 2"
    yield canonical((*fields[:2], -1, *fields[3:])), "bad_field", "a negative epoch"
    yield canonical((*fields[:6], 5, *fields[7:])), "not_canonical", "a time as a whole number"
    yield b"\xdc\x00\x09" + raw[1:], "not_canonical", "an array header longer than need be"
    yield canonical((*fields[:3], 3, *fields[4:])), "bad_signature", "another sequence than was signed"
    yield canonical((*fields[:-1], bytes(64))), "bad_signature", "a signature of zeros"
    other = SigningKey(bytes(32)).sign(DOMAIN_SEPARATION + canonical(fields[:-1])).signature
    yield canonical((*fields[:-1], other)), "bad_signature", "signed by another key"
    yield _signed(b"\xc1"), "garbage", "signed, but the body is no msgpack"
    yield _signed(canonical((1,) * 12)), "bad_field", "signed, but the body has 12 fields"
    golden = parse("packet", parse("packet", raw)[7])
    yield _signed(canonical((*golden, b"", b"", b""))), "bad_field", "signed, but the body has 16 fields"
    yield _signed(canonical((*golden, b""))), "not_canonical", "signed, but no mentions are there as an empty field"
    mention = mentions.encode(export.golden_mentions())
    yield (
        _signed(canonical((*golden, mention, b""))),
        "not_canonical",
        "signed, but no merges are there as an empty field",
    )
    yield from _bad_merges()
    yield from _bad_mentions()
    yield from _bad_crystals()


def _bad_merges() -> Iterator[tuple[bytes, str, str]]:
    row = proposals.encode([(32, 116, 12)])
    for wrong, what in (
        (row[:-1], "a merge cut off"),
        (row + row, "a merge that is there twice"),
        (proposals.encode([(116, 104, 9)]) + row, "merges that do not ascend"),
        (proposals.encode([(32, 116, 0)]), "a merge that was never seen"),
        (proposals.encode([(32, export.VOCAB_SIZE, 2)]), "a merge of an unknown token"),
    ):
        yield _seal({"merges": wrong}), "bad_merges", what


def _bad_mentions() -> Iterator[tuple[bytes, str, str]]:
    blob = mentions.encode(export.golden_mentions())
    for wrong, what in (
        (b"\0", "a count cut off"),
        (b"\0\0", "a set of no hashes that is not left out"),
        (blob[:-1], "hashes cut off"),
        (blob + b"\0", "a byte left over after the hashes"),
        (blob[:-1] + bytes([blob[-1] | 1]), "hashes whose padding is no zeros"),
        ((PACKET_MAX_MENTIONS + 1).to_bytes(2, "little") + b"\xff" * 3000, f"more than {PACKET_MAX_MENTIONS} hashes"),
        (b"\x01\0" + bytes(1) + b"\x7f" + b"\xff" * 3, "a hash of more than 24 bits"),
    ):
        yield _seal({"mentions": wrong}), "bad_mentions", what


def _bad_crystals() -> Iterator[tuple[bytes, str, str]]:
    blob = _adaptive(export.golden_crystals(), export.VOCAB_SIZE)
    flipped = blob[:-1] + bytes([blob[-1] ^ 128])
    yield _seal({"crystals": flipped}), "bad_crystals", "a flipped bit that the crc32 shows"
    yield _seal({"crystals": blob[:6]}), "bad_crystals", "less than the header"
    yield _seal({"crystals": _forged(4, blob[5:])}), "bad_crystals", "form 4"
    based = _adaptive(export.golden_crystals(), export.VOCAB_SIZE, golden_prior())
    yield _seal({"crystals": based}), "unknown_base", "form 3, read without a base"
    other = crystals.encode(export.golden_crystals(), 4096)
    yield _seal({"crystals": other}), "wrong_vocabulary", "n-grams over 4,096 tokens"
    heavy = crystals.crystals([crystals.entry((), 7, count=2, total=1 << 24)])
    for form, whole in ((2, blob), (1, crystals.encode(export.golden_crystals(), export.VOCAB_SIZE))):
        where = f"form {form}: "
        for more in (b"\0", b"\1"):
            longer = _seal({"crystals": _forged(form, whole[5:] + more)})
            yield longer, "bad_crystals", where + f"a byte of {more[0]} left over, behind a right crc32"
        endless = _forged(form, whole[5:7] + b"\xff\xff\xff\xff" + whole[8:])
        yield _seal({"crystals": endless}), "bad_crystals", where + "an endless size"
        huge = _forged(form, whole[5:7] + b"\xff\xff\xff\x7f" + whole[8:])
        yield _seal({"crystals": huge}), "too_many_entries", where + "268 million tokens announced"
    vocabulary, told = whole[5:7], f"a context seen more than {crystals.PACKET_MAX_TOTAL} times"
    often = adaptive.encode(heavy, export.VOCAB_SIZE, max_bytes=CRYSTALS_MOST) or b""
    yield _seal({"crystals": _forged(2, vocabulary + often)}), "bad_crystals", f"form 2: {told}"
    yield _seal({"crystals": crystals.encode(heavy, export.VOCAB_SIZE)}), "bad_crystals", f"form 1: {told}"
    cut = _seal({"crystals": _forged(1, whole[5:-1])})
    yield cut, "bad_crystals", "form 1: cut off, behind a right crc32"
    more = _forged(2, blob[5:7] + bytes([blob[7] + 1]) + blob[8:])
    yield _seal({"crystals": more}), "bad_crystals", "form 2: more tokens announced than told"
    many = crystals.encode(_grid(72), export.VOCAB_SIZE)
    yield _seal({"crystals": many}), "too_many_entries", f"form 1: more than {crystals.PACKET_MAX_ENTRIES} n-grams"


_LEAST: Final[dict[str, Any]] = {
    "kernel": "heart", "domain": None, "basin": bytes([255]) + bytes(CELLS - 1), "interactions": 0, "tokens": 0,
    "fresh_bytes": 0, "fresh_bits": 0.0, "phi": None, "kappa": None, "phases": (0, 0, 0, 0),
}  # fmt: skip
_LONGEST: Final[dict[str, Any]] = {
    "kernel": "strategy", "domain": "d" * 64, "interactions": MAX_COUNT, "tokens": MAX_COUNT,
    "fresh_bytes": MAX_COUNT, "fresh_bits": 1e300, "phi": 1.0, "kappa": 1e6, "phases": (MAX_COUNT,) * 4,
    "gate": bytes(range(PACKET_GATE_MAX_BYTES)),
    "merges": proposals.encode([(MAX_VOCAB - 1, n, COUNT_MAX) for n in range(PACKET_MAX_MERGES)]),
}  # fmt: skip


def _seal(change: dict[str, Any], terms: dict[str, Any] | None = None) -> bytes:
    own: dict[str, Any] = {"epoch": 1, "sequence": 2, "base_version": 3, "base": bytes(range(8))}
    return packet.seal(
        PacketBody.model_validate(_LEAST | change), signing_key=KEY, at_s=export.AT_S, **own | (terms or {})
    )


def _signed(body: bytes) -> bytes:
    """A golden packet with this body, rightly signed."""
    fields = (*parse("packet", export.golden_packet())[:7], body)
    return canonical((*fields, KEY.sign(DOMAIN_SEPARATION + canonical(fields)).signature))


def _forged(form: int, rest: bytes) -> bytes:
    """Crystals behind a right crc32, whatever they are."""
    crc = zlib.crc32(rest, zlib.crc32(bytes([form])))
    return bytes([form]) + crc.to_bytes(4, "little") + rest


def _adaptive(found: Crystals, vocab_size: int, prior: Prior | None = None) -> bytes:
    """All of them, as an edge sends them."""
    ranking = np.arange(found.entries)
    return crystals.fit(found, ranking, vocab_size=vocab_size, budget_bytes=CRYSTALS_MOST, prior=prior)[1]


def golden_prior() -> Prior:
    """64 tokens that were heard about as often, the last much more often, each with 8 followers."""
    levels = np.zeros(export.VOCAB_SIZE, np.uint8)
    levels[:64] = [8 + token % 3 if token < 63 else 60 for token in range(64)]
    rows = [sorted((3 * token + 7 * k) % 64 for k in range(8)) for token in range(64)]
    starts = np.minimum(np.arange(export.VOCAB_SIZE + 1), 64).astype(np.uint32) * np.uint32(8)
    heard = [
        4 + (token + 11 * follower) % 4 if token < 63 else 50 for token, row in enumerate(rows) for follower in row
    ]
    return Prior.of(Expected(levels, starts, np.array(rows, np.uint16).ravel(), np.array(heard, np.uint8)))


def _spoken() -> Crystals:
    """N-grams of the golden prior's tokens: most are what it expects."""
    pairs = [(a, (3 * a + 7 * k) % 64) for a in range(0, 60, 2) for k in range(a % 5)] + [(1, 2), (2000, 5)]
    chains = [(a, b, c) for a, b in pairs for first, c in pairs if first == b][:40]
    counted = [((), a, 3 + a, 9000) for a in range(60)]
    followed = [((a,), b, 2 + b % 4, 300) for a, b in pairs]
    chained = [((a, b), c, 2, 20) for a, b, c in chains]
    return crystals.crystals(
        crystals.entry(context, token, count=count, total=total)
        for context, token, count, total in (*counted, *followed, *chained)
    )


def _expected(prior: Prior) -> dict[str, Any]:
    return {"name": prior.name.hex()} | {name: each.tolist() for name, each in prior.expected._asdict().items()}


def _grid(side: int) -> Crystals:
    """Every pair of `side` tokens, the counts after one another."""
    rows = [(one, other, 2 + (one + other) % 5) for one in range(side) for other in range(side)]
    total = {one: 2 * sum(count for first, _, count in rows if first == one) for one in range(side)}
    return crystals.crystals(crystals.entry((a,), b, count=c, total=total[a]) for a, b, c in rows)


def _scattered(count: int) -> Crystals:
    """Triples whose tokens lie all over the largest vocabulary: a multiplication that never repeats scatters them."""
    places = [n * 2_654_435_761 % (1 << 32) for n in range(count)]
    grams = [(p >> 17, p >> 2 & (MAX_VOCAB - 1), (7 * p) >> 5 & (MAX_VOCAB - 1)) for p in places]
    return crystals.crystals(crystals.entry(g[:2], g[2], count=2 + g[2] % 3, total=10) for g in grams)


def _spread(count: int) -> mentions.Hashes:
    """Hashes all over their space, in no order."""
    return np.array([n * 2_654_435_761 % mentions.SPACE for n in range(1, count + 1)], np.uint32)


def _facts(case: Case) -> dict[str, Any]:
    envelope = packet.open_envelope(case.raw)
    return {
        "what": case.what,
        "raw": case.raw.hex(),
        "vocab_size": case.vocab_size,
        "prior": case.prior.name.hex() if case.prior else None,
        "envelope": envelope.model_dump(mode="json", exclude={"body"}),
        "body": case.body.model_dump(mode="json", exclude={"crystals", "mentions", "merges"}),
        "ngrams": ngrams(case),
        "mentions": mentions.decode(case.body.mentions, PACKET_MAX_MENTIONS).tolist(),
        "merges": proposals.decode(case.body.merges, case.vocab_size),
    }


def ngrams(case: Case) -> list[str]:
    """A packet's n-grams as lines of numbers: tokens, the oldest first, then the count, then the context's total."""
    if not case.body.crystals:
        return []
    found = crystals.decode(
        case.body.crystals,
        case.vocab_size,
        crystals.PACKET_MAX_ENTRIES,
        max_total=crystals.PACKET_MAX_TOTAL,
        prior=case.prior,
    )
    return [" ".join(map(str, (*each.context, each.token, each.count, each.total))) for each in entries(found)]


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
