import contextlib
import itertools
import os
import stat
import time
from pathlib import Path

import pytest
from tuf.api.metadata import Root, Targets

from common.errors import Corrupt, Rejected, Unavailable
from common.runtime import keys
from common.trust import roles
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
    keys.init(tmp_path, ["edge-1"])
    made = sorted(tmp_path.rglob("*.key"))
    assert [path.stem for path in made] == ["root-1", "root-2", "root-3", "targets", "edge-1", "publisher"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o600}
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("private", "offline")} == {0o700}


def test_keys_that_exist_are_never_replaced(tmp_path):
    keys.init(tmp_path, ["edge-1"])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert [path.stem for path in keys.init(tmp_path, ["edge-1", "edge-2"])] == ["edge-2", "edge-2"]
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("lost", ["private/publisher.key", "offline/root-1.key", "offline/targets.key"])
def test_a_root_gets_no_other_private_keys(tmp_path, lost):
    keys.init(tmp_path, [])
    (tmp_path / lost).unlink()
    assert keys.init(tmp_path, []) == []


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
    path = tmp_path / "node.pub"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(Rejected, match="bad_key"):
        keys.load_public(path)


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


# The keys that bundles hang on

DAY_S = 86_400.0


def named(home):
    return {name: key.keyid for name, key in roles.named_keys(roles.parsed(keys.load_offline(home).root, Root)).items()}


def id_in(path):
    return key_id(keys.SigningKey(bytes.fromhex(path.read_text())).verify_key).hex()


def held(home, offline=None):
    """The ids of the private keys where they belong."""
    folders = {name: offline or keys.offline_dir(home) for name in roles.OFFLINE} | {keys.PUBLISHER: home / "private"}
    return {name: id_in(folder / f"{name}.key") for name, folder in folders.items()}


def test_the_metadata_names_the_keys_that_were_made(tmp_path):
    keys.init(tmp_path, [])
    assert named(tmp_path) == held(tmp_path)
    assert keys.load_offline(tmp_path).roots == (keys.load_root(tmp_path),)


@pytest.mark.parametrize("stolen", [False, True])
@pytest.mark.parametrize("names", [["root-2"], ["targets"], ["publisher"], ["root-3", "targets", "publisher"]])
def test_a_key_is_replaced_and_the_others_stay(tmp_path, names, stolen):
    keys.init(tmp_path, [])
    before, anchor = named(tmp_path), keys.load_root(tmp_path)
    keys.replace(tmp_path, names, offline=keys.offline_dir(tmp_path), stolen=stolen)
    after = named(tmp_path)
    assert {name for name in before if before[name] != after[name]} == set(names)
    assert after == held(tmp_path)
    assert keys.load_root(tmp_path) == anchor
    assert len(keys.load_offline(tmp_path).roots) == 2


def test_the_publishers_former_key_is_named_unless_it_was_stolen(tmp_path):
    keys.init(tmp_path, [])
    first = named(tmp_path)[keys.PUBLISHER]
    keys.replace(tmp_path, ["publisher"], offline=keys.offline_dir(tmp_path))
    targets = roles.parsed(keys.load_offline(tmp_path).targets, Targets)
    assert list(roles.former_keys(targets)) == [first]
    keys.replace(tmp_path, ["publisher"], offline=keys.offline_dir(tmp_path), stolen=True, believed="ab" * 32)
    targets = roles.parsed(keys.load_offline(tmp_path).targets, Targets)
    assert (roles.former_keys(targets), roles.last_good(targets)) == ({}, "ab" * 32)
    keys.replace(tmp_path, ["targets"], offline=keys.offline_dir(tmp_path))
    assert roles.last_good(roles.parsed(keys.load_offline(tmp_path).targets, Targets)) == "ab" * 32


@pytest.mark.parametrize("stolen", [False, True])
def test_one_root_key_that_is_lost_is_replaced_by_the_other_two(tmp_path, stolen):
    keys.init(tmp_path, [])
    (keys.offline_dir(tmp_path) / "root-1.key").unlink()
    keys.replace(tmp_path, ["root-1"], offline=keys.offline_dir(tmp_path), stolen=stolen)
    assert named(tmp_path) == held(tmp_path)


@pytest.mark.parametrize(
    ("lost", "names", "stolen"),
    [
        (["root-1", "root-2"], ["root-1"], False),
        ([], ["root-1", "root-2"], True),
        (["targets"], ["publisher"], False),
        (["root-1", "root-2", "root-3", "targets"], ["publisher"], True),
    ],
)
def test_too_few_keys_change_nothing(tmp_path, lost, names, stolen):
    keys.init(tmp_path, [])
    for name in lost:
        (keys.offline_dir(tmp_path) / f"{name}.key").unlink()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(Rejected, match="not_enough_keys"):
        keys.replace(tmp_path, names, offline=keys.offline_dir(tmp_path), stolen=stolen)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_offline_keys_may_lie_elsewhere(tmp_path):
    home, stick = tmp_path / "home", tmp_path / "stick"
    keys.init(home, [])
    keys.offline_dir(home).rename(stick)
    keys.replace(home, ["publisher", "root-1"], offline=stick)
    assert named(home) == held(home, stick)
    assert not keys.offline_dir(home).exists()


class Killed(BaseException):
    pass


def killed_after(steps, monkeypatch):
    """Whether the replacement of three keys was cut short after so many writes and renames."""

    def dying(real):
        def act(*given, **more):
            nonlocal steps
            steps -= 1
            if steps < 0:
                raise Killed
            return real(*given, **more)

        return act

    def replace_in(home):
        with monkeypatch.context() as patch:
            for place, name in ((Path, "replace"), (Path, "unlink"), (os, "open"), (os, "fsync")):
                patch.setattr(place, name, dying(getattr(place, name)))
            with contextlib.suppress(Killed):
                keys.replace(home, ["publisher", "root-1", "targets"], offline=keys.offline_dir(home))
        return steps < 0

    return replace_in


def test_a_replacement_that_was_killed_anywhere_is_completed_or_undone_by_the_next_run(tmp_path, monkeypatch):
    outcomes = []
    for step in itertools.count():
        home = tmp_path / str(step)
        keys.init(home, [])
        was_killed = killed_after(step, monkeypatch)(home)
        keys.init(home, [])
        assert named(home) == held(home)
        assert not list(home.rglob("*.next"))
        outcomes.append(len(keys.load_offline(home).roots))
        if not was_killed:
            break
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {1, 2}
    assert len(outcomes) > 10


@pytest.mark.parametrize(("age_days", "renewed"), [(364, False), (366, True)])
def test_metadata_past_half_its_time_is_signed_again(tmp_path, monkeypatch, age_days, renewed):
    keys.init(tmp_path, [])
    later = time.time() + age_days * DAY_S
    monkeypatch.setattr(keys.time, "time", lambda: later)
    assert [path.name for path in keys.init(tmp_path, [])] == (["2.root.json", "2.targets.json"] if renewed else [])
    assert keys.init(tmp_path, []) == []
    assert named(tmp_path) == held(tmp_path)


def test_metadata_is_not_signed_again_where_the_offline_keys_are_not(tmp_path, monkeypatch):
    keys.init(tmp_path, [])
    keys.offline_dir(tmp_path).rename(tmp_path / "away")
    later = time.time() + 700 * DAY_S
    monkeypatch.setattr(keys.time, "time", lambda: later)
    assert keys.init(tmp_path, []) == []


# A home of a version in which one key vouched for bundles


def old_home(home, *, private=True):
    keys.init(home, ["edge-1"])
    public = keys.load_private(home, keys.PUBLISHER).verify_key.encode().hex()
    keys.root_path(home).unlink()
    for path in [*keys.metadata_dir(home).iterdir(), *keys.offline_dir(home).iterdir()]:
        path.unlink()
    (home / "trust" / "publisher.pub").write_text(public + "\n")
    if not private:
        keys.private_path(home, keys.PUBLISHER).unlink()
    return public


def test_the_publisher_of_an_old_home_keeps_its_key(tmp_path):
    public = old_home(tmp_path)
    keys.init(tmp_path, ["edge-1"])
    assert keys.load_private(tmp_path, keys.PUBLISHER).verify_key.encode().hex() == public
    assert named(tmp_path) == held(tmp_path)
    assert not (tmp_path / "trust" / "publisher.pub").exists()


def test_an_old_home_without_the_private_key_is_told_where_to_get_the_root(tmp_path):
    old_home(tmp_path, private=False)
    assert keys.init(tmp_path, ["edge-1"]) == []
    with pytest.raises(Unavailable, match=r"missing_root.*publisher\.pub is of an older version.*qig keys init"):
        keys.load_root(tmp_path)


def test_a_root_that_is_none_is_told(tmp_path):
    keys.init(tmp_path, [])
    keys.root_path(tmp_path).write_text("{}")
    with pytest.raises(Corrupt, match="bad_metadata"):
        keys.load_root(tmp_path)
