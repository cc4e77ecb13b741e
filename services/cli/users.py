"""`qig keys broker`: the broker's users, one a role and one a client."""

import asyncio
from pathlib import Path

from common.errors import Rejected
from common.runtime import access
from services.cli.broker import check_there, client, find_url
from services.cli.show import command, console, plain


def run(
    *, clients: list[str], address: str | None, rotate: str | None, retire: str | None, load: bool, home: Path
) -> int:
    """One of the things that the command does; says which files it wrote, and never what is in them."""
    asked = [bool(clients) or address is not None, rotate is not None, retire is not None, load]
    if sum(asked) > 1:
        message = "one thing at a time: new users (--client, --at), --rotate USER, --retire USER, or --load"
        raise Rejected("bad_argument", message)
    out = console()
    if load:
        asyncio.run(_load(find_url(home)))
        out.print("the broker has read its users again; who was cut off connects again by itself")
        return 0
    if rotate is not None:
        written = access.rotate(home, rotate)
    elif retire is not None:
        written = access.retire(home, retire)
    else:
        written = access.make(home, clients, address=address)
    for path in written:
        private = " (private: for that user's machine alone)" if path.suffix == ".url" else ""
        out.print(f"made {plain(str(path))}{private}")
    if not written:
        out.print(f"nothing was changed in {plain(str(access.folder(home)))}")
    elif access.acl_path(home) in written:
        out.print(plain(f"a broker that runs with that list reads it after: {command('keys broker --load', home)}"))
    return 0


async def _load(url: str) -> None:
    async with client(url) as redis:
        await check_there(redis, url)
        await redis.acl_load()
