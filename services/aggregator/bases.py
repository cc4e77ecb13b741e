"""The bundles a packet may be based on: the newest three, with what must be known of each to read a packet.

An edge learns against the bundle it runs. One that is a little behind is as welcome as the rest; one that is far behind
describes surprises that the fleet has learned since, so its packets are refused until it has caught up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from common.constellation.domains import Domain, from_json, heirs
from common.constellation.priors import prior_of
from common.coordizer.artifacts import FIRST_MERGE, read_merges
from common.kernels import memory_file, weights
from common.wire.bundle import digest
from common.wire.expected import Prior
from common.wire.messages import Bundle
from common.wire.ngrams import ORDERS
from common.wire.packet import base_prefix
from services.aggregator.quorum import Known

BASE_WINDOW: Final = 3  # settled: DESIGN.md, section 7


@dataclass(frozen=True, slots=True)
class Base:
    """A released bundle: version and digest; vocab_size: its kernels'; merges: those that make their ids, from
    FIRST_MERGE on; domains: by name; priors: what it expects of each domain's packets, by its name; known: the n-grams
    that need no quorum in an opened domain, where one is asked for.
    """

    version: int
    digest: str
    vocab_size: int
    merges: tuple[tuple[int, int], ...]
    domains: Mapping[str, Domain]
    priors: Mapping[str, Prior] = field(default_factory=dict)
    known: Mapping[str, Known] = field(default_factory=dict)

    @property
    def prefix(self) -> bytes:
        """How a packet names it."""
        return base_prefix(self.digest)

    @property
    def heirs(self) -> Mapping[str, str]:
        """Of each domain that has ended and is still named, the one that took it over."""
        return heirs(self.domains.values())

    def prior(self, domain: str | None, role: str) -> Prior | None:
        """What it expects of a packet: new territory is told by what its role knows. None where it knows neither."""
        return self.priors.get(domain or role)


Bases = tuple[Base, ...]  # oldest first, at most BASE_WINDOW, versions ascend


def base_of(bundle: Bundle, *, domains: bytes, kernel: bytes, merges: bytes) -> Base:
    """What packets need of a verified bundle. domains: its domains.json; kernel: any of its kernels; merges: its
    coordizer's merge_rules.json.

    Raises Rejected("bad_domains"), Rejected("bad_weights"), Rejected("bad_artifact").
    """
    spec, _ = weights.from_bytes(kernel)
    pairs = [(left, right) for left, right in read_merges(merges)[: spec.vocab - FIRST_MERGE].tolist()]
    known = {domain.name: domain for domain in from_json(domains)}
    return Base(bundle.version, digest(bundle), spec.vocab, tuple(pairs), known)


def expects(memories: Sequence[bytes], vocab_size: int) -> Prior:
    """What a domain with these memory parts expects. Raises Rejected("bad_memory")."""
    return prior_of([memory_file.from_bytes(data, vocab_size) for data in memories], vocab_size)


def holds(memory: bytes, vocab_size: int) -> Known:
    """The n-grams of a memory part. Raises Rejected("bad_memory")."""
    tables = memory_file.from_bytes(memory, vocab_size).tables
    one, two, three = (tables[n].keys if n < len(tables) else np.zeros(0, np.uint64) for n in range(ORDERS))
    return one, two, three


def with_base(bases: Bases, base: Base) -> Bases:
    """The window once `base` is known too; the same version again replaces what was known of it."""
    others = [known for known in bases if known.version != base.version]
    return tuple(sorted([*others, base], key=lambda known: known.version)[-BASE_WINDOW:])


def find(bases: Bases, version: int, prefix: bytes) -> Base | None:
    """The base in the window that a packet names, by version and digest both."""
    return next((base for base in bases if base.version == version and base.prefix == prefix), None)
