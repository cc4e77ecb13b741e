"""A coordizer as a folder: its four parts, packed."""

from pathlib import Path

from common.coordizer import artifacts
from common.coordizer.artifacts import Coordizer
from common.errors import Unavailable
from services.trainer import folder as folders


def write(coordizer: Coordizer, folder: Path) -> None:
    """Atomic: the folder is there whole or not at all. Equal coordizers give equal files. Raises as `folder.write`."""
    folders.write(folders.pack(artifacts.to_parts(coordizer)), folder)


def read(folder: Path) -> Coordizer:
    """The coordizer in a folder, its parts packed or plain, fully checked.

    Raises Unavailable("no_coordizer"), Rejected("bad_artifact"), and what `folder.read` and `from_parts` raise.
    """
    parts = folders.read(folder)
    if parts is None:
        raise Unavailable("no_coordizer", f"no coordizer at {folder}: `qig coordizer train --out {folder}` makes one")
    return artifacts.from_parts(parts)
