"""Φ of the stream of token basins while a coordizer is made: what gate 1 looks at.

A fixed sample of the text is spelled at regular merge counts, and Φ taken of its basins, window by window: once with
the midpoints that training has there, and once with the basins that the tokens have in the end. It says whether the
token stream keeps its integration while its tokens grow longer. A stream whose basins no longer move, or whose Φ
cannot be told from chance, time after time, has collapsed: its tokens follow each other no more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from common.coordizer.train import Training
from common.geometry.integration import NO_MOMENTS, Integration, faculties, integration, moments
from common.geometry.means import frechet_mean
from common.geometry.simplex import Array

LOOKS: Final = 10  # over the whole training
SAMPLE_WORDS: Final = 1500  # of each role; chosen: 8,000 transitions, where chance alone reads 0.004
WINDOW_TOKENS: Final = 64
COLLAPSE_P: Final = 0.001  # of no coupling at all; chosen
COLLAPSE_LOOKS: Final = 3  # one after the other; chosen: one low reading is a reading

Numbers = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Look:
    """At `ids` ids: Φ by the midpoints of that time, and by the basins in the end, with its p-value of no coupling.

    None where it is not known.
    """

    ids: int
    phi_midpoints: float | None
    phi: float | None
    p_value: float | None


class Watch:
    """Collects looks during one training."""

    def __init__(self, texts: Sequence[Sequence[Numbers]]) -> None:
        """texts: those of each role, as numbers of words; of each SAMPLE_WORDS words are watched."""
        samples = [_even(np.concatenate(some)) for some in texts if some]
        self._sample = np.concatenate(samples) if samples else np.empty(0, np.int32)
        self._streams: list[tuple[int, Numbers, float | None]] = []
        self._next = 0.0

    def look(self, done: float, training: Training) -> None:
        """Take Φ now."""
        stream = spelled(self._sample, training)
        self._streams.append((len(training.midpoints), stream, read(stream, training.midpoints).phi))
        self._next = done + 1.0 / LOOKS

    def due(self, done: float) -> bool:
        """Whether the next look is due at this share of the training."""
        return done >= min(self._next, 1.0) - 1e-9

    def looks(self, basins: Array) -> tuple[Look, ...]:
        """All looks, with Φ by these final basins too."""
        found = [(ids, then, read(stream, basins)) for ids, stream, then in self._streams]
        return tuple(Look(ids, _rounded(then), _rounded(now.phi), now.p_value) for ids, then, now in found)


def spelled(text: Numbers, training: Training) -> Numbers:
    """The ids of a text that is given by the numbers of its words."""
    first = training.bounds[text]
    size = training.bounds[text + 1] - first
    inside = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
    return np.asarray(training.tokens[np.repeat(first, size) + inside])


def read(stream: Numbers, basins: Array) -> Integration:
    """Φ of a stream of ids in windows of WINDOW_TOKENS."""
    windows = len(stream) // WINDOW_TOKENS
    if windows == 0:
        return integration(NO_MOMENTS)
    cut = stream[: windows * WINDOW_TOKENS]
    tokens, counts = np.unique(cut, return_counts=True)
    home = np.sqrt(frechet_mean(basins[tokens], counts.astype(np.float64)))
    return integration(moments(faculties(basins[cut].reshape(windows, WINDOW_TOKENS, -1), home)))


def collapsed(looks: Sequence[Look]) -> bool:
    """Whether in the last COLLAPSE_LOOKS looks Φ is not known any more, or cannot be told from chance.

    A text too short to know Φ at any time has not collapsed.
    """
    last = looks[-COLLAPSE_LOOKS:]
    lost = [look.p_value is None or look.p_value >= COLLAPSE_P for look in last]
    return len(last) == COLLAPSE_LOOKS and all(lost) and any(look.phi is not None for look in looks)


def svg(looks: Sequence[Look]) -> str:
    """The looks as a small drawing: ids along, Φ up, final basins in full and midpoints dashed."""
    width, height, edge = 480, 200, 40
    most = max((look.ids for look in looks), default=1)

    def line(values: Sequence[float | None]) -> str:
        at = [
            f"{edge + (width - 2 * edge) * look.ids / most:.1f},{height - edge - (height - 2 * edge) * value:.1f}"
            for look, value in zip(looks, values, strict=True)
            if value is not None
        ]
        return " ".join(at)

    style = 'fill="none" stroke="currentColor" stroke-width="1.5"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif"'
        f' font-size="11"><title>Φ of the token stream</title>'
        f'<polyline {style} points="{edge},{edge} {edge},{height - edge} {width - edge},{height - edge}"/>'
        f'<polyline {style} points="{line([look.phi for look in looks])}"/>'
        f'<polyline {style} stroke-dasharray="4 3" points="{line([look.phi_midpoints for look in looks])}"/>'
        f'<text x="{edge - 6}" y="{edge + 4}" text-anchor="end">1</text>'
        f'<text x="{edge - 6}" y="{height - edge + 4}" text-anchor="end">0</text>'
        f'<text x="{width - edge}" y="{height - edge + 16}" text-anchor="end">{most} ids</text>'
        f'<text x="{edge + 6}" y="{edge - 8}">Φ: basins (line), midpoints (dashed)</text></svg>\n'
    )


def _even(words: Numbers) -> Numbers:
    """SAMPLE_WORDS of them in ten runs, evenly spaced."""
    if len(words) <= SAMPLE_WORDS:
        return words
    run = SAMPLE_WORDS // 10
    starts = np.linspace(0, len(words) - run, 10).astype(np.int64)
    return np.concatenate([words[at : at + run] for at in starts])


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
