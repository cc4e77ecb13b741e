"""`qig doctor`: whether this machine can run a constellation; each failure comes with what to do."""

import json as json_text
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from common.runtime import settings
from common.runtime.settings import BROKER_URL_FILE, CommonSettings, redacted, variable
from services.cli import examine
from services.cli.app.ending import EXIT_FAILED
from services.cli.examine import Check
from services.cli.show import Listing, console, plain, progress


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as the services would read it here, and where its value comes from. Never a secret."""

    service: str
    variable: str
    value: str
    origin: str


def run(*, home: Path, port: int, json: bool) -> int:
    """Returns 1 when a check fails."""
    home = home.resolve()
    checks: list[Check] = []
    examined = examine.examinations(home, port, os.environ)
    with progress(("checks",)) as tell:
        for number, examination in enumerate(examined):
            tell("checks", number / len(examined))
            found = examination()
            checks.append(replace(found, fix="") if found.ok else found)
        tell("checks", 1.0)
    listed = list(effective(os.environ))
    if json:
        for line in (*map(asdict, checks), *map(asdict, listed)):
            sys.stdout.write(json_text.dumps(line) + "\n")
    else:
        _show(checks, listed)
    return 0 if all(check.ok for check in checks) else EXIT_FAILED


def effective(environ: Mapping[str, str]) -> Iterator[Setting]:
    """Every setting of every service; those that all have come once."""
    for service, model in settings.SECTIONS.items():
        for name, field in model.model_fields.items():
            if model is not CommonSettings and name in CommonSettings.model_fields and name != "http_port":
                continue
            if name == "http_port" and model is CommonSettings:
                continue  # each service has its own
            default = "(qig up starts one)" if field.is_required() else str(field.default)
            yield _setting(service, variable(name), default, environ)


def _setting(service: str, name: str, default: str, environ: Mapping[str, str]) -> Setting:
    if name == variable("broker_url") and environ.get(BROKER_URL_FILE):
        return Setting(service, name, "(not shown)", f"file {environ[BROKER_URL_FILE]}")
    if name in environ:
        value = redacted(environ[name]) if name == variable("broker_url") else environ[name]
        return Setting(service, name, value, "environment")
    return Setting(service, name, default, "default")


def _show(checks: list[Check], found: list[Setting]) -> None:
    """The settings first: they are many, and what a reader came for is to stand last."""
    out = console()
    listed = Listing()
    for column in ("service", "setting", "value", "from"):
        listed.add_column(column)
    for setting in found:
        listed.add_row(setting.service, setting.variable, plain(setting.value), plain(setting.origin))
    out.print(listed, "")
    table = Listing(show_header=False)
    for check in checks:
        table.add_row("[green]✓[/]" if check.ok else "[red]✗[/]", check.check, plain(check.value))
        if not check.ok:
            table.add_row("", "[yellow]fix[/]", plain(check.fix))
    out.print(table)
    failed = sum(not check.ok for check in checks)
    out.print(f"\n{failed} of {len(checks)} checks failed" if failed else f"\nall {len(checks)} checks hold")
