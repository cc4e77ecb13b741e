"""Rows of numbers as bytes in numpy's form, version 1.0 (numpy/lib/format.py), and back.

Its header is a Python expression. It is not read, for a stranger wrote it: it must be the one that so many bytes have.
"""

import io
from typing import Any, Final

import numpy as np
import numpy.typing as npt

_form: Final[Any] = np.lib.format  # without types in the stubs
_HEADER_BYTES: Final = 128  # of any number of rows below 10^21


def to_bytes(rows: npt.NDArray[Any]) -> bytes:
    """rows: (N, D). Equal rows give equal bytes."""
    stream = io.BytesIO()
    _form.write_array(stream, np.ascontiguousarray(rows), version=(1, 0), allow_pickle=False)
    return stream.getvalue()


def from_bytes(data: bytes, kind: npt.DTypeLike, width: int) -> npt.NDArray[Any]:
    """The rows, (N, width) of type `kind`, over the bytes that were given. Raises ValueError for anything else."""
    dtype = np.dtype(kind)
    count = (len(data) - _HEADER_BYTES) // (width * dtype.itemsize)
    header = io.BytesIO()
    _form.write_array_header_1_0(header, {"descr": dtype.str, "fortran_order": False, "shape": (max(count, 0), width)})
    size = _HEADER_BYTES + count * width * dtype.itemsize
    if len(data) != size or not data.startswith(header.getvalue()):
        raise ValueError(f"{len(data)} bytes are not an .npy of {dtype} rows of {width} numbers each")
    return np.frombuffer(data, dtype, offset=_HEADER_BYTES).reshape(count, width)
