"""POST /v1/completions: a prompt goes in, its continuation comes out. What suits a base model. Pure translation."""

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from common.coordizer.encode import Encoder
from common.errors import Rejected
from common.wire.fields import MAX_NEW_TOKENS, QUERY_MAX_CHARS
from common.wire.inference import Answer, Query
from services.edge.http.asking import CHOICES_MAX, Asking, Text, check_text, queries
from services.edge.http.errors import invalid
from services.edge.http.evidence import Evidence, FinishReason, Usage, evidence, finish_reason, usage_of
from services.edge.http.shape import Chunk, Head

DEFAULT_TOKENS: Final = 16  # OpenAI's

Tokens = Annotated[list[int], Field(fail_fast=True, min_length=1, max_length=QUERY_MAX_CHARS)]
Prompt = (
    Text
    | Annotated[list[Text], Field(fail_fast=True, min_length=1, max_length=CHOICES_MAX)]
    | Tokens
    | Annotated[list[Tokens], Field(fail_fast=True, min_length=1, max_length=CHOICES_MAX)]
)


class CompletionRequest(Asking):
    """The body of POST /v1/completions."""

    prompt: Prompt = Field(description="A text, texts, or the same as token ids of the coordizer")
    max_tokens: int | None = Field(None, ge=0, le=MAX_NEW_TOKENS, description="16 when absent; 0 reads the prompt only")
    echo: bool | None = Field(None, description="Give the prompt back before its continuation")


class CompletionChoice(TypedDict):
    """constellation: where a request has several choices, each has its own."""

    text: str
    index: int
    logprobs: None
    finish_reason: FinishReason | None
    constellation: NotRequired[Evidence]


class Completion(TypedDict):
    """The answer, and each chunk of a stream. constellation: the first choice's, at the end of its text."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: NotRequired[Usage | None]
    constellation: NotRequired[Evidence]


def completion_queries(asked: CompletionRequest, texts: Sequence[str], *, name: str, client: str) -> list[Query]:
    """One query a choice. texts: as `prompt_texts` gives them. Raises Refusal."""
    tokens = DEFAULT_TOKENS if asked.max_tokens is None else asked.max_tokens
    return queries(asked, list(texts), max_tokens=tokens, name=name, client=client, learn=True)


def prompt_texts(prompt: Any, encoder: Encoder, param: str = "prompt") -> list[str]:
    """The texts of a prompt in any of its four forms. Raises Refusal."""
    if isinstance(prompt, str):
        found = [prompt]
    elif isinstance(prompt[0], int):
        found = [_text(prompt, encoder, param)]
    else:
        found = [each if isinstance(each, str) else _text(each, encoder, param) for each in prompt]
    for text in found:
        check_text(text, param)
    return found


def _text(ids: Sequence[int], encoder: Encoder, param: str) -> str:
    try:
        return encoder.decode(ids).decode()
    except (Rejected, UnicodeDecodeError) as error:
        raise invalid(param, f"the tokens are no text of this coordizer ({error}).", "invalid_tokens") from None


class CompletionShape:
    """The objects of one request, whole or in pieces."""

    def __init__(self, head: Head, asked: CompletionRequest, texts: Sequence[str]) -> None:
        self._head = head
        self._each = asked.n or 1
        self._several = self._each * len(texts) > 1
        self._echo = texts if asked.echo else None
        self._usage_wanted = asked.usage_wanted

    def whole(self, answers: Sequence[Answer]) -> Chunk:
        """All answers in one object."""
        choices = [self._choice(index, self._before(index) + a.text, a) for index, a in enumerate(answers)]
        return self._object(choices, answers[0]) | {"usage": usage_of(answers, self._each)}

    def begin(self) -> Sequence[Chunk]:
        """The prompts, if they are to be given back."""
        echoes = self._each * len(self._echo or ())
        return [self.piece(index, self._before(index)) for index in range(echoes)]

    def piece(self, index: int, text: str) -> Chunk:
        """More text of a choice."""
        return self._chunk([self._choice(index, text)])

    def end(self, index: int, answer: Answer) -> Chunk:
        """The end of a choice, with its evidence."""
        return self._chunk([self._choice(index, "", answer)], answer)

    def usage(self, answers: Sequence[Answer]) -> Chunk | None:
        """After all choices: the tokens, if the client wanted them."""
        return self._object([]) | {"usage": usage_of(answers, self._each)} if self._usage_wanted else None

    def _before(self, index: int) -> str:
        return self._echo[index // self._each] if self._echo else ""

    def _choice(self, index: int, text: str, answer: Answer | None = None) -> CompletionChoice:
        reason = finish_reason(answer) if answer else None
        choice = CompletionChoice(text=text, index=index, logprobs=None, finish_reason=reason)
        if answer and self._several:
            choice["constellation"] = evidence(answer)
        return choice

    def _chunk(self, choices: list[CompletionChoice], answer: Answer | None = None) -> Completion:
        found = self._object(choices, answer)
        if self._usage_wanted:
            found["usage"] = None
        return found

    def _object(self, choices: list[CompletionChoice], answer: Answer | None = None) -> Completion:
        found = Completion(
            id=self._head.name,
            created=self._head.created,
            model=self._head.model,
            system_fingerprint=self._head.system(answer),
            object="text_completion",
            choices=choices,
        )
        if answer and not self._several:
            found["constellation"] = evidence(answer)
        return found
