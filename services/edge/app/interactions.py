"""What is done with an interaction afterwards: forgotten, judged, deleted when it is too old or too much."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from services.edge.app.node import Node
from services.edge.http.asking import choice_ids
from services.edge.learning import Forgotten, forget_all, judge_all
from services.edge.record import Kept, Verdict

log = logging.getLogger(__name__)

DAY_S: Final = 86_400.0


class Interactions:
    """Those that one edge keeps."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def forget(self, client: str, query_id: str) -> Forgotten | None:
        """Deletes a query, or all of a request over HTTP, with answer and what was taught; None when nothing is kept
        under this name.
        """
        async with self._node.learning:
            names = choice_ids(query_id)
            folded = await asyncio.to_thread(self._folded, client, names)
            done = await asyncio.to_thread(forget_all, self._node.record, client, names)
            await self._node.relearn([kept.domain for kept in folded])
            return done

    async def judge(self, client: str, query_id: str, verdict: Verdict | None) -> bool:
        """Accepts or rejects what `forget` would delete, None: neither; False when nothing is kept under this name."""
        async with self._node.learning:
            names = choice_ids(query_id)
            folded = await asyncio.to_thread(self._folded, client, names)
            known = await asyncio.to_thread(judge_all, self._node.record, client, names, verdict)
            await self._node.relearn([kept.domain for kept in folded if "rejected" in (kept.verdict, verdict)])
            return known

    async def prune(self) -> None:
        """Deletes what this edge is to keep no longer, also while no bundle serves."""
        keep_s, keep_bytes = self._node.privacy.keep_days * DAY_S, self._node.privacy.keep_bytes
        async with self._node.learning:
            gone = await asyncio.to_thread(
                self._node.record.texts.prune, now_s=self._node.now(), max_age_s=keep_s, max_bytes=keep_bytes
            )
        if gone:
            log.info("%d interactions were too old or too much: deleted", gone)

    def _folded(self, client: str, names: Sequence[str]) -> list[Kept]:
        """Of a request's queries those whose text was counted."""
        found = [self._node.record.texts.find(client, name) for name in names]
        return [kept for kept in found if kept is not None and kept.folded]
