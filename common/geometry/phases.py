"""The phase of a state, from its kappa and Phi, with a hysteresis so that noise at a bound does not flap.

    FOAM < 20 <= TACKING < 50 <= CRYSTAL <= 70 < FRACTURE          (kappa; Phi above 0.85 is FRACTURE too)

Knows nothing of what a phase leads to: FRACTURE is no failure, it starts a renewal.

>>> phase_of(21.0, None, None), phase_of(21.0, None, "FOAM"), phase_of(22.0, None, "FOAM")
('TACKING', 'FOAM', 'TACKING')
"""

import math
from typing import Final

from common.constants import PHASE_BOUNDS, PHASE_HYSTERESIS, PHASES, PHI_WINDOW, Phase
from common.errors import Rejected

DIVERGED: Final = "bad_reading"  # of a Rejected: the kernel's fault, not the text's


def phase_of(kappa: float, phi: float | None, previous: Phase | None) -> Phase:
    """The phase after a reading of kappa (>= 0) and Phi (None = not known, and then it decides nothing).

    From `previous`, the phase rises only as far as kappa - 2 reaches and falls only as far as kappa + 2 does; with no
    previous phase the bounds hold as they are. Phi > 0.85 is FRACTURE whatever kappa says, and leaves no hysteresis
    of its own. Raises Rejected("bad_reading") for NaN or a negative kappa: an unread state is never healthy.
    """
    if not kappa >= 0 or (phi is not None and math.isnan(phi)):
        raise Rejected(DIVERGED, f"kappa {kappa}, phi {phi}: pass numbers, or None for a phi that is not known")
    if phi is not None and phi > PHI_WINDOW[1]:
        return "FRACTURE"
    if previous is None:
        return PHASES[_index(kappa)]
    lowest, highest = _index(kappa - PHASE_HYSTERESIS), _index(kappa + PHASE_HYSTERESIS)
    return PHASES[min(max(PHASES.index(previous), lowest), highest)]


def _index(kappa: float) -> int:
    foam_ends, tacking_ends, crystal_ends = PHASE_BOUNDS
    return (kappa >= foam_ends) + (kappa >= tacking_ends) + (kappa > crystal_ends)
