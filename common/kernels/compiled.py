"""How this room compiles: once, kept on disk; and what vector code needs: exp, log, and numbers of half precision.

`compiled` keeps floating point strict: what it computes is the same on every machine. `compiled_fast` lets sums be
reordered and fused; NaN and infinity keep their meaning.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import binding, ir
from numba.core import types
from numba.extending import intrinsic, register_jitable

from common.compilation import kept

F = TypeVar("F", bound=Callable[..., object])

FAST: Final = frozenset({"contract", "reassoc", "nsz"})


def compiled(function: Any) -> Any:
    """Compiled once and kept on disk; strict floating point, so that results do not depend on the machine's vectors."""
    return kept(function, nogil=True, error_model="numpy")


def brief(function: Any) -> Any:
    """`compiled`, for what takes microseconds: it keeps the interpreter's lock, which would take longer to get back."""
    return kept(function, error_model="numpy")


def compiled_fast(function: Any) -> Any:
    """Compiled once and kept on disk; sums in any order, as BLAS would."""
    return kept(function, nogil=True, error_model="numpy", fastmath=set(FAST))


def both(function: F) -> F:
    """For plain arithmetic that Python and compiled code are to do alike: callable from either, one text."""
    return cast("F", register_jitable(function))


def address(array: npt.NDArray[Any]) -> int:
    """Where a contiguous array lies, for `at64` and `at32`. Whoever keeps the address keeps the array."""
    assert array.flags.c_contiguous, array.strides
    found: int = array.__array_interface__["data"][0]
    return found


def _to_pointer(_: Any, where: Any) -> Any:
    def made(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(where), made


_pointer: Final[Any] = intrinsic(_to_pointer)
_array: Final[Any] = numba.carray


@compiled
def at64(where: int, size: int) -> Any:
    """The array of `size` uint64 at an address."""
    return _array(_pointer(where), (size,), np.uint64)


@compiled
def at32(where: int, size: int) -> Any:
    """The array of `size` uint32 at an address."""
    return _array(_pointer(where), (size,), np.uint32)


@partial(kept, nogil=True, fastmath=set(FAST | {"nnan"}))
def peak(x: Any) -> Any:
    """The largest of x (N,), N >= 1. Undefined where there is a NaN: that licence is what makes it vector code."""
    found = x[0]
    for i in range(len(x)):
        found = max(found, x[i])
    return found


@compiled_fast
def exp32(x: Any) -> Any:
    """exp(x) of a float32 within 3e-7 of its value; 0 below -87, exp(88) above 88. Source: Cephes (Moshier 1992)."""
    some = x >= np.float32(-87.0)
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
    e = p * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    return e if some else np.float32(0.0)


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


def _widen(_: Any, x: Any) -> Any:
    """A float32 from the bits of a float16 (uint16), exactly for all finite ones; a float32 stays what it is."""
    return types.float32(x), _keep if x == types.float32 else _convert if HARDWARE_HALF else _assemble


# A named processor (NUMBA_CPU_NAME) may lack what this one has.
HARDWARE_HALF: Final = not os.environ.get("NUMBA_CPU_NAME") and binding.get_host_cpu_features().get("f16c", False)


def _keep(_context: Any, _builder: Any, _signature: Any, arguments: Any) -> Any:
    return arguments[0]


def _convert(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
    return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())


def _assemble(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
    """Where the processor has no instruction: exponent and mantissa moved into place, then scaled by 2^112."""
    word = ir.IntType(32)
    bits = builder.zext(arguments[0], word)
    number = builder.shl(builder.and_(bits, word(0x7FFF)), word(13))
    sign = builder.shl(builder.and_(bits, word(0x8000)), word(16))
    return builder.fmul(builder.bitcast(builder.or_(number, sign), ir.FloatType()), ir.FloatType()(2.0**112))


widen: Final[Any] = intrinsic(_widen)
