"""A flat map of the domains' homes, on which a text has a place because its route says how far it is from each.

Landmark multidimensional scaling: the homes are laid out by classical scaling of their Fisher-Rao distances d_ij (the
two largest eigenvalues of B = -1/2 J d^2 J), and a text at distances d_i stands at x = -1/2 A (d^2 - mean d^2), the
place that the same scaling would give it. So nothing but distances on the simplex is read, a home stands exactly on its
own place, and a text's place is a function of the numbers in its answer. Two axes show `shown` of the homes' spread: it
is a picture, and nothing is decided on it. Source: Torgerson 1952; de Silva & Tenenbaum 2004, Landmark MDS.

>>> import numpy as np
>>> found = atlas({"left": np.array([0.9, 0.1]), "right": np.array([0.1, 0.9])})
>>> [round(x, 3) for x, _ in found.places], round(found.shown, 3)
([0.927, -0.927], 1.0)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from common.geometry.simplex import distance

Floats = npt.NDArray[np.floating]
AXES: Final = 2
FLAT: Final = 1e-9  # rad^2; an axis with less shows rounding


@dataclass(frozen=True, slots=True)
class Atlas:
    """names, and by name: places (x, y) in rad; axes: A, AXES rows of one weight a name, in 1/rad; mean_square: of the
    homes' distances to each, rad^2. shown: share of the homes' squared spread on these axes, in [0, 1].
    """

    names: tuple[str, ...]
    places: tuple[tuple[float, ...], ...]
    axes: tuple[tuple[float, ...], ...]
    mean_square: tuple[float, ...]
    shown: float


def atlas(homes: Mapping[str, Floats]) -> Atlas:
    """The map of homes (D,), at least one. An axis along which they do not differ is 0 for everything.

    The same homes give the same map in every process: on each axis the home that is farthest out lies at a positive
    number. Raises Rejected("off_simplex").
    """
    names = tuple(sorted(homes))
    points_ND = np.stack([homes[name] for name in names])
    square_NN = distance(points_ND[:, None], points_ND[None]) ** 2
    centred_NN = square_NN - square_NN.mean(0) - square_NN.mean(1)[:, None] + square_NN.mean()
    values, vectors_NN = np.linalg.eigh(-0.5 * centred_NN)
    order = np.argsort(-values, kind="stable")[:AXES]
    places_NA, axes_AN = np.zeros((len(names), AXES)), np.zeros((AXES, len(names)))
    for axis, k in enumerate(order):
        if values[k] > FLAT:
            vector = vectors_NN[:, k] * np.sign(vectors_NN[np.argmax(np.abs(vectors_NN[:, k]).round(9)), k])
            places_NA[:, axis] = vector * np.sqrt(values[k])
            axes_AN[axis] = vector / np.sqrt(values[k])
    spread = float(values[values > FLAT].sum())
    return Atlas(
        names=names,
        places=tuple(map(tuple, places_NA.tolist())),
        axes=tuple(map(tuple, axes_AN.tolist())),
        mean_square=tuple(square_NN.mean(0).tolist()),
        shown=float(np.square(places_NA).sum()) / spread if spread > 0 else 1.0,
    )
