"""One HTTP request to a service of ours, and what /readyz and /metrics say. No HTTP library, and a bounded answer."""

import asyncio
import json
import re
import socket
from typing import Final
from urllib.parse import urlsplit

from common.errors import Unavailable, said

ANSWER_MAX_BYTES: Final = 4 * 1024 * 1024
TIMEOUT_S: Final = 2.0


async def get(url: str, timeout_s: float = TIMEOUT_S) -> tuple[int, bytes]:
    """Status and body. Raises Unavailable("no_answer")."""
    return await request("GET", url, timeout_s)


async def request(method: str, url: str, timeout_s: float, key: str | None = None) -> tuple[int, bytes]:
    """Status and body of a request without a body of its own. Raises Unavailable("no_answer").

    key: for the API, printable ASCII without blanks.
    """
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(host, port)
            own = f"Authorization: Bearer {key}\r\n" if key else ""
            writer.write(f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{own}Connection: close\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: *(\d+)", head)
            size = min(int(length[1]), ANSWER_MAX_BYTES) if length else 0
            return int(head.split(b" ", 2)[1]), await reader.readexactly(size)
    except (OSError, TimeoutError, EOFError, ValueError, IndexError, asyncio.LimitOverrunError) as error:
        raise Unavailable("no_answer", f"{url} does not answer: {said(error)}") from None
    finally:
        if writer is not None:
            writer.close()


async def why_not_ready(base_url: str) -> str | None:
    """None when the service there is ready, else its reasons in one line. Raises Unavailable("no_answer")."""
    status, body = await get(f"{base_url}/readyz")
    if status == 200:
        return None
    try:
        reasons = json.loads(body)["reasons"]
        return "; ".join(f"{part}: {why}" for part, why in reasons.items()) or f"HTTP {status}"
    except (ValueError, KeyError, AttributeError, TypeError):
        return f"HTTP {status}"


async def gauge(base_url: str, name: str) -> float | None:
    """A metric without labels, None when the service does not show it. Raises Unavailable("no_answer")."""
    _, body = await get(f"{base_url}/metrics")
    found = re.search(rf"^{re.escape(name)} (\S+)$", body.decode("utf-8", "replace"), re.MULTILINE)
    return float(found[1]) if found else None


def check_port(host: str, port: int, fix: str) -> None:
    """Raises Unavailable("port_taken") naming the port and what to do when nothing can listen there."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise Unavailable("port_taken", f"port {port} on {host} cannot be used ({reason}): {fix}") from None


def free_port(host: str = "127.0.0.1") -> int:
    """A port that was free a moment ago."""
    with socket.socket() as trial:
        trial.bind((host, 0))
        return int(trial.getsockname()[1])
