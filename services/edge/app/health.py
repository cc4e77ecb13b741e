"""The bundle that serves, watched by what it does until it is good or bad; what then becomes of it is bundles.py's."""

import asyncio
import time
from contextlib import suppress
from dataclasses import replace
from typing import Final

from common.constants import PHI_COLLAPSE
from common.errors import Rejected
from common.runtime import metrics
from common.wire.inference import Answer
from common.wire.messages import Bundle
from services.edge.answer import UNKNOWN, Gauges, Serving, measured
from services.edge.app.node import Node
from services.edge.generation import Generation
from services.edge.health import (
    FRESH_MAX_BYTES,
    PAIRS_MAX,
    Judgement,
    Limits,
    Paired,
    Window,
    answered,
    failed,
    judge,
)
from services.edge.pairs import read_both, say_both

WATCH_EVERY_S: Final = 0.25  # chosen: a bad bundle is gone back from within a second of what shows it
READ_MAX_BYTES: Final = 4096  # of fresh text a look


class Health:
    """What is seen of the bundle on trial. bundle: it, None while none is. before: what it is held against and gone
    back to, None where there is nothing.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._limits = Limits(node.settings.health_answers, node.settings.health_s)
        self.bundle: Bundle | None = None
        self.before: Serving | None = None
        self.tried: tuple[float | None, float | None] = (None, None)
        self._window = Window(0.0)
        self._gauges: Gauges = {}
        self._row = 0

    async def begin(
        self, bundle: Bundle, before: Serving | None, tried: tuple[float | None, float | None] = (None, None)
    ) -> None:
        """`bundle` serves from now on. tried: what it and the one before read of probe text, bits per byte."""
        sound = frozenset(
            state
            for state, gauge in self._node.gauges.items()
            if gauge.reading.phi is not None and gauge.reading.phi >= PHI_COLLAPSE
        )
        self.bundle, self.before, self.tried = bundle, before and replace(before, local=None), tried
        self._window, self._gauges = Window(self._node.steady(), sound), {}
        self._row = await asyncio.to_thread(self._node.record.texts.last_row)
        metrics.BUNDLE_ON_TRIAL.set(1)

    def end(self) -> None:
        """Nothing is on trial any more."""
        self.bundle = self.before = None
        metrics.BUNDLE_ON_TRIAL.set(0)

    def measured(self, serving: Serving, generation: Generation) -> None:
        """On a worker's thread, one after the other: what a generation held, since the swap."""
        if self.bundle is not None and serving.bundle == self.bundle.version:
            self._gauges = measured(generation, self._gauges)

    def answered(self, answer: Answer) -> None:
        """One more answer; one that was begun with the bundle before says nothing."""
        if self.bundle is not None and answer.bundle == self.bundle.version:
            phi = self._gauges.get(answer.kernel or "", UNKNOWN).reading.phi
            self._window = answered(self._window, answer.kernel, phi)

    def failed(self, name: str) -> None:
        """A query could not be answered, for a reason that is not its own."""
        if self.bundle is not None:
            self._window = failed(self._window, name)

    async def look(self) -> Judgement:
        """Reads what came since the last look, and says how the bundle does. While there is one, and it serves."""
        unread, serving = False, self._node.serving
        if self.before is not None and serving is not None:
            text, pace, self._row, unread = await asyncio.to_thread(self._pair, self.before, serving)
            self._window = replace(self._window, text=text, pace=pace)  # what was answered meanwhile is in it
        return judge(self._window, self._limits, now_s=self._node.steady(), unread=unread)

    def _pair(self, before: Serving, after: Serving) -> tuple[Paired, tuple[float, ...], int, bool]:
        """What both make of the texts that came, the row of the last one, and whether more may wait."""
        text, pace, row = self._window.text, self._window.pace, self._row
        room = min(READ_MAX_BYTES, FRESH_MAX_BYTES - text.size_bytes)
        found = self._node.record.texts.after(row, room) if room > 0 else []
        for row, each in found:  # noqa: B007 -- the last one is told
            with suppress(Rejected):  # nothing in it to read
                text = text.then(len(each.encode()), *read_both(before.constellation, after.constellation, each))
                if len(pace) < PAIRS_MAX:
                    pair = before.constellation, after.constellation
                    ratio = say_both(*pair, each, clock=time.thread_time, turned=len(pace) % 2 == 1)
                    pace = pace if ratio is None else (*pace, ratio)
        return text, pace, row, room > 0 and sum(len(each.encode()) for _, each in found) >= room

    @property
    def figures(self) -> tuple[float | None, float | None]:
        """Bits per byte before and now: of the fresh text; of the probe text where there was too little."""
        text = self._window.text
        if not text.is_known:
            return self.tried
        return text.before / text.size_bytes, text.after / text.size_bytes
