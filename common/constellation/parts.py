"""A constellation as the parts of a bundle, and back: path to bytes.

    coordizer/vocab.json  merge_rules.json  basin_coords.npy  manifest.json
    kernels/<role>.safetensors          state weights, float16
    memories/<name>.bin                 n-gram tables
    domains.json                        names, basins, gates
    homes.npy                           (4, 64) float64, the roles' home basins in the order of ROLES

Every part is checked when it is read; a constellation that loads is one that can answer.
"""

import io
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from common.constants import CELLS, ROLES, Role
from common.constellation.constellation import Constellation
from common.constellation.domains import Domain, from_json, to_json
from common.coordizer import artifacts
from common.coordizer.artifacts import Coordizer
from common.coordizer.encode import Encoder
from common.errors import Rejected
from common.geometry.simplex import check_simplex, from_float16
from common.kernels import memory_file, weights
from common.kernels.engine import State
from common.kernels.memory import Memory
from common.kernels.spec import Spec
from common.kernels.weights import Weights

Parts = Mapping[str, bytes]

COORDIZER: Final = "coordizer/"
DOMAINS: Final = "domains.json"
HOMES: Final = "homes.npy"


def kernel_path(role: Role) -> str:
    """Where a role's weights lie."""
    return f"kernels/{role}.safetensors"


def memory_path(name: str) -> str:
    """Where a memory lies."""
    return f"memories/{name}.bin"


def coordizer_parts(coordizer: Coordizer) -> dict[str, bytes]:
    """The four files of a coordizer."""
    return {COORDIZER + name: data for name, data in artifacts.to_parts(coordizer).items()}


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
    buffer = io.BytesIO()
    np.save(buffer, np.stack([homes[role] for role in ROLES]), allow_pickle=False)
    return {HOMES: buffer.getvalue()}


def load(parts: Parts) -> Constellation:
    """Raises Rejected with the part that is missing or wrong, Corrupt where a coordizer digest fails."""
    coordizer = artifacts.from_parts(
        {path.removeprefix(COORDIZER): data for path, data in parts.items() if path.startswith(COORDIZER)}
    )
    domains = {domain.name: domain for domain in from_json(_part(parts, DOMAINS))}
    specs: dict[Role, Spec] = {}
    tensors: dict[Role, Weights] = {}
    for role in ROLES:
        specs[role], tensors[role] = weights.from_bytes(_part(parts, kernel_path(role)))
    vocabularies = {spec.vocab for spec in specs.values()}
    if len(vocabularies) != 1:
        raise Rejected(
            "bad_constellation", f"states of different vocabularies {sorted(vocabularies)}: one prefix serves all"
        )
    coordizer = artifacts.prefix(coordizer, *vocabularies)
    roots = np.sqrt(from_float16(coordizer.basins))
    return Constellation(
        coordizer=coordizer,
        encoder=Encoder(coordizer),
        states={role: State(specs[role], tensors[role], roots) for role in ROLES},
        homes=_homes(_part(parts, HOMES)),
        memories={
            name: memory_file.from_bytes(_part(parts, memory_path(name)), coordizer.vocab_size)
            for name in sorted({name for domain in domains.values() for name in domain.memories})
        },
        domains=domains,
    )


def _part(parts: Parts, path: str) -> bytes:
    if path not in parts:
        raise Rejected("bad_constellation", f"part {path} is missing; the parts are {', '.join(sorted(parts))[:200]}")
    return parts[path]


def _homes(data: bytes) -> dict[Role, npt.NDArray[np.float64]]:
    try:
        rows = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise Rejected("bad_constellation", f"{HOMES}: {error}") from error
    if rows.shape != (len(ROLES), CELLS) or rows.dtype != np.float64:
        raise Rejected(
            "bad_constellation",
            f"{HOMES}: shape {rows.shape}, {rows.dtype}; it must be ({len(ROLES)}, {CELLS}) float64",
        )
    check_simplex(rows)
    return dict(zip(ROLES, rows, strict=True))
