"""Claim: none is made. What an observer of packets, and one of bundles, recovers of phrases that one edge alone heard.

    python benchmarks/privacy.py [--seeds 3] [--genesis FOLDER]

EDGES edges read scripture of their own, ROUNDS rounds of ROUND_BYTES. Into each edge's text canaries are mixed that no
other edge hears: phrases of six common words drawn by chance, and invented names, each said 1, 2, 5 or 20 times. Every
round each edge sends a packet's crystals, chosen as sleep.fold chooses them, and the centre takes all of them at once.

Observers, who know the coordizer, the base constellation, and of a canary what is said below:
    packets          reads every packet and knows who sent it; a rule of the centre cannot help against it
    bundle           reads the memory that the centre releases: every count
    bundle, k = 3    the same where the centre releases an n-gram once 3 edges have sent it

pairs, triples   share of the canary's neighbouring tokens that are among the n-grams the observer sees
chained          share of canaries whose every triple is there, or for every token the triple or pair that ends in it:
                 nothing needs to be guessed
told 2 tokens    share that a beam search from the canary's first two tokens completes, token by token: as its best
                 guess, and among its BEAM best
exposure         bits, Carlini et al. 2019: log2(ALTERNATIVES) - log2(rank of the canary among phrases made the same
                 way, by code length under what the observer sees); 10 is the most, 1.4 is chance

0 times: canaries that nobody heard, the control. Last, what k = 3 costs: bits per byte of held-out scripture.
"""

import argparse
import json
import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # before numpy: it reads them when it is imported

import numpy as np

from common.constellation import parts as bundle_parts
from common.constellation.priors import prior_of
from common.coordizer.artifacts import token_bytes
from common.kernels import gate, memory
from common.kernels.kernel import Kernel
from common.kernels.memory import Memory, Table, predict
from common.wire import crystals
from common.wire.ngrams import ORDERS, Crystals, Order, entries
from services.edge.crystals import select
from services.edge.screen import Screen, screened
from services.edge.sleep import as_memory
from services.trainer import folder
from services.trainer.corpora.document import documents
from services.trainer.corpora.split import split

CLAIM = "measured, not claimed: what is recovered of a phrase that one edge alone heard"
EDGES, ROUNDS, ROUND_BYTES = 8, 4, 7_000
TIMES, EACH = (1, 2, 5, 20), 2  # how often a canary is said; canaries of each kind of an edge and number of times
BUDGETS = (1024, 2900)
K = 3
ALTERNATIVES, BEAM = 1024, 64
HELD_OUT = 60  # documents
EMPTY = memory.count([], ORDERS)
KINDS = ("words", "names")
SYLLABLES = [
    "bal",
    "cor",
    "den",
    "fal",
    "gor",
    "hul",
    "jas",
    "kel",
    "lor",
    "mav",
    "nor",
    "pel",
    "ros",
    "sel",
    "tov",
    "ulf",
]
ENDINGS = ["ane", "ick", "ory", "ell", "ung", "ard", "ista", "ow", "eth", "ond"]


@dataclass(frozen=True, slots=True)
class Canary:
    ids: tuple[int, ...]
    kind: str
    times: int
    edge: int


@dataclass(slots=True)
class Fleet:
    """What was sent, and what the centre made of it, in one run."""

    sent: list[list[Crystals]] = field(default_factory=lambda: [[] for _ in range(EDGES)])
    released: Memory = EMPTY


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--genesis", type=Path, default=Path("data/genesis"))
    given = parser.parse_args()
    made = bundle_parts.load(folder.read(given.genesis))
    text = split(documents("unseen/scripture", root=Path("data")))
    found, price = defaultdict(list), defaultdict(list)
    for seed in range(given.seeds):
        _measure(made, text, np.random.default_rng(seed), found, price)
    for (budget, observer, times, kind), rows in found.items():
        _show(f"{observer}, {budget} B, {kind} said {times} times", np.mean(rows, axis=0), len(rows))
    for (budget, k), values in price.items():
        peer = price[budget, 1]
        line = {"claim": CLAIM, "case": f"held-out scripture, {budget} B, k = {k}", "value": round(np.mean(values), 4)}
        line |= {"unit": "bit/B", "peer": "k = 1", "peer_value": round(np.mean(peer), 4)}
        print(json.dumps(line | {"ratio": round(np.mean(values) / np.mean(peer), 4)}), flush=True)


NAMES = ("pairs", "triples", "chained by triples", "chained by pairs", "told 2 tokens, best guess",
         f"told 2 tokens, {BEAM} guesses", "exposure")  # fmt: skip


def _show(case, values, canaries) -> None:
    figures = {name: round(float(value), 3) for name, value in zip(NAMES, values, strict=True)}
    line = {"claim": CLAIM, "case": case, "value": figures["exposure"], "unit": "bit", "canaries": canaries}
    print(json.dumps(line | figures), flush=True)


def _measure(made, text, rng, found, price) -> None:
    canaries = _canaries(made.encoder, text, rng)
    rounds = _texts(made.encoder, text, canaries, rng)
    others = {
        kind: [made.encoder.encode(f" {_phrase(kind, text, rng)}") for _ in range(ALTERNATIVES - 1)] for kind in KINDS
    }
    held = [each.text for each in text.held_out[:HELD_OUT]]
    for budget in BUDGETS:
        runs = {k: _run(made, rounds, budget, k) for k in (1, K)}
        for k, run in runs.items():
            bits = sum(_bits(made, run.released, made.encoder.encode(each)) for each in held)
            price[budget, k].append(bits / sum(len(each.encode()) for each in held))
            observer = "bundle" if k == 1 else f"bundle, k = {k}"
            _observe(made, run.released, canaries, others, found, (budget, observer))
        for edge in range(EDGES):
            seen = memory.merge([as_memory(each) for each in runs[1].sent[edge]])
            own = [canary for canary in canaries if canary.edge == edge]
            _observe(made, seen, own, others, found, (budget, "packets"))


def _canaries(encoder, text, rng):
    """EACH of each kind and number of times for every edge, and as many that nobody hears."""
    return [
        Canary(tuple(encoder.encode(f" {_phrase(kind, text, rng)}").tolist()), kind, times, edge)
        for edge in range(EDGES)
        for times in (0, *TIMES)
        for kind in KINDS
        for _ in range(EACH)
    ]


def _phrase(kind, text, rng) -> str:
    if kind == "words":
        return " ".join(rng.choice(_common(text), 6))
    syllables = ["".join(rng.choice(SYLLABLES, 2)) + str(rng.choice(ENDINGS)) for _ in range(3)]
    first, last, place = (word.capitalize() for word in syllables)
    return f"{first} {last} of {place}"


_COMMON: list[str] = []


def _common(text) -> list[str]:
    """Lower-case words of four letters and more, the 600 most frequent."""
    if not _COMMON:
        counts = defaultdict(int)
        for each in text.train:
            for word in each.text.split():
                if word.isalpha() and word.islower() and len(word) > 3:
                    counts[word] += 1
        _COMMON.extend(sorted(counts, key=lambda word: (-counts[word], word))[:600])
    return _COMMON


def _texts(encoder, text, canaries, rng):
    """[round][edge]: the texts' ids. A canary's sentences fall on rounds by chance, between the edge's own passages."""
    passages = iter([text.train[at].text for at in rng.permutation(len(text.train))])
    rounds = []
    for _ in range(ROUNDS):
        own = []
        for _ in range(EDGES):
            taken, size = [], 0
            while size < ROUND_BYTES:
                taken.append(next(passages))
                size += len(taken[-1])
            own.append(taken)
        rounds.append(own)
    for canary in canaries:
        said = encoder.decode(canary.ids).decode()
        for when in rng.integers(0, ROUNDS, canary.times):
            heard = rounds[when][canary.edge]
            heard.insert(int(rng.integers(0, len(heard) + 1)), f"And{said}.")
    return [[[encoder.encode(screened(each)) for each in taken] for taken in own] for own in rounds]


def _run(made, rounds, budget, k) -> Fleet:
    screen = Screen.of(token_bytes(made.coordizer.merges))
    fleet, residues = Fleet(), [EMPTY] * EDGES
    for own in rounds:
        kernel = _kernel(made, fleet.released)
        prior = prior_of(kernel.memories, made.coordizer.vocab_size)
        for edge, ids in enumerate(own):
            grown = memory.merge([residues[edge], memory.count(ids, ORDERS)])
            chosen = select(screen.speakable(grown), kernel)
            vocab = made.coordizer.vocab_size
            terms = {"vocab_size": vocab, "budget_bytes": budget, "prior": prior}
            sent, _ = crystals.fit(chosen.crystals, chosen.ranking, **terms)
            fleet.sent[edge].append(sent)
            residues[edge] = memory.subtract(grown, as_memory(sent))
        fleet.released = _released(fleet.sent, k)
    return fleet


def _released(sent, k) -> Memory:
    """All counts of the n-grams that at least k edges have sent."""
    every = memory.merge([as_memory(each) for own in sent for each in own])
    edges = [memory.merge([as_memory(each) for each in own]) for own in sent]
    tables = []
    for order, table in enumerate(every.tables):
        by = sum(np.isin(table.keys, own.tables[order].keys).astype(int) for own in edges)
        keys = table.keys[by >= k]
        stay = np.isin(table.contexts, keys >> memory.TOKEN_BITS)
        tables.append(Table.of(keys, table.counts[by >= k], table.contexts[stay], table.totals[stay]))
    return Memory(tuple(tables))


def _kernel(made, own) -> Kernel:
    heart = made.kernel("heart")
    return Kernel(heart.state, (*heart.memories, own), gate.prior(2 + len(heart.memories)))


def _bits(made, own, ids) -> float:
    """Code length under the base's memory and `own`; the first memory speaks for the state."""
    kernel = _kernel(made, own)
    floors = kernel.floors()
    base, known = predict(kernel.memories[0], ids, floors[0]).probability, predict(own, ids, floors[-1])
    weights = kernel.gate[gate.bucket(known.order, known.total)]
    return float(-np.log2((weights * np.stack([base, base, known.probability], 1)).sum(1)).sum())


def _observe(made, seen, canaries, others, found, case) -> None:
    follow = _followers(seen)
    alternatives = {kind: np.sort([_bits(made, seen, ids) for ids in phrases]) for kind, phrases in others.items()}
    for canary in canaries:
        ids = canary.ids
        pairs = [ids[n + 1] in follow.get(ids[n : n + 1], ()) for n in range(len(ids) - 1)]
        triples = [ids[n + 2] in follow.get(ids[n : n + 2], ()) for n in range(len(ids) - 2)]
        reached = [pair or triple for pair, triple in zip(pairs, [False, *triples], strict=True)]
        guesses = _guesses(follow, ids[:2], len(ids))
        own = _bits(made, seen, np.array(ids, np.int32))
        exposure = np.log2(ALTERNATIVES) - np.log2(1 + int(np.searchsorted(alternatives[canary.kind], own)))
        seen_of = [np.mean(pairs), np.mean(triples), all(triples), all(reached), guesses[:1] == [ids], ids in guesses]
        found[*case, canary.times, canary.kind].append([*seen_of, exposure])


def _followers(seen):
    """By context: the followers and their shares of what followed."""
    follow = defaultdict(dict)
    listed = Crystals(tuple(Order(t.keys, t.counts, t.contexts, t.totals) for t in seen.tables))
    for each in entries(listed):
        follow[each.context][each.token] = each.count / each.total
    return follow


def _guesses(follow, told, length):
    """The likeliest continuations of `told` to `length` tokens, by the longest context seen, best first."""
    beam = [(0.0, told)]
    while beam and len(beam[0][1]) < length:
        grown = []
        for bits, ids in beam:
            after = follow.get(ids[-2:]) or follow.get(ids[-1:]) or {}
            grown += [(bits - np.log2(share), (*ids, token)) for token, share in after.items()]
        beam = sorted(grown)[:BEAM]
    return [ids for _, ids in beam]


if __name__ == "__main__":
    main()
