"""Claim: a vocabulary that edges grow costs fewer tokens a byte where they read, and no old domain .01 bits a byte.

Edges, in process, read fresh scripture round after round; each mentions the merges it would make, says those that three
have mentioned, and sends a packet's crystals. The trainer consolidates, with the merges that three edges said and
without. The text that is measured is held out.

    python benchmarks/growth.py [FOLDER OF A GENESIS]        default data/genesis
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from learning import DATA, EMPTY, NAME, batch_of, kernel_of, take

from common.constants import ROLES
from common.constellation import parts as bundle_parts
from common.coordizer.growth import propose
from common.kernels import memory
from common.kernels.recount import recount
from common.wire import crystals as crystal_codec
from common.wire.mentions import NO_HASHES
from common.wire.ngrams import implied
from services.aggregator.proposals import gather, left_with
from services.aggregator.tally import Tally, tally
from services.edge.balance import Balance
from services.edge.crystals import select
from services.edge.proposals import Growing, proposed
from services.edge.screen import screened
from services.edge.sleep import as_memory
from services.trainer import folder, text
from services.trainer.consolidate import consolidate
from services.trainer.corpora.document import documents
from services.trainer.corpora.split import split
from services.trainer.evaluate import Examiner

CLAIM = "a grown vocabulary takes fewer tokens a byte where edges read, and costs old domains less than .01 bit/B"
SECRET, BUDGET = bytes(32), 1024
FLEETS = ((3, 4, 20_000, 0), (8, 4, 6_000, 0), (3, 4, 20_000, 30))  # edges, rounds, bytes a round, training steps


def main() -> None:
    where = Path(sys.argv[1] if len(sys.argv) > 1 else DATA / "genesis")
    start = folder.read(where)
    if start is None:
        sys.exit(f"no genesis in {where}: run `qig demo`, or `qig train --out {where}`")
    owned, unseen = text.load(DATA), split(documents("unseen/scripture", root=DATA))
    examiner = Examiner({**owned.held_out, NAME: [each.text for each in unseen.held_out]})
    passages = [each.text for each in unseen.train]
    np.random.default_rng(0).shuffle(passages)
    _costs(start, passages)
    for *fleet, steps in FLEETS:
        before, _ = _fleet(start, owned, passages, fleet, steps, grows=False)
        grown, told = _fleet(start, owned, passages, fleet, steps, grows=True)
        case = "{} edges, {} rounds of {} B".format(*fleet) + f", {steps} steps"
        _show(case, examiner.scores(before), examiner.scores(grown), told)


def _costs(start, passages) -> None:
    """What a proposal costs an edge, and what re-counting costs whoever holds a memory."""
    current = bundle_parts.load(start)
    texts = [screened(each) for each in take(iter(passages), 65_536)]
    propose(current.coordizer, texts[:1])  # compiled
    began_s = time.perf_counter()
    found = propose(current.coordizer, texts)
    _line("propose on 64 KB", 1000 * (time.perf_counter() - began_s), "ms", proposals=len(found))
    pairs = [(left, right) for left, right, _ in found[:64]]
    for name, known in current.memories.items():
        began_s = time.perf_counter()
        recount(known, pairs, current.coordizer.vocab_size)
        _line(f"re-count {name} for 64 merges", 1000 * (time.perf_counter() - began_s), "ms", ngrams=known.entries)


def _fleet(start, owned, passages, fleet, steps, *, grows):
    """The constellation after these rounds, and how many merges were mentioned, common, said and appended."""
    edges, rounds, size_bytes = fleet
    parts, remaining, books = start, iter(passages), [Balance(EMPTY)] * edges
    heard, mentioned, noted = Tally({}, {}), [NO_HASHES] * edges, {}
    keys = [bytes([edge] * 8) for edge in range(edges)]
    nodes = {key: key.hex() for key in keys}
    few = {role: passages_[:4] for role, passages_ in owned.held_out.items()}  # what a growth is dropped by: read often
    first = bundle_parts.load(start).coordizer.vocab_size
    for number in range(rounds):
        current = bundle_parts.load(parts)
        texts = [take(remaining, size_bytes) for _ in range(edges)]
        ids = [[current.encoder.encode(each) for each in own] for own in texts]
        common = np.unique(np.concatenate([*heard.common.values(), NO_HASHES]))
        said = [
            proposed(current.coordizer, own, Growing(SECRET, common, np.sort(m)))
            for own, m in zip(texts, mentioned, strict=True)
        ]
        mentioned = [np.concatenate([m, each.mentions]) for m, each in zip(mentioned, said, strict=True)]
        told = tally(
            heard,
            [(key, np.unique(each.mentions)) for key, each in zip(keys, said, strict=True)],
            nodes=nodes,
            edges=3,
        )
        heard = Tally({**heard.mentioned, **told.mentioned}, {**heard.common, number: told.common})
        brought = [(key, each.said) for key, each in zip(keys, said, strict=True)]
        merges = frozenset(map(tuple, current.coordizer.merges.tolist()))
        gathered = left_with(gather(noted, brought, known=merges, nodes=nodes, edges=3))
        noted = {pair: votes for pair, votes in {**noted, **gathered.noted}.items() if pair not in gathered.gone}
        sent = _crystals(current, ids, books)
        batch = batch_of(number, current, ids, texts, sent)
        batch = batch.model_copy(update={"merges": gathered.merges if grows else ()})
        made = consolidate(parts, batch, replay=owned.replay, held_out=few, steps=steps, seed=0)
        parts = made.parts
        size = bundle_parts.load(parts).coordizer.vocab_size
        if size > current.coordizer.vocab_size:
            pairs = [tuple(pair) for pair in bundle_parts.load(parts).coordizer.merges.tolist()]
            pairs = pairs[len(current.coordizer.merges) :]
            old = current.coordizer.vocab_size
            books = [Balance(recount(b.residue, pairs, old), recount(b.owed, pairs, old)) for b in books]
    figures = {"mentioned": sum(map(len, mentioned)), "common": sum(map(len, heard.common.values()))}
    return bundle_parts.load(parts), {**figures, "appended": bundle_parts.load(parts).coordizer.vocab_size - first}


def _crystals(current, ids, books):
    """What each edge's packet says; its books are kept in place."""
    kernel, vocab, sent = kernel_of(current), current.coordizer.vocab_size, []
    for edge, own in enumerate(ids):
        books[edge] = books[edge].seen(memory.count(own, 3))
        chosen = select(books[edge].residue, kernel)
        found, _ = crystal_codec.fit(chosen.crystals, chosen.ranking, vocab_size=vocab, budget_bytes=BUDGET)
        books[edge] = books[edge].told(as_memory(implied(found)))
        sent.append(implied(found))
    return sent


def _show(case, before, after, told) -> None:
    worst = max(after[role].bits_per_byte - before[role].bits_per_byte for role in ROLES)
    for name, unit in (("tokens_per_byte", "token/B"), ("bits_per_byte", "bit/B")):
        value, peer = getattr(after[NAME], name), getattr(before[NAME], name)
        _line(f"{case}: {unit}", value, unit, peer="the same without merges", peer_value=round(peer, 4),
              ratio=round(value / peer, 4), **told, old_domains_worst_bits=round(worst, 5))  # fmt: skip


def _line(case, value, unit, **figures) -> None:
    print(json.dumps({"claim": CLAIM, "case": case, "value": round(value, 4), "unit": unit, **figures}), flush=True)


if __name__ == "__main__":
    main()
