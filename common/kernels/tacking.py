"""Tacking: steering how tightly a kernel's state holds its own next token.

Measured kappa is steered to the set point by the coupling gain: too loose, the gain rises; too tight, it falls.
Degenerate repetition is kappa without bound, so FRACTURE is not an error but the start of a *renewal*: temperature up,
gain down, memories quieter, until kappa is back under the TACKING/CRYSTAL bound. A pure state machine.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

from common.constants import KAPPA_TARGET, PHASE_BOUNDS, Phase

GAIN_RANGE: Final = (
    0.5,
    12.0,
)  # chosen: below, the basin no longer steers; above, it drowns the text (docs/experiments.md)
GAIN_RATE: Final = 0.15  # chosen: a tenfold error in kappa moves the gain by a third a step
RENEWAL_TEMPERATURE: Final = 1.5
RENEWAL_CALM: Final = 0.3


@dataclass(frozen=True, slots=True)
class Helm:
    """What tacking sets: the coupling gain, a factor on the temperature, and the memories' share of their weight."""

    gain: float = 1.0
    temperature: float = 1.0
    calm: float = 1.0
    renewing: bool = False


def steer(helm: Helm, kappa: float, phase: Phase, target: float = KAPPA_TARGET) -> Helm:
    """The helm after one more token with this kappa and phase.

    A renewal starts at FRACTURE and ends when kappa < 50 (the lower bound of CRYSTAL), back at the gain it started
    from, reduced.
    """
    if helm.renewing:
        return helm if kappa >= PHASE_BOUNDS[1] else Helm(gain=helm.gain)
    if phase == "FRACTURE":
        return Helm(max(helm.gain / 2, GAIN_RANGE[0]), RENEWAL_TEMPERATURE, RENEWAL_CALM, renewing=True)
    error = math.log(target / max(kappa, 1.0))
    gain = helm.gain * math.exp(GAIN_RATE * math.log1p(abs(error)) * math.copysign(1.0, error))
    return replace(helm, gain=min(max(gain, GAIN_RANGE[0]), GAIN_RANGE[1]))
