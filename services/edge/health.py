"""A bundle that serves on trial: what is seen of it, and when that is enough to keep it or to go back.

    answers and failures ───────────────────────────┐
    Phi of each state, measured since the swap      ├─▶ Window ─▶ judge ─▶ watch | good | bad
    fresh text, read by it and by the last good one │
    tokens, said by both in turns ──────────────────┘

What is not known is not bad: an idle edge keeps what it has. Both bundles do the same work at the same moments, because
a level of before the swap says nothing: the next texts are others, and so is the load of the machine. Pure.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from types import MappingProxyType
from typing import Final, Literal

from common.constants import PHI_COLLAPSE, PHI_COLLAPSE_MEASUREMENTS
from services.edge.trial import PROBE_MAX_BYTES, PROBE_MIN_BYTES, WORSE_LIMIT

DOUBT: Final = 3.0  # chosen: standard errors. The window is looked at a hundred times, each time on little more text
TEXTS_MIN: Final = 8  # chosen: of fewer there is no standard error to speak of
FRESH_MAX_BYTES: Final = PROBE_MAX_BYTES  # read of a window's text, as of a trial's
FAILED_MIN: Final = 3  # chosen: queries; two can be the same bad luck
FAILED_SHARE: Final = 0.1  # of all that were answered or failed
# A token may take a fifth longer (notes on releases): of processor time, by the median of pairs, beyond doubt. As the
# 95th percentile of answers it would be the neighbours': a bundle against itself, on two cores with load 10, took
# .31 to 2.55 times as long by the clock, .83 to 1.02 of processor time (medians of 16 pairs).
SLOWER_LIMIT: Final = 1.2
PAIRS_MIN: Final = 16
MAD_TO_SD: Final = 1.4826  # 1 / (the 3/4 quantile of the normal distribution)
MEDIAN_ERROR: Final = 1.2533  # sqrt(pi / 2): of the median's standard error over the mean's
PAIRS_MAX: Final = 32  # of 32 tokens each: half a second of a core, once a bundle


@dataclass(frozen=True, slots=True)
class Limits:
    """The window ends, and the bundle is good, after so many answers or seconds, whichever is first."""

    answers: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Paired:
    """Code lengths of the same texts under two constellations, in bits: sums that a ratio and its error need."""

    texts: int = 0
    size_bytes: int = 0
    before: float = 0.0
    after: float = 0.0
    before_before: float = 0.0
    before_after: float = 0.0
    after_after: float = 0.0

    def then(self, size_bytes: int, before: float, after: float) -> "Paired":
        """With one text more."""
        return Paired(
            self.texts + 1,
            self.size_bytes + size_bytes,
            self.before + before,
            self.after + after,
            self.before_before + before * before,
            self.before_after + before * after,
            self.after_after + after * after,
        )

    @property
    def is_known(self) -> bool:
        """Whether there is enough text to tell."""
        return self.texts >= TEXTS_MIN and self.size_bytes >= PROBE_MIN_BYTES

    @property
    def worse(self) -> float:
        """By what share all of it takes more bits than before."""
        return self.after / self.before - 1.0

    @property
    def error(self) -> float:
        """Standard error of `worse` as a ratio of sums over texts (Cochran, Sampling Techniques, 1977, section 6.4)."""
        ratio = self.after / self.before
        rest = self.after_after - 2.0 * ratio * self.before_after + ratio * ratio * self.before_before
        return math.sqrt(max(0.0, rest) * self.texts / (self.texts - 1)) / self.before


@dataclass(frozen=True, slots=True)
class Window:
    """began_s: by a clock that nobody sets; sound: states whose Phi was no lower than PHI_COLLAPSE before the swap;
    low: by state, how often in a row it was since; failed: names of queries; pace: of each pair, processor seconds a
    token over what they were.
    """

    began_s: float
    sound: frozenset[str] = frozenset()
    answers: int = 0
    failed: frozenset[str] = frozenset()
    low: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    text: Paired = Paired()
    pace: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Judgement:
    """What becomes of the bundle, and why."""

    word: Literal["watch", "good", "bad"]
    reason: str


def answered(window: Window, state: str | None, phi: float | None) -> Window:
    """One more answer. phi: of the state that led it, over what it held since the swap; None: not known, and then it
    changes nothing.
    """
    window = replace(window, answers=window.answers + 1)
    if state is None or phi is None:
        return window
    low = window.low.get(state, 0) + 1 if phi < PHI_COLLAPSE else 0
    return replace(window, low=MappingProxyType({**window.low, state: low}))


def failed(window: Window, name: str) -> Window:
    """A query that could not be answered, for a reason that is not its own. name: however often it is tried, it counts
    once.
    """
    return replace(window, failed=window.failed | {name})


def judge(window: Window, limits: Limits, *, now_s: float, unread: bool = False) -> Judgement:
    """now_s: by the clock of `began_s`; unread: fresh text waits to be read by both, so answers alone do not end the
    window.
    """
    reason = _failing(window) or _collapsed(window) or _reads_worse(window) or _slower(window)
    if reason:
        return Judgement("bad", reason)
    passed_s = now_s - window.began_s
    if passed_s >= limits.seconds or (window.answers >= limits.answers and not unread):
        return Judgement("good", f"{window.answers} answers in {passed_s:.0f} s; {_figures(window)}")
    return Judgement("watch", "")


def _failing(window: Window) -> str:
    number, of = len(window.failed), len(window.failed) + window.answers
    if number < FAILED_MIN or number <= FAILED_SHARE * of:
        return ""
    return f"{number} of {of} queries failed; the limit is {FAILED_SHARE:.0%}"


def _collapsed(window: Window) -> str:
    for state, low in window.low.items():
        if state in window.sound and low >= PHI_COLLAPSE_MEASUREMENTS:
            return f"Phi of {state} was below {PHI_COLLAPSE} {low} times in a row, and was not before"
    return ""


def _reads_worse(window: Window) -> str:
    text = window.text
    if not text.is_known or not text.worse - DOUBT * text.error > WORSE_LIMIT:
        return ""
    return f"it reads {_read(text)}; the limit is {WORSE_LIMIT:.0%} worse, beyond doubt"


def _slower(window: Window) -> str:
    if len(window.pace) < PAIRS_MIN or not median(window.pace) - DOUBT * pace_error(window.pace) > SLOWER_LIMIT:
        return ""
    return f"a token takes {_pace(window.pace)} as long; the limit is {SLOWER_LIMIT}, beyond doubt"


def pace_error(pace: Sequence[float]) -> float:
    """Standard error of the median, from the median of the distances from it, as for the normal distribution: what
    neighbours do now and then weighs nothing.
    """
    middle = median(pace)
    spread = MAD_TO_SD * median(abs(each - middle) for each in pace)
    return MEDIAN_ERROR * spread / math.sqrt(len(pace))


def _pace(pace: Sequence[float]) -> str:
    return f"{median(pace):.2f} times (error {pace_error(pace):.2f})"


def _figures(window: Window) -> str:
    size_bytes = window.text.size_bytes
    text = _read(window.text) if window.text.is_known else f"{size_bytes or 'no'} bytes of fresh text, too few to tell"
    pace = _pace(window.pace) if len(window.pace) >= PAIRS_MIN else "not known"
    return f"reads {text}; time a token: {pace}; {len(window.failed)} failed"


def _read(text: Paired) -> str:
    return f"{text.size_bytes} bytes of fresh text {text.worse:+.2%} (error {text.error:.2%})"
