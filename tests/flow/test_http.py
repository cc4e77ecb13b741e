import asyncio
import base64
import json
import math
import threading
import time

import numpy as np
import pytest
from edge_fleet import Publisher, settings_of
from http_edge import COMPILED_S, edge_with_client, ready

from common.constants import ROLES
from common.errors import Rejected
from common.geometry.phases import phase_of
from common.runtime import metrics
from services.edge.http import routes
from services.edge.http.embeddings import Embedder

pytestmark = pytest.mark.anyio
PROMPT = "The king spake unto the people"
JSON = {"content-type": "application/json"}
HALF = rb'{"model": "constellation", "prompt": "half \ud800"}'


async def complete(http, **fields):
    return await http.post(
        "/v1/completions", json={"model": "constellation", "prompt": PROMPT, "max_tokens": 5} | fields
    )


def events(text):
    """The data of a stream's events."""
    return [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: ")]


async def test_a_completion_has_openais_fields_and_its_evidence(http):
    answer = await complete(http, seed=1)
    body = answer.json()
    assert answer.status_code == 200, body
    (choice,) = body["choices"]
    assert (body["object"], body["model"], body["system_fingerprint"]) == (
        "text_completion",
        "constellation",
        "bundle-1",
    )
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


async def chat(http, messages=({"role": "user", "content": PROMPT},), **fields):
    body = {"model": "constellation", "messages": list(messages), "max_tokens": 5}
    return await http.post("/v1/chat/completions", json=body | fields)


async def test_a_chat_answers_with_a_message_and_streams_deltas(http):
    whole = (await chat(http, seed=1)).json()
    message = whole["choices"][0]["message"]
    assert (whole["object"], message["role"], message["refusal"]) == ("chat.completion", "assistant", None)
    *chunks, done = events((await chat(http, seed=1, stream=True)).text)
    told = [json.loads(chunk) for chunk in chunks]
    assert done == "[DONE]"
    assert told[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in told) == message["content"]
    assert told[-1]["constellation"]["distances_rad"] == whole["constellation"]["distances_rad"]
    assert all("usage" not in c for c in told)


async def test_choices_are_told_apart_in_a_stream(http):
    answer = await complete(http, prompt=[PROMPT, "O sing again"], n=2, seed=3, stream=True)
    *chunks, _ = events(answer.text)
    told = [json.loads(chunk)["choices"][0] for chunk in chunks]
    whole = (await complete(http, prompt=[PROMPT, "O sing again"], n=2, seed=3)).json()
    texts = ["".join(c["text"] for c in told if c["index"] == index) for index in range(4)]
    assert texts == [choice["text"] for choice in whole["choices"]]
    assert len(set(texts)) == 4


async def test_a_role_answers_when_it_is_the_model(http):
    answer = await complete(http, model="heart")
    assert answer.json()["constellation"]["kernel"] == answer.headers["x-constellation-kernel"] == "heart"


async def test_an_embedding_is_the_texts_basin_in_either_form(http, micro):
    ids = micro.encoder.encode(PROMPT)
    basin = micro.basin(ids)
    for given in (PROMPT, ids.tolist(), [PROMPT], [ids.tolist()]):
        body = {"model": "constellation", "input": given}
        (found,) = (await http.post("/v1/embeddings", json=body)).json()["data"]
        assert np.allclose(found["embedding"], basin, atol=1e-7)
        body["encoding_format"] = "base64"
        (found,) = (await http.post("/v1/embeddings", json=body)).json()["data"]
        assert np.allclose(np.frombuffer(base64.b64decode(found["embedding"]), "<f4"), basin, atol=1e-7)


async def test_models_are_listed_and_found_by_name(http):
    listed = (await http.get("/v1/models")).json()
    assert [each["id"] for each in listed["data"]] == ["constellation", *ROLES]
    assert (await http.get("/v1/models/heart")).json() == listed["data"][-1]
    refused = (await http.get("/v1/models/gpt-9")).json()["error"]
    assert refused["code"] == "model_not_found"
    assert refused["message"].endswith("Models here: constellation, vocab, strategy, percept, heart.")


async def test_what_is_wrong_is_told_as_openai_does(http):
    wrong = [
        (await complete(http, model="gpt-9"), 404, "model_not_found", "model"),
        (await complete(http, temperature=3), 400, "decimal_above_max_value", "temperature"),
        (await complete(http, max_tokens=2000), 400, "integer_above_max_value", "max_tokens"),
        (await complete(http, logprobs=1), 400, "unsupported_parameter", "logprobs"),
        (await complete(http, prompt="x" * 20_000), 400, "context_length_exceeded", "prompt"),
        (await http.post("/v1/completions", content=HALF, headers=JSON), 400, "lone_surrogate", "prompt"),
        (await chat(http, tools=[{"type": "function"}]), 400, "unsupported_parameter", "tools"),
        (await chat(http, messages=[{"role": "king"}]), 400, "invalid_value", "messages[0].role"),
        (await http.post("/v1/completions", content=b"{", headers=JSON), 400, None, None),
        (await http.post("/v1/completions", content=b'{"prompt": "\xff"}', headers=JSON), 400, None, None),
        (await http.get("/v1/completions"), 405, "method_not_supported", None),
        (await http.get("/v1/nowhere"), 404, "unknown_url", None),
        (await http.post("/v1/completions", content=b" " * (2 << 20)), 413, "request_too_large", None),
    ]
    for answer, status, code, param in wrong:
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (status, code, param), error
        assert error["type"] == "invalid_request_error"
        assert answer.headers["x-request-id"]
    assert wrong[10][0].headers["allow"] == "POST"
    assert all("could not parse the JSON body" in answer.json()["error"]["message"] for answer, *_ in wrong[8:10])


@pytest.mark.parametrize("header", [{}, {"content-type": "application/x-www-form-urlencoded"}])
async def test_a_body_that_no_header_calls_json_is_told_which_header_is_missing(http, header):
    body = json.dumps({"model": "constellation", "prompt": PROMPT}).encode()
    answer = await http.post("/v1/completions", content=body, headers=header)
    assert answer.status_code == 400
    assert "header content-type: application/json is missing" in answer.json()["error"]["message"]
    assert (await http.post("/v1/completions", content=body, headers=JSON)).status_code == 200


async def test_a_request_keeps_a_sane_id_of_its_own(http):
    given = await http.get("/v1/models", headers={"x-request-id": "mine-7"})
    assert given.headers["x-request-id"] == "mine-7"
    given = await http.get("/v1/models", headers={"x-request-id": "no such\tthing"})
    assert given.headers["x-request-id"].startswith("req_")


async def test_an_interaction_is_judged_and_forgotten_by_its_client(http):
    name = (await complete(http)).json()["id"]
    for accept in (True, False, None):
        told = await http.post(f"/v1/interactions/{name}/feedback", json={"accept": accept})
        assert (told.status_code, told.json()["accept"]) == (200, accept)
    gone = await http.delete(f"/v1/interactions/{name}?client=http")
    assert (gone.status_code, gone.json()["counts"], gone.json()["deleted"]) == (200, "none", True)
    for again in (
        await http.delete(f"/v1/interactions/{name}"),
        await http.post(f"/v1/interactions/{name}/feedback", json={"accept": True}),
        await http.delete(f"/v1/interactions/{(await complete(http, store=False)).json()['id']}"),
    ):
        assert (again.status_code, again.json()["error"]["code"]) == (404, "unknown_interaction")


async def test_every_prompt_of_a_request_is_judged_and_forgotten_with_it(http):
    body = (await complete(http, prompt=[PROMPT, "O sing again", "and again"], n=2)).json()
    kept = [body["id"], f"{body['id']}-2", f"{body['id']}-4"]
    told = await http.post(f"/v1/interactions/{body['id']}/feedback", json={"accept": False})
    assert told.status_code == 200
    assert (await http.delete(f"/v1/interactions/{body['id']}")).json()["counts"] == "none"
    assert [(await http.delete(f"/v1/interactions/{name}")).status_code for name in kept] == [404] * 3


async def test_a_prompt_is_kept_once_however_many_choices_it_has(http):
    name = (await complete(http, n=2)).json()["id"]
    assert (await http.delete(f"/v1/interactions/{name}")).status_code == 200
    assert (await http.delete(f"/v1/interactions/{name}-1")).status_code == 404


async def test_an_edge_without_a_bundle_says_when_to_ask_again(tmp_path, broker_url, redis, eventually):
    async with edge_with_client(settings_of(tmp_path, broker_url)) as http:
        await eventually(lambda: listed(http))
        answer = await complete(http)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_bundle")
        assert answer.headers["retry-after"] == "1"
        assert not await ready(http)


async def test_an_edge_that_is_full_says_when_to_ask_again(http, monkeypatch):
    monkeypatch.setattr("services.edge.scheduler.Turns.add", lambda *_: False)
    answer = await complete(http)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "overloaded")
    assert int(answer.headers["retry-after"]) >= 1
    assert int(answer.headers["retry-after-ms"]) >= 1


async def test_a_kernel_that_has_diverged_is_our_fault_and_is_logged(http, monkeypatch, caplog):
    async def diverged(*_):
        phase_of(math.nan, None, None)

    monkeypatch.setattr(routes, "answers", diverged)
    answer = await complete(http)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "bad_reading")
    assert "kappa" not in answer.text
    assert f"request {answer.headers['x-request-id']} failed: bad_reading: kappa nan" in caplog.text


async def test_embeddings_hold_up_no_answer_and_those_that_would_wait_too_many_are_refused(
    http, monkeypatch, eventually
):
    embed, began, go_on = routes.embeddings, threading.Event(), threading.Event()

    def slow(*args):
        began.set()
        assert go_on.wait(10)
        return embed(*args)

    def start():
        body = {"model": "constellation", "input": PROMPT}
        return asyncio.create_task(http.post("/v1/embeddings", json=body))

    monkeypatch.setattr(routes, "embeddings", slow)
    monkeypatch.setattr("services.edge.http.embeddings.WAITING_MAX", 1)
    running = start()
    await eventually(began.is_set)
    (refused,), (waiting,) = await asyncio.wait({start(), start()}, return_when=asyncio.FIRST_COMPLETED)
    answer = refused.result()
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "overloaded")
    assert answer.headers["retry-after"] == "1"
    assert (await complete(http)).status_code == 200
    go_on.set()
    assert [(await each).status_code for each in (running, waiting)] == [200, 200]


async def test_embeddings_that_nobody_waits_for_any_more_are_not_begun(http, monkeypatch, eventually):
    arrived, began, go_on, run = [], [], threading.Event(), Embedder.run

    def counted(*args):
        arrived.append(args)
        return run(*args)

    def slow(*args):
        began.append(args)
        assert go_on.wait(10)
        raise Rejected("wrong", "it is")

    def start():
        body = {"model": "constellation", "input": PROMPT}
        return asyncio.create_task(http.post("/v1/embeddings", json=body))

    def closed():
        labels = {"route": "/v1/embeddings", "status": "4xx"}
        return metrics.REGISTRY.get_sample_value("qig_http_requests_total", labels) or 0

    monkeypatch.setattr(routes, "embeddings", slow)
    monkeypatch.setattr(Embedder, "run", counted)
    before = closed()
    running = start()
    await eventually(lambda: began)
    left = [start() for _ in range(3)]
    await eventually(lambda: len(arrived) == 4)
    for each in left:
        each.cancel()
    await eventually(lambda: closed() == before + 3)
    go_on.set()
    assert (await running).status_code == 400
    assert len(began) == 1


@pytest.fixture
def endless(http, monkeypatch):
    """Answers that never end by themselves: whether one was begun, and how many of them were cancelled."""
    begun = threading.Event()

    def go_on(generation, _):
        if generation.query.client == "proof":
            generation.finish = "stop"
            return ""
        time.sleep(0.001)
        begun.set()
        return "on and "

    def cancelled():
        return metrics.REGISTRY.get_sample_value("qig_queries_total", {"outcome": "cancelled"}) or 0

    monkeypatch.setattr("services.edge.generation.Generation.say", go_on)
    return begun.is_set, cancelled


async def test_a_client_that_no_longer_waits_for_an_answer_ends_it(http, endless, eventually):
    begun, cancelled = endless
    before = cancelled()
    answering = asyncio.create_task(complete(http))
    await eventually(begun)
    answering.cancel()
    await eventually(lambda: cancelled() > before)
    assert cancelled() == before + 1


async def test_a_client_that_leaves_a_stream_ends_it(http, endless, eventually):
    _, cancelled = endless
    before = cancelled()
    body = {"model": "constellation", "prompt": PROMPT, "stream": True}
    async with http.stream("POST", "/v1/completions", json=body) as answer:
        assert answer.headers["x-constellation-kernel"]
        assert "on and" in await anext(answer.aiter_lines())
    await eventually(lambda: cancelled() == before + 1)


async def test_a_stop_lets_what_is_being_answered_end(
    tmp_path, broker, broker_url, micro_parts, eventually, monkeypatch
):
    began, go_on = threading.Event(), threading.Event()

    def slow(generation, _):
        if generation.query.client == "proof":  # an edge's own question
            generation.finish = "stop"
            return ""
        if not began.is_set():
            began.set()
            return "first "
        assert go_on.wait(10)
        generation.text, generation.finish = "first last", "stop"
        return "last"

    await Publisher(broker, (settings := settings_of(tmp_path, broker_url)).home).release(micro_parts)
    async with edge_with_client(settings) as http:
        await eventually(lambda: ready(http), COMPILED_S)
        monkeypatch.setattr("services.edge.generation.Generation.say", slow)
        answering = asyncio.create_task(complete(http))
        await eventually(began.is_set)
        http.stopping.set()
        await eventually(lambda: away(http))
        go_on.set()
        assert (await answering).json()["choices"][0]["text"] == "first last"


async def away(http):
    answer = await http.get("/v1/models")
    return (answer.status_code, answer.json().get("error", {}).get("code")) == (503, "away")


async def test_requests_are_counted_by_route_and_status(http):
    def counted(**labels):
        return metrics.REGISTRY.get_sample_value("qig_http_requests_total", labels) or 0

    before = counted(route="/v1/models/{name}", status="2xx"), counted(route="other", status="4xx")
    await http.get("/v1/models/heart")
    await http.get("/v1/nowhere")
    assert counted(route="/v1/models/{name}", status="2xx") == before[0] + 1
    assert counted(route="other", status="4xx") == before[1] + 1
    assert metrics.REGISTRY.get_sample_value("qig_http_refused_total", {"code": "unknown_url"}) >= 1


async def listed(http):
    return (await http.get("/v1/models")).status_code == 200
