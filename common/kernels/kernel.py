"""A kernel: state, memories and coupling mixed into one next-token distribution.

    p(w) = g_0 p_state(w) + g_1 p_role memory(w) + ... + g_K p_domain memory(w)         g = the gate's row for this
    place

The state is shared: a domain that was opened later uses its nearest role's state and memory beside a memory of its own.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from common.kernels import gate as gates
from common.kernels import memory as memories
from common.kernels.blend import mix
from common.kernels.decode import Array
from common.kernels.engine import State
from common.kernels.memory import Addresses, Ids, Memory

Floats = npt.NDArray[np.float64]

SCORE_BATCH: Final = 8  # windows at a time: bounds the working set, of logits above all


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """state: the decoder; memories: the role's first, the most specific last; gate: (BUCKETS, 1 + len(memories)) rows
    sum to one.
    """

    state: State
    memories: tuple[Memory, ...]
    gate: Floats

    def __eq__(self, other: object) -> bool:
        """Whether both read every text alike: the same state, memories and gate."""
        return isinstance(other, Kernel) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[object, ...]:
        return id(self.state), *map(id, self.memories), self.gate.tobytes()

    def floors(self) -> list[Floats]:
        """Where each memory's recursion ends: the uniform distribution, then the unigrams of the memory before it."""
        uniform = np.full(self.state.spec.vocab, 1.0 / self.state.spec.vocab)
        floors = [uniform]
        for memory in self.memories[:-1]:
            floors.append(memories.distribution(memory, (), floors[-1])[0])
        return floors


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


def read(kernel: Kernel, ids: Ids) -> Reading:
    """Reads a text in windows of the state's context; memories see across windows, the state does not."""
    vocab = kernel.state.spec.vocab
    return _recall(kernel, ids, *_read_state(kernel.state, ids, np.full(vocab, 1.0 / vocab)))


def reread(kernel: Kernel, ids: Ids, reading: Reading) -> Reading:
    """The same text as a kernel with other memories reads it: what the state said is taken over, and costs nothing.

    reading: of these ids by a kernel of the same state.
    """
    return _recall(kernel, ids, reading.experts[:, 0], reading.basins)


def _recall(kernel: Kernel, ids: Ids, state: Floats, basins: Array) -> Reading:
    known = [memories.predict(m, ids, floor) for m, floor in zip(kernel.memories, kernel.floors(), strict=True)]
    last = known[-1]
    return Reading(np.stack([state, *(k.probability for k in known)], 1), gates.bucket(last.order, last.total), basins)


def _read_state(state: State, ids: Ids, floor: Floats) -> tuple[Floats, Array]:
    """The state's probability of each token, and the basin after it. A window's first token has the memory floor:
    nothing was read.
    """
    size, context = len(ids), state.spec.context
    probability, basins = floor[ids], np.empty((size, 64), np.float32)
    whole = size // context
    batches: Iterable[tuple[int, Ids]] = [
        (start * context, ids[start * context : min(start + SCORE_BATCH, whole) * context].reshape(-1, context))
        for start in range(0, whole, SCORE_BATCH)
    ] + ([(whole * context, ids[None, whole * context :])] if size % context else [])
    for offset, windows in batches:
        hidden, b = state.read(windows)
        basins[offset : offset + windows.size] = b.reshape(-1, 64)
        logits = state.logits(hidden[:, :-1], b[:, :-1])
        peak = logits.max(-1, keepdims=True)
        total = np.log(np.exp(logits - peak).sum(-1)) + peak[..., 0]
        hit = np.take_along_axis(logits, windows[:, 1:, None].astype(np.int64), -1)[..., 0] - total
        places = offset + np.arange(windows.size).reshape(windows.shape)[:, 1:]
        probability[places] = np.exp(hit.astype(np.float64))
    return probability, basins


@dataclass(frozen=True, slots=True)
class Speaker:
    """A kernel about to speak, with what stays the same from token to token.

    memories: (K, ORDERS, 8), each as compiled code takes it; bases: (K, V), what each says without a context.
    """

    kernel: Kernel
    memories: Addresses
    bases: Floats

    @classmethod
    def of(cls, kernel: Kernel) -> "Speaker":
        """Prepares a kernel: some microseconds a memory."""
        assert kernel.gate.shape == (gates.BUCKETS, 1 + len(kernel.memories)), kernel.gate.shape
        pairs = zip(kernel.memories, kernel.floors(), strict=True)
        bases = np.stack([memories.distribution(memory, (), floor)[0] for memory, floor in pairs])
        return cls(kernel, np.stack([memory.addresses for memory in kernel.memories]), bases)

    def add(self, p: Floats, logits: Array, context: Ids, *, share: float) -> None:
        """Adds share * P of the next token to p (V,). logits (V,): the state's; context: the last three tokens."""
        mix(logits, self.memories, self.bases, self.kernel.gate, context, share, p)
