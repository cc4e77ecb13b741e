"""Claims: crystals of 2,900 bytes reach 85 % of the gain of all counts and 80 % of a centralised bound's, of 1,024
bytes 70 %; known domains read at most 0.01 bits per byte worse.

    python benchmarks/fleet.py [CASE ...] [--domains scripture docstrings] [--seeds 3] [--part held_out] [--quick]

Eight edges read 24 KB a round of a domain that the shipped genesis has never seen, ten rounds. The real rooms, in one
process: a record of each edge on disk, fold, seal, admission, cut, consolidation (memories and gates; no state is
trained), settlement, the local memory made anew. Held-out text is never sent. Bits per byte of the domain's kernel
after each round ("curve"); gain: what is below "nothing", as a share of what all counts are below it.

crystals    2,900 and 1,024 bytes a packet (or --bytes)
counts      controls: nothing (the gate learns), every edge with its own memory alone, all counts, all counts with
            contexts of three tokens, and the text itself, coded by the kernel at its ideal length in as many bytes
uneven      each edge reads one stretch of the domain (a book, a module) instead of a share of everything
mixed       each edge reads both domains, half of its text each, and sends a packet for each
peers       fleet_peers.py: adapters, averaged weights, training at the centre

A domain's text belongs to it (how well edges tell that is measured in local.py); in the first round it is new
territory. Gates of the controls are learned on validation text, which crystals' gates never see. docstrings: of this
interpreter's standard library, numpy and scipy, by ast, near-duplicates removed; torch's chose the constants, as
scripture's validation text did. scripture: .qig/corpora/full (`qig corpus full`).
"""

import argparse
import json
import os
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # before numpy: it reads them when it is imported

import fleet_peers
import numpy as np
from fleet_text import DATA, ROUND_BYTES, corpus, deal
from nacl.signing import SigningKey

from common.constants import ROLES
from common.constellation import parts as bundle_parts
from common.constellation.priors import prior_of
from common.geometry.means import frechet_mean
from common.geometry.simplex import distance
from common.kernels import gate as gates
from common.kernels import memory
from common.kernels.kernel import Kernel, Reading, read, reread
from common.wire.bundle import digest, part_of, sign
from common.wire.codec import unpack
from common.wire.messages import Candidate, Evidence
from common.wire.packet import PacketBody, key_id, seal
from services.aggregator.admit import admit, open_packet
from services.aggregator.bases import Base, with_base
from services.aggregator.claims import settle
from services.aggregator.cut import Fleet as Nodes
from services.aggregator.cut import Limits, cut
from services.edge import hearing
from services.edge.answer import Interaction, Serving
from services.edge.learning import fold_domain, relearned, settle_bundle
from services.edge.record import Record
from services.trainer import folder, text
from services.trainer.consolidate import consolidate
from services.trainer.evaluate import Examiner

CLAIM = "crystals of 2,900 B reach 85 % of the gain of all counts, of 1,024 B 70 %; no known domain loses 0.01 bit/B"
EDGES, ROUNDS = 8, 10
BUDGETS = (2900, 1024)
HELD_OUT_BYTES = 120_000
MASS_CAP = 100_000  # as the settings have it
EMPTY = memory.count([], 3)
CASES = ("crystals", "counts", "uneven", "mixed", "peers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=list(CASES), help=", ".join(CASES))
    parser.add_argument("--domains", nargs="+", default=["scripture", "docstrings"])
    parser.add_argument("--bytes", type=int, nargs="+", default=list(BUDGETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--part", choices=["held_out", "validation"], default="held_out")
    parser.add_argument("--quick", action="store_true", help="committed scripture, two rounds of two edges, one seed")
    given = parser.parse_args()
    edges, rounds, seeds = (2, 2, 1) if given.quick else (EDGES, ROUNDS, given.seeds)
    start = folder.read(folder.shipped(DATA))
    corpora = {name: corpus(name, quick=given.quick) for name in (["scripture"] if given.quick else given.domains)}
    known = Examiner(text.load(DATA).held_out)
    for seed in range(seeds):
        dealt = {name: deal(found, seed, edges, rounds) for name, found in corpora.items()}
        worlds = {name: World(start, name, found, dealt[name], given.part) for name, found in corpora.items()}
        for world in worlds.values():
            world.measure(seed, given, known)
            if "uneven" in given.cases:
                apart = deal(corpora[world.name], seed, edges, rounds, apart=True)
                World(start, world.name, corpora[world.name], apart, given.part, "uneven").measure(seed, given, known)
        if "mixed" in given.cases and len(worlds) > 1:
            mixed(list(worlds.values()), seed, given.bytes[0], known)


# The fleet


class Reader:
    """What a role's state says of a text is asked once: later readings differ in their memories alone."""

    def __init__(self):
        self._known = {}

    def __call__(self, kernel, ids):
        key = id(kernel.state), ids.tobytes()
        if key not in self._known:
            found = read(kernel, ids)
            self._known[key] = Reading(found.experts[:, :1].copy(), found.buckets, found.basins[:1])
        return reread(kernel, ids, self._known[key])


READ = Reader()
hearing.read = READ  # the same numbers as a state that reads again, in a tenth of the time


@dataclass(slots=True)
class Edge:
    number: int
    record: Record
    key: SigningKey = field(init=False)

    def __post_init__(self) -> None:
        self.key = SigningKey(bytes([self.number + 1] * 32))

    @property
    def node(self) -> str:
        return f"edge-{self.number}"


def taught(made):
    """What a centre takes as said by a quorum before: the memories of the opened domains (the aggregator's window)."""
    own = {name: domain.memories[-1] for name, domain in made.domains.items() if name not in ROLES}
    return {name: tuple(table.keys for table in made.memories[each].tables[:3]) for name, each in own.items()}


class Fleet:
    """Edges and a centre. names: by source, the domain that was opened for it. states: loaded before, known to READ.
    crystal_edges: of the quorum; known: of a constellation, the n-grams that need none.
    """

    def __init__(self, start, edges, where, states=None, *, crystal_edges=1, known=taught):
        self.states, self.crystal_edges, self.known, self.pool, self.cuts = states, crystal_edges, known, {}, 0
        self.claims = [None, None]  # of the release before the last, which counts for good, and of the last
        self.parts, self.version, self.clock, self.bases, self.refs = start, 0, 1000.0, (), ()
        self.edges = [Edge(n, Record(where / f"{n}.sqlite", now_s=1000.0)) for n in range(edges)]
        self.names, self.packet_bytes = {}, []
        self.enrolled = {key_id(each.key.verify_key): (each.node, each.key.verify_key) for each in self.edges}
        self.windows = {}
        self._release(())

    def _release(self, refs):
        """Makes the parts the current bundle."""
        self.version += 1
        candidate = Candidate(
            id=f"c{self.version}", parent=0, parent_digest="", parts={"p": part_of(str(self.version).encode())},
            evidence=Evidence(), packets=refs,
        )  # fmt: skip
        self.bundle = sign(candidate, version=self.version, released_at_s=self.clock, signing_key=SigningKey(bytes(32)))
        self.constellation = bundle_parts.load(self.parts)
        if self.states is not None:
            self.constellation = replace(self.constellation, states=self.states)
        made, sealed = self.constellation, digest(self.bundle)
        vocab = made.coordizer.vocab_size
        merges = tuple((left, right) for left, right in made.coordizer.merges.tolist())
        priors = {name: prior_of(made.kernel(name).memories, vocab) for name in made.domains}
        known = self.known(made) if self.crystal_edges > 1 else {}
        base = Base(self.version, sealed, vocab, merges, made.domains, priors, known)
        self.bases = with_base(self.bases, base)
        self.serving = {e.node: Serving(made, self.version, sealed, e.node) for e in self.edges}

    def round(self, texts, budget):
        """One round. texts: by source, a list of passages of each edge."""
        self.clock += 3600.0
        ledger = {}
        for source, dealt in texts.items():
            for edge, passages in zip(self.edges, dealt, strict=True):
                raw = self.sealed(edge, *self.slept(edge, source, passages, budget))
                ledger[self.admitted(raw)] = raw
                self.packet_bytes.append(len(raw))
        self.merge(ledger)
        for source, dealt in texts.items():
            self.names[source] = self.nearest([each for own in dealt for each in own])

    def merge(self, ledger):
        """What the centre makes of admitted packets, released and settled."""
        nodes = {key: node for key, (node, _) in self.enrolled.items()}
        limits = Limits(len(ledger), 1.0, MASS_CAP, self.crystal_edges)
        pool = settle(self.pool, counts=[each for each in self.claims[:1] if each], returned=[])
        done = cut(ledger, bases=self.bases, pending={}, limits=limits, fleet=Nodes(nodes, {}, self.cuts, pool))
        self.pool, self.cuts, self.claims = done.pool, self.cuts + 1, [self.claims[1], done.claim]
        assert not done.refused, done.refused
        self.release(done.batch)

    def release(self, batch):
        """The batch consolidated, as the next bundle, on every edge."""
        self.parts = consolidate(self.parts, batch, replay={}, held_out={}, steps=0, seed=0).parts
        self._release(batch.packets)
        for edge in self.edges:
            serving = self.serving[edge.node]
            key = key_id(edge.key.verify_key)
            settle_bundle(edge.record, serving, self.bundle, key=key, entry_id=None, now_s=self.clock)
            self.serving[edge.node] = relearned(edge.record, serving)

    def slept(self, edge, source, passages, budget):
        """The packet that an edge makes of passages, as its record keeps it, and its body."""
        made, record = self.constellation, edge.record
        domain = self.names.get(source)
        for number, said in enumerate(passages):
            ids = made.encoder.encode(said)
            basin, size = made.basin(ids), len(said.encode())
            name = f"{source} {self.clock} {number}"
            heard = Interaction(name, "c", said, self.clock, domain, basin, len(ids), size, 0.0, None, None)
            record.texts.add(heard, b"", probe=False)
        serving = self.serving[edge.node]
        fold_domain(record, serving, domain, gauges={}, crystal_bytes=budget, now_s=self.clock)
        packet = record.packets("pending")[-1]
        return packet, unpack(PacketBody, packet.body)

    def sealed(self, edge, packet, body):
        """The signed packet; the edge waits for it."""
        raw = seal(
            body, signing_key=edge.key, epoch=edge.record.epoch, sequence=packet.sequence,
            base_version=packet.base_version, base=packet.base, at_s=self.clock,
        )  # fmt: skip
        edge.record.sent(packet.sequence, raw, at_s=self.clock)
        return raw

    def admitted(self, raw):
        """The reference of a packet that the centre takes. Raises as `admit`."""
        envelope = open_packet(raw)
        found = admit(
            envelope, enrolled=self.enrolled, replay=self.windows.get(envelope.key), entry_ms=int(1000 * self.clock),
            bases=self.bases,
        )  # fmt: skip
        self.windows[envelope.key] = found.window
        return found.ref.packed

    def nearest(self, passages):
        """The opened domain that is nearest these texts."""
        made = self.constellation
        there = frechet_mean(np.stack([made.basin(made.encoder.encode(each)) for each in passages[:60]]))
        opened = [name for name in made.domains if name.startswith("d-")]
        return min(opened, key=lambda name: float(distance(there, made.domains[name].basin_array)))

    def close(self):
        for edge in self.edges:
            edge.record.close()


# Measuring


class World:
    """One domain as one shuffle deals it, read by its nearest role."""

    def __init__(self, start, name, found, dealt, part, way=""):
        self.start, self.name, self.found, self.way, self.dealt = start, name, found, way, dealt
        self.made = bundle_parts.load(start)
        encode = self.made.encoder.encode
        held = _some([each.text for each in getattr(found, part)])
        self.held, self.held_bytes = [encode(each) for each in held], sum(len(each.encode()) for each in held)
        other = (
            "train" if part == "validation" else "validation"
        )  # gates of controls: the last of it, never dealt first
        self.gate_text = [encode(each) for each in _some([each.text for each in getattr(found, other)][::-1])]
        self.ids = [[[encode(each) for each in own] for own in row] for row in dealt]
        basin = frechet_mean(np.stack([self.made.basin(ids) for own in self.ids[0] for ids in own]))
        self.role = self.made.domains[self.made.route(basin).steps[0].name].role
        base = self.made.kernel(self.role)
        self.kernel = Kernel(base.state, (*base.memories, EMPTY), gates.prior(2 + len(base.memories)))

    def bits_per_byte(self, kernel, read_by=READ):
        return sum(float(read_by(kernel, ids).bits(kernel.gate).sum()) for ids in self.held) / self.held_bytes

    def with_memory(self, own, read_by=READ, state=None):
        """The kernel with a domain memory, and the gate that the validation text asks for."""
        kernel = Kernel(state or self.kernel.state, (*self.kernel.memories[:-1], own), self.kernel.gate)
        readings = [read_by(kernel, ids) for ids in self.gate_text]
        experts = np.concatenate([each.experts for each in readings])
        buckets = np.concatenate([each.buckets for each in readings])
        return replace(kernel, gate=gates.learn(experts, buckets, kernel.gate, 20))

    def all_ids(self, edge=None):
        return [ids for row in self.ids for n, own in enumerate(row) if edge in {None, n} for ids in own]

    def dealt_anew(self, seed, rounds):
        """Another shuffle, measured on validation text: for choosing."""
        dealt = deal(self.found, seed, len(self.dealt[0]), min(rounds, len(self.dealt)))
        return World(self.start, self.name, self.found, dealt, "validation")

    def measure(self, seed, given, known):
        """Every case that is asked for, as lines."""
        self.nothing = self.bits_per_byte(self.with_memory(EMPTY))
        self.all = self.bits_per_byte(self.with_memory(memory.count(self.all_ids(), 3)))
        self.say("nothing; the gate learns", seed, self.nothing, bytes=0)
        self.say("all counts", seed, self.all, bytes=ROUND_BYTES)
        if self.way or "counts" in given.cases:
            self._counts(seed, given)
        if self.way or "crystals" in given.cases:
            for budget in given.bytes:
                self._crystals(seed, budget, known)
        if not self.way and "peers" in given.cases:
            fleet_peers.measure(self, seed)

    def _counts(self, seed, given):
        alone = [self.with_memory(memory.count(self.all_ids(edge), 3)) for edge in range(len(self.ids[0]))]
        self.say(
            "every edge its own memory alone", seed, np.mean([self.bits_per_byte(each) for each in alone]), bytes=0
        )
        if not self.way:
            four = self.bits_per_byte(self.with_memory(memory.count(self.all_ids(), 4)))
            self.say("all counts, contexts of three", seed, four, bytes=ROUND_BYTES)
            for budget in given.bytes:
                self.say(f"the text itself, coded, {budget} B", seed, self._coded(budget), bytes=budget)

    def _coded(self, budget):
        """As much of the text as the kernel codes into the budget, of each edge and round; its counts."""
        own, kernel = EMPTY, self.kernel
        for row in self.ids:
            sent, sums = [], 0
            for passages in row:
                left = 8.0 * budget
                for ids in passages:
                    reading = READ(kernel, ids)
                    sums = sums + gates.responsibilities(reading.experts, reading.buckets, kernel.gate)
                    fits = int(np.searchsorted(np.cumsum(reading.bits(kernel.gate)), left, side="right"))
                    left -= float(reading.bits(kernel.gate)[:fits].sum())
                    sent.append(ids[:fits])
                    if fits < len(ids):
                        break
            own = memory.merge([own, memory.count(sent, 3)])
            kernel = Kernel(kernel.state, (*kernel.memories[:-1], own), gates.update(kernel.gate, sums))
        return self.bits_per_byte(kernel)

    def _crystals(self, seed, budget, known):
        with tempfile.TemporaryDirectory() as where:
            fleet, curve = Fleet(self.start, len(self.dealt[0]), Path(where)), []
            for row in self.dealt:
                fleet.round({self.name: row}, budget)
                curve.append(self.bits_per_byte(fleet.constellation.kernel(fleet.names[self.name])))
            self.say_fleet(f"crystals, {budget} B", seed, curve, fleet, known)
            fleet.close()

    def say_fleet(self, case, seed, curve, fleet, known):
        before, after = known.scores(self.made), known.scores(fleet.constellation)
        worst = max(after[role].bits_per_byte - before[role].bits_per_byte for role in before)
        self.say(
            case, seed, curve[-1], bytes=round(float(np.mean(fleet.packet_bytes))), curve=np.round(curve, 4).tolist(),
            bytes_p100=max(fleet.packet_bytes), known_worst_change=round(worst, 4),
        )  # fmt: skip

    def say(self, case, seed, value, **more):
        """One line. gain: of what all counts gain; bytes: a packet's (a round's, of one edge), signature and all."""
        line = {"claim": CLAIM, "case": f"{self.name}{self.way and ', ' + self.way}: {case}", "seed": seed}
        line |= {
            "value": round(float(value), 4),
            "unit": "bit/B",
            "peer": "nothing",
            "peer_value": round(self.nothing, 4),
        }
        gain = (self.nothing - value) / (self.nothing - self.all)
        print(json.dumps(line | {"ratio": round(value / self.nothing, 4), "gain": round(gain, 4)} | more), flush=True)


def mixed(worlds, seed, budget, known):
    """Every edge reads half of its text in each domain; all counts: of these halves."""
    halves = {w.name: [[own[: len(own) // 2] for own in row] for row in w.dealt] for w in worlds}
    for world in worlds:
        world.way, world.dealt = "mixed", halves[world.name]
        world.ids = [[own[: len(own) // 2] for own in row] for row in world.ids]
        world.all = world.bits_per_byte(world.with_memory(memory.count(world.all_ids(), 3)))
        world.say("all counts", seed, world.all, bytes=ROUND_BYTES // 2)
    with tempfile.TemporaryDirectory() as where:
        fleet, curves = Fleet(worlds[0].start, len(worlds[0].dealt[0]), Path(where)), {w.name: [] for w in worlds}
        for number in range(len(worlds[0].dealt)):
            fleet.round({world.name: world.dealt[number] for world in worlds}, budget)
            for world in worlds:
                kernel = fleet.constellation.kernel(fleet.names[world.name])
                curves[world.name].append(world.bits_per_byte(kernel))
        for world in worlds:
            world.say_fleet(f"crystals, {budget} B a domain", seed, curves[world.name], fleet, known)
        fleet.close()


def _some(texts):
    """The first HELD_OUT_BYTES of them, and a little more."""
    sizes = np.cumsum([len(each.encode()) for each in texts])
    return texts[: int(np.searchsorted(sizes, HELD_OUT_BYTES)) + 1]


if __name__ == "__main__":
    main()
