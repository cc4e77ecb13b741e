import pytest
from pydantic import ValidationError

from common.errors import Corrupt, Rejected, Unavailable
from services.edge.http.chat import ChatRequest
from services.edge.http.completions import CompletionRequest
from services.edge.http.embeddings import EmbeddingRequest
from services.edge.http.errors import invalid_fields, not_allowed, not_found, refusal_of


def refused(model, **fields):
    """The refusal of a body that does not fit."""
    with pytest.raises(ValidationError) as error:
        model.model_validate({"model": "constellation"} | fields)
    return invalid_fields([{**each, "loc": ("body", *each["loc"])} for each in error.value.errors()])


@pytest.mark.parametrize(
    ("error", "status", "code", "kind"),
    [
        (Rejected("lone_surrogate", "half"), 400, "lone_surrogate", "invalid_request_error"),
        (Unavailable("overloaded", "full", retry_after_s=0.3), 429, "overloaded", "server_error"),
        (Unavailable("no_bundle", "none"), 503, "no_bundle", "server_error"),
        (Rejected("bad_reading", "secret"), 500, "bad_reading", "server_error"),
        (Corrupt("part_digest", "secret"), 500, "part_digest", "server_error"),
        (RuntimeError("secret"), 500, "internal_error", "server_error"),
    ],
)
def test_the_class_of_an_error_decides_its_status(error, status, code, kind):
    refusal = refusal_of(error)
    assert (refusal.status, refusal.code, refusal.kind) == (status, code, kind)
    assert "secret" not in str(refusal.body)
    assert set(refusal.body["error"]) == {"message", "type", "param", "code"}


def test_a_busy_edge_says_when_to_ask_again_in_seconds_and_milliseconds():
    headers = refusal_of(Unavailable("overloaded", "full", retry_after_s=0.3)).headers
    assert headers == {"retry-after": "1", "retry-after-ms": "300"}
    assert refusal_of(Unavailable("no_bundle", "none")).headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("fields", "code", "param", "words"),
    [
        ({}, "missing_required_parameter", "prompt", "Missing required parameter: 'prompt'."),
        ({"prompt": "x", "temperature": "0.5"}, "invalid_type", "temperature", "expected a decimal, but got a string"),
        ({"prompt": "x", "temperature": True}, "invalid_type", "temperature", "but got a boolean"),
        ({"prompt": "x", "temperature": 2.1}, "decimal_above_max_value", "temperature", "Expected a value <= 2"),
        ({"prompt": "x", "n": 0}, "integer_below_min_value", "n", "Expected a value >= 1, but got 0 instead."),
        ({"prompt": "x", "max_tokens": 1.5}, "invalid_type", "max_tokens", "expected an integer, but got a decimal"),
        ({"prompt": "x", "stop": list("abcde")}, "array_above_max_length", "stop", "maximum length 4"),
        ({"prompt": "x", "stream_options": 1}, "invalid_type", "stream_options", "expected an object"),
        ({"prompt": None}, "invalid_type", "prompt", "but got null instead"),
        ({"prompt": "x", "temperature": float("nan")}, "invalid_value", "temperature", "finite"),
        ({"prompt": ["x", None]}, "invalid_type", "prompt[1]", "expected a string, but got null"),
        ({"prompt": [1, 2, "x"]}, "invalid_type", "prompt[2]", "expected an integer, but got a string"),
        ({"prompt": [[1], [2, 0.5]]}, "invalid_type", "prompt[1][1]", "expected an integer, but got a decimal"),
        ({"prompt": [[1], []]}, "array_below_min_length", "prompt[1]", "minimum length 1"),
        ({"prompt": ["x"] * 17}, "array_above_max_length", "prompt", "maximum length 16"),
        ({"prompt": [1] * 16_385}, "array_above_max_length", "prompt", "maximum length 16384"),
        ({"prompt": "x", "stop": ["", "y"]}, "string_below_min_length", "stop[0]", "minimum length 1"),
        ({"prompt": "x", "stop": ["y", 5]}, "invalid_type", "stop[1]", "expected a string, but got an integer"),
    ],
)
def test_a_field_that_does_not_fit_is_named_as_openai_names_it(fields, code, param, words):
    refusal = refused(CompletionRequest, **fields)
    assert (refusal.status, refusal.code, refusal.param) == (400, code, param)
    assert words in refusal.message


def test_a_place_inside_a_body_is_named_as_a_path():
    refusal = refused(ChatRequest, messages=[{"role": "user", "content": "x"}, {"role": "king", "content": "y"}])
    assert (refusal.code, refusal.param) == ("invalid_value", "messages[1].role")
    assert "Supported values are: 'system', 'developer', 'user'" in refusal.message
    refusal = refused(ChatRequest, messages=[{"role": "user", "content": [{"type": "text", "text": 7}]}])
    assert refusal.param.startswith("messages[0].content")


@pytest.mark.parametrize(
    ("content", "param", "words"),
    [
        (
            [{"type": "text", "text": "x"}, {"type": "text", "text": 5}],
            "[1].text",
            "expected a string, but got an integer",
        ),
        ([{"text": "x"}], "[0].type", "Missing required parameter"),
        (["x"], "[0]", "expected an object, but got a string"),
        (5, "", "expected a string, but got an integer"),
    ],
)
def test_what_is_wrong_inside_a_content_is_named_by_its_place(content, param, words):
    refusal = refused(ChatRequest, messages=[{"role": "user", "content": content}])
    assert refusal.param == f"messages[0].content{param}"
    assert words in refusal.message


@pytest.mark.parametrize(
    ("model", "field", "value"),
    [
        (CompletionRequest, "prompt", [{}] * 10_000),
        (CompletionRequest, "prompt", [[{}] * 1_000] * 16),
        (EmbeddingRequest, "input", [[{}] * 100] * 1_000),
        (ChatRequest, "messages", [{}] * 2_000),
        (ChatRequest, "messages", [{"role": "user", "content": [{}] * 10_000}]),
    ],
)
def test_however_much_of_a_body_is_wrong_few_complaints_are_made_of_it(model, field, value):
    with pytest.raises(ValidationError) as error:
        model.model_validate({"model": "constellation", field: value})
    assert error.value.error_count() <= 4


def test_what_is_shown_of_a_wrong_value_is_short():
    assert len(refused(CompletionRequest, prompt="x", n=-(10**300)).message) < 250


def test_a_body_that_is_no_json_object_has_no_parameter():
    for kind in ("json_invalid", "model_attributes_type"):
        refusal = invalid_fields([{"type": kind, "loc": ("body",), "msg": "", "input": "x"}])
        assert (refusal.status, refusal.code, refusal.param) == (400, None, None)


def test_unknown_addresses_and_methods_are_told_as_openai_does():
    assert not_found("POST", "/v1/x").message == "Invalid URL (POST /v1/x)"
    assert not_allowed("GET", "/v1/completions").message.startswith("Not allowed to GET on /v1/completions")
