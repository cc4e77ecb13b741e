"""Claim: a thousand packets are verified, validated and merged in a second, on one core.

    python benchmarks/centre.py

The pure rooms, processor time of one thread, warm: a thousand packets of EDGES edges with the shipped genesis, who have
read scripture, opened, verified (ed25519), validated and cut in batches of 256; each share of it, and the whole.
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # before numpy: it reads them when it is imported

import numpy as np
from nacl.signing import SigningKey

from common.constellation import parts as bundle_parts
from common.constellation.priors import prior_of
from common.coordizer.artifacts import FIRST_MERGE, token_bytes
from common.kernels import gate, memory
from common.kernels.kernel import Kernel
from common.wire import basin, crystals
from common.wire.packet import PacketBody, key_id, seal
from services.aggregator.admit import admit, open_packet
from services.aggregator.bases import Base
from services.aggregator.cut import Fleet, Limits, cut
from services.edge.crystals import select
from services.edge.screen import Screen
from services.trainer import folder
from services.trainer.corpora.document import documents
from services.trainer.corpora.split import split

PACKETS, EDGES, BATCH = 1000, 50, 256
BUDGETS = (1024, 2900)  # QIG_CRYSTAL_BYTES by default, and at most
READ_BYTES = 24_000  # of text, of a sleep
MASS_CAP = 100_000  # QIG_MASS_CAP
LIMIT_S = 1.0
REPEATS = 5
AT_S = 1_700_000_000.0


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for budget in BUDGETS:
        _packets(budget)


def say(case, value, unit, *, peer=None, peer_value=None, decimals=3, **more) -> None:
    ratio = None if not peer_value else round(value / peer_value, 3)
    line = {
        "claim": "centre", "case": case, "value": round(value, decimals), "unit": unit,
        "peer": peer, "peer_value": peer_value, "ratio": ratio, **more,
    }  # fmt: skip
    print(json.dumps(line), flush=True)


# Packets


def _packets(budget) -> None:
    base, raws, enrolled = _sent(budget)
    nodes = {key: node for key, (node, _) in enrolled.items()}
    shares = {"open": [], "admit": [], "cut": []}
    for _ in range(REPEATS):
        windows = {}

        def taken(envelope, windows=windows):
            found = admit(
                envelope, enrolled=enrolled, replay=windows.get(envelope.key), entry_ms=int(1000 * AT_S), bases=(base,)
            )
            windows[envelope.key] = found.window
            return found

        envelopes, seconds = _timed(lambda: [open_packet(raw) for raw in raws])
        shares["open"].append(seconds)
        admitted, seconds = _timed(lambda e=envelopes: [taken(each) for each in e])
        shares["admit"].append(seconds)
        read = dict(zip(raws, admitted, strict=True))
        rows = [(one.ref.packed, raw) for raw, one in read.items()]
        ledgers = [dict(rows[at : at + BATCH]) for at in range(0, PACKETS, BATCH)]
        limits = Limits(BATCH, 60.0, MASS_CAP)
        cuts, seconds = _timed(
            lambda each=ledgers, read=read, limits=limits: [
                cut(ledger, bases=(base,), pending={}, limits=limits, fleet=Fleet(nodes, {}), admitted=read)
                for ledger in each
            ]
        )
        shares["cut"].append(seconds)
    where = f"{PACKETS} packets of {budget} B of crystals"
    for part, values in shares.items():
        say(f"{part}, {where}", float(np.median(values)), "s")
    whole = [sum(each) for each in zip(*shares.values(), strict=True)]
    entries = sum(
        crystals.decode(update.crystals, base.vocab_size, 1 << 17).entries
        for found in cuts
        for update in found.batch.domains
    )
    counted = sum(len(found.taken) for found in cuts)
    say(
        f"verified, validated, merged, {where}", float(np.median(whole)), "s", peer="limit", peer_value=LIMIT_S,
        bytes_median=float(np.median([len(raw) for raw in raws])), counted=counted, entries=entries,
    )  # fmt: skip


def _sent(budget):
    """The base, PACKETS sealed packets, and who is enrolled: each edge has read text of its own, in an order of its
    own, and has sent a packet a sleep.
    """
    made = bundle_parts.load(folder.read(Path("data/genesis")))
    heart = made.kernel("heart")
    vocab, prior = made.coordizer.vocab_size, prior_of(heart.memories, made.coordizer.vocab_size)
    merges = tuple(map(tuple, made.coordizer.merges[: vocab - FIRST_MERGE].tolist()))
    base = Base(1, "ab" * 32, vocab, merges, dict(made.domains), {"heart": prior})
    kernel = Kernel(heart.state, (*heart.memories, memory.count([], 3)), gate.prior(3))
    screen = Screen.of(token_bytes(made.coordizer.merges))
    passages = [
        made.encoder.encode(each.text) for each in split(documents("unseen/scripture", root=Path("data"))).train
    ]
    keys = [SigningKey(bytes([n]) * 32) for n in range(EDGES)]
    raws = []
    rng = np.random.default_rng(0)
    told = [_told(passages, made.encoder, screen, kernel, prior, vocab, budget, rng) for _ in range(EDGES)]
    for sequence in range(PACKETS // EDGES):
        for key, (blob, tokens) in zip(keys, told, strict=True):
            at = rng.dirichlet(made.domains["heart"].basin_array * 400 + 0.01)
            sums = np.full((gate.BUCKETS, 2), tokens / gate.BUCKETS / 2)
            body = PacketBody(
                kernel="heart", domain="heart", basin=basin.to_bytes8(at), interactions=40, tokens=tokens,
                fresh_bytes=READ_BYTES, fresh_bits=2.2 * READ_BYTES, phi=0.8, kappa=50.0, phases=(1, 2, 3, 0),
                gate=gate.to_bytes(sums), crystals=blob,
            )  # fmt: skip
            raws.append(
                seal(body, signing_key=key, epoch=1, sequence=sequence, base_version=1, base=base.prefix, at_s=AT_S)
            )
    enrolled = {key_id(key.verify_key): (f"edge-{n}", key.verify_key) for n, key in enumerate(keys)}
    return base, raws, enrolled


def _told(passages, encoder, screen, kernel, prior, vocab, budget, rng):
    """What one edge says of READ_BYTES of text, and how many tokens that were."""
    taken, size = [], 0
    for at in rng.permutation(len(passages)):
        taken.append(passages[at])
        size += len(encoder.decode(passages[at]))
        if size >= READ_BYTES:
            break
    chosen = select(screen.speakable(memory.count(taken, 3)), kernel)
    _, blob = crystals.fit(chosen.crystals, chosen.ranking, vocab_size=vocab, budget_bytes=budget, prior=prior)
    return blob, sum(map(len, taken))


def _timed(work):
    start = time.process_time()
    done = work()
    return done, time.process_time() - start


if __name__ == "__main__":
    main()
