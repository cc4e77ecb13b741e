import pytest

from common.errors import Rejected
from common.runtime import api_keys
from common.runtime.api_keys import KeyFile, add, holder, new_key, pack, read, revoke

KEY, OTHER = new_key(b"\1" * 32), new_key(b"\2" * 32)


@pytest.fixture
def keys():
    return add(add((), "kiosk", KEY, now_s=1.0), "ship", OTHER, now_s=2.0)


@pytest.fixture
def file(tmp_path, keys):
    path = tmp_path / "api-keys.json"
    path.write_bytes(pack(keys))
    return path


def test_a_key_is_its_holders_and_nobody_elses(keys):
    assert holder(keys, KEY) == "kiosk"
    assert holder(keys, OTHER) == "ship"
    assert [holder(keys, wrong) for wrong in ("", "qig-", KEY[:-1], KEY + "x", "é\ud800")] == [None] * 5


def test_a_file_of_keys_holds_no_key(file, keys):
    assert read(file) == keys
    assert KEY not in file.read_text()


def test_a_name_is_given_once(keys):
    with pytest.raises(Rejected, match="key_exists"):
        add(keys, "kiosk", "qig-new", now_s=3.0)


@pytest.mark.parametrize("name", ["", "a b", "../up", "x" * 65])
def test_a_name_that_cannot_be_a_clients_is_refused(name):
    with pytest.raises(Rejected, match="bad_name"):
        add((), name, KEY, now_s=1.0)


def test_a_thousand_keys_are_the_most(monkeypatch, keys):
    monkeypatch.setattr(api_keys, "KEYS_MAX", 2)
    with pytest.raises(Rejected, match="too_many_keys"):
        add(keys, "third", "qig-3", now_s=3.0)


def test_a_revoked_key_is_no_key(keys):
    left = revoke(keys, "kiosk")
    assert (holder(left, KEY), holder(left, OTHER)) == (None, "ship")
    with pytest.raises(Rejected, match="no_such_key"):
        revoke(left, "kiosk")


def test_a_missing_file_holds_no_keys_and_a_damaged_one_is_refused(tmp_path):
    assert read(tmp_path / "nowhere.json") == ()
    for damaged in (b"", b"[]", b'{"v": 2, "keys": []}', b'{"v": 1, "keys": [{"name": "a"}]}'):
        (tmp_path / "keys.json").write_bytes(damaged)
        with pytest.raises(Rejected, match="bad_api_keys"):
            read(tmp_path / "keys.json")


def test_a_change_of_the_file_is_seen_at_once(file, keys):
    seen = KeyFile(file)
    file.write_bytes(pack(revoke(keys, "kiosk")))
    assert holder(seen.keys, KEY) is None


def test_a_file_that_became_damaged_or_is_gone_opens_nothing(file, keys):
    seen = KeyFile(file)
    file.write_bytes(b"{")
    assert seen.keys == keys
    file.write_bytes(pack(keys[:1]))
    assert seen.keys == keys[:1]
    file.unlink()
    assert seen.keys == keys[:1]
