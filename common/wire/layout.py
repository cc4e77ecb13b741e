"""The golden packet drawn byte by byte, and the list of golden vectors: what docs/wire/packet.md has between its marks.

Everything outside the marks is written by hand. Pure: a page in, the page with its drawings renewed out.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]  # it ships no types

from common.wire import crystals, export, packet, packet_vectors

SHOWN_BYTES: Final = 12
MARK: Final = "<!-- {}: made by `make docs` -->\n"
END: Final = "<!-- end -->\n"


def drawn(page: str) -> str:
    """The page with what stands between its marks made anew. Raises ValueError where a mark or its end is missing."""
    blocks: dict[str, Callable[[], str]] = {"the golden packet": _packet, "the vectors": _vectors}
    for name, make in blocks.items():
        start = page.index(MARK.format(name)) + len(MARK.format(name))
        end = page.index(END, start)
        page = page[:start] + make() + page[end:]
    return page


def _packet() -> str:
    raw = export.golden_packet()
    return f"```\n  byte  size  {'bytes':<38} what\n" + "".join(_rows(raw)) + "```\n"


def _rows(raw: bytes) -> Iterator[str]:
    yield _row(0, raw[:1], "array of 9: the envelope")
    for name, start, end, _ in _fields(raw, packet.Envelope):
        if name != "body":
            yield _row(start, raw[start:end], name)
            continue
        body, size = packet.open_envelope(raw).body, end - start
        head = size - len(body)
        yield _row(start, raw[start : start + head], f"body: a bin of {len(body)} bytes")
        yield from _body_rows(body, start + head)


def _body_rows(body: bytes, at: int) -> Iterator[str]:
    yield _row(at, body[:1], "  array of 13")
    for name, start, end, value in _fields(body, packet.PacketBody):
        if name != "crystals":
            yield _row(at + start, body[start:end], f"  {name}")
            continue
        head = end - start - len(value)
        yield _row(at + start, body[start : start + head], f"  crystals: a bin of {len(value)} bytes")
        for title, first, last in crystals.sections(value):
            yield _row(at + start + head + first, value[first:last], f"    {title}")


def _fields(raw: bytes, cls: type[Any]) -> Iterator[tuple[str, int, int, Any]]:
    """Name, first byte, the byte after the last, and value of each field of an array."""
    reader = msgpack.Unpacker(use_list=False)
    reader.feed(raw)
    for name in list(cls.model_fields)[: reader.read_array_header()]:
        start = reader.tell()
        value = reader.unpack()
        yield name, start, reader.tell(), value


def _row(at: int, data: bytes, what: str) -> str:
    shown = data[:SHOWN_BYTES].hex(" ") + (" .." if len(data) > SHOWN_BYTES else "")
    return f"{at:6}{len(data):6}  {shown:<38} {what}\n"


def _vectors() -> str:
    rows = ["| packet | bytes | n-grams | what |\n|---|---|---|---|\n"]
    for name, case in packet_vectors.cases().items():
        found = len(packet_vectors.ngrams(case))
        rows.append(f"| {name} | {len(case.raw)} | {found} over {case.vocab_size} tokens | {case.what} |\n")
    rows.append(f"\n`vectors/packets_refused.json`: {len([*packet_vectors.refusals()])} packets to refuse:\n\n")
    rows.append("| code | what is wrong |\n|---|---|\n")
    rows.extend(f"| `{code}` | {what} |\n" for _, code, what in packet_vectors.refusals())
    return "".join(rows)
