"""What numba keeps on disk is used with the sources that it was compiled of."""

import numba
import pytest

from common import compilation


@pytest.fixture
def sources(tmp_path):
    for name in ("constants.py", *(f"{room}/compiled.py" for room in compilation.ROOMS)):
        path = tmp_path / "common" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("ONE = 1\n")
    return tmp_path / "common"


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """Of a process of these sources: calls a function, and says whether it was there, compiled."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))

    def one():
        return 1

    def of(sources):
        monkeypatch.setattr(compilation, "_sources", lambda: sources)
        made = compilation.kept(one)
        return lambda: made() == 1 and bool(made.stats.cache_hits)

    return of


def test_what_was_compiled_is_found_until_a_source_changes(compiled):
    for sources, is_there in [("old", False), ("old", True), ("new", False), ("new", True)]:
        found = compiled(sources)
        assert found() is is_there


def test_what_a_process_of_the_old_sources_keeps_after_the_new_ones_came_is_not_used(compiled):
    found_by_the_old = compiled("old")
    found = compiled("new")
    assert not found()
    assert not found_by_the_old()
    found = compiled("new")
    assert not found()


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
