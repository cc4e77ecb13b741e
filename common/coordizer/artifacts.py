"""The coordizer as a value, and as the four files it travels in.

    ids   0 ............ 255 | 256 257 258 | 259 ..............................
          one for each byte  | BOS EOS PAD | one for each merge, as they came

Old ids never change: cutting merges off the end or appending new ones moves nothing. There is no UNK: every byte has
an id. Knows how to write and check itself; knows nothing of training, text or where the files lie.

    vocab.json         {"printable form of the token's bytes": id}, in GPT-2's byte alphabet, as Hugging Face has it
    merge_rules.json   [[left id, right id], ...]; the place in the list is the rank
    basin_coords.npy   float16, (ids, 64), rows on the simplex
    manifest.json      digests of the other three, the pattern, the parameters, the corpus, the parent
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from common.constants import CELLS, ROLES, Role
from common.coordizer.words import PATTERN, RUN_LIMIT
from common.errors import Corrupt, Rejected
from common.geometry import rows
from common.geometry.simplex import from_float16

BOS: Final = 256
EOS: Final = 257
PAD: Final = 258
SPECIALS: Final = {"<|bos|>": BOS, "<|eos|>": EOS, "<|pad|>": PAD}
FIRST_MERGE: Final = 259
VOCAB_MAX: Final = 1 << 15  # settled: crystals and memories pack a token into 15 bits
TOKEN_MAX_BYTES: Final = 1 + 4 * RUN_LIMIT  # what one run of the pattern can hold: a space and 64 UTF-8 characters
PART_MAX_BYTES: Final = 8 << 20  # chosen: the largest part of the largest vocabulary has 4.2 MB
JSON_MAX_VALUES: Final = 5 * VOCAB_MAX  # a merge is three; read, the least value takes more than ten times its bytes
TRACE_MAX: Final = 1000  # rows
PARTS: Final = ("vocab.json", "merge_rules.json", "basin_coords.npy", "manifest.json")
_FORMAT: Final = "qig-coordizer"
_VERSION: Final = 1

_VISIBLE: Final = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTE_ORDER: Final = (*_VISIBLE, *(b for b in range(256) if b not in _VISIBLE))  # GPT-2's: the visible ones first
_ALPHABET: Final = {
    byte: chr(byte if rank < len(_VISIBLE) else 256 + rank - len(_VISIBLE)) for rank, byte in enumerate(BYTE_ORDER)
}


Trace = tuple[tuple[int, float | None, float | None, float | None], ...]  # ids, Φ by midpoints, Φ in the end, its p


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a coordizer comes from. Digests are sha256 in hex; `parent` is the digest of the one it was cut from."""

    corpus_sha256: str
    documents: dict[Role, int]
    size_bytes: dict[Role, int]
    seed: int
    parent: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Coordizer:
    """What gives text its ids, and ids their basins.

    merges: (M, 2) int32; basins: (FIRST_MERGE + M, 64) float16, rows on the simplex, no two equal; lam: λ of the score;
    trace: Φ of the token stream while it was made, when that was watched.
    Checked when made: raises Rejected("bad_merges" or "bad_basins"), Rejected("off_simplex").
    """

    merges: npt.NDArray[np.int32]
    basins: npt.NDArray[np.float16]
    lam: float
    provenance: Provenance
    trace: Trace = ()

    def __post_init__(self) -> None:
        check_merges(self.merges)
        _check_basins(self.basins, len(self.merges))
        self.merges.setflags(write=False)
        self.basins.setflags(write=False)

    @property
    def vocab_size(self) -> int:
        """How many ids there are, special tokens included."""
        return FIRST_MERGE + len(self.merges)


def check_vocab_size(vocab_size: int) -> None:
    """Raises Rejected("vocab_size") outside [FIRST_MERGE, VOCAB_MAX]."""
    if not FIRST_MERGE <= vocab_size <= VOCAB_MAX:
        raise Rejected("vocab_size", f"vocabulary of {vocab_size}; choose {FIRST_MERGE} to {VOCAB_MAX}")


def check_merges(merges: npt.NDArray[np.int32]) -> None:
    """Raises Rejected("bad_merges") unless each merge joins two earlier tokens into a new, short enough string."""
    if merges.dtype != np.int32 or merges.ndim != 2 or merges.shape[1] != 2 or len(merges) > VOCAB_MAX - FIRST_MERGE:
        raise Rejected("bad_merges", f"merges of shape {merges.shape} and type {merges.dtype}; expected int32 (M, 2)")
    own = np.arange(FIRST_MERGE, FIRST_MERGE + len(merges), dtype=np.int32)[:, None]
    wrong = (merges < 0) | (merges >= own) | ((merges >= BOS) & (merges < FIRST_MERGE))
    if wrong.any():
        rank = int(np.argmax(wrong.any(axis=1)))
        raise Rejected("bad_merges", f"merge {rank} joins {merges[rank].tolist()}: bytes or earlier merges only")
    length = [1] * FIRST_MERGE
    for rank, (left, right) in enumerate(merges.tolist()):
        length.append(length[left] + length[right])
        if length[-1] > TOKEN_MAX_BYTES:
            raise Rejected("bad_merges", f"merge {rank} makes {length[-1]} bytes; the limit is {TOKEN_MAX_BYTES}")
    if len({*token_bytes(merges)}) != FIRST_MERGE + len(merges) - (len(SPECIALS) - 1):
        raise Rejected("bad_merges", "two ids stand for the same bytes: leave the later merge out")


def _check_basins(basins: npt.NDArray[np.float16], merges: int) -> None:
    expected = (FIRST_MERGE + merges, CELLS)
    if basins.dtype != np.float16 or basins.shape != expected:
        raise Rejected(
            "bad_basins", f"basins of shape {basins.shape} and type {basins.dtype}; expected float16 {expected}"
        )
    from_float16(basins)
    twins = len(basins) - count_distinct(basins)
    if twins:
        raise Rejected("bad_basins", f"{twins} basins equal another token's: perturb them (basins.distinct does)")


def count_distinct(basins: npt.NDArray[np.float16]) -> int:
    """How many different rows there are, bit by bit."""
    rows = np.ascontiguousarray(basins + np.float16(0))  # −0 + 0 = 0: one zero only
    return len({*map(bytes, rows)})


def token_bytes(merges: npt.NDArray[np.int32]) -> list[bytes]:
    """The bytes of every id; special tokens stand for none."""
    table = [bytes([byte]) for byte in range(256)] + [b""] * len(SPECIALS)
    for left, right in merges.tolist():
        table.append(table[left] + table[right])
    return table


def printable(token: bytes) -> str:
    """A token in GPT-2's byte alphabet: one visible character a byte.

    >>> printable(b" the")
    'Ġthe'
    """
    return "".join(map(_ALPHABET.__getitem__, token))


def pairs_from(merges: npt.NDArray[np.int32], vocab_size: int) -> list[tuple[int, int]]:
    """The merges that make the ids from `vocab_size` on, in their order: what a larger vocabulary has more.

    vocab_size: at least FIRST_MERGE.
    """
    return [(left, right) for left, right in merges[vocab_size - FIRST_MERGE :].tolist()]


def lineage(merges: npt.ArrayLike) -> str:
    """Which ids stand for which bytes, as sha256 in hex over the merges that make them, (N, 2), in their order."""
    return _sha256(np.asarray(merges, "<i4").reshape(-1, 2).tobytes())


def vocabulary(merges: npt.NDArray[np.int32]) -> dict[str, int]:
    """Printable form to id, as vocab.json has it."""
    forms = {printable(token): number for number, token in enumerate(token_bytes(merges)) if token}
    return forms | SPECIALS


def prefix(coordizer: Coordizer, vocab_size: int) -> Coordizer:
    """The first `vocab_size` ids, a coordizer of its own with the same ids and basins.

    Raises Rejected("vocab_size") below FIRST_MERGE and above the coordizer's own size.
    """
    if not FIRST_MERGE <= vocab_size <= coordizer.vocab_size:
        message = f"cannot cut {vocab_size} ids from {coordizer.vocab_size}; at least {FIRST_MERGE} remain always"
        raise Rejected("vocab_size", message)
    if vocab_size == coordizer.vocab_size:
        return coordizer
    return Coordizer(
        merges=coordizer.merges[: vocab_size - FIRST_MERGE].copy(),
        basins=coordizer.basins[:vocab_size].copy(),
        lam=coordizer.lam,
        provenance=replace(coordizer.provenance, parent=digest(coordizer)),
        trace=tuple(look for look in coordizer.trace if look[0] <= vocab_size),
    )


def to_parts(coordizer: Coordizer) -> dict[str, bytes]:
    """The four files; equal coordizers give equal bytes."""
    parts = {
        "vocab.json": _json(vocabulary(coordizer.merges)),
        "merge_rules.json": _json(coordizer.merges.tolist()),
        "basin_coords.npy": rows.to_bytes(coordizer.basins),
    }
    manifest = {
        "format": _FORMAT,
        "v": _VERSION,
        "vocab_size": coordizer.vocab_size,
        "lam": coordizer.lam,
        "pattern": PATTERN,
        "specials": SPECIALS,
        "provenance": asdict(coordizer.provenance),
        "phi": coordizer.trace,
        "parts": {name: _sha256(body) for name, body in parts.items()},
    }
    return parts | {"manifest.json": _json(manifest)}


def digest(coordizer: Coordizer) -> str:
    """sha256 of manifest.json, in hex: it covers everything."""
    return _sha256(to_parts(coordizer)["manifest.json"])


def from_parts(parts: Mapping[str, bytes]) -> Coordizer:
    """The coordizer in these four files, fully checked.

    Raises Corrupt("part_digest") for a part that is not what the manifest promises; Rejected("bad_artifact") for a
    missing, oversized or malformed one, and whatever `Coordizer` refuses.
    """
    for name in PARTS:
        if name not in parts:
            raise Rejected("bad_artifact", f"{name} is missing; a coordizer is {', '.join(PARTS)}")
        if len(parts[name]) > PART_MAX_BYTES:
            raise Rejected("bad_artifact", f"{name} has {len(parts[name])} bytes; the limit is {PART_MAX_BYTES}")
    manifest = _manifest(parts["manifest.json"])
    for name in PARTS[:3]:
        if _sha256(parts[name]) != manifest["parts"].get(name):
            raise Corrupt("part_digest", f"{name} is not the file that manifest.json describes: fetch it again")
    merges = read_merges(parts["merge_rules.json"])
    coordizer = Coordizer(
        merges=merges,
        basins=_basins(parts["basin_coords.npy"]),
        lam=_number(manifest, "lam"),
        provenance=_provenance(manifest["provenance"]),
        trace=_trace(manifest.get("phi", [])),
    )
    if _parse("vocab.json", parts["vocab.json"]) != vocabulary(merges):
        raise Rejected("bad_artifact", "vocab.json does not list the tokens that merge_rules.json makes")
    return coordizer


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _parse(name: str, body: bytes) -> Any:
    if sum(map(body.count, (b",", b":", b"[", b"{"))) > JSON_MAX_VALUES:
        raise Rejected("bad_artifact", f"{name} has more than {JSON_MAX_VALUES} values: no vocabulary is so large")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Rejected("bad_artifact", f"{name} is no JSON: {error}") from None


def _manifest(body: bytes) -> dict[str, Any]:
    manifest = _parse("manifest.json", body)
    if not isinstance(manifest, dict):
        raise Rejected("bad_artifact", "manifest.json is no object")
    expected = {"format": _FORMAT, "v": _VERSION, "pattern": PATTERN, "specials": SPECIALS}
    for key, value in expected.items():
        if manifest.get(key) != value:
            raise Rejected(
                "bad_artifact", f"manifest.json: {key} is {manifest.get(key)!r}; this version reads {value!r}"
            )
    for key in ("parts", "provenance"):
        if not isinstance(manifest.get(key), dict):
            raise Rejected("bad_artifact", f"manifest.json: {key} is missing or no object")
    return manifest


def _number(manifest: dict[str, Any], key: str) -> float:
    value = manifest.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0.0 <= value < np.inf:
        raise Rejected("bad_artifact", f"manifest.json: {key} is {value!r}; expected a number, 0 or more")
    return float(value)


def _trace(looks: object) -> Trace:
    def share(value: object) -> bool:
        return value is None or (type(value) is float and 0.0 <= value <= 1.0)

    if not isinstance(looks, list) or len(looks) > TRACE_MAX:
        raise Rejected("bad_artifact", f"manifest.json: phi is no list of at most {TRACE_MAX} rows")
    for row in looks:
        if not (isinstance(row, list) and len(row) == 4 and type(row[0]) is int and all(map(share, row[1:]))):
            raise Rejected("bad_artifact", f"manifest.json: phi has the row {str(row)[:80]}: expected [ids, Φ, Φ, p]")
    return tuple((ids, then, now, p_value) for ids, then, now, p_value in looks)


def _provenance(fields: dict[str, Any]) -> Provenance:
    def counts(key: str) -> dict[Role, int]:
        value = fields.get(key)
        if not isinstance(value, dict) or not all(r in ROLES and type(n) is int and n >= 0 for r, n in value.items()):
            raise Rejected("bad_artifact", f"manifest.json: provenance.{key} is no count by role")
        return value

    corpus, seed, parent = fields.get("corpus_sha256"), fields.get("seed"), fields.get("parent")
    if not isinstance(corpus, str) or type(seed) is not int or not (parent is None or isinstance(parent, str)):
        raise Rejected("bad_artifact", "manifest.json: provenance needs corpus_sha256, seed and parent")
    return Provenance(corpus, counts("documents"), counts("size_bytes"), seed, parent)


def read_merges(body: bytes) -> npt.NDArray[np.int32]:
    """The merges in merge_rules.json, (M, 2), unchecked but for their form. Raises Rejected("bad_artifact")."""
    rules = _parse("merge_rules.json", body)
    if not isinstance(rules, list) or not all(
        isinstance(rule, list) and len(rule) == 2 and all(type(side) is int and 0 <= side < VOCAB_MAX for side in rule)
        for rule in rules
    ):
        raise Rejected("bad_artifact", "merge_rules.json is no list of [left id, right id]")
    return np.array(rules, np.int32).reshape(-1, 2)


def _basins(body: bytes) -> npt.NDArray[np.float16]:
    try:
        return rows.from_bytes(body, np.float16, CELLS)
    except ValueError as error:
        raise Rejected("bad_artifact", f"basin_coords.npy: {error}") from None
