"""A service in small, started as a child process: `python cli_service.py MODE`.

serve    answers /readyz until SIGTERM;  stubborn  does not mind SIGTERM;  refuse  ends with 2 and one line
die      ends with 1
"""

import http.server
import os
import signal
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"ready": true, "reasons": {}}' if self.path == "/readyz" else b"qig_bundle_version 7.0\n"
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def main(mode):
    if mode == "refuse":
        sys.stderr.write("qig edge: missing_key: no key at all\n")
        sys.exit(2)
    if mode == "die":
        sys.exit(1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if mode == "stubborn" else lambda *_: sys.exit(0))
    sys.stderr.write(f"QIG_SLEEP_IDLE_S = {os.environ.get('QIG_SLEEP_IDLE_S')}\n")
    http.server.HTTPServer(("127.0.0.1", int(os.environ["QIG_HTTP_PORT"])), Handler).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
