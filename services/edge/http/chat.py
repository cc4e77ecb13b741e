"""POST /v1/chat/completions: messages go in, one comes out. Pure translation.

These kernels are small base models: nobody taught them a conversation, and they have no template for one. So the texts
of the messages stand one after the other, with an empty line between two, and are continued. A conversation in which an
assistant has spoken is answered and not learned from: a kernel that learns what it says says it more often.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from common.wire.fields import MAX_NEW_TOKENS
from common.wire.inference import Answer, Query
from services.edge.http.asking import Asking, Received, check_text, queries
from services.edge.http.errors import Refusal, invalid, unsupported
from services.edge.http.evidence import Evidence, FinishReason, Usage, evidence, finish_reason, usage_of
from services.edge.http.shape import Chunk, Head

MESSAGES_MAX: Final = 2048
BETWEEN: Final = "\n\n"
_CALLS: Final = ("tool_calls", "function_call")


class ContentPart(Received):
    """A part of a message; only text is read."""

    type: str
    text: str | None = None


class ChatMessage(Received):
    """One message."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Annotated[list[ContentPart], Field(fail_fast=True)] | None = None


class ChatRequest(Asking):
    """The body of POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(fail_fast=True, min_length=1, max_length=MESSAGES_MAX)
    max_completion_tokens: int | None = Field(
        None, ge=1, le=MAX_NEW_TOKENS, description="Until it ends by itself, and 1,024 at most, when absent"
    )
    max_tokens: int | None = Field(None, ge=1, le=MAX_NEW_TOKENS, description="The older name of the same")


class Said(TypedDict):
    """The message that came out."""

    role: Literal["assistant"]
    content: str
    refusal: None
    annotations: list[Any]


class ChatChoice(TypedDict):
    """constellation: where a request has several choices, each has its own."""

    index: int
    message: Said
    logprobs: None
    finish_reason: FinishReason
    constellation: NotRequired[Evidence]


class ChatCompletion(TypedDict):
    """The answer. constellation: that of its only choice."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    constellation: NotRequired[Evidence]


class Delta(TypedDict):
    """What a chunk adds to a message."""

    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str]
    refusal: NotRequired[None]


class ChunkChoice(TypedDict):
    """More of one choice; its evidence at the end, where a request has several."""

    index: int
    delta: Delta
    logprobs: None
    finish_reason: FinishReason | None
    constellation: NotRequired[Evidence]


class ChatChunk(TypedDict):
    """One event of a stream. constellation: that of the only choice, at the end of its text."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: NotRequired[Usage | None]
    constellation: NotRequired[Evidence]


def chat_queries(asked: ChatRequest, *, name: str, client: str) -> list[Query]:
    """One query a choice. Raises Refusal."""
    text = BETWEEN.join(filter(None, map(_content, range(len(asked.messages)), asked.messages)))
    check_text(text, "messages")
    tokens = asked.max_completion_tokens or asked.max_tokens or MAX_NEW_TOKENS
    new = all(message.role != "assistant" for message in asked.messages)
    return queries(asked, [text], max_tokens=tokens, name=name, client=client, learn=new)


def _content(place: int, message: ChatMessage) -> str:
    """The text of one message. Raises Refusal for what is no text."""
    where = f"messages[{place}]"
    if message.role in ("tool", "function") or any(map((message.model_extra or {}).get, _CALLS)):
        raise unsupported(where, "There are no tools.")
    if (message.model_extra or {}).get("audio"):
        raise unsupported(f"{where}.audio", "This model reads text alone.")
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    return "".join(_part(part, f"{where}.content[{number}]") for number, part in enumerate(message.content))


def _part(part: ContentPart, where: str) -> str:
    if part.type != "text":
        shown = ascii(part.type[:40])  # it may hold half a character, which no response can
        message = f"Invalid content type: {shown} is not supported by this model: it reads text alone."
        raise Refusal(400, "unsupported_content", message, param=f"{where}.type")
    if part.text is None:
        raise invalid(f"{where}.text", "a part of type 'text' needs a text.", "missing_required_parameter")
    return part.text


class ChatShape:
    """The objects of one request, whole or in pieces."""

    def __init__(self, head: Head, asked: ChatRequest) -> None:
        self._head = head
        self._each = asked.n or 1
        self._usage_wanted = asked.usage_wanted

    def whole(self, answers: Sequence[Answer]) -> Chunk:
        """All answers in one object."""
        found = ChatCompletion(
            id=self._head.name,
            created=self._head.created,
            model=self._head.model,
            system_fingerprint=self._head.system(answers[0]),
            object="chat.completion",
            choices=[self._whole(index, answer) for index, answer in enumerate(answers)],
            usage=usage_of(answers, self._each),
        )
        if len(answers) == 1:
            found["constellation"] = evidence(answers[0])
        return found

    def begin(self) -> Sequence[Chunk]:
        """Who speaks."""
        who = Delta(role="assistant", content="", refusal=None)
        return [self._chunk([self._choice(index, who)]) for index in range(self._each)]

    def piece(self, index: int, text: str) -> Chunk:
        """More text of a choice."""
        return self._chunk([self._choice(index, Delta(content=text))])

    def end(self, index: int, answer: Answer) -> Chunk:
        """The end of a choice, with its evidence."""
        choice = self._choice(index, Delta())
        choice["finish_reason"] = finish_reason(answer)
        if self._each > 1:
            choice["constellation"] = evidence(answer)
        found = self._chunk([choice], answer)
        if self._each == 1:
            found["constellation"] = evidence(answer)
        return found

    def usage(self, answers: Sequence[Answer]) -> Chunk | None:
        """After all choices: the tokens, if the client wanted them."""
        return self._chunk([]) | {"usage": usage_of(answers, self._each)} if self._usage_wanted else None

    def _whole(self, index: int, answer: Answer) -> ChatChoice:
        said = Said(role="assistant", content=answer.text, refusal=None, annotations=[])
        choice = ChatChoice(index=index, message=said, logprobs=None, finish_reason=finish_reason(answer))
        if self._each > 1:
            choice["constellation"] = evidence(answer)
        return choice

    def _choice(self, index: int, delta: Delta) -> ChunkChoice:
        return ChunkChoice(index=index, delta=delta, logprobs=None, finish_reason=None)

    def _chunk(self, choices: list[ChunkChoice], answer: Answer | None = None) -> ChatChunk:
        found = ChatChunk(
            id=self._head.name,
            created=self._head.created,
            model=self._head.model,
            system_fingerprint=self._head.system(answer),
            object="chat.completion.chunk",
            choices=choices,
        )
        if self._usage_wanted:
            found["usage"] = None
        return found
