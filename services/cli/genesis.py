"""A constellation from a directory, for the commands that start from one or measure one."""

from pathlib import Path
from typing import Final

from common.constellation import parts
from common.constellation.constellation import Constellation
from common.errors import Unavailable
from services.cli.home import genesis_dir
from services.trainer import folder

DATA: Final = Path("data")  # where qig runs, the repository: what is shipped, whatever text a command is given


def default(home: Path) -> Path:
    """The genesis of a home, or the one that is shipped while the home has none of its own; an absolute path."""
    own, shipped = genesis_dir(home), folder.shipped(DATA)
    return (shipped if shipped.is_dir() and not own.is_dir() else own).resolve()


def load(directory: Path) -> Constellation:
    """Raises Unavailable("no_genesis"), Rejected and Corrupt for parts that are not whole."""
    return parts.load(parts_of(directory))


def parts_of(directory: Path) -> dict[str, bytes]:
    """The parts of a genesis. Raises Unavailable("no_genesis")."""
    found = folder.read(directory)
    if found is None:
        message = f"no constellation at {directory}: `qig train` makes one, or name another with --genesis"
        raise Unavailable("no_genesis", message)
    return found
