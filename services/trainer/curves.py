"""What a training run says of itself: a line a step as JSON, TensorBoard's files where it is installed, a picture at
the end.

    FOLDER/seed.jsonl   {"step": 1, "loss": 7.62, "basin": .4, "phi": .1, "verdict": "GO", "reason": "", "seconds": .2}

A run that is killed and resumed writes some steps twice; the later line is the run's.
"""

import importlib.util
import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from common.constants import PHI_COLLAPSE, PHI_WINDOW
from common.errors import Unavailable
from services.trainer.loop import Point

SUFFIX: Final = ".jsonl"
PICTURE: Final = "curves.png"


class Recorder:
    """Writes the curve of one run as it is made. Raises Unavailable("curve") when it can't be written."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path, self._began = folder / f"{name}{SUFFIX}", time.monotonic()
        self._board = _board(folder / "tensorboard" / name)
        try:
            self._file = self._path.open("ab", buffering=0)  # nothing is left to be written when it is closed
            if self._file.tell():
                self._file.write(b"\n")  # the last line may have been torn by a kill: it must not take ours with it
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()

    def follow(self, points: Iterable[Point]) -> Iterator[Point]:
        """The points as they come, each written before it is handed on."""
        for point in points:
            line = {name: _finite(value) for name, value in asdict(point).items()}
            line["seconds"] = round(time.monotonic() - self._began, 3)
            try:
                self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
            except OSError as error:
                raise _unwritable(self._path, error) from error
            if self._board is not None:
                for name in ("loss", "basin", "phi"):
                    if line[name] is not None:
                        self._board.add_scalar(name, line[name], point.step)
            yield point


def read(folder: Path) -> dict[str, list[Point]]:
    """The curves in a folder, by name; of a step that was made twice, the later one. A torn last line is left out."""
    found = {}
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        points: dict[int, Point] = {}
        for line in path.read_text().splitlines():
            try:
                fields = json.loads(line)
            except ValueError:
                continue  # torn by a kill, or the empty line between two lives of a run
            known = {name: fields[name] for name in Point.__slots__}
            points[fields["step"]] = Point(**known | {name: _number(known[name]) for name in ("loss", "basin")})
        found[path.stem] = [points[step] for step in sorted(points)]
    return found


def draw(curves: Mapping[str, list[Point]], path: Path) -> bool:
    """Loss and phi over the steps of every run, as PNG; False where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    import matplotlib as mpl  # noqa: PLC0415 - a second to import, and optional
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context({"svg.hashsalt": "qig", "font.size": 9}):
        figure = Figure(figsize=(9, 6), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True)
        for name, points in curves.items():
            steps = [point.step for point in points]
            upper.plot(steps, [point.loss for point in points], label=name, linewidth=1)
            lower.plot(steps, [point.phi for point in points], label=name, linewidth=1)
        upper.set_ylabel("loss, nats (integrator: KL)")
        lower.axhspan(*PHI_WINDOW, alpha=0.15, color="tab:green")
        lower.axhline(PHI_COLLAPSE, linestyle=":", color="tab:red", linewidth=1)
        lower.set(ylabel="Φ of a batch", xlabel="step", ylim=(0, 1))
        upper.legend(ncols=len(curves), fontsize=8)
        figure.savefig(path, dpi=120, metadata={"Software": None})
    return True


def _finite(value: Any) -> Any:
    """JSON has no NaN: what is not finite is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _board(folder: Path) -> Any:
    """TensorBoard's writer, where the package is there; a run needs none."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415

    return SummaryWriter(str(folder))


def _unwritable(path: Path, error: OSError) -> Unavailable:
    return Unavailable("curve", f"can't write {path}: {error.strerror}. Free some space and run again: it resumes")
