"""Claim: an edge's own answers profit at once from what it reads, and the domains that it knew read no worse.

One edge reads 60 KB of unseen scripture in steps of 4 KB. Each step is read as prompts are before it is counted, by the
bundle alone, by the bundle with the edge's local memory, and with the gate learned here too. After the last step the
four old domains' held-out text is read in the same way. Controls: without a domain of its own for new territory (its
counts in the nearest role's memory); with that domain open to every text that it is nearest to; with only what was read
at least twice, as packets have it.

    python benchmarks/local.py [FOLDER OF A GENESIS]        default data/genesis
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common.constellation import parts as bundle_parts
from common.constellation.constellation import MARGIN_MIN_RAD, Constellation
from common.geometry.means import frechet_mean
from common.kernels import gate
from common.kernels.kernel import Reading, read, reread
from common.kernels.memory import Ids, Memory, Table, count, merge
from services.edge.local import TERRITORY, absorb, open_new, tune, within
from services.edge.territory import territory
from services.trainer import folder, text
from services.trainer.corpora.document import documents
from services.trainer.corpora.split import split

CLAIM = "what an edge reads lowers the bits per byte of its next text at once, and raises no old domain's by 0.01"
DATA = Path("data")
STEPS, STEP_BYTES, SEEDS = 15, 4096, 3
EMPTY = count([], 3)
ALONE = "bundle alone"


@dataclass(frozen=True, slots=True)
class Way:
    """How an edge learns. own: new territory has a domain; ruled: only text of its role goes there; least: the counts
    that are used.
    """

    learns: bool = True
    gated: bool = True
    own: bool = True
    ruled: bool = True
    least: int = 1


WAYS = {
    ALONE: Way(learns=False),
    "local memory": Way(gated=False),
    "local memory and gate": Way(),
    "control: no domain for new territory": Way(gated=False, own=False),
    "control: new territory open to every text": Way(ruled=False),
    "control: of what was read twice": Way(least=2),
}


@dataclass(frozen=True, slots=True, eq=False)
class Passage:
    """A text, and what takes time to know of it. read_by: what each role's kernel reads, where it was asked."""

    ids: Ids
    size_bytes: int
    basin: np.ndarray
    domain: str | None
    read_by: dict[str, Reading]


@dataclass(slots=True)
class Edge:
    """What an edge has learned, its record aside."""

    way: Way
    bundle: Constellation
    local: Constellation
    residues: dict = field(default_factory=dict)
    tuned: dict = field(default_factory=dict)
    basins: list = field(default_factory=list)

    def bits_per_byte(self, passages) -> float:
        return sum(self._bits(each) for each in passages) / sum(each.size_bytes for each in passages)

    def learn(self, step) -> None:
        """What a sleep does, its packet aside."""
        for domain in sorted({each.domain for each in step}, key=str):
            self._learn(domain, [each for each in step if each.domain == domain])

    def _learn(self, domain, mine) -> None:
        if domain is None and not self.way.own:
            domain = self.bundle.route(mine[0].basin).steps[0].name
        name = domain or TERRITORY
        if self.way.gated and name in self.local.domains:
            base = self.bundle.domains[name].gate_array if name in self.bundle.domains else gate.prior(3)
            readings = [_reading(self.local, name, each) for each in mine]
            self.tuned[domain] = tune(self.tuned.get(domain), base, readings)
        before = self.residues.get(domain, EMPTY)
        self.residues[domain] = merge([before, count([each.ids for each in mine], 3)])
        counts, tuned = at_least(self.residues[domain], self.way.least), self.tuned.get(domain)
        if domain is None:
            self.basins += [each.basin for each in mine]
            self.local = open_new(self.local, counts, tuned, frechet_mean(np.stack(self.basins)))
        else:
            self.local = absorb(self.local, self.bundle, domain, counts, tuned)

    def _bits(self, passage) -> float:
        """Under the nearest domain's kernel, as an answer reads its prompt."""
        route = self.local.route(passage.basin)
        if self.way.ruled:
            route = within(route, self.local.domains, margin_min_rad=MARGIN_MIN_RAD)
        nearest = route.steps[0].name
        reading = _reading(self.local, nearest, passage)
        return float(reading.bits(self.local.domains[nearest].gate_array).sum())


def main() -> None:
    bundle = named_genesis()
    known = {role: [_passage(bundle, each) for each in texts] for role, texts in text.load(DATA).held_out.items()}
    unseen = [_passage(bundle, each.text) for each in split(documents("unseen/scripture", root=DATA)).train]
    found = {case: [_run(way, bundle, unseen, known, seed) for seed in range(SEEDS)] for case, way in WAYS.items()}
    for case, runs in found.items():
        _show(case, runs, found[ALONE])


def named_genesis() -> Constellation:
    """The constellation of the folder that the command line names, or of the shipped one."""
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else folder.shipped(DATA)
    parts = folder.read(where)
    if parts is None:
        sys.exit(f"no genesis in {where}: make one with `qig train --out {where}`")
    return bundle_parts.load(parts)


def _run(way, bundle, unseen, known, seed) -> tuple[list[float], dict[str, float]]:
    """Bits per byte of each step before it was learned, and of each old domain after the last."""
    edge, curve = Edge(way, bundle, bundle), []
    for step in _steps(unseen, seed):
        curve.append(edge.bits_per_byte(step))
        if way.learns:
            edge.learn(step)
    return curve, {role: edge.bits_per_byte(passages) for role, passages in known.items()}


def _show(case, runs, alone) -> None:
    curves, others = np.array([curve for curve, _ in runs]), np.array([curve for curve, _ in alone])
    worst = max(old[role] - before[role] for (_, old), (_, before) in zip(runs, alone, strict=True) for role in old)
    value, peer = curves.mean(), others.mean()
    line = {"claim": CLAIM, "case": case, "value": round(value, 4), "unit": "bit/B", "peer": ALONE}
    figures = {
        "peer_value": round(peer, 4),
        "ratio": round(value / peer, 4),
        "seeds": np.round(curves.mean(1), 4).tolist(),
        "second_4_kb": round(curves[:, 1].mean() - others[:, 1].mean(), 4),
        "last_12_kb": round(curves[:, -3:].mean() - others[:, -3:].mean(), 4),
        "old_domains_worst_change": round(worst, 4),
    }
    print(json.dumps({**line, **figures}), flush=True)


def _steps(passages, seed):
    taken = iter([passages[n] for n in np.random.default_rng(seed).permutation(len(passages))])
    for _ in range(STEPS):
        step = []
        while sum(each.size_bytes for each in step) < STEP_BYTES:
            step.append(next(taken))
        yield step


def _passage(bundle: Constellation, said: str) -> Passage:
    ids = bundle.encoder.encode(said)
    basin = bundle.basin(ids)
    route, size_bytes = bundle.route(basin), len(said.encode())
    home = route.steps[0].name
    reading = bundle.read(ids, home)
    bits = float(reading.bits(bundle.domains[home].gate_array).sum())
    belongs = territory(route, bundle.domains, bits=bits, size_bytes=size_bytes)
    return Passage(ids, size_bytes, basin, belongs, {bundle.domains[home].role: reading})


def _reading(local: Constellation, domain: str, passage: Passage) -> Reading:
    kernel, role = local.kernel(domain), local.domains[domain].role
    if role not in passage.read_by:
        passage.read_by[role] = read(kernel, passage.ids)
    return reread(kernel, passage.ids, passage.read_by[role])


def at_least(memory: Memory, least: int) -> Memory:
    """What of a memory was counted at least so often, as packets have it with 2."""
    kept = [(table, table.counts >= least) for table in memory.tables]
    return Memory(tuple(Table.of(t.keys[k], t.counts[k], t.contexts, t.totals) for t, k in kept))


if __name__ == "__main__":
    main()
