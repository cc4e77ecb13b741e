"""Claim: what ends a domain tells one kind of text that was opened twice from two kinds, and merging the first helps.

Domains are opened as packets open them: sleeps of 24 KB, 1 KB of crystals each, counted beside a role's memory. Pairs
are two halves of one source (each its own edge), two sources, and two parts of one book. For each pair: how far apart
they lie, what each reads of the other's n-grams (the smaller `read_share`), and by what share a merge changes the bits
per byte of held-out text (the worse of the two). Then domains of a role's own text, and of others' that lie near it, by
`saved_share`. At last four rounds in which two edges read halves of one unseen book into two domains, consolidated with
endings and, as the control, without.

    python benchmarks/domains.py [GENESIS [FULL TEXT]]         default data/genesis .qig/corpora/full
"""

import json
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from common.constants import ROLES
from common.constellation import parts as bundle_parts
from common.geometry.means import frechet_mean
from common.geometry.simplex import distance, to_float16
from common.kernels import gate, memory
from common.kernels.kernel import Kernel, read, reread
from common.wire import crystals as crystal_codec
from common.wire.messages import Batch, DomainUpdate, PacketRef, batch_id
from common.wire.ngrams import implied
from services.edge.balance import Balance
from services.edge.crystals import select
from services.edge.sleep import as_memory
from services.trainer import consolidate as consolidation
from services.trainer import endings, folder, text
from services.trainer.corpora.document import documents
from services.trainer.evaluate import Examiner

CLAIM = "one kind of text opened twice is told from two kinds, and is read better as one domain"
SLEEP_BYTES, CRYSTAL_BYTES, SLEEPS, HELD_BYTES = 24_000, 1024, 8, 60_000
ROUNDS = 4
EMPTY = memory.count([], 3)
BOOKS = {
    "law": {"Genesis", "Exodus", "Leviticus", "Numbers", "Deuteronomy"},
    "psalms": {"Psalms", "Proverbs"},
    "gospels": {"Matthew", "Mark", "Luke", "John", "Acts", "Revelation", "Romans", "Hebrews", "James"},
}
SOURCES = {
    "scripture": ("unseen/scripture", None, None),
    "recipes": ("percept", "recipes", "percept"),
    "moby-dick": ("percept", "moby-dick", "percept"),
    "speeches": ("strategy", None, "strategy"),
    "definitions": ("vocab", None, "vocab"),
    "poems": ("heart", None, "heart"),
}


def main() -> None:
    start = folder.read(Path(sys.argv[1] if len(sys.argv) > 1 else "data/genesis"))
    root = Path(sys.argv[2] if len(sys.argv) > 2 else ".qig/corpora/full")
    if start is None:
        sys.exit("no genesis there: name the folder of one")
    constellation = bundle_parts.load(start)
    texts = {name: _texts(root, *where[:2]) for name, where in SOURCES.items()}
    texts |= {name: _texts(root, "unseen/scripture", books=books) for name, books in BOOKS.items()}
    for role in ("heart", "percept"):
        _pairs(constellation, role, texts)
    for role in ROLES:
        _at_home(constellation, role, texts)
    _merged_or_not(start, texts["scripture"])


def _texts(root, domain, source=None, books=None):
    found = [each for each in documents(domain, root=root) if source in (None, each.source)]
    if books:
        found = [each for each in found if books & set(each.title.split())]
    order = np.random.default_rng(5).permutation(len(found))[:600]
    return [found[place].text for place in order]


def _show(case, value, unit, **more) -> None:
    print(json.dumps({"claim": CLAIM, "case": case, "value": round(value, 4), "unit": unit, **more}), flush=True)


# Pairs


def _pairs(constellation, role, texts) -> None:
    kinds = [name for name, (_, _, own) in SOURCES.items() if own != role]
    grown = {name: _halves(constellation, role, texts[name]) for name in (*kinds, *BOOKS)}
    groups = {
        "halves of one source": [((name, 0), (name, 1)) for name in kinds],
        "two kinds": [((one, 0), (other, 0)) for one, other in combinations(kinds, 2)],
        "parts of one book": [((one, 0), (other, 0)) for one, other in combinations(BOOKS, 2)],
    }
    for sleeps in ((1, 1), (2, 2), (8, 8), (8, 1)):
        for group, pairs in groups.items():
            found = np.array([_pair(constellation, role, grown, pair, sleeps) for pair in pairs])
            both = (found[:, 0] <= endings.CONVERGED_RAD) & (found[:, 1] >= endings.READ_SHARE)
            _show(
                f"{role}, {group}, {sleeps[0]} and {sleeps[1]} sleeps",
                float(both.mean()),
                "share of pairs merged",
                pairs=len(pairs),
                rad=_range(found[:, 0], 3),
                read_share=_range(found[:, 1], 2),
                merged_costs=_range(found[:, 2], 4),
            )


def _range(values, digits):
    return [round(float(values.min()), digits), round(float(values.max()), digits)]


def _halves(constellation, role, passages):
    """Two edges' domains of one kind, sleep after sleep, as (memory, basin), and held-out text."""
    remaining = iter(passages)
    edges = [list(_sleeps(constellation, role, remaining)) for _ in range(2)]
    return edges, _take(remaining, HELD_BYTES)


def _sleeps(constellation, role, remaining):
    kernel, known, books, basins = constellation.kernel(role), EMPTY, Balance(EMPTY), []
    for _ in range(SLEEPS):
        ids = [constellation.encoder.encode(each) for each in _take(remaining, SLEEP_BYTES)]
        if not ids:
            return
        sent, books = _slept(constellation, kernel, known, books, ids)
        known = memory.merge([known, sent])
        basins.append(_place(constellation, ids))
        yield known, frechet_mean(np.stack(basins))


def _slept(constellation, kernel, known, books, ids):
    """What the packet says, and the books after it."""
    books = books.seen(memory.count(ids, 3))
    own = Kernel(kernel.state, (*kernel.memories, known), gate.prior(2 + len(kernel.memories)))
    chosen = select(books.residue, own)
    found, _ = crystal_codec.fit(
        chosen.crystals, chosen.ranking, vocab_size=constellation.coordizer.vocab_size, budget_bytes=CRYSTAL_BYTES
    )
    sent = as_memory(implied(found))
    return sent, books.told(sent)


def _place(constellation, ids):
    return frechet_mean(
        np.stack([constellation.basin(each) for each in ids]), np.array([float(len(each)) for each in ids])
    )


def _take(remaining, limit):
    taken, size = [], 0
    while size < limit and (each := next(remaining, None)) is not None:
        taken.append(each)
        size += len(each.encode())
    return taken


def _with(constellation, role, opened):
    """The constellation with opened domains. opened: (memory, basin) by name."""
    memories = {**constellation.memories, **{name: each[0] for name, each in opened.items()}}
    rows = tuple(map(tuple, gate.prior(3).tolist()))
    domains = {
        name: constellation.domains[role].model_copy(
            update={"name": name, "memories": (role, name), "basin": tuple(basin.tolist()), "gate": rows}
        )
        for name, (_, basin) in opened.items()
    }
    return replace(constellation, memories=memories, domains={**constellation.domains, **domains})


def _pair(constellation, role, grown, pair, sleeps):
    """Distance, the smaller read share, and what a merge costs the worse of two held-out texts, as a share."""
    halves = [grown[name][0][half] for name, half in pair]
    opened = [every[min(count, len(every)) - 1] for every, count in zip(halves, sleeps, strict=True)]
    both = _with(constellation, role, {"one": opened[0], "other": opened[1]})
    away = float(distance(opened[0][1], opened[1][1]))
    share = min(endings.read_share(both, "one", "other"), endings.read_share(both, "other", "one"))
    union = memory.merge([known for known, _ in opened])
    costs = [
        _bits(constellation, role, union, grown[name][1]) / _bits(constellation, role, known, grown[name][1]) - 1
        for (name, _), (known, _) in zip(pair, opened, strict=True)
        if grown[name][1]
    ]
    return away, share, max(costs, default=0.0)


_READ = {}


def _bits(constellation, role, known, passages):
    kernel = constellation.kernel(role)
    opened = Kernel(kernel.state, (*kernel.memories, known), gate.prior(3))
    bits = 0.0
    for each in passages:
        if (role, each) not in _READ:
            ids = constellation.encoder.encode(each)
            _READ[role, each] = ids, read(kernel, ids)
        ids, by_role = _READ[role, each]
        bits += float(reread(opened, ids, by_role).bits(opened.gate).sum())
    return bits


# At a role's place


def _at_home(constellation, role, texts) -> None:
    for name, (_, _, own) in SOURCES.items():
        opened = list(_sleeps(constellation, role, iter(texts[name])))
        found = {}
        for count in (1, 4):
            both = _with(constellation, role, {"one": opened[count - 1]})
            found[count] = endings.saved_share(both, "one")
        away = float(distance(opened[3][1], constellation.domains[role].basin_array))
        kind = "its own" if own == role else "other"
        _show(f"{role}, {name} ({kind})", found[4], "saved share", first=round(found[1], 3), rad=round(away, 3))


# Merged or not


def _merged_or_not(start, passages) -> None:
    owned = text.load(Path("data"))
    held = passages[:30]
    examiner = Examiner({**owned.held_out, "scripture": held})
    before = examiner.scores(bundle_parts.load(start))
    kept = endings.CONVERGED_RAD
    for case, rad in (("with endings", kept), ("control: without", 0.0)):
        endings.CONVERGED_RAD = rad
        parts = start
        for number, parts in enumerate(_rounds(start, owned, passages[30:]), 1):
            found = bundle_parts.load(parts)
            after = examiner.scores(found)
            worst = max(after[role].bits_per_byte / before[role].bits_per_byte - 1 for role in ROLES)
            opened = sorted(found.domains.keys() - set(ROLES))
            value = after["scripture"].bits_per_byte
            _show(
                f"{case}, round {number}", value, "bit/B", domains=len(opened), old_domains_worst_change=round(worst, 5)
            )
    endings.CONVERGED_RAD = kept


def _rounds(start, owned, passages):
    parts, remaining, books = start, iter(passages), [Balance(EMPTY)] * 2
    for number in range(ROUNDS):
        current = bundle_parts.load(parts)
        updates = []
        for edge in range(2):
            heirs = {former: each.name for each in current.domains.values() for former in each.formerly}
            name = heirs.get(f"d-{edge}", f"d-{edge}")
            kernel = current.kernel("heart")
            known = current.memories.get(name, EMPTY)
            read_now = _take(remaining, SLEEP_BYTES)
            ids = [current.encoder.encode(each) for each in read_now]
            sent, books[edge] = _slept(current, kernel, known, books[edge], ids)
            updates.append(_update(current, f"d-{edge}", name, ids, read_now, sent))
        refs = tuple(PacketRef(key=bytes([edge] * 8), epoch=1, sequence=number) for edge in range(2))
        batch = Batch(id=batch_id(refs), base_version=1, base_digest="0" * 64, domains=tuple(updates), packets=refs)
        made = consolidation.consolidate(parts, batch, replay=owned.replay, held_out=owned.held_out, steps=0, seed=0)
        parts = made.parts
        yield parts


def _update(current, name, heir, ids, read_now, sent):
    """Under the edge's own name, as a packet on its way has it."""
    tables = [crystal_codec.Order(t.keys, t.counts, t.contexts, t.totals) for t in sent.tables]
    found = crystal_codec.Crystals(tuple(tables))
    kernel = current.kernel(heir) if heir in current.domains else None
    readings = [read(kernel, each) for each in ids] if kernel else []
    sums = sum(gate.responsibilities(each.experts, each.buckets, kernel.gate) for each in readings) if kernel else None
    return DomainUpdate(
        name=name, kernel="heart", opened=heir not in current.domains, packets=1, tokens=sum(map(len, ids)),
        basin=to_float16(_place(current, ids)).tobytes(),
        crystals=crystal_codec.encode(found, current.coordizer.vocab_size),
        gate=b"" if sums is None else gate.to_bytes(sums),
        fresh_bytes=sum(len(each.encode()) for each in read_now),
        fresh_bits=float(sum(current.bits(each, "heart") for each in ids)),
    )  # fmt: skip


if __name__ == "__main__":
    main()
