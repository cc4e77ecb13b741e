"""Inputs that are wrong, for the readers of benchmarks/fuzz.py. Each is drawn from the generator that it is given."""

import json
from typing import Any

import msgpack

ODD = (
    None, True, False, -1, 0, 1, 255, 4097, 2**31, 2**53, 2**63 - 1, 2**64 - 1, -(2**63), 0.5, -0.5, 1e308,
    float("nan"), float("inf"), "", "a", "\0", "é" * 40, "x" * 5000, "9" * 5000, "bundles/x", "../../etc", b"", b"\0",
    b"\xff" * 700, [], {}, [[]] * 300, {"v": 1}, [None] * 4097, ["ab"] * 1000, {"": {}}, [{}] * 999,
)  # fmt: skip


def mutated(rng, data, other=b""):
    """Flipped, cut, with a piece doubled, moved, overwritten, or of another one."""
    found = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        at, size = int(rng.integers(0, len(found) + 1)), int(2 ** rng.uniform(0, 8))
        kind = rng.integers(0, 7)
        if kind == 0 and at < len(found):
            found[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            found[at : at + size] = b""
        elif kind == 2:
            found[at:at] = found[at : at + size]
        elif kind == 3:
            found[at : at + size] = rng.bytes(size)
        elif kind == 4:
            found[at : at + 4] = int(rng.choice([0, 1, 2**16, 2**31, 2**32 - 1])).to_bytes(4, "big")
        elif kind == 5:
            begin = int(rng.integers(0, len(other) + 1))
            found[at : at + size] = other[begin : begin + size]
        else:
            del found[at:]
    return bytes(found)


def odd(rng):
    """A value that fits nowhere, or a deep or a long one."""
    kind = rng.integers(0, 8)
    if kind == 0:
        value: Any = ODD[int(rng.integers(0, len(ODD)))]
        for _ in range(int(2 ** rng.uniform(0, 9))):
            value = [value] if rng.random() < 0.7 else {"a": value}
        return value
    if kind == 1:
        return [ODD[int(rng.integers(0, len(ODD)))]] * int(2 ** rng.uniform(0, 9))
    if kind == 2:
        return {f"k{number}": number for number in range(int(2 ** rng.uniform(0, 11)))}
    return ODD[int(rng.integers(0, len(ODD)))]


def reshaped(rng, value):
    """One to three of the values at any depth replaced, left out, doubled, or joined by another."""
    for _ in range(int(rng.integers(1, 4))):
        value = _reshaped_once(rng, value)
    return value


def _reshaped_once(rng, value):
    if isinstance(value, dict | list | tuple) and value and rng.random() < 0.85:
        return _reshaped_inside(rng, value)
    if isinstance(value, bytes) and rng.random() < 0.5:
        return mutated(rng, value)
    if isinstance(value, int | float) and rng.random() < 0.4:
        return value * 2 + 1 if abs(value) < 1e15 else -value / 3
    return odd(rng)


def _reshaped_inside(rng, value):
    kind, at = rng.random(), int(rng.integers(0, len(value)))
    if not isinstance(value, dict):
        again = [value[at]] * int(2 ** rng.uniform(0, 6)) if 0.1 < kind < 0.2 else []
        inside = [] if kind < 0.1 else [_reshaped_once(rng, value[at])]
        return [*value[:at], *inside, *value[at + 1 :], *again]
    name = list(value)[at]
    if kind < 0.1:
        return {key: each for key, each in value.items() if key != name}
    if kind < 0.2:
        return value | {str(ODD[int(rng.integers(18, 24))])[:64]: odd(rng)}
    return value | {name: _reshaped_once(rng, value[name])}


def as_json(value):
    return json.dumps(value, default=lambda each: each.hex()).encode()


def announced(rng):
    """Headers of msgpack that announce up to 2^32 values, one in the other, with or without what they announce."""
    heads = []
    for _ in range(int(2 ** rng.uniform(0, 11))):
        size = int(rng.choice([1, 15, 4095, 4096, 65535]))
        head = int(rng.choice([0x90, 0x80, 0xDC, 0xDD, 0xDE, 0xDF, 0xC4, 0xC6, 0xC9, 0xDB, 0xDC, 0xDC]))
        if head in {0x90, 0x80}:
            heads.append(bytes([head | min(size, 15)]))
        else:
            width = {0xC4: 1, 0xDC: 2, 0xDE: 2}.get(head, 4)
            heads.append(bytes([head]) + min(size, 256**width - 1).to_bytes(width, "big"))
    fill = (b"\x80", b"\x90", b"\xa2ab", b"\xcd\x01\x01", b"\x91\x80", b"\x81\x00\x80", b"\xa1a\x80")
    if rng.random() < 0.3:  # the same one again and again
        heads = heads[:1] * len(heads)
    return b"".join(heads) + fill[int(rng.integers(0, len(fill)))] * int(2 ** rng.uniform(0, 18))


def lists(rng):
    """As many lists of lists as there is room for, whole."""
    fill = (b"\x80", b"\xa2ab", b"\xcd\x01\x01", b"\x91\x80", b"\x81\x00\x80")
    inside = int(2 ** rng.uniform(0, 12))
    row = b"\xdc" + inside.to_bytes(2, "big") + fill[int(rng.integers(0, len(fill)))] * inside
    rows = min(int(2 ** rng.uniform(0, 12)), 1_000_000 // len(row))
    return b"\xdc" + rows.to_bytes(2, "big") + row * rows


def named(rng, cls, value):
    """A map with the value in one of the message's fields."""
    name = list(cls.model_fields)[int(rng.integers(0, len(cls.model_fields)))]
    return b"\x82" + msgpack.packb("v") + b"\x01" + msgpack.packb(name) + value


def json_bomb(rng, cls):
    name = list(cls.model_fields)[int(rng.integers(0, len(cls.model_fields)))]
    piece = (b"[", b'{"a":', b"{},", b"[],", b'"ab",', b"999,", b'"\\u00e9",', b'"\xf0\x9f\x8c\x8a",')
    some = piece[int(rng.integers(0, len(piece)))] * int(2 ** rng.uniform(0, 17))
    if rng.random() < 0.3:
        some = b"{" + b",".join(b'"%06x":0' % number for number in range(int(2 ** rng.uniform(0, 15)))) + b"},"
    ends = (b"", b"0]}", b"0}", b"}")
    return b'{"v":1,"' + name.encode() + b'":[' + some + ends[int(rng.integers(0, len(ends)))]


def safetensors(rng, data):
    """Another header with a right length before it, or other numbers behind it."""
    end = 8 + int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8:end]), data[end:]
    kind = rng.integers(0, 6)
    if kind == 0:
        body = mutated(rng, body)
    elif kind == 1:
        names = list(header)
        one, other = (names[int(rng.integers(0, len(names)))] for _ in range(2))
        header[one], header[other] = header[other], header[one]
    elif kind == 2:
        name = list(header)[int(rng.integers(0, len(header)))]
        if "dtype" in header[name]:
            header[name] |= {
                "dtype": str(rng.choice(["F64", "I64", "BF16", "BOOL", "U8", "F8_E4M3", "U64", "F32", "C64"]))
            }
    elif kind == 3:
        return mutated(rng, data[:end]) + body
    else:
        header = reshaped(rng, header)
    told = as_json(header)
    if rng.random() < 0.05:
        told = b"[" * int(2 ** rng.uniform(8, 17))
    return len(told).to_bytes(8, "little") + told + body


def npy(rng, data):
    """Another header of an array in numpy's form."""
    end = 10 + int.from_bytes(data[8:10], "little")
    shape = ("(4, 64)", "(4,64)", "(-1, 64)", "(10**9, 64)", "(1000000000, 64)", "()", "(4, 64, 1)", "4", "[4, 64]",
             "(4.0, 64)", "(" * 150 + "4" + ")" * 150, "-" * 5000 + "4", "(True, 64)", "(9" + "9" * 4000 + ",)",
             "'\n'", '"""', "(4, 64", "\\", "$", "4L")  # fmt: skip
    types = ("<f8", "<f2", ">f8", "O", "|O", "<U99999999", "V8", "x", "<f8, <f8", "M8[s]", "<c16", "(9,)f8", "b")
    kind = types[int(rng.integers(0, len(types)))] if rng.random() < 0.5 else types[0]
    order = ("False", "True", "0", "None")[int(rng.integers(0, 4))] if rng.random() < 0.3 else "False"
    told = f"{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape[int(rng.integers(0, len(shape)))]}, }}"
    header = told.encode() if rng.random() < 0.7 else mutated(rng, told.encode())
    header = header[: 2**16 - 1]
    return (
        data[:6]
        + bytes([int(rng.choice([1, 1, 1, 2, 3])), 0])
        + len(header).to_bytes(2, "little")
        + header
        + data[end:]
    )
