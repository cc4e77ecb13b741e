"""Consolidation: a batch becomes a candidate.

    corrections ──▶ the domain's memory: what earlier batches say without a disowned node, for what they said
    crystals ──▶ the domain's memory (added)            gate statistics ──▶ the domain's gate (one M-step)
    (both: updates.py)
    domains that have become one, or are not used any more, end (endings.py)
    proposed merges ──▶ a larger vocabulary, kept only if no old domain gets much worse (proposals.py)
    with steps: merged kernel ──dreams──▶ its state trains on them beside replayed text (dreams.py); kept only if no
    guard undid it and no old domain gets worse

A function of values: a trainer calls it for the stream, `qig train --batch` for a file, a handler for its request.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from common.constants import Role
from common.constellation import parts as bundle_parts
from common.constellation.constellation import Constellation
from common.constellation.paths import memory_path
from common.wire.messages import Batch, Figure
from services.trainer import figures, growth, proposals, updates
from services.trainer.endings import ended
from services.trainer.evaluate import Examiner, Score

if TYPE_CHECKING:
    from services.trainer.dreams import Progress

Parts = Mapping[str, bytes]

# An old domain's bits per byte may grow by a thousandth, by all trained states of a batch together.
STATE_TOLERANCE: Final = 1.001


@dataclass(frozen=True, slots=True)
class Consolidated:
    """parts of the candidate, its figures, and the guards' words ("" none).

    grown, dropped: merges that became tokens, and those whose loss was too great, by their names (proposals.name_of).
    """

    parts: dict[str, bytes]
    figures: tuple[Figure, ...]
    guards: tuple[str, ...]
    grown: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


def consolidate(  # noqa: PLR0913 -- all that a candidate depends on
    parts: Parts,
    batch: Batch,
    *,
    replay: Mapping[Role, Sequence[str]],
    held_out: Mapping[str, Sequence[str]],
    steps: int,
    seed: int,
    parents: Mapping[str, Sequence[str]] | None = None,
    held_back: Collection[str] = (),
    folder: Path | None = None,
    progress: "Progress | None" = None,
) -> Consolidated:
    """parts: the current bundle's. replay, held_out: texts by role and by domain; parents: of each held-out text, the
    document that it is a part of, for the intervals; each is its own when not given. steps: of state training; 0 merges
    memories alone. held_back: names of merges that are not tried now. folder: where training keeps what a killed one
    goes on from; None keeps nothing. progress: told by role what share of its steps is done; what it raises ends it.

    The same arguments make the same bytes, whatever is in the folder. Raises Rejected for a batch that is wrong in
    itself, Unavailable("checkpoint", "curve") for a folder that can't be used.
    """
    if not (batch.domains or batch.merges or batch.corrections):  # it names packets, and nothing of them counts yet
        return Consolidated(dict(parts), (), ())
    current = bundle_parts.load(parts)
    updates.check_vocabulary(batch, current)
    brought = updates.at_home(batch.domains, current.domains)
    merged = updates.merged(updates.corrected(current, batch.corrections), brought)
    examiner = Examiner(held_out, parents)
    before, after = examiner.scores(current), examiner.scores(merged)
    allowed = _allowed(after)
    merged, after, endings = ended(merged, examiner, after, allowed)
    brought = updates.at_home(brought, merged.domains)
    told = (*figures.crystal_figures(current, merged, brought), *endings)
    parts, said = _parts(parts, current, merged), []
    grown = proposals.tried(merged, after, batch.merges, held_back, examiner)
    if grown.larger is not None:
        merged, after = grown.larger
        parts |= growth.parts(merged) | bundle_parts.domains_part(merged.domains)
        allowed = _allowed(after)
    elif grown.names:
        said.append("growth-dropped")
    if steps:
        from services.trainer import dreams  # noqa: PLC0415 -- torch: 200 MB and a second that merging does without

        merged, after, trained, words = dreams.trained(
            merged, after, brought, examiner, allowed,
            replay=replay, steps=steps, seed=seed, folder=folder, progress=progress,
        )  # fmt: skip
        parts |= trained
        said += words
    return Consolidated(
        parts,
        (*figures.figures(current, merged, {d: (before[d], after[d]) for d in after}, examiner, held_out), *told),
        tuple(dict.fromkeys(said)),
        grown=grown.names if grown.larger else (),
        dropped=() if grown.larger else grown.names,
    )


def _allowed(scores: Mapping[str, Score]) -> dict[str, float]:
    """Bits per byte that a domain may read with, once a state was trained."""
    return {domain: score.bits_per_byte * STATE_TOLERANCE for domain, score in scores.items()}


def _parts(parts: Parts, current: Constellation, merged: Constellation) -> dict[str, bytes]:
    """The parent's parts with the memories and domains that are others now, and without those that are no more."""
    gone = {memory_path(name) for name in current.memories if name not in merged.memories}
    found = {path: data for path, data in parts.items() if path not in gone}
    for name, each in merged.memories.items():
        if each is not current.memories.get(name):
            found |= bundle_parts.memory_part(name, each)
    return found | bundle_parts.domains_part(merged.domains)
