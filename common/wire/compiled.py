"""How this room compiles: once, kept on disk. Whole numbers only, so that it computes the same bytes on every machine.

What is `woven` becomes a part of whoever calls it: to hand an array over costs more than a bit.
"""

from typing import Any

import numba

from common.compilation import kept


def compiled(function: Any) -> Any:
    """Compiled once and kept on disk."""
    return kept(function, nogil=True, error_model="numpy")


def woven(function: Any) -> Any:
    """Compiled into each caller."""
    return numba.njit(inline="always", nogil=True, error_model="numpy")(function)
