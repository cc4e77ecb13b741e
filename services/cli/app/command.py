"""What the declarations share: how a command is run, the options that several take, and where things lie by default."""

import math
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from common.errors import Rejected

HOME_VARIABLE: Final = "QIG_HOME"
Home = Annotated[Path, typer.Option(envvar=HOME_VARIABLE, help="Directory for state and keys.")]
Json = Annotated[bool, typer.Option("--json", help="For programs: JSON, one object a line.")]
Data = Annotated[Path, typer.Option(help="Directory of the corpora, one DOMAIN.jsonl.gz each.")]
Genesis = Annotated[
    Path | None, typer.Option(help="Directory of a constellation's parts; HOME/genesis, else what is shipped.")
]
Node = Annotated[str | None, typer.Option(help="The edge; every edge of this home when not given.")]
DEFAULT_HOME: Final = Path(".qig")


def do(module: str, function: str = "run", **given: Any) -> None:
    """Import the command's module, run it, end with its code. Raises what `usable` and the command raise."""
    wanted = usable(given)
    work = getattr(import_module(f"services.cli.{module}"), function)
    raise typer.Exit(work(**wanted))


def usable(given: Any) -> Any:
    """What was typed, as messages and files take it, whatever the locale; a path stays the bytes that it is.

    Raises Rejected: "bad_number" for one that lies in every range because it compares with none, "no_text" for what is
    no UTF-8.
    """
    if isinstance(given, dict):
        return {name: usable(value) for name, value in given.items()}
    if isinstance(given, list):
        return [usable(value) for value in given]
    if isinstance(given, float) and not math.isfinite(given):
        raise Rejected("bad_number", f"{given} is no number to go by: give a finite one")
    if isinstance(given, str):
        try:
            return given.encode("utf-8", "surrogateescape").decode()
        except UnicodeDecodeError as error:
            how = "type it again, or convert it: `iconv -f latin1 -t utf8`"
            raise Rejected("no_text", f"{given!r} is no UTF-8 text (byte {error.start}): {how}") from None
    return given
