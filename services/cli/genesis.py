"""A constellation from a directory, for the commands that measure one."""

from pathlib import Path

from common.constellation import parts
from common.constellation.constellation import Constellation
from common.errors import Unavailable
from services.trainer import folder


def load(directory: Path) -> Constellation:
    """Raises Unavailable("no_genesis"), Rejected and Corrupt for parts that are not whole."""
    found = folder.read(directory)
    if found is None:
        message = f"no constellation at {directory}: `qig train` makes one, or name another with --genesis"
        raise Unavailable("no_genesis", message)
    return parts.load(found)
