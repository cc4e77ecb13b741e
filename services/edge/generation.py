"""One answer in the making: coordize, route, read, then some tokens at a time. It may rest between any two of them.

Pure: a constellation and a query go in, text comes out as it becomes complete. Knows no stream, no thread and no clock.
The prompt is read whole, and its code length taken, before the first token. A query without a seed is seeded by its id,
so that a query which is computed twice (after a kill) is answered with the same text while the constellation is the
same: while no bundle came, and nothing was learned here.

    text ─▶ ids ─▶ basin ─▶ route ─┬─ routed          the nearest domain; under the margin the two nearest, fused
                                   ├─ constellation   the four roles, each in its nearest domain, fused
                                   └─ a role          that role, in its nearest domain
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from common.constants import ROLES, Phase, Role
from common.constellation.constellation import MARGIN_MIN_RAD, Constellation
from common.coordizer.artifacts import EOS
from common.geometry.routing import Route
from common.kernels.generate import STRETCH_TOKENS, Speech
from common.kernels.kernel import Listening, Reading
from common.kernels.memory import Ids
from common.wire.fields import ANSWER_MAX_CHARS
from common.wire.inference import Query
from services.edge.local import within
from services.edge.spoken import Spoken

Array = npt.NDArray[np.float64]
Finish = Literal["stop", "length", "read", "cancelled"]
Stage = Callable[[str], AbstractContextManager[object]]

TOGETHER: Final = "constellation"  # the mode, and the name of what all four states hold together
TOKEN_MAX_CHARS: Final = 300  # more than any token has
HEARD_ONE_IN: Final = 32  # chosen: three more states read a prompt in 32, which costs an edge a tenth of its reading


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """A prompt as its leader reads it. prompt: its ids, or the end of a text where it has none; bits: its length;
    listening: the leader's state with the prompt in it, if it holds it, for one speech to go on from.
    """

    ids: Ids
    prompt: Ids
    basin: Array
    route: Route
    shares: Mapping[str, float]
    lead: str
    role: Role
    reading: Reading
    bits: float
    listening: Listening | None


class Generation:
    """One answer in the making: `say` goes on with it; to iterate over it says all of it.

    When it has `ended`, `finish` says why: "stop" (by itself, or at a stop text), "length", or "read" where nothing was
    to be said; "cancelled" while it has not. `together` is the prompt as all four states hold it, (N, 64): known at the
    end, in constellation mode and for the prompts of one query in HEARD_ONE_IN. kappa, phase: after the last token.
    """

    def __init__(self, constellation: Constellation, query: Query, query_id: str, stage: Stage = nullcontext) -> None:
        """Reads the prompt. stage: entered for each stage of that, by its name. Raises Rejected for a text that cannot
        be coordized.
        """
        self.constellation = constellation
        self.query = query
        self.query_id = query_id
        self.heard = hear(constellation, query, stage)
        self.tokens = 0
        self.kappa: float | None = None
        self.phase: Phase | None = None
        self.basins: list[npt.NDArray[np.float32]] = []  # the lead's, (N, 64) a stretch
        self.held: list[Array] = []  # likewise in constellation mode, what all four states held together
        self.text = ""
        self.together: Array | None = None
        self.finish: Finish = "cancelled"
        self._spoken = Spoken(constellation.encoder, query.stop)
        self._speech: Speech | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more comes."""
        return self.finish != "cancelled"

    def __iter__(self) -> Iterator[str]:
        while not self.ended:
            yield self.say(STRETCH_TOKENS)

    def say(self, tokens: int) -> str:
        """Up to so many tokens more, one or more: the text that became complete with them, and at the end what was held
        back. The answer is the same whatever the numbers.
        """
        if self.query.max_tokens == 0:
            return self._end()
        if self._speech is None:
            self._speech = self._begin()
        said = self._speech.say(tokens)
        # A stop text, or the longest answer, may end it at any token of these.
        alone = bool(self.query.stop) or len(self.text) + TOKEN_MAX_CHARS * len(said.tokens) >= ANSWER_MAX_CHARS
        ids, piece, count = said.tokens.tolist(), "", 0
        while count < len(ids) and not (self._spoken.stopped or len(self.text) == ANSWER_MAX_CHARS):
            some = ids[count : count + 1] if alone else ids
            piece += self._take(self._spoken.push(some))
            count += len(some)
        if count:
            self.tokens += count
            self.kappa, self.phase = said.reading(count - 1)
            self.basins.append(said.basins[:count, 0])
            if self.query.mode == TOGETHER:
                self.held.append(self.constellation.hold(self.heard.shares, said.basins[:count]))
        ended = self._speech.ended or self._spoken.stopped or len(self.text) == ANSWER_MAX_CHARS
        return piece + self._end() if ended else piece

    def _end(self) -> str:
        rest = self._take(self._spoken.finish())
        if self.query.mode == TOGETHER or seed_of(self.query_id) % HEARD_ONE_IN == 0:
            self.together = self.constellation.hear(self.heard.prompt)
        if self.query.max_tokens == 0:
            self.finish = "read"
        else:
            whole = self.tokens == self.query.max_tokens and not self._spoken.stopped
            self.finish = "length" if whole or len(self.text) == ANSWER_MAX_CHARS else "stop"
        return rest

    def _take(self, piece: str) -> str:
        piece = piece[: ANSWER_MAX_CHARS - len(self.text)]
        self.text += piece
        return piece

    def _begin(self) -> Speech:
        query, heard = self.query, self.heard
        rng = np.random.default_rng(seed_of(self.query_id) if query.seed is None else query.seed)
        return self.constellation.speak(
            heard.prompt,
            heard.shares,
            max_tokens=query.max_tokens,
            temperature=query.temperature,
            rng=rng,
            top_p=query.top_p,
            listening=heard.listening,
        )


def hear(constellation: Constellation, query: Query, stage: Stage = nullcontext) -> Heard:
    """Reads a prompt. Raises Rejected for a text that cannot be coordized."""
    with stage("coordize"):
        ids = constellation.encoder.encode(query.text)
        prompt = ids if len(ids) else np.array([EOS], np.int32)
    with stage("route"):
        basin = constellation.basin(prompt)
        route = within(constellation.route(basin), constellation.domains, margin_min_rad=MARGIN_MIN_RAD)
        shares = voices(constellation, route, query.mode)
        lead = next(iter(shares))
    with stage("read"):
        reading, listening = constellation.listen(prompt, lead)
        bits = float(reading.bits(constellation.kernel(lead).gate).sum())
    role = constellation.domains[lead].role
    return Heard(ids, prompt, basin, route, shares, lead, role, reading, bits, listening)


def voices(constellation: Constellation, route: Route, mode: str) -> dict[str, float]:
    """The domains that speak and their shares, which sum to one; the leader first.

    mode: "routed", "constellation" or a role. A role speaks in whichever of its domains is nearest.
    """
    if mode == "routed":
        return _shares(route, {step.name for step in route.steps[: 2 if route.abstained else 1]})
    nearest: dict[Role, str] = {}
    for step in route.steps:
        nearest.setdefault(constellation.domains[step.name].role, step.name)
    return _shares(route, {nearest[role] for role in ROLES if mode in ("constellation", role)})


def seed_of(query_id: str) -> int:
    """A seed that every process draws from the same id."""
    return int.from_bytes(hashlib.sha256(query_id.encode()).digest()[:8], "big")


def _shares(route: Route, names: set[str]) -> dict[str, float]:
    """The router's weights of these domains, nearest first, made to sum to one."""
    chosen = [step for step in route.steps if step.name in names]
    total = sum(step.weight for step in chosen)
    # A domain so far that its weight underflows still speaks alone when it is the only one asked for.
    return {step.name: step.weight / total if total > 0 else 1.0 / len(chosen) for step in chosen}
