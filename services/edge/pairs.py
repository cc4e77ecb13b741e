"""The same work done by two constellations, one right after the other: what differs is theirs, not the moment's. Pure
but for the clock that is given.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from common.constellation.constellation import Constellation
from common.kernels.kernel import Reading, reread
from common.kernels.memory import Ids

SAID_TOKENS: Final = 32
PROMPT_TOKENS: Final = 64  # of a text's end: what is read before a token is no part of what the token takes


def read_both(before: Constellation, after: Constellation, text: str) -> tuple[float, float]:
    """Code length of a text under each, in bits, each under the kernel of its nearest domain, as an edge would read it.
    A state that both have reads it once. Raises Rejected for no text.
    """
    (ids, domain), (others, other) = _placed(before, text), _placed(after, text)
    shared = after.kernel(other).state is before.kernel(domain).state and np.array_equal(others, ids)
    reading = before.read(ids, domain)
    again = reread(after.kernel(other), ids, reading) if shared else after.read(others, other)
    return _bits(before, domain, reading), _bits(after, other, again)


def _placed(constellation: Constellation, text: str) -> tuple[Ids, str]:
    """A text's ids and its nearest domain."""
    ids = constellation.encoder.encode(text)
    return ids, _nearest(constellation, ids)


def _nearest(constellation: Constellation, ids: Ids) -> str:
    return constellation.route(constellation.basin(ids)).steps[0].name


def _bits(constellation: Constellation, domain: str, reading: Reading) -> float:
    return float(reading.bits(constellation.domains[domain].gate_array).sum())


def say_both(
    before: Constellation, after: Constellation, text: str, *, clock: Callable[[], float], turned: bool
) -> float | None:
    """Seconds that a token takes `after`, over those it takes `before`, after a text; None where one of them said
    nothing. turned: `after` speaks first: whoever is second finds the processor warmer. clock: seconds; of this thread
    alone, if what others do is not to count.
    """
    first, second = (after, before) if turned else (before, after)
    one, other = (_seconds_a_token(each, text, clock) for each in (first, second))
    if one is None or other is None:
        return None
    return one / other if turned else other / one


def _seconds_a_token(constellation: Constellation, text: str, clock: Callable[[], float]) -> float | None:
    ids = constellation.encoder.encode(text)[-PROMPT_TOKENS:]
    nearest = _nearest(constellation, ids)
    rng = np.random.default_rng(len(text))
    speech = constellation.speak(ids, {nearest: 1.0}, max_tokens=1 + SAID_TOKENS, temperature=1.0, rng=rng)
    speech.say(1)  # with it comes what is made ready for the rest
    if speech.ended:
        return None
    began_s = clock()
    said = len(speech.say(SAID_TOKENS).tokens)
    return (clock() - began_s) / said if said else None
