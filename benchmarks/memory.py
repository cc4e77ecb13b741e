"""Claims: a memory takes 30 bytes an n-gram and is read at half a million tokens a second; and no other smoothing of
its counts is worth 1 % of the bits per byte.

    qig corpus fetch && qig corpus full                       the full corpora, outside the repository's own slice
    python benchmarks/memory.py [size] [smoothing] [--corpora FOLDER] [--vocab IDS]

Memories of the training text of `selection.select`, under the shipped coordizer's prefix; bits per byte of validation
text under the memory alone, whose recursion ends in the uniform distribution.

Smoothings. `absolute`: one discount, as in use. `by order`: a discount an order, n1 / (n1 + 2 n2) of its counts of
counts (Ney, Essen & Kneser 1994). `modified`: a discount each for counts of one, two, and more (Chen & Goodman 1999).
`continuation`: below the highest order a token counts once for each different token that came before (Kneser & Ney
1995); derived from the next order's table, since such counts do not add.
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # before numpy: it reads them when it is imported

import numpy as np

from common.constants import ROLES
from common.coordizer.artifacts import EOS, prefix
from common.coordizer.encode import Encoder
from common.kernels import memory as m
from services.trainer import coordizers
from services.trainer.corpora import selection

CLAIMS = {
    "size": "a memory takes 30 bytes an n-gram and reads 500,000 tokens a processor second",
    "smoothing": "no other smoothing of the counts is worth 1 % of the bits per byte",
}
VALIDATION_BYTES = 150_000  # of each role
SHIPPED = Path(__file__).parents[1] / "data" / "coordizer-32k"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[*CLAIMS, []], default=[])
    parser.add_argument("--corpora", type=Path, default=Path(".qig/corpora/full"))
    parser.add_argument("--vocab", type=int, default=4096)
    given = parser.parse_args()
    cases = given.cases or list(CLAIMS)
    encoder = Encoder(prefix(coordizers.read(SHIPPED), given.vocab))
    chosen = selection.select(selection.load(given.corpora, part="train"))
    fresh = selection.load(given.corpora, part="validation")
    floor, found = np.full(given.vocab, 1 / given.vocab), {}
    for role in ROLES:
        counted = m.count(_ids(encoder, row.text) for name, row in chosen if name == role)
        texts = _some([row.text for row in fresh[role]])
        ids = [_ids(encoder, text) for text in texts]
        if "size" in cases:
            _size(role, counted, np.concatenate(ids), floor)
        if "smoothing" in cases:
            found[role] = _smoothing(role, counted, ids, sum(len(text.encode()) for text in texts), floor)
    for name in next(iter(found.values()), {}):
        mean, now = (float(np.mean([each[which] for each in found.values()])) for which in (name, "absolute"))
        _show("smoothing", f"mean of roles, {name}", mean, "bits/byte", "absolute", now)


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


def _size(role, memory, ids, floor) -> None:
    held = sum(column.nbytes for table in memory.tables for column in table)
    _show("size", f"{role}, {memory.entries} n-grams of {memory.tokens} tokens", held / memory.entries, "bytes/n-gram")
    m.predict(memory, ids[:9], floor)
    start = time.process_time()
    m.predict(memory, ids, floor)
    _show("size", f"{role}, reading", len(ids) / (time.process_time() - start), "tokens/cpu-s")


def _smoothing(role, memory, ids, size_bytes, floor):
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
    }
    found = {}
    for name, (counts, discounts) in variants.items():
        left = [_left(table, d) for table, d in zip(counts.tables, discounts, strict=True)]
        bits = -sum(float(np.log2(_predict(counts, left, discounts, text, floor)).sum()) for text in ids)
        found[name] = bits / size_bytes
        _show("smoothing", f"{role}, {name}", found[name], "bits/byte", "absolute", found["absolute"])
    check = -sum(float(np.log2(m.predict(memory, text, floor).probability).sum()) for text in ids) / size_bytes
    assert np.isclose(check, found["absolute"], rtol=1e-9), "this file's recursion is not the memory's"
    return found


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


def _predict(memory, left, discounts, ids, floor):
    """As memory.predict, with discounts by order and count."""
    p, alive = floor[ids].copy(), np.ones(len(ids), bool)
    for n, table in enumerate(memory.tables):
        keys = np.concatenate([np.zeros(min(n, len(ids)), np.uint64), m.pack(ids, n)])
        alive[:n] = False
        at = np.minimum(np.searchsorted(table.contexts, keys >> m.TOKEN_BITS), len(table.contexts) - 1)
        alive &= table.contexts[at] == keys >> m.TOKEN_BITS
        counts = m.look_up(table.keys, table.counts, keys)
        hits = np.where(counts > 0, counts - _discount(np.maximum(counts, 1), discounts[n]), 0.0)
        p = np.where(alive, (np.maximum(hits, 0.0) + left[n][at] * p) / table.totals[at], p)
    return p


if __name__ == "__main__":
    main()
