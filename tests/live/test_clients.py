"""Clients that share no code with the fleet, Node and redis-cli, on a real one; as docs/clients.md says it."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from live_fleet import EDGES, live, until

from common.client import Client
from common.runtime import rights, streams
from common.runtime.entries import body_of
from common.runtime.follower import kept
from common.wire.codec import pack, unpack_reply
from common.wire.inference import Answer, Cancel, Piece

pytestmark = [pytest.mark.live, pytest.mark.anyio, pytest.mark.timeout(180)]

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENT = REPOSITORY / "docs" / "clients.md"
EXAMPLE = REPOSITORY / "docs" / "examples" / "node"
SCENES = Path(__file__).with_name("clients.mjs")
INSTALL_S = 120
TEXT = "Where does the river go?"
OTHERS = 8
LEFT_MAX = 5
# At temperature 0 these kernels do not end by themselves, as long as they learn nothing.
LONG = {"text": "O sing again", "max_tokens": 1024, "temperature": 0, "mode": "constellation", "store": False}


@pytest.fixture(scope="module")
async def lively(micro_parts, tmp_path_factory):
    async with live(tmp_path_factory.mktemp("clients") / "home", micro_parts, sleep_after_bytes=1_000_000) as running:
        yield running


async def replies(lively, client):
    """What a client finds on its stream of answers."""
    stream = streams.answers(client)
    return [unpack_reply(body_of(entry.fields)) async for entry in kept(lively.redis, stream)]


async def answer_of(lively, client):
    """The last thing that a client finds, once it is an answer."""

    async def came():
        found = await replies(lively, client)
        return found[-1] if found and isinstance(found[-1], Answer) else None

    return await until(came, f"an answer to {client}")


@pytest.fixture
async def busy(lively):
    """Edges with so much to do for others that whoever cancels is not too late."""
    names = [f"other-{number}" for number in range(OTHERS)]
    for name in names:
        asked = json.dumps(LONG | {"id": "q", "client": name})
        await lively.redis.xadd(streams.QUERIES, {"__data__": asked})
    yield
    for name in names:
        await lively.redis.xadd(streams.CANCEL, {"__data__": pack(Cancel(query_id="q", client=name))})
    for name in names:
        await answer_of(lively, name)


async def ran(*line, **options):
    """What a command that ends well printed."""
    process = await asyncio.create_subprocess_exec(*line, stdout=subprocess.PIPE, **options)
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode(errors="replace")


def shown(language, url):
    """The program in that language that docs/clients.md shows, on the broker of this fleet."""
    (program,) = re.findall(
        rf"^```{language}$\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert "redis://127.0.0.1:6379" in program
    return program.replace("redis://127.0.0.1:6379", url)


# Python


async def test_python_is_given_pieces_and_then_the_whole(lively):
    async with Client(lively.fleet.broker_url) as client:
        reply = client.stream(**LONG)
        pieces = [piece async for piece in reply]
        assert pieces
        assert [piece.index for piece in pieces] == list(range(len(pieces)))
        assert "".join(piece.text for piece in pieces) == reply.answer.text
        assert await replies(lively, client.name) == [*pieces, reply.answer]


async def cancelled_one(lively, leave):
    """What `leave` gives, for the first stream that it left before its answer was whole: a starved reader is late."""
    for number in range(LEFT_MAX):
        query_id, client = await leave(f"leave-{number}")
        answer = await answer_of(lively, client)
        assert answer.query_id == query_id
        if answer.finish == "cancelled":
            assert (await lively.messages(streams.CANCEL, Cancel))[-1] == Cancel(query_id=query_id, client=client)
            return answer
    return pytest.fail(f"{LEFT_MAX} streams were left, and each was answered to its end")


async def test_a_stream_that_python_leaves_is_cancelled_at_the_edge(lively, busy):
    async def leave(name):
        async with Client(lively.fleet.broker_url, name=f"python-{name}") as client:
            reply = client.stream(**LONG)
            async for _ in reply:
                break
            return reply.query.id, client.name

    answer = await cancelled_one(lively, leave)
    assert answer.completion_tokens < LONG["max_tokens"]


@pytest.mark.parametrize("victim", ["edge-1", "broker"])
async def test_python_reads_on_through_a_kill(lively, victim):
    async def read(reply):
        """The text as a reader has it in the end."""
        text = ""
        async for piece in reply:
            text = piece.text if piece.index == 0 else text + piece.text
            begun.set()
        return text

    begun = asyncio.Event()
    async with Client(lively.fleet.broker_url, name=f"python-{victim}") as client:
        asked = [client.stream(**LONG) for _ in range(OTHERS)]
        reading = [asyncio.create_task(read(reply)) for reply in asked]
        await begun.wait()
        await (lively.fleet.kill_broker() if victim == "broker" else lively.fleet.kill(victim))
        texts = await asyncio.gather(*reading)
        assert texts == [reply.answer.text for reply in asked]
        answers = [each for each in await replies(lively, client.name) if isinstance(each, Answer)]
        assert sorted(each.query_id for each in answers) == sorted(reply.query.id for reply in asked)
    await lively.fleet.wait_all_ready()


async def test_the_python_of_the_document_runs(lively):
    said = await ran(sys.executable, "-c", shown("python", lively.fleet.broker_url), cwd=REPOSITORY)
    assert re.search(r"(vocab|strategy|percept|heart) ([\d.]+|None)\n", said)
    assert said.splitlines()[-1].startswith(("v=1 node=", "node="))


# Node


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The example with its packages, as its lock file has them."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("no node or no npm on this machine: the Node client is NOT tested here")
    folder = tmp_path_factory.mktemp("node")
    for path in (*EXAMPLE.glob("*.json"), EXAMPLE / "client.mjs", SCENES):
        shutil.copy(path, folder)
    line = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    if re.search(r"code (ENOTFOUND|EAI_AGAIN|ECONN\w+|ETIMEDOUT|E404|E5\d\d)", done.stderr):
        pytest.skip(f"no package registry can be reached: the Node client is NOT tested here ({done.stderr[:200]})")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def node(installed, lively):
    async def run(scene, client, **query):
        line = ["node", SCENES.name, scene, lively.fleet.broker_url, client, json.dumps(query)]
        return json.loads(await ran(*line, cwd=installed))

    return run


async def test_node_is_given_an_answer(node, lively):
    told = await node("ask", "node-ask", text=TEXT, max_tokens=8, store=False)
    (sent,) = await replies(lively, "node-ask")
    assert told["answer"] == json.loads(sent.model_dump_json())


async def test_node_asks_with_the_rights_of_a_client_s_user_and_no_others(installed, lively):
    """As at the broker of compose.yaml: it may not read the dead letters, in which others' queries lie."""
    given = re.findall(r"\(.*?\)|\S+", rights.client("kiosk").rule)
    await lively.redis.execute_command("ACL", "SETUSER", "kiosk", "reset", "on", ">word", *given)
    try:
        url = lively.fleet.broker_url.replace("//", "//kiosk:word@")
        query = json.dumps({"text": TEXT, "max_tokens": 8, "store": False})
        told = json.loads(await ran("node", SCENES.name, "ask", url, "kiosk.node", query, cwd=installed))
        assert told["answer"]["client"] == "kiosk.node"
        said = await ran("node", "client.mjs", TEXT, cwd=installed, env={**os.environ, "QIG_BROKER_URL": url})
        assert re.search(r"\n(vocab|strategy|percept|heart) · Φ ", said)
    finally:
        await lively.redis.execute_command("ACL", "DELUSER", "kiosk")


async def test_node_is_given_pieces_and_then_the_whole(node, lively):
    told = await node("stream", "node-stream", **LONG)
    sent = [json.loads(each.model_dump_json()) for each in await replies(lively, "node-stream")]
    assert [*told["pieces"], told["answer"]] == sent
    assert [piece["index"] for piece in told["pieces"]] == list(range(len(sent) - 1))
    assert "".join(piece["text"] for piece in told["pieces"]) == told["answer"]["text"]


async def test_a_stream_that_node_leaves_is_cancelled_at_the_edge(node, lively, busy):
    async def leave(name):
        told = await node("leave", f"node-{name}", id=f"q-{name}", **LONG)
        assert told["pieces"][0]["index"] == 0
        return f"q-{name}", f"node-{name}"

    answer = await cancelled_one(lively, leave)
    assert answer.completion_tokens < LONG["max_tokens"]


async def test_node_is_told_why_a_bad_query_is_not_answered(node):
    told = await node("ask", "node-bad", text=TEXT, colour="red")
    assert told["code"] == "unknown_field"
    assert "Query has no field colour" in told["message"]


async def test_the_example_runs_as_it_is_shown(installed, lively):
    environ = os.environ | {"QIG_BROKER_URL": lively.fleet.broker_url}
    said = await ran("node", "client.mjs", TEXT, cwd=installed, env=environ)
    assert re.search(r"\n(vocab|strategy|percept|heart) · Φ .* κ .* · edge-[12]\n$", said)


async def test_the_javascript_of_the_document_runs(installed, lively):
    (installed / "shown.mjs").write_text(shown("js", lively.fleet.broker_url), encoding="utf-8")
    said = await ran("node", "shown.mjs", cwd=installed)  # the pieces that it was given
    assert said == (await answer_of(lively, "kiosk-8")).text  # one in 600 of these kernels' is empty


# redis-cli


def lines_under(heading):
    """The redis-cli lines of a section of docs/clients.md."""
    section = DOCUMENT.read_text(encoding="utf-8").partition(f"### {heading}\n")[2].partition("\n#")[0]
    lines = re.findall(r"^redis-cli .*$", section, re.MULTILINE)
    assert lines, f"docs/clients.md shows no redis-cli under {heading}"
    return lines


@pytest.fixture(scope="module")
def redis_cli():
    found = shutil.which("redis-cli") or shutil.which("valkey-cli")
    if found is None:
        pytest.skip(
            "no redis-cli on this machine (Debian: redis-tools): what docs/clients.md says of it is NOT tested here"
        )
    return found


@pytest.fixture
def by_hand(redis_cli, lively):
    """Runs what the document shows, on this fleet's broker; what each line printed."""

    async def run(heading, before_the_last=None):
        said = []
        for line in (lines := lines_under(heading)):
            if line is lines[-1] and before_the_last is not None:
                await before_the_last(said)
            command = line.replace("redis-cli", f"{redis_cli} -u {lively.fleet.broker_url}", 1)
            said.append(await ran("sh", "-c", command))
            assert not re.match(r"(\(error\)|ERR|WRONG)", said[-1]), said
        return said

    return run


async def test_a_query_by_hand_is_answered(by_hand, lively):
    asked, read = await by_hand("Ask")
    answer = await answer_of(lively, "me")
    assert answer.query_id in asked
    assert answer.query_id in read


async def test_a_query_by_hand_is_streamed(by_hand, lively):
    await by_hand("Stream")
    answer = await answer_of(lively, "me-too")
    *pieces, last = await replies(lively, "me-too")
    assert last == answer
    assert pieces
    assert all(isinstance(piece, Piece) for piece in pieces)
    assert [piece.index for piece in pieces] == list(range(len(pieces)))
    assert "".join(piece.text for piece in pieces) == answer.text


async def test_a_query_by_hand_is_cancelled(by_hand, lively):
    pids = [lively.fleet.members[node].pid for node in EDGES]
    for pid in pids:  # however long the shell takes, the cancel is not too late
        os.kill(pid, signal.SIGSTOP)
    try:
        await by_hand("Cancel")
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    answer = await answer_of(lively, "us")
    assert answer.finish == "cancelled" or answer.problem.code == "cancelled"


async def test_a_bad_query_by_hand_ends_where_the_document_says(by_hand, lively):
    async def buried(said):
        await until(lambda: letter_of(lively, said[0].strip().strip('"')), "a dead letter")

    asked, read = await by_hand("A query that is wrong", buried)
    letter = await letter_of(lively, asked.strip().strip('"'))
    assert letter.code == "unknown_field"
    assert letter.code in read


async def letter_of(lively, entry):
    letters = await lively.letters(streams.QUERIES)
    return next((letter for letter in letters if letter.entry == entry), None)
