"""`qig train`: the first constellation, from text alone."""

import importlib.util
import tempfile
from pathlib import Path
from typing import Final

from common.errors import Rejected, Unavailable
from common.kernels.spec import SIZES
from services.cli.home import unwritable
from services.cli.show import console, plain, progress
from services.trainer import folder, text

STAGES: Final = ("coordizer", "memories", "seed state", "branches", "gates", "integrator")


def run(size: str, seed: int, out: Path, data: Path, workers: int) -> int:
    """Train, then write the parts, whole or not at all."""
    if size not in SIZES:
        raise Rejected("bad_size", f"no size {size[:80]!r}: choose from {', '.join(SIZES)}")
    corpora = text.load(data).corpora
    check_torch()
    check_writable(out)
    from services.trainer.recipe import genesis  # noqa: PLC0415 -- torch, which may be missing: the line above says so

    with progress(STAGES) as tell:
        made = genesis(corpora, size, seed=seed, workers=workers, progress=tell)
    folder.write(made.parts, out)
    size_bytes = sum(map(len, made.parts.values()))
    console().print(
        f"{len(made.parts)} parts, {size_bytes / 1e6:.1f} MB, in {plain(str(out))}; `qig validate` measures them"
    )
    return 0


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
