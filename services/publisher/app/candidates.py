"""Candidates become releases, or refusals that are kept."""

import logging
import time
from collections.abc import Sequence
from typing import Final

from common.constellation.paths import DOMAINS
from common.errors import Corrupt, QigError, Rejected, Unavailable
from common.runtime import metrics, streams
from common.runtime.broker import Broker
from common.runtime.effects import Absent, Effect, HashDelete, HashSet, Send, Then
from common.runtime.entries import Delivery
from common.wire.codec import pack
from common.wire.fields import REASON_MAX_CHARS
from common.wire.messages import Bundle, Candidate, Part, Returned
from services.publisher import refusals
from services.publisher.app.releases import Releases
from services.publisher.policy import Limits, changes_nothing, judge, missing_memories, without_heir
from services.publisher.rings import PATIENCE_S

log = logging.getLogger(__name__)

PARTS_WAIT_S: Final = 600.0  # chosen: a trainer stores every part before it sends the candidate
MAX_DELIVERIES: Final = 5


class Candidates:
    """The gate. limits: what it allows."""

    def __init__(self, broker: Broker, releases: Releases, limits: Limits) -> None:
        self._broker = broker
        self._releases = releases
        self._limits = limits
        metrics.begin(metrics.CANDIDATES, ("released",), ("refused",))
        metrics.begin(metrics.DEAD_LETTERS, (streams.CANDIDATES, "blob_missing"))

    async def take(self, delivery: Delivery, candidate: Candidate) -> Sequence[Effect]:
        """One candidate: a release, or a refusal that is kept, whatever it fails of: the trainer waits for a word."""
        try:
            return await self._decide(delivery, candidate)
        except QigError:
            raise
        except Exception as error:
            if delivery.deliveries < MAX_DELIVERIES - 1:
                raise
            log.exception("the publisher failed at candidate %s for the last time", candidate.id[:12])
            reason = f"the publisher failed {delivery.deliveries} times: {error!r}"
            await self._refuse(candidate, (reason,))
            raise Rejected("handler_failed", reason[:REASON_MAX_CHARS]) from None

    async def _decide(self, delivery: Delivery, candidate: Candidate) -> Sequence[Effect]:
        if await self._releases.noted(streams.RELEASED, candidate.id) is not None:
            log.info("candidate %s was released before", candidate.id[:12])
            return []
        if candidate.packets and await self._releases.noted(streams.REFUSED, candidate.id) is not None:
            raise Rejected("candidate_refused", "it was refused before, and its packets went back to their edges")
        if delivery.deliveries >= MAX_DELIVERIES:  # what killed every try so far does it again
            reason = f"{delivery.deliveries - 1} tries came to no end"
            await self._refuse(candidate, (reason,))
            raise Rejected("never_finished", reason)
        past = await self._releases.past()
        try:
            reasons = judge(candidate, current=past.current, limits=self._limits).reasons
            reasons = reasons or await self._vouch(delivery, candidate, past.current)
        except (Rejected, Corrupt) as error:
            await self._refuse(candidate, (str(error),))
            raise
        if reasons:
            await self._refuse(candidate, reasons)
            raise Rejected("candidate_refused", "; ".join(reasons)[:REASON_MAX_CHARS])
        if past.current is not None and past.open_version != past.current.version:
            message = f"bundle {past.current.version} is not for everybody yet: the next one waits for that"
            raise Unavailable("ring_pending", message)
        same = past.current is not None and changes_nothing(candidate, past.current)
        if same and time.time() - past.changed_at_s < PATIENCE_S:
            # Were it released at once, edges that go back from its parent would go back from it to its parent.
            message = f"bundle {past.last} may be on trial: what only settles packets waits until it has proved good"
            raise Unavailable("on_trial", message)
        try:
            effects = await self._releases.make(candidate, past)
        except Rejected as error:
            await self._refuse(candidate, (str(error),))
            raise
        return [*effects, Then(metrics.CANDIDATES.labels("released").inc)]

    async def _vouch(self, delivery: Delivery, candidate: Candidate, current: Bundle | None) -> tuple[str, ...]:
        """Read every part that is new, so that nothing is signed unseen.

        Returns what is wrong with its domains: a memory that is not there, one that is gone without an heir. Raises
        Corrupt("part_digest").
        """
        trusted = set() if current is None else {(part.digest, part.size_bytes) for part in current.parts.values()}
        try:
            for part in candidate.parts.values():
                if (part.digest, part.size_bytes) not in trusted:
                    await self._blob(part)
            domains = await self._blob(candidate.parts[DOMAINS])
            before = domains if current is None else await self._blob(current.parts[DOMAINS])
            return *missing_memories(candidate, domains), *without_heir(before, domains)
        except Unavailable as error:
            waited_s = time.time() - delivery.at_s
            if error.code == "blob_missing" and waited_s > PARTS_WAIT_S:
                raise Rejected("blob_missing", f"a part did not come for {waited_s:.0f} s: {error.message}") from None
            raise

    async def _blob(self, part: Part) -> bytes:
        return await self._broker.get_blob(part.digest, part.size_bytes)

    async def _refuse(self, candidate: Candidate, reasons: Sequence[str]) -> None:
        """Kept before the dead letter is written: a kill between the two judges again, and keeps it again.

        Raises Unavailable("overtaken") where another publisher has released it meanwhile: it is looked at again.
        """
        log.warning("candidate %s is refused: %s", candidate.id[:12], "; ".join(reasons))
        notes = await self._broker.read_hash(streams.REFUSED)
        effects: list[Effect] = [Absent(streams.RELEASED, candidate.id)]
        effects += [HashDelete(streams.REFUSED, name) for name in refusals.outdated(notes)]
        effects.append(HashSet(streams.REFUSED, candidate.id, refusals.note(reasons, time.time())))
        if candidate.packets:
            told = Returned(
                packets=candidate.packets, code="candidate_refused", reason="; ".join(reasons)[:REASON_MAX_CHARS]
            )
            effects.append(Send(streams.RETURNED, pack(told), candidate.id))
        if candidate.id not in notes:
            effects.append(Then(metrics.CANDIDATES.labels("refused").inc))
        if not await self._broker.commit(streams.CANDIDATES, effects):
            raise Unavailable("overtaken", f"candidate {candidate.id[:12]} was released meanwhile: looked at again")
