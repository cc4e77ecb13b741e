"""How this room compiles: once, kept on disk, and to the same bits everywhere."""

from typing import Any

from common.compilation import kept


def compiled(function: Any) -> Any:
    """Compiled once and kept on disk; strict floating point, so that results do not depend on the machine's vectors."""
    return kept(function, nogil=True)
