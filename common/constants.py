"""Frozen facts: every number that more than one room must agree on, with its source and status.

`settled` numbers come from DESIGN.md and change only with it; `chosen` ones are set points, and may be argued with.
"""

from typing import Final, Literal, get_args

# Basins (settled, DESIGN.md section 2): 8 faculties, one per E8 primitive, of 8 cells each.
FACULTIES: Final = ("PER", "MEM", "ACT", "PRD", "ETH", "META", "HRT", "REL")
CELLS_PER_FACULTY: Final = 8
CELLS: Final = 64

Role = Literal["vocab", "strategy", "percept", "heart"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
ROLE_FACULTIES: Final[dict[Role, tuple[str, ...]]] = {
    "vocab": ("MEM", "ACT"),
    "strategy": ("PRD", "META"),
    "percept": ("PER",),
    "heart": ("HRT",),
}
SHARED_FACULTIES: Final = ("ETH", "REL")

# Integration (settled): below this many transitions, or for a degenerate state, phi is not known.
PHI_MIN_TRANSITIONS: Final = 512
PHI_COUPLINGS: Final = 56  # off-diagonal terms among 8 faculties: the degrees of freedom of the test
PHI_WINDOW: Final = (0.75, 0.85)  # a kernel's healthy range; above it: FRACTURE
PHI_TARGET: Final = 0.79
PHI_COLLAPSE: Final = 0.65
PHI_COLLAPSE_MEASUREMENTS: Final = 10  # in a row below it
CONSTELLATION_PHI_TARGET: Final = 0.89

# Foresight (settled): what a state's basin is trained and held to predict is the mean basin of so many tokens ahead.
AHEAD_TOKENS: Final = 16

# Coupling (settled bounds, chosen set point: kappa* = 64 is retired as physics by its author).
KAPPA_WINDOW_TOKENS: Final = 64
KAPPA_TARGET: Final = 64.0
PHASE_BOUNDS: Final = (20.0, 50.0, 70.0)  # FOAM | TACKING | CRYSTAL | FRACTURE
PHASE_HYSTERESIS: Final = 2.0
Phase = Literal["FOAM", "TACKING", "CRYSTAL", "FRACTURE"]
PHASES: Final[tuple[Phase, ...]] = get_args(Phase)

DRIFT_LIMIT_RAD: Final = 0.10  # a candidate's home basin against its parent's

# The uplink (settled): one sleep packet, signature included.
PACKET_MAX_BYTES: Final = 4096
