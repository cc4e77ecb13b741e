"""`qig route`: where a text lies among the domains, and what it is made of."""

import json as json_text
import math
import sys
from pathlib import Path

import numpy as np
from rich.table import Table

from common.constants import FACULTIES
from common.constellation.constellation import MARGIN_MIN_RAD
from common.coordizer.artifacts import Coordizer
from common.coordizer.encode import Encoder, Ids
from common.coordizer.place import bearings, text_basin
from common.errors import Rejected
from common.geometry.means import frechet_mean
from common.geometry.routing import Route, Router
from common.geometry.simplex import Floats
from services.cli import genesis as directory
from services.cli.ask import given
from services.cli.gates import faculty_mass
from services.cli.show import Listing, bar, console
from services.trainer.corpora import selection


def run(*, text: str, genesis: Path | None, home: Path, json: bool, coordizer: Path | None, data: Path) -> int:
    """Coordize, route, show."""
    if coordizer is None:
        constellation = directory.load(genesis or directory.default(home))
        ids = _some(constellation.encoder.encode(given(text)))
        basin = constellation.basin(ids)
        found = constellation.route(basin)
    else:
        made = directory.coordizer(coordizer)
        ids = _some(Encoder(made).encode(given(text)))
        basin = text_basin(ids, bearings(made.basins))
        found = Router(role_homes(made, data), margin_min_rad=MARGIN_MIN_RAD).route(basin)
    masses = {name: faculty_mass(basin, (name,)) for name in FACULTIES}
    if json:
        sys.stdout.write(as_json(found, masses, len(ids)) + "\n")
        return 0
    out = console()
    out.print(_routes(found))
    out.print(_verdict(found, len(ids)))
    out.print(_masses(masses))
    return 0


def role_homes(made: Coordizer, data: Path) -> dict[str, Floats]:
    """Where each role lies by this coordizer: the Fréchet mean of its training documents' basins."""
    encoder, table = Encoder(made), bearings(made.basins)
    return {
        role: frechet_mean(np.stack([text_basin(encoder.encode(row.text), table) for row in rows]))
        for role, rows in selection.load(data, part="train").items()
    }


def _some(ids: Ids) -> Ids:
    if not len(ids):
        raise Rejected("no_text", "there is no text to route: give some, or - for standard input")
    return ids


def as_json(found: Route, masses: dict[str, float], tokens: int) -> str:
    """One line."""
    steps = [{"domain": s.name, "distance_rad": s.distance_rad, "weight": s.weight} for s in found.steps]
    margin = found.margin_rad if math.isfinite(found.margin_rad) else None
    whole = {"tokens": tokens, "route": steps, "margin_rad": margin, "abstained": found.abstained, "faculties": masses}
    return json_text.dumps(whole)


def _routes(found: Route) -> Table:
    shown = Listing()
    for column in ("domain", "distance", "weight", ""):
        shown.add_column(column, justify="left" if column in ("domain", "") else "right")
    for step in found.steps:
        shown.add_row(step.name, f"{step.distance_rad:.3f} rad", f"{step.weight:.2f}", bar(step.weight))
    return shown


def _verdict(found: Route, tokens: int) -> str:
    nearest = found.steps[0].name
    if not math.isfinite(found.margin_rad):
        return f"{tokens} tokens, {nearest}: the only domain\n"
    verdict = f"{nearest}, and near enough to {found.steps[1].name} to ask both" if found.abstained else nearest
    return f"{tokens} tokens, margin {found.margin_rad:.3f} rad: {verdict}\n"


def _masses(masses: dict[str, float]) -> Table:
    shown = Listing()
    for column in ("faculty", "share", ""):
        shown.add_column(column, justify="right" if column == "share" else "left")
    for name, mass in masses.items():
        shown.add_row(name, f"{mass:.3f}", bar(mass))
    return shown
