"""The cache folder of a node: where it is, how many bytes it may hold, and temporary caches in it.

In: the `[storage]` settings. Out: a folder; space in it for the bytes of a file, after what was not used for longest
was removed, or a `DataError`. Partial files count at their full size from the start, so that several fetches at once do
not each count the same free bytes. Files that are pinned or being fetched are locked, and stay (cache.py).
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from titan_speech.config.schema_data import StorageConfig
from titan_speech.errors import DataError
from titan_speech.utils.locks import try_lock

CACHE_VARIABLE = "TITAN_SPEECH_CACHE"
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
LOCK_POLL_SEC = 0.005
TEMPORARY_PREFIX = "verify-"


class CacheFullError(DataError):
    """Neither the cap nor the disk has space for a file, and nothing can be removed."""


def cache_folder(settings: StorageConfig | None = None) -> Path:
    """The folder that the settings name, else the environment, else `~/.cache/titan_speech`."""
    named = (settings.cache_dir if settings else "") or os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "titan_speech"


@dataclass(frozen=True, order=True)
class _CachedFile:
    """A file of the cache, the longest unused first."""

    last_use_ns: int
    path: Path
    num_bytes: int


class CacheSpace:
    """The byte cap of one cache folder; all numbers are read from the folder itself, for all processes."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self.max_bytes = folder, max_bytes

    def used_bytes(self) -> int:
        return sum(entry.num_bytes for entry in self._entries())

    def reserve(self, file_number: int, num_bytes: int) -> None:
        """Allocates the bytes of an open, locked partial file on disk; those it has already count.

        Raises:
            CacheFullError: the cap is reached, and everything is in use.
            OSError: the disk is full, and everything is in use.
        """
        from filelock import FileLock  # 0.04 s to import, for readers of local stores too

        with FileLock(self._folder / "lock", poll_interval=LOCK_POLL_SEC):
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

    def disk_full_error(self, num_bytes: int, error: OSError) -> CacheFullError:
        disk = os.statvfs(self._folder)
        return CacheFullError(
            f"no space for {num_bytes:,} bytes in the cache {self._folder} ({error.strerror}; the disk has "
            f"{disk.f_bavail * disk.f_frsize:,} bytes free); free some, or set storage.cache_dir to another disk"
        )

    def _evict(self, num_bytes: int) -> int:
        """Removes files that no process has open, longest unused first, until `num_bytes` are freed; how many were."""
        freed = 0
        for entry in sorted(self._entries()):
            if freed >= num_bytes:
                break
            with try_lock(entry.path, fcntl.LOCK_EX) as is_unused:
                if is_unused:
                    entry.path.unlink(missing_ok=True)
                    freed += entry.num_bytes
        return freed

    def _entries(self) -> Iterator[_CachedFile]:
        for folder in ("files", "partial"):
            with os.scandir(self._folder / folder) as found:
                for item in found:
                    try:
                        status = item.stat()
                    except FileNotFoundError:
                        continue  # moved or removed meanwhile
                    yield _CachedFile(status.st_mtime_ns, Path(item.path), status.st_size)


@contextmanager
def temporary_cache(cache: Path) -> Iterator[Path]:
    """An empty folder in the cache that only this process uses, removed at the end.

    A process that is killed leaves its folder behind, and the next one removes it. Which folders are left behind is
    decided by locks on the folders themselves, which the kernel drops with their process; the cache folder is locked
    while a new one is made and has no lock yet.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        cache_lock = _lock_folder(cache)
        try:
            _remove_left_behind(cache)
            folder = Path(mkdtemp(prefix=TEMPORARY_PREFIX, dir=cache))
            lock = _lock_folder(folder)
        finally:
            os.close(cache_lock)
    except OSError as error:
        raise DataError(
            f"the cache {cache} cannot be written ({error}); set {CACHE_VARIABLE} to a folder on a local disk"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _remove_left_behind(cache: Path) -> None:
    for folder in cache.glob(f"{TEMPORARY_PREFIX}*"):
        try:
            lock = _lock_folder(folder, fcntl.LOCK_NB)
        except (BlockingIOError, FileNotFoundError):
            continue  # in use, or removed meanwhile by its owner
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _lock_folder(folder: Path, flags: int = 0) -> int:
    """File number of the folder, which is locked as long as it is open."""
    file_number = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(file_number, fcntl.LOCK_EX | flags)
    except BaseException:
        os.close(file_number)
        raise
    return file_number
