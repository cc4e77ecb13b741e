"""A constellation or a coordizer from a directory, for the commands that start from one or measure one."""

import shlex
from pathlib import Path
from typing import Final

from common.constants import ROLES
from common.constellation import parts
from common.constellation.constellation import Constellation
from common.coordizer.artifacts import Coordizer
from common.errors import Unavailable
from services.cli.home import genesis_dir
from services.trainer import coordizers, folder

DATA: Final = Path("data")  # where qig runs, the repository: what is shipped, whatever text a command is given

REPOSITORY: Final = Path(__file__).resolve().parents[2]  # where it was installed from in place; else there is no data


def default(home: Path) -> Path:
    """The genesis of a home, or the one that is shipped while the home has none of its own; an absolute path."""
    own, shipped = genesis_dir(home), folder.shipped(DATA)
    return (shipped if shipped.is_dir() and not own.is_dir() else own).resolve()


def why_no_text() -> str | None:
    """Why nothing can be trained or measured where qig runs, and where it can; None when the texts are there."""
    if all((DATA / f"{role}.jsonl.gz").is_file() for role in ROLES):
        return None
    return f"no texts in {DATA.resolve()}: {_go_there()}"


def _go_there() -> str:
    """What to do in a wrong folder."""
    where = f": cd {shlex.quote(str(REPOSITORY))}" if folder.shipped(REPOSITORY / DATA).is_dir() else ""
    return f"run qig in its repository{where}"


def load(directory: Path) -> Constellation:
    """Raises Unavailable("no_genesis"), Rejected and Corrupt for parts that are not whole."""
    return parts.load(parts_of(directory))


def parts_of(directory: Path) -> dict[str, bytes]:
    """The parts of a genesis. Raises Unavailable("no_genesis")."""
    found = folder.read(directory)
    if found is None:
        message = f"no constellation at {directory}: `qig train` makes one, or name another with --genesis"
        raise Unavailable("no_genesis", message + _or_the_shipped())
    return found


def coordizer(directory: Path) -> Coordizer:
    """Raises Unavailable("no_coordizer"), and as `coordizers.read`."""
    try:
        return coordizers.read(directory)
    except Unavailable as error:
        if error.code != "no_coordizer":
            raise
        raise Unavailable(error.code, error.message + _or_the_shipped()) from None


def _or_the_shipped() -> str:
    """What is missing in a wrong folder need not be made."""
    return "" if folder.shipped(DATA).is_dir() else f"; one is shipped: {_go_there()}"
