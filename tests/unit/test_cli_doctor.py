import json
import shutil
import socket

import pytest

from common.runtime import embedded, keys
from services.cli import doctor, examine, up


def test_a_package_that_is_not_at_its_pin_is_named_with_what_was_found():
    check = examine.packages(["rich==15.0.0", "typer==9.9", "no-such-thing==1.0", 'torch==1.0; extra == "trainer"'])
    assert not check.ok
    assert "typer 0.27.1 instead of 9.9, no-such-thing not installed instead of 1.0" in check.value
    assert "torch" not in check.value


def test_packages_at_their_pins_are_well():
    assert examine.packages(["rich==15.0.0", "faststream[redis]==0.7.8"]).value == "2 at their pins"


@pytest.mark.parametrize(("above", "ok"), [(-1, False), (0, True), (1, True)])
def test_a_full_disk_fails_at_the_brokers_own_limit(tmp_path, monkeypatch, above, ok):
    free = embedded.MIN_FREE_BYTES + above
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(free, 0, free))
    assert examine.disk(tmp_path / "not" / "there").ok is ok


def test_a_home_that_is_not_there_yet_is_judged_by_what_it_would_be_made_in(tmp_path):
    assert "made at first use" in examine.directory(tmp_path / "a" / "b").value
    (tmp_path / "file").touch()
    assert not examine.directory(tmp_path / "file" / "b").ok


def test_a_private_key_that_others_can_read_fails_with_the_command_that_mends_it(tmp_path):
    keys.init(tmp_path, ["edge-1"])
    assert examine.key_files(tmp_path).value == "2 private, 1 edges enrolled"
    loose = keys.private_path(tmp_path, "edge-1")
    loose.chmod(0o640)
    assert examine.key_files(tmp_path).fix == f"chmod 600 {loose}"


def test_a_broken_key_fails_and_is_not_shown(tmp_path):
    keys.init(tmp_path, ["edge-1"])
    keys.private_path(tmp_path, "edge-1").write_text("not hexadecimal")
    check = examine.key_files(tmp_path)
    assert not check.ok
    assert "not hexadecimal" not in check.value


def test_no_keys_are_no_failure_since_the_first_start_makes_them(tmp_path):
    assert examine.key_files(tmp_path).ok


@pytest.mark.parametrize("environ", [{"QIG_STEPS": "x"}, {"QIG_STEPPS": "5"}])
def test_a_setting_that_would_stop_a_service_fails_here(environ):
    check = examine.readable_settings(environ)
    assert not check.ok
    assert "QIG_STEPS" in check.value


def test_a_broker_that_is_set_to_nothing_is_none_that_is_named(monkeypatch):
    assert examine.readable_settings({"QIG_BROKER_URL": "", "QIG_BROKER_URL_FILE": ""}).ok
    monkeypatch.setenv("QIG_BROKER_URL", "")
    up._check_settings()  # raises nothing: each service is told the embedded one


def test_a_taken_port_is_named_with_ports_that_may_be_free(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        check = examine.ports(tmp_path, port)
    assert (check.ok, check.value) == (False, f"{port} is taken, edge-1 would need it")
    assert check.fix.endswith(f" up --port {port + 5} --home {tmp_path}")  # of this home, not of another


def test_a_broker_that_is_named_and_does_not_answer_fails_without_its_password(tmp_path):
    check = examine.broker(tmp_path, {"QIG_BROKER_URL": "redis://me:secret@127.0.0.1:1"})
    assert not check.ok
    assert "redis://me:***@127.0.0.1:1" in check.value
    assert "secret" not in check.value


def test_no_broker_is_no_failure_while_nobody_named_one(tmp_path):
    assert examine.broker(tmp_path, {}).ok


def test_settings_are_listed_with_their_origin_and_without_secrets():
    environ = {"QIG_BROKER_URL": "redis://me:secret@host:1", "QIG_STEPS": "7"}
    found = {(row.service, row.variable): row for row in doctor.effective(environ)}
    assert found["every service", "QIG_BROKER_URL"].value == "redis://me:***@host:1"
    assert (found["trainer", "QIG_STEPS"].value, found["trainer", "QIG_STEPS"].origin) == ("7", "environment")
    assert found["edge", "QIG_SLEEP_IDLE_S"].origin == "default"


def test_a_broker_url_by_file_is_not_read_out():
    (url,) = (row for row in doctor.effective({"QIG_BROKER_URL_FILE": "/f"}) if row.variable == "QIG_BROKER_URL")
    assert (url.value, url.origin) == ("(not shown)", "file /f")


def test_one_failure_among_many_ends_with_1_and_says_what_to_do(tmp_path, monkeypatch, capsys):
    checks = [lambda: examine.Check("a", ok=True, value="b", fix="c"), lambda: examine.Check("d", False, "e", "f")]
    monkeypatch.setattr(examine, "examinations", lambda *_: checks)
    assert doctor.run(home=tmp_path, port=8000, json=True) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == {"check": "a", "ok": True, "value": "b", "fix": ""}
    assert lines[1]["fix"] == "f"
    assert doctor.run(home=tmp_path, port=8000, json=False) == 1
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert shown[0] == "service setting value from"  # what is many comes first: the rest stands where it is seen
    assert shown[-6:] == ["", "✓ a b", "✗ d e", "fix f", "", "1 of 2 checks failed"]


def test_a_folder_with_nothing_to_start_from_fails_with_where_to_go(tmp_path, monkeypatch):
    assert examine.constellation(tmp_path).ok
    monkeypatch.chdir(tmp_path)
    check = examine.constellation(tmp_path)
    assert (check.ok, check.value) == (False, f"none, and no texts in {tmp_path}/data")
    assert check.fix.startswith("run qig in its repository: cd /")
