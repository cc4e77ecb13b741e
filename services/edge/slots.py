"""Bundles on disk: two slots and a pointer, so that no kill and no flipped bit leaves an edge without a constellation.

    bundles/
      parts/<sha256>     every part once, by content: a bundle that changes one memory writes one file
      a   b              a slot each: 32 bytes sha256 of the rest, then the bundle's packed message
      current            "a" or "b"

A new bundle is written to the slot that is not current, then `current` is renamed over. Each file is written beside its
place, flushed to the disk and renamed, so that at any moment a name holds its old bytes or its new ones, whole. What is
read is checked against its digest; a slot that fails is passed over for the other one. Parts that no slot names are
deleted once a new slot stands.

Knows nothing of signatures (who signed is checked before a bundle comes here), constellations or brokers.
"""

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.errors import Corrupt, QigError, Rejected, Unavailable
from common.wire.bundle import check_part
from common.wire.codec import pack, unpack
from common.wire.messages import MESSAGE_MAX_BYTES, Bundle, Part

NAMES: Final = ("a", "b")
CURRENT: Final = "current"
DIGEST_BYTES: Final = 32
PENDING_SUFFIX: Final = ".part"


@dataclass(frozen=True, slots=True)
class Installed:
    """A bundle whose every part was read and matched its digest. passed_over: why the current slot was not used."""

    slot: str
    bundle: Bundle
    parts: dict[str, bytes]
    passed_over: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Slots:
    """The bundles under `root`, which is made when it is missing. One process writes there at a time."""

    root: Path

    def has(self, part: Part) -> bool:
        """Whether a part's bytes lie here, whole; what is damaged counts as missing, so that it is fetched again."""
        try:
            self.read(part)
        except QigError:
            return False
        return True

    def read(self, part: Part) -> bytes:
        """A part's bytes. Raises Corrupt("part_digest"), Unavailable("part_missing" or what the disk says)."""
        path = self._part(part.digest)
        with _disk(path):
            if not path.exists():
                raise Unavailable("part_missing", f"part {part.digest} is not on disk: fetch it from the store")
            data = path.read_bytes()
        check_part(data, part)
        return data

    def put(self, part: Part, data: bytes) -> None:
        """Keep a part's bytes. Raises Corrupt("part_digest") unless they are the part's, and what the disk says."""
        check_part(data, part)
        _replace(self._part(part.digest), data)

    def activate(self, bundle: Bundle) -> str:
        """Make `bundle`, whose parts are all here, the current one; returns the slot. The other stays as the last good.

        A kill before the last rename leaves the old bundle current, after it the new one. Raises Corrupt, Unavailable.
        """
        for part in bundle.parts.values():
            self.read(part)
        slot = self._spare()
        body = pack(bundle)
        _replace(self.root / slot, hashlib.sha256(body).digest() + body)
        _replace(self.root / CURRENT, slot.encode())
        self.collect()
        return slot

    def load(self) -> Installed | None:
        """The current bundle; the other slot's when the current one is damaged; None when no slot holds anything whole.

        Raises Unavailable when the disk does not answer, which is not the same as damage.
        """
        reasons: list[str] = []
        for slot in self._order():
            try:
                bundle = self._bundle(slot)
                if bundle is not None:
                    parts = {path: self.read(part) for path, part in sorted(bundle.parts.items())}
                    return Installed(slot, bundle, parts, tuple(reasons))
            except (Corrupt, Rejected) as error:
                reasons.append(f"slot {slot}: {error}")
            except Unavailable as error:
                if error.code != "part_missing":
                    raise
                reasons.append(f"slot {slot}: {error}")
        return None

    def collect(self) -> int:
        """Delete the parts that no slot names and what an interrupted write left; returns how many files."""
        named = {part.digest for slot in NAMES for part in self._named(slot)}
        gone = 0
        with _disk(self.root):
            for path in self._files():
                if path.name.endswith(PENDING_SUFFIX) or (path.parent.name == "parts" and path.name not in named):
                    path.unlink(missing_ok=True)
                    gone += 1
        return gone

    def _named(self, slot: str) -> Iterable[Part]:
        # A slot that cannot be read names nothing: its parts could not be verified as a bundle anyway.
        try:
            bundle = self._bundle(slot)
        except (Corrupt, Rejected):
            return ()
        return bundle.parts.values() if bundle else ()

    def _bundle(self, slot: str) -> Bundle | None:
        path = self.root / slot
        with _disk(path):
            if not path.exists():
                return None
            with path.open("rb") as file:
                data = file.read(DIGEST_BYTES + MESSAGE_MAX_BYTES + 1)
        digest, body = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
        if hashlib.sha256(body).digest() != digest:
            raise Corrupt("slot_digest", f"{path} does not match its own digest: it was torn or changed")
        return unpack(Bundle, body)

    def _spare(self) -> str:
        """The slot that may be written: not the one that would be loaded now."""
        for slot in self._order():
            if self._version(slot):
                return NAMES[1 - NAMES.index(slot)]
        return NAMES[0]

    def _order(self) -> tuple[str, ...]:
        """The current slot first. A pointer that is damaged says nothing: then the higher version goes first."""
        current = self._pointer()
        if current is not None:
            return (current, NAMES[1 - NAMES.index(current)])
        return tuple(sorted(NAMES, key=self._version, reverse=True))

    def _version(self, slot: str) -> int:
        with contextlib.suppress(Corrupt, Rejected):
            bundle = self._bundle(slot)
            return bundle.version if bundle else 0
        return 0

    def _pointer(self) -> str | None:
        path = self.root / CURRENT
        with _disk(path):
            name = path.read_bytes().decode("ascii", "replace") if path.exists() else ""
        return name if name in NAMES else None

    def _part(self, digest: str) -> Path:
        return self.root / "parts" / digest

    def _files(self) -> Iterator[Path]:
        for folder in (self.root, self.root / "parts"):
            if folder.is_dir():
                yield from sorted(path for path in folder.iterdir() if path.is_file())


def _replace(path: Path, data: bytes) -> None:
    """Write beside, flush, rename, flush the folder: `path` holds its old bytes or all the new ones."""
    with _disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.name + PENDING_SUFFIX)
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    """What the disk refuses, as Unavailable with what to do about it."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise Unavailable("disk_full", f"no space left for {path}: free some, nothing was lost") from error
        raise Unavailable("unwritable", f"{path}: {error.strerror}: make the folder writable for this user") from error
