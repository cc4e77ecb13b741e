import pytest

from common.runtime.api_keys import add, new_key
from common.runtime.rates import Allowance
from services.edge.http.access import (
    allowance_headers,
    check_allowance,
    check_host,
    client_of,
    is_loopback,
    is_unspecified,
)
from services.edge.http.errors import Refusal

KEY = new_key(b"\1" * 32)
KEYS = add((), "kiosk", KEY, now_s=1.0)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_an_address_that_only_this_machine_reaches(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "edge.example", "", "localhost.example"])
def test_an_address_that_others_reach(host):
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("host", "every"), [("0.0.0.0", True), ("::", True), ("127.0.0.1", False), ("::1", False), ("edge.example", False)]
)
def test_an_address_that_is_every_address_of_a_machine(host, every):
    assert is_unspecified(host) is every


@pytest.mark.parametrize(
    "host",
    [None, "localhost", "localhost:8000", "LocalHost:8000", "127.0.0.1", "127.0.0.1:8000", "127.8.8.8:1", "[::1]:8000"],
)
def test_a_request_for_this_machine_is_let_in(host):
    check_host(host)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example:8000", "10.0.0.1:8000",
        "0.0.0.0:8000", "[::]:8000", "[::1", "::1", "", ":8000", "127.0.0.1@evil.example", "\xe9",
    ],
)  # fmt: skip
def test_a_request_for_another_name_is_refused_where_being_here_is_enough(host):
    with pytest.raises(Refusal) as refused:
        check_host(host)
    assert (refused.value.status, refused.value.code) == (403, "unknown_host")


def test_where_no_key_is_needed_anybody_is_one_client():
    assert client_of(None, (), needed=False) == client_of("Bearer whatever", (), needed=False) == "http"


def test_a_key_names_its_client_however_the_scheme_is_written():
    for header in (f"Bearer {KEY}", f"bearer {KEY}", f"Bearer  {KEY} "):
        assert client_of(header, KEYS, needed=False) == "kiosk"


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "missing_api_key"), ("", "missing_api_key"), ("Bearer ", "missing_api_key"), (KEY, "missing_api_key"),
        (f"Basic {KEY}", "missing_api_key"), ("Bearer wrong", "invalid_api_key"), (f"Bearer {KEY}x", "invalid_api_key"),
    ],
)  # fmt: skip
def test_whoever_has_no_key_is_refused_and_told_nothing_of_it(header, code):
    with pytest.raises(Refusal) as refused:
        client_of(header, KEYS, needed=False)
    assert (refused.value.status, refused.value.code) == (401, code)
    assert KEY not in refused.value.message


def test_nobody_is_let_in_where_keys_are_needed_and_there_are_none():
    with pytest.raises(Refusal):
        client_of(f"Bearer {KEY}", (), needed=True)


def test_what_is_left_is_told_as_openai_does():
    assert allowance_headers(Allowance(allowed=True, limit=60, remaining=59, reset_s=0.25)) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "250ms",
    }
    for seconds, shown in ((1.0, "1s"), (58.4, "59s"), (60.0, "1m0s"), (0.9999, "1000ms")):
        told = allowance_headers(Allowance(allowed=True, limit=1, remaining=0, reset_s=seconds))
        assert told["x-ratelimit-reset-requests"] == shown


def test_a_client_over_its_limit_is_told_when_to_ask_again():
    check_allowance(Allowance(allowed=True, limit=1, remaining=0, reset_s=3.2), "kiosk")
    with pytest.raises(Refusal, match=r"Limit 1\. Please try again in 4s") as refused:
        check_allowance(Allowance(allowed=False, limit=1, remaining=0, reset_s=3.2), "kiosk")
    assert (refused.value.status, refused.value.kind) == (429, "requests")
    assert refused.value.headers == {"retry-after": "4", "retry-after-ms": "3200"}
