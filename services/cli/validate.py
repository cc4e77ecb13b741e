"""`qig validate`: a constellation's gates, measured now, on held-out text that nothing was trained or chosen by.

Every check is a figure, its threshold and its control (`gates.py`). Gate 1 is asked of the coordizer that comes with
the text, gates 2 and 3 of the constellation.
"""

import json as json_text
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np
from rich.table import Table

from common.constants import ROLES
from common.constellation.constellation import Constellation
from common.coordizer.artifacts import Coordizer
from services.cli import gates
from services.cli import genesis as directory
from services.cli.app.ending import EXIT_FAILED
from services.cli.gates import Check
from services.cli.show import Listing, console, number, plain, progress
from services.trainer import text
from services.trainer.evaluate import Examiner, by_reader, instruments
from services.trainer.steering import conversations, prompts
from services.trainer.whole import whole

SHIPPED: Final = Path("data/coordizer-32k")  # gate 1 is about what is shipped, whatever text measures the rest
SEED: Final = 20160
TALKS: Final = 50  # conversations a kernel, of so many tokens
TALK_TOKENS: Final = 512

Tell = Callable[[str, float], None]


def run(*, genesis: Path | None, home: Path, data: Path, json: bool) -> int:
    """Returns 1 when a check fails."""
    kernels = [f"{quantity} {role}" for role in ROLES for quantity in ("phi", "kappa")]
    stages = ("load", "coordizer", "bits per byte", *kernels, "phi constellation")
    with progress(stages) as tell:
        tell("load", 0.0)
        constellation = directory.load(genesis or directory.default(home))
        shipped = directory.coordizer(SHIPPED)
        held_out = text.load(data).held_out
        tell("load", 1.0)
        checks = measure(shipped, constellation, held_out, tell)
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
    shipped: Coordizer, constellation: Constellation, held_out: Mapping[str, Sequence[str]], tell: Tell
) -> list[Check]:
    """Every check, in the order of the gates."""
    tell("coordizer", 0.0)
    every = [passage for role in ROLES for passage in held_out[role]]
    found = list(gates.coordizer_checks(shipped, every, np.random.default_rng(SEED)))
    tell("coordizer", 1.0)
    tell("bits per byte", 0.0)
    scores = Examiner(held_out).scores(constellation)
    tell("bits per byte", 0.5)
    readers = by_reader(constellation, held_out)
    tell("bits per byte", 1.0)
    for role in ROLES:
        tell(f"phi {role}", 0.0)
        seen = instruments(constellation, role, held_out[role])
        tell(f"phi {role}", 1.0)
        found += gates.kernel_checks(role, scores[role], seen)
        found.append(gates.mass_check(role, constellation.homes))
        tell(f"kappa {role}", 0.0)
        asked = prompts([constellation.encoder.encode(passage) for passage in held_out[role]], TALKS)
        held = conversations(constellation, role, asked, tokens=TALK_TOKENS, seed=SEED)
        tell(f"kappa {role}", 1.0)
        found += gates.steering_checks(role, held, seen.kappa)
    together = whole(constellation, held_out, lambda done: tell("phi constellation", done))
    found += gates.whole_checks(together)
    found += gates.reader_checks(readers)
    return [*found, gates.routing_check(scores, {role: len(held_out[role]) for role in ROLES})]


def table(checks: Sequence[Check]) -> Table:
    """The checks for a person."""
    shown = Listing()
    for column in ("", "gate", "check", "value", "threshold", "control"):
        shown.add_column(column, justify="right" if column == "value" else "left")
    for check in checks:
        mark = {True: "[green]✓[/]", False: "[red]✗[/]", None: "·"}[check.ok]
        words = (check.threshold or "", check.control or "")
        shown.add_row(mark, check.gate, check.check, number(check.value, ".3f"), *map(plain, words))
    return shown
