import http.server
import json
import threading
from collections.abc import Callable, Iterator

import pytest

from common.errors import Unavailable
from services.cli import health, probe


@pytest.fixture
def serving() -> Iterator[Callable[[int, bytes], int]]:
    """Start a service that answers /readyz with a status and a body; its port."""
    servers = []

    def serve(status: int, body: bytes) -> int:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status if self.path == "/readyz" else 404)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        servers.append(http.server.HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return servers[-1].server_port

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_service_that_is_ready_ends_with_0(serving, capsys):
    assert health.run(port=serving(200, b'{"ready": true, "reasons": {}}')) == 0
    assert capsys.readouterr().out == "ready\n"


def test_a_service_that_is_not_ready_ends_with_1_and_says_in_one_line_what_keeps_it(serving, capsys):
    reasons = {"broker": "127.0.0.1:6379 does not answer", "packets": "waits for a bundle"}
    port = serving(503, json.dumps({"ready": False, "reasons": reasons}).encode())
    assert health.run(port=port) == 1
    assert capsys.readouterr().out == (
        "not ready: broker: 127.0.0.1:6379 does not answer; packets: waits for a bundle\n"
    )


def test_what_is_no_service_of_ours_is_not_ready(serving, capsys):
    assert health.run(port=serving(404, b"<html>")) == 1
    assert capsys.readouterr().out == "not ready: HTTP 404\n"


def test_nobody_on_the_port_is_unavailable_and_names_it():
    port = probe.free_port()
    with pytest.raises(Unavailable, match=rf":{port}/readyz does not answer"):
        health.run(port=port)
