import pkgutil
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.errors import Rejected
from services.edge.answer import Interaction
from services.edge.redaction import BUILT_IN, redacted, redactor

ALL = ",".join(BUILT_IN)
PLACEHOLDERS = ("[e-mail]", "[number]", "[key]")
# Text made of what the patterns look for, so that matches meet, overlap and nest.
CRUMBS = st.lists(
    st.sampled_from([*"aZ7@.-+/_=() \né٣[],", "1234", "b@c.de", "x" * 19, "-----BEGIN PRIVATE KEY-----",
                     "-----END PRIVATE KEY-----", *PLACEHOLDERS]),
    max_size=40,
).map("".join)  # fmt: skip


def redact(text, names=ALL):
    return redactor(names, pkgutil.resolve_name)(text)


def shout(text):
    return text.replace("Anna", "[name]")


def fail(text):
    raise ValueError(text)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("mail anna.b+x@mail.example.org, please", "mail [e-mail], please"),
        ("<anna@example.org>", "<[e-mail]>"),
        ("o'brien@example.ie", "[e-mail]"),
        ("jürgen@müller.de", "[e-mail]"),
        ("me@localhost and @someone", "me@localhost and @someone"),
        ("call +49 171 2345678 now", "call [number] now"),
        ("call (0171) 234-5678", "call ([number]"),
        ("card 4111 1111 1111 1111.", "card [number]."),
        ("from 10.120.130.140", "from [number]"),
        ("123456 and 1234567", "123456 and [number]"),
        ("12 34 56 78 and 12 34 56 78 9", "12 34 56 78 and [number]"),
        ("1914-1918, 2026-11-26, 3.14159, 1,234,567", "1914-1918, 2026-11-26, 3.14159, 1,234,567"),
        ("٠١٢٣٤٥٦", "[number]"),
        ("token ghp_abcdefghij0123456789", "token [key]"),
        ("id 3f2504e0-4f89-11d3-9a0c-0305e82c3301!", "id [key]!"),
        ("abcdefghij1234abcde abcdefghij1234abcdef", "abcdefghij1234abcde [key]"),
        ("obsessive-compulsive electroencephalograms", "obsessive-compulsive electroencephalograms"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N", "[key].[key].[key]"),
        ("a -----BEGIN EC PRIVATE KEY-----\nabc\n-----END EC PRIVATE KEY----- b", "a [key] b"),
        ("-----BEGIN PRIVATE KEY-----\nabc, cut off", "[key]"),
    ],
)
def test_what_is_taken_out_and_what_stays(text, kept):
    assert redact(text) == kept


@example(text="a@b.c")
@given(text=CRUMBS | st.text())
def test_redacting_twice_is_redacting_once_and_what_comes_out_is_bounded(text):
    once = redact(text)
    assert redact(once) == once
    assert 5 * len(once) <= 8 * len(text)


@given(text=CRUMBS | st.text())
def test_what_stays_is_in_its_old_order_between_placeholders(text):
    once = redact(text)
    for placeholder in PLACEHOLDERS:
        once = once.replace(placeholder, "\0")
    rest = iter(text)
    assert all(letter in rest for letter in once if letter != "\0")


@pytest.mark.parametrize(
    "crumb", ["a", "a@", "a@b.c+", "1 ", "1a", "12 345 6 a", "-----BEGIN PRIVATE KEY-----", "(1/", "a."]
)
def test_the_longest_prompt_takes_milliseconds_whatever_is_in_it(crumb):
    text = (crumb * 16_384)[:16_384]
    started = time.process_time()
    redact(text)
    assert time.process_time() - started < 0.5


def test_only_what_was_asked_for_is_taken_out():
    text = "anna@example.org 12345678 ghp_abcdefghij0123456789"
    assert redact(text, "") == text
    assert redact(text, "numbers") == "anna@example.org [number] ghp_abcdefghij[number]"
    assert redact(text, " emails , keys,") == "[e-mail] 12345678 [key]"


def test_an_operator_s_function_comes_first_and_the_patterns_have_the_last_word():
    names = f"numbers,{__name__}:shout"
    assert redact("Anna, 12345678", names) == "[name], [number]"


@pytest.mark.parametrize("names", ["email", "numbers,nosuchmodule:f", f"{__name__}:nothing", f"{__name__}:ALL", "os:/"])
def test_a_name_that_leads_nowhere_is_refused(names):
    with pytest.raises(Rejected, match="bad_setting: QIG_REDACT="):
        redact("x", names)


@pytest.mark.parametrize("name", [f"{__name__}:fail", "builtins:len"])
def test_a_function_that_raises_or_gives_no_text_is_named_without_the_text(name):
    with pytest.raises(Rejected, match=f"redaction_failed: {name}") as raised:
        redact("swordfish", name)
    assert "swordfish" not in str(raised.value)


# Of an interaction


def interaction(micro, text, domain="heart"):
    ids = micro.encoder.encode(text)
    bits = micro.bits(ids, "heart")
    return Interaction("q", "c", text, 1.0, domain, micro.basin(ids), len(ids), len(text), bits, 12.0, "FOAM")


def test_what_has_nothing_to_hide_is_kept_as_it_is(micro):
    read = interaction(micro, "O sing again")
    assert redacted(micro, read, redactor(ALL, pkgutil.resolve_name)) is read


@pytest.mark.parametrize("domain", ["heart", None])
def test_what_was_measured_of_the_text_is_measured_of_what_is_kept(micro, domain):
    kept = redacted(micro, interaction(micro, "sing to anna@example.org", domain), redactor(ALL, pkgutil.resolve_name))
    same = interaction(micro, "sing to [e-mail]", domain)
    assert (kept.text, kept.tokens, kept.size_bytes, kept.domain) == (same.text, same.tokens, same.size_bytes, domain)
    assert (kept.basin == same.basin).all()
    if domain:
        assert kept.bits == same.bits
    assert (kept.kappa, kept.phase, kept.query_id) == (12.0, "FOAM", "q")


def test_nothing_left_is_nothing_kept(micro):
    assert redacted(micro, interaction(micro, "secret"), lambda _: " ") is None
