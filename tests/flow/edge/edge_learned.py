"""What an edge has learned, as values that can be compared."""

from common.kernels.memory import count, merge
from services.edge.local import TERRITORY


def tokens(edge):
    return sum(balance.residue.tokens for balance in edge.node.record.balances().values())


def learned(edge):
    """The counts of every memory that answers, by name."""
    return {
        name: [(table.keys.tolist(), table.counts.tolist(), table.totals.tolist()) for table in memory.tables]
        for name, memory in edge.node.serving.answering.memories.items()
    }


def expected(edge):
    """The bundle's memories, and what the record says that no bundle has taken."""
    base = edge.node.serving.constellation.memories
    own = {domain or TERRITORY: balance.residue for domain, balance in edge.node.record.balances().items()}
    grown = {name: merge([base.get(name, count([], 3)), own.get(name, count([], 3))]) for name in {**base, **own}}
    return {
        name: [(table.keys.tolist(), table.counts.tolist(), table.totals.tolist()) for table in memory.tables]
        for name, memory in grown.items()
        if memory.entries
    }
