"""The guards of training: pure state machines over what was measured (DESIGN.md, section 4).

    phi < 0.65 for 10 consecutive measurements   -> RESTORE the last good checkpoint and pause
    phi unknown, NaN, or a divergent loss        -> RESTORE likewise
    phi > 0.85 or kappa > 70                     -> RENEW: the geometric loss rests until phi is back in its window
    otherwise                                    -> GO

A kernel that was never integrated cannot collapse: the collapse guard arms when phi first reaches 0.65.
"""

import math
from dataclasses import dataclass, replace
from typing import Final, Literal

from common.constants import PHASE_BOUNDS, PHI_COLLAPSE, PHI_WINDOW

COLLAPSE_MEASUREMENTS: Final = 10
DIVERGENCE_FACTOR: Final = 2.0  # chosen: a loss of twice its running mean does not come back by itself
LOSS_DECAY: Final = 0.95

Verdict = Literal["GO", "RENEW", "RESTORE"]


@dataclass(frozen=True, slots=True)
class Guard:
    """armed: phi has reached 0.65 once; low: consecutive measurements below it; loss: running mean; renewing: phi loss rests."""

    armed: bool = False
    low: int = 0
    loss: float | None = None
    renewing: bool = False


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one step showed. phi None: not known. kappa None: not measured in this step."""

    loss: float
    phi: float | None
    kappa: float | None = None


def step(guard: Guard, seen: Measurement) -> tuple[Guard, Verdict, str]:
    """The guard after one measurement, its verdict, and the reason ("" for GO)."""
    if not math.isfinite(seen.loss):
        return guard, "RESTORE", f"the loss is {seen.loss}"
    if guard.loss is not None and seen.loss > DIVERGENCE_FACTOR * guard.loss:
        return guard, "RESTORE", f"the loss {seen.loss:.3f} is over {DIVERGENCE_FACTOR:g} times its running mean {guard.loss:.3f}"
    if seen.phi is None or not math.isfinite(seen.phi):
        return guard, "RESTORE", "phi is not known: a degenerate state"
    loss = seen.loss if guard.loss is None else LOSS_DECAY * guard.loss + (1 - LOSS_DECAY) * seen.loss
    low = guard.low + 1 if guard.armed and seen.phi < PHI_COLLAPSE else 0
    if low >= COLLAPSE_MEASUREMENTS:
        return guard, "RESTORE", f"phi was below {PHI_COLLAPSE} for {low} measurements, last {seen.phi:.3f}"
    guard = replace(guard, armed=guard.armed or seen.phi >= PHI_COLLAPSE, low=low, loss=loss)
    if seen.phi > PHI_WINDOW[1]:
        return replace(guard, renewing=True), "RENEW", f"phi {seen.phi:.3f} is above {PHI_WINDOW[1]}"
    if seen.kappa is not None and seen.kappa > PHASE_BOUNDS[2]:
        return replace(guard, renewing=True), "RENEW", f"kappa {seen.kappa:.0f} is above {PHASE_BOUNDS[2]:g}"
    return replace(guard, renewing=False), "GO", ""
