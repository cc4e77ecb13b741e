"""How this room compiles: once, kept on disk. Whole numbers only, so that it computes the same bytes on every machine.

What is `woven` becomes a part of whoever calls it: to hand an array over costs more than a bit. numba notices a change
only in the file of the function that is called from Python: after changing a woven one, delete __pycache__.
"""

from typing import Any

import numba


def compiled(function: Any) -> Any:
    """Compiled once and kept on disk."""
    return numba.njit(cache=True, nogil=True, error_model="numpy")(function)


def woven(function: Any) -> Any:
    """Compiled into each caller."""
    return numba.njit(inline="always", nogil=True, error_model="numpy")(function)
