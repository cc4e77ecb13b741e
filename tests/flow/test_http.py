import json

import pytest
from edge_fleet import Publisher, settings_of
from http_edge import edge_with_client, ready

pytestmark = pytest.mark.anyio
PROMPT = "The king spake unto the people"


@pytest.fixture
async def http(tmp_path, broker, broker_url, micro_parts, eventually):
    """A client of an edge that serves bundle 1."""
    settings = settings_of(tmp_path, broker_url)
    await Publisher(broker, tmp_path).release(micro_parts)
    async with edge_with_client(settings) as client:
        await eventually(lambda: ready(client))
        yield client


async def complete(http, **fields):
    return await http.post("/v1/completions", json={"model": "routed", "prompt": PROMPT, "max_tokens": 5} | fields)


def events(text):
    """The data of a stream's events."""
    return [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: ")]


async def test_a_completion_has_openais_fields_and_its_evidence(http):
    answer = await complete(http, seed=1)
    body = answer.json()
    assert answer.status_code == 200, body
    (choice,) = body["choices"]
    assert (body["object"], body["model"], body["system_fingerprint"]) == ("text_completion", "routed", "bundle-1")
    assert (choice["index"], choice["logprobs"], choice["finish_reason"]) == (0, None, "length")
    assert choice["text"]
    assert body["usage"]["completion_tokens"] == 5
    assert body["constellation"]["kernel"] == answer.headers["x-constellation-kernel"]
    assert answer.headers["x-request-id"].startswith("req_")


async def test_a_streamed_completion_says_the_same_as_a_whole_one(http):
    whole = (await complete(http, seed=1)).json()
    answer = await complete(http, seed=1, stream=True, stream_options={"include_usage": True})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    *chunks, done = events(answer.text)
    told = [json.loads(chunk) for chunk in chunks]
    assert done == "[DONE]"
    assert "".join(c["choices"][0]["text"] for c in told[:-1]) == whole["choices"][0]["text"]
    assert told[-1]["usage"] == whole["usage"]
    assert [c["usage"] for c in told[:-1]] == [None] * (len(told) - 1)
    assert told[-2]["choices"][0]["finish_reason"] == "length"
