"""A real Prometheus scrapes a real constellation: every panel and every rule asks for something that is there."""

import asyncio
import contextlib
import json
import shutil
import urllib.error
import urllib.parse
import urllib.request

import promql
import pytest
import yaml
from live_fleet import EDGES, live, until
from promql import BOARDS, DEPLOY, RULE_FILES, RULES, panels, selectors

from common.constants import ROLES
from common.runtime import streams
from scripts import picture
from services.cli import home as places
from services.cli import probe

PROMETHEUS = shutil.which("prometheus")
pytestmark = [
    pytest.mark.live,
    pytest.mark.anyio,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        PROMETHEUS is None,
        reason="no panel is asked for its data: no prometheus on the path; Debian's package prometheus brings it",
    ),
]

EVERY = "1s"
UNREADY = 503  # of one that starts
DEADLINE_S = 100.0  # on a machine that others use
# Asked for, and not there in a constellation that is well and has no GPU: the names that begin a query, and why.
ABSENT = {
    "qig_gpu_busy_ratio": "no GPU",
    "gpu:qig_gpu_memory_bytes:ratio": "no GPU",
    'qig_ticks_total{outcome!="done"}': "periodic jobs end well",
    "qig_duplicates_total": "nothing is handed in twice",
    "qig_checkpoint_time_seconds": "memories alone are merged, nothing is trained",
    "qig_batch_began_time_seconds": "a batch of this size is done between two looks",
}
# Alerts that may be pending or firing at the end, and why.
TOLD = {
    "DeadLetters": "a query that nobody can read was sent",
    "FractureStuck": "kernels as small as the tests' repeat themselves",
    "NoEmergence": "and hold no more together than alone",
}


class Prometheus:
    """One that scrapes a fleet each second."""

    def __init__(self, url, began_s):
        self.url, self.began_s = url, began_s

    async def get(self, path, **given):
        """Its answer's data. Fails where it refuses the query."""

        def fetch():
            asked = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(given)}"
            try:
                with urllib.request.urlopen(asked, timeout=20) as answer:
                    return json.load(answer)["data"]
            except urllib.error.HTTPError as error:
                if error.code == UNREADY:
                    raise
                raise AssertionError(f"{given}: {error.read().decode()}") from None

        return await asyncio.to_thread(fetch)

    async def sees(self, number):
        """Whether it has scraped so many: what happens from then on it sees happen."""
        found = await self.get("query", query="count(up == 1)")
        return [row["value"][1] for row in found["result"]] == [str(number)]

    async def rows(self, expression):
        """What a panel that shows all since the start is given."""
        now_s = float((await self.get("query", query="time()"))["result"][1])
        expression = expression.replace("$__rate_interval", "30s")
        found = await self.get("query_range", query=expression, start=self.began_s, end=now_s, step=EVERY)
        return found["result"]

    async def has_data(self, expression):
        return any(value != "NaN" for row in await self.rows(expression) for _, value in row["values"])


def prometheus(folder, members, rule_files=RULE_FILES):
    targets = {job: [url.removeprefix("http://") for own, url in members if own == job] for job, _ in members}
    jobs = [{"job_name": job, "static_configs": [{"targets": each}]} for job, each in targets.items()]
    return prometheus_of(folder, jobs, rule_files)


@contextlib.asynccontextmanager
async def prometheus_of(folder, jobs, rule_files=RULE_FILES):
    settings = {
        "global": {"scrape_interval": EVERY, "scrape_timeout": EVERY, "evaluation_interval": EVERY},
        "rule_files": list(map(str, rule_files)),
        "scrape_configs": jobs,
    }
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    address = f"127.0.0.1:{probe.free_port()}"
    line = [f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(PROMETHEUS, *line, stdout=log, stderr=log)
    try:
        found = Prometheus(f"http://{address}", 0.0)

        async def ready():
            with contextlib.suppress(urllib.error.URLError):
                found.began_s = float((await found.get("query", query="time()"))["result"][1])
                return True

        await until(ready, f"Prometheus on {address}: {folder / 'prometheus.log'}")
        yield found
    finally:
        process.terminate()
        await process.wait()


@pytest.fixture(scope="module")
async def asked(micro_parts, tmp_path_factory):
    """The Prometheus of a fleet that was asked, learned, released, and was sent what it refuses."""
    folder = tmp_path_factory.mktemp("prometheus")
    async with live(folder / "home", micro_parts, batch_packets=64, batch_age_s=6.0) as lively:  # of both edges
        members = [(member.service, member.url) for member in lively.fleet.members.values()]
        async with prometheus(folder, members) as found, lively.desk() as desk, lively.traffic(desk):
            await until(lambda: found.sees(len(members)), "every service, scraped", DEADLINE_S)
            await asyncio.gather(*[desk.ask(TEXT, max_tokens=64, mode=mode, store=False) for mode in (*MODES, *ROLES)])
            await speak_http(lively.fleet.members[EDGES[0]].url)
            for stream in (streams.QUERIES, streams.PACKETS):
                await lively.redis.xadd(stream, {"__data__": b"no message"})
            await lively.read(desk, 40)
            first = await lively.newest_on_both_edges(1)
            raw = next(raw for raw, _ in lively.sent() if raw)
            await lively.redis.xadd(streams.PACKETS, {"__data__": raw})  # replayed: a refusal of an enrolled node's

            async def both_brought_text_of_a_domain():
                await lively.read(desk, 3)  # whichever edge takes them
                return await found.has_data("qig_spread_rad")

            # No faster than it scrapes: on a busy machine a flood of text keeps it from that.
            await until(both_brought_text_of_a_domain, "one batch with text of both edges", DEADLINE_S, look_s=1.0)
            await lively.newest_on_both_edges(first.version)
            found.home = lively.home
            yield found


TEXT = "The sea was cold and grey; salt wind stung our eyes and the whale breathed beside the boat. " * 8
MODES = ["constellation"] * 8


async def speak_http(url):
    """One answer in pieces, and one request that is refused."""

    def post(path, **body):
        asked = urllib.request.Request(f"{url}{path}", json.dumps(body).encode(), {"content-type": "application/json"})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.read()

    await asyncio.to_thread(post, "/v1/completions", model="constellation", prompt="O sing", stream=True, max_tokens=4)
    with pytest.raises(urllib.error.HTTPError):
        await asyncio.to_thread(post, "/v1/nothing")


def is_absent(expression):
    return any(without_braces(selector) in ABSENT for selector in selectors(expression))


def without_braces(selector):
    return str(selector).replace("{}", "")


async def test_every_panel_shows_data(asked):
    missing = {
        f"{name}: {panel['title']}: {target['expr']}": target["expr"]
        for name, board in BOARDS.items()
        for panel in panels(board)
        for target in panel["targets"]
    }

    async def all_there():
        for where, expression in list(missing.items()):
            if await asked.has_data(expression) or is_absent(expression):
                del missing[where]
        return not missing

    with contextlib.suppress(AssertionError):
        await until(all_there, "data for every panel", DEADLINE_S)
    assert missing == {}


async def test_every_rule_is_evaluated_and_what_is_recorded_is_there(asked):
    found = [rule for group in (await asked.get("rules"))["groups"] for rule in group["rules"]]
    assert {rule["name"]: rule.get("lastError") for rule in found if rule["health"] != "ok"} == {}
    assert {rule["name"] for rule in found} == {rule.get("alert") or rule["record"] for rule in RULES}
    records = [rule["record"] for rule in RULES if "record" in rule]
    assert [name for name in records if not (is_absent(name) or await asked.has_data(name))] == []


async def test_every_metric_that_an_alert_looks_at_is_there(asked):
    looked_at = {str(selector) for rule in RULES if "alert" in rule for selector in selectors(rule["expr"])}
    assert [each for each in sorted(looked_at) if not await asked.has_data(each)] == []


@pytest.mark.parametrize("name", ["fleet", "learning"])  # with every kind of panel between them
async def test_a_board_is_drawn_from_what_it_asks_for(asked, name, tmp_path):
    source = await asyncio.to_thread(picture.Source, asked.url, 1.0)
    drawn = await asyncio.to_thread(picture.draw, BOARDS[name], source)
    drawn.savefig(tmp_path / "board.png")
    assert len(drawn.axes) == len(panels(BOARDS[name]))


async def test_a_prometheus_that_reads_the_fleet_s_file_sees_each_service_under_its_own_job(asked, tmp_path):
    """As with deploy/prometheus/local.yml, whose file is another home's."""
    (job,) = yaml.safe_load((DEPLOY / "prometheus" / "local.yml").read_text())["scrape_configs"]
    own = job | {"file_sd_configs": [{"files": [str(asked.home / places.PROMETHEUS)]}]}
    async with prometheus_of(tmp_path, [own], ()) as found:
        await until(lambda: found.sees(len(EDGES) + 3), "every service, by the fleet's file", DEADLINE_S)
        jobs = (await found.get("query", query="count by (job) (up)"))["result"]
    counts = {row["metric"]["job"]: int(row["value"][1]) for row in jobs}
    assert counts == {"edge": len(EDGES), "aggregator": 1, "trainer": 1, "publisher": 1}


async def test_of_a_fleet_that_is_well_but_for_what_it_was_sent_only_that_is_told(asked):
    assert {row["metric"]["alertname"] for row in await asked.rows('ALERTS{alertstate="firing"}')} == {"DeadLetters"}

    async def only_told():  # also of those that would fire minutes later; one late scrape is one for a moment
        found = (await asked.get("query", query="ALERTS"))["result"]
        return {row["metric"]["alertname"] for row in found} <= set(TOLD)

    await until(only_told, f"no alert but {', '.join(TOLD)}", DEADLINE_S)


def test_what_may_be_absent_is_asked_for():
    everything = {
        without_braces(each) for expressions in promql.asked().values() for e in expressions for each in selectors(e)
    }
    assert set(ABSENT) <= everything
