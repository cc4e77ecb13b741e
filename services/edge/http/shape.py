"""How answers are told: whole, or chunk by chunk. One Shape an endpoint; the stream knows nothing else of it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from common.wire.inference import Answer
from services.edge.http.evidence import fingerprint

Chunk = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Head:
    """What every object of one request begins with. bundle: the version that serves as it comes."""

    name: str
    created: int
    model: str
    bundle: int

    def system(self, answer: Answer | None) -> str:
        """The fingerprint of what answers; answer: the one that is told of, once it has ended."""
        return fingerprint(self.bundle if answer is None else answer.bundle)


class Shape(Protocol):
    """The objects of one request."""

    def whole(self, answers: Sequence[Answer]) -> Chunk:
        """All answers in one object."""

    def begin(self) -> Sequence[Chunk]:
        """What the choices begin with, in their order: clients count them as they first hear of them."""

    def piece(self, index: int, text: str) -> Chunk:
        """More text of a choice."""

    def end(self, index: int, answer: Answer) -> Chunk:
        """The end of a choice, with its evidence."""

    def usage(self, answers: Sequence[Answer]) -> Chunk | None:
        """After all choices: the tokens, if the client wanted them."""
