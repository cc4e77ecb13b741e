import json

import pytest

from common.errors import Rejected, Unavailable
from common.runtime.api_keys import default_path, holder, read
from services.cli import api_keys


def add(home, name, capsys):
    """The key that the command shows."""
    assert api_keys.add(name, None, home) == 0
    out, told = capsys.readouterr()
    assert out.strip() not in told
    return out.strip()


def test_a_key_is_shown_alone_and_once_and_its_hash_is_kept_for_its_owner_only(tmp_path, capsys):
    key = add(tmp_path, "kiosk", capsys)
    path = default_path(tmp_path)
    assert holder(read(path), key) == "kiosk"
    assert key not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    api_keys.show(None, tmp_path, json=True)
    assert key not in capsys.readouterr().out


def test_keys_differ_and_are_listed_by_name(tmp_path, capsys):
    assert add(tmp_path, "kiosk", capsys) != add(tmp_path, "ship", capsys)
    api_keys.show(None, tmp_path, json=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["name"] for line in lines] == ["kiosk", "ship"]
    api_keys.show(None, tmp_path, json=False)
    assert "kiosk" in capsys.readouterr().out


def test_a_revoked_key_is_gone_and_the_others_stay(tmp_path, capsys):
    key, other = add(tmp_path, "kiosk", capsys), add(tmp_path, "ship", capsys)
    assert api_keys.revoke("kiosk", None, tmp_path) == 0
    left = read(default_path(tmp_path))
    assert (holder(left, key), holder(left, other)) == (None, "ship")
    with pytest.raises(Rejected, match="no_such_key"):
        api_keys.revoke("kiosk", None, tmp_path)


def test_a_file_of_ones_own_may_be_named(tmp_path, capsys):
    file = tmp_path / "elsewhere" / "keys.json"
    assert api_keys.add("kiosk", file, tmp_path) == 0
    assert len(read(file)) == 1
    api_keys.show(None, tmp_path, json=False)
    assert "no keys in" in capsys.readouterr().out


def test_a_home_that_cannot_be_written_is_told_in_one_line(tmp_path):
    (tmp_path / "trust").write_text("in the way")
    with pytest.raises(Unavailable, match="home_unwritable"):
        api_keys.add("kiosk", None, tmp_path)
