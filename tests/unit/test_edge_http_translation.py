"""Requests to queries, answers to OpenAI's objects: exact fields."""

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from common.wire.fields import MAX_COUNT
from common.wire.inference import Answer, RouteStep
from services.edge.http.asking import choice_ids
from services.edge.http.chat import ChatRequest, ChatShape, chat_queries
from services.edge.http.completions import CompletionRequest, CompletionShape, completion_queries, prompt_texts
from services.edge.http.embeddings import EmbeddingRequest, embeddings
from services.edge.http.errors import Refusal
from services.edge.http.evidence import evidence
from services.edge.http.shape import Head

HEAD = Head("cmpl-1", 1_790_000_000, "constellation", 3)
ROUTE = (
    RouteStep(domain="heart", kernel="heart", distance_rad=0.5, weight=0.9),
    RouteStep(domain="vocab", kernel="vocab", distance_rad=0.75, weight=0.1),
)


def answer(text="the sea", finish="length", **fields):
    fixed = {
        "query_id": "cmpl-1", "client": "http", "node": "node-1", "bundle": 4, "text": text, "finish": finish,
        "prompt_tokens": 5, "completion_tokens": 3, "route": ROUTE, "margin_rad": 0.25, "kernel": "heart",
        "domain": "heart", "phi": 0.8, "phi_p": 0.001, "kappa": 55.0, "phase": "CRYSTAL", "seconds": 0.125,
    }  # fmt: skip
    return Answer(**(fixed | fields))


EVIDENCE = {
    "kernel": "heart", "domain": "heart", "distances_rad": {"heart": 0.5, "vocab": 0.75}, "margin_rad": 0.25,
    "abstained": False, "phi": 0.8, "phi_p": 0.001, "constellation_phi": None, "constellation_phi_p": None,
    "kappa": 55.0, "phase": "CRYSTAL", "bundle": 4, "node": "node-1", "seconds": 0.125,
}  # fmt: skip
ABOUT = {"id": "cmpl-1", "created": 1_790_000_000, "model": "constellation"}
USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}


def completion(**fields):
    return CompletionRequest.model_validate({"model": "constellation", "prompt": "x"} | fields)


def chat(*messages, **fields):
    listed = [{"role": role, "content": content} for role, content in messages or [("user", "x")]]
    return ChatRequest.model_validate({"model": "constellation", "messages": listed} | fields)


def asked(request, texts=("x",)):
    return completion_queries(request, texts, name="cmpl-1", client="kiosk")


def chat_asked(request):
    return chat_queries(request, name="chatcmpl-1", client="kiosk")


# Requests


def test_what_is_not_said_is_a_querys_own_default():
    (query,) = asked(completion())
    assert (query.id, query.client, query.text, query.mode, query.max_tokens) == ("cmpl-1", "kiosk", "x", "routed", 16)
    assert (query.temperature, query.top_p, query.stop, query.seed, query.store) == (0.8, 1.0, (), None, True)
    assert chat_asked(chat())[0].max_tokens == 1024  # until it ends by itself


def test_what_is_said_reaches_the_query():
    fields = {"temperature": 0, "top_p": 0.5, "seed": 7, "max_tokens": 9, "stream": True, "store": False}
    (query,) = asked(completion(model="heart", stop=["a", "b"], **fields))
    assert (query.temperature, query.top_p, query.seed, query.max_tokens) == (0.0, 0.5, 7, 9)
    assert (query.mode, query.stop, query.stream, query.store) == ("heart", ("a", "b"), True, False)
    assert asked(completion(stop="a"))[0].stop == ("a",)


@pytest.mark.parametrize(
    ("model", "mode", "asked_for"),
    [
        ("constellation", None, "routed"),
        ("constellation", "routed", "routed"),
        ("constellation", "constellation", "constellation"),
        ("vocab", None, "vocab"),
    ],
)
def test_the_model_is_the_router_or_a_kernel_and_the_mode_asks_for_all_four(model, mode, asked_for):
    assert asked(completion(model=model, mode=mode))[0].mode == asked_for


@pytest.mark.parametrize("mode", ["routed", "constellation"])
def test_a_pinned_kernel_takes_no_mode(mode):
    with pytest.raises(Refusal) as caught:
        asked(completion(model="heart", mode=mode))
    assert (caught.value.status, caught.value.body["error"]["param"]) == (400, "mode")


def test_null_is_as_good_as_absent():
    names = ("n", "stop", "seed", "temperature", "top_p", "stream", "stream_options", "store", "max_tokens", "echo")
    nothing = dict.fromkeys((*names, "logprobs", "tools", "best_of"))
    assert asked(completion(**nothing)) == asked(completion())


def test_seeds_of_any_sign_and_size_are_taken_and_a_top_p_of_0_is_greedy():
    assert asked(completion(seed=-1))[0].seed == MAX_COUNT
    assert asked(completion(seed=1 << 63))[0].seed == (1 << 63) % (MAX_COUNT + 1)
    assert 0 < asked(completion(top_p=0))[0].top_p < 1e-300


def test_choices_of_one_seed_differ_and_teach_once():
    queries = asked(completion(n=2, seed=5), ["a", "b"])
    assert [(q.id, q.text, q.seed, q.store) for q in queries] == [
        ("cmpl-1", "a", 5, True), ("cmpl-1-1", "a", 6, False), ("cmpl-1-2", "b", 5, True), ("cmpl-1-3", "b", 6, False),
    ]  # fmt: skip


def test_sixteen_choices_are_the_most_of_one_request():
    assert len(asked(completion(n=8), ["a", "b"])) == 16
    with pytest.raises(Refusal, match="at most 16 choices"):
        asked(completion(n=6), ["a", "b", "c"])


@pytest.mark.parametrize("kind", ["cmpl", "chatcmpl"])
def test_a_request_names_all_its_choices_and_another_name_only_itself(kind):
    name = f"{kind}-{'0a' * 12}"
    made = completion_queries(completion(n=8), ["a", "b"], name=name, client="kiosk")
    assert choice_ids(name) == [query.id for query in made]
    for own in (f"{name}-1", f"{name}0", "cmpl-1", "q1", ""):
        assert choice_ids(own) == [own]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function"}]), ("functions", [{}]), ("tool_choice", "required"),
        ("response_format", {"type": "json_object"}), ("logprobs", 0), ("logprobs", True), ("logit_bias", {"1": 2}),
        ("presence_penalty", 0.1), ("frequency_penalty", -1), ("best_of", 2), ("suffix", "end"),
        ("modalities", ["text", "audio"]), ("audio", {}), ("prediction", {}), ("web_search_options", {}),
    ],
)  # fmt: skip
def test_what_kernels_do_not_do_is_refused_by_name(name, value):
    with pytest.raises(Refusal) as refused:
        asked(completion(**{name: value}))
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, "unsupported_parameter", name)


def test_a_field_that_asks_for_nothing_and_one_nobody_knows_are_ignored():
    nothing = {"tools": [], "tool_choice": "auto", "response_format": {"type": "text"}, "logprobs": False, "best_of": 1}
    assert asked(completion(**nothing, presence_penalty=0.0, user="me", whatever={"a": 1})) == asked(completion())


def test_anothers_model_is_not_found():
    with pytest.raises(Refusal) as refused:
        asked(completion(model="gpt-9"))
    assert (refused.value.status, refused.value.code) == (404, "model_not_found")


def test_a_prompt_has_four_forms(micro):
    encoder = micro.encoder
    ids = encoder.encode("The king").tolist()
    assert prompt_texts("The king", encoder) == prompt_texts(ids, encoder) == ["The king"]
    assert prompt_texts(["The king", "b"], encoder) == prompt_texts([ids, encoder.encode("b").tolist()], encoder)


@pytest.mark.parametrize("prompt", [[-1], [1 << 40], [255]])
def test_tokens_that_are_no_text_of_the_coordizer_are_refused(micro, prompt):
    with pytest.raises(Refusal) as refused:
        prompt_texts(prompt, micro.encoder)
    assert refused.value.code == "invalid_tokens"


def test_a_text_has_at_least_one_character_and_at_most_a_querys(micro):
    assert prompt_texts("x" * 16_384, micro.encoder)
    with pytest.raises(Refusal, match="has 16385"):
        prompt_texts("x" * 16_385, micro.encoder)
    for blank in ("", "   ", "\n\t"):
        with pytest.raises(Refusal, match="holds no text"):
            prompt_texts(["a", blank], micro.encoder)


def refusal_of(make, *given):
    """The body that a client is sent, which UTF-8 can say."""
    with pytest.raises(Refusal) as refused:
        make(*given)
    json.dumps(refused.value.body, ensure_ascii=False).encode()
    return refused.value


@given(st.text(max_size=5), st.characters(categories=["Cs"]), st.text(max_size=5))
def test_half_a_character_is_refused_wherever_a_text_is_read_and_is_never_sent_back(micro, before, half, after):
    text = before + half + after
    part = [{"type": "text", "text": text}]
    refused = [
        refusal_of(prompt_texts, text, micro.encoder),
        refusal_of(prompt_texts, ["a", text], micro.encoder),
        refusal_of(chat_asked, chat(("user", text))),
        refusal_of(chat_asked, chat(("system", "a"), ("user", part))),
        refusal_of(embeddings, EmbeddingRequest(model="heart", input=text), micro),
        refusal_of(embeddings, EmbeddingRequest(model="heart", input=["a", text]), micro),
    ]
    assert [(each.status, each.code) for each in refused] == [(400, "lone_surrogate")] * 6
    assert [each.param for each in refused] == ["prompt", "prompt", "messages", "messages", "input", "input"]
    assert f"character {len(before)} is {half!a}" in refused[0].message
    assert refusal_of(chat_asked, chat(("user", [{"type": text}]))).code == "unsupported_content"


def test_a_whole_character_beyond_16_bits_is_a_text(micro):
    assert prompt_texts("\U0001f600", micro.encoder) == ["\U0001f600"]


def test_messages_stand_one_after_the_other():
    parts = [{"type": "text", "text": "of the "}, {"type": "text", "text": "sea"}]
    (query,) = chat_asked(chat(("system", "Speak"), ("user", parts), ("user", None), ("user", "")))
    assert (query.text, query.store) == ("Speak\n\nof the sea", True)


def test_a_conversation_in_which_an_assistant_has_spoken_teaches_nothing():
    (query,) = chat_asked(chat(("user", "a"), ("assistant", "b"), ("user", "c")))
    assert (query.text, query.store) == ("a\n\nb\n\nc", False)


def test_the_newer_name_of_max_tokens_goes_first():
    assert chat_asked(chat(max_tokens=5))[0].max_tokens == 5
    assert chat_asked(chat(max_tokens=5, max_completion_tokens=6))[0].max_tokens == 6


@pytest.mark.parametrize(
    ("message", "code", "param"),
    [
        ({"role": "tool", "content": "7"}, "unsupported_parameter", "messages[0]"),
        ({"role": "assistant", "tool_calls": [{}]}, "unsupported_parameter", "messages[0]"),
        ({"role": "assistant", "function_call": {"name": "f"}}, "unsupported_parameter", "messages[0]"),
        ({"role": "assistant", "audio": {"id": "a"}}, "unsupported_parameter", "messages[0].audio"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "unsupported_content", "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": "text"}]}, "missing_required_parameter", "messages[0].content[0].text"),
        ({"role": "user", "content": ""}, "empty_text", "messages"),
        ({"role": "user", "content": "   "}, "empty_text", "messages"),
    ],
)
def test_messages_that_are_no_text_are_refused(message, code, param):
    request = ChatRequest.model_validate({"model": "constellation", "messages": [message]})
    with pytest.raises(Refusal) as refused:
        chat_asked(request)
    assert (refused.value.code, refused.value.param) == (code, param)


# Answers


def test_a_whole_completion_has_exactly_these_fields():
    choice = {"text": "the sea", "index": 0, "logprobs": None, "finish_reason": "length"}
    whole = CompletionShape(HEAD, completion(), ["x"]).whole([answer()])
    assert whole == ABOUT | {
        "object": "text_completion", "system_fingerprint": "bundle-4", "choices": [choice], "usage": USAGE,
        "constellation": EVIDENCE,
    }  # fmt: skip
    assert Completion.model_validate(whole, strict=True)


def test_the_chunks_of_a_completion_have_exactly_these_fields():
    shape = CompletionShape(HEAD, completion(stream_options={"include_usage": True}), ["x"])
    choice = {"text": "the", "index": 0, "logprobs": None, "finish_reason": None}
    about = ABOUT | {"object": "text_completion"}
    assert shape.begin() == []
    assert shape.piece(0, "the") == about | {"system_fingerprint": "bundle-3", "choices": [choice], "usage": None}
    assert shape.end(0, answer(finish="stop")) == about | {
        "system_fingerprint": "bundle-4", "choices": [choice | {"text": "", "finish_reason": "stop"}], "usage": None,
        "constellation": EVIDENCE,
    }  # fmt: skip
    assert shape.usage([answer()]) == about | {"system_fingerprint": "bundle-3", "choices": [], "usage": USAGE}


def test_an_echo_gives_the_prompt_back_before_its_continuation():
    shape = CompletionShape(HEAD, completion(echo=True, n=2), ["Of ", "By "])
    texts = [choice["text"] for choice in shape.whole([answer()] * 4)["choices"]]
    assert texts == ["Of the sea", "Of the sea", "By the sea", "By the sea"]
    begun = [chunk["choices"][0] for chunk in shape.begin()]
    assert [(choice["index"], choice["text"]) for choice in begun] == [(0, "Of "), (1, "Of "), (2, "By "), (3, "By ")]


def test_each_of_several_choices_has_its_evidence_and_a_prompt_is_counted_once():
    whole = CompletionShape(HEAD, completion(n=2), ["x"]).whole([answer(), answer(kernel="vocab")])
    assert "constellation" not in whole
    assert [choice["constellation"]["kernel"] for choice in whole["choices"]] == ["heart", "vocab"]
    assert whole["usage"] == {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}


def test_a_probability_is_never_told_as_0():
    told = evidence(answer(phi_p=0.0, constellation_phi=0.9, constellation_phi_p=0.0))
    assert (told["phi_p"], told["constellation_phi_p"]) == (sys.float_info.min, sys.float_info.min)
    assert evidence(answer(phi_p=None))["phi_p"] is None


def test_a_prompt_that_was_only_read_ends_for_length():
    whole = CompletionShape(HEAD, completion(max_tokens=0), ["x"]).whole([answer("", "read", completion_tokens=0)])
    assert (whole["choices"][0]["finish_reason"], whole["choices"][0]["text"]) == ("length", "")


def test_a_whole_chat_has_exactly_these_fields():
    message = {"role": "assistant", "content": "the sea", "refusal": None, "annotations": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    whole = ChatShape(HEAD, chat()).whole([answer(finish="stop")])
    assert whole == ABOUT | {
        "object": "chat.completion", "system_fingerprint": "bundle-4", "choices": [choice], "usage": USAGE,
        "constellation": EVIDENCE,
    }  # fmt: skip
    assert ChatCompletion.model_validate(whole, strict=True)


def test_the_chunks_of_a_chat_have_exactly_these_fields():
    shape = ChatShape(HEAD, chat())
    about = ABOUT | {"object": "chat.completion.chunk", "system_fingerprint": "bundle-3"}
    choice = {"index": 0, "delta": {"content": "the"}, "logprobs": None, "finish_reason": None}
    role = {"role": "assistant", "content": "", "refusal": None}
    (begun,) = shape.begin()
    assert begun == about | {"choices": [choice | {"delta": role}]}
    assert shape.piece(0, "the") == about | {"choices": [choice]}
    end = shape.end(0, answer())
    assert end["choices"] == [choice | {"delta": {}, "finish_reason": "length"}]
    assert end["constellation"] == EVIDENCE
    assert shape.usage([answer()]) is None
    assert all(ChatCompletionChunk.model_validate(each, strict=True) for each in (begun, end))
