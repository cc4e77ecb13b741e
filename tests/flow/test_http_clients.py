"""The clients people have: OpenAI's for Python and for Node, llm, curl, each as it comes, against an edge."""

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path

import openai
import pytest
from http_edge import standing

from common.runtime import api_keys
from common.runtime.api_keys import new_key
from common.runtime.settings import ApiSettings

pytestmark = pytest.mark.anyio
PROMPT = "The king spake"
KEY, SPENT = new_key(b"\1" * 32), new_key(b"\2" * 32)
NODE = Path(__file__).parent / "node"


@pytest.fixture(scope="module")
async def url(tmp_path_factory, micro_parts, eventually):
    """The base URL of an edge each of whose keys may ask a hundred times a minute."""
    keys = api_keys.add(api_keys.add((), "kiosk", KEY, now_s=1.0), "ship", SPENT, now_s=1.0)
    api = ApiSettings(api_per_minute=100)
    async with standing(tmp_path_factory.mktemp("clients"), micro_parts, eventually, api, keys) as http:
        yield str(http.base_url).rstrip("/") + "/v1"


@pytest.fixture
async def client(url):
    async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as one:
        yield one


async def run(*command, **environ):
    """What a command wrote; its exit code."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        env={**os.environ, **environ},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return out.decode(), process.returncode


async def test_openais_python_client_completes_whole_and_streamed(client):
    asked = {"model": "constellation", "prompt": PROMPT, "max_tokens": 5, "seed": 1}
    whole = await client.completions.create(**asked)
    stream = await client.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert chunks[-1].usage == whole.usage
    assert whole.constellation["bundle"] == 1
    assert whole._request_id.startswith("req_")


async def test_openais_python_client_chats_whole_and_streamed(client):
    asked = {"model": "constellation", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 5, "seed": 1}
    whole = await client.chat.completions.create(**asked)
    stream = await client.chat.completions.create(**asked, stream=True)
    deltas = [chunk.choices[0].delta async for chunk in stream]
    assert deltas[0].role == whole.choices[0].message.role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content


async def test_openais_python_client_puts_the_choices_of_a_stream_together(client):
    asked = {"model": "constellation", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 5, "seed": 1}
    whole = await client.chat.completions.create(**asked, n=4)
    async with client.chat.completions.stream(**asked, n=4) as stream:
        async for _ in stream:
            pass
        found = stream.current_completion_snapshot
    said = [(choice.index, choice.message.content) for choice in found.choices]
    assert said == [(choice.index, choice.message.content) for choice in whole.choices]


async def test_openais_python_client_gets_basins_and_models(client):
    found = await client.embeddings.create(model="constellation", input=[PROMPT, "sea"])  # it asks for base64
    assert [len(each.embedding) for each in found.data] == [64, 64]
    assert sum(found.data[0].embedding) == pytest.approx(1, abs=1e-5)
    assert "heart" in [model.id async for model in client.models.list()]


async def test_openais_python_client_raises_its_own_errors(client, url, monkeypatch):
    monkeypatch.setattr("common.runtime.rates.LOOK_TIMEOUT_S", 10.0)  # a busy machine counts late, and must count here
    for kind, fields in ((openai.NotFoundError, {"model": "gpt-9"}), (openai.BadRequestError, {"temperature": 9})):
        with pytest.raises(kind) as raised:
            await client.completions.create(**{"model": "constellation", "prompt": PROMPT} | fields)
        assert raised.value.param in ("model", "temperature")
    with pytest.raises(openai.AuthenticationError):
        await client.with_options(api_key="wrong").models.list()
    hasty = client.with_options(api_key=SPENT)
    limit = (await hasty.models.with_raw_response.list()).headers["x-ratelimit-limit-requests"]
    with pytest.raises(openai.RateLimitError):
        await asyncio.gather(*(hasty.models.list() for _ in range(int(limit))))


async def test_curl_reads_a_stream(url):
    body = json.dumps({"model": "constellation", "prompt": PROMPT, "max_tokens": 3, "stream": True})
    headers = [
        word for line in ("content-type: application/json", f"authorization: Bearer {KEY}") for word in ("-H", line)
    ]
    out, code = await run("curl", "-sN", f"{url}/completions", *headers, "-d", body)
    assert code == 0
    assert out.endswith("data: [DONE]\n\n")


async def test_llm_completes_and_chats(url, tmp_path):
    edge = {"model_name": "constellation", "api_base": url, "api_key_name": "edge"}
    models = [edge | {"model_id": "edge", "completion": True}, edge | {"model_id": "edge-chat"}]
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(models))  # JSON is YAML
    for model in ("edge", "edge-chat"):
        command = [sys.executable, "-m", "llm", "-m", model, "-n", "--key", KEY, "-o", "max_tokens", "5", PROMPT]
        streamed, code = await run(*command, LLM_USER_PATH=str(tmp_path))
        assert (code, bool(streamed.strip())) == (0, True), streamed
        whole, code = await run(*command, "--no-stream", LLM_USER_PATH=str(tmp_path))
        assert code == 0, whole


@pytest.mark.live
@pytest.mark.skipif(not shutil.which("npm"), reason="needs Node and npm")
async def test_openais_node_client_does_all_the_same(url, tmp_path):
    folder = tmp_path / "node"
    shutil.copytree(NODE, folder)
    out, code = await run("npm", "ci", "--prefix", folder, "--no-audit", "--no-fund")
    if code and "network" in out:
        pytest.skip(f"npm reaches no registry: {out[-300:]}")
    assert code == 0, out
    out, code = await run("node", folder / "client.mjs", url, KEY)
    assert code == 0, out
    seen = json.loads(out)
    assert seen["streamed"] == seen["whole"]
    assert seen["usage"]["completion_tokens"] == 5
    assert (seen["dimensions"], seen["models"][0]) == (64, "constellation")
    assert seen["error"] == {"kind": "NotFoundError", "status": 404, "code": "model_not_found"}
    assert seen["request"].startswith("req_")
