"""A constellation over a vocabulary that grew: the same kernels, with rows and counts for the new tokens.

    memory    counted anew for the merges (common/kernels/recount.py)
    state     a row for each new token: its embedding the mean of its halves', its bias the first half's, less what part
              of that half's occurrences go on to make it (the role's memory knows); the half keeps the rest
    home, gate, domain, integrator    as they were: they speak of basins and of how well memories are known

A new token is then about as likely as its first half followed by its second was, and is read about as they were; which
embedding loses least was measured (docs/experiments.md). What is lost, guarded training brings back.
"""

from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from common.constellation import parts as bundle_parts
from common.constellation.constellation import Constellation
from common.coordizer.artifacts import Coordizer, pairs_from
from common.coordizer.encode import Encoder
from common.geometry.simplex import from_float16
from common.kernels import weights
from common.kernels.engine import State
from common.kernels.memory import Memory, look_up
from common.kernels.recount import Pairs, recount

SMOOTHING: Final = 0.1  # occurrences that a merge has beside those counted: none is impossible

Floats = npt.NDArray[np.float64]


def grown(constellation: Constellation, coordizer: Coordizer) -> Constellation:
    """The constellation over `coordizer`, whose first merges are its own; states as their parts will hold them."""
    first = constellation.coordizer.vocab_size
    pairs = pairs_from(coordizer.merges, first)
    memories = {name: recount(memory, pairs, first, at_once=True) for name, memory in constellation.memories.items()}
    roots = np.sqrt(from_float16(coordizer.basins))
    states = {
        role: _state(state, pairs, _shares(memories[constellation.domains[role].memories[0]], pairs, first), roots)
        for role, state in constellation.states.items()
    }
    return replace(constellation, coordizer=coordizer, encoder=Encoder(coordizer), states=states, memories=memories)


def parts(constellation: Constellation) -> dict[str, bytes]:
    """All that growth changes: the coordizer, every state, every memory."""
    found = bundle_parts.coordizer_parts(constellation.coordizer)
    for role, state in constellation.states.items():
        found |= bundle_parts.kernel_part(role, state.spec, state.weights)
    for name, memory in constellation.memories.items():
        found |= bundle_parts.memory_part(name, memory)
    return found


def _shares(memory: Memory, pairs: Pairs, first: int) -> Floats:
    """What part of the first half's occurrences each merge takes, (M,), of those that earlier merges left.

    memory: counted anew.
    """
    ids = np.arange(first + len(pairs), dtype=np.uint64)
    total = look_up(memory.tables[0].keys, memory.tables[0].counts, ids).astype(np.float64)
    shares = np.empty(len(pairs))
    for number in reversed(range(len(pairs))):  # the last merge is undone first
        left, right = pairs[number]
        made = total[first + number] + SMOOTHING
        total[left] += made
        total[right] += made
        shares[number] = made / (total[left] + SMOOTHING)
    return shares


def _state(state: State, pairs: Pairs, shares: Floats, roots: Floats) -> State:
    first, more = state.spec.vocab, len(pairs)
    embed = np.concatenate([state.weights["embed"], np.zeros((more, state.spec.width), np.float32)])
    bias = np.concatenate([state.weights["bias"], np.zeros(more, np.float32)])
    for number, (left, right) in enumerate(pairs):
        embed[first + number] = (embed[left] + embed[right]) / 2
        bias[first + number] = bias[left] + np.log(shares[number])
        bias[left] += np.log1p(-shares[number])
    spec = replace(state.spec, vocab=first + more)
    _, rounded = weights.from_bytes(weights.to_bytes(spec, {**state.weights, "embed": embed, "bias": bias}))
    return State(spec, rounded, roots)
