"""A coordizer as a folder: its four parts, each compressed, the manifest in the open so that a person can read it."""

from pathlib import Path
from typing import Final

import zstandard

from common.coordizer import artifacts
from common.coordizer.artifacts import PART_MAX_BYTES, Coordizer
from common.errors import Corrupt, Rejected, Unavailable
from services.trainer import folder as folders

SUFFIX: Final = ".zst"
OPEN: Final = "manifest.json"
_LEVEL: Final = 19


def write(coordizer: Coordizer, folder: Path) -> None:
    """Atomic: the folder is there whole or not at all. Equal coordizers give equal files. Raises as `folder.write`."""
    parts = artifacts.to_parts(coordizer)
    pack = zstandard.ZstdCompressor(level=_LEVEL).compress
    packed = {name + SUFFIX: pack(body) for name, body in parts.items() if name != OPEN}
    folders.write(packed | {OPEN: parts[OPEN]}, folder)


def read(folder: Path) -> Coordizer:
    """The coordizer in a folder, its parts compressed or plain, fully checked.

    Raises Unavailable("no_coordizer"), Corrupt("part_digest"), Rejected("bad_artifact") and what `from_parts` raises.
    """
    files = folders.read(folder)
    if files is None:
        raise Unavailable("no_coordizer", f"no coordizer at {folder}: `qig coordizer train --out {folder}` makes one")
    return artifacts.from_parts({name.removesuffix(SUFFIX): _unpacked(name, data) for name, data in files.items()})


def _unpacked(name: str, data: bytes) -> bytes:
    if not name.endswith(SUFFIX):
        return data
    try:
        size = zstandard.frame_content_size(data)
        if not 0 <= size <= PART_MAX_BYTES:
            raise Rejected("bad_artifact", f"{name} unpacks to {size} bytes; the limit is {PART_MAX_BYTES}")
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=PART_MAX_BYTES)
    except zstandard.ZstdError as error:
        raise Corrupt("part_digest", f"{name} is no whole zstd file ({error}): restore it or fetch it again") from None
