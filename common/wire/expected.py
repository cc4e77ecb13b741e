"""What a base expects of a domain's crystals, which the adaptive form may begin with (adaptive.py, "Over a base")."""

import hashlib
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from common.wire.levels import Bytes

Places = npt.NDArray[np.uint16]

NAME_BYTES: Final = 8


class Expected(NamedTuple):
    """How often a base heard each token and each pair, in levels. levels: (V,); starts: (V + 1,); followers: (N,), of
    each token ascending; heard: (N,). All empty: no base.
    """

    levels: Bytes
    starts: npt.NDArray[np.uint32]
    followers: Places
    heard: Bytes


NOTHING: Final = Expected(np.zeros(0, np.uint8), np.zeros(1, np.uint32), np.zeros(0, np.uint16), np.zeros(0, np.uint8))


@dataclass(frozen=True, slots=True, eq=False)
class Prior:
    """What a base expects, under the name that tells it from every other."""

    expected: Expected
    name: bytes

    @classmethod
    def of(cls, expected: Expected) -> "Prior":
        """Named by its content."""
        levels, starts, followers, heard = expected
        content = (levels.tobytes(), starts.astype("<u4").tobytes(), followers.astype("<u2").tobytes(), heard.tobytes())
        return cls(expected, hashlib.sha256(b"".join(content)).digest()[:NAME_BYTES])
