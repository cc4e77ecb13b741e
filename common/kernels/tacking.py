"""Tacking: steering how tightly a kernel's state holds its direction.

    log p'(w) = log p(w) + gain * <heading, sqrt(B_w)>

heading is the unit mean direction of the last 64 basins, tangent at the kernel's home; B_w is the basin of token w. A
positive gain favours tokens that lie where the text has been heading, a negative one the others; what a token has in
common with home itself counts for nothing, so that ordinary words are neither favoured nor shunned; and a positive gain
raises no token that was implausible. A helm steers the gain by measured kappa. FRACTURE is no error but the start of a
*renewal*: the gain turns against the heading, the temperature rises, and every 32 tokens the state forgets all but what
was said last, since what it read is what holds it, until kappa is back under the TACKING/CRYSTAL bound. A pure state
machine; it knows no text and no kernel.

>>> helm = steer(Helm(), 30.0, 30.0, "TACKING")
>>> helm.gain > 0, steer(helm, 900.0, 900.0, "FRACTURE").gain < 0
(True, True)
"""

import math
from typing import Final, NamedTuple

from common.constants import KAPPA_TARGET, KAPPA_WINDOW_TOKENS, PHASE_BOUNDS, Phase
from common.kernels.compiled import both

# Chosen on validation prompts, all of them (docs/experiments.md, Tacking). A unit of gain moves log kappa by 0.1-0.35.
FRESH_TOKENS: Final = KAPPA_WINDOW_TOKENS // 2
GAIN_MAX: Final = 24.0
REACH: Final = 0.03  # of the largest p: what a positive gain may raise
FIRST_TRIM: Final = 7.0
TRIM_RATE: Final = 0.08  # per token and unit of log kappa: the window's delay of 32 tokens allows little more
SWING: Final = 20.0  # per unit of log kappa
ERROR_MAX: Final = 1.0  # of log kappa: a state far off is not steered harder, and winds the trim up no faster
RENEWAL_TARGET: Final = 38.0  # well under the 50 that ends a renewal, so that it is reached
RENEWAL_SWING: Final = 8.0  # per unit of log kappa above it: more drives a text into another corner
FORGET_TOKENS: Final = 32  # of a renewal
KEPT_TOKENS: Final = 8  # enough to go on with the sentence
HEAT_RATE: Final = 0.02  # of temperature a token
HEAT_MAX: Final = 1.5  # above, what is said is noise, and noise has a direction too


class Helm(NamedTuple):
    """gain: in [-24, 24], what the heading is worth in nats; trim: in [0, 24], the gain that holds the set point as far
    as is known; renewal: tokens since the FRACTURE that is being left, 0 when none is; temperature: a factor on the
    sampler's, 1 outside renewals and at most 1.5.
    """

    gain: float = 0.0
    trim: float = FIRST_TRIM
    renewal: int = 0
    temperature: float = 1.0

    @property
    def forgets(self) -> bool:
        """Whether the state now loses what it read before the last KEPT_TOKENS: it is what holds a direction."""
        return forgets(self.renewal)


@both
def forgets(renewal: int) -> bool:
    """`Helm.forgets`, by its renewal."""
    return renewal > 0 and renewal % FORGET_TOKENS == 0


def steer(helm: Helm, kappa: float, fresh: float, phase: Phase, *, target: float = KAPPA_TARGET) -> Helm:
    """The helm after one more token. kappa: of the last 64 tokens, phase: its phase; fresh: kappa of the last 32.

    A proportional-integral control of log kappa: the trim integrates what kappa lacks, the swing answers to fresh,
    which knows half as late. A renewal starts at FRACTURE, leaves the trim alone, and ends when kappa < 50 (the lower
    bound of CRYSTAL): it pushes the text from its heading the harder, the tighter it is held.
    """
    return turn(helm, kappa, fresh, phase == "FRACTURE", target)


@both
def turn(helm: Helm, kappa: float, fresh: float, fractured: bool, target: float) -> Helm:  # noqa: FBT001 -- no keywords in compiled code
    """`steer`, as compiled code says it."""
    if fractured or (helm.renewal and kappa >= PHASE_BOUNDS[1]):
        return _renew(helm, fresh)
    trim = _bounded(helm.trim + TRIM_RATE * _lack(target, kappa))
    return Helm(_bounded(trim + SWING * _lack(target, fresh)), trim, 0, 1.0)


@both
def _renew(helm: Helm, fresh: float) -> Helm:
    age = helm.renewal + 1
    excess = max(math.log(max(fresh, 1.0) / RENEWAL_TARGET), 0.0)
    return Helm(max(-RENEWAL_SWING * excess, -GAIN_MAX), helm.trim, age, min(1.0 + HEAT_RATE * age, HEAT_MAX))


@both
def _lack(target: float, kappa: float) -> float:
    """How far log kappa is under log target, within ERROR_MAX. Kappa below 1 is noise, and read as 1."""
    return min(max(math.log(target / max(kappa, 1.0)), -ERROR_MAX), ERROR_MAX)


@both
def _bounded(gain: float) -> float:
    return min(max(gain, 0.0), GAIN_MAX)
