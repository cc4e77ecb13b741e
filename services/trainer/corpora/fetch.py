"""Downloads of the pinned archives, through pip and npm, checked by digest. Nothing is installed, imported or unpacked.

Only wheels are asked of pip: for a source distribution `pip download` would run the package's own build.
The lock file is the only list of what may be fetched.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from common.errors import Corrupt, Rejected, Unavailable

LOCK: Final = Path(__file__).with_name("corpora.lock.json")
DOWNLOAD_LIMIT_S: Final = 900.0  # 56 MB at 64 KB/s
POLL_S: Final = 0.1
ERROR_CHARACTERS: Final = 300

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Source:
    """One entry of the lock file: where a text comes from, its digest, and whether our copy may be published.

    `text_bytes` is what its reader yields, within a few percent: it serves progress alone.
    """

    name: str
    registry: Literal["pypi", "npm"]
    package: str
    version: str
    file: str
    size_bytes: int
    sha256: str
    text_bytes: int
    domain: str
    work: str
    licence: str
    may_be_committed: bool


def lock() -> dict[str, Source]:
    """The pinned sources by name, in the lock file's order."""
    return {name: Source(name=name, **entry) for name, entry in json.loads(LOCK.read_text()).items()}


def fetch(names: Iterable[str], cache: Path, progress: Progress) -> list[Path]:
    """Archives of these sources (or of all, for `lock()`) in `cache`, downloaded unless a sound copy is there.

    `progress(name, fraction)` is called with 0 to 1 while a source loads. Raises Rejected("unknown_corpus"),
    Unavailable("corpus_tool" | "corpus_download" | "corpus_cache"), Corrupt("corpus_digest"); a file of the wrong
    digest never enters the cache.
    """
    sources = [source_named(name) for name in names]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        return [_fetch_one(source, cache, progress) for source in sources]
    except OSError as error:
        raise Unavailable("corpus_cache", f"cannot write the cache {cache} ({error}): name another folder") from error


def source_named(name: str) -> Source:
    """The pinned source of this name. Raises Rejected("unknown_corpus")."""
    sources = lock()
    if name not in sources:
        raise Rejected("unknown_corpus", f"no corpus {name[:80]!r}: choose from {', '.join(sources)}")
    return sources[name]


def cached(source: Source, cache: Path) -> Path:
    """The archive in the cache, its digest checked. Raises Unavailable("missing_corpus"), Corrupt("corpus_digest")."""
    path = cache / source.file
    if not path.is_file():
        raise Unavailable("missing_corpus", f"{source.name} is not in {cache}: run `qig corpus fetch {source.name}`")
    check_digest(path, source)
    return path


def check_digest(path: Path, source: Source) -> None:
    """Raises Corrupt("corpus_digest") unless the file is the pinned one."""
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != source.sha256:
        raise Corrupt(
            "corpus_digest",
            f"{path.name} of {source.package} {source.version} has sha256 {found}, the lock says {source.sha256}:"
            " delete it and fetch again; if it stays so, the registry serves another file and it must not be used",
        )


def _fetch_one(source: Source, cache: Path, progress: Progress) -> Path:
    target = cache / source.file
    progress(source.name, 0.0)
    if not _is_sound(target, source):
        # Inside the cache, so that the final rename stays on one file system and is atomic; absolute (Python 3.11 gives
        # back what it was given), because the client runs in that folder.
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache.absolute()) as folder:
            _download(source, Path(folder), progress)
            loaded = Path(folder) / source.file
            if not loaded.is_file():
                raise Unavailable(
                    "corpus_download", f"{source.package} {source.version} came without {source.file}: check the lock"
                )
            check_digest(loaded, source)
            loaded.replace(target)
    progress(source.name, 1.0)
    return target


def _is_sound(path: Path, source: Source) -> bool:
    try:
        check_digest(path, source)
    except (FileNotFoundError, Corrupt):
        return False
    return True


def command(source: Source, folder: Path) -> list[str]:
    """The client call that puts the archive into `folder`."""
    if source.registry == "npm":
        npm = shutil.which("npm")
        if npm is None:
            raise Unavailable(
                "corpus_tool", f"{source.name} comes from npm, and there is no npm here: install Node.js, or do without"
            )
        options = [
            "--loglevel=error",
            "--ignore-scripts",
            "--cache",
            str(folder / "npm"),
            "--pack-destination",
            str(folder),
        ]
        return [npm, "pack", *options, _pin(source, "@")]
    if importlib.util.find_spec("pip") is None:
        raise Unavailable(
            "corpus_tool", f"{source.name} comes through pip, which {sys.executable} lacks: run it with -m ensurepip"
        )
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--quiet"]
    return [*pip, "--no-deps", "--only-binary", ":all:", "--dest", str(folder), _pin(source, "==")]


def _pin(source: Source, separator: str) -> str:
    return f"{source.package}{separator}{source.version}"


def _download(source: Source, folder: Path, progress: Progress) -> None:
    environment = os.environ | {"TMPDIR": str(folder)}  # where pip keeps a file while it loads: progress looks there
    with tempfile.TemporaryFile(dir=folder) as log:
        # A fixed argument list from our own lock file, no shell; its own folder, since npm reads a package.json nearby.
        process = subprocess.Popen(  # noqa: S603
            command(source, folder), cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            status = _wait(process, source, folder, progress)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if status != 0:
            log.seek(0)
            raise Unavailable("corpus_download", f"{_pin(source, ' ')} could not be fetched: {_reason(log.read())}")


def _wait(process: subprocess.Popen[bytes], source: Source, folder: Path, progress: Progress) -> int:
    stop_at = time.monotonic() + DOWNLOAD_LIMIT_S
    while time.monotonic() < stop_at:
        try:
            return process.wait(timeout=POLL_S)
        except subprocess.TimeoutExpired:
            progress(source.name, min(0.99, _loaded_bytes(folder) / source.size_bytes))
    raise Unavailable("corpus_download", f"{source.package} took longer than {DOWNLOAD_LIMIT_S:.0f} s: try again later")


def _loaded_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # the client moves and deletes files while we look
            total += path.lstat().st_size
    return total


def _reason(log: bytes) -> str:
    """What the client said first: its error lines, if it marked any."""
    lines = [line.strip() for line in log.decode(errors="replace").splitlines() if line.strip()]
    told = [line for line in lines if "complete log" not in line]  # npm's pointer to a file in a folder now gone
    marked = [line for line in told if "error" in line.lower()] or told or ["the client gave no reason"]
    return f"{' '.join(marked)[:ERROR_CHARACTERS]} (is the network there?)"
