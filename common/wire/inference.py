"""What clients and edges say to each other: a query, its pieces, its answer. See messages.py for the whole map.

>>> Query(text="Where does the river go?").max_tokens
128
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from common.constants import Phase, Role
from common.wire.fields import (
    ANSWER_MAX_BYTES,
    ANSWER_MAX_CHARS,
    DEADLINE_MAX_S,
    MAX_DOMAINS,
    MAX_NEW_TOKENS,
    MAX_STOPS,
    MAX_TEMPERATURE,
    NOTE_MAX_BYTES,
    PIECE_MAX_CHARS,
    QUERY_MAX_BYTES,
    QUERY_MAX_CHARS,
    STOP_MAX_CHARS,
    Amount,
    Count,
    Message,
    Mode,
    Name,
    Radians,
    Reason,
    Share,
    Value,
)


class Query(Message):
    """A question to the fleet, or with max_tokens=0 a text to read, score and learn from."""

    max_bytes: ClassVar[int] = QUERY_MAX_BYTES
    id: Name | None = None  # None: the stream's entry id names it
    client: Name = "anonymous"  # answers go to the stream qig:answers:CLIENT
    text: Annotated[str, StringConstraints(min_length=1, max_length=QUERY_MAX_CHARS)]
    max_tokens: Annotated[int, Field(ge=0, le=MAX_NEW_TOKENS)] = 128
    temperature: Annotated[float, Field(ge=0.0, le=MAX_TEMPERATURE)] = 0.8
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = (
        1.0  # of the mass, the likeliest tokens that hold it are drawn from
    )
    stop: Annotated[
        tuple[Annotated[str, StringConstraints(min_length=1, max_length=STOP_MAX_CHARS)], ...],
        Field(max_length=MAX_STOPS),
    ] = ()
    seed: Count | None = None
    stream: bool = False  # True: the answer's text comes in Pieces as it is made, and then whole in the Answer
    deadline_s: Annotated[float, Field(gt=0.0, le=DEADLINE_MAX_S)] | None = None  # after its entry; then it is refused
    mode: Mode = "routed"
    store: bool = True  # False: answer, and learn nothing from it


class RouteStep(Value):
    """One domain the router weighed: the Fisher-Rao distance from the query's basin to its own, and its share of the
    answer.
    """

    domain: Name
    kernel: Role
    distance_rad: Radians
    weight: Share


class Problem(Value):
    """Why a query was not answered: an error's code and message."""

    code: Name
    message: Reason
    retry_after_s: Amount | None = None  # when asking again may help


class Piece(Message):
    """Some of an answer's text, as it is made. Index 0 begins the text anew: another edge may have taken it over.

    The Answer, which comes last, has the whole text; a piece may be lost with the edge that sent it, the Answer is not.
    """

    max_bytes: ClassVar[int] = NOTE_MAX_BYTES
    query_id: Name
    client: Name
    node: Name
    index: Count
    text: Annotated[str, StringConstraints(max_length=PIECE_MAX_CHARS)]
    tokens: Count


class Cancel(Message):
    """The client no longer wants an answer: the edge that makes it stops between two tokens and says what it has."""

    max_bytes: ClassVar[int] = NOTE_MAX_BYTES
    query_id: Name
    client: Name


class Answer(Message):
    """What came back for one query, with the evidence of how; None where a quantity is not known."""

    max_bytes: ClassVar[int] = ANSWER_MAX_BYTES
    query_id: Name
    client: Name
    node: Name
    bundle: Count  # 0: the genesis the software was shipped with
    text: Annotated[str, StringConstraints(max_length=ANSWER_MAX_CHARS)]
    finish: Literal["stop", "length", "read", "cancelled", "refused"]
    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    prompt_bytes: Count = 0
    prompt_bits: Amount = 0.0  # the prompt's code length under the kernel that read it
    route: Annotated[tuple[RouteStep, ...], Field(max_length=MAX_DOMAINS)] = ()  # nearest first
    margin_rad: Radians | None = None  # second distance minus first; None: there was no second
    abstained: bool = False
    kernel: Role | None = None
    domain: Name | None = None
    phi: Share | None = None
    phi_p: Share | None = None
    constellation_phi: Share | None = None  # of all four states together, over what this node lately read and said
    constellation_phi_p: Share | None = None
    kappa: Amount | None = None
    phase: Phase | None = None
    seconds: Amount = 0.0
    problem: Problem | None = None
