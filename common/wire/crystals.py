"""Crystals as bytes: a header that says how, and n-grams in one of three forms. The first two need no base model.

    +------+-------+------------+----------------------------------------------------------------------------+
    | form | crc32 | vocabulary | 1  plain.py     Rice-coded columns: batches, and packets of older software  |
    | u8   | u32   | u16        | 2  adaptive.py  a range coder that learns as it goes                        |
    |      |       |            | 3  adaptive.py  the same, beginning with what the base expects: packets     |
    +------+-------+------------+----------------------------------------------------------------------------+
      little-endian; crc32 is over (form 3: the name of what the base expects,) form and everything after the crc

Both round counts and totals alike (levels.py), and of both decoding and encoding again gives the same bytes. Rules kept
here: size, form, crc and vocabulary are checked before anything is decoded; what a caller allows bounds every loop and
allocation (ENTRY_BYTES); anything wrong ends as Rejected.

>>> one = crystals([entry((), 7, count=2, total=5), entry((7,), 9, count=2, total=2)])
>>> decode(encode(one, 16), 16, max_entries=10).orders[1].keys
array([229385], dtype=uint64)
"""

import struct
import zlib
from typing import Final

import numpy as np
import numpy.typing as npt

from common.errors import Rejected
from common.wire import adaptive, plain
from common.wire.expected import NOTHING, Prior
from common.wire.fields import CRYSTALS_MAX_BYTES
from common.wire.levels import LEVELS, counted
from common.wire.ngrams import MAX_TOTAL, MAX_VOCAB, Crystals, Order, capped, check, crystals, empty, entry, merge, take

__all__ = [
    "LEVELS", "Crystals", "Order", "Prior", "check", "crystals", "decode", "encode", "entry", "fit", "merge", "take",
]  # fmt: skip

HEADER: Final = struct.Struct("<BIH")
PACKET_MAX_ENTRIES: Final = 4096  # 2,900 bytes hold some 2,700 that a fold of English text chooses
BATCH_MAX_ENTRIES: Final = 1 << 17  # 192 KiB at 12 bits
PACKET_MAX_TOTAL: Final = (1 << 24) - 1  # chosen: 16 million tokens between two sleeps; 256 packets add up below 2^32
PACKET_MAX_COUNTED: Final = 1 << 20  # chosen: counts of one order beyond the tokens of the sleep; they may wait long
ENTRY_BYTES: Final = 48  # measured at worst 44, of triples that share no token; what they come to takes 24


def encode(found: Crystals, vocab_size: int) -> bytes:
    """The plain form. Raises Rejected: bad_crystals when they break the rules of ngrams.py, oversized above 192 KiB."""
    blob = _with_header(plain.FORM, vocab_size, plain.encode(check(found, vocab_size)))
    _check_size(blob)
    return blob


def decode(
    blob: bytes, vocab_size: int, max_entries: int, *, max_total: int = MAX_TOTAL, prior: Prior | None = None
) -> Crystals:
    """The crystals in a blob of any form: counts and totals as rounded.

    max_entries, max_total: what the caller allows (for a packet PACKET_MAX_ENTRIES, PACKET_MAX_TOTAL); prior: what the
    base expects, which form 3 needs. Raises Rejected: oversized, bad_crystals, wrong_vocabulary, unknown_base,
    too_many_entries.
    """
    form, rest = _checked(blob, vocab_size, prior)
    if form == plain.FORM:
        depths = plain.decode(rest, vocab_size, max_entries)
    elif prior is None or form == adaptive.FORM:
        depths = adaptive.decode(rest, vocab_size, max_entries)
    else:
        depths = adaptive.decode(rest, vocab_size, max_entries, prior.expected)
    one, two, three = (counted(depth, max_total) for depth in depths)
    found = Crystals((one, two, three))
    if found.entries > max_entries:
        raise Rejected("too_many_entries", f"{found.entries} n-grams; {max_entries} are allowed: send fewer")
    return found


def _with_header(form: int, vocab_size: int, rest: bytes, name: bytes = b"") -> bytes:
    """name: of the prior, which the crc begins with."""
    blob = HEADER.pack(form, 0, vocab_size) + rest
    return HEADER.pack(form, _crc(blob, name), vocab_size) + rest


def _check_size(blob: bytes) -> None:
    if len(blob) > CRYSTALS_MAX_BYTES:
        raise Rejected("oversized", f"crystals of {len(blob)} bytes; the limit is {CRYSTALS_MAX_BYTES}: send fewer")


def _checked(blob: bytes, vocab_size: int, prior: Prior | None) -> tuple[int, bytes]:
    """The form, and what follows the header, once size, form, base, crc and vocabulary hold."""
    _check_size(blob)
    vocab = stated_vocabulary(blob)
    form, crc, _ = HEADER.unpack_from(blob)
    if form not in (plain.FORM, adaptive.FORM, adaptive.BASED):
        raise Rejected("bad_crystals", f"crystals in form {form}; this software reads forms 1, 2 and 3")
    if form == adaptive.BASED and prior is None:
        raise Rejected("unknown_base", "crystals told by what a base expects: read them with the bundle that they name")
    name = prior.name if prior is not None and form == adaptive.BASED else b""
    if crc != _crc(blob, name):
        raise Rejected("bad_crystals", f"crystals of {len(blob)} bytes whose crc32 is not {crc:08x}: send them again")
    if vocab != vocab_size or vocab > MAX_VOCAB:
        raise Rejected(
            "wrong_vocabulary", f"crystals over {vocab} tokens, where {vocab_size} are known: encode them for this base"
        )
    return form, blob[HEADER.size :]


def _crc(blob: bytes, name: bytes) -> int:
    return zlib.crc32(blob[5:], zlib.crc32(blob[:1], zlib.crc32(name)))


def is_based(blob: bytes, prior: Prior | None = None) -> bool:
    """Whether crystals are told by what a base expects, and by this if it is given. blob: at least a header."""
    based = blob[0] == adaptive.BASED
    return based and (prior is None or _crc(blob, prior.name) == HEADER.unpack_from(blob)[1])


def stated_vocabulary(blob: bytes) -> int:
    """The vocabulary size that crystals state; who knows another refuses them. Raises Rejected("bad_crystals")."""
    if len(blob) < HEADER.size:
        raise Rejected("bad_crystals", f"crystals of {len(blob)} bytes; the header alone takes {HEADER.size}")
    vocab_size: int = HEADER.unpack_from(blob)[2]
    return vocab_size


def sections(blob: bytes) -> list[tuple[str, int, int]]:
    """What lies where in crystals: name, first byte, the byte after the last."""
    form, rest = blob[0], blob[HEADER.size :]
    own = plain.sections(rest) if form == plain.FORM else adaptive.sections(rest)
    names, lengths = zip(("form", 1), ("crc32", 4), ("vocabulary", 2), *own, strict=True)
    ends = np.cumsum(lengths).tolist()
    return list(zip(names, [0, *ends[:-1]], ends, strict=True))


def fit(
    found: Crystals,
    ranking: npt.NDArray[np.intp],
    *,
    vocab_size: int,
    budget_bytes: int,
    prior: Prior | None = None,
) -> tuple[Crystals, bytes]:
    """As many of the best n-grams as a packet may bring, in the adaptive form: what a reader decodes, and the bytes.

    ranking: places of entries as in `take`, best first, each once; what it does not name is never sent. All of it is
    tried first, then at most log2(n) beginnings. The size does not grow with every entry (a part that was a node
    already costs less than nothing when it is counted too), so that now and then a longer beginning would have fitted
    as well. Whatever is found, a centre takes it: at most budget_bytes and PACKET_MAX_ENTRIES, and counts that waited
    for ever are scaled down to PACKET_MAX_COUNTED. No bytes at all when not even the header fits. prior: what the base
    expects, for form 3; None: form 2, which needs no base.
    """
    found = capped(check(found, vocab_size), PACKET_MAX_COUNTED - PACKET_MAX_ENTRIES)  # a scaled count may stay 1
    budget_bytes = min(budget_bytes, CRYSTALS_MAX_BYTES)
    blob = _prefix(found, ranking[:0], vocab_size, budget_bytes, prior)
    if blob is None:
        return empty(), b""
    fits, too_many = 0, min(len(ranking), PACKET_MAX_ENTRIES) + 1
    trial = too_many - 1
    while too_many - fits > 1:
        attempt = _prefix(found, ranking[:trial], vocab_size, budget_bytes, prior)
        if attempt is not None:
            fits, blob = trial, attempt
        else:
            too_many = trial
        trial = (fits + too_many) // 2
    return decode(blob, vocab_size, fits, max_total=PACKET_MAX_TOTAL, prior=prior), blob


def _prefix(
    found: Crystals, chosen: npt.NDArray[np.intp], vocab_size: int, budget_bytes: int, prior: Prior | None
) -> bytes | None:
    """The chosen n-grams as bytes, None where they need more than the budget."""
    mask = np.zeros(found.entries, np.bool_)
    mask[chosen] = True
    expected, form, name = NOTHING, adaptive.FORM, b""
    if prior is not None:
        expected, form, name = prior.expected, adaptive.BASED, prior.name
    rest = adaptive.encode(take(found, mask), vocab_size, max_bytes=budget_bytes - HEADER.size, expected=expected)
    return None if rest is None else _with_header(form, vocab_size, rest, name)
