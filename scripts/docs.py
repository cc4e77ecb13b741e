"""Writes every generated document and file; with --check, names the stale ones and exits 1.

To add a generator, add one line to GENERATED: the directory, and a function that returns its files by name.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from common.runtime import asyncapi, metrics, retention, rights, settings
from common.wire import export, layout, packet_vectors
from common.wire.bundle import part_of
from deploy.grafana import boards
from services.cli import reference
from services.edge.http import routes
from services.trainer import folder, job, text

ROOT: Final = Path(__file__).resolve().parent.parent
BROKER: Final = ROOT / "docs" / "broker.md"
PACKET: Final = ROOT / "docs" / "wire" / "packet.md"
DATA: Final = ROOT / "data"
HUB: Final = ROOT / ".runpod" / "hub.json"


def described(name: str, document: bytes) -> dict[str, bytes]:
    """A document for programs, and as a script for docs/reference, since a page that is a file may load no JSON."""
    return {f"{name}.json": document, f"reference/{name}.js": b"const described = " + document.rstrip() + b";\n"}


GENERATED: Final[tuple[tuple[str, Callable[[], dict[str, bytes]]], ...]] = (
    ("docs", reference.render),
    ("docs", lambda: {"settings.md": settings.markdown().encode()}),
    ("docs", lambda: {"metrics.md": metrics.markdown().encode()}),
    ("docs", lambda: {"rights.md": rights.markdown().encode()}),
    ("docs", lambda: {"broker.md": retention.drawn(BROKER.read_text(encoding="utf-8")).encode()}),
    ("docs", lambda: described("openapi", routes.openapi())),
    ("docs", lambda: described("asyncapi", asyncapi.render())),
    ("deploy/grafana/dashboards", boards.render),
    ("docs/wire", export.render),
    ("docs/wire", packet_vectors.render),
    ("docs/wire", lambda: {"packet.md": layout.drawn(PACKET.read_text(encoding="utf-8")).encode()}),
    (".runpod", lambda: {"tests.json": runpod_tests()}),
)


def runpod_tests() -> bytes:
    """What RunPod asks of the worker's image: a job on the genesis and the text that are in it."""
    parts = folder.read(folder.shipped(DATA)) or {}
    asked = job.of_nothing({path: part_of(data) for path, data in parts.items()}, text.load(DATA).digest)
    given = job.Request(job=asked).model_dump(mode="json", exclude_defaults=True)
    test = {"name": "a batch of which nothing counts, on the shipped genesis", "input": given, "timeout": 60_000}
    flavor = json.loads(HUB.read_bytes())["config"]["cpuFlavor"]
    return (json.dumps({"tests": [test], "config": {"cpuFlavor": flavor}}, indent=2) + "\n").encode()


def rendered() -> dict[Path, bytes]:
    """Every generated file, by its path in the repository."""
    return {Path(directory, name): data for directory, render in GENERATED for name, data in render().items()}


def stale(files: dict[Path, bytes]) -> list[Path]:
    """The files that are missing or differ from what the code says."""
    return [path for path, data in files.items() if not (ROOT / path).is_file() or (ROOT / path).read_bytes() != data]


def main(arguments: list[str]) -> int:
    """Exit code 0, or 1 when --check finds a stale file."""
    old = stale(files := rendered())
    if arguments == ["--check"]:
        for path in old:
            print(f"{path} is stale: run `make docs` and commit the result", file=sys.stderr)
        return 1 if old else 0
    for path in old:
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_bytes(files[path])
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
