import fcntl
import os

import pytest

from common.errors import Rejected, Unavailable
from common.runtime import embedded, keys
from services.cli import broker, home, keyring, probe, show, train, up


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    home.write_atomically(tmp_path / "a" / "file", b"old")

    def fail(_handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(home.os, "fsync", fail)
    with pytest.raises(Unavailable, match="No space left on device"):
        home.write_atomically(tmp_path / "a" / "file", b"new")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file"]
    assert (tmp_path / "a" / "file").read_bytes() == b"old"


@pytest.mark.parametrize("text", [None, "", "no json", "[]", '{"url": 5}'])
def test_a_home_without_a_readable_broker_file_has_no_broker(tmp_path, text):
    if text is not None:
        (tmp_path / "broker.json").write_text(text)
    with pytest.raises(Unavailable, match=rf"no_broker: .* {tmp_path} has none; `qig up`"):
        broker.find_url(tmp_path, {})


def test_a_home_that_is_not_there_is_said_not_to_be_and_is_not_made(tmp_path):
    own = tmp_path / ".qig"
    with pytest.raises(Unavailable, match=rf"no_broker: .* there is no {own}; `qig up` in the repository starts one$"):
        broker.find_url(own, {})
    assert not own.exists()


def test_a_constellation_on_a_home_nearby_is_named(tmp_path):
    own, demo = tmp_path / ".qig", tmp_path / ".qig" / "demo"
    with home.lock(demo), pytest.raises(Unavailable, match=rf"runs on {demo}: add --home {demo}$"):
        broker.find_url(own, {})
    with home.lock(own), pytest.raises(Unavailable, match=rf"runs on {own}: add --home {own}$"):
        broker.find_url(demo, {})
    with pytest.raises(Unavailable, match=r"`qig up` in the repository starts one$"):  # both have ended
        broker.find_url(own, {})


def test_the_broker_of_the_environment_comes_before_that_of_the_home(tmp_path):
    home.write_broker(tmp_path, "redis://127.0.0.1:1", 17)
    with home.lock(tmp_path):
        assert broker.find_url(tmp_path, {}) == "redis://127.0.0.1:1"
        assert broker.find_url(tmp_path, {"QIG_BROKER_URL": "redis://127.0.0.1:2"}) == "redis://127.0.0.1:2"


def test_an_address_that_a_machine_without_power_has_left_is_nobody_s(tmp_path):
    home.write_broker(tmp_path, "redis://127.0.0.1:1", 17)  # where another home's broker may listen now
    with pytest.raises(Unavailable, match=rf"no_broker: .* {tmp_path} has none"):
        broker.find_url(tmp_path, {})


def test_a_broker_that_a_killed_fleet_has_left_is_found(tmp_path):
    running = embedded.start(home.broker_dir(tmp_path))
    try:
        home.write_broker(tmp_path, running.url, running.pid)
        assert broker.find_url(tmp_path, {}) == running.url
    finally:
        running.stop()


def test_a_broker_url_by_file_comes_first(tmp_path):
    (tmp_path / "url").write_text("redis://127.0.0.1:3\n")
    environ = {"QIG_BROKER_URL": "redis://127.0.0.1:2", "QIG_BROKER_URL_FILE": str(tmp_path / "url")}
    assert broker.find_url(tmp_path, environ) == "redis://127.0.0.1:3"
    with pytest.raises(Rejected, match="QIG_BROKER_URL_FILE=/nowhere: No such file"):
        broker.find_url(tmp_path, {"QIG_BROKER_URL_FILE": "/nowhere"})


def test_a_home_below_a_file_is_refused_with_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match=r"home_unwritable: cannot write to .*choose another directory"):
        home.lock(tmp_path / "file" / "home").__enter__()


def test_a_fleet_that_has_let_its_home_go_is_not_taken_for_the_next(tmp_path):
    with home.lock(tmp_path):
        assert home.holder(tmp_path) == os.getpid()
    with (tmp_path / "fleet.lock").open() as next_one:
        fcntl.flock(next_one, fcntl.LOCK_EX)  # and nothing is written yet
        assert home.is_locked(tmp_path)
        assert home.holder(tmp_path) is None


def test_keys_are_made_once_and_no_secret_is_shown(tmp_path, capsys):
    keyring.run(["edge-1"], tmp_path)
    first = capsys.readouterr().out
    secrets = [path.read_text().strip() for path in tmp_path.rglob("*.key")]
    assert len(secrets) == 6
    assert not any(secret in first for secret in secrets)
    assert first.count("take it away from this machine") == 4
    assert all(str(path) in first for path in tmp_path.rglob("*") if path.is_file())
    keyring.run(["edge-1"], tmp_path)
    assert "nothing was changed" in capsys.readouterr().out
    assert [path.read_text().strip() for path in tmp_path.rglob("*.key")] == secrets


def test_replaced_keys_are_told_and_no_secret_is_shown(tmp_path, capsys):
    keyring.run([], tmp_path)
    capsys.readouterr()
    keyring.rotate(["publisher"], tmp_path, None)
    keyring.revoke(["root-1"], tmp_path, tmp_path / "offline", None)
    said = capsys.readouterr().out.replace("\n", "")
    assert not any(path.read_text().strip() in said for path in tmp_path.rglob("*.key"))
    assert "publisher.key (private: keep it on this machine)" in said
    assert "root-1.key (private, and needed by nothing that runs: take it away from this machine)" in said
    assert "3.root.json" in said


@pytest.mark.parametrize(
    ("names", "last_good", "code"),
    [(["publisher"], None, "no_last_good"), (["publisher"], "12", "bad_digest"), (["edge-1"], None, "bad_name")],
)
def test_what_cannot_be_revoked_changes_nothing(tmp_path, names, last_good, code):
    keyring.run([], tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(Rejected, match=code):
        keyring.revoke(names, tmp_path, None, last_good)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_secret_that_edges_share_is_made_once_and_never_shown(tmp_path, capsys):
    keyring.secret(tmp_path)
    said = capsys.readouterr().out
    (path,) = tmp_path.glob("private/*")
    assert path.name in said
    assert path.read_text().strip() not in said
    keyring.secret(tmp_path)
    assert "nothing was changed" in capsys.readouterr().out


@pytest.mark.parametrize("service", ["edge", "aggregator", "trainer", "publisher"])
def test_only_an_edge_s_home_links_to_the_secret(tmp_path, service):
    secret = keys.make_secret(tmp_path)
    linked = keys.secret_path(home.furnish(tmp_path, service, "node-7"))
    assert (linked.resolve() == secret.resolve()) == (service == "edge")


@pytest.mark.parametrize("name", ["../edge", "", "a b", "publisher", "x" * 65])
def test_a_name_that_cannot_be_a_node_makes_no_key(tmp_path, name):
    with pytest.raises(Rejected, match="bad_name"):
        keyring.run(["edge-1", name], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("edges", [1, 2, 5])
def test_every_process_has_a_port_of_its_own_and_the_first_edge_the_first(edges):
    planned = up.plan(edges, 8000)
    ports = [port for _, port in planned.values()]
    assert planned["edge-1"] == ("edge", 8000)
    assert sorted(ports) == list(range(8000, 8000 + edges + 3))
    assert {port for _, port in up.plan(edges, 0).values()} == {0}


def test_parts_that_have_only_not_started_are_one_word():
    assert up._short("relay a: not started; edge: is built", "edge", starting=True) == "is built"
    assert up._short("relay a: not started; follower b: not started", "edge", starting=True) == "starting"


def test_what_others_wrote_reaches_the_terminal_without_markup_or_control_characters():
    assert show.plain("[red]a[/]\x1b[2J\nb") == "\\[red]a\\[/]\ufffd[2J\nb"


@pytest.mark.parametrize(("share", "full"), [(-1.0, 0), (0.0, 0), (0.5, 5), (1.0, 10), (2.0, 10)])
def test_a_bar_is_as_full_as_its_share(share, full):
    assert show.bar(share, 10) == "█" * full + "·" * (10 - full)


def test_a_figure_that_is_not_known_is_no_number():
    assert (show.number(None), show.number(0.5), show.number(12.34, ".1f")) == ("not known", "0.50", "12.3")


def test_a_port_beyond_all_ports_is_refused():
    with pytest.raises(Unavailable, match=r"port_taken: port 70000 .*: do that"):
        probe.check_port("127.0.0.1", 70_000, "do that")


def test_a_size_that_is_none_and_a_folder_that_cannot_be_written_are_refused_before_training(tmp_path):
    with pytest.raises(Rejected, match="bad_size: no size 'huge': choose from tiny"):
        train.run(size="huge", seed=0, out=tmp_path, data=tmp_path, coordizer=None, workers=1)
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="home_unwritable"):
        train.check_writable(tmp_path / "file" / "out")


def test_a_setting_that_no_service_knows_stops_everything_before_it_starts(tmp_path, monkeypatch):
    monkeypatch.setenv("QIG_STEPPS", "5")
    with pytest.raises(Rejected, match=r"unknown_setting: QIG_STEPPS .* did you mean QIG_STEPS"):
        up.run(1, tmp_path / "home", 0)
    assert list(tmp_path.iterdir()) == []
