"""Claim: tacking holds kappa near its set point and breaks loops, for a price in bits per byte that the table shows.

All four kernels talk on from held-out passages, by tacking and by three ways that know nothing of kappa: plain
temperature, nucleus sampling (Holtzman et al. 2020, top-p 0.9), a repetition penalty (Keskar et al. 2019, 1.2 on log p
of every token seen). Same prompts, seeds and lengths; document ends do not stop a talk. Figures are means over the
kernels. Bits per byte are what a talk costs under n-gram counts of validation text of the kernel's role: a measure that
no kernel was made from. Lower is likelier, and a loop of common words is likely too: read it beside distinct-4.

    python benchmarks/tacking.py [FOLDER OF A GENESIS [FOLDER OF CORPORA]]      default .qig/demo/genesis and data
"""

import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from common.constants import PHASES, ROLES
from common.constellation.constellation import Constellation
from common.kernels import memory
from common.kernels.bearing import Bearing
from common.kernels.blend import mix
from common.kernels.generate import Step, Voice, sample
from common.kernels.say import MEMORY_CONTEXT
from common.kernels.tacking import Helm
from services.cli.genesis import load
from services.trainer import text
from services.trainer.steering import conversations, figures, prompts, talk

CLAIM = "tacking holds kappa in 50-70 and breaks loops that temperature, nucleus and penalty leave or avoid at a price"
TALKS, TOKENS = 12, 256
GATE_TALKS, GATE_TOKENS = 50, 512
PHRASE, TIMES = 5, 40
TOP_P, PENALTY = 0.9, 1.2
UNITS = {"kappa": "1", "distinct-4": "1", "longest loop": "token", "bits per byte": "bit/B"}


def main() -> None:
    genesis = Path(sys.argv[1] if len(sys.argv) > 1 else ".qig/demo/genesis")
    constellation, corpora = load(genesis), text.load(Path(sys.argv[2] if len(sys.argv) > 2 else "data")).corpora
    encoded = {
        role: [
            [constellation.encoder.encode(d.text) for d in part]
            for part in (corpora[role].held_out, corpora[role].validation)
        ]
        for role in ROLES
    }
    for role, (held_out, _) in encoded.items():
        gate(constellation, role, prompts(held_out, GATE_TALKS))
    asked = {role: prompts(held_out, TALKS) for role, (held_out, _) in encoded.items()}
    looping = {role: [np.tile(ids[:PHRASE], TIMES) for ids in asked[role]] for role in ROLES}
    judges = {role: memory.count(validation) for role, (_, validation) in encoded.items()}
    for case, given, temperature in (
        ("temperature 0.8", asked, 0.8),
        ("temperature 0.3", asked, 0.3),
        ("temperature 0", asked, 0.0),
        (f"temperature 0, after a phrase of {PHRASE} tokens said {TIMES} times", looping, 0.0),
    ):
        ways = {
            "tacking": tacked,
            "plain": partial(free, lambda log_p, _: log_p),
            "repetition penalty 1.2": partial(free, penalised),
        }
        if temperature:
            ways["nucleus 0.9"] = partial(free, partial(nucleus, temperature))
        found = {name: measure(constellation, way, given, judges, temperature) for name, way in ways.items()}
        show(case, found.pop("tacking"), found)


def gate(constellation: Constellation, role, asked) -> None:
    """What the gate asks: kappa in 50-70, every phase visited, every FRACTURE left within 128 tokens."""
    found = conversations(constellation, role, asked, tokens=GATE_TOKENS, seed=1)
    case = f"{role}, {GATE_TALKS} conversations of {GATE_TOKENS} tokens"
    for figure, value, peer, limit in (
        ("median kappa", found.kappa, "least", 50),
        ("share of readings in 50-70", found.band, "all", 1),
        ("longest renewal", found.longest_renewal, "limit", 128),
        *((f"share in {phase}", found.phases[phase], "visited: above", 0) for phase in PHASES),
    ):
        line = {"claim": CLAIM, "case": f"{case}: {figure}", "value": round(value, 4), "unit": "1", "peer": peer}
        print(
            json.dumps({**line, "peer_value": limit, "ratio": round(value / limit, 4) if limit else None}), flush=True
        )


def show(case, own, peers) -> None:
    for peer, theirs in peers.items():
        for figure, unit in UNITS.items():
            value, other = own[figure], theirs[figure]
            line = {"claim": CLAIM, "case": f"{case}: {figure}", "value": round(value, 4), "unit": unit, "peer": peer}
            print(json.dumps({**line, "peer_value": round(other, 4), "ratio": round(value / other, 4)}), flush=True)
    rest = {"case": f"{case}: longest renewal", "value": own["longest renewal"], "unit": "token", "peer": "limit"}
    print(json.dumps({"claim": CLAIM, **rest, "peer_value": 128, "ratio": round(own["longest renewal"] / 128, 4)}))


def measure(constellation: Constellation, way, given, judges, temperature) -> dict[str, float]:
    rows = []
    for role in ROLES:
        voice = Voice(constellation.kernel(role), constellation.homes[role], 1.0)
        talks = [way(voice, ids, temperature, np.random.default_rng((1, i))) for i, ids in enumerate(given[role])]
        found = asdict(figures(talks))
        bits = bits_per_byte(constellation, judges[role], given[role], talks)
        rows.append([found["kappa"], found["distinct_4"], found["longest_loop"], bits, found["longest_renewal"]])
    *means, _ = np.mean(rows, 0)
    return {**dict(zip(UNITS, means, strict=True)), "longest renewal": float(np.max(rows, 0)[-1])}


def bits_per_byte(constellation, judge, given, talks) -> float:
    vocab, bits, size = constellation.coordizer.vocab_size, 0.0, 0
    for prompt, steps in zip(given, talks, strict=True):
        said = np.array([step.token for step in steps], np.int32)
        known = memory.predict(judge, np.concatenate([prompt, said]), np.full(vocab, 1 / vocab))
        bits -= float(np.log2(known.probability[len(prompt) :]).sum())
        size += len(constellation.encoder.decode(said))
    return bits / size


def tacked(voice: Voice, prompt, temperature, rng) -> list[Step]:
    return talk([voice], prompt, tokens=TOKENS, temperature=temperature, rng=rng)


def free(reshape, voice: Voice, prompt, temperature, rng) -> list[Step]:
    """The same kernel with no hand on the helm. reshape(log p, ids so far): what the peer does to log p."""
    kernel, state, bearing = voice.kernel, voice.kernel.state, Bearing(voice.home)
    cache, ids, steps = state.start(), prompt, []
    hidden, basins = state.extend(cache, prompt)
    bearing.turn(basins)
    for _ in range(TOKENS):
        p = np.zeros(state.spec.vocab)
        logits, context = state.speak(hidden[-1], basins[-1]), ids[-MEMORY_CONTEXT:]
        mix(logits, kernel.addresses, kernel.bases, kernel.gate, context, 1.0, p)
        ids = np.append(ids, np.int32(sample(reshape(np.log(np.maximum(p, 1e-30)), ids), temperature, rng)))
        hidden, basins = state.extend(cache, ids[-1:])
        bearing.turn(basins[-1:])
        steps.append(Step(int(ids[-1]), basins[-1], (basins[-1],), bearing.kappa(), None, Helm()))
    return steps


def nucleus(temperature, log_p, _):
    """Only the likeliest tokens whose tempered probabilities first sum to TOP_P."""
    order = np.argsort(-log_p, kind="stable")
    tempered = np.exp((log_p[order] - log_p.max()) / temperature)
    before = np.cumsum(tempered) - tempered
    kept = order[before < TOP_P * tempered.sum()]
    cut = np.full_like(log_p, -np.inf)
    cut[kept] = log_p[kept]
    return cut


def penalised(log_p, ids):
    seen = np.unique(ids)
    log_p = log_p.copy()
    log_p[seen] *= PENALTY
    return log_p


if __name__ == "__main__":
    main()
