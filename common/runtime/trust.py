"""Which releases this process believes: TUF's client, its metadata read from the broker, its state in a folder.

    {qig:candidates}:metadata   N.root.json  timestamp.json  V.snapshot.json  N.targets.json  V.bundles.json
        ─▶ tuf.ngclient.Updater, from HOME/trust/root.json on ─▶ the listing: bundles/VERSION ─▶ digest, length

The folder (an edge's HOME/edges/NODE/trust) is the memory against rollback: what was seen once is never gone behind.
Each file is replaced whole; one that is torn or lost is read again from the broker. A service without a folder
remembers for as long as it lives. A release that is on the list last seen is believed without another look; another
one, if it is not older than all of them, makes it look again.
"""

import asyncio
import logging
import shutil
import tempfile
import weakref
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from nacl.signing import VerifyKey
from redis.asyncio import Redis
from redis.exceptions import RedisError
from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
)
from tuf.api.metadata import Root, TargetFile, Targets
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from common.errors import Corrupt, Unavailable
from common.runtime import streams
from common.trust import rings, roles
from common.trust.roles import BUNDLES, target_path, version_of
from common.wire.bundle import is_signed
from common.wire.messages import Bundle

log = logging.getLogger(__name__)

FILE_MAX_BYTES: Final = 64 * 1024  # chosen: six times what the longest list takes; read it is up to 24 times as much
LIST: Final = f"{BUNDLES}.json"  # as the Updater keeps it, once it is verified
TIMESTAMP: Final = "timestamp.json"
ROOT: Final = "root.json"
TARGETS: Final = "targets.json"
LOOK_AGAIN_S: Final = 60.0  # chosen: how long an unchanged timestamp stands for its list, for one who asks for more
NO_SUCH_FILE: Final = 404
BOUNDS: Final = UpdaterConfig(
    max_root_rotations=64,  # a fleet of keys changed every month for five years
    max_delegations=4,
    root_max_length=FILE_MAX_BYTES,
    timestamp_max_length=16 * 1024,
    snapshot_max_length=FILE_MAX_BYTES,
    targets_max_length=FILE_MAX_BYTES,
)


@dataclass(frozen=True, slots=True)
class _Look:
    """What a look found: the releases that are listed, by their paths; who is the publisher, or was and was never
    robbed, by key id; the timestamp that both hang on.
    """

    listed: dict[str, TargetFile]
    signers: dict[str, VerifyKey]
    timestamp: bytes


class Trust:
    """The releases that HOME's trust root leads to."""

    def __init__(self, redis: Redis, root: bytes, folder: Path | None = None) -> None:
        """root: HOME/trust/root.json. folder: where the state is kept; None: nowhere that outlives this object."""
        self._redis, self._root = redis, root
        self._folder = folder
        self._seen, self._seen_s = _Look({}, {}, b""), -LOOK_AGAIN_S  # the last look, and when it was verified
        self._lock = asyncio.Lock()

    async def verify(self, version: int, message: bytes) -> None:
        """Raises Corrupt("not_released") unless the publisher released exactly these bytes as `version`.

        Raises Unavailable while nobody can tell: "no_metadata" (none is there yet), "metadata_expired" (a publisher
        that is silent, somebody who withholds, or our clock), "bad_metadata" (somebody wrote what the keys did not
        sign, or what is older than what was seen), "broker_away".
        """
        async with self._lock:
            await self._found(version, message)

    async def is_open(self, version: int, message: bytes, node: str) -> bool:
        """Whether a release is for this node, or for others first. Raises as `verify`."""
        async with self._lock:
            found = await self._found(version, message)
            if not _is_open(found, node) and await self._is_new():
                await self._look(target_path(version))
                found = await self._found(version, message)
            return _is_open(found, node)

    async def is_before(self, bundle: Bundle) -> bool:
        """Whether it is a release from before those that are listed: signed by who is the publisher or was, and was
        never robbed. It is to serve nobody any more; what its packets brought was counted all the same.
        """
        async with self._lock:
            return bundle.version < self._oldest and is_signed(bundle, self._seen.signers)

    @property
    def listed(self) -> dict[int, str]:
        """The releases that are on the list last seen, by version: the sha256, in hex, of each as a message."""
        return {version_of(path): found.hashes["sha256"] for path, found in self._listed.items()}

    @property
    def open_to(self) -> dict[int, int]:
        """The ring of each of these, by version (common/trust/rings.py)."""
        return {version_of(path): _ring(found) for path, found in self._listed.items()}

    async def _found(self, version: int, message: bytes) -> TargetFile:
        path = target_path(version)
        if not self._is_listed(path, message) and version >= self._oldest and await self._is_new():
            await self._look(path)
        found = self._listed.get(path)
        if found is None:
            why = f"the publisher's list, from {self._oldest} on, does not name it: it is too old, or forged"
        elif not _matches(found, message):
            why = f"the publisher's list names {found.length} bytes with digest {found.hashes['sha256'][:12]}"
        else:
            return found
        raise Corrupt("not_released", f"bundle {version} is not believed: {why}; keep the last good bundle")

    async def _is_new(self) -> bool:
        """Whether a look may find more than the last: a flood of forged bundles costs a question each, not a look."""
        now_s = asyncio.get_running_loop().time()
        try:
            seen = await self._fetcher().read(TIMESTAMP)
        except (RedisError, DownloadError):
            return True  # a look says what is wrong
        return seen != self._seen.timestamp or now_s - self._seen_s >= LOOK_AGAIN_S

    def _fetcher(self) -> "_Fetcher":
        return _Fetcher(self._redis, asyncio.get_running_loop())

    @property
    def _listed(self) -> dict[str, TargetFile]:
        return self._seen.listed

    @property
    def _oldest(self) -> int:
        return min((version_of(path) for path in self._listed), default=0)

    def _is_listed(self, path: str, message: bytes) -> bool:
        found = self._listed.get(path)
        return found is not None and _matches(found, message)

    async def _look(self, path: str) -> None:
        looking = asyncio.create_task(asyncio.to_thread(self._update, self._fetcher(), path))
        looking.add_done_callback(lambda done: done.cancelled() or done.exception())  # of one left, it is nobody's
        try:
            self._seen = await asyncio.shield(looking)
        except asyncio.CancelledError:
            await asyncio.wait([looking])  # its thread reads on, and would open a connection that nobody closes
            raise
        except ExpiredMetadataError as error:
            message = f"{error}: the publisher was silent for too long, its word is withheld, or this clock is wrong"
            raise Unavailable("metadata_expired", message) from None
        except (DownloadLengthMismatchError, RepositoryError) as error:
            log.error("the releases' metadata is not what the trusted keys signed: %s", error)  # noqa: TRY400 -- not ours
            message = f"the releases' metadata in the broker cannot be believed: {error}; the last good bundle is kept"
            raise Unavailable("bad_metadata", message) from None
        except DownloadHTTPError as error:
            raise Unavailable(
                "no_metadata", f"{error}: the publisher has not signed anything yet, or it was lost"
            ) from None
        except DownloadError as error:
            raise Unavailable(
                "broker_away", f"cannot read the releases' metadata: {error.__cause__ or error}"
            ) from error
        except OSError as error:
            raise Unavailable(
                "unwritable", f"{self._folder}: {error.strerror}: make it writable for this user"
            ) from error
        self._seen_s = asyncio.get_running_loop().time()

    def _update(self, fetcher: "_Fetcher", path: str) -> _Look:
        """In a thread: the Updater waits for its fetcher, and the loop goes on."""
        folder = self._own_folder()
        updater = Updater(str(folder), "", fetcher=fetcher, config=BOUNDS, bootstrap=self._root)
        updater.refresh()
        updater.get_targetinfo(path)  # brings the list, whatever is asked for
        timestamp = (folder / TIMESTAMP).read_bytes()
        if timestamp != fetcher.timestamp:  # of one version: the Updater keeps its own, and would not find what is new
            raise RepositoryError("the timestamp is another one than was seen under its version")
        own = roles.named_keys(roles.parsed((folder / ROOT).read_bytes(), Root))[roles.PUBLISHER]
        former = roles.former_keys(roles.parsed((folder / TARGETS).read_bytes(), Targets))
        listed = _checked(roles.parsed((folder / LIST).read_bytes(), Targets).targets)
        return _Look(listed, former | {own.keyid: own.verify_key()}, timestamp)

    def _own_folder(self) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="qig-trust-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        for left in self._folder.glob("tmp*"):  # of a kill between writing a file and naming it
            left.unlink(missing_ok=True)
        return self._folder


class _Fetcher(FetcherInterface):
    """Metadata by name from the broker, for an Updater that runs in a thread beside `loop`."""

    def __init__(self, redis: Redis, loop: asyncio.AbstractEventLoop) -> None:
        self._redis, self._loop = redis, loop
        self.timestamp: bytes | None = None  # as it came

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.lstrip("/")
        data = asyncio.run_coroutine_threadsafe(self.read(name), self._loop).result()
        if name == TIMESTAMP:
            self.timestamp = data
        if data is None:
            raise DownloadHTTPError(f"{name} is not in the broker", NO_SUCH_FILE)
        return iter([data])

    async def read(self, name: str) -> bytes | None:
        """Asked for its length first: what is too long does not come here at all."""
        length = await self._redis.hstrlen(streams.METADATA, name)
        if length > FILE_MAX_BYTES:
            raise DownloadLengthMismatchError(f"{name} has {length} bytes; the limit is {FILE_MAX_BYTES}")
        return await cast("Awaitable[bytes | None]", self._redis.hget(streams.METADATA, name))


def _checked(listed: dict[str, TargetFile]) -> dict[str, TargetFile]:
    """Raises RepositoryError where it is not a list of releases: the right key may sign what no publisher of ours does.

    TUF itself takes any paths, any digests, and any `custom`.
    """
    for path, found in listed.items():
        try:
            version_of(path), _ring(found), found.hashes["sha256"]
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
            raise RepositoryError(f"the list of releases names {path[:80]!r}, which is none of them") from None
    return listed


def _ring(found: TargetFile) -> int:
    return int((found.custom or {}).get(rings.RING, rings.EVERYBODY))


def _is_open(found: TargetFile, node: str) -> bool:
    return rings.is_open(_ring(found), node)


def _matches(found: TargetFile, message: bytes) -> bool:
    try:
        found.verify_length_and_hashes(message)
    except LengthOrHashMismatchError:
        return False
    return True
