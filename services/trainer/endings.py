"""How a domain ends: it has become one with another, or nobody uses it. What it taught stays with its heir.

    converged   two opened domains of one role lie near, and each reads the other's n-grams
                well enough                                     ─▶ the older one, with both memories and gates
    at home     an opened domain lies near its role's own, and its memory saves little      ─▶ the role's domain
    unused      no batch brought it anything for long, or others need its place             ─▶ the nearest domain

The centre has no text of an opened domain, but its n-grams. `read_share` holds what another's memory saves on them
against what the domain's own saves, both beside the role's: of one corpus read by two edges it is .3 to .9 from the
second packet on, of two kinds of text .2 at most (docs/experiments.md). Counts of converged domains add exactly; what
an unused one knew goes with it. An ending that makes held-out text worse does not happen.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final

import numpy as np

from common.constants import ROLES
from common.constellation.constellation import Constellation
from common.constellation.domains import FORMER_MAX, Domain
from common.geometry.means import frechet_mean
from common.geometry.simplex import distance
from common.kernels import memory
from common.wire.fields import MAX_DOMAINS
from common.wire.messages import Figure
from services.trainer.evaluate import Examiner, Score, gram_bits
from services.trainer.prune import joined

# Chosen on 31 pairs of texts beside two roles (docs/experiments.md): halves of one source lie .01-.07 rad apart after
# 24 KB each, two kinds of text .18 or more, parts of one book .04-.13.
CONVERGED_RAD: Final = 0.10
READ_SHARE: Final = 0.4
SAVED_MIN: Final = 0.12  # text of a role's own kind: .04-.12 of its n-grams' bits; what lies nearest besides: .17-.26
READ_MIN_ENTRIES: Final = 256  # a packet of 1 KB brings 650 to 800: fewer n-grams tell nothing
IDLE_BATCHES: Final = 32  # chosen: how long a domain may be brought nothing ...
IDLE_ENTRIES: Final = 1024  # ... and as long again for each so many n-grams that it knows
ROOM: Final = 8  # places that stay free: new territory is never refused for junk's sake


@dataclass(frozen=True, slots=True)
class Ending:
    """name ends, heir bears its name. absorbed: whether its counts are added to the heir's. figures: why."""

    name: str
    heir: str
    absorbed: bool
    figures: tuple[Figure, ...]


def ended(
    constellation: Constellation, examiner: Examiner, scores: dict[str, Score], allowed: Mapping[str, float]
) -> tuple[Constellation, dict[str, Score], tuple[Figure, ...]]:
    """The constellation without the domains that ended, its scores, and a figure or two for each of them.

    scores: the constellation's; allowed: bits per byte that each domain with held-out text may have at the end. A role
    becomes an heir only where its own do not rise.
    """
    figures: tuple[Figure, ...] = ()
    refused: set[tuple[str, str]] = set()
    while (found := _next(constellation, refused)) is not None:
        trial = _without(constellation, found)
        after = examiner.scores(trial)
        worse = any(after[domain].bits_per_byte > allowed[domain] for domain in after)
        own = found.heir if found.absorbed and found.heir in ROLES else None
        if worse or (own in after and after[own].bits_per_byte > scores[own].bits_per_byte):
            refused.add((found.name, found.heir))
            continue
        constellation, scores, figures = trial, after, figures + found.figures
    return constellation, scores, figures


def read_share(constellation: Constellation, domain: str, reader: str) -> float:
    """Of the bits that a domain's memory saves on its own n-grams, the share that another domain's saves on them.

    1: reads them as well; 0: as its role's memory alone does; below it where the reader misleads.
    """
    grams = _own(constellation, domain)
    alone = gram_bits(constellation.kernel(constellation.domains[domain].role), grams)
    saved = alone - gram_bits(constellation.kernel(domain), grams)
    return (alone - gram_bits(constellation.kernel(reader), grams)) / saved if saved > 0 else 1.0


def saved_share(constellation: Constellation, domain: str) -> float:
    """The share of its n-grams' bits that a domain's memory saves its role's."""
    grams = _own(constellation, domain)
    return 1.0 - gram_bits(constellation.kernel(domain), grams) / gram_bits(
        constellation.kernel(constellation.domains[domain].role), grams
    )


def patience(entries: int) -> int:
    """How many batches in a row may bring nothing to a domain that knows this many n-grams."""
    return IDLE_BATCHES * (1 + entries // IDLE_ENTRIES)


def _next(constellation: Constellation, refused: set[tuple[str, str]]) -> Ending | None:
    every = chain(_converged(constellation), _at_home(constellation), _unused(constellation))
    return next((each for each in every if (each.name, each.heir) not in refused), None)


def _opened(constellation: Constellation) -> list[Domain]:
    """Oldest first."""
    return [domain for name, domain in constellation.domains.items() if name not in ROLES]


def _converged(constellation: Constellation) -> Iterator[Ending]:
    """The nearest two first."""
    opened = [each for each in _opened(constellation) if _own(constellation, each.name).entries >= READ_MIN_ENTRIES]
    pairs = [
        (float(distance(older.basin_array, younger.basin_array)), older.name, younger.name)
        for place, older in enumerate(opened)
        for younger in opened[place + 1 :]
        if older.role == younger.role and len(older.memories) == len(younger.memories)
    ]
    for away, older, younger in sorted(pair for pair in pairs if pair[0] <= CONVERGED_RAD):
        share = min(read_share(constellation, older, younger), read_share(constellation, younger, older))
        if share >= READ_SHARE:
            told = _figure("converged_rad", younger, away, "rad"), _figure("read_share", younger, share, "1")
            yield Ending(younger, older, absorbed=True, figures=told)


def _at_home(constellation: Constellation) -> Iterator[Ending]:
    for domain in _opened(constellation):
        away = float(distance(domain.basin_array, constellation.domains[domain.role].basin_array))
        if away > CONVERGED_RAD or _own(constellation, domain.name).entries < READ_MIN_ENTRIES:
            continue
        saved = saved_share(constellation, domain.name)
        if saved < SAVED_MIN:
            told = _figure("converged_rad", domain.name, away, "rad"), _figure("saved_share", domain.name, saved, "1")
            yield Ending(domain.name, domain.role, absorbed=True, figures=told)


def _unused(constellation: Constellation) -> Iterator[Ending]:
    """Whose patience ends first."""
    left = sorted(
        (patience(_own(constellation, domain.name).entries) - domain.idle, domain.name)
        for domain in _opened(constellation)
        if domain.idle
    )
    crowded = len(constellation.domains) > MAX_DOMAINS - ROOM
    for batches, name in left:
        if batches > 0 and not crowded:
            return
        told = _figure("idle_batches", name, constellation.domains[name].idle, "batch")
        yield Ending(name, _nearest(constellation, name), absorbed=False, figures=(told,))


def _nearest(constellation: Constellation, name: str) -> str:
    own = constellation.domains[name].basin_array
    others = [each for each in constellation.domains.values() if each.name != name]
    return min((float(distance(own, each.basin_array)), each.name) for each in others)[1]


def _without(constellation: Constellation, ending: Ending) -> Constellation:
    gone, heir = constellation.domains[ending.name], constellation.domains[ending.heir]
    memories = dict(constellation.memories)
    changes: dict[str, object] = {"formerly": (*heir.formerly, *gone.formerly, gone.name)[-FORMER_MAX:]}
    if ending.absorbed:
        theirs, own = memories[gone.memories[-1]], memories[heir.memories[-1]]
        memories[heir.memories[-1]] = joined([own, theirs])
        if heir.name not in ROLES:
            changes |= _union(heir, gone, [own.tokens, theirs.tokens])
    domains = {name: each for name, each in constellation.domains.items() if name != gone.name}
    domains[heir.name] = heir.model_copy(update=changes)
    named = {name for domain in domains.values() for name in domain.memories}
    return replace(
        constellation, memories={name: memories[name] for name in memories if name in named}, domains=domains
    )


def _union(heir: Domain, gone: Domain, tokens: list[int]) -> dict[str, object]:
    """Each weighs as many tokens as its memory has counted."""
    weights = np.maximum(tokens, 1).astype(np.float64)
    basin = frechet_mean(np.stack([heir.basin_array, gone.basin_array]), weights)
    gate = np.tensordot(weights / weights.sum(), np.stack([heir.gate_array, gone.gate_array]), 1)
    return {
        "basin": tuple(basin.tolist()),
        "radius_rad": max(heir.radius_rad, gone.radius_rad),
        "gate": tuple(map(tuple, gate.tolist())),
        "idle": min(heir.idle, gone.idle),
    }


def _own(constellation: Constellation, name: str) -> memory.Memory:
    return constellation.memories[constellation.domains[name].memories[-1]]


def _figure(name: str, domain: str, value: float, unit: str) -> Figure:
    return Figure(name=name, domain=domain, before=None, after=value, unit=unit)
