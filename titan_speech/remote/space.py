"""Room in the cache: a cap in bytes, and what the disk really has.

In: how many bytes a file will take. Out: as many are reserved, after what was not used for longest has been removed, or
a `DataError`. Partial files count at their full size from the start, so that several fetches at once do not each find
the same room. Pinned files and files being fetched are locked, and stay.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from titan_speech.errors import DataError

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
