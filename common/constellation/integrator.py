"""HEART's integrator: the basins of the four members at one token, to the one basin of the constellation.

    sqrt(b_vocab) sqrt(b_strategy) sqrt(b_percept) sqrt(b_heart)     4 x 64, in the order of ROLES
                 tanh(2 W x + w)                                     HIDDEN
                 softmax(V h + v)                                    64

It is memoryless on purpose: it sees one token's basins and nothing before them, so that what integration its basins
show over time can only have come from the members. (A recurrent one read Phi 0.96 on random tokens: its own dynamics.)
Knows nothing of states, text or training. services/trainer/integrator.py holds its torch twin.

    integrator.safetensors     enter.weight (HIDDEN, 256), enter.bias, leave.weight (64, HIDDEN), leave.bias, home (64,)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from common.constants import CELLS, ROLES
from common.errors import Rejected
from common.geometry.simplex import check_simplex, from_float16, to_float16

Floats = npt.NDArray[np.floating]
Weights = Mapping[str, npt.NDArray[np.float32]]

HIDDEN: Final = 128  # chosen: 192 gains nothing (docs/experiments.md)
INPUT_GAIN: Final = 2.0  # chosen: a root of a basin has entries of about 1/8; this wakes the tanh
HOME: Final = "home"
SHAPES: Final[dict[str, tuple[int, ...]]] = {
    "enter.weight": (HIDDEN, len(ROLES) * CELLS),
    "enter.bias": (HIDDEN,),
    "leave.weight": (CELLS, HIDDEN),
    "leave.bias": (CELLS,),
}


@dataclass(frozen=True, slots=True, eq=False)
class Integrator:
    """weights: the tensors of SHAPES. home: the Fréchet mean (64,) of the constellation's basins on the mixed stream
    it was trained on. Checked when made: raises Rejected("bad_integrator"), Rejected("off_simplex").
    """

    weights: Weights
    home: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        _check(self.weights)
        check_simplex(self.home)

    def basin(self, members: Floats) -> npt.NDArray[np.float64]:
        """The constellation's basins (..., 64) from the members' (..., 4, 64), in the order of ROLES."""
        w = self.weights
        x = INPUT_GAIN * np.sqrt(np.asarray(members, np.float64)).reshape(*members.shape[:-2], len(ROLES) * CELLS)
        raw = np.tanh(x @ w["enter.weight"].T + w["enter.bias"]) @ w["leave.weight"].T + w["leave.bias"]
        e = np.exp(raw - raw.max(-1, keepdims=True))
        return np.asarray(e / e.sum(-1, keepdims=True))


def to_bytes(integrator: Integrator) -> bytes:
    """Safetensors, all float16: weights within 2^-11 of their value, the home as a stored basin. Deterministic."""
    tensors = {name: integrator.weights[name].astype(np.float16) for name in SHAPES}
    return safetensors.numpy.save({**tensors, HOME: to_float16(integrator.home)})


def from_bytes(data: bytes) -> Integrator:
    """The inverse of `to_bytes`. Raises Rejected("bad_integrator") on anything that is no integrator."""
    try:
        tensors = safetensors.numpy.load(data)
    except (KeyError, ValueError, TypeError, AttributeError, safetensors.SafetensorError) as error:
        raise Rejected("bad_integrator", f"{len(data)} bytes are not an integrator's safetensors: {error}") from error
    stored = tensors.pop(HOME, None)
    if stored is None or stored.dtype != np.float16 or stored.shape != (CELLS,):
        found = "missing" if stored is None else f"{stored.dtype} {stored.shape}"
        raise Rejected("bad_integrator", f"tensor {HOME} is {found}; it must be float16 ({CELLS},)")
    return Integrator({name: np.asarray(value, np.float32) for name, value in tensors.items()}, from_float16(stored))


def _check(weights: Weights) -> None:
    if set(weights) != set(SHAPES):
        odd = ", ".join(sorted(set(weights) ^ set(SHAPES))[:4])
        raise Rejected("bad_integrator", f"tensors missing or unknown: {odd}; there are {', '.join(SHAPES)}")
    for name, shape in SHAPES.items():
        if weights[name].shape != shape:
            raise Rejected("bad_integrator", f"tensor {name} has shape {weights[name].shape}; it must be {shape}")
        if not np.isfinite(weights[name]).all():
            raise Rejected("bad_integrator", f"tensor {name} holds NaN or infinity: the training that made it diverged")
