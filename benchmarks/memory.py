"""Claims: a memory takes 30 bytes an n-gram and is read at half a million tokens a second; and its smoothing is worth
1 % of a kernel's bits per byte or more over one that counts plainly.

    qig corpus fetch && qig corpus full                       the full corpora, outside the repository's own slice
    python benchmarks/memory.py [size] [smoothing] [mixture] [--corpora FOLDER] [--vocab IDS] [--genesis FOLDER]

Memories of the training text of `selection.select`, under the shipped coordizer's prefix, or a genesis's coordizer;
bits per byte of validation text under the memory alone, whose recursion ends in the uniform distribution. `mixture`
needs a genesis: the same under its states and the memory together, the gate learned by EM on one half of the text and
measured on the other.

Smoothings. `absolute`: one discount. `by order`: a discount an order, n1 / (n1 + 2 n2) of its counts of counts (Ney,
Essen & Kneser 1994). `modified`: a discount each for counts of one, two, and more (Chen & Goodman 1999).
`continuation`: below the highest order a token counts once for each different token that came before (Kneser & Ney
1995). `in use`: that, and besides what no longer n-gram accounts for.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # before numpy: it reads them when it is imported

import numpy as np

from common.constants import ROLES
from common.coordizer.artifacts import EOS, prefix
from common.coordizer.encode import Encoder
from common.kernels import gate as gates
from common.kernels import memory as m
from common.kernels.kernel import Kernel, read
from services.cli.genesis import load
from services.trainer import coordizers
from services.trainer.corpora import selection

CLAIMS = {
    "size": "a memory takes 30 bytes an n-gram and reads 500,000 tokens a processor second",
    "smoothing": "continuation is worth 3 % of a memory's bits per byte over plain counts",
    "mixture": "continuation is worth 1 % of a kernel's bits per byte over plain counts",
}
VALIDATION_BYTES = 150_000  # of each role
SHIPPED = Path(__file__).parents[1] / "data" / "coordizer-32k"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[*CLAIMS, []], default=[])
    parser.add_argument("--corpora", type=Path, default=Path(".qig/corpora/full"))
    parser.add_argument("--vocab", type=int, default=4096, help="of the shipped coordizer")
    parser.add_argument("--genesis", type=Path, help="a constellation's parts: its coordizer and states")
    given = parser.parse_args()
    made = load(given.genesis) if given.genesis else None
    encoder = made.encoder if made else Encoder(prefix(coordizers.read(SHIPPED), given.vocab))
    chosen = selection.select(selection.load(given.corpora, part="train"))
    fresh, found = selection.load(given.corpora, part="validation"), []
    for role in ROLES:
        counted = m.count(_ids(encoder, row.text) for name, row in chosen if name == role)
        texts = _some([row.text for row in fresh[role]])
        text = _Text([_ids(encoder, each) for each in texts], sum(len(each.encode()) for each in texts))
        floor = np.full(made.coordizer.vocab_size if made else given.vocab, 1.0)
        for case in given.cases or CLAIMS:
            if case == "size":
                _size(role, counted, text, floor / len(floor))
            elif case == "smoothing":
                found.append(_smoothing(role, counted, text, floor / len(floor)))
            elif made is None:
                print("skipped mixture: name a genesis with --genesis", file=sys.stderr, flush=True)
            else:
                _mixture(role, made.states[role], counted, text, floor / len(floor))
    for name in found[0] if found else ():
        mean, plain = (float(np.mean([each[which] for each in found])) for which in (name, "absolute"))
        _show("smoothing", f"mean of roles, {name}", mean, "bits/byte", "absolute", plain)


@dataclass(frozen=True)
class _Text:
    ids: list
    size_bytes: int

    def bits(self, p) -> float:
        """Bits per byte of all of it, or of the second half of its tokens for as many probabilities."""
        return -float(np.log2(p).sum()) / (self.size_bytes * len(p) / sum(map(len, self.ids)))


def _show(claim, case, value, unit, peer=None, peer_value=None) -> None:
    ratio = round(value / peer_value, 4) if peer_value else None
    line = {"claim": CLAIMS[claim], "case": case, "value": round(value, 4), "unit": unit, "peer": peer}
    print(json.dumps({**line, "peer_value": peer_value and round(peer_value, 4), "ratio": ratio}), flush=True)


def _ids(encoder, text):
    return np.append(encoder.encode(text), np.int32(EOS))


def _some(texts):
    """Whole texts in a drawn order, until there are VALIDATION_BYTES."""
    order, chosen, size = np.random.default_rng(0).permutation(len(texts)), [], 0
    for place in order:
        if size < VALIDATION_BYTES:
            chosen.append(texts[place])
            size += len(texts[place].encode())
    return chosen


def _size(role, memory, text, floor) -> None:
    ids = np.concatenate(text.ids)
    m.predict(memory, ids[:9], floor)
    held = {id(column): column.nbytes for table in (*memory.tables, *memory.columns) for column in table}
    case = f"{role}, {memory.entries} n-grams of {memory.tokens} tokens"
    _show("size", case, sum(held.values()) / memory.entries, "bytes/n-gram")
    start = time.process_time()
    m.predict(memory, ids, floor)
    _show("size", f"{role}, reading", len(ids) / (time.process_time() - start), "tokens/cpu-s")


def _smoothing(role, memory, text, floor):
    """Bits per byte by name of smoothing."""
    derived = _continuation(memory)
    absolute = [np.full(3, m.DISCOUNT)] * m.ORDERS
    variants = {
        "absolute": (memory, absolute),
        "absolute, by order": (memory, [_by_order(t) for t in memory.tables]),
        "modified": (memory, [_modified(t) for t in memory.tables]),
        "continuation": (derived, absolute),
        "continuation, by order": (derived, [_by_order(t) for t in derived.tables]),
        "continuation, modified": (derived, [_modified(t) for t in derived.tables]),
        "in use": (m.Memory(memory.columns), absolute),
    }
    found = {name: text.bits(_predict(*how, text.ids, floor)) for name, how in variants.items()}
    for name, value in found.items():
        _show("smoothing", f"{role}, {name}", value, "bits/byte", "absolute", found["absolute"])
    check = text.bits(np.concatenate([m.predict(memory, ids, floor).probability for ids in text.ids]))
    assert np.isclose(check, found["in use"], rtol=1e-9), "this file's recursion is not the memory's"
    return found


def _mixture(role, state, memory, text, floor) -> None:
    ids = np.concatenate(text.ids)
    reading = read(Kernel(state, (memory,), gates.prior(2)), ids)
    absolute = [np.full(3, m.DISCOUNT)] * m.ORDERS
    plain = np.stack([reading.experts[:, 0], _predict(memory, absolute, text.ids, floor)], 1)
    half, found = len(ids) // 2, []
    for experts in (plain, reading.experts):
        gate = gates.learn(experts[:half], reading.buckets[:half], gates.prior(2), rounds=20)
        found.append(text.bits((gate[reading.buckets] * experts).sum(1)[half:]))
    _show("mixture", f"{role}, in use", found[1], "bits/byte", "absolute", found[0])


def _continuation(memory):
    """Counts of different tokens before, for all orders but the highest."""
    lower = []
    for order in range(m.ORDERS - 1):
        short = memory.tables[order + 1].keys & ((np.uint64(1) << np.uint64(15 * (order + 1))) - np.uint64(1))
        lower.append(m.Table.counted(short))
    return m.Memory((*lower, memory.tables[-1]))


def _counts_of_counts(table):
    return [float((table.counts == n).sum()) for n in range(1, 5)]


def _by_order(table):
    n1, n2, _, _ = _counts_of_counts(table)
    return np.full(3, n1 / (n1 + 2 * n2) if n1 and n2 else m.DISCOUNT)


def _modified(table):
    n1, n2, n3, n4 = _counts_of_counts(table)
    if not min(n1, n2, n3, n4):
        return np.full(3, m.DISCOUNT)
    y = n1 / (n1 + 2 * n2)
    return np.array([1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])


def _discount(counts, discounts):
    return discounts[np.minimum(counts, 3).astype(np.int64) - 1]


def _left(table, discounts):
    """The mass that each context leaves to the lower order."""
    return np.add.reduceat(_discount(table.counts, discounts), table.starts[:-1])


def _predict(memory, discounts, texts, floor):
    """As memory.predict of each text, from the tables as they are, with discounts by order and count."""
    left = [_left(table, d) for table, d in zip(memory.tables, discounts, strict=True)]
    found = []
    for ids in texts:
        p, alive = floor[ids].copy(), np.ones(len(ids), bool)
        for n, table in enumerate(memory.tables):
            keys = np.concatenate([np.zeros(min(n, len(ids)), np.uint64), m.pack(ids, n)])
            alive[:n] = False
            at = np.minimum(np.searchsorted(table.contexts, keys >> m.TOKEN_BITS), len(table.contexts) - 1)
            alive &= table.contexts[at] == keys >> m.TOKEN_BITS
            counts = m.look_up(table.keys, table.counts, keys)
            hits = np.where(counts > 0, counts - _discount(np.maximum(counts, 1), discounts[n]), 0.0)
            p = np.where(alive, (np.maximum(hits, 0.0) + left[n][at] * p) / table.totals[at], p)
        found.append(p)
    return np.concatenate(found)


if __name__ == "__main__":
    main()
