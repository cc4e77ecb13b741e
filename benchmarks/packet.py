"""Claims: a sleep packet is chosen and coded in 100 ms and read and merged in 2 ms, and no bytes harm who reads them.

    python benchmarks/packet.py [size] [time] [--genesis FOLDER]        the shipped genesis: 4,096 tokens
    python benchmarks/packet.py fuzz [--minutes 1] [--seed 0]

An edge has read scripture, which no shipped kernel has seen, into the residue of new territory. size: the whole packet,
the bits of an n-gram, and as peers the same n-grams in the other forms and as delta varints under zstd 19. time:
processor time of one thread, the median of REPEATS, warm: select (screen and rank the residue), encode (what the base
expects, fit, seal), decode (open, verify, read as the aggregator does), merge (cap, add; a batch of EDGES packets, per
packet).

fuzz: random bytes, golden packets cut, spliced, flipped and signed again, and made-up columns behind a right crc32 and
signature, read as the aggregator reads them until the minutes are over. Each must be read or refused by name, in
SECONDS_MOST, with at most 10 times its bytes, ENTRY_BYTES for each n-gram that its bits could hold (4,096 at most), two
for each token of the vocabulary, and FIXED_BYTES of memory at once.
"""

import argparse
import json
import os
import time
import tracemalloc
from collections import Counter
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # before numpy: it reads them when it is imported

import numpy as np
import zstandard

from common.constellation import parts as bundle_parts
from common.constellation.priors import prior_of
from common.coordizer.artifacts import prefix, token_bytes
from common.coordizer.encode import Encoder
from common.errors import QigError
from common.kernels import gate, memory
from common.kernels.kernel import Kernel
from common.wire import adaptive, crystals, export, packet, packet_vectors, plain, varints
from common.wire.codec import canonical, parse
from common.wire.crystals import ENTRY_BYTES, LEVELS, PACKET_MAX_ENTRIES, PACKET_MAX_TOTAL
from common.wire.ngrams import Crystals, Order, capped
from common.wire.packet import DOMAIN_SEPARATION
from common.wire.plain import COLUMNS
from common.wire.rice import pack
from services.edge.crystals import select
from services.edge.screen import Screen
from services.trainer import coordizers, folder
from services.trainer.corpora.document import documents
from services.trainer.corpora.split import split

CLAIMS = {
    "size": "a packet of 2,900 bytes of crystals has at most 4,096; n-grams take fewer bits than delta varints in zstd",
    "time": "a packet is chosen and coded in 100 ms, and read and merged in 2 ms, on one core",
    "fuzz": "any bytes are read or refused by name, in bounded time and memory",
}
LIMITS_MS = {"select + encode": 100.0, "decode + merge": 2.0}
BUDGETS = (1024, 2900)
VOCABULARIES = (2048, 4096, 32_768)
RESIDUES = (24_000, 1_000_000)  # bytes of text: a round's, and what one fold takes at most (or all there is)
EDGES, REPEATS = 64, 15
MASS_CAP = 100_000  # QIG_MASS_CAP
SECONDS_MOST = 0.05  # of the processor: a hundred times what the slowest honest packet takes
FIXED_BYTES = 50_000  # of any input: an array as long as its header announces, validators, exceptions, buffers
KEY = packet_vectors.KEY
PRIOR = packet_vectors.golden_prior()
GOLDEN = packet_vectors.cases()["golden"].body
TERMS = {"signing_key": KEY, "epoch": 1, "base_version": 3, "base": bytes(8), "at_s": 1.5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[*CLAIMS, []], default=[])
    parser.add_argument("--genesis", type=Path, default=Path("data/genesis"))
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    wanted = given.cases or list(CLAIMS)
    if {"size", "time"} & {*wanted}:
        for vocab in VOCABULARIES if "size" in wanted else ():
            _vocabulary(vocab)
        made = bundle_parts.load(folder.read(given.genesis))
        heart = made.kernel("heart")
        kernel = Kernel(heart.state, (*heart.memories, memory.count([], 3)), gate.prior(3))
        passages = [
            made.encoder.encode(each.text) for each in split(documents("unseen/scripture", root=Path("data"))).train
        ]
        prior = prior_of(heart.memories, made.coordizer.vocab_size)
        for name in wanted:
            if name != "fuzz":
                {"size": _size, "time": _time}[name](made.coordizer, kernel, prior, made.encoder, passages)
    if "fuzz" in wanted:
        _fuzz(given.minutes, np.random.default_rng(given.seed))


def _residue(encoder, passages, size_bytes, seed):
    """The counts of so much text, the passages in an order of the seed's."""
    taken, size = [], 0
    for at in np.random.default_rng(seed).permutation(len(passages)):
        taken.append(passages[at])
        size += len(encoder.decode(passages[at]))
        if size >= size_bytes:
            break
    return memory.count(taken, 3), size


def _sealed(blob, sequence=0, tokens=10_000):
    told = GOLDEN.model_copy(update={"crystals": blob, "tokens": tokens, "gate": bytes(99)})
    return packet.seal(told, sequence=sequence, **TERMS)


def _size(coordizer, kernel, prior, encoder, passages) -> None:
    vocab = coordizer.vocab_size
    for size_bytes in RESIDUES:
        residue, read = _residue(encoder, passages, size_bytes, 0)
        chosen = _chosen(residue, kernel, coordizer)
        for budget in BUDGETS:
            terms = {"vocab_size": vocab, "budget_bytes": budget}
            sent, blob = crystals.fit(chosen.crystals, chosen.ranking, **terms, prior=prior)
            where = f"{budget} B of crystals of {read // 1000} KB of text"
            _show("size", f"packet, {where}", len(_sealed(blob)), "B", "limit", 4096)
            for peer, bits, others in _bits(sent, blob, vocab):
                _show("size", f"an n-gram of {sent.entries}, {where}", bits, "bit", peer, others)


def _vocabulary(vocab) -> None:
    """The coder alone, over the first ids of the shipped coordizer: a round's most frequent n-grams."""
    encoder = Encoder(prefix(coordizers.read(Path("data/coordizer-32k")), vocab))
    passages = [encoder.encode(each.text) for each in split(documents("unseen/scripture", root=Path("data"))).train]
    residue, _ = _residue(encoder, passages, RESIDUES[0], 0)
    found = Crystals(tuple(Order(t.keys, t.counts, t.contexts, t.totals) for t in residue.tables))
    counts = np.concatenate([order.counts for order in found.orders]).astype(np.int64)
    ranking = np.argsort(-counts, kind="stable")[: int((counts > 1).sum())]
    (sent, blob), spent = _timed(lambda: crystals.fit(found, ranking, vocab_size=vocab, budget_bytes=BUDGETS[-1]))
    where = f"{len(blob)} B of crystals over {vocab} tokens"
    for peer, bits, others in _bits(sent, blob, vocab):
        _show("size", f"an n-gram of {sent.entries}, {where}", bits, "bit", peer, others, encode_ms=spent)


def _bits(sent, blob, vocab):
    """Of an n-gram in the blob, and of the same ones otherwise."""
    _, alone = crystals.fit(sent, np.arange(sent.entries), vocab_size=vocab, budget_bytes=1 << 16)
    forms = {"adaptive, no base": alone, "plain form": crystals.encode(sent, vocab)}
    for peer, other in (*forms.items(), ("delta varints, zstd 19", _varints(sent))):
        yield peer, 8 * len(blob) / sent.entries, 8 * len(other) / sent.entries


def _varints(found):
    out = bytearray()
    for order in found.orders:
        for column in (np.diff(order.keys, prepend=np.uint64(0)), order.counts, order.totals):
            for number in column.tolist():
                while number > 127:
                    out.append(number & 127 | 128)
                    number >>= 7  # noqa: PLW2901 -- the rest of it
                out.append(number)
    return zstandard.ZstdCompressor(level=19).compress(bytes(out))


def _time(coordizer, kernel, prior, encoder, passages) -> None:
    vocab, memories = coordizer.vocab_size, kernel.memories[:1]

    def heard():
        """As a sleep makes it: each time anew."""
        return prior_of(memories, vocab)

    for size_bytes in RESIDUES:
        residues = [_residue(encoder, passages, size_bytes, seed) for seed in range(3)]
        read = residues[0][1]
        for budget in BUDGETS:
            where = f"{budget} B of crystals of {read // 1000} KB of text"
            spent: dict[str, list[float]] = {"select": [], "encode": []}
            for n in range(REPEATS):
                chosen, select_ms = _timed(_chosen, residues[n % 3][0], kernel, coordizer)
                _, encode_ms = _timed(lambda c=chosen, b=budget: _encode(c, heard(), vocab, b))
                spent["select"].append(select_ms)
                spent["encode"].append(encode_ms)
            _show_sum(spent, "select + encode", where)
            raws = [_encode(_chosen(residues[n % 3][0], kernel, coordizer), prior, vocab, budget, n) for n in range(3)]
            spent = {"decode": [], "merge": []}
            for _ in range(REPEATS):
                found, decode_ms = _timed(lambda v=vocab, r=raws: [_read(r[n % 3], v, prior) for n in range(EDGES)])
                _, merge_ms = _timed(lambda f=found: crystals.merge([capped(each, MASS_CAP) for each in f]))
                spent["decode"].append(decode_ms / EDGES)
                spent["merge"].append(merge_ms / EDGES)
            _show_sum(spent, "decode + merge", where)


def _chosen(residue, kernel, coordizer):
    """As sleep.fold does it."""
    return select(Screen.of(token_bytes(coordizer.merges)).speakable(residue), kernel)


def _encode(chosen, prior, vocab, budget, sequence=0):
    _, blob = crystals.fit(chosen.crystals, chosen.ranking, vocab_size=vocab, budget_bytes=budget, prior=prior)
    return _sealed(blob, sequence)


def _timed(work, *values):
    start = time.process_time()
    done = work(*values)
    return done, 1000 * (time.process_time() - start)


def _show_sum(spent, name, where) -> None:
    for part, values in spent.items():
        _show("time", f"{part}, {where}", float(np.median(values)), "ms", "", None)
    both = [sum(pair) for pair in zip(*spent.values(), strict=True)]
    _show("time", f"{name}, {where}", float(np.median(both)), "ms", "limit", LIMITS_MS[name])


def _read(raw, vocab, prior):
    """As admit.py does, from bytes to crystals."""
    body = packet.verify(packet.open_envelope(raw), KEY.verify_key)
    if not body.crystals:
        return None
    return crystals.decode(body.crystals, vocab, PACKET_MAX_ENTRIES, max_total=PACKET_MAX_TOTAL, prior=prior)


# Fuzz


def _fuzz(minutes, rng) -> None:
    """Raises what no reader may raise; ends with SystemExit where a bound is passed."""
    golden = list(packet_vectors.cases().values())
    outcomes: Counter[str] = Counter()
    slowest, hungriest = 0.0, 0.0
    until = time.monotonic() + 60 * minutes
    for raw in [*(case.raw for case in golden), *(raw for raw, _, _ in packet_vectors.refusals())]:
        _outcome(raw, export.VOCAB_SIZE)  # what is made once, at the first packet of its kind, is nobody's input
    while time.monotonic() < until:
        raw, vocab = _input(rng, golden)
        outcome, seconds, peak = _watched(raw, vocab)
        if seconds > SECONDS_MOST:  # once is what a vocabulary or a busy machine takes at its first; twice is the input
            outcome, seconds, peak = _watched(raw, vocab)
        allowed = 10 * len(raw) + ENTRY_BYTES * min(PACKET_MAX_ENTRIES, 4 * len(raw)) + 2 * vocab + FIXED_BYTES
        if seconds > SECONDS_MOST or peak > allowed:
            raise SystemExit(
                f"{outcome} took {seconds:.3f} s and {peak} B (allowed {allowed}): {raw.hex()} over {vocab}"
            )
        outcomes[outcome] += 1
        slowest, hungriest = max(slowest, seconds), max(hungriest, peak / max(len(raw), 4096))
    _show("fuzz", "inputs read or refused by name", outcomes.total(), "inputs", "", None, outcomes=dict(outcomes))
    _show("fuzz", "slowest input", 1000 * slowest, "ms", "limit", 1000 * SECONDS_MOST)
    _show("fuzz", "peak memory of an input, in sizes of the largest packet", hungriest, "x 4,096 B", "", None)


def _watched(raw, vocab):
    """What became of an input, the processor's seconds, and the most memory at once, bytes."""
    tracemalloc.start()
    start = time.process_time()
    outcome = _outcome(raw, vocab)
    seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return outcome, seconds, peak


def _outcome(raw, vocab):
    try:
        _read(raw, vocab, PRIOR if vocab == export.VOCAB_SIZE else None)
    except QigError as error:
        return error.code
    return "read"


def _input(rng, golden):
    """Bytes that claim to be a packet, and the vocabulary they are read with."""
    kind, case = rng.integers(0, 7), golden[rng.integers(0, len(golden))]
    if kind == 0:
        return rng.bytes(int(rng.integers(0, 5000))), 2048
    if kind == 1:
        return _mutated(rng, case.raw), case.vocab_size
    fields = parse("packet", case.raw)
    if kind == 2:  # any body, rightly signed
        return _signed((*fields[:7], _mutated(rng, fields[7])[:3900] or b"\0")), case.vocab_size
    body = list(parse("body", fields[7]))
    vocab = case.vocab_size
    if kind == 3:  # a mutated blob behind a right crc32
        blob = body[12] or b"\1" + bytes(20)
        body[12] = _behind_crc(blob[0], vocab, _mutated(rng, blob[7:]))
    elif kind == 4:
        body[12] = _behind_crc(int(rng.integers(1, 4)), vocab, rng.bytes(int(rng.integers(0, 2900))))
    elif kind == 5:
        body[12] = _code(rng, vocab)
    else:
        body[12] = _columns(rng, vocab)
    body[12] = body[12][:2900]
    return _signed((*fields[:7], canonical(tuple(body)))), vocab


def _signed(fields):
    return canonical((*fields, KEY.sign(DOMAIN_SEPARATION + canonical(fields)).signature))


def _behind_crc(form, vocab, rest):
    name = PRIOR.name if form == adaptive.BASED else b""
    return crystals._with_header(form, vocab, rest[: 2900 - crystals.HEADER.size], name)  # noqa: SLF001 -- forging


def _mutated(rng, data):
    """Flipped, cut, with a piece repeated, moved or replaced."""
    mutated = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        at, size = (int(rng.integers(0, max(len(mutated), 1))), int(2 ** rng.uniform(0, 8)))
        kind = rng.integers(0, 5)
        if kind == 0 and mutated:
            mutated[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            mutated[at : at + size] = b""
        elif kind == 2:
            mutated[at:at] = mutated[at : at + size]
        elif kind == 3:
            mutated[at : at + size] = rng.bytes(min(size, 64))
        else:
            mutated[at : at + size] = bytes([int(rng.choice([0, 255, 127, 128]))]) * size
    return bytes(mutated[:4200])


def _columns(rng, vocab):
    """Columns of made-up numbers that nearly agree with each other, behind sizes that nearly say how many there are."""
    counts = [int(2 ** rng.uniform(0, 9)) for _ in range(COLUMNS)]
    if rng.random() < 0.5:
        counts = [counts[0]] * COLUMNS
    lists = [rng.geometric(rng.uniform(0.2, 0.99), count).astype(np.int64) - 1 for count in counts]
    ks, unary_bits, data = pack(lists)
    sizes = [len(lists[0]), len(lists[1]) if rng.random() < 0.8 else int(2 ** rng.uniform(0, 27)), unary_bits]
    nibbles = bytes(first << 4 | second for first, second in zip(ks[::2], ks[1::2], strict=True))
    tables = b"".join(bytes([size, *rng.integers(0, len(LEVELS) + 1, size)]) for size in rng.integers(1, 9, 3).tolist())
    return _behind_crc(plain.FORM, vocab, varints.write(sizes) + nibbles + tables + data)


def _code(rng, vocab):
    """A code of any numbers of nodes: of random bytes, or of one that makes everything likely or unlikely."""
    sizes = [int(2 ** rng.uniform(0, most)) for most in (13.6, 13, 12)]
    length = int(2 ** rng.uniform(0, 11.4))
    data = rng.bytes(length) if rng.random() < 0.5 else bytes([int(rng.choice([0, 255, 127, 1]))]) * length
    return _behind_crc(int(rng.integers(adaptive.FORM, adaptive.BASED + 1)), vocab, varints.write(sizes) + data)


def _show(claim, case, value, unit, peer, peer_value, **more) -> None:
    line = {"claim": CLAIMS[claim], "case": case, "value": round(value, 3), "unit": unit}
    if peer_value is not None:
        line |= {"peer": peer, "peer_value": round(peer_value, 3), "ratio": round(value / peer_value, 3)}
    print(json.dumps(line | more), flush=True)


if __name__ == "__main__":
    main()
