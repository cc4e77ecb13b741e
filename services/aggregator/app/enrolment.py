"""Who is enrolled: the edges' public keys, read again when somebody else speaks."""

import asyncio
from pathlib import Path

from common.errors import QigError, Unavailable
from common.runtime import keys
from services.aggregator.admit import Enrolled


class Enrolment:
    """The edges whose packets count. edges: by key id, as last read."""

    def __init__(self, home: Path) -> None:
        """Raises Unavailable("missing_key"), Rejected("bad_key") for a file that is no key."""
        self._home = home
        self.edges: Enrolled = keys.load_enrolled(home)

    async def read(self) -> None:
        """Read the enrolment again. A file that is being written, or is no key, is no reason to refuse a packet."""
        try:
            self.edges = await asyncio.to_thread(keys.load_enrolled, self._home)
        except QigError as error:
            raise Unavailable("enrolment_unreadable", f"who is enrolled cannot be read: {error.message}") from None
