"""The C library's allocator, told to keep what a training step frees for the next step.

glibc hands large freed blocks back to the system, and a step's activations come back page by page: a tenth of a step at
size small and more (docs/experiments.md).
"""

import contextlib
import ctypes
from typing import Final

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
KEPT_BYTES: Final = 1 << 30
LARGEST_BYTES: Final = 32 << 20  # what glibc takes at most: blocks above it are the system's in any case


def keep_freed() -> None:
    """For this process, from now on. Does nothing where the C library is another than glibc."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, LARGEST_BYTES)
