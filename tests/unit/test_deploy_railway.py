"""Railway: the graph that its command line is given, and the edge's directory laid out from variables."""

import json
import os
import runpy
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import railway_sdk

from common.errors import Rejected, Unavailable
from common.runtime import api_keys, keys, settings
from common.runtime.http import GRACEFUL_SHUTDOWN_S
from common.runtime.service import DRAIN_TIMEOUT_S
from common.runtime.settings import EdgeSettings
from deploy import railway_edge

ROOT = Path(__file__).parents[2]
IMAGE = "ghcr.io/somebody/qig-constellation:slim"
URL = "redis://edge:secret@broker.railway.internal:6379"


@pytest.fixture
def described(monkeypatch):
    """The description's names."""
    monkeypatch.setenv("QIG_IMAGE", IMAGE)
    return runpy.run_path(str(ROOT / ".railway" / "railway.py"))


@pytest.fixture
def graph(described):
    """The project as `railway config plan` evaluates it, without a network."""
    context = railway_sdk.create_railway_context(environment="production")
    return json.loads(json.dumps(described["main"](context).to_graph()))


@pytest.fixture
def edges(graph):
    return [each for each in graph["resources"] if each["type"] == "service"]


def test_each_edge_has_a_name_and_a_volume_of_its_own(graph, edges):
    names = [edge["name"] for edge in edges]
    assert names
    assert len(set(names)) == len(names)
    volumes = [each["address"] for each in graph["resources"] if each["type"] == "volume"]
    attached = [mount for edge in edges for mount in edge["volumeAttachments"].values()]
    assert sorted(mount["volume"] for mount in attached) == sorted(volumes)
    for edge, mount in zip(edges, attached, strict=True):
        assert edge["variables"]["QIG_NODE"]["value"] == edge["name"]
        assert edge["variables"]["QIG_HOME"]["value"] == mount["mountPath"]
        assert edge["deploy"]["numReplicas"] == 1
        assert edge["source"] == {"type": "image", "image": IMAGE}


def test_what_is_not_an_edge_is_not_the_description_s_to_delete(described):
    assert described["PARTIAL"] == "edges"


def test_no_secret_is_in_the_graph_and_none_that_is_set_by_hand_is_deleted(edges):
    for edge in edges:
        kept = {name for name, value in edge["variables"].items() if value == {"type": "preserve"}}
        assert kept >= {settings.variable("broker_url"), *railway_edge.VARIABLES}


def test_every_setting_of_an_edge_is_set_kept_or_railway_s(edges):
    known = {
        settings.variable(name)
        for model in (EdgeSettings, settings.ApiSettings, settings.PrivacySettings)
        for name in model.model_fields
    }
    railway_s = {settings.variable(name) for name in ("http_host", "http_port", "replica")}
    for edge in edges:
        assert {name for name in edge["variables"] if name.startswith(settings.PREFIX)} == known - railway_s


def test_what_it_starts_and_asks_is_there(edges):
    for edge in edges:
        program, script = edge["deploy"]["startCommand"].split()
        assert (program, (ROOT / script).is_file()) == ("python", True)
        assert edge["deploy"]["healthcheckPath"] == "/readyz"


def test_an_edge_starts_with_what_railway_gives_it(edges):
    for edge in edges:
        given = {name: value["value"] for name, value in edge["variables"].items() if "value" in value}
        railway = {"PORT": "7654", "RAILWAY_ENVIRONMENT_NAME": "production", "RAILWAY_REPLICA_ID": "0b1f"}
        loaded = settings.load(EdgeSettings, given | railway | {"QIG_BROKER_URL": URL})
        assert (loaded.node, loaded.http_host, loaded.http_port) == (edge["name"], "::", 7654)


def test_the_process_has_longer_to_stop_than_its_outbox_and_its_http_may_take(edges):
    for edge in edges:
        draining_s = float(edge["variables"]["RAILWAY_DEPLOYMENT_DRAINING_SECONDS"]["value"])
        assert draining_s >= 2 * (GRACEFUL_SHUTDOWN_S + DRAIN_TIMEOUT_S)


# The directory


@pytest.fixture
def given(tmp_path):
    """What an operator copies into the variables, out of the directory in which the fleet's keys were made."""
    made = tmp_path / "made"
    keys.init(made, ["edge-1"])
    known = api_keys.add((), "kiosk", "qig-secret", now_s=1.0)
    return {
        railway_edge.KEY: (made / "private" / "edge-1.key").read_text(),
        railway_edge.ROOT: (made / "trust" / "root.json").read_text(),
        railway_edge.API_KEYS: api_keys.pack(known).decode(),
    }


def test_an_edge_finds_its_key_its_root_and_its_clients_keys(tmp_path, given):
    home = tmp_path / "volume"
    assert len(railway_edge.lay_out(home, "edge-1", given)) == 3
    assert keys.load_private(home, "edge-1").encode().hex() == given[railway_edge.KEY].strip()
    assert keys.load_root(home)
    assert api_keys.holder(api_keys.KeyFile(api_keys.default_path(home)).keys, "qig-secret") == "kiosk"
    assert {stat.S_IMODE(path.stat().st_mode) for path in home.rglob("*") if path.is_file()} == {0o600}


def test_a_second_start_writes_nothing_and_needs_neither_key_nor_root(tmp_path, given):
    railway_edge.lay_out(tmp_path, "edge-1", given)
    assert railway_edge.lay_out(tmp_path, "edge-1", given) == []
    assert railway_edge.lay_out(tmp_path, "edge-1", {railway_edge.API_KEYS: given[railway_edge.API_KEYS]}) == []


@pytest.mark.parametrize("empty", [{}, {railway_edge.API_KEYS: "", railway_edge.SECRET: " "}])
def test_keys_and_a_secret_whose_variables_are_taken_away_are_no_longer_in_force(tmp_path, given, empty):
    railway_edge.lay_out(tmp_path, "edge-1", given | {railway_edge.SECRET: "00" * 32})
    gone = [api_keys.default_path(tmp_path), keys.secret_path(tmp_path)]
    assert railway_edge.lay_out(tmp_path, "edge-1", empty) == gone
    assert not any(path.exists() for path in gone)
    assert keys.load_private(tmp_path, "edge-1")
    assert railway_edge.lay_out(tmp_path, "edge-1", empty) == []


def test_the_secret_of_the_fleet_and_the_clients_keys_follow_their_variables(tmp_path, given):
    railway_edge.lay_out(tmp_path, "edge-1", given | {railway_edge.SECRET: "00" * 32})
    changed = given | {railway_edge.SECRET: "11" * 32, railway_edge.API_KEYS: '{"v":1,"keys":[]}'}
    assert len(railway_edge.lay_out(tmp_path, "edge-1", changed)) == 2
    assert keys.load_secret(keys.secret_path(tmp_path)) == b"\x11" * 32


@pytest.mark.parametrize("name", [railway_edge.KEY, railway_edge.ROOT])
def test_a_key_and_a_root_are_never_replaced(tmp_path, given, name):
    railway_edge.lay_out(tmp_path, "edge-1", given)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(Rejected, match=f"other_key: {name}") as refused:
        railway_edge.lay_out(tmp_path, "edge-1", given | {name: "22" * 32})
    assert given[railway_edge.KEY].strip() not in str(refused.value)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("name", [railway_edge.KEY, railway_edge.ROOT])
def test_a_start_without_a_key_or_a_root_says_what_is_missing(tmp_path, given, name):
    del given[name]
    with pytest.raises(Rejected, match=f"missing_variable: {name} is not set.*docs/railway.md"):
        railway_edge.lay_out(tmp_path, "edge-1", given)


def test_a_directory_that_cannot_be_written_is_said(tmp_path, given):
    (tmp_path / "private").write_text("no directory")
    with pytest.raises(Unavailable, match=r"home_unwritable: .*is a volume there\?"):
        railway_edge.lay_out(tmp_path, "edge-1", given)


def test_the_edge_s_own_environment_holds_none_of_the_variables(tmp_path, given):
    seen = tmp_path / "seen"
    program = (
        "import json, os, sys; from deploy import railway_edge;"
        f"os.execv = lambda *_: open({str(seen)!r}, 'w').write(json.dumps(dict(os.environ)));"
        "railway_edge.main()"
    )
    environment = given | {"QIG_HOME": str(tmp_path / "volume"), "QIG_NODE": "edge-1", "PATH": os.environ["PATH"]}
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, check=True, capture_output=True)
    inherited = json.loads(seen.read_text())
    assert inherited["QIG_NODE"] == "edge-1"
    assert not set(railway_edge.VARIABLES) & set(inherited)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_the_volume_is_given_to_the_image_s_user_who_the_process_becomes(tmp_path, given):
    railway_edge.lay_out(tmp_path / "volume", "edge-1", given)
    program = (
        "import os, pathlib; from deploy.railway_edge import USER, hand_over;"
        f"hand_over(pathlib.Path({str(tmp_path / 'volume')!r}), USER);"
        "print(os.getresuid(), os.getresgid(), os.getgroups())"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    user = railway_edge.USER
    assert done.stdout.strip() == f"{(user,) * 3} {(user,) * 3} []"
    assert {path.stat().st_uid for path in (tmp_path / "volume").rglob("*")} == {user}
    assert f"USER {user}:{user}" in (ROOT / "Dockerfile").read_text().splitlines()
