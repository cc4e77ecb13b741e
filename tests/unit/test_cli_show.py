import io
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from services.cli import show


@pytest.mark.parametrize(
    ("called", "home", "line"),
    [
        (".venv/bin/qig", ".qig", ".venv/bin/qig watch"),
        (".venv/bin/qig", ".qig/demo", ".venv/bin/qig watch --home .qig/demo"),
        ("bin/qig", "/my home", "bin/qig watch --home '/my home'"),
        ("services/cli/app/__main__.py", ".qig", f"{sys.executable} -m services.cli.app watch"),
    ],
)
def test_a_command_is_shown_as_the_program_was_called_and_for_its_home(monkeypatch, called, home, line):
    monkeypatch.setattr(sys, "argv", [called])
    assert show.command("watch", Path(home)) == line


@pytest.mark.parametrize(
    ("p", "told"), [(0.42, "0.42"), (0.001, "0.001"), (0.00099, "< 0.001"), (1e-300, "< 0.001"), (0.0, "< 0.001")]
)
def test_a_chance_below_a_thousandth_is_only_said_to_be(p, told):
    assert show.chance(p) == told


def test_a_program_that_the_shell_finds_is_shown_by_its_name(monkeypatch, tmp_path):
    program = tmp_path / "qig"
    program.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [str(program)])
    assert show.command("watch", Path(".qig")) == "qig watch"


@pytest.mark.parametrize(("terminal", "said"), [(False, "… it works\ndone\n"), (True, "it works")])
def test_what_takes_a_while_is_said_when_it_begins(terminal, said):
    out = Console(file=io.StringIO(), width=60, force_terminal=terminal)
    with show.doing(out, "it works"):
        out.print("done")
    assert said in out.file.getvalue()


@pytest.fixture
def listing():
    """With all that tables have: a mark, a name that folds, figures that do not, what has none, a caption."""
    table = show.Listing()
    for name in ("", "node", "ago", "fresh", "why"):
        table.add_column(name, no_wrap=name in {"ago", "fresh"}, overflow="fold")
    table.add_row("[red]✗[/]", "kiosk-harbour-17", "12 s", "123456 B", Text("a disk that is [full]"))
    table.add_row("", "edge-2", "", "1 B", "")
    table.caption = "✗ silent"
    return table


@pytest.mark.parametrize("width", [20, 30, 40, 50, 60, 80])
def test_a_table_says_all_that_it_holds_however_narrow_the_terminal(listing, width):
    out = Console(file=io.StringIO(), width=width)
    out.print(listing)
    lines = out.file.getvalue().splitlines()
    words = " ".join(lines).split()
    assert max(map(len, lines)) <= width
    for said in ("✗", "node", "ago", "fresh", "why", "12", "123456", "edge-2", "disk", "[full]", "silent"):
        assert said in words
    assert "…" not in "".join(lines)


def test_where_a_row_does_not_fit_it_is_a_paragraph_of_names_and_what_they_have(listing):
    out = Console(file=io.StringIO(), width=34)
    out.print(listing)
    assert [line.rstrip() for line in out.file.getvalue().splitlines()] == [
        "✗ node kiosk-harbour-17 · ago 12 s",
        "  · fresh 123456 B · why a disk",
        "  that is [full]",
        "- node edge-2 · fresh 1 B",
        "✗ silent",
    ]


@pytest.mark.parametrize(
    ("seconds", "told"), [(-1.0, "0 s"), (59.9, "59 s"), (60.0, "1 min"), (3_600.0, "1 h"), (200_000.0, "2 d")]
)
def test_how_long_ago_is_told_in_the_largest_unit(seconds, told):
    assert show.ago(seconds) == told
