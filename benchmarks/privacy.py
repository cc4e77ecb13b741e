"""Claim: none is made. What an observer of packets, and one of bundles, recovers of phrases that one edge alone heard.

    python benchmarks/privacy.py [--seeds 3] [--genesis FOLDER]

EDGES edges read scripture of their own, ROUNDS rounds of ROUND_BYTES. Into each edge's text canaries are mixed that no
other edge hears: phrases of six common words drawn by chance, and invented names, each said 1, 2, 5 or 20 times. Every
round each edge sends what telling.py makes of its residue, and the centre takes all of it at once. In private mode and
its strict form, what 3 edges have mentioned is known to all before the next round.

Observers, who know the coordizer, the base constellation, and of a canary what is said below:
    packets          reads every packet and knows who sent it; a rule of the centre cannot help against it
    bundle           reads the memory that the centre releases: every count
    bundle, k = 3    the same where the centre releases an n-gram once 3 edges have sent it
    private, strict  packets, of edges in private mode, without the secret that edges share
    ... and secret   the same with the secret, as a hostile edge that helps the centre has it: a hash tells what was
                     guessed; every n-gram of a canary is looked up, and a search tries every token of the vocabulary

pairs, triples   share of the canary's neighbouring tokens that are among the n-grams the observer sees
chained          share of canaries whose every triple is there, or for every token the triple or pair that ends in it:
                 nothing needs to be guessed
told 2 tokens    share that a beam search from the canary's first two tokens completes, token by token: as its best
                 guess, and among its BEAM best
exposure         bits, Carlini et al. 2019: log2(ALTERNATIVES) - log2(rank of the canary among phrases made the same
                 way, by code length under what the observer sees); 10 is the most, 1.4 is chance

0 times: canaries that nobody heard, the control. "on 3 edges": canaries that three edges hear, each said so often, and
that private mode is to let through. Last, what k = 3 at the centre costs: bits per byte of held-out scripture. What
private mode costs is benchmarks/private.py's.
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
from common.wire.mentions import NO_HASHES, Hashes, mention
from common.wire.ngrams import ORDERS, Crystals, Order, entries, implied
from services.aggregator.tally import Tally, tally
from services.edge import balance
from services.edge.mentions import Private, decoys
from services.edge.screen import screened
from services.edge.sleep import as_memory
from services.edge.telling import tell
from services.trainer import folder
from services.trainer.corpora.document import documents
from services.trainer.corpora.split import split

CLAIM = "measured, not claimed: what is recovered of a phrase that one edge alone heard"
EDGES, ROUNDS, ROUND_BYTES = 8, 4, 7_000
TIMES, EACH = (1, 2, 5, 20), 2  # how often a canary is said; canaries of each kind of an edge and number of times
BUDGETS = (1024, 2900)
K = 3
SHARED, SHARED_TIMES = 8, 5  # canaries of each kind that K edges hear, and how often each hears them
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


MODES = ("off", "on", "strict")
SECRET = bytes(range(32))
KEYS = [bytes([edge]) * 8 for edge in range(EDGES)]
NODES = {key: key.hex() for key in KEYS}


@dataclass(frozen=True, slots=True)
class Canary:
    """edges: who hear it, each `times` times."""

    ids: tuple[int, ...]
    kind: str
    times: int
    edges: tuple[int, ...]


@dataclass(slots=True)
class Fleet:
    """What was sent and mentioned, and what the centre made of it, in one run. sizes: of crystals and mentions, bytes,
    a packet after the other.
    """

    sent: list[list[Crystals]] = field(default_factory=lambda: [[] for _ in range(EDGES)])
    mentioned: list[Hashes] = field(default_factory=lambda: [NO_HASHES] * EDGES)
    released: Memory = EMPTY
    sizes: list[tuple[int, int]] = field(default_factory=list)


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
    for (budget, observer, said, kind), rows in found.items():
        _show(f"{observer}, {budget} B, {kind} said {said}", np.mean(rows, axis=0), len(rows))
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
    rounds = texts(made.encoder, text, canaries, rng)
    others = {
        kind: [made.encoder.encode(f" {_phrase(kind, text, rng)}") for _ in range(ALTERNATIVES - 1)] for kind in KINDS
    }
    held = [each.text for each in text.held_out[:HELD_OUT]]
    for budget in BUDGETS:
        for mode in MODES:
            runs = {k: run(made, rounds, budget, k, mode) for k in ((1, K) if mode == "off" else (1,))}
            for k, done in runs.items() if mode == "off" else ():
                price[budget, k].append(bits_per_byte(made, done.released, held))
                observer = "bundle" if k == 1 else f"bundle, k = {k}"
                _observe(made, done.released, canaries, others, found, (budget, observer))
            for edge in range(EDGES):
                seen = memory.merge([as_memory(each) for each in runs[1].sent[edge]])
                own = [canary for canary in canaries if edge in canary.edges]
                _observe(made, seen, own, others, found, (budget, "packets" if mode == "off" else mode))
                if mode != "off":
                    lens = Lens(token_bytes(made.coordizer.merges), runs[1].mentioned[edge])
                    _observe(made, seen, own, others, found, (budget, f"{mode} and secret"), lens)


def _canaries(encoder, text, rng):
    """EACH of each kind and number of times for every edge, and as many that nobody hears; of each kind some that three
    edges hear.
    """
    own = [
        Canary(tuple(encoder.encode(f" {_phrase(kind, text, rng)}").tolist()), kind, times, (edge,))
        for edge in range(EDGES)
        for times in (0, *TIMES)
        for kind in KINDS
        for _ in range(EACH)
    ]
    shared = [
        Canary(tuple(encoder.encode(f" {_phrase(kind, text, rng)}").tolist()), kind, SHARED_TIMES,
               tuple(rng.choice(EDGES, K, replace=False).tolist()))
        for kind in KINDS
        for _ in range(SHARED)
    ]  # fmt: skip
    return own + shared


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


def texts(encoder, text, canaries, rng):
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
        for edge in canary.edges:
            for when in rng.integers(0, ROUNDS, canary.times):
                heard = rounds[when][edge]
                heard.insert(int(rng.integers(0, len(heard) + 1)), f"And{said}.")
    return [[[encoder.encode(screened(each)) for each in taken] for taken in own] for own in rounds]


def run(made, rounds, budget, k, mode) -> Fleet:
    """The rounds: every edge tells, the centre releases what `k` edges have sent and tells what K have mentioned."""
    fleet, books = Fleet(), [balance.EMPTY] * EDGES
    counts, known, waiting = Tally({}, {}), NO_HASHES, [NO_HASHES] * EDGES
    for number, own in enumerate(rounds):
        kernel, brought = _kernel(made, fleet.released), []
        prior = prior_of(kernel.memories, made.coordizer.vocab_size)
        for edge, ids in enumerate(own):
            grown = books[edge].seen(memory.count(ids, ORDERS))
            own_decoys = decoys(bytes([edge]) * 32, [number])
            private = Private(SECRET, known, waiting[edge], strict=mode == "strict", decoys=own_decoys)
            private = None if mode == "off" else private
            told = tell(
                made.coordizer, grown.residue, kernel, EMPTY, budget_bytes=budget, turn=edge + number, prior=prior,
                private=private,
            )  # fmt: skip
            sent = implied(told.sent)
            fleet.sent[edge].append(sent)
            fleet.mentioned[edge] = np.union1d(fleet.mentioned[edge], told.mentioned)
            fleet.sizes.append((len(told.crystals), len(told.mentions)))
            waiting[edge] = np.union1d(waiting[edge], told.mentioned)
            brought.append((KEYS[edge], told.mentioned))
            books[edge] = grown.told(as_memory(sent))
        heard = tally(counts, brought, nodes=NODES, edges=K)
        counts = Tally({**counts.mentioned, **heard.mentioned}, {**counts.common, number: heard.common})
        known = np.union1d(known, heard.told)
        waiting = [np.setdiff1d(each, known) for each in waiting]
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


def bits_per_byte(made, released, texts) -> float:
    """Of texts, by the base and what was released."""
    bits = sum(_bits(made, released, made.encoder.encode(each)) for each in texts)
    return bits / sum(len(each.encode()) for each in texts)


class Lens:
    """What one who has the secret finds among an edge's mentions, by trying."""

    def __init__(self, tokens, hashes) -> None:
        self._tokens, self._hashes, self._after = tokens, hashes, {}

    def after(self, context) -> dict[int, float]:
        """The tokens that the edge mentioned after this context, each as likely."""
        if context not in self._after:
            before = [self._tokens[token] for token in context]
            tried = mention(SECRET, "ngram", [[*before, token] for token in self._tokens])
            found = np.flatnonzero(np.isin(tried, self._hashes)).tolist()
            self._after[context] = dict.fromkeys(found, 1.0 / max(len(found), 1))
        return self._after[context]


def _observe(made, seen, canaries, others, found, case, lens=None) -> None:
    """lens: of an observer who has the secret."""
    follow = _Looking(_followers(seen), lens) if lens else _followers(seen)
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
        said = (
            f"{canary.times} times" if len(canary.edges) == 1 else f"{canary.times} times on {len(canary.edges)} edges"
        )
        found[*case, said, canary.kind].append([*seen_of, exposure])


def _followers(seen):
    """By context: the followers and their shares of what followed."""
    follow = defaultdict(dict)
    listed = Crystals(tuple(Order(t.keys, t.counts, t.contexts, t.totals) for t in seen.tables))
    for each in entries(listed):
        follow[each.context][each.token] = each.count / each.total
    return follow


class _Looking:
    """Followers as `_followers` gives them, and what a lens finds."""

    def __init__(self, follow, lens) -> None:
        self._follow, self._lens = follow, lens

    def get(self, context, default=None):
        return {**self._lens.after(context), **self._follow.get(context, {})} or default


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
