"""Room in the cache: a cap in bytes, and what the disk really has.

In: how many bytes a file will take. Out: as many are reserved, after what was not used for longest has been removed, or
a `DataError`. Partial files count at their full size from the start, so that several fetches at once do not each find
the same room. Pinned files and files being fetched are locked, and stay.

Files of a node by their sha256: fetched once for all its processes, pinned while in use, bounded in size.

In: a `RemoteFile`. Out: an open, verified local file that stays while it is open. Layout:

    CACHE/files/<sha256>        complete and verified, read-only; modified time = last use
    CACHE/partial/<sha256>      being fetched, or left by a killed process, which the next one goes on with
    CACHE/lock                  held while room is made

The name is the content, so stores share files, and nothing that another store put there can be read as this one's.
Locks are `flock`s on the files themselves, which the kernel drops with the process: exclusive on a partial file by the
one that fetches it, so the others wait for it; shared on a complete file as long as it is open or mapped (a pin).
Eviction takes an exclusive lock first, so a pinned file is never evicted, and an opener that loses the race sees that
its file has no name any more and begins again. `flock` needs a disk of this machine, not a network file system.

A file is hashed once per process before its first use, as in a local store (part.py), unless this process fetched it.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from titan_speech.errors import DataError
from titan_speech.storage.download import DamagedObjectError, PartialFile, RemoteFile
from titan_speech.utils.checksum import is_intact

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, order=True)
class _Entry:
    last_use_ns: int
    path: Path
    num_bytes: int


class Space:
    """Bookkeeping of one cache folder; all numbers are read from the folder itself."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self.max_bytes = folder, max_bytes

    def used_bytes(self) -> int:
        return sum(entry.num_bytes for entry in self._entries())

    def reserve(self, file_number: int, num_bytes: int) -> None:
        """Gives an open, locked partial file its room on disk; what it has already counts."""
        with self._locked():
            missing = num_bytes - os.fstat(file_number).st_size
            excess = self.used_bytes() + missing - self.max_bytes
            if excess > 0 and self._evict(excess) < excess:
                raise CacheFullError(
                    f"the cache {self._folder} is full: {self.used_bytes():,} of {self.max_bytes:,} bytes are in use "
                    f"by running processes, {num_bytes:,} more are needed; raise storage.cache_gb"
                )
            while num_bytes:
                try:
                    os.posix_fallocate(file_number, 0, num_bytes)
                    return
                except OSError as error:
                    if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._evict(num_bytes):
                        raise

    def full(self, num_bytes: int, error: OSError) -> DataError:
        found = os.statvfs(self._folder)
        return CacheFullError(
            f"no room for {num_bytes:,} bytes in the cache {self._folder} ({error.strerror}; the disk has "
            f"{found.f_bavail * found.f_frsize:,} bytes free); free some, or set storage.cache_dir to another disk"
        )

    def _evict(self, num_bytes: int) -> int:
        """Removes files that nobody has open, longest unused first, until that many bytes are free; how many were."""
        freed = 0
        for entry in sorted(self._entries()):
            if freed >= num_bytes:
                break
            if _remove_unused(entry.path):
                freed += entry.num_bytes
        return freed

    def _entries(self) -> Iterator[_Entry]:
        for folder in ("files", "partial"):
            with os.scandir(self._folder / folder) as found:
                for item in found:
                    try:
                        status = item.stat()
                    except FileNotFoundError:
                        continue  # moved or removed meanwhile
                    yield _Entry(status.st_mtime_ns, Path(item.path), status.st_size)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        file_number = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file_number, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file_number)


class CacheFullError(DataError):
    """Neither the cap nor the disk has room for a file, and nothing can be removed."""


def _remove_unused(path: Path) -> bool:
    """Removes the file unless a process has it locked."""
    try:
        file_number = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file_number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(file_number), os.stat(path)):
            return False
        os.unlink(path)
        return True
    except (BlockingIOError, FileNotFoundError):
        return False
    finally:
        os.close(file_number)


logger = logging.getLogger(__name__)

_POLL_SEC = 0.02
Fill = Callable[[RemoteFile, PartialFile], None]


class Cache:
    """One folder; any number of processes and threads use it at once."""

    def __init__(self, folder: Path, max_bytes: int, fill: Fill) -> None:
        self.folder, self._fill = folder, fill
        self._files, self._partials = folder / "files", folder / "partial"
        self._verified: set[tuple[str, int]] = set()
        try:
            self._files.mkdir(parents=True, exist_ok=True)
            self._partials.mkdir(exist_ok=True)
        except OSError as error:
            raise DataError(
                f"the cache {folder} cannot be written ({error}); set storage.cache_dir to a folder on a local disk"
            ) from error
        self.space = Space(folder, max_bytes)

    def has(self, file: RemoteFile) -> bool:
        return (self._files / file.sha256).exists()

    def keep(self, file: RemoteFile) -> bool:
        """Whether the file is there; it then counts as just used."""
        try:
            _mark_used(self._files / file.sha256)
        except FileNotFoundError:
            return False
        return True

    def open(self, file: RemoteFile) -> int:
        """File number of the verified content; its lock, and with it the pin, goes with the last copy of it."""
        while True:
            file_number = self._open_complete(file.sha256)
            if file_number is None:
                file_number = self._fetch(file)
            if file_number is None:
                continue  # another process fetched it
            if self._is_verified(file, file_number):
                return file_number
            self._discard(file, file_number)

    def _open_complete(self, sha256: str) -> int | None:
        """Pinned, or None where there is no such file."""
        path = self._files / sha256
        while True:
            try:
                file_number = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                return None
            fcntl.flock(file_number, fcntl.LOCK_SH)
            if _is_named(file_number, path):
                _mark_used(file_number)
                return file_number
            os.close(file_number)  # evicted between open and lock

    def _fetch(self, file: RemoteFile) -> int | None:
        """Fetches under the partial file's lock; None if another process did so meanwhile."""
        path = self._partials / file.sha256
        try:
            file_number = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError as error:
            raise DataError(f"the cache {self.folder} was removed while this run used it; start again") from error
        try:
            is_mine = _lock_while_named(file_number, path)
            if not is_mine or self.has(file) or not _is_named(file_number, path):
                if _is_named(file_number, path):
                    path.unlink()
                os.close(file_number)
                return None
            self._fetch_locked(file, file_number, path)
        except BaseException:
            os.close(file_number)
            raise
        return file_number

    def _fetch_locked(self, file: RemoteFile, file_number: int, path: Path) -> None:
        partial = PartialFile(file_number, file.num_bytes, file)
        try:
            self.space.reserve(file_number, partial.allocated_bytes)
            self._fill(file, partial)
            partial.seal()
        except OSError as error:
            path.unlink()
            if error.errno not in NO_SPACE:
                raise
            raise self.space.full(file.num_bytes, error) from error
        except (DamagedObjectError, CacheFullError):
            path.unlink()
            raise
        self._publish(file, file_number, path)

    def _publish(self, file: RemoteFile, file_number: int, path: Path) -> None:
        os.fchmod(file_number, 0o444)
        _mark_used(file_number)
        os.rename(path, self._files / file.sha256)
        _flush_folder(self._files)
        self._verified.add((file.sha256, os.fstat(file_number).st_ino))
        fcntl.flock(file_number, fcntl.LOCK_SH)

    def _is_verified(self, file: RemoteFile, file_number: int) -> bool:
        """Hashed by this process; a disk may have damaged it since it was fetched."""
        if not _is_named(file_number, self._files / file.sha256):
            return False  # evicted while the lock went from exclusive to shared
        key = (file.sha256, os.fstat(file_number).st_ino)
        if key not in self._verified:
            with open(file_number, "rb", closefd=False) as opened:
                if not is_intact(opened, file):
                    return False
            self._verified.add(key)
        return True

    def _discard(self, file: RemoteFile, file_number: int) -> None:
        """Forgets a damaged file, so that it is fetched again; who has it mapped keeps what was verified."""
        path = self._files / file.sha256
        if _is_named(file_number, path):
            logger.warning("%s was damaged on this node's disk; it is fetched again", path)
            path.unlink(missing_ok=True)
        os.close(file_number)


def _is_named(file_number: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(file_number), os.stat(path))
    except FileNotFoundError:
        return False


def _lock_while_named(file_number: int, path: Path) -> bool:
    """Takes the exclusive lock; False when another process completed or gave up the file meanwhile.

    Asked for again and again: who completed the file keeps it locked as a pin for as long as it is in use.
    """
    while _is_named(file_number, path):
        try:
            fcntl.flock(file_number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(_POLL_SEC)
    return False


def _mark_used(file: int | Path) -> None:
    try:
        os.utime(file)
    except PermissionError:
        logger.debug("a cached file belongs to another user, its last use is not noted")


def _flush_folder(folder: Path) -> None:
    """A rename must survive a power cut."""
    file_number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file_number)
    finally:
        os.close(file_number)
