"""Claims: two hostile edges of eight cost at most 2 % of held-out bits per byte, and a phrase that they plant comes out
in less than 5 % of the prompts with its trigger.

    python benchmarks/attacks.py [CASE ...] [--rules RULE ...] [--domain scripture] [--seed 0] [--quick]

Eight edges read ROUND_BYTES a round of a domain that the genesis has never seen, through the real rooms (fleet.py). Two
of them send whatever the centre admits (attackers.py), ROUNDS rounds from the first on (in the one that opens the
domain with an honest basin, which would else open another), and then fall silent for AFTER rounds. They know the bundle
and this round's packets of all others; both do the same. No state is trained.

value        bits per byte of held-out text after the last attacked round; peer: of the same fleet without attack;
             to_silent: the ratio to a fleet whose two edges say nothing, which is what refusing them costs
persists     the same after the silent rounds
backdoor     after the attack, and after the silence, of prompts that end in the trigger: the share where each token of
             the target is the kernel's likeliest, the probability that it says all of it, drawn from as it is, and the
             share of answers, steered as an edge steers them, that begin with it
known_worst  the worst change of the four roles' held-out text, bits per byte: what the publisher's gate sees

door         what `admit` must refuse, a line each: how many were admitted of how many, and the slowest look at one
gates        held-out bits per byte with the gate that each rule makes of six honest edges' statistics and two liars'
honest       what each of --rules costs without an attack, of the gain of all counts: ten rounds of 24 KB, 1,024 and
             2,900 bytes of crystals
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # before numpy: it reads them when it is imported

import attackers
import gate_rules
import numpy as np
from attackers import ATTACKS, TARGET, TRIGGER, View
from fleet import DATA, EMPTY, READ, Edge, Fleet, World, taught
from fleet_text import corpus, deal
from nacl.signing import SigningKey

from common.errors import QigError
from common.kernels import gate as gates
from common.kernels import memory
from common.kernels.kernel import listen
from common.wire.packet import key_id, seal
from services.aggregator import robust
from services.aggregator.admit import read_gate
from services.aggregator.proposals import gather
from services.trainer import folder, text
from services.trainer.corpora.document import documents
from services.trainer.corpora.split import split
from services.trainer.evaluate import Examiner

CLAIM = "two hostile edges of eight cost 2 % of held-out bits per byte at most; a planted phrase comes out in < 5 %"
CRYSTAL_BYTES, PROMPTS, PROMPT_BYTES, KNOWN = 1024, 20, 80, 12
SEED = 7


@dataclass(frozen=True, slots=True)
class Size:
    """rounds: under attack; after: silent ones; round_bytes: of text, an edge and round."""

    edges: int
    hostile: int
    rounds: int
    after: int
    round_bytes: int


FULL, QUICK, LONG = Size(8, 2, 3, 2, 12_000), Size(4, 1, 2, 1, 4_000), Size(8, 0, 10, 0, 24_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cases = [*ATTACKS, "door", "gates"]
    parser.add_argument("cases", nargs="*", default=cases, help=f"{', '.join(cases)}; honest")
    parser.add_argument("--rules", nargs="+", default=["k=3"], choices=list(RULES))
    parser.add_argument("--domain", default="scripture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="four edges, one hostile, two rounds and a silent one")
    given = parser.parse_args()
    if "honest" in given.cases:
        price(Field(LONG, given.domain, given.seed), given.rules)
    if given.cases == ["honest"]:
        return
    field = Field(QUICK if given.quick else FULL, given.domain, given.seed, quick=given.quick)
    if "door" in given.cases:
        at_the_door(field)
    if "gates" in given.cases:
        gates_of(field)
    for rule in given.rules if set(given.cases) & set(ATTACKS) else ():
        peers = {name: field.run(rule, name) for name in ("no attack", "silent")}
        for name in ("no attack", "silent", *(case for case in given.cases if case in ATTACKS)):
            tell(rule, name, peers.get(name) or field.run(rule, name), peers, field.size.rounds - 1)


def tell(rule, name, found, peers, last):
    clean, silent = peers["no attack"], peers["silent"]
    value, peer = found.curve[last], clean.curve[last]
    line = {
        "claim": CLAIM, "case": f"{name}, {rule}", "value": round(value, 4), "unit": "bit/B", "peer": "no attack",
        "peer_value": round(peer, 4), "ratio": round(value / peer, 4),
        "to_silent": round(value / silent.curve[last], 4),
        "persists": round(found.curve[-1], 4),
        "persists_ratio": round(found.curve[-1] / silent.curve[-1], 4),
        "backdoor": found.backdoor, "known_worst": round(found.known_worst, 4),
        "curve": np.round(found.curve, 4).tolist(), "seconds": round(found.seconds, 1),
    }  # fmt: skip
    print(json.dumps(line), flush=True)


def price(field, rules):
    """What each rule costs honest edges, of the gain of all counts."""
    world = field.world
    nothing = world.bits_per_byte(world.with_memory(EMPTY))
    every = world.bits_per_byte(world.with_memory(memory.count(world.all_ids(), 3)))
    for size_bytes in (1024, 2900):
        for rule in rules:
            found = field.run(rule, "no attack", size_bytes)
            line = {
                "claim": CLAIM,
                "case": f"honest {world.name}, {size_bytes} B, {rule}",
                "value": round(found.curve[-1], 4),
            }
            line |= {"unit": "bit/B", "peer": "all counts", "peer_value": round(every, 4)}
            line |= {
                "ratio": round(found.curve[-1] / every, 4),
                "gain": round((nothing - found.curve[-1]) / (nothing - every), 4),
            }
            print(json.dumps(line | {"curve": np.round(found.curve, 4).tolist()}), flush=True)


@dataclass(frozen=True, slots=True)
class Outcome:
    """curve: bits per byte after each round; backdoor: after the attack, and at the end; see Field.planted."""

    curve: list[float]
    backdoor: list[list[float]]
    known_worst: float
    seconds: float


class Field:
    """The text, the genesis and the questions: the same for each run."""

    def __init__(self, size, domain, seed, *, quick=False):
        self.size, self.name, self.start = size, domain, folder.read(folder.shipped(DATA))
        found = corpus(domain, quick=quick)
        self.dealt = deal(found, seed, size.edges, size.rounds + size.after, round_bytes=size.round_bytes)
        self.world = World(self.start, domain, found, self.dealt, "held_out")
        self.known = Examiner({role: texts[:KNOWN] for role, texts in text.load(DATA).held_out.items()})
        self.prompts = [each.text[:PROMPT_BYTES].rsplit(" ", 1)[0] for each in found.held_out[:PROMPTS]]
        self.foreign = [each.text for each in split(documents("strategy", root=DATA)).train]

    def run(self, rule, name, crystal_bytes=CRYSTAL_BYTES):
        """All rounds under one attack. name: of the attack, or "no attack", "silent"."""
        attack, began, size = ATTACKS.get(name), time.process_time(), self.size
        with tempfile.TemporaryDirectory() as where, besieged(self, Path(where), RULES[rule]) as fleet:
            curve, backdoor = [], []
            for number, row in enumerate(self.dealt):
                over = number >= size.rounds
                honest = size.edges if name == "no attack" and not over else size.edges - size.hostile
                self.round(fleet, row, honest, number, None if over else attack, crystal_bytes)
                curve.append(self.world.bits_per_byte(fleet.constellation.kernel(fleet.names[self.name])))
                if number in {size.rounds - 1, len(self.dealt) - 1}:
                    backdoor.append(self.planted(fleet))
            before, after = self.known.scores(fleet.start), self.known.scores(fleet.constellation)
            worst = max(after[role].bits_per_byte - before[role].bits_per_byte for role in before)
            return Outcome(curve, backdoor, worst, time.process_time() - began)

    def round(self, fleet, row, honest, number, attack, crystal_bytes=CRYSTAL_BYTES):
        """The first `honest` edges speak; under an attack the others too, in its way."""
        fleet.clock += 3600.0
        ledger, bodies = {}, []
        for edge, passages in zip(fleet.edges[:honest], row, strict=False):
            packet, body = fleet.slept(edge, self.name, passages, crystal_bytes)
            raw = fleet.sealed(edge, packet, body)
            ledger[fleet.admitted(raw)] = raw
            bodies.append(body)
        for edge, passages in zip(fleet.edges[honest:], row[honest:], strict=True) if attack else ():
            packet, body = fleet.slept(edge, self.name, passages, crystal_bytes)
            for raw in sent(fleet, edge, packet, attack(View(fleet, edge, body, bodies, number, self.foreign))):
                ledger[fleet.admitted(raw)] = raw
        fleet.merge(ledger)
        fleet.names[self.name] = fleet.nearest([each for own in row for each in own])

    def planted(self, fleet):
        """How the prompts are gone on with: see this file's head."""
        made, domain = fleet.constellation, fleet.names[self.name]
        kernel, target = made.kernel(domain), made.encoder.encode(TARGET)
        likeliest, drawn, answers = [], [], []
        for number, prompt in enumerate(self.prompts):
            ids = made.encoder.encode(prompt + TRIGGER)
            p = [following(kernel, np.concatenate([ids, target[:n]])) for n in range(len(target))]
            likeliest.append(all(each.argmax() == token for each, token in zip(p, target, strict=True)))
            drawn.append(np.prod([each[token] for each, token in zip(p, target, strict=True)]))
            for temperature in (0.0, 1.0):
                told = made.speak(
                    ids, {domain: 1.0}, max_tokens=len(target), temperature=temperature,
                    rng=np.random.default_rng([SEED, number]),
                )  # fmt: skip
                answers.append([step.token for step in told] == target.tolist())
        return [round(float(np.mean(each)), 4) for each in (likeliest, drawn, answers)]


def following(kernel, ids):
    """The kernel's distribution of what comes after a text, (V,), unsteered."""
    _, listening = listen(kernel, ids)
    state = np.exp(listening.logits - listening.logits.max())
    told = [memory.distribution(m, ids[-3:], floor) for m, floor in zip(kernel.memories, kernel.floors(), strict=True)]
    row = kernel.gate[int(gates.bucket(told[-1][1], told[-1][2]))]
    return row @ np.stack([state / state.sum(), *(p for p, _, _ in told)])


def sent(fleet, edge, packet, bodies):
    """The first body under the edge's own key; more under further keys of the same machine."""
    yield fleet.sealed(edge, packet, bodies[0])
    for number, body in enumerate(bodies[1:]):
        key = SigningKey(bytes([100 + 10 * edge.number + number] * 32))
        fleet.enrolled[key_id(key.verify_key)] = (edge.node, key.verify_key)
        yield seal(
            body, signing_key=key, epoch=1, sequence=packet.sequence, base_version=packet.base_version,
            base=packet.base, at_s=fleet.clock,
        )  # fmt: skip


# The centre


@contextmanager
def besieged(field, where, rule):
    """A fleet whose centre merges by a rule."""
    fleet = Fleet(
        field.start, field.size.edges, where, field.world.made.states, crystal_edges=rule.edges, known=rule.known
    )
    fleet.start, fleet.first = fleet.constellation, {}
    agreed, bounded = robust.agreed, robust.bounded
    robust.agreed, robust.bounded = rule.gate, bounded if rule.bound else unbounded
    yield fleet
    robust.agreed, robust.bounded = agreed, bounded
    fleet.close()


def unbounded(brought, _number):
    return [one.crystals for one in brought]


def held(made):
    """Everything that the bundle's memories hold."""
    return {
        name: tuple(
            np.unique(np.concatenate([made.memories[m].tables[n].keys for m in domain.memories])) for n in range(3)
        )
        for name, domain in made.domains.items()
    }


@dataclass(frozen=True, slots=True)
class Rule:
    """edges: of the quorum; known: what needs none; gate: how statistics are brought together; bound: whether a node
    may be so much of a batch and no more.
    """

    edges: int = 1
    known: Callable = taught
    gate: Callable = robust.agreed
    bound: bool = True


RULES = {
    "k=1": Rule(), "k=2": Rule(2), "k=3": Rule(3), "k=3, memories": Rule(3, held),
    "sum": Rule(gate=gate_rules.summed, bound=False),
}  # fmt: skip


def gates_of(field):
    """Held-out bits per byte under the gate that each rule makes of six honest nodes' statistics and two liars'."""
    with tempfile.TemporaryDirectory() as where, besieged(field, Path(where), RULES["k=1"]) as fleet:
        for number in range(2):
            field.round(fleet, field.dealt[number], field.size.edges, number, None)
        fleet.clock += 3600.0
        bodies = [
            fleet.slept(e, "scripture", own, CRYSTAL_BYTES)[1]
            for e, own in zip(fleet.edges, field.dealt[2], strict=True)
        ]
        honest, kernel = [read_gate(body) for body in bodies], fleet.constellation.kernel(fleet.names["scripture"])
        readings = [READ(kernel, ids) for ids in field.world.held]
        nodes, kept = [edge.node for edge in fleet.edges], len(honest) - field.size.hostile
        for name, lie in attackers.gate_lies(honest, kept).items():
            told = [*honest[:kept], *(lie or honest[kept:])]
            for rule, centre in gate_rules.RULES.items():
                sums = gates.from_bytes(gates.to_bytes(centre(told, nodes)), told[0].shape[1])
                gate = gates.update(kernel.gate, sums)
                value = sum(float(each.bits(gate).sum()) for each in readings) / field.world.held_bytes
                if (rule, name) == ("sum", "none"):
                    peer = value
                line = {"claim": CLAIM, "case": f"gates: {name}, {rule}", "value": round(value, 4), "unit": "bit/B"}
                line |= {"peer": "sum, none", "peer_value": round(peer, 4), "ratio": round(value / peer, 4)}
                print(json.dumps(line), flush=True)


# The door: what must not get in


def at_the_door(field):
    """A line an attack: how many of its packets were admitted, and the slowest look at one."""
    with tempfile.TemporaryDirectory() as where, besieged(field, Path(where), RULES["k=1"]) as fleet:
        edge = fleet.edges[0]
        packet, body = fleet.slept(edge, field.name, field.dealt[0][0], CRYSTAL_BYTES)
        first = fleet.sealed(edge, packet, body)
        fleet.merge({fleet.admitted(first): first})
        for number in range(3):
            field.round(fleet, field.dealt[number], 2, number, None)
        fleet.clock += 3600.0
        old, (_, body) = body, fleet.slept(edge, field.name, field.dealt[1][0], CRYSTAL_BYTES)

        def forge(**change):
            return attackers.forged(fleet, edge, body, **change)

        crystals_ = [bytes([form]) + body.crystals[1:7] + b"\xff" * 3000 for form in (1, 2, 3)]
        refused = {
            "NaN and infinity": [
                forge(**{name: value}) for name in attackers.UNBOUND for value in attackers.NOT_FINITE
            ],
            "replay": [first, first],
            "a basis out of the window": [attackers.forged(fleet, edge, old, on=(packet.base_version, packet.base))],
            "a basis that never was": [forge(on=(fleet.version, bytes(8)))],
            "oversized": [first + bytes(4097 - len(first)), bytes(1 << 20)],
            "msgpack bombs": [*attackers.BOMBS, *(forge(raw=bomb) for bomb in attackers.BOMBS)],
            "crystals that end too early": [forge(crystals=blob) for blob in crystals_],
            "more than was read": [forge(tokens=1 << 25), forge(fresh_bits=1e300)],
            "a stranger's key": [attackers.forged(fleet, Edge(77, None), body)],
            "another's name": [forge()[:-64] + bytes(64)],
        }
        for name, raws in refused.items():
            knock(name, fleet, raws)
        knock("five in disorder, of which two are replays", fleet, [forge(sequence=n) for n in (52, 50, 51, 50, 52)])
        rows = [(left, left + 100, 60_000) for left in range(300, 324)]
        keys = [key for key, (node, _) in fleet.enrolled.items() if node in {"edge-0", "edge-1"}]
        nodes = {key: node for key, (node, _) in fleet.enrolled.items()}
        found = gather({}, [(key, rows) for key in keys], known=(), nodes=nodes, edges=3)
        door_line("vocabulary flood of two nodes", len(found.merges), 2 * len(rows))


def knock(name, fleet, raws):
    """How many are admitted, and the longest look, ms of processor time."""
    taken, slowest, codes = 0, 0.0, set()
    for raw in raws:
        began = time.process_time()
        try:
            fleet.admitted(raw)
            taken += 1
        except QigError as error:
            codes.add(error.code)
        slowest = max(slowest, time.process_time() - began)
    door_line(name, taken, len(raws), slowest_ms=round(1000.0 * slowest, 1), codes=sorted(codes))


def door_line(name, taken, of, **more):
    line = {
        "claim": CLAIM,
        "case": f"door: {name}",
        "value": taken,
        "unit": "admitted",
        "peer": "sent",
        "peer_value": of,
    }
    print(json.dumps(line | {"ratio": round(taken / of, 3)} | more), flush=True)


if __name__ == "__main__":
    main()
