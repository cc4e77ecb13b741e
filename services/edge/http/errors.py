"""Every way a request can be refused, as OpenAI's API says it: {"error": {message, type, param, code}} and a status.

Pure: an error goes in, a Refusal comes out, and its body and headers. Messages and codes are OpenAI's own where it has
them, since clients look at them.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, Final

from typing_extensions import TypedDict

from common.errors import QigError, Rejected, Unavailable
from common.geometry.phases import DIVERGED

INVALID: Final = "invalid_request_error"
SERVER: Final = "server_error"
_BUSY: Final = "overloaded"
_TYPES: Final = {
    "string": "a string", "int": "an integer", "float": "a decimal", "bool": "a boolean", "list": "an array",
    "model": "an object", "dict": "an object", "model_attributes": "an object",
}  # fmt: skip
_LIMITS: Final = {
    "greater_than_equal": ("below_min", "below minimum value", ">=", "ge"),
    "greater_than": ("below_min", "below minimum value", ">", "gt"),
    "less_than_equal": ("above_max", "above maximum value", "<=", "le"),
    "less_than": ("above_max", "above maximum value", "<", "lt"),
}
_LENGTHS: Final = {
    "too_long": ("array_above_max_length", "array too long", "maximum", "max_length"),
    "too_short": ("array_below_min_length", "array too short", "minimum", "min_length"),
    "string_too_long": ("string_above_max_length", "string too long", "maximum", "max_length"),
    "string_too_short": ("string_below_min_length", "string too short", "minimum", "min_length"),
}
_FIELD: Final = re.compile(r"[a-z][a-z0-9_]*")
_TAGS: Final = frozenset({"body", "query", "path", "str", "int", "float", "bool"})  # in pydantic's locations: no fields


class Problem(TypedDict):
    """What is wrong, of what kind, where in the request, and a stable code."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(TypedDict):
    """The body of every response that is no answer."""

    error: Problem


class Refusal(Exception):
    """A request that gets no answer, and what its client is told. status: of HTTP, 400 or above."""

    def __init__(
        self,
        status: int,
        code: str | None,
        message: str,
        *,
        param: str | None = None,
        kind: str = INVALID,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.kind = kind
        self.retry_after_s = retry_after_s

    @property
    def body(self) -> ErrorBody:
        """What is sent as JSON."""
        return ErrorBody(error=Problem(message=self.message, type=self.kind, param=self.param, code=self.code))

    @property
    def headers(self) -> dict[str, str]:
        """When to ask again, in whole seconds for everybody and in milliseconds for OpenAI's clients."""
        found = {"www-authenticate": "Bearer"} if self.status == 401 else {}
        if self.retry_after_s is not None:
            found["retry-after"] = str(max(1, math.ceil(self.retry_after_s)))
            found["retry-after-ms"] = str(max(1, math.ceil(self.retry_after_s * 1000)))
        return found


def refusal_of(error: Exception) -> Refusal:
    """What a client is told of an error. Of a bug, or of damage here, nothing but that it is ours."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, Rejected) and error.code != DIVERGED:
        return Refusal(400, error.code, error.message)
    if isinstance(error, Unavailable):
        busy = error.code == _BUSY
        wait_s = 1.0 if error.retry_after_s is None else error.retry_after_s
        return Refusal(429 if busy else 503, error.code, error.message, kind=SERVER, retry_after_s=wait_s)
    code = error.code if isinstance(error, QigError) else "internal_error"
    return Refusal(500, code, "The server had an error while processing your request. Sorry about that!", kind=SERVER)


def not_found(method: str, path: str) -> Refusal:
    """No such address."""
    return Refusal(404, "unknown_url", f"Invalid URL ({method} {path})")


def not_allowed(method: str, path: str) -> Refusal:
    """The address is right and the method is not."""
    hint = "(HINT: Perhaps you meant to use a different HTTP method?)"
    return Refusal(405, "method_not_supported", f"Not allowed to {method} on {path} {hint}")


def no_model(model: str, known: Sequence[str]) -> Refusal:
    """A model that is not one of ours, which are known."""
    message = (
        f"The model `{model[:80]}` does not exist or you do not have access to it. Models here: {', '.join(known)}."
    )
    return Refusal(404, "model_not_found", message, param="model")


def no_json() -> Refusal:
    """A body that is no JSON object, or no UTF-8."""
    hint = "(HINT: send a JSON object in UTF-8, with the header content-type: application/json.)"
    return Refusal(400, None, f"We could not parse the JSON body of your request. {hint}")


def unsupported(param: str, why: str = "") -> Refusal:
    """A parameter that asks for what these kernels do not do."""
    message = f"Unsupported parameter: '{param}' is not supported with this model."
    return Refusal(400, "unsupported_parameter", f"{message} {why}".strip(), param=param)


def invalid(param: str, reason: str, code: str = "invalid_value") -> Refusal:
    """A value that will not do."""
    return Refusal(400, code, f"Invalid '{param}': {reason}", param=param)


def invalid_fields(errors: Sequence[dict[str, Any]]) -> Refusal:  # noqa: PLR0911 -- one return a kind of error
    """What pydantic found, as OpenAI says it: the first of the errors. errors: as `ValidationError.errors()`."""
    first = _telling(errors)
    kind, context, value = first["type"], first.get("ctx", {}), first.get("input")
    param = _param(first["loc"])
    if not param and isinstance(value, bytes):  # the framework reads a body as JSON only where a header says so
        hint = "The header content-type: application/json is missing; without it the body is not read."
        return Refusal(400, None, hint)
    if kind == "json_invalid" or not param:
        return no_json()
    if kind == "missing":
        return Refusal(400, "missing_required_parameter", f"Missing required parameter: '{param}'.", param=param)
    if kind == "literal_error":
        message = f"Invalid value: {_shown(value)}. Supported values are: {context['expected']}."
        return Refusal(400, "invalid_value", message, param=param)
    if kind in _LIMITS:
        code, words, sign, name = _LIMITS[kind]
        number = "integer" if isinstance(context[name], int) else "decimal"
        limit = f"Expected a value {sign} {context[name]}, but got {_shown(value)} instead."
        return invalid(param, f"{number} {words}. {limit}", f"{number}_{code}_value")
    if kind in _LENGTHS:
        code, words, side, name = _LENGTHS[kind]
        return invalid(param, f"{words}. Expected {side} length {context[name]}.", code)
    expected = _TYPES.get(kind.removesuffix("_type"))
    if expected is not None:
        message = f"Invalid type for '{param}': expected {expected}, but got {_type_name(value)} instead."
        return Refusal(400, "invalid_type", message, param=param)
    return invalid(param, f"{first['msg']}.")


def _telling(errors: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first error; of the forms one field may have, the one that fits but for a limit, else that which fits
    farthest.
    """
    field = _param(errors[0]["loc"])
    inside = (f"{field}[", f"{field}.")
    forms = [each for each in errors if (at := _param(each["loc"])) == field or (field and at.startswith(inside))]
    limits = [each for each in forms if each["type"] in _LENGTHS | _LIMITS]
    return next((each for each in limits if _param(each["loc"]) == field), max((*limits, *forms), key=_reached))


def _reached(error: dict[str, Any]) -> list[int]:
    """How far into lists an error lies."""
    return [step for step in error["loc"] if isinstance(step, int)]


def _param(location: Sequence[int | str]) -> str:
    """messages[0].content of ("body", "messages", 0, "content", "str"): without what only names a pydantic type."""
    found = ""
    for step in location:
        if isinstance(step, int):
            found += f"[{step}]" if found else ""
        elif step not in _TAGS and _FIELD.fullmatch(step):
            found += f".{step}" if found else step
    return found


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _type_name(value: object) -> str:
    kinds = {str: "a string", bool: "a boolean", int: "an integer", float: "a decimal", list: "an array"}
    return "null" if value is None else kinds.get(type(value), "an object")
