import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest

from common.errors import Rejected, Unavailable
from services.cli import forget
from services.edge.answer import Interaction
from services.edge.record import Record

FORGOTTEN = {"counts": "taken", "withdrawn": [4], "left": [{"sequence": 2, "status": "sent", "ngrams": 7}]}


@pytest.fixture
def keep(tmp_path):
    """Puts a query into an edge's file, as `qig up` (nodes/NODE) or a bare edge lays it out."""

    def put(node, query_id="q1", client="anonymous", *, within="."):
        record = Record(tmp_path / within / "edges" / node / "edge.db", now_s=1.0)
        basin = np.full(64, 1 / 64)
        record.texts.add(
            Interaction(query_id, client, "hi", 1.0, "heart", basin, 1, 2, 3.0, None, None), b"hi", probe=False
        )
        record.close()

    return put


@pytest.fixture
def kept(tmp_path):
    """Whether an edge keeps a query."""

    def look(node, query_id="q1", *, within="."):
        record = Record(tmp_path / within / "edges" / node / "edge.db", now_s=1.0)
        found = record.texts.find("anonymous", query_id)
        record.close()
        return found is not None

    return look


@contextlib.contextmanager
def running(tmp_path, node, status, body, *, host="127.0.0.1"):
    """An edge that holds its file and answers DELETE; yields the requests it got."""
    asked, shown = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_DELETE(self):
            asked.append(self.path)
            shown.append(self.headers["authorization"])
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        address = f"http://{host}:{server.server_port}"
        record = Record(tmp_path / "edges" / node / "edge.db", now_s=1.0, address=address)
        try:
            yield SimpleNamespace(asked=asked, shown=shown)
        finally:
            record.close()
            server.shutdown()
            thread.join()


def run(home, query_id="q1", client="anonymous", node=None, **given):
    given = {"json": False} | given
    return forget.run(query_id=query_id, client=client, node=node, home=home, **given)


def test_a_stopped_edge_s_file_forgets(keep, kept, tmp_path, capsys):
    keep("edge-1")
    assert run(tmp_path) == 0
    assert not kept("edge-1")
    assert "edge-1: deleted the text and its answer; nothing had been counted of it" in capsys.readouterr().out


def test_a_request_over_http_is_forgotten_with_all_its_prompts(keep, kept, tmp_path):
    name = f"cmpl-{'0a' * 12}"
    kinds = [name, f"{name}-1", f"{name}-15"]
    for each in (*kinds, "q1", "q1-1"):
        keep("edge-1", each)
    run(tmp_path, name)
    run(tmp_path, "q1")  # another's name: q1-1 is a query of its own
    assert [kept("edge-1", each) for each in (*kinds, "q1", "q1-1")] == [False] * 4 + [True]


def test_every_edge_of_the_home_forgets_unless_one_is_named(keep, kept, tmp_path, capsys):
    for node in ("edge-1", "edge-2"):
        keep(node, within=f"nodes/{node}")
    run(tmp_path, node="edge-2")
    assert [kept(node, within=f"nodes/{node}") for node in ("edge-1", "edge-2")] == [True, False]
    run(tmp_path, json=True)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {
        "node": "edge-1", "counts": "none", "withdrawn": [], "left": [],
    }  # fmt: skip


@pytest.mark.parametrize("asked", [{"query_id": "q2"}, {"client": "kiosk"}])
def test_what_is_kept_nowhere_is_said(keep, tmp_path, asked):
    keep("edge-1")
    with pytest.raises(Rejected, match="unknown_interaction"):
        run(tmp_path, **asked)


def test_a_query_is_found_whoever_asked_when_only_one_asked_under_that_id(keep, tmp_path, capsys):
    keep("edge-1", client="client-5ea")
    keep("edge-2", client="client-5ea")
    keep("edge-2", query_id="q2")
    assert run(tmp_path, client=None) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["edge-1", "edge-2"]
    with pytest.raises(Rejected, match="unknown_interaction: 'q1' is kept by none of 2 edges"):
        run(tmp_path, client=None)


def test_of_two_clients_with_one_id_the_one_that_is_meant_is_asked_for(keep, kept, tmp_path):
    keep("edge-1", client="kiosk")
    keep("edge-2")
    with pytest.raises(Rejected, match=r"many_clients.*anonymous, kiosk.*--client"):
        run(tmp_path, client=None)
    assert kept("edge-2")


def test_a_running_edge_is_asked_to_forget_for_the_client_that_its_file_names(keep, tmp_path):
    keep("edge-1", client="client-5ea")
    with running(tmp_path, "edge-1", 200, json.dumps(FORGOTTEN).encode()) as edge:
        run(tmp_path, client=None)
    assert edge.asked == ["/v1/interactions/q1?client=client-5ea"]


def test_an_edge_that_is_not_there_is_said_and_none_is_made(keep, tmp_path):
    keep("edge-1")
    with pytest.raises(Rejected, match=r"unknown_edge.*there: edge-1"):
        run(tmp_path, node="edge-7")
    assert not (tmp_path / "edges" / "edge-7").exists()


def test_a_home_without_any_edge_is_said(tmp_path):
    with pytest.raises(Rejected, match=r"unknown_edge: no state of any edge below .* \(there: none\)"):
        run(tmp_path)


def test_a_running_edge_that_asks_for_a_key_is_to_be_stopped(tmp_path):
    with (
        running(tmp_path, "edge-1", 401, b'{"error": {"code": "missing_api_key"}}'),
        pytest.raises(
            Unavailable, match=r"edge_running: edge-1 asks for a key: name a file with .*--key-file FILE, or stop"
        ),
    ):
        run(tmp_path)


def test_a_running_edge_is_shown_the_key_that_lies_in_a_file(tmp_path):
    (tmp_path / "key").write_text("qig-secret\n")
    with running(tmp_path, "edge-1", 200, json.dumps(FORGOTTEN).encode()) as edge:
        run(tmp_path, key_file=tmp_path / "key")
    assert edge.shown == ["Bearer qig-secret"]


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_not_the_client_s_is_said_and_not_shown(tmp_path, status):
    (tmp_path / "key").write_text("qig-secret")
    with (
        running(tmp_path, "edge-1", status, b"{}"),
        pytest.raises(Unavailable, match="edge-1 does not take this key for 'anonymous'") as raised,
    ):
        run(tmp_path, key_file=tmp_path / "key")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("text", [b"", b"two words", b"a\r\nHost: b", b"\xff", "schlüssel".encode(), None])
def test_a_file_without_a_key_is_refused_before_anything_is_asked(keep, kept, tmp_path, text):
    keep("edge-1")
    if text is not None:
        (tmp_path / "key").write_bytes(text)
    with pytest.raises(Rejected, match="bad_key_file"):
        run(tmp_path, key_file=tmp_path / "key")
    assert kept("edge-1")


def test_a_running_edge_of_this_machine_is_asked_whether_or_not_its_name_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(forget, "gethostname", lambda: "nobody-knows.invalid")
    with running(tmp_path, "edge-1", 200, json.dumps(FORGOTTEN).encode(), host="nobody-knows.invalid") as edge:
        run(tmp_path)
    assert edge.asked == ["/v1/interactions/q1?client=anonymous"]


def test_a_running_edge_is_asked_where_it_serves(tmp_path, capsys):
    with running(tmp_path, "edge-1", 200, json.dumps(FORGOTTEN).encode()) as edge:
        run(tmp_path, "a.b", "kiosk-9")
    assert edge.shown == [None]
    assert edge.asked == ["/v1/interactions/a.b?client=kiosk-9"]
    told = capsys.readouterr().out
    assert "packet 4 had not left: made anew without it" in told
    assert "packet 2 has left (sent) and carries 7 n-grams that occur in it" in told


def test_a_running_edge_that_does_not_keep_it_is_no_failure_of_another(keep, kept, tmp_path):
    keep("edge-2")
    with running(tmp_path, "edge-1", 404, b'{"error": {"code": "unknown_interaction"}}'):
        assert run(tmp_path) == 0
    assert not kept("edge-2")


@pytest.mark.parametrize(("status", "body"), [(404, b"no such path"), (500, b"{}"), (200, b"[1]"), (200, b"")])
def test_an_answer_that_is_none_is_no_success(tmp_path, status, body):
    with (
        running(tmp_path, "edge-1", status, body),
        pytest.raises(Unavailable, match=f"no_answer: edge-1.*HTTP {status}"),
    ):
        run(tmp_path)


def test_a_running_edge_that_hides_its_port_is_to_be_stopped(keep, tmp_path):
    record = Record(tmp_path / "edges" / "edge-1" / "edge.db", now_s=1.0)
    with pytest.raises(Unavailable, match="edge_running"):
        run(tmp_path)
    record.close()
