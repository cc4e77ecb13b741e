"""Who is enrolled: the edges' public keys, read again when somebody else speaks, and before each batch."""

import asyncio
from pathlib import Path

from common.errors import QigError, Unavailable
from common.runtime import keys, metrics
from services.aggregator.admit import Enrolled
from services.aggregator.quota import Nodes


class Enrolment:
    """The edges whose packets count. edges: by key id, as last read."""

    def __init__(self, home: Path) -> None:
        """Raises Unavailable("missing_key"), Rejected("bad_key") for a file that is no key."""
        self._home = home
        self.edges: Enrolled = keys.load_enrolled(home)
        self._begin()

    @property
    def nodes(self) -> Nodes:
        """Of each key the node that holds it."""
        return {key: node for key, (node, _) in self.edges.items()}

    def keys_beside(self, key: bytes) -> list[bytes]:
        """All keys of the node that holds this one."""
        node = self.edges[key][0] if key in self.edges else None
        return [one for one, (other, _) in self.edges.items() if other == node] or [key]

    async def read(self) -> None:
        """Read the enrolment again.

        A file that is being written, or is no key, is no reason to refuse a packet, and a directory that is not there
        is none to refuse them all: Raises Unavailable("enrolment_unreadable").
        """
        try:
            if self.edges and not keys.edges_dir(self._home).is_dir():
                message = f"{keys.edges_dir(self._home)} is not there: is QIG_HOME what it was?"
                raise Unavailable("missing_key", message)
            self.edges = await asyncio.to_thread(keys.load_enrolled, self._home)
            self._begin()
        except QigError as error:
            raise Unavailable("enrolment_unreadable", f"who is enrolled cannot be read: {error.message}") from None

    def _begin(self) -> None:
        nodes = set(self.nodes.values())
        metrics.begin(metrics.NODE_PACKETS, *((node, outcome) for node in nodes for outcome in ("accepted", "refused")))
        metrics.begin(metrics.NODE_BYTES, *((node,) for node in nodes))
