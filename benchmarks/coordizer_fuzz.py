"""Claim: whatever goes in comes back or is refused by name, in time linear in its length.

Random inputs against the shipped artifact and its first 2,048 ids, until the seconds are over: bytes, runs of one byte,
any characters, torn UTF-8, names of special tokens, NUL. Each must come back, whole and as a stream, and text that has
a lone surrogate must be refused. Then 10 MB without a space, of one letter, of spaces, of NUL and of emoji: encoded,
decoded, and trained on.

    python benchmarks/coordizer_fuzz.py [--seconds 60] [--seed 0]
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from common.coordizer.artifacts import SPECIALS, prefix
from common.coordizer.encode import Encoder, StreamDecoder
from common.coordizer.train import train
from common.errors import Rejected
from services.trainer import coordizers

CLAIM = "any input comes back or is refused by name, in linear time"
SHIPPED = Path("data/coordizer-32k")
LARGE_BYTES = 10_000_000
LARGE_SECONDS = 2.0  # processor seconds to encode LARGE_BYTES; chosen: twice what plain text takes
LARGE = {"letters without a space": "abcdefghij", "one letter": "a", "spaces": " ", "NUL": "\0", "emoji": "\U0001f600"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    made = coordizers.read(SHIPPED)
    encoders = [Encoder(made), Encoder(prefix(made, 2048))]
    rng, until, inputs = np.random.default_rng(given.seed), time.monotonic() + given.seconds, 0
    while time.monotonic() < until:
        _check(encoders[inputs % 2], _random(rng), rng)
        inputs += 1
    _show("random inputs that came back or were refused", inputs, "inputs")
    for name, piece in LARGE.items():
        _large(encoders[0], name, piece * (LARGE_BYTES // len(piece.encode())))


def _random(rng):
    """Bytes of up to 4 KB, of one of many kinds."""
    size = int(rng.integers(0, 2 ** int(rng.integers(0, 13))))
    kind = rng.integers(0, 6)
    if kind == 0:
        return rng.bytes(size)
    if kind == 1:
        return bytes([int(rng.integers(0, 256))]) * size
    if kind == 2:
        return "".join(map(chr, rng.integers(0, 0xD800, size // 3))).encode()
    if kind == 3:
        return "".join(map(chr, rng.integers(0x10000, 0x110000, size // 4))).encode()[: int(rng.integers(0, size + 1))]
    words = [*SPECIALS, "the", " ", "\n\n", "'s", "é", "日本", "\0", "\u2028", "12", "!?", "\ud800"]
    text = "".join(words[number] for number in rng.integers(0, len(words), size // 4))
    return text.encode("utf-8", "surrogatepass")


def _check(encoder, raw, rng):
    ids = encoder.encode_bytes(raw)
    if encoder.decode(ids) != raw or (len(ids) and int(ids.max()) >= encoder.vocab_size):
        raise SystemExit(f"{raw!r} came back as {encoder.decode(ids)!r}")
    stream, at, told = StreamDecoder(encoder), 0, []
    while at < len(ids):
        step = int(rng.integers(1, 9))
        told.append(stream.push(ids[at : at + step]))
        at += step
    if "".join(told) + stream.finish() != raw.decode("utf-8", "replace"):
        raise SystemExit(f"{raw!r} came back otherwise as a stream")
    if b"\xed\xa0\x80" in raw and not _refused(encoder, raw.decode("utf-8", "surrogateescape")):
        raise SystemExit(f"{raw!r}, a lone surrogate in it, was not refused as text")


def _refused(encoder, text):
    try:
        encoder.encode(text)
    except Rejected as error:
        return error.code == "lone_surrogate"
    return False


def _large(encoder, name, text):
    start = time.process_time()
    ids = encoder.encode(text)
    seconds = time.process_time() - start
    if encoder.decode(ids) != text.encode():
        raise SystemExit(f"10 MB of {name} did not come back")
    _show(f"10 MB of {name}, encoding", seconds, "cpu-s", at_most=LARGE_SECONDS)
    start = time.process_time()
    train([text], vocab_size=2048)
    _show(f"10 MB of {name}, training", time.process_time() - start, "cpu-s")


def _show(case, value, unit, **more):
    print(json.dumps({"claim": CLAIM, "case": case, "value": round(value, 3), "unit": unit, **more}), flush=True)


if __name__ == "__main__":
    main()
