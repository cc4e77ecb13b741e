"""What every request that asks for text has in common, and how it becomes queries.

Pure. Unknown fields are ignored, as OpenAI's clients expect; a known one that asks for what these kernels do not do is
refused by name, since an answer that silently lacks it would be taken for one that has it.
"""

import re
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from common.constants import ROLES, Role
from common.wire.fields import MAX_COUNT, MAX_STOPS, MAX_TEMPERATURE, QUERY_MAX_CHARS, STOP_MAX_CHARS, Mode
from common.wire.inference import Query
from services.edge.http.errors import Refusal, invalid, no_model, unsupported

CONSTELLATION: Final = "constellation"  # the model: the router picks a kernel; and the mode: all four together
MODELS: Final[tuple[str, ...]] = (CONSTELLATION, *ROLES)
CHOICES_MAX: Final = 16  # of one request, prompts times n
MODEL_MAX_CHARS: Final = 256

# What a field may say without asking for anything; null never does.
_NOTHING: Final[dict[str, tuple[Any, ...]]] = {
    "audio": (),
    "best_of": (1,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "prediction": (),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (),
    "web_search_options": (),
}
_REQUEST: Final = re.compile("(?:chat)?cmpl-[0-9a-f]{24}")  # as routes.py names one
_SURROGATE: Final = re.compile("[\ud800-\udfff]")

Stop = Annotated[str, StringConstraints(min_length=1, max_length=STOP_MAX_CHARS)]
# The limits that only openapi.json tells are looked at later, since OpenAI has errors of their own for them.
ModelName = Annotated[str, StringConstraints(max_length=MODEL_MAX_CHARS), Field(json_schema_extra={"enum": [*MODELS]})]
Text = Annotated[str, Field(json_schema_extra={"minLength": 1, "maxLength": QUERY_MAX_CHARS})]


class Received(BaseModel):
    """A body, or a part of one, as a client sent it: types are strict, fields we do not know are kept and not read.

    Long lists are looked at up to the first item that does not fit (`fail_fast`): each complaint takes a kilobyte, and
    a body may have 350,000 of them.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)


class StreamOptions(Received):
    """include_usage: one more chunk before the end, with the tokens read and written."""

    include_usage: bool | None = None


class Asking(Received):
    """The fields that completions and chat share. Null is as good as absent."""

    model: ModelName = Field(description="constellation: the router picks a kernel; or one kernel by its name")
    mode: Literal["routed", "constellation"] | None = Field(
        None, description="constellation: all four kernels answer together; of the model constellation alone"
    )
    n: int | None = Field(None, ge=1, le=CHOICES_MAX)
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    seed: int | None = Field(
        None, description="The same seed, prompt and bundle give the same text, until the edge learns"
    )
    temperature: float | None = Field(None, ge=0, le=MAX_TEMPERATURE, description="0.8 when absent")
    top_p: float | None = Field(None, ge=0, le=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    store: bool | None = Field(None, description="false: answer, and learn nothing from it")

    @property
    def usage_wanted(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


def check_supported(fields: Mapping[str, Any]) -> None:
    """Raises Refusal for a field that asks for what is not there. fields: those that the request's model lacks."""
    for name, value in fields.items():
        if name == "logprobs" and value is not None and value is not False:  # 0 asks for one
            raise unsupported(name)
        if name in _NOTHING and value is not None and value not in _NOTHING[name]:
            raise unsupported(name)


def check_model(name: str) -> str:
    """The name of a model that is there. Raises Refusal 404 for another."""
    if name not in MODELS:
        raise no_model(name, MODELS)
    return name


def mode_of(asking: Asking) -> Mode:
    """How a request is to be answered. Raises Refusal: 404 for a model that is not there, 400 for a kernel pinned and
    all four asked for.
    """
    check_model(asking.model)
    if asking.model == CONSTELLATION:
        return asking.mode or "routed"
    if asking.mode is not None:
        message = f"the model {asking.model} is one kernel: ask the model {CONSTELLATION}, or leave mode out."
        raise invalid("mode", message)
    return cast("Role", asking.model)


def check_text(text: str, param: str) -> None:
    """Raises Refusal for a text that is no query: empty or blank, too long for a kernel, or with half a character."""
    if not text.strip():
        raise invalid(param, "it holds no text.", "empty_text")
    if len(text) > QUERY_MAX_CHARS:
        message = (
            f"This model's maximum context length is {QUERY_MAX_CHARS} characters. However, '{param}' has {len(text)}."
            " Please reduce its length."
        )
        raise Refusal(400, "context_length_exceeded", message, param=param)
    half = _SURROGATE.search(text)
    if half is not None:  # JSON can say one, and UTF-8 cannot
        reason = f"character {half.start()} is {half.group()!a}, half of a character: decode the text properly."
        raise invalid(param, reason, "lone_surrogate")


def queries(asking: Asking, texts: list[str], *, max_tokens: int, name: str, client: str, learn: bool) -> list[Query]:
    """One query a choice, those of the first text first; each text at most once to be learned from.

    name: of the whole request; the first query has it as its id. Raises Refusal.
    """
    check_supported(asking.model_extra or {})
    mode = mode_of(asking)
    each = asking.n or 1
    if each * len(texts) > CHOICES_MAX:
        raise invalid("n", f"at most {CHOICES_MAX} choices a request, {each} of {len(texts)} prompts were asked for.")
    return [
        Query(
            id=_choice_id(name, number),
            client=client,
            text=text,
            max_tokens=max_tokens,
            stream=bool(asking.stream),
            mode=mode,
            store=learn and asking.store is not False and number % each == 0,
            **_sampling(asking, number % each),
        )
        for number, text in enumerate(text for text in texts for _ in range(each))
    ]


def choice_ids(name: str) -> list[str]:
    """The ids of all queries that the request `name` may have become.

    Of a name that HTTP did not give, that alone: NAME-1 is then another query of whoever named both.
    """
    return [_choice_id(name, number) for number in range(CHOICES_MAX if _REQUEST.fullmatch(name) else 1)]


def _choice_id(name: str, number: int) -> str:
    return name if number == 0 else f"{name}-{number}"


def _sampling(asking: Asking, choice: int) -> dict[str, Any]:
    """Only what was said: the rest is a query's own default. Choices of one seed differ, and repeat with it."""
    said: dict[str, Any] = {}
    if asking.temperature is not None:
        said["temperature"] = float(asking.temperature)
    if asking.top_p is not None:
        said["top_p"] = max(float(asking.top_p), sys.float_info.min)  # 0: the likeliest token alone
    if asking.seed is not None:
        said["seed"] = (asking.seed + choice) % (MAX_COUNT + 1)
    if asking.stop:
        said["stop"] = (asking.stop,) if isinstance(asking.stop, str) else tuple(asking.stop)
    return said
