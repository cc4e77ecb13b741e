"""docs/reference in a real Chromium, from the disk: complete, and without a word to the network."""

import json
import re
from pathlib import Path

import pytest
from playwright.async_api import expect

pytestmark = [pytest.mark.live, pytest.mark.anyio]
DOCS = Path("docs").resolve()
FAULTS = "There are errors in your Asyncapi document"
BREAK = """() => {
  const root = document.body.appendChild(document.createElement("div"));
  AsyncApiStandalone.render({ schema: { ...described, info: {} }, config: { show: { errors: true } } }, root);
}"""


@pytest.fixture
async def opened(browser):
    """Open a page of docs/reference; at the end nothing has gone wrong, and nobody was asked."""
    page, asked, wrong = await browser.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))

    async def show(name):
        await page.goto((DOCS / "reference" / name).as_uri())
        return page

    yield show
    await page.close()
    assert wrong == []
    assert asked
    assert all(url.startswith("file:") for url in asked)


async def test_the_streams_are_all_shown_and_the_viewer_finds_no_fault(opened):
    page = await opened("asyncapi.html")
    described = json.loads((DOCS / "asyncapi.json").read_text(encoding="utf-8"))
    for name in described["operations"]:
        await expect(page.get_by_text(name, exact=True).first).to_be_attached()
    await expect(page.get_by_text(FAULTS)).to_have_count(0)
    await page.evaluate(BREAK)
    await expect(page.get_by_text(FAULTS)).to_be_attached()


async def test_the_routes_are_all_shown(opened):
    page = await opened("openapi.html")
    described = json.loads((DOCS / "openapi.json").read_text(encoding="utf-8"))
    for path in described["paths"]:
        await expect(page.get_by_text(path, exact=True).first).to_be_attached()
    for schema in ("CompletionRequest", "ChatRequest", "EmbeddingRequest", "Completion", "ErrorBody"):
        for field in described["components"]["schemas"][schema]["properties"]:
            await expect(page.get_by_text(re.compile(rf"^\s*{field}\W*$")).first).to_be_attached()
    await expect(page.get_by_text("recursive")).to_have_count(0)
