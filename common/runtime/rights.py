"""Who may do what at the broker: one user a role and one a client, their rules as one table in code.

    edge aggregator trainer publisher    the services        operator    the command line, `qig`
    a client's name                      one a client: may ask and cancel, and reads its own answers

A user has the commands that its code calls, on the keys that it calls them with, and nothing else. A script's commands
are checked one by one against the rights of whoever calls it, so the right to call scripts gives none to their keys.
Clients may call only the scripts that the server knows (EVALSHA, not EVAL): they are not ours, and a script of their
own could stop the server, or attack it. There is no default user.

A grant becomes a selector, and a rule holds on Redis 7.0 as on Valkey 9:

>>> _reads("qig:bundles").rule
'(%R~qig:bundles +xinfo|stream +xlen +xrange +xread +xrevrange)'
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from common.errors import Corrupt, Rejected
from common.runtime import streams
from common.runtime.streams import (
    ANSWERS,
    APPLIED,
    BATCHES,
    BLOB,
    BUNDLES,
    CANCEL,
    CANDIDATES,
    COMMON,
    GROUPS,
    HEART,
    METADATA,
    PACKETS,
    QUERIES,
    RATES,
    REFUSED,
    RELEASED,
    RETURNED,
    dead,
    outbox,
    seen,
    side_key,
)

OPERATOR: Final = "operator"
DEFAULT: Final = "default"  # the server's user for who gives no name
FAMILY: Final = "."  # NAME.anything is a client of the user NAME's, too
CLIENT_MAX_CHARS: Final = 40  # a name of 64 characters at most, with what stands behind it
_CLIENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")  # no point: a.b would be of the family of the user a
_OURS: Final = "reset on"  # how the rules of a user begin that we wrote
_HASH: Final = re.compile(r"#([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Grant:
    """Commands on keys. keys: patterns, * for anything. access: what the commands may do with a key (Read, Write)."""

    access: Literal["R", "W", "RW"]
    keys: tuple[str, ...]
    commands: tuple[str, ...]

    @property
    def rule(self) -> str:
        """A selector of the server's."""
        return f"({' '.join([*(f'%{self.access}~{key}' for key in self.keys), *_allow(self.commands)])})"


@dataclass(frozen=True, slots=True)
class Rights:
    """Of one user. keyless: commands without keys."""

    keyless: tuple[str, ...]
    grants: tuple[Grant, ...]

    @property
    def rule(self) -> str:
        """The user's rules, without its passwords."""
        return " ".join(["resetchannels", "-@all", *_allow(self.keyless), *(grant.rule for grant in self.grants)])


def _allow(commands: Sequence[str]) -> list[str]:
    return [f"+{command}" for command in sorted(commands)]


def _grant(access: Literal["R", "W", "RW"], keys: Sequence[str], commands: str) -> Grant:
    return Grant(access, tuple(keys), tuple(commands.split()))


def _reads(*keys: str) -> Grant:
    """follower.py, overview.py, releases.py."""
    return _grant("R", keys, "xinfo|stream xlen xrange xread xrevrange")


def _measures(*keys: str) -> Grant:
    """How much lies there (overview.py, subscription.py)."""
    return _grant("R", keys, "xinfo|consumers xinfo|groups xlen")


def _tells(*keys: str) -> Grant:
    """scripts.tell; scripts.publish and commit with the next."""
    return _grant("W", keys, "expire type xadd")


def _remembers(*keys: str) -> Grant:
    """The ids that were published on them (scripts.publish, Broker.was_published)."""
    return _grant("RW", [seen(key) for key in keys], "expire zadd zremrangebyrank zremrangebyscore zscore")


def _publishes(*keys: str) -> tuple[Grant, ...]:
    """And how much work lies there (Broker.check_room)."""
    work = [key for key in keys if key in GROUPS]
    return _tells(*keys), _remembers(*keys), *([_grant("R", work, "xlen")] if work else [])


def _consumes(stream: str) -> tuple[Grant, ...]:
    """subscription.py, consumer.py, relay.py, scripts.hold, commit, finish, bury and look_after."""
    group = "xgroup|create xgroup|delconsumer xinfo|consumers xinfo|groups xreadgroup"
    return (
        _grant("RW", [stream], f"{group} xack xautoclaim xclaim xdel xlen xpending"),
        _grant("RW", [dead(stream)], "type xadd xdel xlen xrange xrevrange"),
        _grant("RW", [outbox(stream)], "type xadd xdel xlen xread"),
    )


def _reads_hashes(*keys: str) -> Grant:
    return _grant("R", keys, "hget hgetall hkeys hmget hstrlen")


def _keeps_hashes(stream: str) -> tuple[Grant, ...]:
    """The effects of effects.py, on the side keys of a stream."""
    keys = side_key(stream, "*")
    return _reads_hashes(keys), _grant("RW", [keys], "hdel hexists hget hincrby hset type")


_CONNECT: Final = ("auth", "hello", "ping", "asking", "cluster|slots", "command")  # the last three in a cluster
_SCRIPTED: Final = ("qig:*", "{qig:*")  # for the call alone, which wants its keys both ways whatever it does with them
_SCRIPTS: Final = _grant("RW", _SCRIPTED, "eval evalsha")
_DEPTHS: Final = _measures(*GROUPS, *map(outbox, GROUPS), *map(dead, GROUPS))
_FETCHES: Final = _grant("R", [f"{BLOB}*"], "getrange")
_STORES: Final = _grant("W", [f"{BLOB}*"], "set")
_SWEEPS: Final = _grant("W", [f"{BLOB}*"], "object|idletime unlink")
_SERVICE: Final = (*_CONNECT, "info", "time")


def _asks(name: str) -> tuple[Grant, ...]:
    """common/client for the client `name`, and for NAME.anything."""
    own = (streams.answers(name), f"{streams.answers(name)}{FAMILY}*")
    return (
        *_publishes(QUERIES, CANCEL),
        _grant("R", own, "xinfo|stream xlen xrange xread"),
        _grant("W", [*own, *map(seen, own)], "del"),
    )


ROLES: Final[Mapping[str, Rights]] = {
    "edge": Rights(
        (*_SERVICE, "script|exists", "script|load"),  # of rates.py's library, and scripts.teach
        (
            _SCRIPTS,
            *_consumes(QUERIES),
            *_publishes(f"{ANSWERS}*", PACKETS, APPLIED, HEART),
            _reads(BUNDLES, RETURNED, COMMON, CANCEL, HEART, APPLIED),
            _DEPTHS,
            _reads_hashes(METADATA),
            _FETCHES,
            _grant("RW", [f"{RATES}:*"], "exists get incrby pttl rename set"),
        ),
    ),
    "aggregator": Rights(
        _SERVICE,
        (
            _SCRIPTS,
            *_consumes(PACKETS),
            *_keeps_hashes(PACKETS),
            *_publishes(BATCHES, COMMON, RETURNED, HEART, dead(PACKETS)),
            _reads(BUNDLES),
            _reads_hashes(METADATA, RELEASED, REFUSED),
            _FETCHES,
        ),
    ),
    "trainer": Rights(
        _SERVICE,
        (
            _SCRIPTS,
            *_consumes(BATCHES),
            *_keeps_hashes(BATCHES),
            *_publishes(CANDIDATES, RETURNED, HEART),
            _reads(BUNDLES, BATCHES),
            _reads_hashes(METADATA, RELEASED, REFUSED),
            _FETCHES,
            _STORES,
        ),
    ),
    "publisher": Rights(
        (*_SERVICE, "scan"),
        (
            _SCRIPTS,
            *_consumes(CANDIDATES),
            *_keeps_hashes(CANDIDATES),
            *_publishes(BUNDLES, RETURNED, HEART),
            _reads(BUNDLES, APPLIED, CANDIDATES, outbox(BATCHES)),
            _FETCHES,
            _STORES,
            _SWEEPS,
        ),
    ),
    OPERATOR: Rights(
        (*_SERVICE, "acl|load"),  # it reads the file again that `qig keys broker` wrote, on the broker's own disk
        (
            _SCRIPTS,
            *_asks(OPERATOR),
            _reads(*GROUPS, *map(dead, GROUPS), *map(outbox, GROUPS), BUNDLES, COMMON, RETURNED, APPLIED, HEART),
            _DEPTHS,
            _grant("R", [QUERIES], "exists"),
            _grant("W", [*map(dead, GROUPS)], "xdel"),  # qig dead replay
            _grant("W", [*GROUPS, *map(outbox, GROUPS)], "type xadd"),  # that, packet disown, bundle revoke
            *_keeps_hashes(PACKETS),
            *_keeps_hashes(CANDIDATES),
            _FETCHES,
        ),
    ),
}


def client(name: str) -> Rights:
    """The rights of a client's user. Raises Rejected("bad_name")."""
    if not _CLIENT.fullmatch(name) or len(name) > CLIENT_MAX_CHARS or name in {*ROLES, DEFAULT}:
        message = (
            f"{name[:80]!r} cannot name a client's user: letters, digits and _ -, at most {CLIENT_MAX_CHARS}"
            f" characters, no role ({', '.join(ROLES)}, {DEFAULT}), no point: NAME{FAMILY}anything is of the user NAME"
        )
        raise Rejected("bad_name", message)
    return Rights((*_CONNECT, "time"), (_grant("RW", _SCRIPTED, "evalsha"), *_asks(name)))


def of(user: str) -> Rights:
    """The rights of a role or a client. Raises Rejected("bad_name")."""
    return ROLES[user] if user in ROLES else client(user)


@dataclass(frozen=True, slots=True)
class UserList:
    """The server's `aclfile`. passwords: the sha256 of each that counts, in hex, the newest first, by user. strangers:
    lines of users that somebody else wrote, which stay as they are.
    """

    passwords: Mapping[str, Sequence[str]]
    strangers: Sequence[str] = ()

    @property
    def text(self) -> str:
        """The file."""
        lines = [f"user {DEFAULT} reset"]
        for user, hashes in self.passwords.items():
            lines.append(" ".join([f"user {user} {_OURS}", *(f"#{each}" for each in hashes), of(user).rule]))
        return "\n".join([*lines, *self.strangers]) + "\n"


def user_list(text: str) -> UserList:
    """What a file says. Raises Corrupt("bad_acl_file")."""
    passwords, strangers = {}, []
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        user, _, rules = rest.partition(" ")
        if word != "user" or not user:
            raise Corrupt("bad_acl_file", f"{line[:40]!r} is no line of an ACL file: it begins with `user NAME`")
        if rules.startswith(_OURS):
            _check_name(user)
            passwords[user] = _HASH.findall(rules)
        elif user != DEFAULT:
            strangers.append(line)
    return UserList(passwords, strangers)


def _check_name(user: str) -> None:
    """Lists were written with users whose name has a point, before one user had the rights of its whole family."""
    try:
        of(user)
    except Rejected as error:
        head = user.partition(FAMILY)[0][:80]
        message = (
            f"{error.message}: delete the line of {user[:80]!r} from the list; `qig keys broker --client {head}` then "
            f"makes the user of {head} and of all that are called {head}{FAMILY}anything"
        )
        raise Corrupt("bad_acl_file", message) from None


def markdown() -> str:
    """docs/rights.md."""
    text = (
        "# Rights at the broker\n\nEvery user, its commands and its keys. Made from `common/runtime/rights.py`; "
        "[broker.md](broker.md#rights) says how to use them.\n"
    )
    for user, rights in {**ROLES, "NAME": client("NAME")}.items():
        title = user if user in ROLES else "a client NAME"
        text += (
            f"\n## {title}\n\nWithout keys: {_listed(rights.keyless)}.\n\n| commands | keys | access |\n|---|---|---|\n"
        )
        for grant in rights.grants:
            words = {"R": "read", "W": "write", "RW": "read, write"}[grant.access]
            text += f"| {_listed(sorted(grant.commands))} | {_listed(grant.keys)} | {words} |\n"
    return text


def _listed(names: Sequence[str]) -> str:
    return " ".join(f"`{name.replace('|', ' ')}`" for name in names)
