"""What tacking does to what a kernel says: conversations, and their figures.

A conversation is a kernel talking on from PROMPT_TOKENS tokens of a text, past the ends of documents, so that all have
one length. Knows nothing of thresholds: validation and the benchmark judge.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from common.constants import PHASE_BOUNDS, PHASES, Phase, Role
from common.constellation.constellation import Constellation
from common.errors import Rejected
from common.kernels.generate import Speech, Step, Voice
from common.kernels.loops import LOOP_PERIOD_MAX
from common.kernels.memory import Ids

PROMPT_TOKENS: Final = 32
PROMPT_STRIDE: Final = 128  # tokens between two prompts of one text
TEMPERATURE: Final = 0.8
GRAM: Final = 4


@dataclass(frozen=True, slots=True)
class Conversations:
    """The figures of a role's conversations.

    kappa: the median over conversations of a conversation's median; band: the share of all readings within CRYSTAL's 50
    to 70; phases: shares of the tokens whose kappa is known, adding up to one; renewals: how many there were, and
    longest_renewal: tokens from a FRACTURE until kappa was under 50, or until the conversation's end; gain: median;
    distinct_4: share of a conversation's 4-grams that are different, mean; longest_loop: tokens of the longest stretch
    that repeats what stood up to 32 tokens before it.
    """

    kappa: float
    band: float
    phases: dict[Phase, float]
    renewals: int
    longest_renewal: int
    gain: float
    distinct_4: float
    longest_loop: int


def prompts(texts: Sequence[Ids], count: int) -> list[Ids]:
    """`count` prompts: the texts' beginnings, (32,) each, then what stands 128 tokens further on, and so on; from the
    first again when the texts have no more.

    Raises Rejected("text_too_short") when they have none.
    """
    starts = range(0, max(map(len, texts), default=0), PROMPT_STRIDE)
    found = [ids[at : at + PROMPT_TOKENS] for at in starts for ids in texts if len(ids) >= at + PROMPT_TOKENS]
    if not found:
        raise Rejected("text_too_short", f"{len(texts)} texts, none of {PROMPT_TOKENS} tokens: give longer ones")
    return list(itertools.islice(itertools.cycle(found), count))


def conversations(
    constellation: Constellation,
    role: Role,
    prompts: Sequence[Ids],
    *,
    tokens: int,
    seed: int,
    temperature: float = TEMPERATURE,
) -> Conversations:
    """Talks on from each prompt for `tokens` tokens, at least 16, steered, and measures.

    Deterministic: conversation i draws from a generator seeded by (seed, i).
    """
    voice = Voice(constellation.kernel(role), constellation.homes[role], 1.0)
    talks = [
        talk([voice], prompt, tokens=tokens, temperature=temperature, rng=np.random.default_rng((seed, i)))
        for i, prompt in enumerate(prompts)
    ]
    return figures(talks)


def talk(
    voices: Sequence[Voice], prompt: Ids, *, tokens: int, temperature: float, rng: np.random.Generator
) -> list[Step]:
    """One conversation: exactly `tokens` steps, whatever ends in between."""
    return list(Speech(voices, prompt, max_tokens=tokens, temperature=temperature, stop=frozenset(), rng=rng))


def figures(talks: Sequence[Sequence[Step]]) -> Conversations:
    """The figures of conversations that were held. Each has at least one step whose kappa is known."""
    kappas = [np.array([step.kappa for step in steps if step.kappa is not None]) for steps in talks]
    readings, steps = np.concatenate(kappas), list(itertools.chain.from_iterable(talks))
    phases = [step.phase for step in steps if step.phase is not None]
    renewals = [length for each in talks for length in renewal_lengths(each)]
    texts = [np.array([step.token for step in each], np.int32) for each in talks]
    return Conversations(
        kappa=float(np.median([np.median(each) for each in kappas])),
        band=float(np.mean((readings >= PHASE_BOUNDS[1]) & (readings <= PHASE_BOUNDS[2]))),
        phases={phase: phases.count(phase) / max(len(phases), 1) for phase in PHASES},
        renewals=len(renewals),
        longest_renewal=max(renewals, default=0),
        gain=float(np.median([step.helm.gain for step in steps])),
        distinct_4=float(np.mean([distinct(ids) for ids in texts])),
        longest_loop=max(longest_loop(ids) for ids in texts),
    )


def renewal_lengths(steps: Sequence[Step]) -> list[int]:
    """How many tokens each renewal took; one that is not over at the end counts as far as it was seen."""
    ages = [*(step.helm.renewal for step in steps), 0]
    return [age for age, after in itertools.pairwise(ages) if age and not after]


def distinct(ids: Ids) -> float:
    """The share of the 4-grams of a text (N,), N >= 4, that are different from each other, in (0, 1]."""
    grams = np.lib.stride_tricks.sliding_window_view(ids, GRAM)
    return len(np.unique(grams, axis=0)) / len(grams)


def longest_loop(ids: Ids) -> int:
    """Tokens of the longest stretch in which every token is the one that stood p before it, for one p up to 32."""
    longest = 0
    for period in range(1, min(LOOP_PERIOD_MAX, len(ids) - 1) + 1):
        breaks = np.flatnonzero(ids[period:] != ids[:-period])
        edges = np.concatenate([[-1], breaks, [len(ids) - period]])
        longest = max(longest, int(np.diff(edges).max()) - 1)
    return longest
