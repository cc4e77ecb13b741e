"""The aggregator's hashes in the broker, beside the packets' stream. Its processes hold nothing that they could lose.

{qig:packets}:ledger     ref (hex) ─▶ the packet's bytes
{qig:packets}:accepted   ref (hex) ─▶ when the broker took it, ms: the ledger's index, small enough to look at often
{qig:packets}:sequence   key id (hex) ─▶ replay window, 16 bytes
{qig:packets}:held       key id (hex) ─▶ how many of its packets the ledger has (quota.py)
{qig:packets}:standing   key id (hex) ─▶ what became of its packets (standing.py)
{qig:packets}:founded    domain ─▶ the one node that has brought text of it
{qig:packets}:opened     domain ─▶ role and basin of a territory that no bundle knows yet, and which cut named it
{qig:packets}:mentioned  key id (hex) ─▶ the hashes that this edge mentioned (tally.py)
{qig:packets}:common     number of a cut ─▶ the hashes that became common by it
{qig:packets}:proposed   left and right id ─▶ the edges that proposed this merge (proposals.py)
{qig:packets}:pool       domain ─▶ what waits for a quorum (pool.py)
{qig:packets}:unsettled  number of a batch and its id ─▶ what that has of the pool, and will bring to it (claims.py)
{qig:packets}:account    number of a cut ─▶ what each packet brought to its batch (account.py)
{qig:packets}:accounts   number of a cut ─▶ how many bytes that is
{qig:packets}:cuts       "count" ─▶ how many cuts there were; "batches" ─▶ how many of them made a batch
"""

from typing import Final

from common.runtime import streams
from common.runtime.effects import Absent, Effect, Equals, HashSet

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
POOL: Final = streams.side_key(streams.PACKETS, "pool")
UNSETTLED: Final = streams.side_key(streams.PACKETS, "unsettled")
ACCOUNT: Final = streams.side_key(streams.PACKETS, "account")
ACCOUNTS: Final = streams.side_key(streams.PACKETS, "accounts")
CUTS: Final = streams.side_key(streams.PACKETS, "cuts")
COUNT: Final = "count"
# What waits ages by this one: cuts that only refuse or hear mentions take no time of a trainer. Until the first batch
# is counted it is the count of cuts, which is never less.
BATCHES_MADE: Final = "batches"


def counted(count: bytes | None) -> list[Effect]:
    """One more cut, only where there were so many: whatever was read after the count is there still, or it fails."""
    held = Absent(CUTS, COUNT) if count is None else Equals(CUTS, COUNT, count)
    return [held, HashSet(CUTS, COUNT, str(int(count or 0) + 1).encode())]
