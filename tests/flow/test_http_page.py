"""The live page in a real Chromium, beside a real edge and a real broker that are killed."""

import asyncio
import json
import os
import re
import signal
import sys
import time
from contextlib import asynccontextmanager

import pytest
from edge_fleet import NODE, Publisher, settings_of
from playwright.async_api import expect

from common.constants import PHI_MIN_TRANSITIONS, ROLES
from common.errors import Unavailable
from common.runtime import embedded
from common.runtime.broker import Broker
from common.runtime.connection import connect
from common.wire.fields import QUERY_MAX_CHARS
from services.cli import probe
from services.edge.live import Live

pytestmark = [pytest.mark.live, pytest.mark.anyio]
PHONE = {"width": 390, "height": 844}
SOON_MS = 20_000
LINES = """(id) => {
  const canvas = document.querySelector(`#${id} canvas`);
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const painted = new Set();
  for (let i = 0; i < data.length; i += 4) painted.add((data[i] << 16) | (data[i + 1] << 8) | data[i + 2]);
  const style = getComputedStyle(document.documentElement);
  const colour = (kernel) => parseInt(style.getPropertyValue(`--${kernel}`).trim().slice(1), 16);
  return ["vocab", "strategy", "percept", "heart"].filter((kernel) => painted.has(colour(kernel)));
}"""  # the kernels whose colour is on a chart
ROOM = "(rows) => [rows.parentElement.scrollWidth, rows.closest('.scroll').clientWidth]"
INK = """(kernel) => {
  const canvas = document.querySelector("#kappa canvas");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const style = getComputedStyle(document.documentElement);
  const colour = parseInt(style.getPropertyValue(`--${kernel}`).trim().slice(1), 16);
  let painted = 0;
  for (let i = 0; i < data.length; i += 4) painted += ((data[i] << 16) | (data[i + 1] << 8) | data[i + 2]) === colour;
  return painted;
}"""  # how many pixels of the chart of κ have the colour of a kernel
LISTEN = """() => {
  window.seen = new Set();
  const said = document.getElementById("answer");
  new MutationObserver(() => window.seen.add(said.textContent.length)).observe(said, { childList: true });
}"""


class World:
    """A broker and an edge of our own, to be killed and started again on their ports."""

    def __init__(self, home):
        self.home = home
        self.port = probe.free_port("127.0.0.1")
        self.url = f"http://127.0.0.1:{self.port}/"
        self.broker = embedded.start(home / "broker")
        self.edge = None

    async def start_edge(self):
        environ = {
            "QIG_BROKER_URL": self.broker.url, "QIG_HOME": str(self.home), "QIG_NODE": NODE,
            "QIG_HTTP_PORT": str(self.port),
        }  # fmt: skip
        self.edge = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.edge.app", env={**os.environ, **environ}, stderr=asyncio.subprocess.DEVNULL
        )

    async def is_ready(self):
        try:
            return await probe.why_not_ready(self.url.rstrip("/")) is None
        except Unavailable:
            return False

    async def kill_edge(self):
        self.edge.kill()
        await self.edge.wait()

    async def kill_broker(self):
        os.kill(self.broker.pid, signal.SIGKILL)
        await asyncio.to_thread(self.broker.process.wait)

    async def restart_broker(self):
        port = int(self.broker.url.rpartition(":")[2])
        self.broker = await asyncio.to_thread(embedded.start, self.home / "broker", port)


@pytest.fixture(scope="module")
async def world(tmp_path_factory, micro_parts):
    made = World(tmp_path_factory.mktemp("page"))
    settings_of(made.home, made.broker.url)
    async with connect(made.broker.url) as redis:
        await Publisher(Broker(redis), made.home).release(micro_parts)
    await made.start_edge()
    yield made
    await made.kill_edge()
    await asyncio.to_thread(made.broker.stop)


@asynccontextmanager
async def opened(browser, world, eventually, **how):
    """The page, ready to be asked, in a window of its own; at its end it had no error and asked nothing of others."""
    wrong = []
    async with await browser.new_context(**how) as window:
        page = await window.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda sent: None if sent.url.startswith(world.url) else wrong.append(sent.url))
        page.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
        await eventually(world.is_ready, 60.0)
        await page.goto(world.url)
        yield page
    assert wrong == []


async def ask(page, text):
    await page.locator("#text").fill(text)
    await page.locator("#send").click()
    await expect(page.locator("#how")).to_be_visible(timeout=SOON_MS)
    await expect(page.locator("#send")).to_be_enabled(timeout=SOON_MS)


async def test_an_answer_streams_in(browser, world, eventually):
    async with opened(browser, world, eventually) as page:
        await page.evaluate(LISTEN)
        await page.locator("#tokens").fill("1000")
        seen = []
        while (
            max(seen, default=0) <= 2 and len(seen) < 8
        ):  # made in a tenth of a second: a busy browser reads it at once
            await page.evaluate("window.seen.clear()")
            await ask(page, "The whale rose beside the boat and")
            seen.append(await page.evaluate("window.seen.size"))
        assert max(seen) > 2, seen


async def test_an_answer_has_its_route_its_state_its_curves_and_its_place(browser, world, eventually):
    async with opened(browser, world, eventually) as page:
        await ask(page, "The whale rose beside the boat and")
        assert await page.locator("#route li").count() == 4
        assert await page.locator("#route .chosen").count() == 1
        kernel = await page.locator("#figures dd").first.inner_text()
        await expect(page.locator(f"#kernels tr:has-text('{kernel}')")).not_to_contain_text("none yet", timeout=SOON_MS)
        await expect(page.locator("#map .home")).to_have_count(4)
        await expect(page.locator("#map .here")).to_have_count(1)
        await ask(page, "Congress should plan the budget")
        await expect(page.locator("#map .step")).to_have_count(1)
        await page.wait_for_timeout(1500)  # the browser's own clock: a frame after the next second
        assert kernel in await page.evaluate(LINES, "kappa")
        await expect(page.locator("#streams tr")).to_have_count(4)
        await expect(page.locator("#fleet")).to_contain_text(NODE, timeout=SOON_MS)
        await expect(page.locator("#bundles")).to_contain_text(f"{NODE}: applied")


async def test_where_a_key_is_asked_for_the_page_asks_for_it_and_sends_it(browser, world, eventually):
    sent = []

    async def guarded(route):
        sent.append(await route.request.header_value("authorization"))
        if sent[-1] is None:
            refusal = {"error": {"message": "You didn't provide an API key.", "code": "invalid_api_key"}}
            await route.fulfill(status=401, json=refusal)
        else:
            await route.continue_()

    async with opened(browser, world, eventually) as page:
        await page.route("**/v1/completions", guarded)
        await page.locator("#send").click()
        await expect(page.locator("#problem")).to_contain_text("put the key in the field above")
        await expect(page.locator("#key")).to_be_focused()
        await page.keyboard.type("secret")
        await page.keyboard.press("Enter")
        await expect(page.locator("#how")).to_be_visible(timeout=SOON_MS)
        assert sent == [None, "Bearer secret"]


FIRST_MOMENT = """async (at_s) => {
    const { drawBundles, drawFleet } = await import("/page/tables.js");
    const told = { broker: { at_s }, services: [], bundles: [], applied: [], limits: { kept_s: 900, silent_s: 10 } };
    drawBundles(told, 0);
    drawFleet(told, 0);
    return ["bundles", "fleet"].map((id) => document.getElementById(id).textContent);
}"""


async def test_before_the_broker_was_looked_at_nothing_is_said_to_be_missing(browser, world, eventually):
    async with opened(browser, world, eventually) as page:
        assert await page.evaluate(FIRST_MOMENT, 0) == ["not read yet"] * 2
        assert await page.evaluate(FIRST_MOMENT, 1) == ["none yet", "no heartbeat yet"]


async def test_stop_leaves_the_answer_where_it_is(browser, world, eventually):
    async with opened(browser, world, eventually) as page:
        await page.route("**/v1/completions", lambda _: None)  # an answer that does not come
        await page.locator("#send").click()
        await page.locator("#stop").click()
        await expect(page.locator("#send")).to_be_enabled(timeout=SOON_MS)
        await expect(page.locator("#problem")).to_be_hidden()


async def test_a_killed_broker_shows_red_while_questions_are_still_answered_and_its_return_is_told(
    browser, world, eventually
):
    async with opened(browser, world, eventually) as page:
        await expect(page.locator("#light-broker")).to_have_class("good", timeout=SOON_MS)
        await world.kill_broker()
        await expect(page.locator("#light-broker")).to_have_class("bad", timeout=SOON_MS)
        await expect(page.locator("#news")).to_contain_text("The broker is away")
        await ask(page, "The sea was cold")
        await world.restart_broker()
        await expect(page.locator("#light-broker")).to_have_class("good", timeout=SOON_MS)
        await expect(page.locator("#news")).to_have_text("All is well again.")


async def test_a_killed_edge_shows_red_and_the_page_is_back_with_it_without_being_loaded_anew(
    browser, world, eventually
):
    async with opened(browser, world, eventually) as page:
        await expect(page.locator("#light-edge")).to_have_class("good", timeout=SOON_MS)
        await world.kill_edge()
        await expect(page.locator("#light-edge")).to_have_class("bad", timeout=SOON_MS)
        await expect(page.locator("#news")).to_contain_text("does not answer")
        await page.locator("#send").click()
        await expect(page.locator("#problem")).to_have_text("this edge does not answer")
        await world.start_edge()
        await expect(page.locator("#light-edge")).to_have_class("good", timeout=60_000)
        await ask(page, "The sea was cold")


async def test_it_fits_a_phone_and_is_dark_where_the_phone_is(browser, world, eventually):
    grounds = []
    for scheme in ("light", "dark"):
        async with opened(browser, world, eventually, viewport=PHONE, color_scheme=scheme) as page:
            await ask(page, "O sing again, my heart")
            wide = await page.evaluate("document.documentElement.scrollWidth")
            assert wide <= PHONE["width"]
            grounds.append(await page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert grounds[0] != grounds[1]


async def told_instead(page, world, **series):
    """Opens the page anew, which is told of these kernels' answers and of a fleet, and not what the edge tells."""
    now_s = time.time()
    told = Live("a-clinic-far-down-the-river").state(now_s)
    for kernel, points in series.items():
        told["series"][kernel] = [{"at_s": int(now_s) - len(points) + n} | point for n, point in enumerate(points)]
    told["services"] = [
        {"node": node, "service": "edge", "at_s": now_s, "bundle": 12, "ready": False, "fresh_bytes": 65_500}
        for node in ("edge-1", "a-clinic-far-down-the-river")
    ]
    figures = [{"domain": role, "before": 12.345, "after": 12.344} for role in ROLES]
    told["bundles"] = [{"version": 12, "at_s": now_s - 3000, "packets": 3, "figures": figures}]
    event = f"event: all\ndata: {json.dumps(told)}\n\n"
    await page.route("**/live", lambda route: route.fulfill(content_type="text/event-stream", body=event))
    await page.goto(world.url)
    await expect(page.locator("#fleet tr")).to_have_count(2)


async def test_on_a_phone_no_table_is_wider_than_its_room_and_what_is_not_known_is_a_dash(browser, world, eventually):
    async with opened(browser, world, eventually, viewport=PHONE) as page:
        await told_instead(page, world, strategy=[{"phi": None, "phi_n": 131, "kappa": 12_345.6, "phase": "CRYSTAL"}])
        for name in ("kernels", "bundles", "streams", "fleet"):
            wide, room = await page.locator(f"#{name}").evaluate(ROOM)
            assert wide <= room, name
        unknown = page.locator("#kernels tr:has-text('strategy') td").nth(2)
        await expect(unknown).to_have_text("–")
        why = re.compile(f"Φ is not known before .* {PHI_MIN_TRANSITIONS} tokens since this edge started")
        await expect(unknown).to_have_attribute("title", why)
        await expect(page.locator("#phi-note")).to_have_text(why)
        await expect(page.locator("#phi-note")).to_contain_text("So far: strategy 131.")
        known = [{"phi": 0.8, "kappa": 60.0, "phase": "CRYSTAL"}]
        await told_instead(page, world, **dict.fromkeys((*ROLES, "constellation"), known))
        await expect(page.locator("#kernels")).not_to_contain_text("–")
        await expect(page.locator("#phi-note")).to_be_hidden()
        await expect(page.locator("#phase-note")).to_contain_text("FOAM below 20, ")
        await expect(page.locator("#phase-note")).to_contain_text("CRYSTAL to 70, it holds; FRACTURE above that")


async def test_a_coupling_above_the_chart_is_an_arrow_at_its_top_and_one_in_it_is_a_point(browser, world, eventually):
    async with opened(browser, world, eventually) as page:
        drawn = []
        for kappa in (99.0, 100.0, 101.0, 5000.0):
            await told_instead(page, world, heart=[{"phi": 0.8, "kappa": kappa, "phase": "FRACTURE"}])
            await page.wait_for_timeout(300)  # the browser's own clock: a few frames
            drawn.append(await page.evaluate(INK, "heart"))
        point, edge, arrow, longer = drawn  # the figure beside an arrow is ink too: "101", "5,000"
        assert point < 20 > edge, drawn
        assert arrow > 30 < longer, drawn


async def test_an_integration_is_shown_with_its_probability_which_is_never_0(browser, world, eventually):
    found = {
        "kernel": "heart", "domain": "heart", "distances_rad": {"heart": 0.1}, "margin_rad": None, "abstained": False,
        "phi": 0.8, "phi_p": 2.3e-308, "constellation_phi": 0.9, "constellation_phi_p": 0.04, "kappa": 5.0,
        "phase": "FOAM", "bundle": 1, "seconds": 0.1,
    }  # fmt: skip
    event = f"data: {json.dumps({'choices': [{'text': 'x'}], 'constellation': found})}\n\ndata: [DONE]\n\n"
    async with opened(browser, world, eventually) as page:
        await page.route("**/v1/completions", lambda route: route.fulfill(content_type="text/event-stream", body=event))
        await ask(page, "O sing")
        await expect(page.locator("#figures")).to_contain_text("0.80 (p < 0.001)")
        await expect(page.locator("#figures")).to_contain_text("0.90 (p = 0.040)")


async def test_a_text_that_is_too_long_is_told_and_not_cut_and_a_long_one_is_folded(browser, world, eventually):
    async with opened(browser, world, eventually) as page:
        text, problem = page.locator("#text"), page.locator("#long")
        await text.fill("x" * (QUERY_MAX_CHARS + 1))
        await expect(problem).to_have_text("16,385 characters: at most 16,384 can be asked. Shorten it.")
        await page.locator("#send").click()
        await expect(page.locator("#said")).to_be_hidden()
        assert len(await text.input_value()) == QUERY_MAX_CHARS + 1
        await ask(page, "The sea was cold. " * 900)  # 16,200
        await expect(problem).to_be_hidden()
        await expect(page.locator("#echo summary")).to_have_text("All 16,200 characters of the question")
        assert len(await page.locator("#prompt").inner_text()) < 400
        await page.locator("#echo summary").click()
        assert len(await page.locator("#echo > span").inner_text()) == 16_200
        await ask(page, "The sea was cold")
        await expect(page.locator("#echo")).to_be_hidden()


async def test_the_map_names_a_single_question_a_dot_and_several_a_line(browser, world, eventually):
    for scheme, name in (("light", "Black"), ("dark", "White")):
        async with opened(browser, world, eventually, color_scheme=scheme) as page:
            await ask(page, "The rain returns")
            await expect(page.locator("#map-note")).to_contain_text(f"{name} dot: your question.", timeout=SOON_MS)
            await expect(page.locator("#map-note")).not_to_contain_text("Line")
            await ask(page, "The rain returns")
            await expect(page.locator("#map-note")).to_contain_text(
                f"Line: your 2 questions. {name} dot: your last question.", timeout=SOON_MS
            )


async def test_the_keyboard_alone_asks(browser, world, eventually):
    async with opened(browser, world, eventually) as page:
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")  # the link to the question
        await expect(page.locator("#text")).to_be_focused()
        await page.keyboard.press("Control+A")
        await page.keyboard.type("The rain returns")
        await page.keyboard.press("Control+Enter")
        await expect(page.locator("#how")).to_be_visible(timeout=SOON_MS)
        await expect(page.locator("#prompt")).to_have_text("The rain returns")
        assert await page.locator("#said").get_attribute("aria-live") == "polite"


async def test_without_javascript_there_is_a_table(browser, world, eventually):
    async with opened(browser, world, eventually, java_script_enabled=False) as page:
        await expect(page.locator("noscript table")).to_have_count(4)
        assert await page.locator("#app").is_hidden()
