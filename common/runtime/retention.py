"""The table of docs/broker.md: who writes and reads each stream, how much of it stays, and what happens beyond."""

from typing import Final, NamedTuple

from common.runtime import streams

MARK: Final = "<!-- retention: made by `make docs` -->\n"
END: Final = "<!-- end -->\n"


class Row(NamedTuple):
    """One stream. beyond: at the limit, and for a reader that is further behind than what is kept."""

    stream: str
    writers: str
    readers: str
    beyond: str


ROWS: Final = (
    Row(
        streams.QUERIES, "clients", "edges, a group",
        "refused: `common.client` waits, `qig dead replay` stops; an `XADD` by hand is taken all the same",
    ),
    Row(streams.PACKETS, "edges", "aggregators, a group", "refused: packets wait in the edge's file, tried each 5 s"),
    Row(streams.BATCHES, "aggregators", "trainers, a group", "refused: nothing is cut, packets wait in the ledger"),
    Row(streams.CANDIDATES, "trainers", "publishers, a group", "refused: the trainer holds its batch"),
    Row(
        streams.BUNDLES, "publishers", "edges, aggregators, publishers, clients that watch",
        "the oldest go: who was away takes the newest; packets that only older ones name are given up by their edge",
    ),
    Row(
        streams.RETURNED, "aggregators, trainers, publishers", "edges",
        "the oldest go: an edge gives up by itself what it heard nothing of",
    ),
    Row(
        streams.COMMON, "aggregators", "edges in private mode",
        "the oldest go: what an edge missed is told again once it mentions it again",
    ),
    Row(
        streams.APPLIED, "edges", "publishers, clients that watch",
        "the oldest go: of a bundle as many verdicts count; for one that was never heard, silence",
    ),
    Row(streams.HEART, "all services", "`qig watch`, clients that watch", "the oldest go: the next comes in 5 s"),
    Row(streams.CANCEL, "clients", "edges", "the oldest go: an edge that was away has nothing to cancel"),
    Row(
        f"{streams.ANSWERS}CLIENT", "edges", "that client",
        "the oldest go: who does not read does not stop an edge; asked again under another id it is answered again",
    ),
    Row(
        "{STREAM}:dead", "whoever reads the stream", "`qig dead`, clients (of queries)",
        "the oldest go: what is wrong does not stop what is right",
    ),
    Row(
        "{STREAM}:outbox", "whoever reads the stream", "the relay",
        "refused: the handler's work waits until some is carried",
    ),
)  # fmt: skip


def drawn(page: str) -> str:
    """The page with what stands between its marks made anew. Raises ValueError where a mark or its end is missing."""
    start = page.index(MARK) + len(MARK)
    table = "| stream | written by | read by | stays | beyond that |\n|---|---|---|---|---|\n"
    table += "".join(
        f"| `{row.stream}` | {row.writers} | {row.readers} | {_stays(row)} | {row.beyond} |\n" for row in ROWS
    )
    return page[:start] + table + page[page.index(END, start) :]


def _stays(row: Row) -> str:
    if row.stream.endswith(":outbox"):
        return f"{streams.OUTBOX_MAX_ENTRIES:,}"
    kept = streams.retention(streams.dead(streams.QUERIES) if row.stream.endswith(":dead") else row.stream)
    said = f"{kept.entries:,}"
    if kept.kind == "letters":
        said += f" and {streams.DEAD_MAX_BYTES >> 20} MB"
    if kept.idle_s is not None:
        said += f", {kept.idle_s // 3600} h after the last"
    return said
