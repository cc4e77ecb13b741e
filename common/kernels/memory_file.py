"""A memory as bytes: zstd over safetensors, keys as differences so that they compress. Deterministic."""

from typing import Final

import numpy as np
import safetensors
import safetensors.numpy
import zstandard

from common.errors import Rejected
from common.kernels.memory import ORDERS, TOKEN_BITS, TOKEN_MASK, Memory, Table

MAX_BYTES: Final = 1 << 28  # of one memory, decompressed: 20 million n-grams
LEVEL: Final = 9


def to_bytes(memory: Memory) -> bytes:
    """About 5 bytes an n-gram on English text at 2K tokens (docs/experiments.md)."""
    arrays = {}
    for order, table in enumerate(memory.tables):
        arrays[f"{order}.keys"] = np.diff(table.keys, prepend=np.uint64(0))
        arrays[f"{order}.counts"] = table.counts
        arrays[f"{order}.contexts"] = np.diff(table.contexts, prepend=np.uint64(0))
        arrays[f"{order}.totals"] = table.totals
    return zstandard.ZstdCompressor(level=LEVEL).compress(safetensors.numpy.save(arrays))


def from_bytes(data: bytes, vocab: int) -> Memory:
    """The inverse of `to_bytes`. Raises Rejected("bad_memory") unless keys ascend, ids are below vocab, and counts are
    positive.
    """
    try:
        size = zstandard.frame_content_size(data)
        if not 0 <= size <= MAX_BYTES:
            raise Rejected("bad_memory", f"a memory of {size} bytes decompressed; the limit is {MAX_BYTES}")
        arrays = safetensors.numpy.load(zstandard.ZstdDecompressor().decompress(data, max_output_size=MAX_BYTES))
        tables = [_table(arrays, order) for order in range(len(arrays) // 4)]
    except (zstandard.ZstdError, safetensors.SafetensorError, KeyError, ValueError) as error:
        raise Rejected("bad_memory", f"{len(data)} bytes are not a memory: {error}") from error
    if not 0 < len(tables) <= ORDERS:
        raise Rejected("bad_memory", f"a memory of {len(tables)} orders; 1 to {ORDERS} are known")
    for order, table in enumerate(tables):
        _check(table, order, vocab)
    return Memory(tuple(tables))


def _table(arrays: dict[str, np.ndarray], order: int) -> Table:
    keys, contexts = (np.cumsum(arrays[f"{order}.{name}"], dtype=np.uint64) for name in ("keys", "contexts"))
    counts, totals = (arrays[f"{order}.{name}"].astype(np.uint32) for name in ("counts", "totals"))
    if counts.shape != keys.shape or totals.shape != contexts.shape or keys.ndim != 1 or contexts.ndim != 1:
        raise ValueError(f"order {order}: columns of different lengths")
    return Table.of(keys, counts, contexts, totals)


def _check(table: Table, order: int, vocab: int) -> None:
    """Sorted, unique, in range, positive; and every n-gram's context is listed, or its mass would be lost."""
    for keys, tokens in ((table.keys, order + 1), (table.contexts, order)):
        if len(keys) > 1 and not (keys[1:] > keys[:-1]).all():
            raise Rejected("bad_memory", f"order {order}: keys do not ascend")
        rest = keys
        for _ in range(tokens):
            if len(rest) and int((rest & TOKEN_MASK).max()) >= vocab:
                raise Rejected(
                    "bad_memory",
                    f"order {order}: a token id of {int((rest & TOKEN_MASK).max())}; the vocabulary has {vocab}",
                )
            rest = rest >> TOKEN_BITS
        if len(rest) and int(rest.max()):
            raise Rejected("bad_memory", f"order {order}: a key holds more than {tokens} tokens")
    if (table.counts == 0).any() or (table.totals == 0).any():
        raise Rejected("bad_memory", f"order {order}: a count of zero")
    if not np.isin(np.unique(table.keys >> TOKEN_BITS), table.contexts).all():
        raise Rejected("bad_memory", f"order {order}: an n-gram whose context is not listed")
