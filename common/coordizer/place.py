"""Where a text lies among the 64 cells: what an edge works out of every query before it routes it.

Each token draws the text towards its own basin, as hard as it is salient. The text lies where the draws balance,

    m = argmin Σ w_t (2 sin(d(m, b_t) / 4))²,   that is   √m = Σ w_t √b_t / |Σ w_t √b_t|,

the Fréchet mean under the chord of the sphere picture (Hellinger's distance, up to a constant) in place of the arc. It
needs no iteration, a microsecond where the mean under the arc takes four hundred, and both route alike
(docs/experiments.md). Knows no homes: geometry.routing compares what this returns with them.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from common.constants import ROLES
from common.coordizer.basins import own_cells
from common.coordizer.compiled import compiled
from common.errors import Rejected
from common.geometry.simplex import Array, distance, from_float16, normalise, uniform

SALIENCE_MIN: Final = 1e-6  # radians; so that a text of tokens that say nothing lies at their even mean

Bearings = npt.NDArray[np.float32]


def salience(basins: npt.NDArray[np.float16]) -> Array:
    """How much a token says about the role: d(its shares in the roles' own faculties, even shares), (V,) radians.

    basins: (V, 64). It makes words of one domain count and words of all domains not.
    """
    masses = np.stack([from_float16(basins)[:, own_cells(role)].sum(axis=1) for role in ROLES], axis=1)
    return distance(normalise(masses), uniform(len(ROLES)))


def bearings(basins: npt.NDArray[np.float16]) -> Bearings:
    """What each token adds to its text: w √b, w its salience, at least SALIENCE_MIN; (V, 64)."""
    weight = np.maximum(salience(basins), SALIENCE_MIN)[:, None]
    return np.asarray(weight * np.sqrt(from_float16(basins)), np.float32)


def text_basin(ids: npt.NDArray[np.int32], table: Bearings) -> Array:
    """The basin of a text, (64,), on the simplex.

    ids: (T,), below V; table: (V, 64), the bearings of its coordizer. The order of the tokens moves it by rounding
    only, below 1e-12 rad; that the bearings are float32 moves it by less than 1e-6 rad.
    Raises Rejected("no_tokens") for an empty text, which lies nowhere.
    """
    if len(ids) == 0:
        raise Rejected("no_tokens", "an empty text has no basin: give at least one character")
    return np.asarray(_balance(ids, table))


@compiled
def _balance(ids: Any, table: Any) -> Any:
    found = np.zeros(table.shape[1])
    for i in ids:
        assert 0 <= i < len(table)  # nothing else would stop an id from outside
        row = table[i]
        for k in range(len(found)):
            found[k] += row[k]
    squares = 0.0
    for k in range(len(found)):
        found[k] *= found[k]
        squares += found[k]
    for k in range(len(found)):
        found[k] /= squares
    return found
