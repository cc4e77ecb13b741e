"""Consolidation: a batch becomes a candidate.

    corrections ──▶ the domain's memory: what earlier batches say without a disowned node, for what they said
    crystals ──▶ the domain's memory (added)            gate statistics ──▶ the domain's gate (one M-step)
    domains that have become one, or are not used any more, end (endings.py)
    proposed merges ──▶ a larger vocabulary, kept only if no old domain gets worse by GROWTH_TOLERANCE
    with steps: merged kernel ──dreams──▶ its state trains on them beside replayed text (dreams.py); kept only if no
    guard undid it and no old domain gets worse

A function of values: a trainer calls it for the stream, `qig train --batch` for a file, a handler for its request.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from common.constants import ROLES, Role
from common.constellation import parts as bundle_parts
from common.constellation.constellation import Constellation
from common.constellation.domains import Domain, heirs
from common.constellation.paths import memory_path
from common.coordizer.artifacts import FIRST_MERGE, lineage, pairs_from, token_bytes
from common.coordizer.growth import Proposal, grow
from common.errors import Rejected
from common.geometry.means import drift, frechet_mean
from common.geometry.simplex import from_float16
from common.kernels import gate, memory
from common.kernels.memory import Memory, Table
from common.kernels.recount import recount
from common.wire import crystals as crystal_codec
from common.wire.messages import Batch, Correction, DomainUpdate, Figure, Merge
from services.trainer import growth
from services.trainer.endings import ended
from services.trainer.evaluate import Changed, Examiner, Score, gram_bits, gram_interval, moved
from services.trainer.intervals import Interval
from services.trainer.prune import prune
from services.trainer.whole import whole_changed

if TYPE_CHECKING:
    from services.trainer.dreams import Progress

Parts = Mapping[str, bytes]

STATE_TOLERANCE: Final = (
    1.001  # an old domain's bits per byte may grow by a thousandth, by all trained states of a batch together
)
MEMORY_MAX_ENTRIES: Final = 1 << 21  # chosen: n-grams of one memory, 60 MB on an edge; the shipped HEART has a million
GROWTH_TOLERANCE: Final = 0.01  # bits per byte that an old domain may lose to a larger vocabulary
GROWN_TOLERANCE: Final = 0.03  # chosen: and to all larger vocabularies together; measured growths cost .0005 at most

ROUNDING: Final = 1e-9  # a limit met exactly in decimals is met

NO_MERGES: Final[tuple[str, ...]] = ()


@dataclass(frozen=True, slots=True)
class Consolidated:
    """parts of the candidate, its figures, and the guards' words ("" none).

    grown, dropped: merges that became tokens, and those whose loss was too great, by their names (growth.name_of).
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
    _check_vocabulary(batch, current)
    updates = _at_home(batch.domains, current.domains)
    merged = _merge(_corrected(current, batch.corrections), updates)
    examiner = Examiner(held_out, parents)
    before, after = examiner.scores(current), examiner.scores(merged)
    allowed = {domain: score.bits_per_byte * STATE_TOLERANCE for domain, score in after.items()}
    merged, after, endings = ended(merged, examiner, after, allowed)
    updates = _at_home(updates, merged.domains)
    told = (*_crystal_figures(current, merged, updates), *endings)
    parts = _parts(parts, current, merged)
    changed: dict[str, bytes] = {}
    said: list[str] = []
    larger = _larger(merged, batch.merges, held_back)
    grown, dropped = NO_MERGES, NO_MERGES
    if larger is not None:
        figures = examiner.scores(larger.constellation)
        costs = {domain: figures[domain].bits_per_byte - after[domain].bits_per_byte for domain in figures}
        if any(cost > _bearable(merged.domains[domain]) for domain, cost in costs.items()):
            said.append("growth-dropped")
            dropped = larger.names
        else:
            merged, after, grown = _charged(larger.constellation, costs), figures, larger.names
            changed |= growth.parts(merged) | bundle_parts.domains_part(merged.domains)
            allowed = {domain: score.bits_per_byte * STATE_TOLERANCE for domain, score in after.items()}
    if steps:
        from services.trainer import dreams  # noqa: PLC0415 -- torch: 200 MB and a second that merging does without

        merged, after, trained, words = dreams.trained(
            merged,
            after,
            updates,
            examiner,
            allowed,
            replay=replay,
            steps=steps,
            seed=seed,
            folder=folder,
            progress=progress,
        )
        changed |= trained
        said += words
    return Consolidated(
        {**parts, **changed},
        (*_figures(current, merged, {d: (before[d], after[d]) for d in after}, examiner, held_out), *told),
        tuple(dict.fromkeys(said)),
        grown,
        dropped,
    )


def _at_home(updates: Sequence[DomainUpdate], domains: Mapping[str, Domain]) -> list[DomainUpdate]:
    """The updates, each under the name its domain has now: that of its heir, where it has ended."""
    gone = heirs(domains.values())
    return [_inherited(update, domains[gone[update.name]]) if update.name in gone else update for update in updates]


def _inherited(update: DomainUpdate, heir: Domain) -> DomainUpdate:
    fits = len(update.gate) == gate.BUCKETS * (1 + len(heir.memories))
    return update.model_copy(
        update={"name": heir.name, "kernel": heir.role, "opened": False, "gate": update.gate if fits else b""}
    )


def _parts(parts: Parts, current: Constellation, merged: Constellation) -> dict[str, bytes]:
    """The parent's parts with the memories and domains that are others now, and without those that are no more."""
    gone = {memory_path(name) for name in current.memories if name not in merged.memories}
    found = {path: data for path, data in parts.items() if path not in gone}
    for name, each in merged.memories.items():
        if each is not current.memories.get(name):
            found |= bundle_parts.memory_part(name, each)
    return found | bundle_parts.domains_part(merged.domains)


def _merge(current: Constellation, updates: Sequence[DomainUpdate]) -> Constellation:
    """Crystals into memories, gate statistics into gates; a domain that no bundle knew is opened.

    An opened domain lies where the text lies that it was brought so far; one that is brought nothing has been idle once
    more.
    """
    memories, domains = dict(current.memories), dict(current.domains)
    for update in updates:
        domain = domains.get(update.name) or _opened(current, update)
        known = [memories[domain.memories[-1]]] if domain.memories[-1] in memories else []
        memories[domain.memories[-1]] = _sized(memory.merge([*known, crystals_of(update, current)]), current)
        changes: dict[str, object] = {"idle": 0}
        if update.gate:
            sums = gate.from_bytes(update.gate, 1 + len(domain.memories))
            changes["gate"] = tuple(map(tuple, gate.update(domain.gate_array, sums).tolist()))
        if known and domain.name not in ROLES:
            changes["basin"] = _moved(domain, update, known[0].tokens)
        domains[update.name] = domain.model_copy(update=changes)
    brought = {update.name for update in updates}
    if not brought:  # a correction brings nobody anything
        return replace(current, memories=memories, domains=domains)
    for name in domains.keys() - brought - set(ROLES):
        domains[name] = domains[name].model_copy(update={"idle": domains[name].idle + 1})
    return replace(current, memories=memories, domains=domains)


def _corrected(current: Constellation, corrections: Sequence[Correction]) -> Constellation:
    """What earlier batches had said is taken out of the memories, and what they say now put in; never below zero.

    A domain that has ended has left its memory to its heir; of one that is not known there is nothing to correct.
    """
    memories, gone = dict(current.memories), heirs(current.domains.values())
    for each in corrections:
        domain = current.domains.get(gone.get(each.name, each.name))
        own = domain.memories[-1] if domain is not None else ""
        if own in memories:
            with_now = memory.merge([memories[own], memory_of(each.now, current)])
            memories[own] = memory.subtract(with_now, memory_of(each.was, current))
    return replace(current, memories=memories) if corrections else current


def _sized(known: Memory, current: Constellation) -> Memory:
    """A memory without what saves the fewest bits, where it has grown too large: twice as many each time round."""
    bits, floor = 0.0, np.full(current.coordizer.vocab_size, 1 / current.coordizer.vocab_size)
    while known.entries > MEMORY_MAX_ENTRIES:
        known, bits = prune(known, floor, bits), 2.0 * bits + 1.0
    return known


def _moved(domain: Domain, update: DomainUpdate, tokens: int) -> tuple[float, ...]:
    """The mean of where a domain lay, of as many tokens, and where its new text lies."""
    places = np.stack([domain.basin_array, _basin(update)])
    weights = np.maximum([tokens, update.tokens], 1).astype(np.float64)
    return tuple(frechet_mean(places, weights).tolist())


def _basin(update: DomainUpdate) -> npt.NDArray[np.float64]:
    return from_float16(np.frombuffer(update.basin, np.float16))


@dataclass(frozen=True, slots=True)
class _Grown:
    constellation: Constellation
    names: tuple[str, ...]


def _larger(merged: Constellation, merges: Sequence[Merge], held_back: Collection[str]) -> _Grown | None:
    """The constellation with the sound ones of these merges as tokens; None when there is none. held_back: names of
    those that are not tried now.
    """
    strings = token_bytes(merged.coordizer.merges)
    proposals: dict[str, list[Proposal]] = {}
    for merge in merges:
        known = max(merge.left, merge.right) < len(strings)
        if known and growth.name_of(strings[merge.left], strings[merge.right]) in held_back:
            continue
        for edge, count in merge.edges:
            proposals.setdefault(edge.hex(), []).append((merge.left, merge.right, count))
    found = grow(merged.coordizer, proposals)
    if not found.accepted:
        return None
    names = tuple(growth.name_of(strings[left], strings[right]) for left, right in found.accepted)
    return _Grown(growth.grown(merged, found.coordizer), names)


def _bearable(domain: Domain) -> float:
    """Bits per byte that one more growth may cost a domain, beside all that growths have cost it before."""
    return min(GROWTH_TOLERANCE, GROWN_TOLERANCE - domain.grown_bits_per_byte) + ROUNDING


def _charged(grown: Constellation, costs: Mapping[str, float]) -> Constellation:
    domains = dict(grown.domains)
    for name, cost in costs.items():
        paid = domains[name].grown_bits_per_byte + max(cost, 0.0)
        domains[name] = domains[name].model_copy(update={"grown_bits_per_byte": paid})
    return replace(grown, domains=domains)


def _opened(current: Constellation, update: DomainUpdate) -> Domain:
    """A new domain: its role's state and memory, a memory of its own, and the widest radius of the roles until it has
    text to measure.
    """
    memories = (*current.domains[update.kernel].memories, update.name)
    try:
        return Domain(
            name=update.name,
            role=update.kernel,
            memories=memories,
            basin=tuple(_basin(update).tolist()),
            radius_rad=max(current.domains[role].radius_rad for role in ROLES),
            bits_per_byte=update.fresh_bits / max(update.fresh_bytes, 1),
            gate=tuple(map(tuple, gate.prior(1 + len(memories)).tolist())),
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise Rejected("bad_batch", f"domain {update.name} can't be opened: {where}: {first['msg']}") from error


def _check_vocabulary(batch: Batch, current: Constellation) -> None:
    """Raises Rejected("other_vocabulary") for counts of ids that stand for other bytes here: a growth was taken back,
    and another came in its place.
    """
    for size in {crystal_codec.stated_vocabulary(update.crystals) for update in batch.domains}:
        own = lineage(current.coordizer.merges[: max(0, size - FIRST_MERGE)])
        if batch.vocabulary and FIRST_MERGE <= size <= current.coordizer.vocab_size and batch.vocabulary != own:
            message = f"counts over {size} tokens of bundle {batch.base_version}; some of them are others by now"
            raise Rejected("other_vocabulary", message)


def crystals_of(update: DomainUpdate, current: Constellation) -> Memory:
    """The crystals of a domain as a memory."""
    return memory_of(update.crystals, current)


def memory_of(blob: bytes, current: Constellation) -> Memory:
    """Crystals as a memory: the same packed keys, orders 0 to 2.

    A batch may have waited while the vocabulary grew: then its counts are those of the larger one.
    """
    known, stated = current.coordizer.vocab_size, crystal_codec.stated_vocabulary(blob)
    size = stated if FIRST_MERGE <= stated <= known else known
    found = crystal_codec.decode(blob, size, crystal_codec.BATCH_MAX_ENTRIES)
    tables = tuple(Table.of(order.keys, order.counts, order.contexts, order.totals) for order in found.orders)
    return recount(Memory(tables), pairs_from(current.coordizer.merges, size), size)


def _figures(
    current: Constellation,
    merged: Constellation,
    scores: Mapping[str, tuple[Score, Score]],
    examiner: Examiner,
    held_out: Mapping[str, Sequence[str]],
) -> tuple[Figure, ...]:
    """How every domain with text is read and routed to, how far each state's home moved, what became of its gauges, and
    the vocabulary where it grew. scores: before and after.
    """
    grown = merged.coordizer.vocab_size != current.coordizer.vocab_size
    figures = []
    for domain, (before, after) in scores.items():
        sure = examiner.intervals(domain, before, after)
        figures.append(
            _figure("bits_per_byte", domain, before.bits_per_byte, after.bits_per_byte, "bit/B", sure.bits_per_byte)
        )
        figures.append(_figure("routed", domain, before.routed, after.routed, "1", sure.routed))
        if grown:
            figures.append(
                _figure(
                    "tokens_per_byte",
                    domain,
                    before.tokens_per_byte,
                    after.tokens_per_byte,
                    "token/B",
                    sure.tokens_per_byte,
                )
            )
    figures += _gauges(current, merged, held_out)
    if grown:
        old, new = (float(each.coordizer.vocab_size) for each in (current, merged))
        figures.append(_figure("vocabulary", None, old, new, "token", None))
    return tuple(figures)


def _gauges(current: Constellation, merged: Constellation, held_out: Mapping[str, Sequence[str]]) -> Iterator[Figure]:
    """The gates of DESIGN.md section 10 that another state may change; the parent's own has moved by nothing."""
    trained = [role for role in ROLES if merged.states[role] is not current.states[role]]
    for role in ROLES:
        seen = moved(current, merged, role, held_out.get(role, ())) if role in trained else None
        away = drift(current.homes[role], merged.homes[role])
        sure = Interval(0.0, 0.0) if role not in trained else seen.drift if seen else None
        yield _figure("drift_rad", role, None, away, "rad", sure)
        if seen is not None:
            yield from _changed("phi_ratio", role, seen.phi)
            yield from _changed("kappa", role, seen.kappa)
    if trained and (together := whole_changed(current, merged, held_out)) is not None:
        yield from _changed("phi_ratio", None, together)


def _changed(name: str, domain: str | None, seen: Changed) -> Iterator[Figure]:
    if seen.after is not None:
        yield _figure(name, domain, seen.before, seen.after, "1", seen.interval)


def _crystal_figures(
    current: Constellation, merged: Constellation, updates: Sequence[DomainUpdate]
) -> Iterator[Figure]:
    """How well the batch's crystals themselves are known once they are merged."""
    for update in updates:
        known = crystals_of(update, current)
        before = current.kernel(update.name if update.name in current.domains else update.kernel)
        after = merged.kernel(update.name)
        sure = gram_interval(before, after, known)
        yield _figure("crystal_bits", update.name, gram_bits(before, known), gram_bits(after, known), "bit/token", sure)


def _figure(
    name: str, domain: str | None, before: float | None, after: float, unit: str, sure: Interval | None
) -> Figure:
    low, high = (None, None) if sure is None else (sure.low, sure.high)
    return Figure(name=name, domain=domain, before=before, after=after, unit=unit, low=low, high=high)
