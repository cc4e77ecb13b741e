"""The parts of a constellation as a folder on disk: where `qig train` leaves a genesis and the trainer finds it."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from common.errors import Unavailable


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
    """The parts, or None when there is no such folder. Raises Unavailable("unreadable")."""
    if not folder.is_dir():
        return None
    try:
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
    except OSError as error:
        message = f"can't read {error.filename or folder}: {error.strerror}; check its permissions"
        raise Unavailable("unreadable", message) from error
