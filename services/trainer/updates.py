"""A batch's updates and corrections put into a constellation: its n-grams into memories, its sums into gates.

Counts add, so that what many edges counted is what one would have counted of all their texts; but for a memory of
billions of tokens, all of which weigh half before their number has no room (prune.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from common.constants import ROLES
from common.constellation.constellation import Constellation
from common.constellation.domains import Domain, heirs
from common.coordizer.artifacts import FIRST_MERGE, lineage, pairs_from
from common.errors import Rejected
from common.geometry.means import frechet_mean
from common.geometry.simplex import from_float16
from common.kernels import gate, memory
from common.kernels.memory import Memory, Table
from common.kernels.recount import recount
from common.wire import crystals as crystal_codec
from common.wire.messages import Batch, Correction, DomainUpdate
from services.trainer.prune import joined, prune

MEMORY_MAX_ENTRIES: Final = 1 << 21  # chosen: n-grams of one memory, 60 MB on an edge; the shipped HEART has a million


def check_vocabulary(batch: Batch, current: Constellation) -> None:
    """Raises Rejected("other_vocabulary") for counts of ids that stand for other bytes here: a growth was taken back,
    and another came in its place.
    """
    for size in {crystal_codec.stated_vocabulary(update.crystals) for update in batch.domains}:
        own = lineage(current.coordizer.merges[: max(0, size - FIRST_MERGE)])
        if batch.vocabulary and FIRST_MERGE <= size <= current.coordizer.vocab_size and batch.vocabulary != own:
            message = f"counts over {size} tokens of bundle {batch.base_version}; some of them are others by now"
            raise Rejected("other_vocabulary", message)


def at_home(updates: Sequence[DomainUpdate], domains: Mapping[str, Domain]) -> list[DomainUpdate]:
    """The updates, each under the name its domain has now: that of its heir, where it has ended."""
    gone = heirs(domains.values())
    return [_inherited(update, domains[gone[update.name]]) if update.name in gone else update for update in updates]


def _inherited(update: DomainUpdate, heir: Domain) -> DomainUpdate:
    fits = len(update.gate) == gate.BUCKETS * (1 + len(heir.memories))
    return update.model_copy(
        update={"name": heir.name, "kernel": heir.role, "opened": False, "gate": update.gate if fits else b""}
    )


def merged(current: Constellation, updates: Sequence[DomainUpdate]) -> Constellation:
    """Crystals into memories, gate statistics into gates; a domain that no bundle knew is opened.

    An opened domain lies where the text lies that it was brought so far; one that is brought nothing has been idle once
    more.
    """
    memories, domains = dict(current.memories), dict(current.domains)
    for update in updates:
        domain = domains.get(update.name) or _opened(current, update)
        known = [memories[domain.memories[-1]]] if domain.memories[-1] in memories else []
        memories[domain.memories[-1]] = _sized(joined([*known, crystals_of(update, current)]), current)
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


def corrected(current: Constellation, corrections: Sequence[Correction]) -> Constellation:
    """What earlier batches had said is taken out of the memories, and what they say now put in; never below zero.

    Of a memory that was halved since, twice what is left of them goes. A domain that has ended has left its memory to
    its heir; of one that is not known there is nothing to correct.
    """
    memories, gone = dict(current.memories), heirs(current.domains.values())
    for each in corrections:
        domain = current.domains.get(gone.get(each.name, each.name))
        own = domain.memories[-1] if domain is not None else ""
        if own in memories:
            with_now = joined([memories[own], memory_of(each.now, current)])
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
