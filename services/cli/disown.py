"""`qig packet disown`: a node is enrolled no more, and what it brought to the batches of late is taken out again."""

import asyncio
from pathlib import Path

from common.errors import Rejected
from common.runtime import keys
from common.runtime.broker import Broker
from services.aggregator.app.accounts import Disowned, disown
from services.cli.broker import check_there, client, find_url
from services.cli.show import console, plain


def run(node: str, home: Path) -> int:
    """On the centre's home: its keys' public halves move to trust/disowned, then the corrections leave."""
    url = find_url(home)
    moved = keys.disown(home, node)
    if not moved and not (keys.disowned_dir(home) / f"{node}.pub").exists():
        there = ", ".join(sorted({name for name, _ in keys.load_enrolled(home).values()})) or "nobody"
        raise Rejected("unknown_node", f"{node} is not enrolled in {keys.edges_dir(home)}; there is {there}")
    done = asyncio.run(_disown(url, node))
    console().print(
        f"{plain(node)} is enrolled no more; of {done.noted} batches that are noted {done.batches} had packets of it"
    )
    if done.messages:
        console().print(f"{done.messages} batch(es) of corrections go to the trainer, and are judged as any other")
    return 0


async def _disown(url: str, node: str) -> Disowned:
    async with client(url) as redis:
        await check_there(redis, url)
        return await disown(Broker(redis), node)
