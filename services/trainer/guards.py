"""The guards of training: pure state machines over what was measured (DESIGN.md, section 4).

    phi < 0.65 for 10 consecutive measurements   -> RESTORE the last good checkpoint and pause
    phi unknown, a divergent loss, anything NaN  -> RESTORE likewise
    phi > 0.85 or kappa > 70                     -> RENEW: said on the curve; the geometric loss pulls phi back
    otherwise                                    -> GO

A kernel that was never integrated cannot collapse: the collapse guard arms when phi first reaches 0.65.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal

from common.constants import PHASE_BOUNDS, PHI_COLLAPSE, PHI_COLLAPSE_MEASUREMENTS, PHI_WINDOW

DIVERGENCE_FACTOR: Final = 2.0  # chosen: a loss of twice its running mean does not come back by itself
LOSS_DECAY: Final = 0.95

Verdict = Literal["GO", "RENEW", "RESTORE"]


@dataclass(frozen=True, slots=True)
class Guard:
    """armed: phi has reached 0.65 once; low: consecutive measurements below it; loss: running mean."""

    armed: bool = False
    low: int = 0
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one step showed. phi None: not known. kappa None: not measured in this step. gradient: its norm."""

    loss: float
    phi: float | None
    kappa: float | None = None
    gradient: float = 0.0


def step(guard: Guard, seen: Measurement) -> tuple[Guard, Verdict, str]:
    """The guard after one measurement, its verdict, and the reason ("" for GO)."""
    low = guard.low + 1 if guard.armed and seen.phi is not None and seen.phi < PHI_COLLAPSE else 0
    unsafe = _unsafe(guard, seen, low)
    if unsafe:
        return guard, "RESTORE", unsafe
    assert seen.phi is not None  # an unknown phi is unsafe
    loss = seen.loss if guard.loss is None else LOSS_DECAY * guard.loss + (1 - LOSS_DECAY) * seen.loss
    over = _over(seen.phi, seen.kappa)
    after = Guard(armed=guard.armed or seen.phi >= PHI_COLLAPSE, low=low, loss=loss)
    return after, "RENEW" if over else "GO", over


def _unsafe(guard: Guard, seen: Measurement, low: int) -> str:
    """Why training must go back to the last good checkpoint; "" when it need not."""
    unread = {"loss": not math.isfinite(seen.loss), "gradient": not math.isfinite(seen.gradient)}
    unread["kappa"] = seen.kappa is not None and math.isnan(seen.kappa)  # infinity is a loop: a renewal
    if any(unread.values()):
        name = max(unread, key=unread.__getitem__)
        return f"the {name} is {getattr(seen, name)}"
    if guard.loss is not None and seen.loss > DIVERGENCE_FACTOR * guard.loss:
        return f"the loss {seen.loss:.3f} is over {DIVERGENCE_FACTOR:g} times its running mean {guard.loss:.3f}"
    if seen.phi is None or not math.isfinite(seen.phi):
        return "phi is not known: a degenerate state"
    if low >= PHI_COLLAPSE_MEASUREMENTS:
        return f"phi was below {PHI_COLLAPSE} for {low} measurements, last {seen.phi:.3f}"
    return ""


def _over(phi: float, kappa: float | None) -> str:
    """Why a renewal is due; "" when it is not."""
    if phi > PHI_WINDOW[1]:
        return f"phi {phi:.3f} is above {PHI_WINDOW[1]}"
    if kappa is not None and kappa > PHASE_BOUNDS[2]:
        return f"kappa {kappa:.0f} is above {PHASE_BOUNDS[2]:g}"
    return ""
