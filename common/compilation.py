"""What numba compiled is kept on disk, and used until any source of it has changed.

numba itself looks at one file: that of the function which Python calls, and not at those of what is compiled into it.
After an upgrade a caller whose own file is as it was would run what was there before, and an edge would read packets
otherwise than it writes them. So what is kept says of which sources it is, each function by itself: a process of the
old ones may still run, and keep what it compiles, when one of the new ones has begun.
"""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any, Final

import numba

ROOMS: Final = ("coordizer", "kernels", "wire")  # that compile, here


def kept(function: Any, **options: Any) -> Any:
    """`function`, compiled when it is first called and kept on disk. options: as of numba.njit."""
    made = numba.njit(cache=True, **options)(function)
    made._cache._cache_file._source_stamp = _sources()  # noqa: SLF001 -- numba's: when that one file was changed
    return made


def digest_of(root: Path) -> str:
    """The sha256, in hex, of all that these rooms below `root` are made of, and of the constants that all share."""
    found = hashlib.sha256()
    for path in sorted(path for room in (".", *ROOMS) for path in (root / room).glob("*.py")):
        found.update(f"{path.relative_to(root)} {path.stat().st_size}\n".encode() + path.read_bytes())
    return found.hexdigest()


@cache
def _sources() -> str:
    return digest_of(Path(__file__).parent)
