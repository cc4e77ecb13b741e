"""What the declarations share: how a command is run, the options that several take, and where things lie by default."""

import errno
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final

import typer

HOME_VARIABLE: Final = "QIG_HOME"
Home = Annotated[Path, typer.Option(envvar=HOME_VARIABLE, help="Directory for state and keys.")]
Json = Annotated[bool, typer.Option("--json", help="For programs: JSON, one object a line.")]
Data = Annotated[Path, typer.Option(help="Directory of the corpora, one DOMAIN.jsonl.gz each.")]
Genesis = Annotated[
    Path | None, typer.Option(help="Directory of a constellation's parts; HOME/genesis, else what is shipped.")
]
Node = Annotated[str | None, typer.Option(help="The edge; every edge of this home when not given.")]
DEFAULT_HOME: Final = Path(".qig")
NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)  # of an OSError: a disk, or a user's share of it, is full


def do(module: str, function: str = "run", **given: Any) -> None:
    """Import the command's module, run it, end with its code."""
    work = getattr(import_module(f"services.cli.{module}"), function)
    raise typer.Exit(work(**given))
