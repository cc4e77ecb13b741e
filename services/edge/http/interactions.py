"""/v1/interactions: what an edge keeps of a request, for its own client to forget or to judge. Pure translation."""

from dataclasses import asdict
from typing import Any, Final, Literal, Protocol

from pydantic import Field
from typing_extensions import TypedDict

from services.edge.http.access import ANYBODY
from services.edge.http.asking import Received
from services.edge.http.errors import Refusal
from services.edge.learning import Forgotten
from services.edge.record import Verdict

UNKNOWN: Final = "unknown_interaction"


class Keeping(Protocol):
    """What an edge offers to whoever was answered by it."""

    async def forget(self, client: str, query_id: str) -> Forgotten | None:
        """Deletes an interaction; None when nothing is kept under this name."""

    async def judge(self, client: str, query_id: str, verdict: Verdict | None) -> bool:
        """Accepts or rejects an interaction, None: neither; False when nothing is kept under this name."""


class FeedbackRequest(Received):
    """The body of POST /v1/interactions/{id}/feedback."""

    accept: bool | None = Field(description="true: worth learning; false: not, undo it; null: neither, as before")


class LeftPacket(TypedDict):
    """A packet that has left with what it had of the text: n-grams that occur in it."""

    sequence: int
    status: str
    ngrams: int


class Deleted(TypedDict):
    """What forgetting did. counts: none were made, they were taken back, or are kept by an older release.

    withdrawn: packets that had not left, made anew without it.
    """

    id: str
    object: Literal["interaction.deleted"]
    deleted: Literal[True]
    counts: Literal["none", "taken", "kept"]
    withdrawn: list[int]
    left: list[LeftPacket]


class Feedback(TypedDict):
    """The verdict as it now stands."""

    id: str
    object: Literal["interaction.feedback"]
    accept: bool | None


def owner(asking: str, named: str | None) -> str:
    """Whose interaction is meant. named: as the request says; whoever has a key speaks for itself alone.

    Raises Refusal 403.
    """
    if named is None or named == asking:
        return asking
    if asking != ANYBODY:
        raise Refusal(403, "not_yours", f"This key is {asking}'s: it cannot speak for another client.", param="client")
    return named


def unknown(name: str, client: str) -> Refusal:
    """Nothing is kept under this name: it never was, it is too old, or it asked for that (`store`)."""
    message = f"No interaction '{name[:80]}' of client '{client[:80]}' is kept on this edge."
    return Refusal(404, UNKNOWN, message, param="id")


def deleted(name: str, done: Forgotten) -> Deleted:
    """The answer to DELETE."""
    told: dict[str, Any] = asdict(done)
    return Deleted(
        id=name,
        object="interaction.deleted",
        deleted=True,
        counts=done.counts,
        withdrawn=list(done.withdrawn),
        left=list(told["left"]),
    )


def verdict_of(asked: FeedbackRequest) -> Verdict | None:
    """What a record calls it."""
    if asked.accept is None:
        return None
    return "accepted" if asked.accept else "rejected"
