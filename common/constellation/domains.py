"""A domain: a territory of text with a basin of its own, and the kernel that speaks there.

The four roles are the first domains. One that is opened later borrows its nearest role's state and memory, and adds a
memory of its own. It ends when it has become one with another domain, or when nobody uses it: then another domain, its
heir, bears its name among its former ones, so that whoever still knows it by that name finds what is due to it.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Final, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from common.constants import CELLS, Role
from common.errors import Rejected
from common.geometry.simplex import check_simplex
from common.kernels.gate import BUCKETS

Floats = npt.NDArray[np.float64]
MAX_VALUES: Final = 1 << 16  # of all domains, chosen: 64 of them with all that they may bear
MAX_COMPLAINTS: Final = 64  # that are looked at
FORMER_MAX: Final = 256  # names that one domain goes on bearing: the newest

Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]


class Domain(BaseModel):
    """name; role: whose state speaks; memories: names of memory parts, the role's first, the most specific last.

    basin: where the domain's texts lie, 64 numbers that sum to one. radius_rad: 95 % of its own passages are nearer
    than this. bits_per_byte: of its held-out passages (None where nobody has such text); what a passage's own figure is
    held against. gate: (BUCKETS, 1 + len(memories)), rows sum to one. formerly: names of ended domains whose heir this
    one is, oldest first. idle: how many batches in a row brought it nothing. grown_bits_per_byte: what larger
    vocabularies have cost its held-out passages, all together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Slug
    role: Role
    memories: Annotated[tuple[Slug, ...], Field(min_length=1, max_length=4)]
    basin: Annotated[tuple[float, ...], Field(min_length=CELLS, max_length=CELLS)]
    radius_rad: Annotated[float, Field(ge=0, le=3.1416)]
    bits_per_byte: Annotated[float, Field(ge=0, le=64)] | None
    gate: Annotated[tuple[tuple[float, ...], ...], Field(min_length=BUCKETS, max_length=BUCKETS)]
    formerly: Annotated[tuple[Slug, ...], Field(max_length=FORMER_MAX)] = ()
    idle: Annotated[int, Field(ge=0)] = 0
    grown_bits_per_byte: Annotated[float, Field(ge=0, le=64)] = 0.0

    @field_validator("basin")
    @classmethod
    def _on_the_simplex(cls, basin: tuple[float, ...]) -> tuple[float, ...]:
        try:
            check_simplex(np.array(basin))
        except Rejected as error:
            raise ValueError(error.message) from error
        return basin

    @model_validator(mode="after")
    def _rows_are_distributions(self) -> Self:
        if any(len(row) != 1 + len(self.memories) for row in self.gate):
            raise ValueError(f"gate of {self.name}: each row needs {1 + len(self.memories)} weights")
        rows = np.array([*self.gate])
        if not (np.abs(rows.sum(1) - 1) < 1e-6).all() or (rows < 0).any():
            raise ValueError(f"gate of {self.name}: rows must be distributions")
        return self

    @property
    def gate_array(self) -> Floats:
        """The gate as (BUCKETS, 1 + len(memories))."""
        return np.array(self.gate)

    @property
    def basin_array(self) -> Floats:
        """The basin as (64,)."""
        return np.array(self.basin)


_DOMAINS = TypeAdapter(Annotated[tuple[Domain, ...], Field(fail_fast=True)])


def to_json(domains: tuple[Domain, ...]) -> bytes:
    """The inverse of `from_json`. What is as it begins is left out."""
    return _DOMAINS.dump_json(domains, exclude_defaults=True)


def from_json(data: bytes) -> tuple[Domain, ...]:
    """Raises Rejected("bad_domains") with the field that is wrong."""
    if sum(map(data.count, (b",", b":", b"[", b"{"))) > MAX_VALUES:
        raise Rejected("bad_domains", f"domains.json has more than {MAX_VALUES} values in {len(data)} bytes")
    try:
        domains = _DOMAINS.validate_json(data)
    except ValidationError as error:
        if error.error_count() > MAX_COMPLAINTS:
            raise Rejected("bad_domains", f"domains.json: {error.error_count()} fields are wrong") from None
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise Rejected("bad_domains", f"domains.json: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    named = Counter(name for domain in domains for name in (domain.name, *domain.formerly))
    if twice := [name for name, times in named.items() if times > 1]:
        raise Rejected("bad_domains", f"domains.json: {', '.join(twice)} is there twice: a name is one domain's")
    return domains


def heirs(domains: Iterable[Domain]) -> dict[str, str]:
    """Of each ended domain that is still named, the domain that took it over."""
    return {former: domain.name for domain in domains for former in domain.formerly}
