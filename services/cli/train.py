"""`qig train`: the first constellation, from text alone."""

import importlib.util
import os
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Final

from common.errors import Rejected, Unavailable
from common.kernels.spec import SIZES
from services.cli.home import unwritable
from services.cli.show import console, plain, progress
from services.trainer import coordizers, folder, text

STAGES: Final = ("seed state", "branches", "memories", "gates", "integrator")


def run(*, size: str, seed: int, out: Path, data: Path, coordizer: Path | None, workers: int) -> int:
    """Train, then write the parts, whole or not at all. Under torchrun every process trains, the first one speaks."""
    if size not in SIZES:
        raise Rejected("bad_size", f"no size {size[:80]!r}: choose from {', '.join(SIZES)}")
    corpora = text.load(data).corpora
    given = None if coordizer is None else coordizers.read(coordizer)
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
