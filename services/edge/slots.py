"""Bundles on disk: two slots and a pointer, so that no kill and no flipped bit leaves an edge without a constellation.

    bundles/
      parts/<sha256>     every part once, by content: a bundle that changes one memory writes one file
      a   b              a slot each: 32 bytes sha256 of the rest, then the bundle's packed message
      current            "a" or "b"
      standing           32 bytes sha256 of the rest, then which bundle has proved good, and which are bad (standing.py)

A new bundle is written to the slot that does not hold the last good one, then `current` is renamed over. Going back is
`standing`, in which the bundle is bad from then on, and then `current`. Each file is written beside its
place, flushed to the disk and renamed, so that at any moment a name holds its old bytes or its new ones, whole. What is
read is checked against its digest; a slot that fails is passed over for the other one. Parts that no slot names are
deleted once a new slot stands, or a bundle was refused. A `standing` that fails is begun anew: then all that serves has
proved nothing.

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

from pydantic import ValidationError

from common.errors import Corrupt, QigError, Rejected, Unavailable
from common.wire.bundle import check_part
from common.wire.bundle import digest as digest_of
from common.wire.codec import pack, unpack
from common.wire.fields import MESSAGE_MAX_BYTES
from common.wire.messages import Bundle, Part
from services.edge.standing import Left, Proved, Standing

NAMES: Final = ("a", "b")
CURRENT: Final = "current"
STANDING: Final = "standing"
DIGEST_BYTES: Final = 32
PENDING_SUFFIX: Final = ".part"


@dataclass(frozen=True, slots=True)
class Installed:
    """A bundle whose every part was read and matched its digest. passed_over: what was damaged before it was found."""

    slot: str
    bundle: Bundle
    parts: dict[str, bytes]
    passed_over: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """The bundle's."""
        return digest_of(self.bundle)


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
        """Make `bundle`, whose parts are all here, the current one; returns the slot. It is on trial until `approve`;
        the other slot keeps the last good one, to go back to.

        A kill before the last rename leaves the old bundle current, after it the new one. Raises Corrupt, Unavailable.
        """
        for part in bundle.parts.values():
            self.read(part)
        good = self.last_good()
        if good is None and (good := self.load()) is not None:
            self.approve(good.digest)  # it was not watched to its end, but there is nothing better
        slot = NAMES[0] if good is None else NAMES[1 - NAMES.index(good.slot)]
        self._keep(self.root / slot, pack(bundle))
        _replace(self.root / CURRENT, slot.encode())
        self.collect()
        return slot

    def load(self) -> Installed | None:
        """The current bundle; the other slot's when the current one is damaged or was gone back from; None when no slot
        holds anything whole.

        Raises Unavailable when the disk does not answer, which is not the same as damage.
        """
        reasons: list[str] = []
        for slot in self._order():
            found = self._whole(slot, reasons)
            if found is not None:
                return found
        return None

    def last_good(self) -> Installed | None:
        """The bundle to go back to; None while none has proved good, or it is damaged."""
        good = self.standing.good
        slot = next((each for each in NAMES if good and self._digest(each) == good), None)
        return None if slot is None else self._whole(slot, [])

    @property
    def standing(self) -> Standing:
        """How this edge stands to its bundles."""
        with contextlib.suppress(Corrupt, ValidationError):
            body = self._sealed(self.root / STANDING)
            return Standing() if body is None else Standing.model_validate_json(body)
        return Standing()

    def approve(self, digest: str) -> None:
        """The bundle that serves is the last good one from now on."""
        self._stand(self.standing.approved(digest))

    def keep(self, proved: Proved) -> None:
        """The bundle that serves has proved good, of which the publisher is to be told."""
        self._stand(self.standing.found_good(proved))

    def boot(self, *, now_s: float) -> Installed | None:
        """`load` for a process that begins. A bundle on trial that has ended too many is gone back from first."""
        installed = self.load()
        if installed is None or installed.digest == self.standing.good or self.last_good() is None:
            return installed
        standing = self.standing.booted(installed.digest)
        if not standing.died_too_often:
            self._stand(standing)
            return installed
        reason = f"{standing.boots} processes in a row began with it and ended before it had proved good"
        why = Left(digest=installed.digest, version=installed.bundle.version, reason=reason, at_s=now_s)
        return self.go_back(why)

    def rest(self) -> None:
        """This process ends in good order."""
        if self.standing.boots:
            self._stand(self.standing.rested())

    def go_back(self, left: Left) -> Installed:
        """Make the last good bundle the current one again, and the bundle that is `left` one that is never taken again.

        A kill before both is none of it, between them as if both were done. Raises Unavailable("no_last_good").
        """
        good = self.last_good()
        if good is None:
            message = (
                f"bundle {left.version} is bad, and no other one here has proved good: the next release replaces it"
            )
            raise Unavailable("no_last_good", message)
        self._stand(self.standing.without(left))
        _replace(self.root / CURRENT, good.slot.encode())
        return good

    def told(self, digest: str) -> None:
        """The publisher has heard what became of this bundle."""
        self._stand(self.standing.told(digest))

    def collect(self, kept: Iterable[Part] = ()) -> int:
        """Delete the parts that no slot names and what an interrupted write left; returns how many files.

        kept: parts that stay all the same. Not while anything else is written here.
        """
        named = {part.digest for slot in NAMES for part in self._named(slot)} | {part.digest for part in kept}
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

    def _whole(self, slot: str, reasons: list[str]) -> Installed | None:
        """What a slot holds, if all of it is whole; else why not is among the reasons."""
        try:
            bundle = self._bundle(slot)
            if bundle is None:
                return None
            parts = {path: self.read(part) for path, part in sorted(bundle.parts.items())}
            return Installed(slot, bundle, parts, tuple(reasons))
        except (Corrupt, Rejected) as error:
            reasons.append(f"slot {slot}: {error}")
        except Unavailable as error:
            if error.code != "part_missing":
                raise
            reasons.append(f"slot {slot}: {error}")
        return None

    def _bundle(self, slot: str) -> Bundle | None:
        body = self._sealed(self.root / slot)
        return None if body is None else unpack(Bundle, body)

    def _sealed(self, path: Path) -> bytes | None:
        """What lies behind a file's own digest; None where there is no file."""
        with _disk(path):
            if not path.exists():
                return None
            with path.open("rb") as file:
                data = file.read(DIGEST_BYTES + MESSAGE_MAX_BYTES + 1)
        digest, body = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
        if hashlib.sha256(body).digest() != digest:
            raise Corrupt("slot_digest", f"{path} does not match its own digest: it was torn or changed")
        return body

    def _keep(self, path: Path, body: bytes) -> None:
        _replace(path, hashlib.sha256(body).digest() + body)

    def _stand(self, standing: Standing) -> None:
        self._keep(self.root / STANDING, standing.model_dump_json().encode())

    def _order(self) -> tuple[str, ...]:
        """The current slot first, a bundle that was gone back from last. A pointer that is damaged says nothing: then
        the higher version goes first.
        """
        current, standing = self._pointer(), self.standing

        def rank(slot: str) -> tuple[bool, bool, int]:
            return standing.has_left(self._digest(slot)), slot != current, -self._version(slot)

        return tuple(sorted(NAMES, key=rank))

    def _digest(self, slot: str) -> str:
        """Of a slot's bundle; "" for none that can be read."""
        with contextlib.suppress(Corrupt, Rejected):
            bundle = self._bundle(slot)
            return digest_of(bundle) if bundle else ""
        return ""

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
