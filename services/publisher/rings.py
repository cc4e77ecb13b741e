"""Who takes a bundle first, and whether it goes to the rest: a policy over what edges report; it measures nothing.

    nodes ─▶ ring(nodes)      a tenth of them and PEERS_LEAST at least, by their places; everybody where they are few
    reports of those ─▶ judge ─▶ wait | open it to everybody | take it back
    reports of everybody ─▶ judge_open ─▶ wait | take it back

This is the peer review of what the centre has no text for: each of them tries the bundle on its own fresh text, watches
it for a while, and then finds it good or goes back: only then it counts. One alone decides nothing: a refusal needs a
second, and of what they read the median counts, so that a single liar among three neither stops a good bundle nor
passes a bad one. The nodes are those that reported on one of the last two releases that everybody got. Reports are not
signed: this guards against a bundle that is bad, or a node that lies of itself, not against somebody who can write into
the broker.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from statistics import median
from typing import Final, Literal

from common.trust import rings
from common.trust.rings import EVERYBODY
from common.wire.messages import Applied
from services.publisher.fleet import Fleet

FEWEST_NODES: Final = 8  # chosen: below it the peers would be half of the fleet or more
CANARY_SHARE: Final = 0.1
PEERS_LEAST: Final = 3  # settled: the fewest among whom one liar is outvoted
OPEN_SHARE: Final = 0.75  # of the canaries: so many must have found it good, of three two
HALT_SHARE: Final = 0.25  # so many that refused or reverted it are too many ...
HALT_LEAST: Final = 2  # ... and so many at least: one edge may be broken itself, unless it is the only one
WORSE_LIMIT: Final = 0.005  # median growth of their bits per byte; each refuses by itself from .01 on
PATIENCE_S: Final = 600.0  # chosen, twice what an edge may watch: what a canary does not say by then is bad news
BAD: Final = ("refused", "reverted")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a release that is open to a ring, and why."""

    word: Literal["wait", "open", "halt"]
    reason: str


NOTHING: Final = Verdict("wait", "nothing to be judged")


def ring(nodes: Collection[str]) -> int:
    """The ring that holds the first tenth of `nodes`, PEERS_LEAST at least; EVERYBODY for fewer than FEWEST_NODES."""
    if len(nodes) < FEWEST_NODES:
        return EVERYBODY
    places = sorted(map(rings.place, nodes))
    return places[max(math.ceil(CANARY_SHARE * len(places)), PEERS_LEAST)]


def judge(fleet: Fleet, version: int, *, ring: int, nodes: Collection[str], waited_s: float) -> Verdict:
    """nodes: who is expected to report; waited_s: since the release."""
    canaries = {node for node in nodes if rings.is_open(ring, node)}
    said = {node: told for node, told in fleet.reports.get(version, {}).items() if node in canaries}
    if not canaries:
        return Verdict("wait", "nobody is known that got it first: the next release goes to everybody")
    bad = [told for told in said.values() if told.verdict in BAD]
    good = [told for told in said.values() if told.verdict == "good"]
    peers = len(canaries)
    of = f"of {peers} that got it first"
    if bad and len(bad) >= max(HALT_SHARE * peers, min(HALT_LEAST, peers - 1)):
        return Verdict("halt", f"{len(bad)} {of} did not keep it, {bad[0].node} because: {bad[0].reason}")
    if len(good) >= min(OPEN_SHARE * peers, max(peers - 1, HALT_LEAST)):
        grown = median(map(_grown, (*good, *bad)))
        if grown > WORSE_LIMIT:
            return Verdict("halt", f"half {of} read it {grown:.2%} worse or more; the limit is {WORSE_LIMIT:.1%}")
        return Verdict("open", f"{len(good)} {of} found it good")
    if waited_s > PATIENCE_S:
        silent = peers - len(good) - len(bad)
        return Verdict("halt", f"{silent} {of} did not say for {waited_s:.0f} s whether it is good")
    return Verdict("wait", f"{len(good)} {of} found it good")


def judge_open(fleet: Fleet, version: int) -> Verdict:
    """Whether a release that is for everybody is to be taken back: what reverts it was well when it was tried. Of the
    nodes that reported on it or on the one before. Refusals are not counted: an edge refuses what is forged, too.
    """
    nodes = fleet.nodes(version)
    left = [told for told in fleet.reports.get(version, {}).values() if told.verdict == "reverted"]
    if left and (len(left) >= max(HALT_LEAST, HALT_SHARE * len(nodes)) or len(left) == len(nodes)):
        why = f"{len(left)} of {len(nodes)} went back from it, {left[0].node} because: {left[0].reason}"
        return Verdict("halt", why)
    return Verdict("wait", f"{len(left)} of {len(nodes)} went back from it")


def _grown(told: Applied) -> float:
    """By what share its bits per byte grew: without end where it did not keep the bundle, not at all where it had too
    little text to tell.
    """
    if told.verdict != "good":
        return math.inf
    return told.probe_after / told.probe_before - 1.0 if told.probe_before and told.probe_after is not None else 0.0
