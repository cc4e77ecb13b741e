"""Where the broker is, as its address says: one server, the one that sentinels name, or a cluster.

    redis://[USER:PASSWORD@]HOST[:6379][/DATABASE]                       one server; unix://PATH on this machine
    redis+sentinel://[USER:PASSWORD@]HOST[:26379],.../NAME[/DATABASE]    whatever these sentinels call the master NAME
    redis+cluster://[USER:PASSWORD@]HOST[:6379],...                      some of a cluster's nodes; they know the others

`rediss` in the place of `redis` is the same over TLS. Options of redis-py's connections may follow as a query. User and
password are the servers'; sentinels that want some are given `?sentinel_username=...&sentinel_password=...`.

>>> parse("redis+sentinel://a,b:26380/fleet").nodes
(('a', 26379), ('b', 26380))
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import urlsplit, urlunsplit

from redis.asyncio.connection import parse_url

SCHEMES: Final = (
    "redis://",
    "rediss://",
    "unix://",
    "redis+sentinel://",
    "rediss+sentinel://",
    "redis+cluster://",
    "rediss+cluster://",
)
SENTINEL_PORT: Final = 26_379
SERVER_PORT: Final = 6_379
_OWN: Final = "sentinel_"  # options of the sentinels' connections, in an address's query


@dataclass(frozen=True, slots=True)
class Address:
    """options: of the servers' connections, by redis-py's names. nodes: the sentinels, or some of the cluster's nodes.

    master: what the sentinels call the server; sentinel_options: those of their connections that are not the servers'.
    """

    kind: Literal["server", "sentinel", "cluster"]
    options: Mapping[str, Any]
    nodes: tuple[tuple[str, int], ...] = ()
    master: str = ""
    sentinel_options: Mapping[str, Any] = field(default_factory=dict)


def parse(url: str) -> Address:
    """What `url` says. Raises ValueError with what is wrong, never with the address: it may hold a password."""
    scheme = url.partition("://")[0] + "://"
    if scheme not in SCHEMES:
        msg = f"it begins with {', '.join(SCHEMES[:-1])} or {SCHEMES[-1]}"
        raise ValueError(msg)
    plain, _, kind = scheme.removesuffix("://").partition("+")
    if not kind:
        return Address("server", parse_url(url))
    parts = urlsplit(url)
    credentials, at, hosts = parts.netloc.rpartition("@")
    path = parts.path.strip("/")
    master, _, database = path.partition("/") if kind == "sentinel" else ("", "", path)
    options = dict(parse_url(urlunsplit((plain, f"{credentials}{at}host", database, parts.query, ""))))
    del options["host"]
    own = {name.removeprefix(_OWN): options.pop(name) for name in list(options) if name.startswith(_OWN)}
    port = SENTINEL_PORT if kind == "sentinel" else SERVER_PORT
    nodes = tuple(_node(host, port) for host in hosts.split(","))
    if kind == "cluster":
        if database:
            msg = "a cluster has one database, without a number: nothing follows the last host"
            raise ValueError(msg)
        return Address("cluster", options, nodes)
    if not master:
        msg = "the master's name follows the sentinels: redis+sentinel://HOST:26379,HOST:26379/NAME"
        raise ValueError(msg)
    return Address("sentinel", options, nodes, master, own)


def _node(text: str, port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, given = parts.hostname, parts.port
    except ValueError:
        host, given = None, None
    if not host:
        msg = f"{text!r} is no HOST or HOST:PORT"
        raise ValueError(msg)
    return host, given or port
