"""The merges that a batch proposes: tried together as tokens, and kept only if no domain is read much worse for them.

A merge that was dropped, or that was in a candidate which the publisher refused, is not tried again at once: its edges
will propose it with every batch. Each time doubles the wait, and what else the batch brought goes on alone.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from common.constellation.constellation import Constellation
from common.constellation.domains import Domain
from common.coordizer.artifacts import token_bytes
from common.coordizer.growth import Proposal, grow
from common.wire.messages import Merge
from services.trainer import growth
from services.trainer.evaluate import Examiner, Score

GROWTH_TOLERANCE: Final = 0.01  # bits per byte that an old domain may lose to a larger vocabulary
GROWN_TOLERANCE: Final = 0.03  # chosen: and to all larger vocabularies together; measured growths cost .0005 at most
ROUNDING: Final = 1e-9  # a limit met exactly in decimals is met
WAIT_FIRST_S: Final = 3_600.0  # chosen: some batches
WAIT_MAX_S: Final = 7 * 86_400.0
TRIES_MAX: Final = 32  # counted no further
OUTDATED_MAX: Final = 1024  # that one batch forgets: a transaction has room for them; the next forgets the rest
_TRIES_BYTES: Final = 1


@dataclass(frozen=True, slots=True)
class Tried:
    """names: of the merges that were tried, none where none is sound. larger: the constellation with them as tokens and
    how it reads each domain; None where none was tried, or where they cost a domain too much.
    """

    names: tuple[str, ...]
    larger: tuple[Constellation, dict[str, Score]] | None


def tried(
    merged: Constellation,
    scores: Mapping[str, Score],
    merges: Sequence[Merge],
    held_back: Collection[str],
    examiner: Examiner,
) -> Tried:
    """The sound ones of these merges as tokens. scores: of `merged`, by domain. held_back: names of those that are not
    tried now.
    """
    strings = token_bytes(merged.coordizer.merges)
    proposals: dict[str, list[Proposal]] = {}
    for merge in merges:
        known = max(merge.left, merge.right) < len(strings)
        if known and name_of(strings[merge.left], strings[merge.right]) in held_back:
            continue
        for edge, count in merge.edges:
            proposals.setdefault(edge.hex(), []).append((merge.left, merge.right, count))
    found = grow(merged.coordizer, proposals)
    if not found.accepted:
        return Tried((), None)
    names = tuple(name_of(strings[left], strings[right]) for left, right in found.accepted)
    larger = growth.grown(merged, found.coordizer)
    figures = examiner.scores(larger)
    costs = {domain: each.bits_per_byte - scores[domain].bits_per_byte for domain, each in figures.items()}
    if any(cost > _bearable(merged.domains[domain]) for domain, cost in costs.items()):
        return Tried(names, None)
    return Tried(names, (_charged(larger, costs), figures))


def _bearable(domain: Domain) -> float:
    """Bits per byte that one more growth may cost a domain, beside all that growths have cost it before."""
    return min(GROWTH_TOLERANCE, GROWN_TOLERANCE - domain.grown_bits_per_byte) + ROUNDING


def _charged(grown: Constellation, costs: Mapping[str, float]) -> Constellation:
    domains = dict(grown.domains)
    for name, cost in costs.items():
        paid = domains[name].grown_bits_per_byte + max(cost, 0.0)
        domains[name] = domains[name].model_copy(update={"grown_bits_per_byte": paid})
    return replace(grown, domains=domains)


def name_of(left: bytes, right: bytes) -> str:
    """A merge by the strings that it joins: ids may stand for others once a growth was taken back."""
    return hashlib.sha256(len(left).to_bytes(4, "big") + left + right).hexdigest()[:32]


def waiting(notes: Mapping[str, bytes], now_s: float) -> frozenset[str]:
    """Of the merges that failed, those that are not tried yet. notes: by name, as `noted` writes them."""
    return frozenset(name for name, note in notes.items() if _until(note) > now_s)


def noted(notes: Mapping[str, bytes], failed: Collection[str], now_s: float) -> dict[str, bytes]:
    """The notes of merges that failed now: how often they did, and until when they wait."""
    found = {}
    for name in failed:
        tries = min(TRIES_MAX, 1 + (notes[name][0] if name in notes else 0))
        until_s = now_s + min(WAIT_MAX_S, WAIT_FIRST_S * 2.0 ** (tries - 1))
        found[name] = tries.to_bytes(_TRIES_BYTES, "big") + int(until_s).to_bytes(8, "big")
    return found


def outdated(notes: Mapping[str, bytes], now_s: float) -> list[str]:
    """Names of merges that might have been tried again for the longest wait, and were not proposed any more; the oldest
    OUTDATED_MAX.
    """
    old = [name for name, note in notes.items() if _until(note) + WAIT_MAX_S < now_s]
    return sorted(old, key=lambda name: (_until(notes[name]), name))[:OUTDATED_MAX]


def _until(note: bytes) -> float:
    return float(int.from_bytes(note[_TRIES_BYTES:], "big"))
