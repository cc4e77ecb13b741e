r"""Redaction: what is not to be kept is taken out of a text before it is kept, and so before it is learned.

    "Write to anna@example.org or call +49 171 2345678."  ─▶  "Write to [e-mail] or call [number]."

    emails    a local part, an at sign, a domain with a dot
    numbers   7 digits in a row, or 9 in groups (blank, dot, slash, hyphen, brackets between): telephones, accounts
    keys      20 letters, digits and _ + / = - in a row with both letters and digits: tokens, hashes, UUIDs; and
              everything of a PEM private key

They are nets, not proofs: names, addresses and short secrets go through, and a long row of figures is taken for a
number. An operator's own function may know more. The prompt that a kernel reads is not changed, only what stays of it.

Pure. Rules the built-in patterns keep: redacting twice is redacting once; what comes out has at most 8 characters for 5
that came in; any text is taken; time is linear in its length. Patterns of our own: Presidio needs spaCy and a language
model, scrubadub needs scikit-learn and had its last release in 2023, detect-secrets judges lines of source code and had
its last in 2024, datafog knows no keys, telephone numbers of few countries, and reports on its use to its makers.

>>> redactor("emails,numbers", find=lambda name: None)("anna@example.org, 0171-234-5678")
'[e-mail], [number]'
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from common.constellation.constellation import Constellation
from common.coordizer.artifacts import EOS
from common.errors import Rejected
from services.edge.answer import Interaction

Redact = Callable[[str], str]

_PEM: Final = re.compile(
    r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)", re.DOTALL
)
_EMAIL: Final = re.compile(r"(?<![^\s@<>()\[\],;:\"])[^\s@<>()\[\],;:\"]++@[\w-]++(?:\.[\w-]++)++")
_NUMBER: Final = re.compile(r"\+?\d(?:(?:[ ./()-]{0,2}+\d){8,}+|\d{6,}+)")
_KEY: Final = re.compile(r"[A-Za-z0-9_+/=-]{20,}+")


def _emails(text: str) -> str:
    return _EMAIL.sub("[e-mail]", text)


def _numbers(text: str) -> str:
    return _NUMBER.sub("[number]", text)


def _keys(text: str) -> str:
    return _KEY.sub(_key, _PEM.sub("[key]", text))


def _key(found: re.Match[str]) -> str:
    run = found.group()
    mixed = any(letter.isdigit() for letter in run) and any(letter.isalpha() for letter in run)
    return "[key]" if mixed else run


BUILT_IN: Final[dict[str, Redact]] = {
    "emails": _emails,
    "keys": _keys,
    "numbers": _numbers,
}  # in the order of their use


def redactor(names: str, find: Callable[[str], object]) -> Redact:
    """The redaction that a setting names: built-in patterns and functions (MODULE:FUNCTION, str to str), by commas.

    find: gives what MODULE:FUNCTION names. The operator's functions come first, in their order; the patterns have the
    last word. The redaction raises Rejected("redaction_failed") when a function raises or returns no text.
    Raises Rejected("bad_setting") for a name that is neither, or that leads to no function.
    """
    wanted = [name for name in (part.strip() for part in names.split(",")) if name]
    own = [_own(name, find) for name in wanted if name not in BUILT_IN]
    patterns = [pattern for name, pattern in BUILT_IN.items() if name in wanted]

    def redact(text: str) -> str:
        for function in own:
            text = function(text)
        return settled(patterns, text)

    return redact


def redacted(constellation: Constellation, read: Interaction, redact: Redact) -> Interaction | None:
    """What is kept of an interaction: its text redacted, and what was measured of the text measured of that.

    None when nothing is left of it.
    """
    text = redact(read.text)
    if text == read.text:
        return read
    if not text.strip():
        return None
    ids = constellation.encoder.encode(text)
    prompt = ids if len(ids) else np.array([EOS], np.int32)
    basin = constellation.basin(prompt)
    home = read.domain or constellation.route(basin).steps[0].name
    bits = constellation.bits(prompt, home)
    size_bytes = len(text.encode("utf-8", "replace"))
    return replace(read, text=text, basin=basin, tokens=len(ids), size_bytes=size_bytes, bits=bits)


def settled(patterns: Sequence[Redact], text: str) -> str:
    """The patterns again and again until none finds anything: what one takes out may end what hid from another.

    Ends, because each time fewer characters are left outside the placeholders, in which no pattern finds anything.
    """
    while True:
        before = text
        for pattern in patterns:
            text = pattern(text)
        if text == before:
            return text


def _own(name: str, find: Callable[[str], object]) -> Redact:
    try:
        function = find(name) if ":" in name else None
    except (ImportError, AttributeError, ValueError) as error:
        raise Rejected("bad_setting", f"QIG_REDACT={name}: {error}; MODULE:FUNCTION must be importable") from error
    if not callable(function):
        known = ", ".join(BUILT_IN)
        raise Rejected("bad_setting", f"QIG_REDACT={name}: neither one of {known} nor a function as MODULE:FUNCTION")

    def run(text: str) -> str:
        try:
            done = function(text)
        except Exception as error:
            raise Rejected("redaction_failed", f"{name} raised {type(error).__name__}: mend it") from error
        if not isinstance(done, str):
            raise Rejected("redaction_failed", f"{name} returned {type(done).__name__}, not text: mend it")
        return done

    return run
