"""A kernel: state, memories and coupling mixed into one next-token distribution.

    p(w) = g_0 p_state(w) + g_1 p_role memory(w) + ... + g_K p_domain memory(w)         g = the gate's row for this
    place

The state is shared: a domain that was opened later uses its nearest role's state and memory beside a memory of its own.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from common.kernels import gate as gates
from common.kernels import memory as memories
from common.kernels.decode import Array
from common.kernels.engine import Cache, State
from common.kernels.memory import Addresses, Ids, Memory

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """state: the decoder; memories: the role's first, the most specific last; gate: (BUCKETS, 1 + len(memories)) rows
    sum to one.
    """

    state: State
    memories: tuple[Memory, ...]
    gate: Floats
    _ready: list[tuple[Floats, Addresses]] = field(default_factory=list, init=False, repr=False)

    def __eq__(self, other: object) -> bool:
        """Whether both read every text alike: the same state, memories and gate."""
        return isinstance(other, Kernel) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def __reduce__(self) -> tuple[object, ...]:
        return Kernel, (self.state, self.memories, self.gate)  # a copy's memories lie elsewhere

    @property
    def _identity(self) -> tuple[object, ...]:
        return id(self.state), *map(id, self.memories), self.gate.tobytes()

    @property
    def bases(self) -> Floats:
        """What each memory says without a context, (K, V); made when first asked for, as are `addresses`."""
        return self._made()[0]

    @property
    def addresses(self) -> Addresses:
        """The memories as compiled code takes them, (K, ORDERS, 8); while the kernel is kept."""
        return self._made()[1]

    def floors(self) -> list[Floats]:
        """Where each memory's recursion ends: the uniform distribution, then the unigrams of the memory before it."""
        return [_uniform(self.state), *self.bases[:-1]]

    def _made(self) -> tuple[Floats, Addresses]:
        if not self._ready:
            assert self.gate.shape == (gates.BUCKETS, 1 + len(self.memories)), self.gate.shape
            bases = [_uniform(self.state)]
            for memory in self.memories:
                bases.append(memories.distribution(memory, (), bases[-1])[0])
            self._ready.append((np.stack(bases[1:]), np.stack([memory.addresses for memory in self.memories])))
        return self._ready[0]


def _uniform(state: State) -> Floats:
    return np.full(state.spec.vocab, 1.0 / state.spec.vocab)


@dataclass(frozen=True, slots=True)
class Reading:
    """A text as a kernel reads it. Place t predicts token t from the tokens before it; place 0 has no context but
    counts too.

    experts: (N, 1+K) probability of each token by state and memories; buckets: (N,) gate rows; basins: (N, 64), place
    t's after token t.
    """

    experts: Floats
    buckets: npt.NDArray[np.int64]
    basins: Array

    def bits(self, gate: Floats) -> Floats:
        """Code length of each token in bits under a gate, (N,)."""
        mixed: Floats = (gate[self.buckets] * self.experts).sum(1)
        return -np.log2(mixed)


class Listening(NamedTuple):
    """A state that has read a text and may read on: its cache, the basins (N, 64), and the logits (V,) of what comes
    next. Belongs to whoever reads on.
    """

    cache: Cache
    basins: Array
    logits: Array


def read(kernel: Kernel, ids: Ids) -> Reading:
    """Reads a text in windows of the state's context; memories see across windows, the state does not."""
    return listen(kernel, ids)[0]


def listen(kernel: Kernel, ids: Ids) -> tuple[Reading, Listening | None]:
    """`read`, and the state that has read the text; None where the text has more than a window, or no token."""
    probability, listening = _read_state(kernel.state, ids)
    whole = 0 < len(ids) <= kernel.state.spec.context
    return _recall(kernel, ids, probability, listening.basins), listening if whole else None


def reread(kernel: Kernel, ids: Ids, reading: Reading) -> Reading:
    """The same text as a kernel with other memories reads it: what the state said is taken over, and costs nothing.

    reading: of these ids by a kernel of the same state.
    """
    return _recall(kernel, ids, reading.experts[:, 0], reading.basins)


def _recall(kernel: Kernel, ids: Ids, state: Floats, basins: Array) -> Reading:
    known = [memories.predict(m, ids, floor) for m, floor in zip(kernel.memories, kernel.floors(), strict=True)]
    last = known[-1]
    return Reading(np.stack([state, *(k.probability for k in known)], 1), gates.bucket(last.order, last.total), basins)


def _read_state(state: State, ids: Ids) -> tuple[Floats, Listening]:
    """The state's probability of each token, and the state with the last window in its cache. A window's first token
    has the memory floor: nothing was read.
    """
    probability, basins = _uniform(state)[ids], np.empty((len(ids), 64), np.float32)
    cache = state.start()
    logits: Array = np.empty(0, np.float32)
    for start in range(0, len(ids), state.spec.context):
        window = ids[start : start + state.spec.context]
        stop = start + len(window)
        basins[start:stop], rates, logits = state.listen(cache, window)
        probability[start + 1 : stop] = np.exp(rates)
    return probability, Listening(cache, basins, logits)
