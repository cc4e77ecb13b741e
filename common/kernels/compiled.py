"""How this room compiles: once, kept on disk; and exp and log that the compiler can turn into vector code.

`compiled` keeps floating point strict: what it computes is the same on every machine. `compiled_fast` lets sums be
reordered and fused; NaN and infinity keep their meaning. numba notices a change only in the file of the function that
is called from Python: after changing a function here, delete __pycache__.
"""

from typing import Any, Final

import numba
import numpy as np

FAST: Final = frozenset({"contract", "reassoc", "nsz"})


def compiled(function: Any) -> Any:
    """Compiled once and kept on disk; strict floating point, so that results do not depend on the machine's vectors."""
    return numba.njit(cache=True, nogil=True, error_model="numpy")(function)


def compiled_fast(function: Any) -> Any:
    """Compiled once and kept on disk; sums in any order, as BLAS would."""
    return numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=set(FAST))(function)


@compiled_fast
def exp32(x: Any) -> Any:
    """exp(x) of a float32 within 3e-7 of its value; x is clamped to [-87, 88]. Source: Cephes, expf (Moshier 1992)."""
    x = min(max(x, np.float32(-87.0)), np.float32(88.0))
    n = np.floor(x * np.float32(1.44269504088896341) + np.float32(0.5))
    r = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)  # ln 2 in two parts
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + np.float32(1.0)
    return p * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@compiled_fast
def log32(x: Any) -> Any:
    """log(x) of a float32, within 2e-7 + 2e-7 |log x| for normal x > 0. Source: Cephes (Moshier 1992)."""
    bits = np.float32(x).view(np.int32)
    n = np.float32((bits >> np.int32(23)) - np.int32(126))
    m = np.int32((bits & np.int32(0x7FFFFF)) | np.int32(0x3F000000)).view(np.float32)  # [0.5, 1)
    small = m < np.float32(0.707106781186547524)
    n = n - np.float32(1.0) if small else n
    r = m + m - np.float32(1.0) if small else m - np.float32(1.0)
    p = np.float32(7.0376836292e-2)
    p = p * r - np.float32(1.1514610310e-1)
    p = p * r + np.float32(1.1676998740e-1)
    p = p * r - np.float32(1.2420140846e-1)
    p = p * r + np.float32(1.4249322787e-1)
    p = p * r - np.float32(1.6668057665e-1)
    p = p * r + np.float32(2.0000714765e-1)
    p = p * r - np.float32(2.4999993993e-1)
    p = p * r + np.float32(3.3333331174e-1)
    s = r * r
    tail = p * r * s - n * np.float32(2.12194440e-4) - np.float32(0.5) * s
    return r + tail + n * np.float32(0.693359375)
