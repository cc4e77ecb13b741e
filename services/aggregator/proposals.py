"""Proposed merges, gathered over cuts until enough edges have said the same.

    proposed   left and right id ─▶ the edges that said it, and how often each saw it

An edge that says a merge again says it anew, and is one edge. What enough edges have said leaves with a batch, once
MERGES_LEAST are ready: a larger vocabulary changes every part of a bundle, so it is worth a handful. Bounded: of each
node the NODE_MERGES that most others said too, of all PROPOSED_MAX, those that most edges said. The same packets on the
same tally, in their order, leave the same.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from common.errors import Corrupt
from common.wire.fields import KEY_ID_BYTES, MAX_MERGE_EDGES, MAX_MERGES
from common.wire.messages import Merge
from common.wire.proposals import Proposal
from services.aggregator.quota import NODE_MERGES, Nodes

PROPOSED_MAX: Final = 4096  # merges that wait; 400 KB in the broker
CHANGED_MAX: Final = 1024  # that one cut notes, and forgets: a transaction has room for them; edges say the rest again
MERGES_LEAST: Final = 8  # chosen: see above
_COUNT_BYTES: Final = 2
_VOTE_BYTES: Final = KEY_ID_BYTES + _COUNT_BYTES

Pair = tuple[int, int]
Votes = Mapping[bytes, int]  # by key id: how often that edge saw it


@dataclass(frozen=True, slots=True)
class Gathered:
    """noted: the merges whose votes changed; gone: those that wait no longer; merges: what a batch takes with it."""

    noted: dict[Pair, Votes]
    gone: tuple[Pair, ...]
    merges: tuple[Merge, ...]


def gather(
    before: Mapping[Pair, Votes],
    brought: Sequence[tuple[bytes, Sequence[Proposal]]],
    *,
    known: Collection[Pair],
    nodes: Nodes,
    edges: int,
) -> Gathered:
    """The tally once these proposals are in it, and what is ready.

    brought: key id and proposals, by packet, the oldest first; known: the merges that the vocabulary has; nodes: of
    each enrolled key its node; edges: that many nodes must have said a merge. Merges are ready for a batch; where there
    is none, the caller keeps all.
    """
    votes = {
        pair: {key: n for key, n in said.items() if key in nodes} for pair, said in before.items() if pair not in known
    }
    for key, proposals in brought:
        for left, right, count in proposals:
            if (left, right) not in known and key in nodes:
                _vote(votes.setdefault((left, right), {}), key, count, nodes)
    ranked = sorted(votes, key=lambda pair: (-len(_voters(votes[pair], nodes)), pair))
    believed = _shared_out(ranked, votes, nodes)
    ready = [pair for pair in ranked if len(_voters(believed[pair], nodes)) >= edges]
    ready.sort(key=lambda pair: (-sum(believed[pair].values()), pair))
    leaving = ready[:MAX_MERGES] if len(ready) >= MERGES_LEAST else []
    kept = {pair: believed[pair] for pair in [pair for pair in ranked if believed[pair]][:PROPOSED_MAX]}
    noted = [pair for pair, said in kept.items() if said != before.get(pair)]
    return Gathered(
        noted={pair: kept[pair] for pair in noted[:CHANGED_MAX]},
        gone=tuple(pair for pair in before if pair not in kept)[:CHANGED_MAX],
        merges=tuple(_merge(pair, believed[pair]) for pair in leaving),
    )


def _voters(said: Votes, nodes: Nodes) -> set[str]:
    return {nodes[key] for key in said}


def _vote(said: dict[bytes, int], key: bytes, count: int, nodes: Nodes) -> None:
    """A node has one vote, whichever of its keys says it."""
    for other in [other for other in said if nodes[other] == nodes[key]]:
        del said[other]
    if len(said) < MAX_MERGE_EDGES:
        said[key] = count


def _shared_out(ranked: Sequence[Pair], believed: Mapping[Pair, Votes], nodes: Nodes) -> dict[Pair, Votes]:
    """The votes, of each node those for NODE_MERGES merges: what most nodes say first."""
    said: Counter[str] = Counter()
    left: dict[Pair, Votes] = {}
    for pair in ranked:
        heard = {node for node in _voters(believed[pair], nodes) if said[node] < NODE_MERGES}
        said.update(heard)
        left[pair] = {key: count for key, count in believed[pair].items() if nodes[key] in heard}
    return left


def _merge(pair: Pair, said: Votes) -> Merge:
    return Merge(left=pair[0], right=pair[1], edges=tuple(sorted(said.items())))


def left_with(found: Gathered) -> Gathered:
    """The same once its merges have left with a batch."""
    leaving = {(merge.left, merge.right) for merge in found.merges}
    noted = {pair: said for pair, said in found.noted.items() if pair not in leaving}
    return Gathered(noted, (*found.gone, *sorted(leaving)), found.merges)


def name_of(pair: Pair) -> str:
    """How the broker names a merge."""
    return f"{pair[0]} {pair[1]}"


def to_bytes(said: Votes) -> bytes:
    """As the broker keeps them: key id and count, 10 bytes an edge, by key."""
    return b"".join(key + count.to_bytes(_COUNT_BYTES, "big") for key, count in sorted(said.items()))


def from_bytes(name: str, data: bytes) -> tuple[Pair, Votes]:
    """The inverse of `name_of` and `to_bytes`. Raises Corrupt("proposed")."""
    left, _, right = name.partition(" ")
    if not (left.isdecimal() and right.isdecimal()) or len(data) % _VOTE_BYTES:
        raise Corrupt("proposed", f"a merge {name[:40]!r} with {len(data)} bytes that no aggregator wrote: delete it")
    rows = [data[start : start + _VOTE_BYTES] for start in range(0, len(data), _VOTE_BYTES)]
    return (int(left), int(right)), {row[:KEY_ID_BYTES]: int.from_bytes(row[KEY_ID_BYTES:], "big") for row in rows}
