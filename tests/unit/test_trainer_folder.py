"""A folder of parts is there whole or not at all."""

import shutil
from pathlib import Path

import pytest

from common.errors import Corrupt, Rejected, Unavailable
from services.trainer import folder
from services.trainer.folder import pack, read, write

OLD = {"domains.json": b"[]", "kernels/heart.safetensors": b"old"}
NEW = {"domains.json": b"[1]", "memories/heart.bin": b"\x00" * 1000, "a/b/c.bin": b""}


def test_parts_come_back_as_they_were_written(tmp_path):
    write(NEW, tmp_path / "genesis")
    assert read(tmp_path / "genesis") == NEW
    assert [path.name for path in tmp_path.iterdir()] == ["genesis"]


def test_a_folder_that_is_not_there_is_none(tmp_path):
    assert read(tmp_path / "genesis") is None


def test_writing_again_replaces_every_part(tmp_path):
    write(OLD, tmp_path / "genesis")
    write(NEW, tmp_path / "genesis")
    assert read(tmp_path / "genesis") == NEW
    assert [path.name for path in tmp_path.iterdir()] == ["genesis"]


def test_what_a_crash_left_behind_is_not_mixed_in(tmp_path):
    for left in (".genesis.part", ".genesis.old"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "stray.bin").write_bytes(b"x")
    write(NEW, tmp_path / "genesis")
    assert read(tmp_path / "genesis") == NEW
    assert [path.name for path in tmp_path.iterdir()] == ["genesis"]


def failing(number):
    """A write that fails with a full disk at the n-th part."""
    calls = iter(range(100))
    real = Path.write_bytes

    def write_bytes(path, data):
        if next(calls) == number:
            raise OSError(28, "No space left on device", str(path))
        return real(path, data)

    return write_bytes


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_full_disk_leaves_the_old_folder_as_it_was(tmp_path, monkeypatch, number):
    write(OLD, tmp_path / "genesis")
    monkeypatch.setattr(Path, "write_bytes", failing(number))
    with pytest.raises(Unavailable, match="No space left on device; free space") as error:
        write(NEW, tmp_path / "genesis")
    assert error.value.code == "unwritable"
    assert read(tmp_path / "genesis") == OLD
    assert [path.name for path in tmp_path.iterdir()] == ["genesis"]


def test_a_rename_that_fails_leaves_the_old_folder_as_it_was(tmp_path, monkeypatch):
    write(OLD, tmp_path / "genesis")
    real = Path.rename

    def rename(path, target):
        if path.name == ".genesis.part":
            raise OSError(5, "Input/output error", str(path))
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(Unavailable, match="Input/output error"):
        write(NEW, tmp_path / "genesis")
    assert read(tmp_path / "genesis") == OLD


def test_a_file_in_the_folder_s_place_is_unavailable_and_kept(tmp_path):
    (tmp_path / "genesis").write_text("mine")
    with pytest.raises(Unavailable, match="can't write"):
        write(NEW, tmp_path / "genesis")
    assert (tmp_path / "genesis").read_text() == "mine"


def test_a_part_that_cannot_be_read_is_unavailable(tmp_path, monkeypatch):
    write(OLD, tmp_path / "genesis")

    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(Unavailable, match=r"domains\.json: Permission denied; check") as error:
        read(tmp_path / "genesis")
    assert error.value.code == "unreadable"
    shutil.rmtree(tmp_path / "genesis")


def test_packed_parts_come_back_as_they_were_and_a_manifest_stays_readable(tmp_path):
    parts = NEW | {"coordizer/manifest.json": b'{"v": 1}'}
    write(pack(parts), tmp_path / "genesis")
    assert read(tmp_path / "genesis") == parts
    assert (tmp_path / "genesis/coordizer/manifest.json").read_bytes() == b'{"v": 1}'
    assert (tmp_path / "genesis/memories/heart.bin.zst").stat().st_size < 100


def test_equal_parts_pack_to_equal_bytes():
    assert pack(NEW) == pack(dict(reversed(NEW.items())))


@pytest.mark.parametrize("cut", [0, 4, -1])
def test_a_packed_part_that_is_torn_is_corrupt_and_named(tmp_path, cut):
    write(pack(NEW), tmp_path / "genesis")
    path = tmp_path / "genesis/memories/heart.bin.zst"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(Corrupt, match=r"memories/heart\.bin\.zst is no whole zstd file") as error:
        read(tmp_path / "genesis")
    assert error.value.code == "part_digest"


@pytest.mark.parametrize(("limit", "ok"), [(999, False), (1000, True), (1001, True)])
def test_a_packed_part_over_the_limit_is_refused_before_it_is_unpacked(tmp_path, monkeypatch, limit, ok):
    write(pack({"memories/heart.bin": bytes(1000)}), tmp_path / "genesis")
    monkeypatch.setattr(folder, "PART_MAX_BYTES", limit)
    if ok:
        assert read(tmp_path / "genesis") == {"memories/heart.bin": bytes(1000)}
        return
    with pytest.raises(Rejected, match="unpacks to 1000 bytes; the limit is 999"):
        read(tmp_path / "genesis")
