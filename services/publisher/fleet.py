"""What the edges say of each bundle: a fold of their verdicts into counts, version by version.

An edge's latest verdict is the one that counts: a bundle that was applied and then found good, or reverted, is that.
Reports may come twice and in any order; time decides, then the graver verdict, so that the same reports give the same
counts.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from common.wire.messages import Applied, Verdict

WORDS: Final[tuple[Verdict, ...]] = ("applied", "good", "refused", "reverted")  # from the mildest to the gravest
VERSIONS_KEPT: Final = 16  # chosen: a fleet that is further behind is a matter for `qig doctor`
NODES_KEPT: Final = 10_000  # a version's reports; as many as the stream keeps

Reports = Mapping[int, Mapping[str, Applied]]


@dataclass(frozen=True, slots=True)
class Fleet:
    """The latest report of each node on each of the newest VERSIONS_KEPT versions."""

    reports: Reports = field(default_factory=dict)

    def counts(self, version: int) -> dict[Verdict, int]:
        """How many nodes say what of a version."""
        said = Counter(report.verdict for report in self.reports.get(version, {}).values())
        return {word: said[word] for word in WORDS}

    def nodes(self, version: int) -> frozenset[str]:
        """Who reported on a version, or on the one before it that is known."""
        before = max((each for each in self.reports if each < version), default=version)
        return frozenset(self.reports.get(version, {})) | frozenset(self.reports.get(before, {}))


def serving(fleet: Fleet) -> dict[str, int]:
    """The version that each node serves by its reports: the newest that it applied, or found good, and kept."""
    kept = (
        (node, version)
        for version, nodes in sorted(fleet.reports.items())
        for node, told in nodes.items()
        if told.verdict in ("applied", "good")
    )
    return dict(kept)


def fold(fleet: Fleet, report: Applied) -> Fleet:
    """The fleet after one more report. A version too old to be kept, or a node too many, changes nothing."""
    nodes = fleet.reports.get(report.version, {})
    known = nodes.get(report.node)
    if (known is None and len(nodes) >= NODES_KEPT) or (known is not None and _order(known) >= _order(report)):
        return fleet
    reports = {**fleet.reports, report.version: {**nodes, report.node: report}}
    kept = sorted(reports, reverse=True)[:VERSIONS_KEPT]
    return Fleet({version: reports[version] for version in kept})


def _order(report: Applied) -> tuple[float, int, str, bytes]:
    """Later first; the rest only breaks ties, and breaks them the same way everywhere."""
    return report.at_s, WORDS.index(report.verdict), report.reason, repr(report).encode()
