"""A constellation as the parts of a bundle, and back: path to bytes.

    coordizer/vocab.json  merge_rules.json  basin_coords.npy  manifest.json
    kernels/<role>.safetensors          state weights, float16
    memories/<name>.bin                 n-gram tables
    domains.json                        names, basins, gates
    homes.npy                           (4, 64) float64, the roles' home basins in the order of ROLES
    integrator.safetensors              HEART's map from the four members' basins to the constellation's, float16

Every part is checked when it is read; a constellation that loads is one that can answer.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from common.constants import CELLS, ROLES, Role
from common.constellation import integrator as integrators
from common.constellation.constellation import Constellation
from common.constellation.domains import Domain, from_json, to_json
from common.constellation.integrator import Integrator
from common.constellation.paths import COORDIZER, DOMAINS, HOMES, INTEGRATOR, kernel_path, memory_path
from common.coordizer import artifacts
from common.coordizer.artifacts import Coordizer
from common.coordizer.encode import Encoder
from common.errors import Rejected
from common.geometry import rows
from common.geometry.simplex import check_simplex, from_float16
from common.kernels import memory_file, weights
from common.kernels.engine import State
from common.kernels.memory import Memory, Table
from common.kernels.spec import Spec
from common.kernels.weights import Weights

Parts = Mapping[str, bytes]
T = TypeVar("T")


def coordizer_parts(coordizer: Coordizer) -> dict[str, bytes]:
    """The four files of a coordizer."""
    return {COORDIZER + name: data for name, data in artifacts.to_parts(coordizer).items()}


def coordizer_of(parts: Parts) -> artifacts.Coordizer:
    """The coordizer among a constellation's parts. Raises Rejected, and Corrupt where a digest fails."""
    return artifacts.from_parts(
        {path.removeprefix(COORDIZER): data for path, data in parts.items() if path.startswith(COORDIZER)}
    )


def kernel_part(role: Role, spec: Spec, tensors: Weights) -> dict[str, bytes]:
    """A role's weights."""
    return {kernel_path(role): weights.to_bytes(spec, tensors)}


def memory_part(name: str, memory: Memory) -> dict[str, bytes]:
    """One memory."""
    return {memory_path(name): memory_file.to_bytes(memory)}


def domains_part(domains: Mapping[str, Domain]) -> dict[str, bytes]:
    """All domains."""
    return {DOMAINS: to_json(tuple(domains.values()))}


def homes_part(homes: Mapping[Role, npt.NDArray[np.float64]]) -> dict[str, bytes]:
    """The homes of all four roles."""
    return {HOMES: rows.to_bytes(np.stack([homes[role] for role in ROLES]))}


def integrator_part(integrator: Integrator) -> dict[str, bytes]:
    """The constellation's integrator."""
    return {INTEGRATOR: integrators.to_bytes(integrator)}


def load(parts: Parts, known: Constellation | None = None) -> Constellation:
    """Raises Rejected with the part that is missing or wrong, Corrupt where a coordizer digest fails.

    known: another, which is used on: its encoder, its states and its memories, where they are the same to the bit, are
    taken from it, and are there once.
    """
    coordizer = coordizer_of(parts)
    domains = {domain.name: domain for domain in _read(parts, DOMAINS, from_json)}
    specs: dict[Role, Spec] = {}
    tensors: dict[Role, Weights] = {}
    for role in ROLES:
        specs[role], tensors[role] = _read(parts, kernel_path(role), weights.from_bytes)
    vocabularies = {spec.vocab for spec in specs.values()}
    if len(vocabularies) != 1:
        raise Rejected(
            "bad_constellation", f"states of different vocabularies {sorted(vocabularies)}: one prefix serves all"
        )
    coordizer = artifacts.prefix(coordizer, *vocabularies)
    roots = np.sqrt(from_float16(coordizer.basins))
    told = known if known is not None and _same_tokens(known.coordizer, coordizer) else None
    memories = {
        name: _read(parts, memory_path(name), lambda data: memory_file.from_bytes(data, coordizer.vocab_size))
        for name in sorted({name for domain in domains.values() for name in domain.memories})
    }
    return Constellation(
        coordizer=coordizer,
        encoder=told.encoder if told else Encoder(coordizer),
        states={
            role: told.states[role]
            if told and _same_state(told.states[role], specs[role], tensors[role])
            else State(specs[role], tensors[role], roots)
            for role in ROLES
        },
        homes=_read(parts, HOMES, _homes),
        integrator=_read(parts, INTEGRATOR, integrators.from_bytes),
        memories={name: _known_memory(memory, known, name) for name, memory in memories.items()},
        domains=domains,
    )


def _same_tokens(one: Coordizer, other: Coordizer) -> bool:
    return np.array_equal(one.merges, other.merges) and _same_bits(one.basins, other.basins)


def _same_bits(one: npt.NDArray[np.floating], other: npt.NDArray[np.floating]) -> bool:
    return one.shape == other.shape and one.tobytes() == other.tobytes()  # == takes -0.0 for 0.0


def _same_state(state: State, spec: Spec, tensors: Weights) -> bool:
    """Whether a state is what these make, over the same tokens."""
    return state.spec == spec and all(_same_bits(state.weights[name], tensors[name]) for name in tensors)


def _known_memory(memory: Memory, known: Constellation | None, name: str) -> Memory:
    other = known.memories.get(name) if known is not None else None
    if other is None or len(other.tables) != len(memory.tables):
        return memory
    return other if all(map(_same_table, other.tables, memory.tables)) else memory


def _same_table(one: Table, other: Table) -> bool:
    mine: list[npt.NDArray[Any]] = [*one]
    theirs: list[npt.NDArray[Any]] = [*other]
    return all(map(np.array_equal, mine, theirs))


def _read(parts: Parts, path: str, reader: Callable[[bytes], T]) -> T:
    """What a part holds; whatever is wrong with it, the error names it."""
    if path not in parts:
        told = f"part {path} is missing; the parts are {', '.join(sorted(parts))[:200]}"
        raise Rejected("bad_constellation", f"{told}: take a whole bundle, or make one with `qig train`")
    try:
        return reader(parts[path])
    except Rejected as error:
        raise Rejected(error.code, f"part {path}: {error.message}") from error


def _homes(data: bytes) -> dict[Role, npt.NDArray[np.float64]]:
    try:
        found = rows.from_bytes(data, np.float64, CELLS)
    except ValueError as error:
        raise Rejected("bad_constellation", str(error)) from None
    if len(found) != len(ROLES):
        raise Rejected("bad_constellation", f"{len(found)} home basins; the roles are {', '.join(ROLES)}")
    return dict(zip(ROLES, check_simplex(found), strict=True))
