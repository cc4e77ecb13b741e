"""compose.yaml and the Dockerfile: what they name exists, and what they promise about safety holds."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.runtime import access, settings
from deploy import make_keys

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = tuple(name for name, service in SERVICES.items() if "build" in service)
LONG_RUNNING = tuple(name for name, service in SERVICES.items() if service["restart"] != "no")
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")


def stages() -> dict[str, str]:
    """Text of each stage by its name."""
    parts = re.split(r"^FROM +\S+ +AS +(\S+)$", DOCKERFILE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(s|m)", text).groups()
    return float(number) * {"s": 1, "m": 60}[unit]


@pytest.mark.parametrize("service", settings.SERVICES)
def test_every_service_of_the_code_is_one_of_compose_and_of_the_default_profile(service: str) -> None:
    assert service in SERVICES
    assert "profiles" not in SERVICES[service]


@pytest.mark.parametrize("name", OURS)
def test_what_a_container_runs_exists(name: str) -> None:
    command = [*SERVICES[name].get("entrypoint", []), *SERVICES[name]["command"]]
    if command[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(command[2]) is not None
        assert command[2] == f"services.{name}.app"
    elif command[0] == "python":
        assert (ROOT / command[1]).is_file()
    else:
        assert command[0] == "qig"


@pytest.mark.parametrize("name", OURS)
def test_every_qig_variable_is_a_setting(name: str) -> None:
    given = {each for each in SERVICES[name].get("environment", {}) if each.startswith(settings.PREFIX)}
    assert given <= settings.known_variables()


def test_every_qig_variable_of_the_images_is_a_setting() -> None:
    given = set(re.findall(r"\b(QIG_[A-Z_]+)=", DOCKERFILE))
    assert given
    assert given <= settings.known_variables()


@pytest.mark.parametrize("name", settings.SERVICES)
def test_a_service_starts_with_the_environment_and_the_volumes_that_compose_gives_it(name: str, tmp_path: Path) -> None:
    given = SERVICES["keys"]["command"]
    make_keys.make_users(tmp_path, given[given.index("--broker") + 1])
    image = dict(re.findall(r"\b(QIG_[A-Z_]+)=(\S+)", DOCKERFILE))
    environment = image | SERVICES[name]["environment"]
    inside = Path(environment[settings.BROKER_URL_FILE])
    volume = next(volume for volume, (target, _) in mounts(name).items() if inside.is_relative_to(target))
    made_at = (
        tmp_path / Path(mounts("keys")[volume][0]).relative_to("/keys") / inside.relative_to(mounts(name)[volume][0])
    )
    loaded = settings.load(settings.SERVICES[name], environment | {settings.BROKER_URL_FILE: str(made_at)})
    assert loaded.http_host == "0.0.0.0"
    assert re.fullmatch(rf"redis://{name}:[0-9a-f]+@broker:6379", loaded.broker_url)


@pytest.mark.parametrize("target", sorted({SERVICES[name]["build"]["target"] for name in OURS}))
def test_our_images_do_not_run_as_root(target: str) -> None:
    users = re.findall(r"^USER +(\S+)$", stages()[target], flags=re.MULTILINE)
    assert users
    assert users[-1] == "10001:10001"


@pytest.mark.parametrize("name", sorted(set(SERVICES) - set(OURS)))
def test_other_images_are_pinned_and_do_not_run_as_root(name: str) -> None:
    assert SERVICES[name]["user"].split(":")[0] not in {"", "0", "root"}
    assert re.search(r":v?\d", SERVICES[name]["image"])


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_can_change_nothing_but_its_volumes(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_open_to_this_machine_alone(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        host = port["host_ip"] if isinstance(port, dict) else port.split(":")[0]
        assert host == "127.0.0.1"


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_what_runs_on_comes_back_after_any_end_and_has_time_to_finish(name: str) -> None:
    assert SERVICES[name]["restart"] == "unless-stopped"
    assert seconds(SERVICES[name]["stop_grace_period"]) >= 30
    assert SERVICES[name]["healthcheck"]["test"]


@pytest.mark.parametrize("name", settings.SERVICES)
def test_our_services_are_healthy_when_they_are_ready(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"] == ["CMD", "qig", "health"]


def test_every_service_that_is_waited_for_has_what_is_waited_for() -> None:
    for service in SERVICES.values():
        for name, wait in service.get("depends_on", {}).items():
            if wait["condition"] == "service_completed_successfully":
                assert SERVICES[name]["restart"] == "no"
            else:
                assert "healthcheck" in SERVICES[name]


def mounts(name: str) -> dict[str, tuple[str, bool]]:
    """Path and whether it is read-only, by volume."""
    found = (volume.split(":") for volume in SERVICES[name].get("volumes", []))
    return {source: (target, mode == ["ro"]) for source, target, *mode in found}


@pytest.mark.parametrize(
    ("volume", "who"),
    [
        ("publisher-key", "publisher"),
        ("edge-keys", "edge"),
        ("aggregator-key", "aggregator"),
        ("trainer-key", "trainer"),
        ("operator-key", "qig"),
    ],
)
def test_a_private_key_is_seen_by_its_owner_and_its_maker_alone(volume: str, who: str) -> None:
    assert {name for name in SERVICES if volume in mounts(name)} == {who, "keys"}
    assert mounts(who)[volume] == ("/var/lib/qig/private", True)


@pytest.mark.parametrize("volume", ["offline-keys", "broker-keys"])
def test_what_nobody_who_runs_needs_is_seen_by_nobody_who_runs(volume: str) -> None:
    assert {name for name in SERVICES if volume in mounts(name)} == {"keys"}
    assert SERVICES["keys"]["restart"] == "no"


@pytest.mark.parametrize("name", ["edge", "aggregator", "trainer", "publisher"])
def test_public_keys_are_read_only_for_who_believes_them(name: str) -> None:
    assert mounts(name)["trust"] == ("/var/lib/qig/trust", True)


def test_every_named_volume_is_declared_and_used() -> None:
    used = {source for name in SERVICES for source in mounts(name) if not source.startswith(".")}
    assert used == set(COMPOSE["volumes"])


@pytest.mark.parametrize("name", OURS)
def test_a_volume_of_ours_lies_on_a_directory_that_the_image_gives_to_its_user(name: str) -> None:
    made = re.search(r"install -d -o qig -g qig [^&]+", stages()["base"]).group().split()
    assert {target for target, _ in mounts(name).values()} <= set(made)


def test_the_broker_is_durable_and_throws_nothing_away() -> None:
    command = SERVICES["broker"]["command"]
    given = dict(zip(command[1::2], command[2::2], strict=True))
    assert given["--appendonly"] == "yes"
    assert given["--appendfsync"] == "everysec"
    assert given["--maxmemory-policy"] == "noeviction"
    assert given["--maxmemory"] == "${BROKER_MEMORY:-2gb}"


def test_the_broker_begins_with_its_users_and_nobody_comes_in_without_a_name() -> None:
    command = SERVICES["broker"]["command"]
    given = dict(zip(command[1::2], command[2::2], strict=True))
    assert given["--aclfile"] == f"{mounts('broker')['broker-users'][0]}/{access.acl_path(ROOT).name}"
    assert mounts("broker")["broker-users"][1]
    assert mounts("keys")["broker-users"] == ("/keys/users", False)
    assert SERVICES["broker"]["depends_on"] == {"keys": {"condition": "service_completed_successfully"}}
    assert "NOAUTH" in SERVICES["broker"]["healthcheck"]["test"][-1]


def test_packages_are_installed_by_hash_and_torch_in_the_version_of_the_project() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    torch = re.search(r'"(torch==[^"]+)"', project).group(1)
    assert "--require-hashes" in stages()["packages"]
    assert torch in stages()["packages-torch"]
    assert not {name for name in ("slim", "packages", "base") if "torch==" in stages()[name]}


def test_what_the_images_copy_is_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"}
    copied = re.findall(r"^COPY (?!--from)(\S+) \S+$", DOCKERFILE, flags=re.MULTILINE)
    assert kept <= set(copied)
    assert all(any(Path(each) == Path(name) or Path(name) in Path(each).parents for name in kept) for each in copied)
