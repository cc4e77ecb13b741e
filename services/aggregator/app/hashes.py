"""The aggregator's hashes in the broker, beside the packets' stream. Its processes hold nothing that they could lose.

{qig:packets}:ledger     ref (hex) ─▶ the packet's bytes
{qig:packets}:accepted   ref (hex) ─▶ when the broker took it, ms: the ledger's index, small enough to look at often
{qig:packets}:sequence   key id (hex) ─▶ replay window, 16 bytes
{qig:packets}:opened     domain ─▶ role and basin of a territory that no bundle knows yet, and which cut named it
{qig:packets}:mentioned  key id (hex) ─▶ the hashes that this edge mentioned (tally.py)
{qig:packets}:common     number of a cut ─▶ the hashes that became common by it
{qig:packets}:proposed   left and right id ─▶ the edges that proposed this merge (proposals.py)
{qig:packets}:cuts       "count" ─▶ how many cuts there were
"""

from typing import Final

from common.runtime import streams

LEDGER: Final = streams.side_key(streams.PACKETS, "ledger")
ACCEPTED: Final = streams.side_key(streams.PACKETS, "accepted")
SEQUENCE: Final = streams.side_key(streams.PACKETS, "sequence")
HELD: Final = streams.side_key(streams.PACKETS, "held")
STANDING: Final = streams.side_key(streams.PACKETS, "standing")
FOUNDED: Final = streams.side_key(streams.PACKETS, "founded")
OPENED: Final = streams.side_key(streams.PACKETS, "opened")
MENTIONED: Final = streams.side_key(streams.PACKETS, "mentioned")
COMMON: Final = streams.side_key(streams.PACKETS, "common")
PROPOSED: Final = streams.side_key(streams.PACKETS, "proposed")
CUTS: Final = streams.side_key(streams.PACKETS, "cuts")
COUNT: Final = "count"
