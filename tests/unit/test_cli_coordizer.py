import inspect
import json
from pathlib import Path

import numpy as np
import pytest

from common.constants import ROLES
from common.coordizer import artifacts
from common.coordizer.artifacts import digest, prefix
from common.coordizer.build import build
from common.coordizer.encode import Encoder
from common.coordizer.place import bearings, text_basin
from common.coordizer.train import LAMBDA
from common.errors import Corrupt, Rejected, Unavailable
from common.geometry.routing import Router
from services.cli import coordizer as command
from services.cli import route
from services.cli.app.text import coordizer_train
from services.cli.coordizer import CHECKPOINT_MAX_BYTES, Checkpoint
from services.trainer import coordizers
from services.trainer.corpora import selection

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "data" / "coordizer-32k"
TEXT = "the heron waded through the marsh; the marsh was cold and the heron was grey. "


@pytest.fixture(scope="module")
def small():
    return build([(role, TEXT * 5) for role in ROLES], vocab_size=290)


@pytest.fixture(scope="module")
def shipped():
    return coordizers.read(SHIPPED)


def nearest_by(made):
    """Whose a text is, by a coordizer and homes of the committed training text."""
    router = Router(route.role_homes(made, ROOT / "data"), margin_min_rad=0.0)
    encoder, table = Encoder(made), bearings(made.basins)
    return lambda text: router.route(text_basin(encoder.encode(text), table)).steps[0].name


@pytest.fixture(scope="module")
def nearest(shipped):
    return nearest_by(shipped)


def share_routed(nearest, size_bytes):
    """Of 1,000 pieces of committed held-out text."""
    held_out = selection.load(ROOT / "data", part="held_out")
    drawn = {
        role: selection.prompts(rows, size_bytes=size_bytes, number=250, seed=0) for role, rows in held_out.items()
    }
    return np.mean([nearest(text) == role for role, texts in drawn.items() for text in texts])


def test_the_shipped_coordizer_is_whole_and_tells_where_it_comes_from(shipped):
    assert shipped.vocab_size == 32768
    assert sum(shipped.provenance.size_bytes.values()) > 19_800_000
    assert shipped.provenance.size_bytes["percept"] > 3_000_000  # recipes and Moby Dick
    assert shipped.trace[-1][0] == 32768
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 4_000_000


def test_the_shipped_coordizer_routes_the_committed_held_out_text(nearest):
    """All 71 documents, and nearly all pieces of them; the figures on all sources are the benchmark's."""
    held_out = selection.load(ROOT / "data", part="held_out")
    assert all(nearest(row.text) == role for role, rows in held_out.items() for row in rows)
    assert share_routed(nearest, 256) >= 0.98


def test_its_first_2048_ids_route_it_too(shipped):
    """Learned from the whole vocabulary's spelling alone they read .69 at 32 bytes; now .76."""
    small = nearest_by(prefix(shipped, 2048))
    assert share_routed(small, 256) >= 0.98
    assert share_routed(small, 32) >= 0.73


def test_the_command_line_trains_with_the_measured_default():
    assert inspect.signature(coordizer_train).parameters["lam"].default == LAMBDA


def test_phi_of_the_shipped_token_stream_is_known_everywhere_and_steady_once_words_are_tokens(shipped):
    assert all(phi is not None and p_value < 1e-6 for _, _, phi, p_value in shipped.trace)
    late = [phi for ids, _, phi, _ in shipped.trace if ids > 8000]
    assert max(late) - min(late) < 0.02


def test_a_coordizer_comes_back_from_its_folder(small, tmp_path):
    coordizers.write(small, tmp_path / "it")
    assert digest(coordizers.read(tmp_path / "it")) == digest(small)


@pytest.mark.parametrize("name", ["vocab.json.zst", "merge_rules.json.zst", "basin_coords.npy.zst"])
def test_a_torn_part_is_corrupt(small, tmp_path, name):
    coordizers.write(small, tmp_path / "it")
    path = tmp_path / "it" / name
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(Corrupt, match="part_digest"):
        coordizers.read(tmp_path / "it")


def test_a_part_that_unpacks_to_too_much_is_refused(small, tmp_path, monkeypatch):
    coordizers.write(small, tmp_path / "it")
    monkeypatch.setattr(artifacts, "PART_MAX_BYTES", 100)
    with pytest.raises(Rejected, match="bad_artifact"):
        coordizers.read(tmp_path / "it")


def test_no_coordizer_says_how_to_make_one(tmp_path):
    with pytest.raises(Unavailable, match=r"no_coordizer.*qig coordizer train"):
        coordizers.read(tmp_path / "none")


def test_train_writes_a_whole_coordizer_and_leaves_no_checkpoint(tmp_path, capsys):
    given = {"corpora": ROOT / "data", "vocab_size": 600, "lam": 0.5, "seed": 0, "threads": 1}
    assert command.train(out=tmp_path / "made", **given) == 0
    assert "600 ids" in capsys.readouterr().out
    assert coordizers.read(tmp_path / "made").vocab_size == 600
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_checkpoint_comes_back_and_goes(tmp_path):
    kept = Checkpoint(tmp_path / "out", "key")
    assert kept.read() is None
    kept.write(np.array([[1, 2]], np.int32))
    assert kept.read().tolist() == [[1, 2]]
    assert Checkpoint(tmp_path / "out", "another").read() is None
    kept.remove()
    assert kept.read() is None


@pytest.mark.parametrize("body", [b"", b"torn", b"\x93NUMPY", b"x" * (CHECKPOINT_MAX_BYTES + 1)])
def test_a_broken_checkpoint_is_no_checkpoint(tmp_path, body):
    (tmp_path / ".out-key.npy").write_bytes(body)
    assert Checkpoint(tmp_path / "out", "key").read() is None


def test_export_writes_what_others_load(small, tmp_path):
    coordizers.write(small, tmp_path / "it")
    assert command.export(folder=tmp_path / "it", out=tmp_path / "out", vocab_size=280) == 0
    model = json.loads((tmp_path / "out" / "tokenizer.json").read_bytes())["model"]
    assert len(model["merges"]) == 280 - 259
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"tokenizer.json", "qig.tiktoken", "phi.svg"}


def test_show_is_for_people_and_for_programs(small, tmp_path, capsys):
    coordizers.write(small, tmp_path / "it")
    command.show(folder=tmp_path / "it", json=False)
    assert f"{small.vocab_size} ids" in capsys.readouterr().out
    command.show(folder=tmp_path / "it", json=True)
    assert json.loads(capsys.readouterr().out)["digest"] == digest(small)


@pytest.mark.parametrize(
    ("text", "role"),
    [
        ("heron: a large wading bird with a long neck", "vocab"),
        ("Congress should review the treaty and appropriate funds for the Navy", "strategy"),
        ("the whale breathed beside the boat, and Queequeg lifted his harpoon", "percept"),
        ("O sing again my heart of spring,\nAnd let the silver rivers ring", "heart"),
    ],
)
def test_the_shipped_coordizer_routes_a_line_of_each_role(text, role, nearest):
    assert nearest(text) == role


def test_a_text_is_routed_by_a_coordizer_alone(capsys):
    route.run(
        text="the whale breathed", genesis=None, home=Path("none"), coordizer=SHIPPED, data=ROOT / "data", json=True
    )
    told = json.loads(capsys.readouterr().out)
    assert told["route"][0]["domain"] == "percept"
    assert sum(told["faculties"].values()) == pytest.approx(1.0)
