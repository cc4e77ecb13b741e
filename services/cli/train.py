"""`qig train`: the first constellation, from text alone; with --batch, what a trainer makes of a batch."""

import importlib.util
import json as json_text
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Final

from common.constellation.paths import DOMAINS
from common.errors import Rejected, Unavailable
from common.kernels.spec import SIZES
from common.runtime.settings import TrainerSettings
from common.wire.codec import unpack
from common.wire.fields import MESSAGE_MAX_BYTES
from common.wire.messages import Batch
from services.cli import genesis as directory
from services.cli.batch import FILE, PARENT
from services.cli.home import unwritable
from services.cli.show import Listing, console, plain, progress
from services.trainer import folder, text

if TYPE_CHECKING:
    from services.trainer.consolidate import Consolidated

STAGES: Final = ("seed state", "branches", "memories", "gates", "integrator")


def run(*, size: str, seed: int, out: Path, data: Path, coordizer: Path | None, workers: int) -> int:
    """Train, then write the parts, whole or not at all. Under torchrun every process trains, the first one speaks."""
    if size not in SIZES:
        raise Rejected("bad_size", f"no size {size[:80]!r}: choose from {', '.join(SIZES)}")
    corpora = text.load(data).corpora
    given = None if coordizer is None else directory.coordizer(coordizer)
    check_torch()
    check_writable(out)
    from services.trainer import curves  # noqa: PLC0415 -- torch, which may be missing: the line above says so
    from services.trainer.recipe import forget, genesis  # noqa: PLC0415
    from services.trainer.team import join  # noqa: PLC0415

    stages = STAGES if given else ("coordizer", *STAGES)
    began, kept = time.monotonic(), out.with_name(f"{out.name}-run")
    with join(os.environ) as team, progress(stages) if team.rank == 0 else nullcontext(_silent) as tell:
        parts = genesis(
            corpora, size, folder=kept, seed=seed, workers=workers, progress=tell, coordizer=given, team=team
        )
    if team.rank:
        return 0
    packed = folder.pack(parts)
    folder.write(packed, out)
    forget(kept)
    drawn = curves.draw(curves.read(kept), kept / curves.PICTURE)
    told = f"{sum(map(len, packed.values())) / 1e6:.1f} MB in {plain(str(out))}, {time.monotonic() - began:.0f} s"
    picture = f", drawn in {curves.PICTURE}" if drawn else " (pip install matplotlib draws them)"
    console().print(f"{len(parts)} parts, {told}; curves in {plain(str(kept))}{picture}\n`qig validate` measures them")
    return 0


def consolidate(
    *, batch: Path, parent: Path | None, out: Path, data: Path, steps: int | None, seed: int, json: bool
) -> int:
    """`qig train --batch`: the parts of the candidate, whole or not at all, and its figures.

    parent: a folder of parts; the one beside the file when not given. steps: as many as a trainer takes when not given.
    """
    message = _batch(batch)
    parts = folder.read(parent or batch.with_name(PARENT))
    if parts is None or DOMAINS not in parts:
        where = parent or batch.with_name(PARENT)
        raise Unavailable("no_parent", f"no constellation at {where}: name what the batch is for with --parent")
    owned = text.load(data)
    check_torch()
    check_writable(out)
    from services.trainer.consolidate import consolidate as consolidated  # noqa: PLC0415 -- torch, as above

    taken = TrainerSettings.model_fields["steps"].default if steps is None else steps
    kept = out.with_name(f"{out.name}-run")
    made = consolidated(
        parts,
        message,
        replay=owned.replay,
        held_out=owned.held_out,
        parents=owned.parents,
        steps=taken,
        seed=seed,
        folder=kept,
    )
    folder.write(made.parts, out)
    shutil.rmtree(kept, ignore_errors=True)
    _tell(made, parts, out, json=json)
    return 0


def _batch(file: Path) -> Batch:
    """Raises Unavailable("unreadable"), Rejected("oversized", or what is wrong with what is in it)."""
    try:
        return unpack(Batch, _contents(file))
    except Rejected as error:
        message = f"{file} holds no whole batch: {error.message}; `qig batch save` writes one"
        raise Rejected(error.code, message) from error


def _contents(file: Path) -> bytes:
    if file.is_dir():
        raise Unavailable("unreadable", f"{file} is a directory: name the file in it, {file / FILE}")
    try:
        if file.stat().st_size > MESSAGE_MAX_BYTES:
            raise Rejected("oversized", f"{file} has {file.stat().st_size} bytes; a batch has {MESSAGE_MAX_BYTES}")
        return file.read_bytes()
    except OSError as error:
        message = f"can't read {file}: {error.strerror}; `qig batch save` writes such a file"
        raise Unavailable("unreadable", message) from error


def _tell(made: "Consolidated", parent: Mapping[str, bytes], out: Path, *, json: bool) -> None:
    changed = sorted(path for path, data in made.parts.items() if parent.get(path) != data)
    if json:
        for figure in made.figures:
            sys.stdout.write(json_text.dumps(figure.model_dump(mode="json")) + "\n")
        told = {"out": str(out), "changed": changed, "guards": list(made.guards)}
        sys.stdout.write(json_text.dumps(told) + "\n")
        return
    table = Listing("figure", "domain", "before", "after", "unit", "change, 95 %")
    for figure in made.figures:
        before = "" if figure.before is None else f"{figure.before:.4f}"
        sure = "" if figure.low is None else f"{figure.low:+.4f} to {figure.high:+.4f}"
        table.add_row(figure.name, plain(figure.domain or ""), before, f"{figure.after:.4f}", figure.unit, sure)
    console().print(table)
    said = f"; guards: {', '.join(made.guards)}" if made.guards else ""
    console().print(f"{len(made.parts)} parts in {plain(str(out))}, {len(changed)} of them new{said}")


def _silent(_stage: str, _done: float) -> None:
    """What the other processes of a team report."""


def check_writable(out: Path) -> None:
    """Raises Unavailable("home_unwritable") now rather than after minutes of training."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            return
    except OSError as error:
        raise unwritable(out.parent, error) from None


def check_torch() -> None:
    """Raises Unavailable("no_torch") with what to install."""
    if importlib.util.find_spec("torch") is None:
        raise Unavailable("no_torch", "this needs torch, which is not installed: pip install torch==2.13.0")
