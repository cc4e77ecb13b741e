"""What one node may take of what all share, so that a hostile or broken one crowds out nobody.

    packets      at most `node_packets` wait in the ledger: an edge has one a domain on its way     too_many_packets
    batches      where a quorum means something, one node's packets are half of what makes one due, however many
    domains      at most NODE_TERRITORIES that no other node has brought text of                    too_many_territories
    merges       at most NODE_MERGES of the proposals that wait

It is asked of nodes, never of keys: a machine that holds several keys is enrolled as one node with all of them
(common/runtime/keys.py). What is refused goes back to its edge, which sends it again when there may be room.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from common.errors import Rejected
from services.aggregator.quorum import ENROLLED_LEAST

NODE_TERRITORIES: Final = 8  # chosen: of the 60 beside the roles; an edge of many domains meets others in most of them
NODE_MERGES: Final = 256  # chosen: a packet proposes 24 at most, and of 4,096 that wait no node has more than a 16th

Nodes = Mapping[bytes, str]
"""Of each enrolled key, by its id, the node that holds it."""


def node_of(nodes: Nodes, key: bytes) -> str:
    """The node that holds a key; one that is enrolled no more is a node of its own."""
    return nodes.get(key) or key.hex()


def many(nodes: Nodes) -> bool:
    """Whether so many nodes are enrolled that a rule about one of them means something."""
    return len(set(nodes.values())) >= ENROLLED_LEAST


def check_waiting(node: str, waiting: int, most: int) -> None:
    """Whether one more of a node's packets may wait. Raises Rejected("too_many_packets")."""
    if waiting >= most:
        raise Rejected(
            "too_many_packets",
            f"{waiting} packets of {node} wait for a batch, and {most} may (QIG_NODE_PACKETS): send it again later",
        )


def counting(keys: Iterable[bytes], batch_packets: int, nodes: Nodes) -> int:
    """How many of the waiting packets with these keys count towards `batch_packets`, which make a batch due."""
    each = Counter(node_of(nodes, key) for key in keys)
    most = max(batch_packets // 2, 1) if many(nodes) else batch_packets
    return sum(min(count, most) for count in each.values())


def may_open(node: str, founded: Mapping[str, str], nodes: Nodes) -> bool:
    """Whether a node alone may open one more domain. founded: domain to the one node that has brought text of it."""
    return not many(nodes) or sum(founder == node for founder in founded.values()) < NODE_TERRITORIES
