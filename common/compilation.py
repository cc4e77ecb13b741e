"""What numba compiled is kept on disk, and forgotten once any source of it has changed.

numba itself looks at one file: that of the function which Python calls, and not at those of what is compiled into it.
After an upgrade a caller whose own file is as it was would run what was there before, and an edge would read packets
otherwise than it writes them.
"""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any, Final

import numba

ROOMS: Final = ("coordizer", "kernels", "wire")  # that compile, here
STAMP: Final = "compiled-of"


def kept(function: Any, **options: Any) -> Any:
    """`function`, compiled when it is first called and kept on disk. options: as of numba.njit."""
    made = numba.njit(cache=True, **options)(function)
    _look_once(Path(made.stats.cache_path))
    return made


def forget_older(folder: Path, sources: str) -> None:
    """Deletes what numba keeps in `folder` unless it was compiled of these sources. A folder that nobody may write, an
    image's, stays as it was built.
    """
    stamp = folder / STAMP
    try:
        if stamp.exists() and stamp.read_text(encoding="ascii") == sources:
            return
        for path in (*folder.glob("*.nbi"), *folder.glob("*.nbc")):
            path.unlink(missing_ok=True)
        stamp.write_text(sources, encoding="ascii")
    except OSError:
        return


def digest_of(root: Path) -> str:
    """The sha256, in hex, of all that these rooms below `root` are made of, and of the constants that all share."""
    found = hashlib.sha256()
    for path in sorted(path for room in (".", *ROOMS) for path in (root / room).glob("*.py")):
        found.update(f"{path.relative_to(root)} {path.stat().st_size}\n".encode() + path.read_bytes())
    return found.hexdigest()


@cache
def _look_once(folder: Path) -> None:
    forget_older(folder, _sources())


@cache
def _sources() -> str:
    return digest_of(Path(__file__).parent)
