"""Who may ask, and how often. Pure: a header, keys and an allowance go in; a name, headers or a Refusal come out."""

import ipaddress
import math
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from common.runtime.api_keys import ApiKey, holder
from common.runtime.rates import Allowance
from services.edge.http.errors import Refusal

ANYBODY: Final = "http"  # the client's name where no keys are needed


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_unspecified(host: str) -> bool:
    """Whether whoever listens there does so on every address of this machine: 0.0.0.0 or ::."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def check_host(host: str | None) -> None:
    """Raises Refusal 403 unless a request that came to this machine was meant for it. host: the header.

    A page of anywhere may have its name resolve to 127.0.0.1 (DNS rebinding): its scripts then reach what listens there
    and read the answers. A browser says by which name it came; what says none is no browser.
    """
    if host is None:
        return
    try:
        named = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        named = ""
    if not is_loopback(named):
        message = (
            f"While it has no keys this edge answers its own machine alone, and {host[:80]!a} is no name of that:"
            " ask for localhost or 127.0.0.1, or make a key with `qig keys api add NAME`."
        )
        raise Refusal(403, "unknown_host", message)


def client_of(authorization: str | None, keys: Sequence[ApiKey], *, needed: bool) -> str:
    """The name of whoever asks. needed: whether nobody may ask while there are no keys. Raises Refusal 401."""
    if not keys and not needed:
        return ANYBODY
    scheme, _, given = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not given.strip():
        message = (
            "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer"
            " auth (i.e. Authorization: Bearer YOUR_KEY). `qig keys api add` makes one."
        )
        raise Refusal(401, "missing_api_key", message)
    found = holder(keys, given.strip())
    if found is None:
        raise Refusal(401, "invalid_api_key", "Incorrect API key provided. `qig keys api list` shows who has one.")
    return found


def check_allowance(allowance: Allowance, client: str) -> None:
    """Raises Refusal 429 for a client that has asked too often."""
    if not allowance.allowed:
        message = (
            f"Rate limit reached for {client} on requests per min (RPM): Limit {allowance.limit}."
            f" Please try again in {_span(allowance.reset_s)}."
        )
        raise Refusal(429, "rate_limit_exceeded", message, kind="requests", retry_after_s=allowance.reset_s)


def allowance_headers(allowance: Allowance) -> dict[str, str]:
    """OpenAI's headers of what is left."""
    return {
        "x-ratelimit-limit-requests": str(allowance.limit),
        "x-ratelimit-remaining-requests": str(allowance.remaining),
        "x-ratelimit-reset-requests": _span(allowance.reset_s),
    }


def _span(seconds: float) -> str:
    """As OpenAI writes it, 120ms, 7s, 1m0s; rounded up, so that who waits as long has waited long enough."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
