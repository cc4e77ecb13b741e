"""`qig corpus fetch`, `seed`, `full`: from pinned archives to the files that training reads."""

from collections.abc import Callable
from pathlib import Path

from services.cli.show import console, plain, progress
from services.trainer.corpora import fetch as archives
from services.trainer.corpora import seed as slices
from services.trainer.corpora.seed import Built

Build = Callable[[Path, Path, Callable[[str, float], None]], list[Built]]


def fetch(names: list[str], cache: Path) -> int:
    """Download what is not in the cache yet."""
    wanted = names or list(archives.lock())
    for name in wanted:
        archives.source_named(name)  # a name that is not there is said before anything is loaded
    with progress(wanted) as tell:
        found = archives.fetch(wanted, cache, tell)
    console().print(f"{len(found)} archives in {plain(str(cache))}, every digest as pinned; next: `qig corpus full`")
    return 0


def seed(cache: Path, out: Path) -> int:
    """The slice that the repository holds."""
    return _build(slices.build_seed, cache, out)


def full(cache: Path, out: Path) -> int:
    """Everything; not for publication, since some of it may not be copied on."""
    return _build(slices.build_full, cache, out)


def _build(build: Build, cache: Path, out: Path) -> int:
    shown = console()
    with progress() as tell:
        built = build(cache, out, tell)
    for file in built:
        size = f"{file.text_bytes / 1e6:.2f} MB of text in {file.documents} documents"
        shown.print(f"{file.domain}: {size}, {plain(str(file.path))}")
    return 0
