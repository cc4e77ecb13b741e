"""A container's health: whether its service is ready, and if not why, in words that `docker inspect` shows."""
# ruff: noqa: INP001 -- scripts of an image, not a package

import http.client
import os
import sys

TIMEOUT_S = 3.0


def main() -> None:
    """Ends with 0 when /readyz says 200."""
    port = int(os.environ["QIG_HTTP_PORT"])
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        sys.stdout.write(answer.read(4096).decode("utf-8", "replace") + "\n")
    except OSError as error:
        sys.exit(f"nothing answers on port {port}: {error}")
    sys.exit(0 if answer.status == http.client.OK else 1)


if __name__ == "__main__":
    main()
