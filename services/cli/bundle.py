"""`qig bundle revoke`."""

import asyncio
from pathlib import Path
from typing import Final

from common.runtime.broker import Broker
from common.runtime.settings import PublisherSettings
from services.cli.broker import check_there, client, find_url
from services.cli.show import console
from services.publisher.app import Publisher

BY_HAND: Final = "an operator took it back (qig bundle revoke)"


def revoke(to: int | None, above: int, home: Path) -> int:
    """Releases an older bundle's parts again, with the publisher's key of this home."""
    version, back = asyncio.run(_revoke(to, above, home, find_url(home)))
    console().print(f"bundle {version} brings back what bundle {back} was; edges take it without a comparison")
    return 0


async def _revoke(to: int | None, above: int, home: Path, url: str) -> tuple[int, int]:
    async with client(url) as redis:
        await check_there(redis, url)
        publisher = Publisher(PublisherSettings(broker_url=url, home=home), Broker(redis))
        return await publisher.releases.take_back(to, BY_HAND, above=above)
