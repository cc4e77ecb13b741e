"""A run's curve: every point on disk before it is used, torn lines survived, drawn at the end."""

import json
import math

import pytest

from common.errors import Unavailable
from services.trainer import curves
from services.trainer.loop import Point


def point(step, loss=5.0, phi=0.5):
    return Point(step, loss, 0.1, phi, "GO")


def write(folder, name, points):
    with curves.Recorder(folder, name) as recorder:
        return list(recorder.follow(points))


def test_points_survive_the_file_and_pass_through_unchanged(tmp_path):
    points = [point(1), point(2, phi=None), Point(3, 4.0, 0.2, 0.9, "RENEW", "phi 0.900 is above 0.85")]
    assert write(tmp_path, "seed", points) == points
    assert curves.read(tmp_path) == {"seed": points}


def test_a_point_is_on_disk_before_the_next_one_is_made(tmp_path):
    seen = []

    def points():
        for step in (1, 2):
            yield point(step)
            seen.append(len((tmp_path / "seed.jsonl").read_text().splitlines()))

    write(tmp_path, "seed", points())
    assert seen == [1, 2]


def test_of_a_step_that_was_made_twice_the_later_one_counts(tmp_path):
    write(tmp_path, "seed", [point(1), point(2, loss=9.0)])
    write(tmp_path, "seed", [point(2, loss=4.0), point(3)])
    assert curves.read(tmp_path) == {"seed": [point(1), point(2, loss=4.0), point(3)]}


def test_a_line_torn_by_a_kill_is_left_out(tmp_path):
    write(tmp_path, "seed", [point(1), point(2)])
    path = tmp_path / "seed.jsonl"
    path.write_text(path.read_text()[:-20])
    assert curves.read(tmp_path) == {"seed": [point(1)]}


def test_a_run_that_goes_on_after_a_torn_line_keeps_its_own_lines_whole(tmp_path):
    write(tmp_path, "seed", [point(1), point(2)])
    path = tmp_path / "seed.jsonl"
    path.write_text(path.read_text()[:-20])
    write(tmp_path, "seed", [point(2), point(3)])
    assert curves.read(tmp_path) == {"seed": [point(1), point(2), point(3)]}


def test_a_folder_that_is_not_there_is_unavailable(tmp_path):
    with pytest.raises(Unavailable, match=r"can't write .*seed.jsonl"):
        curves.Recorder(tmp_path / "gone", "seed")


def test_the_picture_is_a_png_of_all_runs(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "curves.png"
    assert curves.draw({"seed": [point(1), point(2, phi=None)], "heart": [point(1)]}, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 5000


def test_without_matplotlib_there_is_no_picture_and_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr(curves.importlib.util, "find_spec", lambda _: None)
    assert not curves.draw({"seed": [point(1)]}, tmp_path / "curves.png")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_unavailable_and_says_so(tmp_path):
    (tmp_path / "seed.jsonl").symlink_to("/dev/full")
    with pytest.raises(Unavailable, match=r"No space left on device\. Free some space"):
        write(tmp_path, "seed", [point(1)])


def test_what_is_not_finite_is_null_for_every_reader_and_nan_for_ours(tmp_path):
    write(tmp_path, "seed", [point(1, loss=float("nan"), phi=None)])
    (line,) = (tmp_path / "seed.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail)["loss"] is None
    assert math.isnan(curves.read(tmp_path)["seed"][0].loss)
