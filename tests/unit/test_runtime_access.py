import hashlib
import re
import stat
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from common.errors import Corrupt, Rejected, Unavailable
from common.runtime import access, rights, streams
from common.runtime.settings import redacted, user_of


def password(home, user):
    return urlsplit(access.url_path(home, user).read_text()).password


def counts(home, user, *secrets):
    """Whether the server takes exactly these passwords, the newest first."""
    hashes = [hashlib.sha256(secret.encode()).hexdigest() for secret in secrets]
    return rights.user_list(access.acl_path(home).read_text()).passwords[user] == hashes


def files(home):
    return {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}


def test_every_role_and_client_gets_a_password_of_its_own_and_the_server_its_hash(tmp_path):
    made = access.make(tmp_path, ["kiosk"], address="redis://broker:6379")
    users = [*rights.ROLES, "kiosk"]
    assert made == [*(access.url_path(tmp_path, user) for user in users), access.acl_path(tmp_path)]
    assert all(counts(tmp_path, user, password(tmp_path, user)) for user in users)
    assert len({password(tmp_path, user) for user in users}) == len(users)
    text = access.url_path(tmp_path, "kiosk").read_text()
    assert re.fullmatch(r"redis://kiosk:[0-9a-f]{64}@broker:6379\n", text)
    assert password(tmp_path, "kiosk") not in access.acl_path(tmp_path).read_text()


def test_the_files_are_for_their_owner_alone(tmp_path):
    made = access.make(tmp_path)
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "private", made[0].parent)} == {0o700}


def test_what_is_there_is_kept_and_only_what_is_missing_is_made(tmp_path):
    access.make(tmp_path)
    before = files(tmp_path)
    assert access.make(tmp_path) == []
    assert access.make(tmp_path, ["kiosk"]) == [access.url_path(tmp_path, "kiosk"), access.acl_path(tmp_path)]
    assert {path: data for path, data in files(tmp_path).items() if path in before and path.suffix == ".url"} == {
        path: data for path, data in before.items() if path.suffix == ".url"
    }


def test_a_run_that_was_cut_short_before_the_list_of_users_is_completed(tmp_path):
    access.make(tmp_path)
    access.acl_path(tmp_path).unlink()
    secret = password(tmp_path, "edge")
    assert access.make(tmp_path) == [access.acl_path(tmp_path)]
    assert counts(tmp_path, "edge", secret)


def test_a_file_that_was_taken_to_where_it_is_needed_is_not_made_again_and_its_user_stays(tmp_path):
    access.make(tmp_path, ["kiosk"])
    secret = password(tmp_path, "kiosk")
    access.url_path(tmp_path, "kiosk").unlink()
    assert access.make(tmp_path, ["kiosk"]) == []
    assert counts(tmp_path, "kiosk", secret)


def test_another_address_goes_into_every_file_and_changes_no_password(tmp_path):
    access.make(tmp_path)
    secret = password(tmp_path, "edge")
    access.make(tmp_path, address="rediss://broker.example:6380?ssl_ca_certs=/ca.pem")
    assert access.url_path(tmp_path, "edge").read_text() == (
        f"rediss://edge:{secret}@broker.example:6380?ssl_ca_certs=/ca.pem\n"
    )
    access.make(tmp_path, ["kiosk"])
    assert access.url_path(tmp_path, "kiosk").read_text().endswith("@broker.example:6380?ssl_ca_certs=/ca.pem\n")


def test_while_a_user_is_rotated_both_passwords_count_and_afterwards_the_new_one_alone(tmp_path):
    access.make(tmp_path)
    first = password(tmp_path, "edge")
    access.rotate(tmp_path, "edge")
    second = password(tmp_path, "edge")
    assert counts(tmp_path, "edge", second, first)
    access.rotate(tmp_path, "edge")
    third = password(tmp_path, "edge")
    assert counts(tmp_path, "edge", third, second)
    assert access.make(tmp_path) == []
    access.retire(tmp_path, "edge")
    assert counts(tmp_path, "edge", third)
    assert access.retire(tmp_path, "edge") == []


def test_a_rotation_that_was_cut_short_leaves_a_password_that_counts(tmp_path, monkeypatch):
    access.make(tmp_path)
    first, write = password(tmp_path, "edge"), access._write

    def dying(path, text):
        if path.suffix == ".url":
            raise KeyboardInterrupt
        write(path, text)

    monkeypatch.setattr(access, "_write", dying)
    with pytest.raises(KeyboardInterrupt):
        access.rotate(tmp_path, "edge")
    monkeypatch.setattr(access, "_write", write)
    assert password(tmp_path, "edge") == first
    assert hashlib.sha256(first.encode()).hexdigest() in access.acl_path(tmp_path).read_text()
    access.rotate(tmp_path, "edge")
    assert counts(tmp_path, "edge", password(tmp_path, "edge"), first)


def test_a_user_whose_file_was_taken_away_is_rotated_too(tmp_path):
    access.make(tmp_path, ["kiosk"], address="redis://broker:6379")
    first = password(tmp_path, "kiosk")
    access.url_path(tmp_path, "kiosk").unlink()
    access.rotate(tmp_path, "kiosk")
    assert counts(tmp_path, "kiosk", password(tmp_path, "kiosk"), first)


@pytest.mark.parametrize("change", [access.rotate, access.retire])
def test_nobody_is_no_user(tmp_path, change):
    access.make(tmp_path)
    with pytest.raises(Unavailable, match="unknown_user"):
        change(tmp_path, "kiosk")


@pytest.mark.parametrize(
    "name", ["edge", "default", "", "a b", "a*", "~x", "-a", "_a", "a.b", "a.", ".a", "a\n", "x" * 41]
)
def test_a_client_has_a_plain_name_that_is_no_roles(tmp_path, name):
    with pytest.raises(Rejected, match="bad_name"):
        access.make(tmp_path, [name])
    assert not access.acl_path(tmp_path).exists()


@pytest.mark.parametrize("name", ["kiosk", "Kiosk-7", "7_up", "x" * 40])
def test_a_clients_user_reads_its_own_answers_and_its_familys_and_those_of_no_other_user(name):
    (own,) = [grant.keys for grant in rights.client(name).grants if "xread" in grant.commands]
    assert own == (streams.answers(name), f"{streams.answers(name)}.*")
    with pytest.raises(Rejected, match="no point"):
        rights.client(f"{name[:20]}.1")


@pytest.mark.parametrize("address", ["broker:6379", "http://broker", "redis://", "redis://me@broker", "unix:///x"])
def test_an_address_names_a_host_and_nobody(tmp_path, address):
    with pytest.raises(Rejected, match="bad_address"):
        access.make(tmp_path, address=address)


def test_a_user_that_a_person_added_stays(tmp_path):
    access.make(tmp_path)
    line = "user grafana on #" + "ab" * 32 + " +info"
    with access.acl_path(tmp_path).open("a") as file:
        file.write(line + "\n")
    access.rotate(tmp_path, "edge")
    access.make(tmp_path, ["kiosk"])
    assert line in access.acl_path(tmp_path).read_text().splitlines()
    with pytest.raises(Unavailable, match="unknown_user"):
        access.rotate(tmp_path, "grafana")


def test_a_list_that_is_something_else_is_said_so(tmp_path):
    access.make(tmp_path)
    access.acl_path(tmp_path).write_text("hello\n")
    with pytest.raises(Corrupt, match="bad_acl_file"):
        access.make(tmp_path)


def test_an_address_is_shown_without_anything_secret():
    url = "rediss://edge:secret@broker:6380/0?ssl_password=secret&password=secret"
    assert redacted(url) == "rediss://edge:***@broker:6380/0?ssl_password=***&password=***"
    assert user_of(url) == "edge"
    assert user_of("redis://broker") is None


def test_a_list_of_before_with_a_point_in_a_name_says_what_to_do_with_it(tmp_path):
    access.make(tmp_path, ["kiosk"])
    path = access.acl_path(tmp_path)
    now, kiosk = path.read_text(), next(line for line in path.read_text().splitlines() if " kiosk " in line)
    path.write_text(now + kiosk.replace(" kiosk ", " kiosk.1 ") + "\n")
    for change in (access.make, lambda home: access.rotate(home, "kiosk"), lambda home: access.retire(home, "kiosk")):
        with pytest.raises(Corrupt, match=r"no point.*delete the line of 'kiosk\.1'.*--client kiosk` then makes"):
            change(tmp_path)
    path.write_text(now)
    assert access.make(tmp_path) == []


def test_users_in_a_folder_of_somebody_else_are_said_to_be_unreadable(tmp_path, monkeypatch):
    access.make(tmp_path)
    found = Path.stat

    def refused(path, **given):
        if access.folder(tmp_path) in path.parents:
            raise PermissionError(13, "Permission denied", str(path))
        return found(path, **given)

    monkeypatch.setattr(Path, "stat", refused)
    for asked in (access.make, access.users):
        with pytest.raises(Unavailable, match=f"missing_key: cannot read {tmp_path}.*: Permission denied; give it"):
            asked(tmp_path)
