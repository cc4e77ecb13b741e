"""The gate: whether a candidate may become the next bundle. It judges figures; it measures nothing itself.

    parent      the current bundle, by version and digest; parent 0 only while there is none
    parts       a whole constellation: coordizer, four kernels, homes, integrator, domains, a memory; a domain that is
                gone has an heir
    figures     finite; no domain's held-out bits per byte worse by more than regress_limit, nor the crystals of one
                that learned; no role's home drifted; no gate of Phi lost that the parent kept; something better than
                before, held-out text by more than chance (the interval lies below 0), unless there was no before, it
                only takes out what a node had brought, or it changes nothing and settles packets
    guards      a kernel that was RESTOREd in training carries its parent's weights

Guards that merely spoke (a renewal, a dropped state) refuse nothing: they did their work, and the figures show the
rest. A RESTORE means that training went wrong and was undone, so a kernel whose weights changed all the same comes from
a run that nobody vouches for. Every reason is given, not only the first.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from common.constants import DRIFT_LIMIT_RAD, PHI_WINDOW, ROLES, Role
from common.constellation.domains import from_json, heirs
from common.constellation.paths import COORDIZER, DOMAINS, HOMES, INTEGRATOR, kernel_path, memory_path
from common.wire.bundle import corrects, digest, takes_back
from common.wire.messages import Bundle, Candidate, Figure

BITS_PER_BYTE: Final = "bits_per_byte"  # on held-out text, a figure a domain
DRIFT: Final = "drift_rad"
PHI: Final = "phi_ratio"  # of a role's state on held-out text; without a domain, of the constellation
BETTER_WHEN_LOWER: Final = frozenset({BITS_PER_BYTE, "crystal_bits"})  # the second: of what a domain was brought
RESTORED: Final = "restore"  # the guard's name, alone or with the kernel's role: restore-heart
ROUNDING: Final = 1e-9  # of a figure, relative: a limit met exactly in decimals is met
COORDIZER_FILES: Final = ("basin_coords.npy", "manifest.json", "merge_rules.json", "vocab.json")
REQUIRED: Final = (
    *(COORDIZER + name for name in COORDIZER_FILES),
    *map(kernel_path, ROLES),
    HOMES,
    INTEGRATOR,
    DOMAINS,
)
_MEMORIES: Final = memory_path("").rpartition("/")[0] + "/"


@dataclass(frozen=True, slots=True)
class Limits:
    """regress_limit: share by which a domain's bits per byte may grow; drift_limit_rad: a home stays nearer than it."""

    regress_limit: float = 0.01
    drift_limit_rad: float = DRIFT_LIMIT_RAD


@dataclass(frozen=True, slots=True)
class Verdict:
    """accepted, or the reasons why not."""

    accepted: bool
    reasons: tuple[str, ...]


def judge(candidate: Candidate, *, current: Bundle | None, limits: Limits) -> Verdict:
    """Whether the candidate may follow `current`; None while nothing was released."""
    figures = candidate.evidence.figures
    reasons = (
        *_named_by_us(candidate),
        *_parent(candidate, current),
        *_missing(candidate),
        *_not_finite(figures),
        *_regressed(figures, limits.regress_limit),
        *_drifted(figures, limits.drift_limit_rad),
        *_lost(figures),
        *(_nothing_gained(figures) if current is not None and _is_to_gain(candidate, current) else ()),
        *(_restored(candidate, current) if current is not None else ()),
    )
    return Verdict(not reasons, reasons)


def changes_nothing(candidate: Candidate, current: Bundle) -> bool:
    """Whether it is `current` once more, for the packets that it names: nothing of them counts yet."""
    return bool(candidate.packets) and candidate.parts == current.parts


def _is_to_gain(candidate: Candidate, current: Bundle) -> bool:
    return not (corrects(candidate) or changes_nothing(candidate, current))


def missing_memories(candidate: Candidate, domains: bytes) -> tuple[str, ...]:
    """A reason for each memory that the candidate's domains.json names and its parts do not hold.

    Raises Rejected("bad_domains").
    """
    named = {name for domain in from_json(domains) for name in domain.memories}
    missing = sorted(name for name in named if memory_path(name) not in candidate.parts)
    return tuple(f"part {memory_path(name)} is missing, and {DOMAINS} names it" for name in missing)


def _named_by_us(candidate: Candidate) -> Iterator[str]:
    if takes_back(candidate):
        yield f"its id is {candidate.id[:40]}: only a publisher takes a release back (`qig bundle revoke`)"


def without_heir(current: bytes, domains: bytes) -> tuple[str, ...]:
    """A reason for each domain of the current domains.json that the candidate's neither has nor names as a former one.

    Raises Rejected("bad_domains").
    """
    found = from_json(domains)
    known = {domain.name for domain in found} | heirs(found).keys()
    gone = sorted(domain.name for domain in from_json(current) if domain.name not in known)
    return tuple(
        f"domain {name} is gone and has no heir: what edges hold of it would never be settled" for name in gone
    )


def _parent(candidate: Candidate, current: Bundle | None) -> Iterator[str]:
    if current is None:
        if candidate.parent or candidate.parent_digest:
            yield f"parent is bundle {candidate.parent}, but none was released: only a genesis (parent 0) can be first"
    elif candidate.parent == 0:
        yield f"a genesis, but bundle {current.version} is released already: train on it instead"
    elif candidate.parent != current.version:
        yield f"parent is bundle {candidate.parent}, the current one is {current.version}: train on that one"
    elif candidate.parent_digest != digest(current):
        yield f"parent digest is {candidate.parent_digest[:12]}, bundle {current.version} has {digest(current)[:12]}"


def _missing(candidate: Candidate) -> Iterator[str]:
    for path in REQUIRED:
        if path not in candidate.parts:
            yield f"part {path} is missing"
    if not any(path.startswith(_MEMORIES) for path in candidate.parts):
        yield f"no memory: {_MEMORIES} is empty"


def _not_finite(figures: tuple[Figure, ...]) -> Iterator[str]:
    """The wire refuses them already; a candidate that was made in this process never crossed it."""
    for figure in figures:
        if not math.isfinite(figure.after) or not math.isfinite(figure.before or 0.0):
            yield f"{_named(figure)} is not finite: {figure.before} -> {figure.after}"


def _regressed(figures: tuple[Figure, ...], limit: float) -> Iterator[str]:
    for figure in figures:
        if figure.name in BETTER_WHEN_LOWER and figure.before is not None:
            allowed = figure.before * (1.0 + limit)
            if figure.after > allowed * (1.0 + ROUNDING):
                worse = figure.after / figure.before - 1.0 if figure.before else math.inf
                yield (
                    f"{_named(figure)} is {worse:.2%} worse, {figure.before:.4f} -> {figure.after:.4f}; "
                    f"the limit is {limit:.2%}"
                )


def _drifted(figures: tuple[Figure, ...], limit_rad: float) -> Iterator[str]:
    for figure in figures:
        if figure.name == DRIFT and figure.domain in ROLES and not figure.after < limit_rad:
            yield f"{_named(figure)} is {figure.after:.4f}; it must stay below {limit_rad:.2f}"


def _lost(figures: tuple[Figure, ...]) -> Iterator[str]:
    """A role's Phi has left the window that it was in, or the constellation's has fallen to a member's."""
    low, high = PHI_WINDOW
    for figure in figures:
        if figure.name != PHI or figure.before is None:
            continue
        if figure.domain is None and figure.before > high >= figure.after:
            yield f"phi_ratio of the constellation fell from {figure.before:.4f} to {figure.after:.4f}; above {high}"
        if figure.domain in ROLES and low <= figure.before <= high and not low <= figure.after <= high:
            yield f"{_named(figure)} left {low} to {high}: {figure.before:.4f} -> {figure.after:.4f}"


def _nothing_gained(figures: tuple[Figure, ...]) -> Iterator[str]:
    comparable = [f for f in figures if f.name in BETTER_WHEN_LOWER and f.before is not None]
    if not any(_better(figure) for figure in comparable):
        yield f"nothing got better: none of {len(comparable)} figures with a before is lower now, or by chance alone"


def _better(figure: Figure) -> bool:
    """Lower; of held-out text surely so, where it is known how sure. Crystals are what was counted in: of a few heavy
    ones the interval is wide, and says nothing against them.
    """
    lower = figure.before is not None and figure.after < figure.before
    return lower and (figure.name != BITS_PER_BYTE or figure.high is None or figure.high < 0.0)


def _restored(candidate: Candidate, current: Bundle) -> Iterator[str]:
    for role in ROLES:
        path = kernel_path(role)
        if candidate.parts.get(path) != current.parts.get(path) and _undone(candidate.evidence.guards, role):
            yield f"training of {role} was undone by its guard, but {path} is not the parent's: nobody vouches for it"


def _undone(guards: tuple[str, ...], role: Role) -> bool:
    """A RESTORE of this kernel, or one that names none and may be any."""
    said = {guard.lower() for guard in guards if guard.lower().startswith(RESTORED)}
    named = {guard for guard in said if any(guard == f"{RESTORED}-{other}" for other in ROLES)}
    return f"{RESTORED}-{role}" in said or bool(said - named)


def _named(figure: Figure) -> str:
    return figure.name if figure.domain is None else f"{figure.name} of {figure.domain}"
