"""compose.yaml and the Dockerfile: what they name exists, and what they promise about safety holds."""

import importlib.util
import re
import subprocess
import sys
import tomllib
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
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def stages() -> dict[str, str]:
    """Text of each stage by its name."""
    parts = re.split(r"^FROM +\S+ +AS +(\S+)$", DOCKERFILE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def built_on(target: str) -> str:
    """Text of a target's stage and of those that it stands on, from the first to its own."""
    under = {name: below for below, name in re.findall(r"^FROM +(\S+) +AS +(\S+)$", DOCKERFILE, flags=re.MULTILINE)}
    return built_on(under[target]) + stages()[target] if target in under else ""


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
        assert command[2] == f"services.{name.removesuffix('-gpu')}.app"
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
    users = re.findall(r"^USER +(\S+)$", built_on(target), flags=re.MULTILINE)
    assert users
    assert users[-1] == "10001:10001"


@pytest.mark.parametrize("target", sorted({SERVICES[name]["build"]["target"] for name in OURS}))
def test_our_images_begin_with_nothing_and_are_given_neither_shell_nor_pip(target: str) -> None:
    assert re.search(r"^FROM scratch AS base$", DOCKERFILE, flags=re.MULTILINE)
    text = built_on(target)
    assert not re.search(r"^RUN", text, flags=re.MULTILINE)
    assert re.search(r"^CMD \[", text, flags=re.MULTILINE)
    assert not re.search(r"^(CMD|ENTRYPOINT) +[^\[]", text, flags=re.MULTILINE)


def test_the_images_tell_their_version_and_their_health() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert f'org.opencontainers.image.version="{version}"' in stages()["base"]
    assert re.search(r'^HEALTHCHECK .*CMD \["qig", "health"\]$', stages()["base"], flags=re.MULTILINE)


@pytest.mark.parametrize("name", [name for name in LONG_RUNNING if name in OURS])
def test_a_service_of_ours_has_a_bound_of_memory_and_of_threads(name: str) -> None:
    assert re.fullmatch(r"\d+[mg]", SERVICES[name]["mem_limit"])
    assert SERVICES[name]["pids_limit"] > 0


def test_the_trainer_on_graphics_cards_is_the_trainer_but_for_its_image_and_its_cards() -> None:
    plain, cards = SERVICES["trainer"], SERVICES["trainer-gpu"]
    own = {"image", "build", "mem_limit", "profiles", "networks", "deploy"}
    assert {key for key in plain | cards if plain.get(key) != cards.get(key)} == own
    assert cards["networks"]["default"]["aliases"] == ["trainer"]
    (device,) = cards["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}


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
    assert {name.removesuffix("-gpu") for name in SERVICES if volume in mounts(name)} == {who, "keys"}
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
    made = set(re.findall(r"(?<= )/\S+", "".join(re.findall(r"install -d -m \d+ [^&]+", stages()["root"]))))
    given = re.findall(r"^COPY --from=root --chown=10001:10001 (\S+) (\S+)$", stages()["base"], flags=re.MULTILINE)
    there = {path.replace(source, target, 1) for source, target in given for path in made if path.startswith(source)}
    assert {target for target, _ in mounts(name).values()} <= there


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


def pinned(name: str) -> dict[str, str]:
    """Version by package of a lock."""
    return dict(re.findall(r"^(\S+)==(\S+)", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE))


def test_packages_are_installed_by_hash_and_torch_in_the_version_of_the_project() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    torch = re.search(r'"(torch==[^"]+)"', project).group(1)
    assert f"torch=={pinned('requirements-cuda.lock')['torch']}" == torch
    for stage, locks in (
        ("packages", ["requirements.lock"]),
        ("packages-torch-cpu", ["requirements-torch-cpu.lock", "requirements-cuda.lock"]),
        ("packages-runpod", ["requirements-runpod.lock"]),
        ("packages-cuda", ["requirements-cuda.lock"]),
    ):
        installs = [line for line in re.split(r"&&|;|\n", stages()[stage].replace("\\\n", " ")) if " install " in line]
        by_hash = [
            line for line in installs if "pip" in line and not re.search(rf"--index-url .* {torch}$", line.strip())
        ]
        assert [line.split("--require-hashes --only-binary :all: -r ")[-1].strip() for line in by_hash] == locks


@pytest.mark.parametrize(
    ("lock", "beside"),
    [
        ("requirements-torch-cpu.lock", "requirements.lock"),
        ("requirements-cuda.lock", "requirements.lock"),
        ("requirements-runpod.lock", "requirements.lock"),
        ("requirements-runpod.lock", "requirements-torch-cpu.lock"),
        ("requirements-runpod.lock", "requirements-cuda.lock"),
    ],
)
def test_what_an_image_adds_comes_with_the_same_packages_as_what_is_there(lock: str, beside: str) -> None:
    added, there = pinned(lock), pinned(beside)
    assert {name: added[name] for name in added.keys() & there.keys()} == {
        name: there[name] for name in added.keys() & there.keys()
    }


def test_the_worker_s_image_has_runpod_in_the_version_of_the_project_and_starts_the_worker() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'"runpod=={pinned("requirements-runpod.lock")["runpod"]}"' in project
    assert built_on("runpod").rstrip().endswith('CMD ["python", "handler.py"]')


def test_without_a_target_and_without_arguments_the_worker_s_image_is_built() -> None:
    assert list(stages())[-1] == "runpod"
    defaults = dict(re.findall(r"^ARG (\w+)(?:=(\S+))?$", DOCKERFILE, flags=re.MULTILINE))
    assert {name for name, default in defaults.items() if not default} == {"PIP_INDEX_URL", "TORCH_INDEX_URL"}
    assert 'if [ -n "${TORCH_INDEX_URL}" ]' in stages()["packages-torch-cpu"]  # pip reads PIP_INDEX_URL itself


def test_what_the_images_copy_is_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"}
    copied = re.findall(r"^COPY (?!--from)(\S+) \S+$", DOCKERFILE, flags=re.MULTILINE)
    assert kept <= set(copied)
    assert all(any(Path(each) == Path(name) or Path(name) in Path(each).parents for name in kept) for each in copied)


@pytest.mark.parametrize(
    ("program", "ends", "says"),
    [
        ("tests/compose/run.py", 77, "SKIPPED, nothing was tested: neither docker"),
        ("scripts/images.py", 3, "no images:"),
    ],
)
def test_where_containers_cannot_be_run_it_is_said_so_and_the_exit_code_is_its_own(program, ends, says, tmp_path):
    command = [sys.executable, ROOT / program]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == ends
    assert done.stderr.startswith(says)
