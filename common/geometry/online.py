"""Phi of a stream, token by token, at constant cost a token: the windowed estimator of `integration`, kept running.

    tokens ─▶ the open window: raw sums of x and of [x_t, x_t+1][x_t, x_t+1]^T ─centred when read─┐
                      │ full: centred, closed                                                     ├─▶ Integration
                      └─▶ the past: moments that fade by half every half-life ────────────────────┘

Centring is what a running sum cannot do in advance, so the window keeps raw sums, from which the centred moments follow
exactly: but for the fading, whole windows read what `integration(moments(faculties(...)))` reads, to rounding.

>>> import numpy as np
>>> x_TF = np.random.default_rng(0).normal(size=(1024, 8))
>>> read(push(EMPTY, x_TF[:512], window=128)).reason
'few_transitions'
>>> round(read(push(EMPTY, x_TF, window=128)).n)
944
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from common.geometry.integration import NO_MOMENTS, F, Integration, Moments, combine, integration
from common.geometry.simplex import Array, Floats

HALF_LIFE: Final = 4096.0  # transitions after which a reading counts half: the weights then sum to about 5,900
WINDOW_MIN_TOKENS: Final = 16  # chosen: centring a shorter window takes most of what there is to measure


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Raw sums over the tokens of a window that is still open. first, last: its end tokens' x; total: the sum of x;
    pairs: the sum of [x_t, x_t+1][x_t, x_t+1]^T, (16, 16).
    """

    tokens: int = 0
    first: Array = field(default_factory=lambda: np.zeros(F))
    last: Array = field(default_factory=lambda: np.zeros(F))
    total: Array = field(default_factory=lambda: np.zeros(F))
    pairs: Array = field(default_factory=lambda: np.zeros((2 * F, 2 * F)))

    def moments(self) -> Moments:
        """Centred about the window's mean; none for fewer than WINDOW_MIN_TOKENS tokens."""
        if self.tokens < WINDOW_MIN_TOKENS:
            return NO_MOMENTS
        n = self.tokens - 1
        mean = np.tile(self.total / self.tokens, 2)
        summed = np.concatenate([self.total - self.last, self.total - self.first])
        shift = np.outer(summed, mean)
        return Moments(float(n), self.pairs - shift - shift.T + n * np.outer(mean, mean))


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """past: moments of the closed windows, faded; window: the open one."""

    past: Moments = NO_MOMENTS
    window: Window = field(default_factory=Window)


EMPTY: Final = Stream()


def push(stream: Stream, x_TF: Floats, *, window: int) -> Stream:
    """The stream after the activations (T, 8) of more tokens of the same text, in rad; they need no centring.

    window: tokens, at least 2, at which a window is closed: the context of the state that is measured.
    """
    rest_TF: Array = np.asarray(x_TF, np.float64)
    while len(rest_TF):
        room = window - stream.window.tokens
        stream = Stream(stream.past, _grown(stream.window, rest_TF[:room]))
        if stream.window.tokens == window:
            stream = close(stream)
        rest_TF = rest_TF[room:]
    return stream


def close(stream: Stream) -> Stream:
    """The stream at the end of a text: no transition leads from it to the next. A rest too short to centre is lost."""
    return Stream(_faded(stream))


def read(stream: Stream) -> Integration:
    """Phi now: not known below 512 transitions, which are weighed: see `combine`."""
    return integration(_faded(stream))


def _grown(w: Window, x_TF: Array) -> Window:
    begun = w.tokens > 0
    seen_TF = np.concatenate([w.last[None], x_TF]) if begun else x_TF
    pairs = np.concatenate([seen_TF[:-1], seen_TF[1:]], 1)
    first = w.first if begun else x_TF[0]
    return Window(w.tokens + len(x_TF), first, x_TF[-1], w.total + x_TF.sum(0), w.pairs + pairs.T @ pairs)


def _faded(stream: Stream) -> Moments:
    fresh = stream.window.moments()
    return combine(stream.past, fresh, 0.5 ** (fresh.n / HALF_LIFE))
