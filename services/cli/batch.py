"""`qig batch list` and `qig batch save`: what waits for a trainer, and one of them as files that `qig train` takes.

OUT/batch.msgpack    the message, as it lies in the stream
OUT/parent/          the parts of the newest release, which a trainer would consolidate it on
"""

import asyncio
import json as json_text
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from redis.asyncio import Redis
from rich.table import Table

from common.errors import QigError, Rejected, Unavailable
from common.runtime import keys, store, streams
from common.runtime.entries import body_of
from common.runtime.follower import kept
from common.runtime.releases import newest_release
from common.runtime.trust import Trust
from common.wire.codec import unpack
from common.wire.messages import Batch, DeadLetter
from services.cli.broker import check_there, client, find_url
from services.cli.dead import letters_of
from services.cli.show import Listing, console, plain
from services.trainer import folder

FILE: Final = "batch.msgpack"
PARENT: Final = "parent"
SHOWN: Final = 12  # characters of an id


def show(home: Path, *, json: bool) -> int:
    """`qig batch list`."""
    found = asyncio.run(_list(find_url(home)))
    if json:
        for one in found:
            sys.stdout.write(json_text.dumps(one.line) + "\n")
    elif found:
        console().print(_table(found))
    else:
        console().print("no batch waits, and none is dead: what is done is in a bundle")
    return 0


def save(batch: str | None, out: Path, home: Path) -> int:
    """`qig batch save`: the oldest, or the one whose id begins so."""
    found, parts, version = asyncio.run(_read(batch, home, find_url(home)))
    folder.write({FILE: found.body, **{f"{PARENT}/{path}": data for path, data in parts.items()}}, out)
    base = found.batch.base_version
    told = f"bundle {version}" if base == version else f"bundle {version} (it was cut for bundle {base})"
    console().print(f"batch {found.batch.id[:SHOWN]} and {len(parts)} parts of {told} in {plain(str(out))}")
    console().print(f"qig train --batch {plain(str(out / FILE))} makes of them what a trainer makes", soft_wrap=True)
    return 0


@dataclass(frozen=True, slots=True)
class Found:
    """A batch that waits for a trainer, or is dead; body: as it lies there."""

    where: str
    batch: Batch
    body: bytes

    @property
    def line(self) -> dict[str, object]:
        """For programs."""
        tokens = {update.name: update.tokens for update in self.batch.domains}
        return {
            "id": self.batch.id,
            "where": self.where,
            "base_version": self.batch.base_version,
            "packets": len(self.batch.packets),
            "merges": len(self.batch.merges),
            "corrections": len(self.batch.corrections),
            "bytes": len(self.body),
            "tokens": tokens,
        }


async def _list(url: str) -> list[Found]:
    async with client(url) as redis:
        await check_there(redis, url)
        return await batches(redis)


async def batches(redis: Redis) -> list[Found]:
    """Those that wait, the oldest first, then the dead ones. What is no batch is left out: `qig dead list` has it."""
    bodies = [("waiting", body_of(entry.fields) or b"") async for entry in kept(redis, streams.BATCHES)]
    letters = [letter async for _, letter in letters_of(redis, streams.BATCHES)]
    bodies += [("dead", letter.body) for letter in letters if isinstance(letter, DeadLetter)]
    found = []
    for where, body in bodies:
        with suppress(QigError):
            found.append(Found(where, unpack(Batch, body), body))
    return found


async def _read(wanted: str | None, home: Path, url: str) -> tuple[Found, Mapping[str, bytes], int]:
    async with client(url) as redis:
        await check_there(redis, url)
        found = _chosen(await batches(redis), wanted)
        bundle = await newest_release(redis, Trust(redis, keys.load_root(home)))
        if bundle is None:
            raise Unavailable("no_bundle", "nothing was released yet: a batch has nothing to be consolidated on")
        parts = {path: await store.get(redis, part.digest, part.size_bytes) for path, part in bundle.parts.items()}
        return found, parts, bundle.version


def _chosen(found: Sequence[Found], wanted: str | None) -> Found:
    """Raises Unavailable("no_batch"), Rejected("bad_argument") for a beginning that several ids have."""
    fitting = {one.batch.id: one for one in reversed(found) if one.batch.id.startswith(wanted or "")}
    if not found:
        raise Unavailable("no_batch", "no batch waits, and none is dead: what is done is in a bundle")
    if not fitting:
        raise Unavailable("no_batch", f"no batch {(wanted or '')[:80]!r} waits or is dead: `qig batch list` shows them")
    if wanted is not None and len(fitting) > 1:
        raise Rejected("bad_argument", f"{len(fitting)} batches' ids begin with {wanted[:80]}: say more of it")
    return found[0] if wanted is None else next(iter(fitting.values()))


def _table(found: Sequence[Found]) -> Table:
    table = Listing()
    for column in ("batch", "", "for bundle", "packets", "bytes", "domains, tokens"):
        table.column(column, folds=True)
    for one in found:
        domains = ", ".join(f"{update.name} {update.tokens}" for update in one.batch.domains)
        corrections = len(one.batch.corrections)
        domains = domains or (f"{corrections} corrections" if corrections else "nothing that counts yet")
        numbers = (str(one.batch.base_version), str(len(one.batch.packets)), str(len(one.body)))
        table.add_row(one.batch.id[:SHOWN], one.where, *numbers, plain(domains))
    return table
