"""Parts as a folder on disk, plain or compressed: a genesis, or a coordizer of its own."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import zstandard

from common.errors import Corrupt, Rejected, Unavailable

PACKED: Final = ".zst"
PART_MAX_BYTES: Final = 1 << 28  # of a packed part, unpacked: what a memory may have
OPEN: Final = "manifest.json"
_LEVEL: Final = 19


def shipped(data: Path) -> Path:
    """Where the genesis lies that comes with the text."""
    return data / "genesis"


def pack(parts: Mapping[str, bytes]) -> dict[str, bytes]:
    """Every part under zstd, .zst after its name; a manifest stays as it is, so that a person can read it."""
    compress = zstandard.ZstdCompressor(level=_LEVEL).compress
    return {
        **{path: data for path, data in parts.items() if path.endswith(OPEN)},
        **{path + PACKED: compress(data) for path, data in parts.items() if not path.endswith(OPEN)},
    }


def write(parts: Mapping[str, bytes], folder: Path) -> None:
    """Atomic: the folder is there whole or not at all; one that is there is replaced, and stays when that fails.

    Raises Unavailable("unwritable").
    """
    staged, old = (folder.with_name(f".{folder.name}.{end}") for end in ("part", "old"))
    try:
        shutil.rmtree(staged, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        for path, data in parts.items():
            (staged / path).parent.mkdir(parents=True, exist_ok=True)
            (staged / path).write_bytes(data)
        if folder.is_dir():
            folder.rename(old)
        staged.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(staged, ignore_errors=True)
        if old.exists() and not folder.exists():
            old.rename(folder)
        message = f"can't write {error.filename or folder}: {error.strerror}; free space there or choose another folder"
        raise Unavailable("unwritable", message) from error


def read(folder: Path) -> dict[str, bytes] | None:
    """The parts, unpacked, or None when there is no such folder.

    Raises Unavailable("unreadable"), Corrupt("part_digest") for a packed part that is not whole, Rejected("bad_part")
    for one above PART_MAX_BYTES.
    """
    if not folder.is_dir():
        return None
    try:
        found = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
    except OSError as error:
        message = f"can't read {error.filename or folder}: {error.strerror}; check its permissions"
        raise Unavailable("unreadable", message) from error
    return {path.removesuffix(PACKED): _unpacked(path, data) for path, data in found.items()}


def _unpacked(path: str, data: bytes) -> bytes:
    if not path.endswith(PACKED):
        return data
    try:
        size = zstandard.frame_content_size(data)
        if not 0 <= size <= PART_MAX_BYTES:
            raise Rejected("bad_part", f"{path} unpacks to {size} bytes; the limit is {PART_MAX_BYTES}")
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=PART_MAX_BYTES)
    except zstandard.ZstdError as error:
        raise Corrupt("part_digest", f"{path} is no whole zstd file ({error}): restore it or fetch it again") from None
