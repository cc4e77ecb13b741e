"""What numba keeps on disk is of the sources that are there."""

from pathlib import Path

import pytest

from common import compilation
from common.coordizer.merges import advance
from common.kernels.decode import read_on
from common.wire.ranges import end


@pytest.fixture
def sources(tmp_path):
    for name in ("constants.py", *(f"{room}/compiled.py" for room in compilation.ROOMS)):
        path = tmp_path / "common" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("ONE = 1\n")
    return tmp_path / "common"


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "__pycache__"
    made.mkdir()
    for name in ("say.py311.nbi", "say.py311.1.nbc", "say.cpython-311.pyc"):
        (made / name).touch()
    return made


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_what_was_compiled_of_other_sources_is_forgotten_and_bytecode_is_not(folder):
    compilation.forget_older(folder, "new")
    assert names(folder) == {"say.cpython-311.pyc", compilation.STAMP}


def test_what_was_compiled_of_these_sources_is_kept(folder):
    compilation.forget_older(folder, "new")
    (folder / "say.py311.nbi").touch()
    compilation.forget_older(folder, "new")
    assert "say.py311.nbi" in names(folder)
    compilation.forget_older(folder, "newer")
    assert "say.py311.nbi" not in names(folder)


def test_a_folder_that_cannot_be_written_is_left_as_it_is(tmp_path):
    compilation.forget_older(tmp_path / "nowhere", "new")
    assert names(tmp_path) == set()


@pytest.mark.parametrize("name", ["constants.py", *(f"{room}/compiled.py" for room in compilation.ROOMS)])
def test_any_source_that_changes_makes_others_of_them(sources, name):
    before = compilation.digest_of(sources)
    assert compilation.digest_of(sources) == before
    (sources / name).write_text("ONE = 2\n")
    assert compilation.digest_of(sources) != before


def test_a_line_that_moves_from_one_file_into_another_makes_others_of_them(sources):
    before = compilation.digest_of(sources)
    (sources / "kernels/compiled.py").write_text("")
    (sources / "wire/compiled.py").write_text("ONE = 1\n" * 2)
    assert compilation.digest_of(sources) != before


@pytest.mark.parametrize("function", [advance, read_on, end])
def test_every_room_that_compiles_says_of_which_sources(function):
    stamp = Path(function.stats.cache_path) / compilation.STAMP
    assert stamp.read_text() == compilation.digest_of(Path(compilation.__file__).parent)
