"""Private mode: which n-grams an edge says, and which it only mentions.

    candidates ─ hashed ─▶ common ──────────────────▶ crystals    enough edges hold it, or it is within what they hold
                       ├─▶ everyday (unless strict) ─▶ crystals    a memory of the bundle knows it: everybody has that
                       └─▶ neither ─ best first ────▶ mentions    as many as fit, those not mentioned before

Whoever holds an n-gram holds every n-gram in it. So what is within a common one is common; and an n-gram is mentioned
only once all within it may be said, because before that it cannot be common. What was mentioned is not mentioned again
while the centre remembers it; where nothing is new, what is best goes again, for a centre that forgot. A packet's bytes
are shared: MENTION_SHARE of them for mentions, if there are so many, and to the crystals the rest; what these leave,
the mentions have. Among the mentions are decoys, which only this edge can tell: a centre that has several of them held
by others has made that up, and is not believed.

Pure. The secret that edges share is an argument, and so is what was told (common/wire/mentions.py).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from common.errors import Corrupt
from common.kernels.kernel import Kernel
from common.kernels.memory import TOKEN_BITS, TOKEN_MASK, Keys, Memory, Table, look_up
from common.wire.mentions import NO_HASHES, SPACE, Hashes, mention
from services.edge.crystals import COUNT_MIN, Selection

# Chosen (docs/experiments.md): of a packet's bytes. Of 0.3 and 0.5 the bits per byte of eight edges over eight rounds
# were less with 0.3, at 1,024 and at 2,900 bytes.
MENTION_SHARE: Final = 0.3
EVERYDAY_COUNT: Final = 2  # chosen, as COUNT_MIN: in a memory of the bundle; what its text has once is not everyday

DECOYS: Final = 8  # chosen: of a packet, some 25 bytes
DECOYS_REMEMBERED: Final = 64  # packets back
FIRST: Final = 0  # the sequence whose decoys go again
DECOYS_FALSE: Final = 3  # chosen: as many may be common by chance, and three times what chance expects

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Private:
    """What private mode goes by. common: told by the centre; mentioned: by packets that were not lost; both ascending.

    strict: whether everyday n-grams wait until they are common too; decoys: those of the packet that is to be made, and
    again: those of an earlier one, for what goes again: else the decoys were what never does.
    """

    secret: bytes
    common: Hashes
    mentioned: Hashes
    strict: bool
    decoys: Hashes = field(default_factory=lambda: NO_HASHES)
    again: Hashes = field(default_factory=lambda: NO_HASHES)


def decoys(own: bytes, sequences: Iterable[int]) -> Hashes:
    """The decoys of these packets, DECOYS each. own: 32 bytes that no other edge has."""
    return mention(own, "decoy", ((n.to_bytes(4, "little"), bytes([i])) for n in sequences for i in range(DECOYS)))


def check_told(common: Hashes, own: bytes, sequence: int) -> None:
    """Raises Corrupt("false_common") where decoys of this edge's last packets are common, and more than by chance.

    common: all that would be, if what is told were believed; sequence: of the next packet. Of 5,000 hashes .15 decoys
    are by chance, more than 3 with probability 2 in 100,000.
    """
    made_up = np.unique(decoys(own, [FIRST, *range(max(sequence - DECOYS_REMEMBERED, 0), sequence)]))
    false = int(np.isin(made_up, common).sum())
    if false > DECOYS_FALSE * (1 + len(made_up) * len(common) / SPACE):
        raise Corrupt(
            "false_common",
            f"{false} hashes that this edge made up are said to be mentioned by others: what is told with them is not "
            "believed; look who writes qig:common, and who runs the aggregator",
        )


def sayable(residue: Memory, kernel: Kernel, tokens: Sequence[bytes], private: Private) -> Memory:
    """Of a residue the n-grams that recurred and may be said; a context keeps its total. kernel: the bundle's; tokens:
    the bytes of every id.
    """
    stay: list[Mask] = []
    within: Keys = np.zeros(0, np.uint64)
    for order in reversed(range(len(residue.tables))):
        table = residue.tables[order]
        often = table.counts >= COUNT_MIN
        keys = table.keys[often]
        said = _known(keys, order, kernel, tokens, private) | np.isin(keys, within)
        stay.append(often.copy())
        stay[-1][often] = said
        within = np.concatenate(_parts(keys[said], order)) if order else within
    return _kept(residue, stay[::-1])


def mentionable(
    ranked: Selection,
    said: Memory,
    kernel: Kernel,
    tokens: Sequence[bytes],
    private: Private,
    merges: Hashes = NO_HASHES,
) -> Hashes:
    """What is worth mentioning, decoys, then the best: `merges`, which were not mentioned yet, and what of `ranked` may
    not be said, and could be common. said, kernel, tokens: see `sayable`.
    """
    orders = ranked.crystals.orders
    hashes = np.concatenate([_hashes(each.keys, order, tokens, private) for order, each in enumerate(orders)])
    could = np.concatenate([
        ~np.isin(each.keys, said.tables[order].keys) & _parts_in(each.keys, order, said, kernel, tokens, private)
        for order, each in enumerate(orders)
    ])  # fmt: skip
    best: Hashes = hashes[ranked.ranking[could[ranked.ranking]]]
    new: Hashes = best[~np.isin(best, private.mentioned)]
    fresh = np.concatenate([merges, new])
    return np.concatenate([private.decoys, fresh] if len(fresh) else [private.again, best])


def _known(keys: Keys, order: int, kernel: Kernel, tokens: Sequence[bytes], private: Private) -> Mask:
    """Which are common, or everyday where that will do."""
    known: Mask = np.isin(_hashes(keys, order, tokens, private), private.common)
    return known if private.strict else known | _everyday(keys, order, kernel)


def _hashes(keys: Keys, order: int, tokens: Sequence[bytes], private: Private) -> Hashes:
    places = range(order, -1, -1)
    ids = [(keys >> np.uint64(int(TOKEN_BITS) * place) & TOKEN_MASK).tolist() for place in places]
    return mention(private.secret, "ngram", ([tokens[token] for token in gram] for gram in zip(*ids, strict=True)))


def _everyday(keys: Keys, order: int, kernel: Kernel) -> Mask:
    tables = [memory.tables[order] for memory in kernel.memories if order < len(memory.tables)]
    known: Mask = np.zeros(len(keys), np.bool_)
    for table in tables:
        known |= look_up(table.keys, table.counts, keys) >= EVERYDAY_COUNT
    return known


def _parts(keys: Keys, order: int) -> tuple[Keys, Keys]:
    """The n-grams of one token less that lie within these of order 1 and more: without the first, without the last."""
    rest = (np.uint64(1) << np.uint64(int(TOKEN_BITS) * order)) - np.uint64(1)
    return keys & rest, keys >> TOKEN_BITS


def _parts_in(keys: Keys, order: int, said: Memory, kernel: Kernel, tokens: Sequence[bytes], private: Private) -> Mask:
    """Whether all within it may be said: where the residue has a part no more, it was said before, and is known."""
    known: Mask = np.ones(len(keys), np.bool_)
    for part in _parts(keys, order) if order else ():
        there = np.isin(part, said.tables[order - 1].keys)
        there[~there] = _known(part[~there], order - 1, kernel, tokens, private)
        known &= there
    return known


def _kept(residue: Memory, stay: Sequence[Mask]) -> Memory:
    tables = []
    for table, mask in zip(residue.tables, stay, strict=True):
        keys = table.keys[mask]
        contexts = np.isin(table.contexts, keys >> TOKEN_BITS)
        tables.append(Table.of(keys, table.counts[mask], table.contexts[contexts], table.totals[contexts]))
    return Memory(tuple(tables))
