"""Objects as files of this node, by sha256: fetched once for all its processes, pinned while in use.

In: a `RemoteFile`. Out: `ObjectCache.open`, its verified content as a mapping of a cached file. The mapping holds a
copy of the file number, and so the file's pin: it ends with the last array that looks at it, or with the process.

    CACHE/files/<sha256>        complete and verified, read-only; modified time = last use
    CACHE/partial/<sha256>      being fetched, or left by a killed process, which the next one continues
    CACHE/lock                  held while space is reserved (cache_folder.py)

The name is the content, so stores share files, and a file of another store cannot be read as this one's. Locks are
`flock`s on the files themselves, which the kernel drops with the process: exclusive on a partial file by the process
that fetches it, so the others wait for it; shared on a complete file as long as it is open or mapped (a pin). Eviction
takes an exclusive lock first, so a pinned file is never evicted, and a process that opens a file and loses the race
sees that the file no longer has its name and starts over. `flock` needs a disk of this machine, not a network file
system.

A file is hashed once per process before its first use, as in a local store, unless this process fetched it.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from titan_speech.config.schema_data import StorageConfig
from titan_speech.errors import DataError
from titan_speech.storage.cache_folder import NO_SPACE, CacheFullError, CacheSpace, cache_folder
from titan_speech.storage.download import PartialFile, RemoteFile, finish_download
from titan_speech.storage.s3 import Client, DamagedObjectError, client_of
from titan_speech.utils.checksum import is_intact
from titan_speech.utils.files import sync_folder
from titan_speech.utils.safe_path import open_without_link

logger = logging.getLogger(__name__)

_POLL_SEC = 0.02


class ObjectCache:
    """One cache folder and a client to fill it; any number of processes and threads use a folder at once."""

    def __init__(self, client: Client, settings: StorageConfig) -> None:
        self.client, self.folder = client, Path(settings.cache_dir)
        self._files, self._partials = self.folder / "files", self.folder / "partial"
        self._verified: set[tuple[str, int]] = set()
        """sha256 and inode of files that this process has hashed."""
        try:
            self._files.mkdir(parents=True, exist_ok=True)
            self._partials.mkdir(exist_ok=True)
        except OSError as error:
            raise DataError(
                f"the cache {self.folder} cannot be written ({error}); set storage.cache_dir to a folder on a local "
                "disk"
            ) from error
        self.space = CacheSpace(self.folder, int(settings.cache_gb * 1e9))

    def open(self, file: RemoteFile) -> mmap.mmap | bytes:
        """The verified content, fetched if the node does not have it.

        Raises:
            DataError: the object cannot be fetched or is damaged, or neither cap nor disk has space for it.
        """
        file_number = self._open_verified(file)
        try:
            return mmap.mmap(file_number, 0, access=mmap.ACCESS_READ) if file.num_bytes else b""
        finally:
            os.close(file_number)

    def has(self, file: RemoteFile) -> bool:
        return (self._files / file.sha256).exists()

    def fetch(self, file: RemoteFile) -> None:
        """Makes sure that the node has the file, and marks it as just used."""
        if not self._mark_if_cached(file):
            os.close(self._open_verified(file))

    def fetch_all(self, files: Iterable[RemoteFile]) -> None:
        """Fetches as many files at once as there are connections; the first failure is raised."""
        missing = [file for file in files if not self._mark_if_cached(file)]
        if len(missing) == 1:
            self.fetch(missing[0])
        elif missing:
            with ThreadPoolExecutor(self.client.settings.num_connections, thread_name_prefix="fetch") as pool:
                list(pool.map(self.fetch, missing))

    def _mark_if_cached(self, file: RemoteFile) -> bool:
        try:
            _mark_used(self._files / file.sha256)
        except FileNotFoundError:
            return False
        return True

    def _open_verified(self, file: RemoteFile) -> int:
        """File number of the verified content; its lock, and with it the pin, ends with the last copy of the number."""
        while True:
            file_number = self._open_complete(file.sha256)
            if file_number is None:
                file_number = self._fetch_if_first(file)
            if file_number is None:
                continue  # another process fetched it
            if self._is_verified(file, file_number):
                return file_number
            self._discard(file, file_number)

    def _open_complete(self, sha256: str) -> int | None:
        """File number of a complete file, pinned; None if the node does not have it."""
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

    def _fetch_if_first(self, file: RemoteFile) -> int | None:
        """Fetches under the partial file's lock; None if another process did so meanwhile."""
        path = self._partials / file.sha256
        try:
            file_number = open_without_link(path)
        except FileNotFoundError as error:
            raise DataError(f"the cache {self.folder} was removed while this run used it; start again") from error
        try:
            is_locked = _lock_while_named(file_number, path)
            if not is_locked or self.has(file) or not _is_named(file_number, path):
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
        """Completes a locked partial file and moves it into place, with the lock as its pin."""
        partial = PartialFile(file_number, file)
        try:
            self.space.reserve(file_number, partial.allocated_bytes)
            finish_download(self.client, partial)
        except OSError as error:
            path.unlink()
            if error.errno not in NO_SPACE:
                raise
            raise self.space.disk_full_error(file.num_bytes, error) from error
        except (DamagedObjectError, CacheFullError):
            path.unlink()
            raise
        os.fchmod(file_number, os.fstat(file_number).st_mode & 0o444)  # less what the umask takes
        _mark_used(file_number)
        os.rename(path, self._files / file.sha256)
        sync_folder(self._files)
        self._verified.add((file.sha256, os.fstat(file_number).st_ino))
        fcntl.flock(file_number, fcntl.LOCK_SH)

    def _is_verified(self, file: RemoteFile, file_number: int) -> bool:
        """Whether the content is right, hashed once per process: the disk may have damaged it since it was fetched."""
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
        """Removes a damaged file, so that it is fetched again; processes that mapped it keep what they verified."""
        path = self._files / file.sha256
        if _is_named(file_number, path):
            logger.warning("%s was damaged on this node's disk; it is fetched again", path)
            path.unlink(missing_ok=True)
        os.close(file_number)


def object_cache(settings: StorageConfig) -> ObjectCache:
    """This process's cache for these settings; a forked process has its own client."""
    return _cache_of_client(client_of(settings), replace(settings, cache_dir=str(cache_folder(settings))))


@lru_cache(maxsize=16)
def _cache_of_client(client: Client, settings: StorageConfig) -> ObjectCache:
    return ObjectCache(client, settings)


def _is_named(file_number: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(file_number), os.stat(path))
    except FileNotFoundError:
        return False


def _lock_while_named(file_number: int, path: Path) -> bool:
    """Takes the exclusive lock; False when another process completed or gave up the file meanwhile.

    The lock is polled: the process that completed the file keeps it locked as a pin for as long as it is in use.
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
