"""Another vocabulary on an edge: what was counted in the one before, counted in the one that a bundle brings.

    the newest text that is kept    encoded anew and counted anew: exactly, up to EXACT_MAX_TOKENS
    what else is counted            n-grams of older text, of text that is gone, and of packets: re-counted from
                                    themselves (recount.py)

A balance is those texts' counts, and more (from other text), and less (what packets took): K + G - P. So it
becomes K' + G' - P', and where all text is kept and nothing was taken, the counts of that text bit for bit. The centre
re-counts a packet of the old vocabulary as it is re-counted here, so it settles whenever it is named. In a vocabulary
that lacks some of the old tokens, as after a rollback, an n-gram of one that is no more backs off.

Pure.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from common.constellation.constellation import Constellation
from common.coordizer.artifacts import FIRST_MERGE, pairs_from
from common.kernels.memory import TOKEN_BITS, TOKEN_MASK, Ids, Keys, Memory, Table, count, merge
from common.kernels.recount import recount
from services.edge.balance import Balance
from services.edge.record import IDS, ORDERS, Counted, Domain, Merges, Packet
from services.edge.screen import screened

# Chosen: about 3 MB of text, and 180 MB while they are counted; 16 MB of text took 340 MB, and a quarter of a gigabyte
# may be kept.
EXACT_MAX_TOKENS: Final = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Translated:
    """A record in another vocabulary. ids: of each counted text, by row, as they are kept; taken: of the rejected ones,
    by row; counts: what each packet carries, by sequence.
    """

    ids: dict[int, npt.NDArray[np.uint16]]
    taken: dict[int, Memory]
    balances: dict[Domain, Balance]
    counts: dict[int, Memory]


def merges_of(constellation: Constellation) -> Merges:
    """What tells its vocabulary from others."""
    return tuple(pairs_from(constellation.coordizer.merges, FIRST_MERGE))


def translate(
    constellation: Constellation,
    before: Merges,
    texts: Iterable[Counted],
    balances: Mapping[Domain, Balance],
    packets: Iterable[Packet],
) -> Translated:
    """What a record holds, in the constellation's vocabulary. before: the merges of the one that it is in; texts: the
    newest first.
    """
    anew = _translator(merges_of(constellation), before)
    ids: dict[int, npt.NDArray[np.uint16]] = {}
    taken: dict[int, Memory] = {}
    exact: dict[Domain, list[tuple[Ids, Ids]]] = {}
    room = EXACT_MAX_TOKENS
    for each in texts:
        found = constellation.encoder.encode(screened(each.text))
        ids[each.row] = found.astype(IDS)
        if each.taken is not None:  # what was rejected is in no residue
            taken[each.row] = _shifted(Balance(each.taken), [(each.ids, found)], anew).residue
        elif len(each.ids) <= room:
            exact.setdefault(each.domain, []).append((each.ids, found))
            room -= len(each.ids)
    shifted = {domain: _shifted(balance, exact.get(domain, []), anew) for domain, balance in balances.items()}
    return Translated(ids, taken, shifted, {packet.sequence: anew(packet.counts) for packet in packets})


def _translator(merges: Merges, before: Merges) -> Callable[[Memory], Memory]:
    shared = next((n for n, (one, other) in enumerate(zip(merges, before, strict=False)) if one != other), None)
    common = min(len(merges), len(before)) if shared is None else shared
    size, pairs = FIRST_MERGE + common, merges[common:]
    if common == len(before):
        return lambda memory: recount(memory, pairs, size)
    return lambda memory: recount(_within(memory, size), pairs, size)


def _shifted(balance: Balance, texts: Sequence[tuple[Ids, Ids]], anew: Callable[[Memory], Memory]) -> Balance:
    """Counts of texts, with more and with less than theirs. texts: their ids in the old vocabulary and in the new."""
    apart = balance.told(count((old for old, _ in texts), ORDERS))
    return Balance(merge([count((new for _, new in texts), ORDERS), anew(apart.residue)])).told(anew(apart.owed))


def _within(memory: Memory, vocab_size: int) -> Memory:
    """Without the n-grams of later tokens; a context keeps its total."""
    tables = []
    for order, table in enumerate(memory.tables):
        keys, contexts = _below(table.keys, order + 1, vocab_size), _below(table.contexts, order, vocab_size)
        tables.append(Table.of(table.keys[keys], table.counts[keys], table.contexts[contexts], table.totals[contexts]))
    return Memory(tuple(tables))


def _below(keys: Keys, length: int, vocab_size: int) -> npt.NDArray[np.bool_]:
    below = np.ones(len(keys), np.bool_)
    for place in range(length):
        below &= (keys >> TOKEN_BITS * np.uint64(place) & TOKEN_MASK) < np.uint64(vocab_size)
    return below
