"""Really runs compose.yaml with the images as they are and prints the figures: up, ask, scale, forget, sleep, bundle,
kill, down, restore.

Prometheus watches the scaling where its image is at hand or can be fetched; Grafana is left out.

    make compose-test        docker with compose, or podman and COMPOSE=/path/to/docker-compose

Ends with 0 when every promise of docs/deploy.md was kept, 1 when not, 77 when containers cannot be run here.
"""

import asyncio
import json
import os
import re
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine import PROJECT, Engine, Failed, Missing, checked, found

from common.client import Client
from common.errors import QigError
from scripts import images
from services.cli import probe
from services.trainer.corpora.document import documents

SKIPPED = 77
BASE = os.environ.get("PYTHON_IMAGE") or "docker.io/library/python:3.11-slim-bookworm"
FILES = ("compose.yaml", "tests/compose/quick.yaml")
QUICK = ("edge", "aggregator")  # what the second file is about
# Told to leave alone what runs: with podman compose sees changes where there are none, and makes containers anew.
UP = ("up", "--detach", "--wait", "--no-build", "--no-recreate")
RUN = ("run", "--rm", "-T", "--no-deps")
HEALTHY_MAX_S = 60.0
SLIM_MAX_MB = 300  # unpacked
BUNDLE_MAX_S = 240.0
ANSWER_MAX_S = 120.0
SCRAPED_MAX_S = 60.0
# In docs/operations.md, twice: the volumes that are kept, and those that are brought back.
BACKUP = re.compile(r"^for volume in ([a-z -]+); do$", re.MULTILINE)
ACCEPTED_MAX_S = 60.0
RULES = sorted(Path("deploy/prometheus/rules").glob("*.yml"))
FIRST_QUESTION = "Where does the river go?"
READ_BYTES = 200_000  # of unseen text: a packet of each of two edges at least
ASKING = 4  # clients that ask one query after the other
OURS = ("edge", "aggregator", "trainer", "publisher")
KILLED = dict.fromkeys(OURS, ("python", "-c", "import os; os.kill(-1, 9)")) | {"broker": ("sh", "-c", "kill -9 -1")}
"""By service what kills all of a container but its init, which ends with it."""
INSIDE = """
import json, os, shutil
path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/venv/bin"
names = "apt apt-get as bash busybox c++ cc clang cpp curl dpkg g++ gcc git ld make perl pip pip3 sh wget".split()
files = [os.path.join(at, name) for top in ("/app", "/etc", "/home", "/keys", "/opt", "/root", "/usr", "/var")
         for at, _, inside in os.walk(top) for name in inside]
secrets = [file for file in files if file.endswith((".key", ".url", ".secret", ".pem", ".netrc", "pip.conf"))
           and not file.endswith("/cacert.pem")]
elevated = [file for file in files if os.path.isfile(file) and os.stat(file).st_mode & 0o6000]
print(json.dumps({"programs": [name for name in names if shutil.which(name, path=path)],
                  "secrets": secrets, "setuid": elevated}))
"""


@dataclass(slots=True)
class Asked:
    """What was asked while things were done to the fleet. lost: why each query without an answer had none."""

    answered: int = 0
    lost: list[str] = field(default_factory=list)


async def main() -> int:
    """Returns an exit code."""
    try:
        with found(BASE) as engine:
            for target in ("slim", "torch-cpu"):
                images.build(engine.program, target, sys.argv[1:])
            async with checked(engine):
                try:
                    figures, broken = await story(engine)
                finally:
                    await engine.up("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "30")
            figures["left_after_down"] = len(await engine.containers())
    except Missing as reason:
        say(f"SKIPPED, nothing was tested: {reason}")
        return SKIPPED
    sys.stdout.write(json.dumps(figures) + "\n")
    for reason in broken:
        say(f"FAILED: {reason}")
    return 1 if broken else 0


async def story(engine: Engine) -> tuple[dict[str, Any], list[str]]:
    """The figures, and which promises were not kept. Raises Failed when the story cannot go on."""
    broken: list[str] = []
    figures: dict[str, Any] = {"engine": engine.program}

    def promise(kept: bool, what: str) -> None:  # noqa: FBT001
        if not kept:
            broken.append(what)

    for target in ("slim", "torch-cpu"):
        image = images.tag(target)
        figures[f"{target}_mb"] = round(images.size_bytes(engine.program, image) / 1e6)
        for reason in await unsafe(engine, image):
            promise(False, f"{image}: {reason}")

    promise(figures["slim_mb"] <= SLIM_MAX_MB, f"slim is {figures['slim_mb']} MB, not {SLIM_MAX_MB}")

    say("up")
    figures["healthy_s"] = await seconds(engine.up(*UP, timeout_s=600))
    promise(figures["healthy_s"] <= HEALTHY_MAX_S, f"healthy after {figures['healthy_s']} s, not {HEALTHY_MAX_S:.0f}")
    answer = json.loads(await engine.up(*RUN, "qig", "ask", "--json", FIRST_QUESTION))
    promise(bool(answer["text"]), f"the first question had no answer: {answer}")
    say(f"{FIRST_QUESTION} {answer['text'][:60]!r}")

    broken += await unseen(engine)

    url_of_client = await client_url(engine)
    async with Client(url_of_client) as client:
        broken += await scaled(engine, client, figures)

        say("read and sleep")
        await engine.up("up", "--detach", "--wait", "--no-build", "--no-deps", *QUICK, files=FILES, timeout_s=600)
        await read(client)
        url = f"http://{(await engine.up('port', 'edge', '8000')).strip()}"
        figures["bundle_s"] = await seconds(eventually(lambda: gauge_is(url, "qig_bundle_version", 2), BUNDLE_MAX_S))
        figures["bundle_version"] = await probe.gauge(url, "qig_bundle_version")
        promise((figures["bundle_version"] or 0) >= 2, "the edge serves no new bundle after it slept")
        figures["memory_mb"] = await memory(engine)

        figures["killed"] = {}
        for service, kill in KILLED.items():
            say(f"kill {service}")
            async with asking(client) as asked:
                await asyncio.sleep(1)
                figures["killed"][service] = await back(engine, service, kill)
                await asyncio.sleep(2)
            promise(not asked.lost, f"queries lost while {service} was killed: {asked.lost[:3]}")

    before = await remembered(engine)
    say("down")
    figures["down_s"] = await seconds(engine.up("stop", "--timeout", "30"))
    ends = await engine.run(
        "ps", "--all", "--format={{.Names}} {{.Status}}", f"--filter=label=com.docker.compose.project={PROJECT}"
    )
    killed = [line for line in ends.splitlines() if "(137)" in line]
    promise(not killed, f"did not end by themselves within 30 s: {killed}")

    broken += await restored(engine, url_of_client, before, figures)
    return figures, broken


async def restored(engine: Engine, url: str, before: list[str], figures: dict[str, Any]) -> list[str]:
    """A stopped fleet's volumes are kept, deleted and brought back, as docs/operations.md says; what is not as before.

    url: of a client, whose user comes back with the rest. before: what was remembered.
    """
    say("back up and restore")
    began = time.monotonic()
    kept, brought = (volumes.split() for volumes in BACKUP.findall(Path("docs/operations.md").read_text()))  # noqa: ASYNC240
    with tempfile.TemporaryDirectory() as folder:
        await engine.up("--profile", "*", "down")
        for volume in kept:
            await tar(engine, volume, folder, "-cf", f"/kept/{volume}.tar", ".")
        await engine.up("--profile", "*", "down", "--volumes")
        await engine.up("create", "--no-build", files=FILES)
        for volume in brought:
            await tar(engine, volume, folder, "-xpf", f"/kept/{volume}.tar")
    await engine.up(*UP, files=FILES, timeout_s=300)
    figures["restored_s"] = round(time.monotonic() - began, 1)
    after = await remembered(engine)
    broken = [f"{entry} is gone after a restore" for entry in before if entry not in after]
    count = await accepted(engine)
    async with Client(url) as client:
        await read(client)
    await eventually(lambda: more_accepted(engine, count), ACCEPTED_MAX_S)
    if not await more_accepted(engine, count):
        broken.append(f"no packet counts after a restore, beside the {count} from before")
    return broken


async def tar(engine: Engine, volume: str, folder: str, *arguments: str) -> None:
    """Run tar in a volume, with a folder of this machine as /kept."""
    mounts = (f"--volume={PROJECT}_{volume}:/volume", f"--volume={folder}:/kept")
    await engine.run("run", "--rm", *mounts, BASE, "tar", "-C", "/volume", *arguments)


async def remembered(engine: Engine) -> list[str]:
    """What a fleet must not forget: its releases by version, its edges' packets by node and sequence."""
    releases = await engine.up(*RUN, "qig", "bundle", "list", "--json")
    packets = await engine.up("exec", "-T", "edge", "qig", "packet", "list", "--json")
    return [
        *(f"bundle {json.loads(line)['version']}" for line in releases.splitlines()),
        *("packet {node}:{sequence}".format(**json.loads(line)) for line in packets.splitlines()),
    ]


async def accepted(engine: Engine) -> int:
    """How many packets the centre has taken."""
    nodes = (await engine.up(*RUN, "qig", "nodes", "--json")).splitlines()
    return sum(json.loads(line)["packets"]["accepted"] for line in nodes)


async def more_accepted(engine: Engine, than: int) -> bool:
    """Whether the centre has taken more packets than that."""
    return await accepted(engine) > than


async def scaled(engine: Engine, client: Client, figures: dict[str, Any]) -> list[str]:
    """Edges are made four and one while questions are asked; which promises were not kept."""
    broken = []
    watcher = await prometheus(engine)
    figures["scraped"] = None if watcher is None else {}
    async with asking(client) as asked:
        for count in (4, 1):
            say(f"scale edge={count}")
            await engine.up(*UP, f"--scale=edge={count}", timeout_s=600)
            await asyncio.sleep(5)
            if watcher is not None:
                expected = dict.fromkeys(OURS, 1) | {"edge": count}
                await eventually(lambda: scrapes(watcher, expected), SCRAPED_MAX_S)  # noqa: B023 -- awaited here
                figures["scraped"][f"edge={count}"] = found = await scraped(watcher)
                if found != expected:
                    broken.append(f"Prometheus scrapes {found}, not {expected}")
            broken += await unforgotten(engine, client, count)
    figures["scaled"] = {"queries": asked.answered + len(asked.lost), "lost": len(asked.lost)}
    if asked.lost:
        broken.append(f"queries lost while edges were scaled: {asked.lost[:3]}")
    return broken


async def unforgotten(engine: Engine, client: Client, count: int) -> list[str]:
    """Each container of edges is told to forget what any edge was asked; what each said that was wrong."""
    wrong = []
    for number in range(1, count + 1):
        answer = await client.ask(FIRST_QUESTION, max_tokens=8, deadline_s=ANSWER_MAX_S)
        forget = ("qig", "forget", answer.query_id)
        try:
            said = await engine.up("exec", "-T", f"--index={number}", "edge", *forget)
        except Failed as reason:
            said = str(reason)
        if not said.startswith(f"{answer.node}: deleted"):
            wrong.append(f"container {number}, told to forget what {answer.node} keeps: {said}")
    return wrong


async def unseen(engine: Engine) -> list[str]:
    """What the operator should see of the fleet and does not.

    Looked for in what is said: with podman `run` ends with 0 whatever its command ended with.
    """
    nodes, why = await engine.up(*RUN, "qig", "nodes"), await engine.up(*RUN, "qig", "bundle", "why")
    sees = {
        f"qig nodes: {nodes}": "edge-1" in nodes and "not enrolled" not in nodes,
        f"qig bundle why: {why}": "bundle 1" in why,
    }
    return [said for said, right in sees.items() if not right]


async def unsafe(engine: Engine, image: str) -> list[str]:
    """What an image holds and should not."""
    config = {"Env": [], "User": ""} | json.loads(
        await engine.run("image", "inspect", "--format={{json .Config}}", image)
    )
    # As root, who sees all of it.
    looked = await engine.run("run", "--rm", "--user=0", "--network=none", "--entrypoint=python", image, "-c", INSIDE)
    named = [each.split("=")[0] for each in config["Env"]]
    suspect = ("KEY", "PASS", "SECRET", "TOKEN")
    wrong = json.loads(looked) | {
        "variables": [name for name in named if any(word in name for word in suspect)],
        "user": ["root"] if config["User"].split(":")[0] in {"", "0", "root"} else [],
    }
    return [f"{what}: {', '.join(found)}" for what, found in wrong.items() if found]


async def prometheus(engine: Engine) -> str | None:
    """Its address, with all rules loaded; None where it has no image and none can be fetched."""
    observed = ("--profile", "observability")
    images_named = (await engine.up(*observed, "config", "--images")).split()
    (image,) = {name for name in images_named if "prometheus" in name}
    try:
        await engine.run("image", "inspect", image)
    except Failed:
        try:
            await engine.run("pull", image)
        except Failed as reason:
            say(f"SKIPPED, Prometheus: {reason}")
            return None
    say("prometheus")
    await engine.up(*observed, *UP, "--no-deps", "prometheus")
    url = f"http://{(await engine.up('port', 'prometheus', '9090')).strip()}"
    groups = (await told(url, "rules"))["groups"]
    loaded = {rule["name"] for group in groups for rule in group["rules"]}
    missing = set(re.findall(r"- (?:alert|record): (\S+)", "".join(path.read_text() for path in RULES))) - loaded
    if missing:
        raise Failed(f"Prometheus has not loaded {sorted(missing)}")
    return url


async def scraped(url: str) -> dict[str, int]:
    """How many of each job Prometheus has scraped."""
    up = [each for each in (await told(url, "targets"))["activeTargets"] if each["health"] == "up"]
    return dict(Counter(each["labels"]["job"] for each in up))


async def scrapes(url: str, expected: dict[str, int]) -> bool:
    """Whether it has scraped these and no others."""
    return await scraped(url) == expected


async def told(url: str, path: str) -> Any:
    """What Prometheus answers."""

    def fetch() -> Any:
        with urllib.request.urlopen(f"{url}/api/v1/{path}", timeout=20) as answer:
            return json.load(answer)["data"]

    return await asyncio.to_thread(fetch)


async def client_url(engine: Engine) -> str:
    """Make a client's user at the broker, as docs/deploy.md says; its address from this machine."""
    keys = (*RUN, "keys")
    await engine.up(*keys, "qig", "keys", "broker", "--home", "/keys/broker", "--client", "kiosk")
    await engine.up(*keys)
    await engine.up(*RUN, "qig", "keys", "broker", "--load")
    shown = "import pathlib; print(pathlib.Path('/keys/broker/private/broker/kiosk.url').read_text())"
    url = (await engine.up(*keys, "python", "-c", shown)).strip()
    return url.replace("broker:6379", (await engine.up("port", "broker", "6379")).strip())


@asynccontextmanager
async def asking(client: Client) -> AsyncIterator[Asked]:
    """Queries one after the other from several clients, for as long as this is open."""
    asked, stop = Asked(), asyncio.Event()

    async def ask_on(number: int) -> None:
        while not stop.is_set():
            try:
                await client.ask(f"The sea was calm, and {number}", max_tokens=8, store=False, deadline_s=ANSWER_MAX_S)
                asked.answered += 1
            except QigError as error:
                asked.lost.append(f"{error.code}: {error.message}")

    async with asyncio.TaskGroup() as group:
        for number in range(ASKING):
            group.create_task(ask_on(number))
        try:
            yield asked
        finally:
            stop.set()


async def read(client: Client) -> None:
    """Give the edges unseen text to read: max_tokens 0, nothing is generated."""
    size = 0
    for document in documents("unseen/scripture", root=Path("data")):
        await client.ask(document.text, max_tokens=0, deadline_s=ANSWER_MAX_S)
        size += len(document.text.encode())
        if size > READ_BYTES:
            return


async def back(engine: Engine, service: str, kill: tuple[str, ...]) -> float:
    """Kill what runs in a service's container; seconds until it is healthy again."""
    before = await started(engine, service)
    began = time.monotonic()
    (container,) = (await engine.up("ps", "--quiet", service)).split()
    with suppress(Failed):  # the container may be gone before the command has ended
        await engine.run("exec", container, *kill)
    await eventually(lambda: has_changed(engine, service, before), ANSWER_MAX_S)
    await engine.up(*UP, files=FILES, timeout_s=300)
    return round(time.monotonic() - began, 1)


async def started(engine: Engine, service: str) -> str:
    """When a service's container was started last."""
    (container,) = (await engine.up("ps", "--all", "--quiet", service)).split()
    return await engine.run("inspect", "--format={{.State.StartedAt}}", container)


async def has_changed(engine: Engine, service: str, before: str) -> bool:
    """Whether it was started anew since."""
    return await started(engine, service) != before


async def gauge_is(url: str, name: str, least: float) -> bool:
    """Whether a service shows at least this."""
    try:
        return (await probe.gauge(url, name) or 0) >= least
    except QigError:
        return False


async def memory(engine: Engine) -> dict[str, str]:
    """What each container uses, by name."""
    told = await engine.run("stats", "--no-stream", "--format={{.Name}} {{.MemUsage}}", *await engine.containers())
    return {name.removeprefix(f"{PROJECT}-"): used for name, used in (line.split(" ", 1) for line in told.splitlines())}


async def eventually(holds: Callable[[], Awaitable[bool]], within_s: float) -> None:
    """Wait until it holds, or for as long as is said."""
    until = time.monotonic() + within_s
    while not await holds() and time.monotonic() < until:  # noqa: ASYNC110 -- it holds in another process
        await asyncio.sleep(1)


async def seconds(work: Coroutine[Any, Any, object]) -> float:
    """How long it took."""
    began = time.monotonic()
    await work
    return round(time.monotonic() - began, 1)


def say(line: str) -> None:
    """On standard error: standard output is the figures'."""
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
