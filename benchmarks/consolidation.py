"""Claim: training the state on a batch beats merging its memories alone, and forgets at most 1 % of any old domain.

Two edges, in process, read fresh scripture, one packet each a batch, ten batches one after the other, each on the
bundle that the last one made. Arms: merging alone; state training on replayed text, on dreams, and on what teachers
(the merged kernels) say of the replayed text, and each of these alone; and the control, no packets at all. The
trainer's guard looks at validation text, so that the held-out text that is measured, routed, was chosen by nothing.
Size tiny, 3 seeds: of the shuffle and of training.

    python benchmarks/consolidation.py GENESIS [--seeds 3] [--batches 10] [--steps 30] [--rate .01] [--arms NAME ...]
                                       GENESIS: a folder, made by `qig train --size tiny --out GENESIS`
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from learning import DATA, EDGES, EMPTY, NAME, batch_of, kernel_of, take

from common.constants import ROLES
from common.constellation import parts as bundle_parts
from common.constellation.priors import prior_of
from common.kernels import memory
from common.kernels.blend import mix
from common.kernels.spec import ORDERS
from common.wire import crystals as crystal_codec
from common.wire.ngrams import implied
from services.edge.crystals import select
from services.edge.sleep import as_memory
from services.trainer import dreams, folder, text
from services.trainer.consolidate import consolidate
from services.trainer.corpora.document import documents
from services.trainer.corpora.split import split
from services.trainer.evaluate import Examiner

CLAIM = "training the state on a batch beats merging alone, and no old domain loses 1 % in ten batches"
BYTES, BUDGET = 11_000, 1024  # of fresh text and of crystals, an edge and batch
GUARD_PASSAGES = 6


def main() -> None:
    asked = _asked()
    start = folder.read(asked.genesis)
    if start is None:
        sys.exit(f"no genesis in {asked.genesis}: `qig train --size tiny --out {asked.genesis}`")
    owned, unseen = text.load(DATA), split(documents("unseen/scripture", root=DATA))
    guard = {role: [each.text for each in owned.corpora[role].validation[:GUARD_PASSAGES]] for role in ROLES}
    examiner = Examiner({**owned.held_out, NAME: [each.text for each in unseen.held_out]})
    before = examiner.scores(bundle_parts.load(start))
    _show("no packets", None, [before[NAME].bits_per_byte], before, before, 0)
    for seed in range(asked.seeds):
        passages = [each.text for each in unseen.train]
        np.random.default_rng(seed).shuffle(passages)
        for arm in asked.arms:
            run = Run(start, owned.replay, guard, passages, seed, asked)
            curve, scores = [], before
            for parts in run.batches(arm):
                scores = examiner.scores(bundle_parts.load(parts))
                curve.append(scores[NAME].bits_per_byte)
            _show(arm, seed, curve, before, scores, run.kept)


def _asked():
    asked = argparse.ArgumentParser()
    asked.add_argument("genesis", type=Path)
    asked.add_argument("--seeds", type=int, default=3)
    asked.add_argument("--batches", type=int, default=10)
    asked.add_argument("--steps", type=int, default=30)
    asked.add_argument("--rate", type=float, default=dreams.CONSOLIDATION_RATE)
    asked.add_argument("--arms", nargs="+", default=[*LESSONS], choices=[*LESSONS])
    return asked.parse_args()


def _show(arm, seed, curve, before, after, kept) -> None:
    changes = {role: after[role].bits_per_byte / before[role].bits_per_byte - 1 for role in ROLES}
    line = {"claim": CLAIM, "case": arm, "seed": seed, "value": round(curve[-1], 4), "unit": "bit/B"}
    line |= {"peer": "no packets", "peer_value": round(before[NAME].bits_per_byte, 4)}
    line |= {"ratio": round(curve[-1] / before[NAME].bits_per_byte, 4), "curve": np.round(curve, 4).tolist()}
    line |= {"states_kept": kept, "old_domains_worst_change": round(max(changes.values()), 5)}
    print(json.dumps(line | {"old_domains": {r: round(c, 5) for r, c in changes.items()}}), flush=True)


# Arms


def replay_alone(merged, domain, replay, steps, rng):
    return dreams.spoken(dreams.replayed(merged, merged.domains[domain].role, replay, steps, rng))


def dreams_alone(merged, domain, _replay, _steps, rng):
    return dreams.spoken(dreams.dream(merged, domain, rng))


def teachers_alone(merged, domain, replay, steps, rng):
    known = replay_alone(merged, domain, replay, steps, rng)
    return taught(merged.kernel(merged.domains[domain].role), known.text, rng)


def all_three(merged, domain, replay, steps, rng):
    known, dreamt = teachers_alone(merged, domain, replay, steps, rng), dreams_alone(merged, domain, replay, steps, rng)
    return dreams.joined([known, *[dreamt] * max(1, len(known.text) // (dreams.REPLAY_SHARE * len(dreamt.text)))])


def taught(kernel, text, rng):
    """A text after each place of which a kernel, state and memories, draws the token that it expects there: one drawn
    token asks for what the whole distribution asks for, in expectation (Hinton, Vinyals & Dean 2015).
    """
    context, p = kernel.state.spec.context, np.empty(kernel.state.spec.vocab)
    uniforms, following = rng.random(len(text)), np.empty(len(text), np.int32)
    for start in range(0, len(text), context):
        hidden, basins = kernel.state.read(text[None, start : start + context])
        for place, logits in enumerate(kernel.state.speak(hidden[0], basins[0]), start):
            p[:] = 0.0
            before = text[max(0, place + 2 - ORDERS) : place + 1]
            mix(logits, kernel.addresses, kernel.bases, kernel.gate, before, 1.0, p)
            summed = np.cumsum(p)
            following[place] = min(int(np.searchsorted(summed, uniforms[place] * summed[-1], "right")), len(p) - 1)
    return dreams.Lesson(text, following)


LESSONS = {
    "merging alone": None,
    "replay, dreams and teachers": all_three,
    "replay and dreams": dreams.lesson,
    "replay alone": replay_alone,
    "dreams alone": dreams_alone,
    "teachers alone": teachers_alone,
}


@dataclass
class Run:
    """One arm of one seed. kept: trained states that the trainer's guard let through."""

    parts: dict
    replay: dict
    guard: dict
    passages: list
    seed: int
    asked: argparse.Namespace
    kept: int = 0

    def batches(self, arm):
        """The parts after each batch."""
        dreams.CONSOLIDATION_RATE = self.asked.rate
        dreams.lesson, steps = LESSONS[arm], 0 if LESSONS[arm] is None else self.asked.steps
        remaining, residues = iter(self.passages), [EMPTY] * EDGES
        for number in range(self.asked.batches):
            current = bundle_parts.load(self.parts)
            batch = self._batch(number, current, remaining, residues)
            given = {"replay": self.replay, "held_out": self.guard, "steps": steps, "seed": self.seed}
            made = consolidate(self.parts, batch, **given)
            self.parts = made.parts
            self.kept += bool(steps) and not any(word.startswith("state-dropped") for word in made.guards)
            yield self.parts

    def _batch(self, number, current, remaining, residues):
        texts = [take(remaining, BYTES) for _ in range(EDGES)]
        ids = [[current.encoder.encode(each) for each in own] for own in texts]
        kernel, sent = kernel_of(current), []
        for edge in range(EDGES):
            residues[edge] = memory.merge([residues[edge], memory.count(ids[edge], 3)])
            chosen, vocab = select(residues[edge], kernel), current.coordizer.vocab_size
            terms = {"vocab_size": vocab, "budget_bytes": BUDGET, "prior": prior_of(kernel.memories, vocab)}
            found, _ = crystal_codec.fit(chosen.crystals, chosen.ranking, **terms)
            residues[edge] = memory.subtract(residues[edge], as_memory(implied(found)))
            sent.append(implied(found))
        return batch_of(number, current, ids, texts, sent)


if __name__ == "__main__":
    main()
