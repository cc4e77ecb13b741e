"""What a packet of one's own edge mentions, as text: the operator has the secret, and what the edge holds.

A hash says nothing by itself; here everything that the edge still holds is hashed, and what fits is what was mentioned.
What a bundle has taken meanwhile is held no more, and its hash stays a hash.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import QigError
from common.kernels.memory import Memory
from common.runtime import keys
from common.wire.mentions import mention
from common.wire.ngrams import ORDERS, Crystals, Order, entries
from services.edge.mentions import decoys
from services.edge.record import read_residues


@dataclass(frozen=True, slots=True)
class Mentioned:
    """text: None where nobody here knows it; made_up: a decoy, the hash of nothing."""

    hash: int
    text: bytes | None
    made_up: bool


def readable(file: Path, sequence: int, hashes: Sequence[int], texts: Sequence[bytes]) -> list[Mentioned]:
    """The hashes of a packet as its operator reads them. file: the edge's; texts: the bytes of every token."""
    home, node = file.parents[2], file.parent.name
    try:
        secret, own = keys.load_secret(keys.secret_path(home)), bytes(keys.load_private(home, node))
    except QigError:  # not here: another home's edge, or the secret lies elsewhere
        return [Mentioned(each, None, made_up=False) for each in hashes]
    false = set(decoys(own, [sequence]).tolist())
    held = _held(read_residues(file), secret, texts)
    return [Mentioned(each, held.get(each), made_up=each in false) for each in hashes]


def _held(residues: Sequence[Memory], secret: bytes, texts: Sequence[bytes]) -> dict[int, bytes]:
    grams = {gram for residue in residues for gram in _grams(residue, len(texts))}
    spelled = [[texts[token] for token in gram] for gram in sorted(grams)]
    pairs = [pieces for pieces in spelled if len(pieces) == 2]  # a merge is of two tokens that stand together
    hashes = [*mention(secret, "ngram", spelled).tolist(), *mention(secret, "merge", pairs).tolist()]
    return {each: b"".join(pieces) for each, pieces in zip(hashes, [*spelled, *pairs], strict=True)}


def _grams(residue: Memory, vocab_size: int) -> list[tuple[int, ...]]:
    one, two, three = (Order(t.keys, t.counts, t.contexts, t.totals) for t in residue.tables[:ORDERS])
    found = [(*each.context, each.token) for each in entries(Crystals((one, two, three)))]
    return [gram for gram in found if max(gram) < vocab_size]
