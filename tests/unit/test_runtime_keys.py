import stat

import pytest

from common.errors import Rejected, Unavailable
from common.runtime import keys
from common.wire.packet import key_id


def test_new_keys_sign_what_their_public_halves_verify(tmp_path):
    keys.init(tmp_path, ["edge-1"])
    signed = keys.load_private(tmp_path, "edge-1").sign(b"packet")
    (node, public), *_ = keys.load_enrolled(tmp_path).values()
    assert (node, public.verify(signed)) == ("edge-1", b"packet")


def test_enrolled_edges_are_found_by_their_key_id(tmp_path):
    keys.init(tmp_path, ["edge-1", "edge-2"])
    for name, (node, public) in keys.load_enrolled(tmp_path).items():
        assert name == key_id(public)
        assert keys.load_private(tmp_path, node).verify_key == public


def test_a_private_key_is_for_its_owner_alone(tmp_path):
    keys.init(tmp_path, [])
    assert stat.S_IMODE(keys.private_path(tmp_path, keys.PUBLISHER).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o700


def test_keys_that_exist_are_never_replaced(tmp_path):
    assert len(keys.init(tmp_path, ["edge-1"])) == 4
    before = keys.load_private(tmp_path, "edge-1")
    assert len(keys.init(tmp_path, ["edge-1", "edge-2"])) == 2
    assert keys.load_private(tmp_path, "edge-1") == before


def test_a_lost_public_key_is_made_again_from_the_private_one(tmp_path):
    keys.init(tmp_path, [])
    keys.publisher_path(tmp_path).unlink()
    assert keys.init(tmp_path, []) == [keys.publisher_path(tmp_path)]
    assert keys.load_public(keys.publisher_path(tmp_path)) == keys.load_private(tmp_path, keys.PUBLISHER).verify_key


def test_a_public_key_gets_no_other_private_one(tmp_path):
    keys.init(tmp_path, ["edge-1"])
    keys.private_path(tmp_path, "edge-1").unlink()
    assert keys.init(tmp_path, ["edge-1"]) == []
    with pytest.raises(Unavailable, match="missing_key"):
        keys.load_private(tmp_path, "edge-1")


def test_a_missing_key_names_its_file_and_the_command_that_makes_it(tmp_path):
    with pytest.raises(Unavailable, match=r"missing_key.*edge-1\.key.*qig keys init"):
        keys.load_private(tmp_path, "edge-1")


@pytest.mark.parametrize("text", ["", "zz" * 32, "00" * 31, "00" * 33, "schlüssel"])
def test_a_file_that_holds_no_key_is_refused_without_showing_it(tmp_path, text):
    keys.init(tmp_path, [])
    keys.publisher_path(tmp_path).write_text(text, encoding="utf-8")
    with pytest.raises(Rejected, match="bad_key"):
        keys.load_public(keys.publisher_path(tmp_path))


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match=r"home_unwritable.*QIG_HOME"):
        keys.init(tmp_path / "file", [])


def test_nobody_is_enrolled_in_an_empty_home(tmp_path):
    assert keys.load_enrolled(tmp_path) == {}


def test_the_secret_that_edges_share_is_made_once_and_for_its_owner_alone(tmp_path):
    path = keys.make_secret(tmp_path)
    secret = keys.load_secret(path)
    assert (len(secret), stat.S_IMODE(path.stat().st_mode)) == (32, 0o600)
    assert keys.make_secret(tmp_path) is None
    assert keys.load_secret(keys.secret_path(tmp_path)) == secret


def test_a_secret_that_is_not_there_says_how_to_have_one(tmp_path):
    with pytest.raises(Unavailable, match=r"missing_secret: .*qig keys secret"):
        keys.load_secret(keys.secret_path(tmp_path))
