"""A memory as bytes. Deterministic: equal memories give equal bytes.

An order's contexts are the leaves of a trie, oldest token first, and its n-grams hang below them. What is written of
a trie is, for each level, how many children every node has and the gaps between the tokens of siblings:

    contexts of order 2   (3 5) (3 9) (7 1)      0.children [2]     0.tokens [3 3]         3, 3+1+3
                                                 1.children [2 1]   1.tokens [5 3 | 1]     5, 5+1+3 | 1
    their n-grams         3 5 4, 3 9 2, 3 9 3    followers [1 2 0]  tokens [4 | 2 0]
                                                 counts, and rest: what a context's total has beyond its counts
                                                 lack: what it is short of them, where one is (a residue's)

Each column lies in byte planes, lowest first, inside safetensors under zstd: 20.6 bits an n-gram on English text at 4K
tokens, where sorted 64-bit keys as differences take 38 (docs/experiments.md).
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy
import zstandard

from common.errors import Rejected
from common.kernels.memory import TOKEN_BITS, TOKEN_MASK, Keys, Memory, Table
from common.kernels.spec import ORDERS

MAX_BYTES: Final = 1 << 28  # of one memory, decompressed: 50 million n-grams
_RATIO: Final = 32  # to what a memory may unpack, chosen: those of English text do to 2.8 times their size
_SMALL_BYTES: Final = 1 << 20  # or to this, if it is more
COUNT_MAX: Final = (1 << 32) - 1
LEVEL: Final = 9

Columns = dict[str, npt.NDArray[np.int64]]


def to_bytes(memory: Memory) -> bytes:
    """The inverse of `from_bytes`. Every n-gram's context must be listed, or its mass would be lost."""
    columns: Columns = {}
    for order, table in enumerate(memory.tables):
        assert np.isin(table.keys >> TOKEN_BITS, table.contexts).all(), f"order {order}: an n-gram without its context"
        columns |= {f"{order}.{name}": column for name, column in _columns(table, order).items()}
    planes = {name: _planes(column) for name, column in columns.items()}
    return zstandard.ZstdCompressor(level=LEVEL).compress(safetensors.numpy.save(planes))


def from_bytes(data: bytes, vocab: int) -> Memory:
    """Raises Rejected("bad_memory") unless the tries are whole, ids are below vocab, and counts are positive."""
    try:
        size, limit = zstandard.frame_content_size(data), unpacked_most(len(data))
        if not 0 <= size <= limit:
            raise Rejected("bad_memory", f"a memory of {size} bytes decompressed; the limit is {limit}")
        planes = safetensors.numpy.load(zstandard.ZstdDecompressor().decompress(data, max_output_size=limit))
        orders = sum(name.endswith(".rest") for name in planes)
        if not 0 < orders <= ORDERS:
            raise Rejected("bad_memory", f"a memory of {orders} orders; 1 to {ORDERS} are known")
        wanted = {f"{order}.{name}" for order in range(orders) for name in _names(order)}
        if odd := set(planes) - {f"{order}.lack" for order in range(orders)} ^ wanted:
            raise Rejected("bad_memory", f"columns missing or unknown: {', '.join(sorted(odd))[:80]}")
        return Memory(tuple(_table(planes, order, vocab) for order in range(orders)))
    except (zstandard.ZstdError, safetensors.SafetensorError, KeyError, ValueError) as error:
        raise Rejected("bad_memory", f"{len(data)} bytes are not a memory: {error}") from error


def unpacked_most(size_bytes: int) -> int:
    """To how many bytes a memory of so many may unpack."""
    return min(MAX_BYTES, max(_SMALL_BYTES, _RATIO * size_bytes))


def _columns(table: Table, order: int) -> Columns:
    columns: Columns = {}
    owner: npt.NDArray[np.int64] = np.zeros(len(table.contexts), np.int64)
    owners = 1
    for level in range(order):
        prefixes = table.contexts >> (TOKEN_BITS * np.uint64(order - 1 - level))
        first = np.append(True, prefixes[1:] != prefixes[:-1])[: len(prefixes)]
        columns[f"{level}.children"] = np.bincount(owner[first], minlength=owners)
        columns[f"{level}.tokens"] = _gaps(prefixes[first], owner[first])
        owner = np.cumsum(first) - 1
        owners = int(first.sum())
    followers = np.diff(table.starts)
    columns["followers"] = followers
    columns["tokens"] = _gaps(table.keys, np.repeat(np.arange(len(followers)), followers))
    columns["counts"] = table.counts.astype(np.int64) - 1
    rest = table.totals.astype(np.int64) - table.known
    columns["rest"] = np.maximum(rest, 0)
    if rest.min(initial=0) < 0:
        columns["lack"] = np.maximum(-rest, 0)
    return columns


def _names(order: int) -> list[str]:
    trie = [f"{level}.{name}" for level in range(order) for name in ("children", "tokens")]
    return [*trie, "followers", "tokens", "counts", "rest"]


def _table(planes: Mapping[str, npt.NDArray[np.uint8]], order: int, vocab: int) -> Table:
    columns = {f"{order}.{name}": _column(planes[f"{order}.{name}"]) for name in _names(order)}
    contexts: npt.NDArray[np.uint64] = np.zeros(len(columns[f"{order}.followers"]) if order == 0 else 1, np.uint64)
    if len(contexts) > 1:
        raise ValueError("order 0 has one context, the empty one")
    for level in range(order):
        name = f"{order}.{level}"
        contexts = _below(contexts, columns[f"{name}.children"], columns[f"{name}.tokens"], vocab)
    followers, counts, rest = (columns[f"{order}.{name}"] for name in ("followers", "counts", "rest"))
    keys = _below(contexts, followers, columns[f"{order}.tokens"], vocab)
    if len(counts) != len(keys) or len(rest) != len(contexts):
        raise ValueError(f"order {order}: columns of different lengths")
    if counts.max(initial=0) >= COUNT_MAX:
        raise ValueError(f"order {order}: a count above {COUNT_MAX}")
    table = Table.of(keys, (counts + 1).astype(np.uint32), contexts, rest.astype(np.uint32))
    full = table.known + rest
    if len(full) and not 0 < full.min() <= full.max() <= COUNT_MAX:
        raise ValueError(f"order {order}: a total outside 1 to {COUNT_MAX}")
    lack = _column(planes[f"{order}.lack"]) if f"{order}.lack" in planes else np.zeros_like(full)
    if len(lack) != len(full) or (lack > table.known).any():
        raise ValueError(f"order {order}: totals short of more than the counts, or of another number")
    totals = full - lack
    return Table.of(keys, table.counts, contexts, totals.astype(np.uint32))


def _gaps(nodes: Keys, owner: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Each node's token less its elder sibling's and one; the eldest's is its own."""
    tokens = (nodes & TOKEN_MASK).astype(np.int64)
    gaps = tokens.copy()
    siblings = owner[1:] == owner[:-1]
    gaps[1:][siblings] -= tokens[:-1][siblings] + 1
    return gaps


def _below(parents: Keys, children: npt.NDArray[np.int64], gaps: npt.NDArray[np.int64], vocab: int) -> Keys:
    """The nodes one level below `parents`, in order. Checked before anything is allocated by the counts."""
    if len(children) != len(parents) or int(children.sum()) != len(gaps):
        raise ValueError("a trie whose numbers of children do not add up")
    ends = np.cumsum(children)
    climbed = np.concatenate([[0], np.cumsum(gaps + 1)])
    tokens = climbed[1:] - np.repeat(climbed[ends - children], children) - 1
    if len(tokens) and int(tokens.max()) >= vocab:
        raise Rejected("bad_memory", f"a token id of {int(tokens.max())}; the vocabulary has {vocab}")
    nodes: Keys = np.repeat(parents, children) << TOKEN_BITS | tokens.astype(np.uint64)
    return nodes


def _planes(column: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """(bytes, N): as many planes as the largest value needs, at least one."""
    planes = max(1, (int(column.max(initial=0)).bit_length() + 7) // 8)
    return np.stack([(column >> 8 * plane & 0xFF).astype(np.uint8) for plane in range(planes)])


def _column(planes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    if planes.dtype != np.uint8 or planes.ndim != 2 or not 0 < len(planes) <= 4:
        raise ValueError(f"a column of {planes.dtype} {planes.shape}; one to four byte planes are known")
    column = np.zeros(planes.shape[1], np.int64)
    for number, plane in enumerate(planes):
        column |= plane.astype(np.int64) << 8 * number
    return column
