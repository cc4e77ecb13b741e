"""Local: the constellation that answers here. It is the bundle's, and what this edge has read since.

    a domain's memory    the bundle's and the domain's residue: counts add, exactly as the centre adds them
    a domain's gate      the bundle's, or the one learned here while that reads the edge's own text better
    new territory        a domain of its own, beside its nearest role, until a bundle opens one for it

The bundle's own constellation stays beside it: everybody has that one, so packets, crystals, trials and where a text
belongs are measured against it. Pure: a value in, a value out, made whole before anybody asks it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from common.constants import ROLES
from common.constellation.constellation import Constellation
from common.constellation.domains import Domain
from common.geometry.routing import Route, Step
from common.kernels import gate as gates
from common.kernels.kernel import Reading
from common.kernels.memory import Memory, merge

Floats = npt.NDArray[np.float64]

TERRITORY: Final = "new"  # the local domain of new territory; the centre names its own d-XXXXXXXX
# Chosen (docs/experiments.md): a gate that forgets a sleep's text slower reads the next as well, and other text better.
HELD_TOKENS: Final = 128.0  # of a bucket: what the gate of all earlier text counts for, beside one sleep's
GAIN_KEPT: Final = 0.5  # chosen: of what a gate saved on earlier text; a fold later it counts half


@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """A domain's gate as this edge's own text asks for it: (BUCKETS, experts), rows sum to one.

    gain_bits: what it saved against the bundle's gate, on text that was read before it was learned from; that of
    earlier folds counts less each time.
    """

    gate: Floats
    gain_bits: float

    @property
    def serves(self) -> bool:
        """Whether it reads this edge's text better than the bundle's gate: else it only goes on learning."""
        return self.gain_bits > 0


def tune(tuned: Tuned | None, base: Floats, readings: Sequence[Reading]) -> Tuned:
    """The gate after one more fold: first held against the bundle's on this text, then learned from it by EM.

    tuned: as the fold before left it, if its experts are still these; base: the bundle's gate; readings: of the fresh
    text, by the memories that have not counted it.
    """
    before = tuned if tuned is not None and tuned.gate.shape == base.shape else Tuned(base, 0.0)
    saved = sum(float((reading.bits(base) - reading.bits(before.gate)).sum()) for reading in readings)
    experts = np.concatenate([reading.experts for reading in readings])
    buckets = np.concatenate([reading.buckets for reading in readings])
    gate = before.gate
    for _ in range(gates.EM_ROUNDS):
        gate = gates.update(before.gate, gates.responsibilities(experts, buckets, gate), HELD_TOKENS)
    return Tuned(gate, GAIN_KEPT * before.gain_bits + saved)


def absorb(
    local: Constellation, base: Constellation, domain: str | None, residue: Memory, tuned: Tuned | None
) -> Constellation:
    """`local` with one domain's memory and gate made anew: the bundle's, and what is learned here.

    base: the bundle's constellation; a domain that it does not know changes nothing. For new territory see `open_new`.
    """
    if domain is None or domain not in base.domains:
        return local
    found = base.domains[domain]
    name = found.memories[-1]
    memories = {**local.memories, name: _grown(base.memories[name], residue)}
    return replace(local, memories=memories, domains={**local.domains, domain: _gated(found, tuned)})


def open_new(local: Constellation, residue: Memory, tuned: Tuned | None, basin: Floats | None) -> Constellation:
    """`local` with a domain for new territory, or without one where nothing of it is counted or nobody knows its place.

    basin: (64,), where its texts lie.
    """
    memories = {name: memory for name, memory in local.memories.items() if name != TERRITORY}
    domains = {name: domain for name, domain in local.domains.items() if name != TERRITORY}
    if residue.entries and basin is not None:
        memories[TERRITORY] = _grown(None, residue)
        domains[TERRITORY] = _gated(_opened(replace(local, memories=memories, domains=domains), basin), tuned)
    elif TERRITORY not in local.domains:
        return local
    return replace(local, memories=memories, domains=domains)


def within(route: Route, domains: Mapping[str, Domain], *, margin_min_rad: float) -> Route:
    """A route over the local domains; new territory stays on it only for text whose role is the territory's.

    That is the role of the nearest domain that the bundle knows: without this rule a text that lies between the old
    domains and the new one is read by another role's state (docs/experiments.md). margin_min_rad: as the router's.
    """
    if TERRITORY not in domains:
        return route
    nearest = next(step.name for step in route.steps if step.name != TERRITORY)
    if domains[nearest].role == domains[TERRITORY].role:
        return route
    kept = [step for step in route.steps if step.name != TERRITORY]
    total = math.fsum(step.weight for step in kept)
    shared = total if total > 0 else 1.0  # all too far to have a weight: then only the order counts
    steps = tuple(Step(step.name, step.distance_rad, step.weight / shared) for step in kept)
    margin_rad = steps[1].distance_rad - steps[0].distance_rad
    return Route(steps, margin_rad, margin_rad < margin_min_rad)


def _opened(local: Constellation, basin: Floats) -> Domain:
    """As the centre opens one: the role's state and memory, a memory of its own, the widest radius of the roles."""
    steps = local.route(basin).steps
    role = local.domains[steps[0].name].role
    memories = (*local.domains[role].memories, TERRITORY)
    return Domain(
        name=TERRITORY,
        role=role,
        memories=memories,
        basin=tuple(basin.tolist()),
        radius_rad=max(local.domains[each].radius_rad for each in ROLES),
        bits_per_byte=None,
        gate=_rows(gates.prior(1 + len(memories))),
    )


def _grown(memory: Memory | None, residue: Memory) -> Memory:
    """With the residue in, and its columns made: whoever asks it first does not wait for them."""
    grown = merge([each for each in (memory, residue) if each is not None]) if residue.entries else memory
    assert grown is not None
    _ = grown.columns
    return grown


def _gated(domain: Domain, tuned: Tuned | None) -> Domain:
    if tuned is None or not tuned.serves or tuned.gate.shape != domain.gate_array.shape:
        return domain
    return domain.model_copy(update={"gate": _rows(tuned.gate)})


def _rows(gate: Floats) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, gate.tolist()))
