"""`qig coordizer train`, `export`, `show`."""

import io
import json as json_text
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from rich.table import Table

from common.constants import Role
from common.coordizer import build, trace
from common.coordizer import export as exports
from common.coordizer.artifacts import Coordizer, digest, prefix
from common.errors import Unavailable
from services.cli import genesis as directory
from services.cli.show import Listing, bar, console, number, plain, progress
from services.cli.train import check_writable
from services.trainer import coordizers
from services.trainer.corpora import selection
from services.trainer.corpora.document import Document

STAGES: Final = ("text", "coordizer")
CHECKPOINT_MAX_BYTES: Final = 1 << 20  # 32,509 merges take 260 KB


def train(*, corpora: Path, out: Path, vocab_size: int, lam: float, seed: int, threads: int) -> int:
    """Read, train under watch, write; merges of a stopped run are taken up again."""
    check_writable(out)
    with progress(STAGES) as tell:
        owned = selection.load(corpora, part="train")
        chosen = selection.select(owned)
        corpus = build.read(_told(chosen, tell), seed, threads)
        kept = Checkpoint(out, f"{corpus.provenance.corpus_sha256}-{seed}-{lam}")
        made = build.built(
            corpus,
            vocab_size=vocab_size,
            lam=lam,
            threads=threads,
            start=kept.read(),
            watch=True,
            keep=kept.write,
            progress=lambda done: tell("coordizer", done),
        )
    coordizers.write(made, out)
    kept.remove()
    shown = f"{made.vocab_size} ids from {sum(row.size_bytes for _, row in chosen) / 1e6:.1f} MB of text"
    console().print(f"{shown}, in {plain(str(out))}; `qig coordizer show {plain(str(out))}` tells more")
    return 0


class Checkpoint:
    """The merges of a training that may be stopped, beside its folder, under the name of its text and parameters."""

    def __init__(self, out: Path, key: str) -> None:
        self._path = out.with_name(f".{out.name}-{key}.npy")

    def read(self) -> npt.NDArray[np.int32] | None:
        """What was kept; None when there is nothing, or nothing whole."""
        try:
            if self._path.stat().st_size > CHECKPOINT_MAX_BYTES:
                return None
            found = np.load(io.BytesIO(self._path.read_bytes()), allow_pickle=False)
        except (OSError, EOFError, ValueError):
            return None
        whole = found.dtype == np.int32 and found.ndim == 2
        return np.asarray(found) if whole else None

    def write(self, merges: npt.NDArray[np.int32]) -> None:
        """Atomic. Raises Unavailable("unwritable")."""
        body = io.BytesIO()
        np.save(body, merges, allow_pickle=False)
        part = self._path.with_suffix(".part")
        try:
            part.write_bytes(body.getvalue())
            part.replace(self._path)
        except OSError as error:
            raise Unavailable("unwritable", f"can't write {part}: {error.strerror}; free space there") from error

    def remove(self) -> None:
        """Nothing to take up again."""
        self._path.unlink(missing_ok=True)


def export(*, folder: Path, out: Path, vocab_size: int | None) -> int:
    """The same ids for other people's loaders."""
    made = directory.coordizer(folder)
    made = made if vocab_size is None else prefix(made, vocab_size)
    files = {
        "tokenizer.json": exports.tokenizer_json(made),
        "qig.tiktoken": exports.tiktoken_ranks(made),
        "phi.svg": trace.svg(_looks(made)).encode(),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, body in files.items():
            (out / name).write_bytes(body)
    except OSError as error:
        raise Unavailable("unwritable", f"can't write {out}: {error.strerror}; choose another folder") from error
    console().print(f"{', '.join(files)} in {plain(str(out))}; {made.vocab_size} ids")
    return 0


def show(*, folder: Path, json: bool) -> int:
    """What is in an artifact; reading it checks it."""
    made = directory.coordizer(folder)
    if json:
        sys.stdout.write(json_text.dumps(_figures(made)) + "\n")
        return 0
    out = console()
    out.print(f"{made.vocab_size} ids, λ {made.lam}, seed {made.provenance.seed}, digest {digest(made)[:16]}")
    for role, size in made.provenance.size_bytes.items():
        out.print(f"{role}: {size / 1e6:.1f} MB in {made.provenance.documents[role]} documents")
    out.print(_table(_looks(made)))
    return 0


def _figures(made: Coordizer) -> dict[str, object]:
    looks = [asdict(look) for look in _looks(made)]
    own = {"vocab_size": made.vocab_size, "lam": made.lam, "digest": digest(made), "phi": looks}
    return own | {"provenance": asdict(made.provenance)}


def _looks(made: Coordizer) -> tuple[trace.Look, ...]:
    return tuple(trace.Look(*row) for row in made.trace)


def _table(looks: Sequence[trace.Look]) -> Table:
    shown = Listing()
    for column in ("ids", "phi", "", "phi by midpoints"):
        shown.add_column(column, justify="left" if not column else "right")
    for look in looks:
        shown.add_row(str(look.ids), number(look.phi, ".3f"), bar(look.phi or 0.0), number(look.phi_midpoints, ".3f"))
    return shown


def _told(chosen: Sequence[tuple[Role, Document]], tell: Callable[[str, float], None]) -> Iterator[tuple[Role, str]]:
    for place, (role, row) in enumerate(chosen, start=1):
        yield role, row.text
        if place % 100 == 0 or place == len(chosen):
            tell("text", place / len(chosen))
