"""How this room compiles: once, kept on disk, and to the same bits everywhere."""

from typing import Any

import numba


def compiled(function: Any) -> Any:
    """Compiled once and kept on disk; strict floating point, so that results do not depend on the machine's vectors."""
    return numba.njit(cache=True, nogil=True)(function)
