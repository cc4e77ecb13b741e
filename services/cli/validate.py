"""`qig validate`: a constellation's gates, measured now, on held-out text that nothing was trained or chosen by.

Every check is a figure, its threshold and its control; a figure that DESIGN.md sets no threshold for is shown without a
verdict. Coupling is shown as it is before tacking steers it: its gate (50 to 70) belongs to running kernels.
"""

import json as json_text
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from rich.table import Table

from common.constants import CELLS_PER_FACULTY, FACULTIES, PHI_WINDOW, ROLE_FACULTIES, ROLES, Role
from common.constellation.constellation import Constellation, Floats
from common.geometry.integration import Integration
from services.cli import genesis as directory
from services.cli.show import console, number, plain, progress
from services.trainer import text
from services.trainer.evaluate import Examiner, Instruments, Score, instruments

ROLLED_MAX: Final = 0.15
SHUFFLED_BELOW: Final = 0.2
RANDOM_MAX: Final = 0.4
ROUTED_MIN: Final = 0.9  # chosen: whole passages of 1 to 3 KB; the prototype routed 0.99 of 256 byte prompts
EXIT_FAILED: Final = 1


@dataclass(frozen=True, slots=True)
class Check:
    """value: None when it is not known. threshold, control: in words, None when there is none. ok: None: no verdict."""

    gate: str
    check: str
    value: float | None
    threshold: str | None
    control: str | None
    ok: bool | None


def run(*, genesis: Path, data: Path, json: bool) -> int:
    """Returns 1 when a check fails."""
    with progress(("load", "bits per byte", *(f"phi {role}" for role in ROLES))) as tell:
        tell("load", 0.0)
        constellation = directory.load(genesis)
        held_out = text.load(data).held_out
        tell("load", 1.0)
        checks = measure(constellation, held_out, tell)
    failed = [check for check in checks if check.ok is False]
    if json:
        for check in checks:
            sys.stdout.write(json_text.dumps(asdict(check), ensure_ascii=False) + "\n")
        return EXIT_FAILED if failed else 0
    out = console()
    out.print(table(checks))
    for check in failed:
        said = f"{check.gate}: {check.check} is {number(check.value, '.3f')}, it must be {check.threshold}"
        out.print(f"[red]failed[/] {plain(said)}")
    judged = sum(check.ok is not None for check in checks)
    out.print(f"{judged - len(failed)} of {judged} checks hold")
    return EXIT_FAILED if failed else 0


def measure(
    constellation: Constellation, held_out: Mapping[str, Sequence[str]], tell: Callable[[str, float], None]
) -> list[Check]:
    """Every check, in the order of the gates."""
    examiner_stage = "bits per byte"
    tell(examiner_stage, 0.0)
    scores = Examiner(held_out).scores(constellation)
    tell(examiner_stage, 1.0)
    found: list[Check] = []
    for role in ROLES:
        tell(f"phi {role}", 0.0)
        seen = instruments(constellation, role, held_out[role])
        tell(f"phi {role}", 1.0)
        found += kernel_checks(role, scores[role], seen)
        found.append(mass_check(role, constellation.homes))
    counts = {role: len(held_out[role]) for role in ROLES}
    return [*found, routing_check(scores, counts)]


def kernel_checks(role: Role, score: Score, seen: Instruments) -> Iterator[Check]:
    """Gate 2: what one kernel is worth, and whether its integration is one."""
    gate, phi = "kernels", seen.phi.phi
    low, high = PHI_WINDOW
    against_text = f"text {number(phi, '.3f')}"
    yield Check(gate, f"bits per byte {role}", score.bits_per_byte, None, f"routed {score.routed:.0%}", None)
    inside = phi is not None and low <= phi <= high
    yield Check(gate, f"phi {role}", phi, f"{low} to {high}", _significance(seen.phi), inside)
    for name, control, limit in (
        ("rolled", seen.rolled, ROLLED_MAX),
        ("random tokens", seen.noise, RANDOM_MAX),
    ):
        holds = control.phi is not None and control.phi <= limit
        yield Check(gate, f"phi {role}, {name}", control.phi, f"at most {limit}", against_text, holds)
    below = None if phi is None else phi - SHUFFLED_BELOW
    wanted = f"at most {number(below, '.3f')} (text less {SHUFFLED_BELOW})"
    shuffled = seen.shuffled.phi
    holds = shuffled is not None and below is not None and shuffled <= below
    yield Check(gate, f"phi {role}, shuffled", shuffled, wanted, against_text, holds)
    yield Check(gate, f"kappa {role}", seen.kappa, None, "before tacking", None)


def mass_check(role: Role, homes: Mapping[Role, Floats]) -> Check:
    """Gate 2: homes cluster by primitive: a role's faculties weigh more in its own home than in any other."""
    own = faculty_mass(homes[role], ROLE_FACULTIES[role])
    other = max(faculty_mass(homes[name], ROLE_FACULTIES[role]) for name in ROLES if name != role)
    names = "+".join(ROLE_FACULTIES[role])
    return Check(
        "kernels", f"{names} in the home of {role}", own, f"above {other:.3f}", "the other homes' most", own > other
    )


def routing_check(scores: Mapping[str, Score], counts: Mapping[Role, int]) -> Check:
    """Gate 3: the share of all held-out passages that the router sends to the kernel they belong to."""
    share = sum(scores[role].routed * counts[role] for role in ROLES) / sum(counts.values())
    chance = f"chance {max(counts.values()) / sum(counts.values()):.2f}"
    return Check(
        "constellation", "routing accuracy", share, f"at least {ROUTED_MIN} (chosen)", chance, share >= ROUTED_MIN
    )


def faculty_mass(basin: Floats, faculties: Sequence[str]) -> float:
    """The share of a basin (64,) in the cells of these faculties."""
    cells = basin.reshape(len(FACULTIES), CELLS_PER_FACULTY).sum(1)
    return float(sum(cells[FACULTIES.index(name)] for name in faculties))


def table(checks: Sequence[Check]) -> Table:
    """The checks for a person."""
    shown = Table(box=None, pad_edge=False)
    for column in ("", "gate", "check", "value", "threshold", "control"):
        shown.add_column(column, justify="right" if column == "value" else "left")
    for check in checks:
        mark = {True: "[green]✓[/]", False: "[red]✗[/]", None: "·"}[check.ok]
        words = (check.threshold or "", check.control or "")
        shown.add_row(mark, check.gate, check.check, number(check.value, ".3f"), *map(plain, words))
    return shown


def _significance(phi: Integration) -> str:
    if phi.p_value is None:
        return f"not known: {phi.reason}, {phi.n:.0f} transitions"
    p = "< 1e-300" if phi.p_value == 0.0 else f"{phi.p_value:.1g}"
    return f"p {p} of no coupling, {phi.n:.0f} transitions"
