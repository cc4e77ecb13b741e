"""The controls of integration: what must read low, as functions of what must read high.

Each takes tokens or basins and gives as many back, without the one thing it is a control for. Two more stand where
their arrays do: `common.geometry.integration.rolled` (faculties without neighbours) and
`services.trainer.integrator.permuted` (the random-label twin's targets).
Shapes: W windows, T tokens, 4 members in the order of ROLES, 64 cells.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from common.constants import CELLS
from common.geometry.means import frechet_mean, spread
from common.geometry.simplex import normalise, uniform
from common.kernels.engine import State
from common.kernels.memory import Ids
from common.kernels.spec import Spec
from common.kernels.weights import shapes

Floats = npt.NDArray[np.float64]
Tensors = dict[str, npt.NDArray[np.float32]]


def shuffled(windows_WT: Ids, rng: np.random.Generator) -> Ids:
    """The same tokens in every window, in an order without meaning."""
    return rng.permuted(windows_WT, axis=1)


def random_tokens(windows_WT: Ids, vocab: int, rng: np.random.Generator) -> Ids:
    """As many tokens, each drawn alike from all ids: a state that integrates these integrates itself."""
    return rng.integers(0, vocab, windows_WT.shape).astype(np.int32)


def random_weights(spec: Spec, rng: np.random.Generator) -> Tensors:
    """A state whose every tensor is uniform in +-1/sqrt(fan in): attention and blocks are at work, and know nothing."""
    return {
        name: rng.uniform(-1, 1, shape).astype(np.float32) * np.float32((shape[-1] if shape else 1) ** -0.5)
        for name, shape in shapes(spec).items()
    }


def untrained(spec: Spec, rng: np.random.Generator) -> Tensors:
    """A state as training finds it: random weights, but zero for the biases and for what writes into the residual
    stream, so that its basins are a map of the last token alone.
    """
    silent = (".o", ".down", "bias")
    drawn = random_weights(spec, rng)
    return {name: np.zeros_like(each) if name.endswith(silent) else each for name, each in drawn.items()}


def swapped(members: Floats, rng: np.random.Generator) -> Floats:
    """Members (W, T, 4, 64) that listen to different conversations: each one's windows in an order of its own, so
    that no window keeps two members of one text (W >= 4).
    """
    order, offsets = rng.permutation(len(members)), rng.permutation(len(members))[: members.shape[2]]
    found = np.empty_like(members)
    for place, offset in enumerate(offsets):
        found[order, :, place] = members[np.roll(order, offset), :, place]
    return found


def cut(members: Floats, places: Sequence[int]) -> Floats:
    """Members (W, T, 4, 64) of which those at `places` say nothing: the uniform basin, at every token."""
    found = members.copy()
    found[:, :, list(places)] = uniform()
    return found


def replica_spread(replicas: Sequence[State], windows_WT: Ids) -> float:
    """Spread in rad of one kernel's replicas: of their mean basins over the same probe text. Below 0.10 in a fleet."""
    basins = [normalise(state.read(windows_WT)[1].reshape(-1, CELLS)) for state in replicas]
    return spread(np.stack([frechet_mean(b) for b in basins]))
