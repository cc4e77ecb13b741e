"""Claim: what geometry in the merge score buys, count · exp(−λ·d), beyond what slightly shorter tokens buy.

Bits per byte of n-gram memories, one a role, on held-out documents, for each λ and seed, at 2,048 and 32,768 ids;
routing of held-out prompts by the basins of each λ. Every λ is held against plain BPE (λ = 0) and against two controls:
plain BPE with its vocabulary cut until its tokens are as short (the last merges left out), and the same λ with the
bytes' first basins dealt to other bytes, so that the score is as uneven and means nothing. Differences come with a
95 % interval by paired bootstrap over documents.

    qig corpus fetch && qig corpus full
    python benchmarks/coordizer_lambda.py [--corpora FOLDER]        about five minutes
"""

import argparse
import json
from pathlib import Path

import numpy as np
from coordizer import SIZES, nearest, prompts_of

from common.constants import ROLES
from common.coordizer import train as train_
from common.coordizer.artifacts import FIRST_MERGE, prefix
from common.coordizer.build import build
from common.coordizer.encode import Encoder
from common.coordizer.place import bearings, text_basin
from common.coordizer.words import read_words
from common.kernels import memory
from services.trainer.corpora import selection

CLAIM = "geometry in the merge score is worth its bytes per token"
VOCABS = (2048, 32768)
TRIALS = [(0.25, 0), (0.5, 0), (0.5, 1), (0.5, 2), (1.0, 0)]
DOCUMENTS = 400  # held out, of each role at most
RESAMPLES = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, default=Path(".qig/corpora/full"))
    corpora = parser.parse_args().corpora
    documents = [(role, row.text) for role, row in selection.select(selection.load(corpora, part="train"))]
    held_out = selection.load(corpora, part="held_out")
    texts = {role: [row.text for row in rows[:: -(-len(rows) // DOCUMENTS)]] for role, rows in held_out.items()}
    scale = Scale(documents, texts)
    for vocab in VOCABS:
        _compare(scale, vocab)
    _route(documents, prompts_of(held_out))


class Scale:
    """Weighs merges on one corpus."""

    def __init__(self, documents, held_out):
        self.words = read_words(text for _, text in documents)
        self.owned = {role: [text for owner, text in documents if owner == role] for role in ROLES}
        self.held_out = held_out
        self.sizes = {role: np.array([len(text.encode()) for text in texts]) for role, texts in held_out.items()}

    def merges(self, vocab, lam, seed=0):
        """What training learns with this λ."""
        return train_.train_words(self.words, vocab_size=vocab, lam=lam, seed=seed).merges

    def bytes_per_token(self, merges):
        """Of the held-out documents."""
        encoder = Encoder(merges)
        tokens = sum(len(encoder.encode(text)) for texts in self.held_out.values() for text in texts)
        return sum(size.sum() for size in self.sizes.values()) / tokens

    def bits(self, merges):
        """Code length of each held-out document under its role's memory, by role."""
        encoder = Encoder(merges)
        floor = np.full(encoder.vocab_size, 1.0 / encoder.vocab_size)
        found = {}
        for role, texts in self.owned.items():
            counted = memory.count([encoder.encode(text) for text in texts])
            predicted = [memory.predict(counted, encoder.encode(text), floor) for text in self.held_out[role]]
            found[role] = np.array([-np.log2(each.probability).sum() for each in predicted])
        return found

    def bits_per_byte(self, bits):
        """Mean of roles."""
        return np.mean([bits[role].sum() / self.sizes[role].sum() for role in ROLES])

    def change(self, before, after):
        """Per cent of bits, mean of roles: the figure, and its 95 % interval over documents."""
        rng = np.random.default_rng(0)
        drawn = []
        for _ in range(RESAMPLES):
            rows = {role: rng.integers(0, len(size), len(size)) for role, size in self.sizes.items()}
            drawn.append(np.mean([after[r][rows[r]].sum() / before[r][rows[r]].sum() for r in ROLES]))
        whole = np.mean([after[r].sum() / before[r].sum() for r in ROLES])
        return [round(100 * (float(x) - 1), 3) for x in (whole, *np.quantile(drawn, (0.025, 0.975)))]

    def cut(self, merges, bytes_per_token):
        """The first merges, so many that tokens are as long."""
        low, high = 0, len(merges)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.bytes_per_token(merges[:middle]) < bytes_per_token else (low, middle)
        return merges[:high]


def _compare(scale, vocab):
    plain = scale.merges(vocab, 0.0)
    before = scale.bits(plain)
    _show(f"{vocab} ids, lambda 0, bytes a token", scale.bytes_per_token(plain), "B")
    _show(f"{vocab} ids, lambda 0, memories", scale.bits_per_byte(before), "bit/B")
    trials = [(f"lambda {lam}, seed {seed}", scale.merges(vocab, lam, seed)) for lam, seed in TRIALS]
    for name, merges in [*trials, *_dealt(scale, vocab)]:
        bits, length = scale.bits(merges), scale.bytes_per_token(merges)
        _show(f"{vocab} ids, {name}, bytes a token", length, "B")
        _show(f"{vocab} ids, {name}, memories", scale.bits_per_byte(bits), "bit/B")
        cut = scale.cut(plain, length)
        for peer, other in (("lambda 0", before), (f"lambda 0 cut to {FIRST_MERGE + len(cut)} ids", scale.bits(cut))):
            value, low, high = scale.change(other, bits)
            _show(f"{vocab} ids, {name}, memories, change", value, "%", peer=peer, low=low, high=high)


def _dealt(scale, vocab):
    """λ = 0.5 with basins that belong to other bytes."""
    learned = train_.byte_basins
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(256)
        train_.byte_basins = lambda *some, order=order, **named: learned(*some, **named)[order]
        yield f"lambda 0.5, basins of other bytes, deal {seed}", scale.merges(vocab, 0.5)
    train_.byte_basins = learned


def _route(documents, prompts):
    for lam in (0.0, 0.25, 0.5, 1.0):
        whole = build(documents, vocab_size=VOCABS[-1], lam=lam)
        for vocab in VOCABS:
            made = prefix(whole, vocab)
            shares, _ = nearest(Encoder(made), bearings(made.basins), documents, prompts, text_basin)
            for size in SIZES:
                _show(f"first {vocab} ids, lambda {lam}, routing at {size} B", shares[size], "share")


def _show(case, value, unit, **more):
    print(json.dumps({"claim": CLAIM, "case": case, "value": round(float(value), 4), "unit": unit, **more}), flush=True)


if __name__ == "__main__":
    main()
