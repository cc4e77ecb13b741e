"""How the command line shows things: one look for all. Colours only on a terminal, and never with NO_COLOR (rich)."""

import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from services.cli.app.command import DEFAULT_HOME

MISSING: Final = "not known"
P_SHOWN_MIN: Final = 0.001  # how far below it lies says nothing: the estimate of Φ is not that exact
PIPED_WIDTH: Final = 200  # where there is no terminal to fit in, tables keep their columns
FOLDED_MIN: Final = 10  # narrower a column that folds cannot be read


def console(*, stderr: bool = False) -> Console:
    """Standard output, or standard error where the former is for a program."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else PIPED_WIDTH)


class Listing(Table):
    """Rows under the names of their columns; where they do not fit, each is a paragraph of names and values.

    rich would leave columns out there, or the end of every figure.
    """

    def __init__(
        self, *names: str, padding: tuple[int, int, int, int] = (0, 1, 0, 1), show_header: bool = True
    ) -> None:
        super().__init__(
            *names, box=None, pad_edge=False, padding=padding, show_header=show_header, caption_justify="left"
        )

    def column(self, name: str, *, folds: bool, justify: JustifyMethod = "left") -> None:
        """One that folds where it is long, or one that never does: a figure of two lines is a wrong one, and so is one
        that is cut without an ellipsis.
        """
        self.add_column(name, justify=justify, no_wrap=not folds, overflow="fold" if folds else "ellipsis")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """As a table, else as a list; a first column without a name is what a paragraph begins with."""
        if self._needed(console, options) <= options.max_width:
            yield from super().__rich_console__(console, options)
            return
        listed = Table.grid(padding=(0, 1))
        listed.add_column(no_wrap=True)
        listed.add_column(overflow="fold")
        names = [str(column.header).strip() for column in self.columns]
        for row in zip(*(column.cells for column in self.columns), strict=True):
            cells = [console.render_str(cell) if isinstance(cell, str) else cell for cell in row]
            mark = "-" if names[0] or not cells[0] else cells[0]
            named = [*zip(names, cells, strict=True)][not names[0] :]
            told = [Text.assemble((name, "dim"), " " if name else "", cell) for name, cell in named if cell]
            listed.add_row(mark, Text(" · ").join(told))
        yield listed
        if self.caption:
            yield console.render_str(str(self.caption), style="table.caption")

    def _needed(self, console: Console, options: ConsoleOptions) -> int:
        room, (_, right, _, left) = options.update_width(PIPED_WIDTH), self.padding
        needed = (right + left) * (len(self.columns) - 1)
        for column in self.columns:
            shown = [*column.cells, column.header if self.show_header else ""]
            found = [Measurement.get(console, room, each) for each in shown]
            whole, word = max(each.maximum for each in found), max(each.minimum for each in found)
            needed += whole if column.no_wrap else min(word, FOLDED_MIN)
        return needed


@contextmanager
def doing(out: Console, what: str) -> Iterator[None]:
    """Says what takes a while: with a clock that runs as long, on a terminal; as a line elsewhere."""
    if not out.is_terminal:
        out.print(f"… {plain(what)}")
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=out, transient=True) as running:
        running.add_task(plain(what), total=None)
        yield


def plain(text: str) -> str:
    """A few words of others within ours: no markup is read in them, no control character reaches the terminal."""
    return escape(_printable(text))


def verbatim(text: str) -> Text:
    """A text of others, shown as it is: also its backslashes and colons, which `plain` leaves to rich."""
    return Text(_printable(text))


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in text)


def command(words: str, home: Path) -> str:
    """`qig WORDS` as this reader can type it in another terminal here: the program as it was called, and its home."""
    home = home.resolve()
    near = home.relative_to(Path.cwd()) if home.is_relative_to(Path.cwd()) else home
    where = "" if home == DEFAULT_HOME.resolve() else f" --home {shlex.quote(str(near))}"
    return f"{_program()} {words}{where}"


def _program() -> str:
    called = Path(sys.argv[0])
    if called.suffix == ".py":  # python -m
        return f"{shlex.quote(sys.executable)} -m services.cli.app"
    found = shutil.which(called.name)
    return called.name if found and Path(found) == called else shlex.quote(str(called))


def number(value: float | None, form: str = ".2f") -> str:
    """A figure, or that it is not known."""
    return MISSING if value is None else format(value, form)


def chance(p: float) -> str:
    """A p-value, to be put after p: 0.42, < 0.001."""
    return "< 0.001" if p < P_SHOWN_MIN else f"{p:.2g}"


def ago(seconds: float) -> str:
    """How long ago, in the largest unit that is not 0."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"


def bar(share: float, width: int = 20) -> str:
    """A share in [0, 1] as a bar."""
    full = round(max(0.0, min(1.0, share)) * width)
    return "█" * full + "·" * (width - full)


@contextmanager
def progress(stages: Sequence[str] = ()) -> Iterator[Callable[[str, float], None]]:
    """Bars, one a stage, on a terminal; elsewhere a line when a stage is done. Yields its teller: (stage, share)."""
    shown = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=shown, disable=not shown.is_terminal) as bars:
        tasks = {stage: bars.add_task(plain(stage), total=1.0, start=False) for stage in stages}

        def tell(stage: str, fraction: float) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(plain(stage), total=1.0, start=False)
            task = tasks[stage]
            if bars.tasks[task].start_time is None:
                bars.start_task(task)
            was_done = bars.tasks[task].finished
            bars.update(task, completed=fraction)
            if fraction >= 1.0 and not was_done and not shown.is_terminal:
                shown.print(f"{plain(stage)}: done")

        yield tell
