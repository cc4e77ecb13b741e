"""Claim: packets of crystals alone lower the bits per byte of a domain that no kernel has seen, and old domains hold.

Two edges, in process, read fresh scripture round after round; each sends one packet's crystals a round; the trainer
consolidates. The text that is measured is held out and never sent. Controls: nothing sent (0 bytes), and all counts of
the same text, which is the most that merging counts could give.

    python benchmarks/learning.py [FOLDER OF A GENESIS]        default .qig/demo/genesis, made by `qig demo`; else `qig
    train`
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.constants import ROLES
from common.constellation import parts as bundle_parts
from common.constellation.constellation import Constellation
from common.constellation.priors import prior_of
from common.geometry.means import frechet_mean
from common.geometry.simplex import to_float16
from common.kernels import gate, memory
from common.kernels.kernel import Kernel
from common.kernels.memory import Memory
from common.wire import crystals as crystal_codec
from common.wire.messages import Batch, DomainUpdate, PacketRef, batch_id
from common.wire.ngrams import implied
from services.edge.balance import Balance
from services.edge.crystals import select
from services.edge.sleep import as_memory
from services.trainer import folder, text
from services.trainer.consolidate import consolidate
from services.trainer.corpora.document import documents
from services.trainer.corpora.split import split
from services.trainer.evaluate import Examiner

CLAIM = "crystals lower an unseen domain's bits per byte by 5 % and no old domain's figure rises by 1 %"
DATA = Path("data")
NAME = "scripture"
EDGES, ROUNDS, ROUND_BYTES = 2, 3, 30_000
EMPTY = memory.count([], 3)


def main() -> None:
    where = Path(sys.argv[1] if len(sys.argv) > 1 else ".qig/demo/genesis")
    start = folder.read(where)
    if start is None:
        sys.exit(f"no genesis in {where}: run `qig demo`, or `qig train --out {where}`")
    owned, unseen = text.load(DATA), split(documents("unseen/scripture", root=DATA))
    examiner = Examiner({**owned.held_out, NAME: [each.text for each in unseen.held_out]})
    before = examiner.scores(bundle_parts.load(start))
    passages = [each.text for each in unseen.train]
    np.random.default_rng(0).shuffle(passages)
    for budget in (0, 1024, 2900):
        parts = _rounds(start, owned, passages, budget) if budget else start
        _show(f"{budget} B of crystals a packet", before, examiner.scores(bundle_parts.load(parts)))
    _show("all counts of the same text", before, examiner.scores(_all_counts(bundle_parts.load(start), passages)))


def _show(case, before, after) -> None:
    worst = max(after[role].bits_per_byte / before[role].bits_per_byte - 1 for role in ROLES)
    value, other = after[NAME].bits_per_byte, before[NAME].bits_per_byte
    line = {"claim": CLAIM, "case": case, "value": round(value, 4), "unit": "bit/B", "peer": "nothing learned"}
    figures = {
        "peer_value": round(other, 4),
        "ratio": round(value / other, 4),
        "old_domains_worst_change": round(worst, 5),
    }
    print(json.dumps({**line, **figures}), flush=True)


def _rounds(parts, owned, passages, budget):
    remaining, books = iter(passages), [Balance(EMPTY)] * EDGES
    for number in range(ROUNDS):
        current = bundle_parts.load(parts)
        texts = [take(remaining, ROUND_BYTES) for _ in range(EDGES)]
        ids = [[current.encoder.encode(each) for each in own] for own in texts]
        kernel = kernel_of(current)
        sent = []
        for edge in range(EDGES):
            books[edge] = books[edge].seen(memory.count(ids[edge], 3))
            chosen = select(books[edge].residue, kernel)
            vocab = current.coordizer.vocab_size
            terms = {"vocab_size": vocab, "budget_bytes": budget, "prior": prior_of(kernel.memories, vocab)}
            found, _ = crystal_codec.fit(chosen.crystals, chosen.ranking, **terms)
            books[edge] = books[edge].told(as_memory(implied(found)))
            sent.append(implied(found))
        batch = batch_of(number, current, ids, texts, sent)
        parts = consolidate(parts, batch, replay=owned.replay, held_out=owned.held_out, steps=0, seed=0).parts
    return parts


def take(remaining, size_bytes):
    taken, size = [], 0
    while size < size_bytes:
        taken.append(next(remaining))
        size += len(taken[-1].encode())
    return taken


def kernel_of(current: Constellation) -> Kernel:
    """The kernel whose last memory takes the crystals: the domain's, or an empty one beside its nearest role's."""
    if NAME in current.domains:
        return current.kernel(NAME)
    heart = current.kernel("heart")
    return Kernel(heart.state, (*heart.memories, EMPTY), gate.prior(3))


def batch_of(number, current, ids, texts, sent) -> Batch:
    flat, known = [each for own in ids for each in own], NAME in current.domains
    readings = [current.read(each, NAME if known else "heart") for each in flat]
    kernel = current.kernel(NAME if known else "heart")
    sums = sum(gate.responsibilities(r.experts, r.buckets, kernel.gate) for r in readings)
    vocab = current.coordizer.vocab_size
    update = DomainUpdate(
        name=NAME, kernel="heart", opened=not known, packets=EDGES, tokens=sum(map(len, flat)),
        basin=to_float16(frechet_mean(np.stack([current.basin(each) for each in flat]))).tobytes(),
        crystals=crystal_codec.encode(crystal_codec.merge(sent), vocab), gate=gate.to_bytes(sums) if known else b"",
        fresh_bytes=sum(len(each.encode()) for own in texts for each in own),
        fresh_bits=float(sum(r.bits(kernel.gate).sum() for r in readings)),
    )  # fmt: skip
    refs = tuple(PacketRef(key=bytes([edge] * 8), epoch=1, sequence=number) for edge in range(EDGES))
    return Batch(id=batch_id(refs), base_version=1, base_digest="0" * 64, domains=(update,), packets=refs)


def _all_counts(start: Constellation, passages) -> Constellation:
    """The domain's memory as if every count of the text that the edges read had been sent; its gate stays the prior."""
    remaining = iter(passages)
    ids = [start.encoder.encode(each) for _ in range(EDGES * ROUNDS) for each in take(remaining, ROUND_BYTES)]
    counts: Memory = memory.count(ids, 3)
    heart = start.domains["heart"]
    basin = frechet_mean(np.stack([start.basin(each) for each in ids]))
    rows = tuple(map(tuple, gate.prior(3).tolist()))
    own = {"name": NAME, "memories": ("heart", NAME), "basin": tuple(basin.tolist()), "gate": rows}
    opened = heart.model_copy(update=own)
    return replace(start, memories={**start.memories, NAME: counts}, domains={**start.domains, NAME: opened})


if __name__ == "__main__":
    main()
