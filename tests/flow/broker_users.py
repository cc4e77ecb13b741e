"""Servers with the users of rights.py: Valkey, which comes with the package, and Redis where this machine has it."""

import shutil
import subprocess
import time
from contextlib import contextmanager

import pytest
import redis as redispy

from common.errors import Unavailable
from common.runtime import access, embedded

ROOT = "root"  # a user of the tests alone, who may do everything, and its password
REDIS = shutil.which("redis-server")
SERVERS = [
    "valkey",
    pytest.param("redis", marks=pytest.mark.skipif(REDIS is None, reason="no redis-server on this machine")),
]
START_S = 10.0


def furnish(home, clients=()):
    """The users of a home, and root."""
    access.make(home, clients)
    add_root(home)


def add_root(home):
    """What `qig keys broker` writes has no user who may do everything."""
    with access.acl_path(home).open("a") as file:
        file.write(f"user {ROOT} on >{ROOT} ~* &* +@all\n")


@contextmanager
def valkey(home):
    running = embedded.start(home / "broker", users=access.users(home))
    try:
        yield running.url
    finally:
        running.stop()


@contextmanager
def redis7(home, *options):
    """Redis with the users of `home`; of several addresses that `options` give it, the one of --port is meant."""
    port = embedded._free_port()
    command = [REDIS, "--port", str(port), "--aclfile", str(access.acl_path(home)), "--dir", str(home), "--save", ""]
    with subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL) as process:
        try:
            wait_until_there(f"redis://{ROOT}:{ROOT}@127.0.0.1:{port}")
            yield f"redis://127.0.0.1:{port}"
        finally:
            process.terminate()


def wait_until_there(url):
    deadline = time.monotonic() + START_S
    with redispy.Redis.from_url(url) as client:
        while True:
            try:
                client.ping()
            except redispy.ConnectionError as error:
                if time.monotonic() > deadline:
                    raise Unavailable("broker_failed", f"no redis-server: {error}") from None
            else:
                return


@contextmanager
def server(kind, home):
    with (valkey if kind == "valkey" else redis7)(home) as url:
        yield url


def as_root(url):
    return url.replace("://", f"://{ROOT}:{ROOT}@")
