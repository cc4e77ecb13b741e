"""Claim: whatever bytes a reader is given, it reads them or refuses them by name, in memory bounded by their length.

    python benchmarks/fuzz.py [messages] [parts] [coordizer] [trust] [blobs] [--minutes 1] [--seed 0]

Each for so many minutes, from one seed: what is right, with bits flipped, pieces cut, doubled, moved and overwritten;
with values, fields and lengths replaced by what they must not be, and put together again under a right length, digest
or signature; and headers that announce what is not there, lists in lists in lists.

messages: every message of common/wire/messages.py, as msgpack and as JSON, and the crystals and mentions in it. parts:
the parts of a bundle, one by one, and a whole one with a part that is wrong. coordizer: its four files, under a right
manifest too. trust: TUF's metadata in a broker, as an edge reads it, also signed by a publisher gone bad. blobs: chunks
in a broker.

Each must be read or refused (common/errors.py), with at most 10 times its bytes of memory at once, and beside them what
the limits of its reader say; a memory, which lies under zstd, 10 times what it unpacks to. benchmarks/packet.py does
the same to packets, benchmarks/coordizer_fuzz.py to text.
"""

import argparse
import asyncio
import json
import logging
import os
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # before numpy: it reads them when it is imported

import msgpack
import numpy as np
import zstandard
from mutations import announced, as_json, json_bomb, lists, mutated, named, npy, odd, reshaped, safetensors

from common.constants import ROLES
from common.constellation import integrator, paths
from common.constellation import parts as bundle_parts
from common.constellation.domains import MAX_VALUES as MAX_DOMAIN_VALUES
from common.constellation.domains import Domain, from_json
from common.coordizer import artifacts
from common.errors import Corrupt, QigError, Rejected, Unavailable
from common.geometry.simplex import uniform
from common.kernels import gate, memory, memory_file, weights
from common.kernels.spec import Spec
from common.runtime import embedded, keys, store, streams
from common.runtime.connection import connect
from common.runtime.trust import FILE_MAX_BYTES, Trust
from common.trust import roles
from common.trust.rings import RING
from common.trust.signing import PrivateKey
from common.wire import crystals, export, mentions
from common.wire.bundle import part_of, sign
from common.wire.codec import MAX_JSON_VALUES, MAX_VALUES, pack, unpack, unpack_reply
from common.wire.inference import Answer, Piece
from common.wire.messages import Batch, Candidate, Common, Evidence
from services.publisher import metadata
from services.trainer import coordizers

CLAIM = "any bytes are read or refused by name, in memory bounded by their length"
TIMES = 10  # the input
FIXED_BYTES = 100_000  # of any input: an unpacker, validators, exceptions, buffers
BROKER_BYTES = 400_000  # of any input that comes from a broker: what a client and a thread begin with
VALUE_BYTES = 128  # of a message: a reference to a packet has 7 values and takes 840
JSON_TIMES = 24  # its bytes, which a file of empty objects takes as values; such files have limits of their own
JSON_VALUE_BYTES = 800  # of a message as JSON: each of ten complaints may show all of it
ENTRY_BYTES = 200  # of an n-gram of a batch's crystals, of which every bit may be one
SPEC = Spec("micro", vocab=320, width=24, layers=1, loops=2, heads=2, context=32)


@dataclass(frozen=True)
class Reader:
    """draw: an input. read: raises a QigError, or takes it. allowed: bytes of memory at once."""

    draw: Callable[[np.random.Generator], Any]
    read: Callable[[Any], object]
    allowed: Callable[[Any], int]
    refusals: tuple[type[QigError], ...] = (Rejected, Corrupt)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[*READERS, []], default=[])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    logging.disable()
    for case in given.cases or READERS:
        until = time.monotonic() + 60 * given.minutes
        outcomes, closest = fuzz(case, given.seed, lambda _, until=until: time.monotonic() < until)
        _show(f"{case}, read or refused by name", outcomes.total(), "inputs", outcomes=dict(outcomes))
        _show(f"{case}, most memory of an input", closest, "of what is allowed")


def fuzz(case: str, seed: int, go_on: Callable[[int], bool]) -> tuple["Counter[str]", float]:
    """What became of the inputs, by code, and the most memory of one, as a share of what is allowed. go_on: given how
    many there were. Ends with SystemExit at what is neither read nor refused, or takes too much.
    """
    outcomes: Counter[str] = Counter()
    closest = 0.0
    with READERS[case]() as reader:
        rng = np.random.default_rng(seed)
        while go_on(outcomes.total()):
            given = reader.draw(rng)
            outcome, peak = _watched(reader, given)
            if peak > reader.allowed(given):  # once is what is made at the first of its kind; twice is the input
                outcome, peak = _watched(reader, given)
            share = peak / reader.allowed(given)
            if share > 1 or outcome.startswith("raised"):
                raise SystemExit(
                    f"{case}: {outcome}, {peak} B of {reader.allowed(given)} allowed: {repr(given)[:2000]}"
                )
            outcomes[outcome] += 1
            closest = max(closest, share)
    return outcomes, closest


def _watched(reader: Reader, given: Any) -> tuple[str, int]:
    tracemalloc.start()
    try:
        reader.read(given)
        outcome = "read"
    except reader.refusals as error:
        outcome = error.code
    except Exception as error:  # noqa: BLE001 -- whatever it is, it is what is looked for
        outcome = f"raised {error!r:.300}"
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return outcome, peak


# Messages


@contextmanager
def _messages() -> Iterator[Reader]:
    golden = export.golden()
    packed = [pack(message) for message in golden]
    told = [message.model_dump() for message in golden]

    def draw(rng):
        at = int(rng.integers(0, len(golden)))
        kind, changed = rng.integers(0, 8), reshaped(rng, told[at])
        kinds = {
            0: lambda: rng.bytes(int(2 ** rng.uniform(0, 12))),
            1: lambda: mutated(rng, packed[at], packed[int(rng.integers(0, len(golden)))]),
            2: lambda: announced(rng),
            3: lambda: named(rng, type(golden[at]), announced(rng) if rng.random() < 0.5 else lists(rng)),
            4: lambda: json_bomb(rng, type(golden[at])),
            5: lambda: as_json(changed),
            6: lambda: mutated(rng, as_json(changed)),
        }
        return type(golden[at]), kinds.get(int(kind), lambda: msgpack.packb(changed))()

    yield Reader(draw, _read_message, _allowed_message)


def _read_message(given):
    """And what is in it, as its readers do."""
    cls, body = given
    message = unpack(cls, body)
    if isinstance(message, Batch):
        for update in message.domains:
            crystals.decode(update.crystals, export.VOCAB_SIZE, crystals.BATCH_MAX_ENTRIES)
            gate.from_bytes(update.gate, len(update.gate) // gate.BUCKETS)
    elif isinstance(message, Common):
        mentions.decode(message.hashes, mentions.MAX_MENTIONS)
    elif isinstance(message, Answer | Piece):
        unpack_reply(body)


def _allowed_message(given):
    cls, body = given
    size = len(body)
    if body.startswith(b"{"):
        return TIMES * size + JSON_VALUE_BYTES * min(size, MAX_JSON_VALUES) + FIXED_BYTES
    ngrams = min(crystals.BATCH_MAX_ENTRIES, 4 * size) if cls is Batch else 0
    return TIMES * size + VALUE_BYTES * min(size, MAX_VALUES) + ENTRY_BYTES * ngrams + FIXED_BYTES


# Parts of a bundle


def _small_parts():
    """A constellation that has learned nothing, over the first ids of the shipped coordizer."""
    rng = np.random.default_rng(7)
    coordizer = artifacts.prefix(coordizers.read(Path("data/coordizer-32k")), SPEC.vocab)
    rows = tuple(map(tuple, gate.prior(2).tolist()))
    made, domains = bundle_parts.coordizer_parts(coordizer), {}
    for role in ROLES:
        tensors = {k: np.asarray(rng.normal(0, 0.1, s), np.float32) for k, s in weights.shapes(SPEC).items()}
        counted = memory.count([rng.integers(0, SPEC.vocab, 300).astype(np.int32)])
        made |= bundle_parts.kernel_part(role, SPEC, tensors) | bundle_parts.memory_part(role, counted)
        domains[role] = Domain(
            name=role, role=role, memories=(role,), basin=tuple(rng.dirichlet(np.ones(64)).tolist()), radius_rad=0.8,
            bits_per_byte=4.0, gate=rows,
        )  # fmt: skip
    tensors = {k: np.asarray(rng.normal(0, 0.1, s), np.float32) for k, s in integrator.SHAPES.items()}
    made |= bundle_parts.integrator_part(integrator.Integrator(tensors, uniform()))
    return made | bundle_parts.domains_part(domains) | bundle_parts.homes_part(dict.fromkeys(ROLES, uniform()))


@contextmanager
def _parts() -> Iterator[Reader]:
    good = _small_parts()
    kernel, table = paths.kernel_path("heart"), paths.memory_path("heart")
    readers: dict[str, Callable[[bytes], object]] = {
        kernel: weights.from_bytes,
        table: lambda data: memory_file.from_bytes(data, SPEC.vocab),
        paths.DOMAINS: from_json,
        paths.HOMES: bundle_parts._homes,  # noqa: SLF001 -- it has no other door
        paths.INTEGRATOR: integrator.from_bytes,
    }
    tracemalloc.start()
    bundle_parts.load(good)
    whole_bytes = 2 * tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    def draw(rng):
        path = list(readers)[int(rng.integers(0, len(readers)))]
        other = good[list(readers)[int(rng.integers(0, len(readers)))]]
        data = mutated(rng, good[path], other) if rng.random() < 0.2 else _forged(rng, path, good[path])
        return path, data, rng.random() < 0.2

    def read(given):
        path, data, whole = given
        if whole:
            bundle_parts.load(good | {path: data})
        else:
            readers[path](data)

    def allowed(given):
        path, data, whole = given
        size = _unpacked(data) if path == table else len(data)
        limits = {
            paths.DOMAINS: JSON_VALUE_BYTES * min(size, MAX_DOMAIN_VALUES),
            kernel: JSON_TIMES * weights.HEADER_MAX_BYTES,
        }
        return TIMES * size + limits.get(path, 0) + FIXED_BYTES + (whole_bytes if whole else 0)

    yield Reader(draw, read, allowed)


def _forged(rng, path, data):
    """The part, wrong inside what its form demands."""
    if path == paths.HOMES:
        return npy(rng, data)
    if path == paths.DOMAINS:
        bomb = json_bomb(rng, Batch)[int(rng.integers(0, 30)) :]
        return bomb if rng.random() < 0.15 else as_json(reshaped(rng, json.loads(data)))
    if not path.startswith("memories/"):
        return safetensors(rng, data)
    inside = zstandard.ZstdDecompressor().decompress(data)
    inside = mutated(rng, inside) if rng.random() < 0.4 else safetensors(rng, inside)
    if rng.random() < 0.05:
        inside += bytes(int(2 ** rng.uniform(0, 28.5)))
    return zstandard.ZstdCompressor(level=1, write_content_size=rng.random() < 0.9).compress(inside)


def _unpacked(data):
    """What may be read of a memory: what it unpacks to, where that is allowed at all."""
    try:
        size = zstandard.frame_content_size(data)
    except zstandard.ZstdError:
        return len(data)
    return max(len(data), size if size <= memory_file.unpacked_most(len(data)) else 0)


# Coordizer


@contextmanager
def _coordizer() -> Iterator[Reader]:
    made = artifacts.prefix(coordizers.read(Path("data/coordizer-32k")), 400)
    good = artifacts.to_parts(made)
    names = list(good)

    def draw(rng):
        name = names[int(rng.integers(0, len(names)))]
        data = good[name]
        kind = rng.random()
        if kind < 0.3:
            data = mutated(rng, data)
        elif name == "basin_coords.npy":
            data = npy(rng, data) if kind < 0.8 else data[:128] + rng.bytes(len(data) - 128)
        elif kind < 0.95:
            data = as_json(reshaped(rng, json.loads(data)))
        else:
            data = json_bomb(rng, Batch)[int(rng.integers(0, 30)) :]
        parts = good | {name: data}
        if name != "manifest.json" and rng.random() < 0.9:  # as who may make a manifest would
            manifest = json.loads(good["manifest.json"])
            manifest["parts"][name] = store.digest_of(data)
            parts["manifest.json"] = as_json(manifest)
        return parts

    def allowed(given):
        size = sum(map(len, given.values()))
        return TIMES * size + VALUE_BYTES // 2 * min(size, artifacts.JSON_MAX_VALUES) + FIXED_BYTES

    yield Reader(draw, artifacts.from_parts, allowed)


# Trust


@contextmanager
def _trust() -> Iterator[Reader]:
    with _broker() as (home, redis, run):
        keys.init(home, [])
        key = keys.load_private(home, keys.PUBLISHER)
        messages = {version: _bundle(version, key) for version in (1, 2)}
        good = dict(metadata.signed(keys.load_offline(home), messages, {}, key, now_s=time.time()))
        root = keys.load_root(home)
        listing = next(name for name in good if name.endswith(f"{roles.BUNDLES}.json"))

        def draw(rng):
            name = list(good)[int(rng.integers(0, len(good)))]
            data = good[name]
            kind = rng.random()
            if kind < 0.3:
                data = mutated(rng, data, good[list(good)[int(rng.integers(0, len(good)))]])
            elif kind < 0.55:
                data = as_json(reshaped(rng, json.loads(data)))
            elif kind < 0.65:
                data = json_bomb(rng, Batch)[int(rng.integers(0, 30)) :][: FILE_MAX_BYTES + 1]
            else:
                return good | _gone_bad(rng, good, listing, key)
            if rng.random() < 0.2:
                name = "2.root.json"
            return good | {name: data}

        def read(given):
            run(_look(redis, root, given, home / "state", messages[2]))

        def allowed(given):
            return TIMES * sum(map(len, given.values())) + JSON_TIMES * FILE_MAX_BYTES + BROKER_BYTES

        yield Reader(draw, read, allowed, (Corrupt, Unavailable))


async def _look(redis, root, files, folder, message):
    pipe = redis.pipeline()
    pipe.delete(streams.METADATA)
    pipe.hset(streams.METADATA, mapping=files)
    await pipe.execute()
    trust = Trust(redis, root, folder)
    for left in folder.glob("**/*.json"):
        left.unlink()
    await trust.verify(2, message)
    await trust.is_open(2, message, "edge-1")
    await trust.verify(3, message)


def _bundle(version, key):
    candidate = Candidate(
        id=f"c{version}", parent=version - 1, parent_digest="ab" * 32 if version > 1 else "",
        parts={"notes.bin": part_of(b"0")}, evidence=Evidence(),
    )  # fmt: skip
    return pack(sign(candidate, version=version, released_at_s=1.0, signing_key=key))


def _gone_bad(rng, good, listing, key):
    """The publisher's files, in one of which anything may stand, rightly signed and rightly named by the one above."""
    names = (listing, f"{listing.partition('.')[0]}.snapshot.json", metadata.TIMESTAMP)
    told = [json.loads(good[name])["signed"] for name in names]
    wrong = int(rng.integers(0, len(names)))
    part = "meta" if wrong else "targets"
    kind = rng.random()
    if kind < 0.2 and not wrong:
        target = told[wrong]["targets"]["bundles/2"] | {"custom": {RING: odd(rng)} if kind < 0.1 else odd(rng)}
        path = ("bundles/x", "bundles/-1", "bundles/" + "9" * 5000, "bundles/2")[int(rng.integers(0, 4))]
        told[wrong]["targets"] |= {path: target if kind < 0.15 else target | {"hashes": {"sha512": "00"}}}
    elif kind < 0.6:
        told[wrong][part] = reshaped(rng, told[wrong][part])
    else:
        told[wrong] = reshaped(rng, told[wrong])
    changed = {}
    for at in range(wrong, len(names)):
        changed[names[at]] = data = _signed(told[at], key)
        if at + 1 < len(names):
            of = names[at].partition(".")[2]
            told[at + 1]["meta"][of] |= {"length": len(data), "hashes": {"sha256": store.digest_of(data)}}
    return changed


def _signed(told, key):
    try:
        found = roles.opened(as_json({"signatures": [], "signed": told}))
        found.sign(PrivateKey(key))
        return found.to_bytes()
    except Exception:  # noqa: BLE001 -- TUF does not take it, so that nobody can sign it either
        return as_json({"signatures": [], "signed": told})


# Blobs


@contextmanager
def _blobs() -> Iterator[Reader]:
    with _broker() as (_, redis, run):
        whole = np.random.default_rng(1).bytes(2 * store.CHUNK_BYTES + 1000)

        def draw(rng):
            data = whole[: int(2 ** rng.uniform(0, 19.2))]
            chunks = [data[at : at + store.CHUNK_BYTES] for at in range(0, len(data), store.CHUNK_BYTES)]
            at = int(rng.integers(0, len(chunks)))
            kind = rng.integers(0, 6)
            if kind == 0:
                chunks[at] = mutated(rng, chunks[at])
            elif kind == 1:
                chunks[at] = chunks[at] * int(rng.integers(2, 9))
            elif kind == 2:
                del chunks[at]
            announced = int(
                rng.choice([len(data), len(data), len(data) + 1, max(0, len(data) - 1), 0, 2**30, 2**32, -1])
            )
            return chunks, store.digest_of(data), announced

        def read(given):
            chunks, digest, announced = given
            run(_fetch(redis, chunks, digest, announced))

        def allowed(given):
            return TIMES * sum(map(len, given[0])) + BROKER_BYTES

        yield Reader(draw, read, allowed, (Rejected, Corrupt, Unavailable))


async def _fetch(redis, chunks, digest, announced):
    pipe = redis.pipeline()
    for index in range(4):
        pipe.delete(store.chunk_key(digest, index))
    for index, chunk in enumerate(chunks):
        pipe.set(store.chunk_key(digest, index), chunk)
    await pipe.execute()
    await store.get(redis, digest, announced)


@contextmanager
def _broker():
    """A folder, a broker's client, and what runs a coroutine of it."""
    with tempfile.TemporaryDirectory() as scratch, asyncio.Runner() as runner:
        running = embedded.start(Path(scratch) / "broker")
        client = connect(running.url)
        try:
            yield Path(scratch) / "home", client, runner.run
        finally:
            runner.run(client.aclose())
            running.stop()


def _show(case, value, unit, **more):
    print(json.dumps({"claim": CLAIM, "case": case, "value": round(value, 3), "unit": unit, **more}), flush=True)


READERS = {"messages": _messages, "parts": _parts, "coordizer": _coordizer, "trust": _trust, "blobs": _blobs}

if __name__ == "__main__":
    main()
