import errno
import inspect
import io
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from common.constants import PHASE_BOUNDS, PHI_WINDOW
from common.errors import Corrupt, Rejected, Unavailable
from services.cli import api_keys, demo, genesis, reference, up
from services.cli import app as cli
from services.cli.app import ending

HEAVY = ("numpy", "numba", "torch", "faststream", "redis", "fastapi", "uvicorn", "pydantic", "nacl", "msgpack", "tuf")
COMMANDS = {
    "demo": ["demo"],
    "up": ["up"],
    "ask": ["ask", "hello"],
    "read": ["read", "book.txt"],
    "watch": ["watch"],
    "stop": ["stop"],
    "top": ["top"],
    "nodes": ["nodes"],
    "route": ["route", "hello"],
    "trace": ["trace", "q-1"],
    "train": ["train"],
    "validate": ["validate"],
    "doctor": ["doctor"],
    "health": ["health"],
    "forget": ["forget", "q1"],
    "packet list": ["packet", "list"],
    "packet show": ["packet", "show", "3"],
    "batch list": ["batch", "list"],
    "packet disown": ["packet", "disown", "edge-1"],
    "batch save": ["batch", "save", "ab12", "--out", "there"],
    "bundle list": ["bundle", "list"],
    "bundle revoke": ["bundle", "revoke", "--to", "3"],
    "bundle why": ["bundle", "why", "3"],
    "warm": ["warm"],
    "dead list": ["dead", "list"],
    "dead replay": ["dead", "replay", "--stream", "queries", "--all"],
    "keys init": ["keys", "init"],
    "keys secret": ["keys", "secret"],
    "keys broker": ["keys", "broker", "--client", "kiosk", "--at", "redis://broker:6379"],
    "keys rotate": ["keys", "rotate", "publisher", "root-1"],
    "keys revoke": ["keys", "revoke", "publisher", "--last-good", "ab" * 32, "--offline", "there"],
    "keys api add": ["keys", "api", "add", "kiosk"],
    "keys api list": ["keys", "api", "list"],
    "keys api revoke": ["keys", "api", "revoke", "kiosk"],
    "corpus fetch": ["corpus", "fetch"],
    "corpus seed": ["corpus", "seed"],
    "corpus full": ["corpus", "full"],
    "coordizer train": ["coordizer", "train"],
    "coordizer export": ["coordizer", "export", "--out", "there"],
    "coordizer show": ["coordizer", "show"],
}


@pytest.fixture
def asked(monkeypatch):
    """What a command would have called: module, function, arguments."""
    calls = []
    monkeypatch.setattr(
        cli.command, "do", lambda module, function="run", **given: calls.append((module, function, given))
    )
    return calls


@pytest.fixture
def end(monkeypatch):
    """The exit code of a command that raises."""

    def run(error, *arguments):
        def fail():
            raise error

        monkeypatch.setattr(sys, "argv", ["qig", *arguments])
        monkeypatch.setattr(cli, "app", fail)
        with pytest.raises(SystemExit) as raised:
            cli.main()
        return raised.value.code

    return run


@pytest.mark.parametrize(("line", "ends"), [(["--help"], 0), (["health", "--port", "1"], 1)])
def test_what_runs_often_loads_nothing_heavy(line, ends):
    code = f"""
import sys
from typer.testing import CliRunner
from services.cli.app import app
assert CliRunner().invoke(app, {line}).exit_code == {ends}
sys.exit(", ".join(name for name in {HEAVY} if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


@pytest.mark.parametrize("line", COMMANDS.values(), ids=COMMANDS)
def test_a_command_gives_its_module_exactly_the_arguments_that_it_takes(asked, line):
    assert CliRunner().invoke(cli.app, line).exit_code == 0
    ((module, function, given),) = asked
    inspect.signature(getattr(import_module(f"services.cli.{module}"), function)).bind(**given)


@pytest.mark.parametrize("words", [["how", "are", "you"], ["how are you"]])
def test_a_question_needs_no_quotes(asked, words):
    for line in (["ask", *words, "--max-tokens", "5"], ["route", "--json", *words]):
        assert CliRunner().invoke(cli.app, line).exit_code == 0
    assert [given.get("text") or given["fields"]["text"] for _, _, given in asked] == 2 * ["how are you"]


def test_training_on_a_batch_takes_other_arguments_than_a_genesis(asked):
    assert CliRunner().invoke(cli.app, ["train", "--batch", "b", "--steps", "3"]).exit_code == 0
    ((module, function, given),) = asked
    inspect.signature(getattr(import_module(f"services.cli.{module}"), function)).bind(**given)
    assert (function, given["out"].name) == ("consolidate", "candidate")


def test_a_size_beside_a_batch_is_refused(asked):
    found = CliRunner().invoke(cli.app, ["train", "--batch", "b", "--size", "base"])
    assert (found.exit_code, asked) == (2, [])
    assert "leave --size out" in " ".join(found.output.replace("│", "").split())


def test_the_help_of_top_names_the_phases_by_their_bounds():
    told = " ".join(CliRunner().invoke(cli.app, ["top", "--help"]).output.split())
    loose, firm, fast = (f"{bound:g}" for bound in PHASE_BOUNDS)
    assert f"FOAM below {loose}, TACKING below {firm}, CRYSTAL to {fast}, FRACTURE above that" in told
    assert f"Φ is above {PHI_WINDOW[1]}" in told


def test_every_command_is_tried_above():
    assert {name.removeprefix("## qig ") for name in headings()} == set(COMMANDS)


def headings():
    return [line for line in reference.render()["cli.md"].decode().splitlines() if line.startswith("## qig ")]


@pytest.mark.parametrize(
    ("error", "code"), [(Rejected("a", "b: c"), 2), (Unavailable("a", "b: c"), 3), (Corrupt("a", "b: c"), 70)]
)
def test_an_error_of_ours_is_one_line_with_its_code_and_an_exit_code_of_its_kind(end, capsys, error, code):
    assert end(error, "watch") == code
    assert capsys.readouterr().err == "error: b: c (a)\n"


def test_a_bug_is_one_line_without_a_traceback(end, capsys):
    assert end(ZeroDivisionError("by\nnought"), "watch") == 4
    assert capsys.readouterr().err.startswith("error: ZeroDivisionError: by (bug): run it again as `qig --debug ...`")


@pytest.mark.parametrize(("file", "where"), [(None, "the output, or a file"), ("/disk/f", "/disk/f")])
def test_a_full_disk_is_no_bug(end, capsys, file, where):
    assert end(OSError(errno.ENOSPC, "No space left on device", file), "nodes") == 3
    said = f"error: cannot write {where}: No space left on device; make room there, and run it again (disk_full)\n"
    assert capsys.readouterr().err == said


def test_a_folder_of_another_user_is_no_bug(end, capsys):
    assert end(PermissionError(errno.EACCES, "Permission denied", "/root/.qig"), "nodes") == 3
    said = "error: cannot use /root/.qig: Permission denied; run it as whom it belongs to, or name another (--home)"
    assert capsys.readouterr().err == f"{said} (not_permitted)\n"


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8", r"Φ é 😀 \udcff"),
        ("latin-1", r"\u03a6 é \ud83d\ude00 \udcff"),
        ("ascii", r"\u03a6 \u00e9 \ud83d\ude00 \udcff"),
    ],
)
def test_what_an_output_s_encoding_lacks_is_escaped_so_that_json_stays_the_same(monkeypatch, encoding, shown):
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    ending.speak()
    out.write('"Φ é 😀 \udcff"')
    out.flush()
    written = out.buffer.getvalue().decode(encoding)
    assert written == f'"{shown}"'
    assert json.loads(written) == "Φ é 😀 \udcff"


@pytest.mark.parametrize("line", [["--help"], ["keys", "api", "list"], ["keys", "api", "list", "--json"]])
def test_an_output_that_nobody_reads_to_its_end_is_no_check_that_failed(tmp_path, line):
    file = tmp_path / "trust" / "api-keys.json"
    api_keys.add("kiosk", file, tmp_path)
    reader, writer = os.pipe()
    os.close(reader)
    try:
        environ = {**os.environ, "QIG_API_KEYS": str(file), "PYTHONUNBUFFERED": ""}
        command = [sys.executable, "-m", "services.cli.app", *line]
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False, text=True, env=environ)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_output_is_as_if_nobody_wanted_to_read_it(tmp_path, closed):
    line = f"exec {sys.executable} -m services.cli.app keys secret --home {tmp_path} {closed}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "private" / "fleet.secret").is_file()


@pytest.mark.parametrize("interrupted", ["typer", "services.cli.app.traffic", "services.cli.keyring"])
def test_ctrl_c_while_a_module_is_imported_shows_no_traceback(interrupted):
    code = f"""
import sys
class CtrlC:
    def find_spec(self, name, *_):
        if name == "{interrupted}":
            raise KeyboardInterrupt
sys.meta_path.insert(0, CtrlC())
sys.argv = ["qig", "keys", "init"]
from services.cli.app import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_ctrl_c_before_a_command_is_chosen_shows_no_traceback(end):
    assert end(KeyboardInterrupt(), "watch") == 130


def test_debug_shows_the_traceback(end):
    with pytest.raises(ZeroDivisionError):
        end(ZeroDivisionError(), "--debug", "watch")


@pytest.fixture
def received(monkeypatch):
    """What the work of a command is given, once it was looked at."""
    calls = []

    def run(**given):
        calls.append(given)
        return 0

    monkeypatch.setattr(
        cli.command, "import_module", lambda _: SimpleNamespace(run=run, train=run, listing=run, rotate=run)
    )
    return calls


@pytest.mark.parametrize(
    "line",
    [
        ["ask", "WORD"],
        ["forget", "WORD"],
        ["trace", "WORD"],
        ["packet", "list", "--node", "WORD"],
        ["keys", "rotate", "WORD"],
    ],
)
def test_words_are_taken_as_they_were_typed_whatever_the_locale_and_refused_when_they_are_no_utf_8(received, line):
    ascii_locale = "Φ".encode().decode("ascii", "surrogateescape")
    assert CliRunner().invoke(cli.app, [ascii_locale if word == "WORD" else word for word in line]).exit_code == 0
    assert "Φ" in str(received)
    latin = CliRunner().invoke(cli.app, ["na\udcefve" if word == "WORD" else word for word in line])
    assert str(latin.exception).startswith(r"no_text: 'na\udcefve' is no UTF-8 text (byte 2): ")
    assert len(received) == 1


def test_a_path_may_be_no_utf_8(received):
    assert CliRunner().invoke(cli.app, ["nodes", "--home", "na\udcefve"]).exit_code == 0
    assert received[0]["home"] == Path("na\udcefve")


NUMBERS = [
    ["ask", "x", "--temperature"],
    ["ask", "x", "--timeout"],
    ["read", "x", "--timeout"],
    ["watch", "--every"],
    ["top", "--every"],
    ["coordizer", "train", "--lam"],
]


@pytest.mark.parametrize("line", NUMBERS, ids=" ".join)
@pytest.mark.parametrize("number", ["nan", "inf"])
def test_what_is_no_number_to_go_by_is_refused_in_every_command(received, line, number):
    found = CliRunner().invoke(cli.app, [*line, number])
    assert found.exit_code == 2 or str(found.exception).startswith(f"bad_number: {number} ")
    assert received == []
    assert CliRunner().invoke(cli.app, [*line, "0.5"]).exit_code == 0


@pytest.mark.parametrize(
    "line",
    [
        ["ask"],
        ["up", "--edges", "0"],
        ["nonsense"],
        ["ask", "x", "--temperature", "2.1"],
        ["ask", "x", "--mode", "gpt-9"],
    ],
)
def test_a_wrong_command_line_ends_with_2(asked, line):
    assert CliRunner().invoke(cli.app, line).exit_code == 2
    assert asked == []


def test_the_home_may_stand_before_the_command_and_after_it_counts_more(asked, monkeypatch):
    monkeypatch.setenv("QIG_HOME", "given")
    for line in (["watch"], ["watch", "--home", "after"], ["bundle", "list"]):
        assert CliRunner().invoke(cli.app, ["--home", "before", *line]).exit_code == 0
    assert [given["home"] for _, _, given in asked] == [Path("before"), Path("after"), Path("before")]


def test_the_home_may_come_from_the_environment(asked):
    CliRunner().invoke(cli.app, ["watch"], env={"QIG_HOME": "/somewhere"})
    assert str(asked[0][2]["home"]) == "/somewhere"


def test_a_genesis_is_the_home_s_own_or_the_shipped_one(tmp_path, monkeypatch):
    monkeypatch.setattr(genesis, "DATA", tmp_path / "data")
    assert genesis.default(tmp_path) == tmp_path / "genesis"  # neither is there: what is missing is the home's own
    (tmp_path / "data" / "genesis").mkdir(parents=True)
    assert genesis.default(tmp_path) == tmp_path / "data" / "genesis"
    (tmp_path / "genesis").mkdir()
    assert genesis.default(tmp_path) == tmp_path / "genesis"


def test_a_folder_without_texts_is_named_with_the_repository(tmp_path, monkeypatch):
    assert genesis.why_no_text() is None
    monkeypatch.chdir(tmp_path)
    assert genesis.why_no_text() == f"no texts in {tmp_path}/data: run qig in its repository: cd {genesis.REPOSITORY}"
    monkeypatch.setattr(genesis, "REPOSITORY", tmp_path)  # installed otherwise: not known where that is
    assert genesis.why_no_text() == f"no texts in {tmp_path}/data: run qig in its repository"


@pytest.mark.anyio
async def test_nothing_is_trained_in_a_wrong_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Unavailable, match="no_genesis: there is no first constellation, and no texts in"):
        await up.first_genesis(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_home_and_no_key_is_made_in_a_wrong_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QIG_BROKER_URL", raising=False)
    with pytest.raises(Unavailable, match=r"no_genesis: .* no texts in .*: run qig in its repository"):
        up.run(1, tmp_path / ".qig", 0)
    assert list(tmp_path.iterdir()) == []


def test_a_constellation_that_is_missed_in_a_wrong_folder_is_named_with_where_one_is(tmp_path, monkeypatch):
    with pytest.raises(Unavailable, match=r"or name another with --genesis$"):
        genesis.parts_of(tmp_path / "genesis")
    with pytest.raises(Unavailable, match=r"no coordizer at .* makes one$"):
        genesis.coordizer(tmp_path / "coordizer")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Unavailable, match=f"; one is shipped: run qig in its repository: cd {genesis.REPOSITORY}$"):
        genesis.parts_of(tmp_path / "genesis")
    with pytest.raises(Unavailable, match=f"; one is shipped: run qig in its repository: cd {genesis.REPOSITORY}$"):
        genesis.coordizer(tmp_path / "coordizer")


def test_no_demo_begins_in_a_wrong_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Unavailable, match="missing_corpus: no texts in"):
        demo.run(home=tmp_path / "home", json=False)
    assert list(tmp_path.iterdir()) == []
