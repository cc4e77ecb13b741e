"""Hearing: how fresh text reads before it is counted, by the bundle that everybody has and by what answers here.

New territory is read by its nearest role, and again by that role with a memory of the text's own, which learns as it
reads: what a gate of a new domain begins with. Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from common.constants import Role
from common.constellation.constellation import Constellation
from common.constellation.priors import prior_of
from common.geometry.means import frechet_mean
from common.kernels import gate as gates
from common.kernels.kernel import Kernel, Reading, read, reread
from common.kernels.memory import Ids, Memory, count, merge, predict
from common.wire.expected import Prior
from common.wire.ngrams import ORDERS
from services.edge.answer import Interaction
from services.edge.balance import NOTHING
from services.edge.local import TERRITORY
from services.edge.record import Domain
from services.edge.screen import screened

OPENING_CHUNKS: Final = 8  # new territory is read in this many parts, each scored with a memory of the parts before it


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """A domain's fresh text as it is heard.

    said: screened; texts: its ids; kernel: what reads the domain, or a new one will begin with; prior: what a reader of
    the packet expects; known: as that kernel reads the text; bits: as the bundle does; heard, local_bits: as what
    answers here does.
    """

    said: Sequence[str]
    texts: Sequence[Ids]
    basin: gates.Floats
    kernel: Kernel
    role: Role
    prior: Prior
    known: Sequence[Reading]
    bits: float
    heard: Sequence[Reading]
    local_bits: float


def hear(
    constellation: Constellation,
    domain: Domain,
    interactions: Sequence[Interaction],
    residue: Memory,
    local: Constellation,
) -> Heard:
    """Screens and reads fresh text, before it is counted.

    domain: None for new territory; interactions: at least one; residue: what of the domain is counted already; local:
    what answers here.
    """
    said = [screened(each.text) for each in interactions]
    texts = [constellation.encoder.encode(text) for text in said]
    weights = np.array([max(len(ids), 1) for ids in texts], np.float64)
    basin = frechet_mean(np.stack([each.basin for each in interactions]), weights)
    kernel, role = _kernel(constellation, domain, basin)
    prior = prior_of(kernel.memories, constellation.coordizer.vocab_size)
    known = [read(kernel, ids) for ids in texts]
    bits = _bits(known, kernel.gate)
    heard, local_bits = _hear_here(local, domain, role, texts, known)
    if domain is None:
        kernel = _opening(kernel)
        known = heard = _read_opening(kernel, texts, known, residue)
    return Heard(said, texts, basin, kernel, role, prior, known, bits, heard, local_bits)


def _kernel(constellation: Constellation, domain: Domain, basin: gates.Floats) -> tuple[Kernel, Role]:
    """The kernel that reads a domain; new territory is read by its nearest role, whose memory a new domain borrows."""
    if domain is not None:
        return constellation.kernel(domain), constellation.domains[domain].role
    steps = constellation.route(basin).steps
    role = constellation.domains[steps[0].name].role
    return constellation.kernel(role), role


def _opening(kernel: Kernel) -> Kernel:
    """The kernel that a new domain will begin with: the role's, and an empty memory of its own."""
    memories = (*kernel.memories, NOTHING)
    return Kernel(kernel.state, memories, gates.prior(1 + len(memories)))


def _bits(readings: Sequence[Reading], gate: gates.Floats) -> float:
    return sum(float(reading.bits(gate).sum()) for reading in readings)


def _hear_here(
    local: Constellation, domain: Domain, role: Role, texts: Sequence[Ids], known: Sequence[Reading]
) -> tuple[list[Reading], float]:
    """The fresh text as it is read here, and its code length. known: as the bundle's kernel of this role reads it."""
    name = domain or (TERRITORY if TERRITORY in local.domains else role)
    kernel, same = local.kernel(name), local.domains[name].role == role
    heard = [reread(kernel, ids, each) if same else read(kernel, ids) for ids, each in zip(texts, known, strict=True)]
    return heard, _bits(heard, kernel.gate)


def _read_opening(kernel: Kernel, texts: Sequence[Ids], known: Sequence[Reading], residue: Memory) -> list[Reading]:
    """Fresh text of new territory as a kernel with a memory of its own reads it, which learns as it reads.

    kernel: see _opening; known: as the role's kernel reads it. Each part of the text is read by a memory of the residue
    and the parts before it, so that nothing is read that was counted: what one edge's memory is worth here, before the
    fleet's is known.
    """
    found = []
    floor, own = kernel.floors()[-1], residue
    for part in np.array_split(np.arange(len(texts)), min(OPENING_CHUNKS, len(texts))):
        for i in part:
            new = predict(own, texts[i], floor)
            experts = np.column_stack([known[i].experts, new.probability])
            found.append(Reading(experts, gates.bucket(new.order, new.total), known[i].basins))
        own = merge([own, count([texts[i] for i in part], ORDERS)])
    return found
