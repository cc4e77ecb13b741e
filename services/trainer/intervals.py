"""How sure a difference is: 95 % confidence intervals of a figure after minus the same figure before, on the same text.

Both are measured on the same blocks (documents, windows, n-grams that begin alike), and a block is left out of both at
once: what makes a text hard makes it hard for both, and cancels. The delete-one-block jackknife gives the standard
error, Student's t with one degree of freedom less than there are blocks the width (Tukey 1958; Efron & Tibshirani 1993,
ch. 11). It holds the choice of text; it knows nothing of other seeds, nor of other kinds of text than were read.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

BLOCKS_MIN: Final = 4  # with fewer, t is so wide that the interval says nothing
CONFIDENCE: Final = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """Of a difference, in the figure's unit; 0 in it: what was read does not tell the two apart."""

    low: float
    high: float


def of_ratio(difference_N: Floats, size_N: Floats, blocks: Sequence[Hashable]) -> Interval | None:
    """Of sum(difference) / sum(size): bits per byte, say, from each passage's bits after minus before, and its bytes.

    blocks: which each passage belongs to. None with fewer than BLOCKS_MIN blocks.
    """
    number = {name: place for place, name in enumerate(dict.fromkeys(blocks))}
    at = np.array([number[name] for name in blocks], np.int64)
    difference, size = (np.bincount(at, column, len(number)) for column in (difference_N, size_N))
    if len(number) < BLOCKS_MIN:
        return None
    whole = float(difference.sum() / size.sum())
    return _around(whole, (difference.sum() - difference) / (size.sum() - size))


def of_windows(reading: Callable[[npt.NDArray[np.int64]], float | None], windows: int, blocks: int) -> Interval | None:
    """Of what `reading` makes of some windows' places, from blocks of neighbouring windows.

    None where there are fewer windows than blocks, or something read is not known.
    """
    if windows < blocks:
        return None
    every = np.array_split(np.arange(windows), blocks)
    readings = [reading(np.arange(windows))]
    readings += [reading(np.concatenate(every[:out] + every[out + 1 :])) for out in range(blocks)]
    known = [one for one in readings if one is not None]
    return _around(known[0], np.array(known[1:])) if len(known) == len(readings) else None


def student(freedom: int) -> float:
    """The two-sided 95 % quantile of Student's t, within 1 % from 3 degrees of freedom on.

    Source: Abramowitz & Stegun 1964, 26.7.5.
    """
    z, n = NormalDist().inv_cdf((1 + CONFIDENCE) / 2), freedom
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / n + second / n**2 + third / n**3


def _around(whole: float, without: Floats) -> Interval:
    blocks = len(without)
    error = math.sqrt((blocks - 1) * float(np.mean(np.square(without - without.mean()))))
    half = student(blocks - 1) * error
    return Interval(whole - half, whole + half)
