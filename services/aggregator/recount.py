"""Crystals over a smaller vocabulary, counted anew over the current one as an edge counts them."""

import numpy as np

from common.coordizer.artifacts import FIRST_MERGE
from common.kernels.memory import TOKEN_BITS, Memory, Table
from common.kernels.recount import recount
from common.wire.ngrams import Crystals, Order
from services.aggregator.bases import Base


def recounted(found: Crystals, vocab: int, current: Base) -> Crystals:
    """The crystals over the current vocabulary. vocab: of the tokens that they are over, a beginning of it."""
    pairs = current.merges[vocab - FIRST_MERGE :]
    if not pairs:
        return found
    memory = Memory(tuple(Table.of(order.keys, order.counts, order.contexts, order.totals) for order in found.orders))
    one, two, three = map(_order, recount(memory, pairs, vocab).tables)
    return Crystals((one, two, three))


def _order(table: Table) -> Order:
    """Contexts that no n-gram has go: crystals know none."""
    there = np.isin(table.contexts, table.keys >> TOKEN_BITS)
    return Order(table.keys, table.counts, table.contexts[there], table.totals[there])
