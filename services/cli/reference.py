"""docs/cli.md, made from the declarations in app/."""

from collections.abc import Iterator
from typing import Any, Final

import typer

from services.cli.app import app
from services.cli.app.ending import EXIT_CODES

_HEAD: Final = """# Command line

Every command of `qig`. Made from `services/cli/app/`; `qig COMMAND --help` says the same.

A failure is one line on standard error: what is wrong, where, the value, what to do next, and a stable code in
parentheses. `qig --debug COMMAND` shows the traceback as well. `--home` may stand before the command too. Colours and
live tables are for terminals: elsewhere the output is plain lines, and `NO_COLOR=1` takes the colours from a terminal
too.

## Exit codes

"""


def render() -> dict[str, bytes]:
    """The file by its name below docs/."""
    codes = "| code | meaning |\n|---|---|\n" + "".join(f"| {code} | {text} |\n" for code, text in EXIT_CODES.items())
    group = typer.main.get_command(app)
    return {"cli.md": (_HEAD + codes + "".join(_sections(group, "qig"))).encode()}


def _sections(command: Any, name: str) -> Iterator[str]:
    """A section a command, those of a group after it."""
    inner: dict[str, Any] = getattr(command, "commands", {})
    if not inner:
        yield _section(command, name)
    for word, found in inner.items():
        yield from _sections(found, f"{name} {word}")


def _section(command: Any, name: str) -> str:
    arguments = [found for found in command.params if found.param_type_name == "argument"]
    options = [found for found in command.params if found.param_type_name == "option" and found.name != "help"]
    usage = " ".join([name, *(_argument(found) for found in arguments), *(["[OPTIONS]"] if options else [])])
    rows = [(f"`{_argument(found)}`", found.help, "") for found in arguments]
    rows += [(f"`{_names(found)}`", _help(found), _default(found)) for found in options]
    table = "".join(f"| {' | '.join(cell or '' for cell in row)} |\n" for row in rows)
    head = "| | what | default |\n|---|---|---|\n" if rows else ""
    return f"\n## {name}\n\n{command.help}\n\n    {usage}\n\n{head}{table}"


def _argument(found: Any) -> str:
    word = found.name.upper() + ("..." if found.nargs == -1 else "")
    return word if found.required else f"[{word}]"


def _names(found: Any) -> str:
    names = ", ".join(found.opts) + "".join(f" / {name}" for name in found.secondary_opts)
    return names if found.is_flag else f"{names} {found.type.name.split()[0].upper()}"


def _help(found: Any) -> str:
    by_variable = f" Also by `{found.envvar}`." if found.envvar else ""
    limits = [f"{word} {limit}" for word, limit in _limits(found.type) if limit is not None]
    return (found.help or "") + (f" ({', '.join(limits)})" if limits else "") + by_variable


def _limits(kind: Any) -> list[tuple[str, float | None]]:
    return [("at least", getattr(kind, "min", None)), ("at most", getattr(kind, "max", None))]


def _default(found: Any) -> str:
    if found.required:
        return "required"
    if found.secondary_opts:
        return f"`{(found.opts if found.default else found.secondary_opts)[0]}`"
    return "" if found.default is None or found.is_flag else f"`{found.default}`"
