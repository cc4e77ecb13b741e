"""Claim: private mode, its hashes included, costs at most .05 bits per byte of an unseen domain.

    python benchmarks/private.py [--seeds 3] [--rounds 10] [--round-bytes 24000] [--data FOLDER] [--genesis FOLDER]

EDGES edges read scripture of their own that no kernel has seen, round after round; what they tell is merged at the
centre, which tells after each round what 3 of them have mentioned (privacy.py's rounds). Private mode's packets, and
its strict form's, are held against packets of as many bytes of crystals without it. The text measured is held out, and
read by the base's memory and the domain's under the gate's prior. The seed slice in data/ is enough for 4 rounds of
7,000 bytes, the default where the full corpus (`qig corpus fetch`) is not in --data.

A line a budget and mode: bits per byte after the last round, `peer` without private mode; the largest packet's crystals
and mentions; bytes of mentions in a packet, mean; `curve`: the cost after each round.
"""

import argparse
import json
import os
from collections import defaultdict
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # before numpy: it reads them when it is imported

import numpy as np
import privacy

from common.constellation import parts as bundle_parts
from services.edge.sleep import as_memory
from services.trainer import folder
from services.trainer.corpora.document import documents
from services.trainer.corpora.split import split

CLAIM = "private mode, its hashes included, costs at most .05 bits per byte of an unseen domain"
BUDGETS = (1024, 2900)
HELD_OUT = 40  # documents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--round-bytes", type=int, default=7_000)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--genesis", type=Path, default=Path("data/genesis"))
    given = parser.parse_args()
    made = bundle_parts.load(folder.read(given.genesis))
    text = split(documents("unseen/scripture", root=given.data))
    held = [each.text for each in text.held_out[:HELD_OUT]]
    privacy.ROUNDS, privacy.ROUND_BYTES = given.rounds, given.round_bytes
    for budget in BUDGETS:
        curves, sizes = defaultdict(list), defaultdict(list)
        for seed in range(given.seeds):
            rounds = privacy.texts(made.encoder, text, [], np.random.default_rng(seed))
            for mode in privacy.MODES:
                fleet = privacy.run(made, rounds, budget, 1, mode)
                curves[mode].append(_curve(made, fleet, held))
                sizes[mode] += fleet.sizes
        for mode in privacy.MODES:
            _show(budget, mode, np.array(curves[mode]), np.array(curves["off"]), np.array(sizes[mode]))


def _curve(made, fleet, held):
    """Bits per byte after the first round, after the half of them, and after the last."""
    last = len(fleet.sent[0])
    found = []
    for number in sorted({1, max(last // 2, 1), last}):
        released = privacy.memory.merge([as_memory(each) for own in fleet.sent for each in own[:number]])
        found.append(privacy.bits_per_byte(made, released, held))
    return found


def _show(budget, mode, curves, peers, sizes) -> None:
    value, peer = float(curves[:, -1].mean()), float(peers[:, -1].mean())
    line = {"claim": CLAIM, "case": f"held-out scripture, {budget} B, private mode {mode}", "value": round(value, 4)}
    line |= {
        "unit": "bit/B",
        "peer": "off, as many bytes",
        "peer_value": round(peer, 4),
        "ratio": round(value / peer, 4),
    }
    costs = curves - peers
    line |= {"cost": round(float(costs[:, -1].mean()), 4), "worst_seed": round(float(costs[:, -1].max()), 4)}
    line |= {"curve": np.round(costs.mean(axis=0), 4).tolist(), "seeds": len(curves)}
    line |= {"bytes_max": int(sizes.sum(axis=1).max()), "mention_bytes": round(float(sizes[:, 1].mean()))}
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
