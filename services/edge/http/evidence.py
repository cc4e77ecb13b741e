"""What an answer shows beside its text: `constellation`, an object that OpenAI's clients pass through. Pure."""

import sys
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from common.constants import Phase, Role
from common.wire.inference import Answer

FinishReason = Literal["stop", "length"]


class Evidence(TypedDict):
    """How an answer came about; null where a quantity is not known."""

    kernel: Annotated[Role | None, Field(description="The kernel that led")]
    domain: Annotated[str | None, Field(description="The domain it spoke in")]
    distances_rad: Annotated[
        dict[str, float], Field(description="Fisher-Rao distance of the prompt to each domain, nearest first, 0 to pi")
    ]
    margin_rad: Annotated[float | None, Field(description="Second distance minus first")]
    abstained: Annotated[bool, Field(description="The margin was too small to choose: the two nearest spoke together")]
    phi: Annotated[float | None, Field(description="Integration of that kernel's state, 0 to 1")]
    phi_p: Annotated[float | None, Field(description="Probability of that integration without any coupling, above 0")]
    constellation_phi: Annotated[float | None, Field(description="Integration of all four states together, 0 to 1")]
    constellation_phi_p: float | None
    kappa: Annotated[float | None, Field(description="Coupling: concentration of the state's heading at the end")]
    phase: Phase | None
    bundle: Annotated[int, Field(description="Version of the bundle that answered")]
    node: str
    seconds: float


class Usage(TypedDict):
    """Tokens; a prompt with several choices is counted once."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


def evidence(answer: Answer) -> Evidence:
    """The evidence of one answer."""
    return Evidence(
        kernel=answer.kernel,
        domain=answer.domain,
        distances_rad={step.domain: step.distance_rad for step in answer.route},
        margin_rad=answer.margin_rad,
        abstained=answer.abstained,
        phi=answer.phi,
        phi_p=_probability(answer.phi_p),
        constellation_phi=answer.constellation_phi,
        constellation_phi_p=_probability(answer.constellation_phi_p),
        kappa=answer.kappa,
        phase=answer.phase,
        bundle=answer.bundle,
        node=answer.node,
        seconds=answer.seconds,
    )


def _probability(p: float | None) -> float | None:
    """No probability is 0: one that is too small for a double is told as the smallest (normal) that a double holds."""
    return None if p is None else max(p, sys.float_info.min)


def usage_of(answers: Sequence[Answer], choices: int) -> Usage:
    """Tokens of all answers of a request. choices: answers a prompt."""
    read = sum(answer.prompt_tokens for answer in answers[::choices])
    written = sum(answer.completion_tokens for answer in answers)
    return Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)


def fingerprint(bundle: int) -> str:
    """What OpenAI calls the system: the same fingerprint, seed and prompt give the same text until the edge learns."""
    return f"bundle-{bundle}"


def finish_reason(answer: Answer) -> FinishReason:
    """Why a text ended, in OpenAI's words; a prompt that was only read had no room for an answer."""
    return "stop" if answer.finish == "stop" else "length"
