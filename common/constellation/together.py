"""Constellation mode: what the four members hold together, token by token.

The members are the four roles' states, reading the same tokens; the integrator makes one basin of theirs. Knows nothing
of memories, routes or services; the constellation's Phi is `common.geometry.online` on that basin.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from common.constants import CELLS, ROLES, Role
from common.constellation.integrator import Integrator
from common.geometry.simplex import normalise
from common.kernels.decode import Array
from common.kernels.engine import State
from common.kernels.memory import Ids

Floats = npt.NDArray[np.float64]

READ_BATCH: Final = 8  # windows at a time: bounds the working set


def members(states: Mapping[Role, State], windows_WT: Ids) -> Floats:
    """What the four states hold over the same windows (W, T), T <= context, each from its start: (W, T, 4, 64)."""
    found = np.empty((*windows_WT.shape, len(ROLES), CELLS))
    for start in range(0, len(windows_WT), READ_BATCH):
        some = slice(start, start + READ_BATCH)
        for place, role in enumerate(ROLES):
            found[some, :, place] = states[role].read(windows_WT[some])[1]
    return normalise(found)


def hear(states: Mapping[Role, State], integrator: Integrator, ids: Ids) -> Floats:
    """A text as the constellation holds it: its basins (N, 64), read in windows of the members' shortest context."""
    context = window_tokens(states)
    whole = len(ids) // context * context
    parts = [members(states, ids[:whole].reshape(-1, context)).reshape(-1, len(ROLES), CELLS)]
    if whole < len(ids):
        parts.append(members(states, ids[None, whole:])[0])
    return integrator.basin(np.concatenate(parts))


def window_tokens(states: Mapping[Role, State]) -> int:
    """The tokens that every member sees at once: the window of the constellation's Phi."""
    return min(state.spec.context for state in states.values())


def hold(integrator: Integrator, basins: Array, places: Sequence[int]) -> Floats:
    """The constellation's basins (N, 64) after each token of a generation by four voices, whose own are (N, 4, 64).
    places: where each role's voice is among them, in the order of ROLES.
    """
    return integrator.basin(normalise(basins[:, list(places)]))
