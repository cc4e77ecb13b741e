"""Claim: of what many honest nodes brought and a quorum agreed on, the bound of a node's mass leaves almost all.

    python benchmarks/mass_bound.py [--role percept] [--packets 8 2 1] [--nodes 60] [--rounds 3]

Every node reads ROUND_BYTES of the shipped text of a role a round, in an order of its own, and brings each n-gram that
it saw twice; each cut takes --packets of them through the real quorum and pool. What waited is lent by the pool.

value   the share of the counts that met their quorum and were left by the bound as shipped
all     the same with the median of all nodes that a cut speaks of, also of those who are lent
by_gram where fewer nodes speak than make a median: what 2, 3 and 4 medians of the weight of an n-gram leave
"""

import argparse
import itertools
import json
import time
from pathlib import Path

import numpy as np

from common.constants import ROLES
from common.constellation import parts as bundle_parts
from common.kernels import memory
from common.wire.ngrams import Crystals, Order, implied
from services.aggregator import pool, robust
from services.aggregator.quorum import Brought, parted
from services.trainer import folder, text

CLAIM = "of what honest nodes agreed on the bound leaves at least 90 %"
ROUND_BYTES = 6_000
EDGES = 3  # of a quorum
MEDIANS = (2, 3, 4)
KNOWN = {False: "each batch its own quorum", True: "what was said once is known"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--role", default="percept", choices=ROLES)
    parser.add_argument("--packets", type=int, nargs="+", default=[8, 2, 1])
    parser.add_argument("--nodes", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    data = Path("data")
    encoder = bundle_parts.load(folder.read(folder.shipped(data))).encoder
    whole = "".join(text.load(data).replay[given.role])
    packets = [
        brought(encoder.encode(whole[start : start + ROUND_BYTES])) for start in range(0, len(whole), ROUND_BYTES)
    ]
    for size, known in itertools.product(given.packets, KNOWN):
        began_s = time.perf_counter()
        left = bounds(list(turns(packets, size, given, remember=known)))
        case = f"{given.role}, {given.nodes} nodes, {size} a batch, {KNOWN[known]}"
        line = {"claim": CLAIM, "case": case}
        print(json.dumps(line | left | {"seconds": round(time.perf_counter() - began_s, 1)}), flush=True)


def brought(ids):
    """The n-grams that a text has twice."""
    return implied(Crystals(tuple(map(twice, memory.count([ids], 3).tables))))


def twice(table):
    keys = table.keys[table.counts > 1]
    contexts = np.unique(keys >> memory.TOKEN_BITS)
    return Order(keys, table.counts[table.counts > 1], contexts, table.totals[np.isin(table.contexts, contexts)])


def turns(packets, size, given, *, remember):
    """What each cut says, and its number: its own and the pool's n-grams that met their quorum. remember: as the
    memory of a domain does once a bundle has brought them, whole; a fleet lies between the two.
    """
    draw, dealt = np.random.default_rng(given.seed), itertools.cycle(packets)
    order = [node for _ in range(given.rounds) for node in draw.permutation(given.nodes)]
    waiting, known = (), (np.zeros(0, np.uint64),) * 3
    for cut, start in enumerate(range(0, len(order), size)):
        now = [Brought(f"node-{node}", cut, next(dealt)) for node in order[start : start + size]]
        every = [*waiting, *now]
        halves = parted(every, edges=EDGES, known=known)
        said = [one._replace(crystals=agreed) for one, (agreed, _) in zip(every, halves, strict=True) if agreed.entries]
        waiting = pool.gathered(
            one._replace(crystals=left) for one, (_, left) in zip(every, halves, strict=True) if left.entries
        )
        if remember:
            known = tuple(
                np.unique(np.concatenate([keys, *(one.crystals.orders[place].keys for one in said)]))
                for place, keys in enumerate(known)
            )
        if said:
            yield said, cut


def bounds(cuts):
    total = sum(counts(one.crystals for one in said) for said, _ in cuts)

    def share(bound):
        return round(sum(counts(bound(said, cut)) for said, cut in cuts) / total, 3)

    shipped, by_gram = robust.DENSITY_MEDIANS, {}
    for medians in MEDIANS:
        robust.DENSITY_MEDIANS = medians
        by_gram[medians] = share(robust.bounded)
    robust.DENSITY_MEDIANS = shipped
    every = share(lambda said, cut: robust.bounded([one._replace(cut=cut) for one in said], cut))
    return {"value": share(robust.bounded), "unit": "of the counts", "all": every, "by_gram": by_gram}


def counts(found):
    return sum(int(order.counts.sum()) for one in found for order in one.orders)


if __name__ == "__main__":
    main()
