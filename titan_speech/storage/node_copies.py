"""Local copies of objects: one client and one cache a process.

In: the `[storage]` settings. Out: `Copies.open(file)`: the object's content as a mapping of a cached file. The mapping
holds a copy of the file number, and so the file's pin: it ends with the last array that looks at it, or with the
process.

A cache for one command, gone when it ends, however it ends.

In: the node's cache folder. Out: an empty folder in it that only this process uses. A process that is killed leaves its
folder behind; the next one removes it. Which are left behind is told by locks on the folders, which the kernel drops
with their process. The folder above is locked while one is made and not locked yet.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from tempfile import mkdtemp

from titan_speech.config.schema_data import StorageConfig
from titan_speech.errors import DataError
from titan_speech.storage.cache import Cache
from titan_speech.storage.download import RemoteFile, fill
from titan_speech.storage.s3 import Client, client_of

CACHE_VARIABLE = "TITAN_SPEECH_CACHE"


class Copies:
    """What one process has fetched, and fetches."""

    def __init__(self, client: Client, settings: StorageConfig) -> None:
        self.client = client
        self.cache = Cache(Path(settings.cache_dir), int(settings.cache_gb * 1e9), partial(fill, self.client))

    def open(self, file: RemoteFile) -> mmap.mmap | bytes:
        """The verified content, fetched if it is not there."""
        file_number = self.cache.open(file)
        try:
            return mmap.mmap(file_number, 0, access=mmap.ACCESS_READ) if file.num_bytes else b""
        finally:
            os.close(file_number)

    def fetch(self, file: RemoteFile) -> None:
        """Makes sure that the node has the file, and keeps it for longest."""
        if not self.cache.keep(file):
            os.close(self.cache.open(file))

    def fetch_all(self, files: Iterable[RemoteFile]) -> None:
        """As many at once as there are connections; the first failure is raised."""
        missing = [file for file in files if not self.cache.keep(file)]
        if len(missing) == 1:
            self.fetch(missing[0])
        elif missing:
            with ThreadPoolExecutor(self.client.settings.num_connections, thread_name_prefix="fetch") as pool:
                list(pool.map(self.fetch, missing))


def cache_folder(settings: StorageConfig) -> Path:
    named = settings.cache_dir or os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "titan_speech"


def copies_of(settings: StorageConfig) -> Copies:
    """This process's copies for these settings; a forked process has its own client."""
    return _copies_of_client(client_of(settings), replace(settings, cache_dir=str(cache_folder(settings))))


@lru_cache(maxsize=16)
def _copies_of_client(client: Client, settings: StorageConfig) -> Copies:
    return Copies(client, settings)


SCRATCH_PREFIX = "verify-"


@contextmanager
def scratch_cache(cache: Path) -> Iterator[Path]:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache):
            _remove_left_behind(cache)
            folder = Path(mkdtemp(prefix=SCRATCH_PREFIX, dir=cache))
            lock = _lock(folder)
    except OSError as error:
        raise DataError(
            f"the cache {cache} cannot be written ({error}); set TITAN_SPEECH_CACHE to a folder on a local disk"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _remove_left_behind(cache: Path) -> None:
    for folder in cache.glob(f"{SCRATCH_PREFIX}*"):
        try:
            lock = _lock(folder, fcntl.LOCK_NB)
        except (BlockingIOError, FileNotFoundError):
            continue  # in use, or removed meanwhile by its owner
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _lock(folder: Path, flags: int = 0) -> int:
    """File number of the folder, locked as long as it is open."""
    file_number = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(file_number, fcntl.LOCK_EX | flags)
    except BaseException:
        os.close(file_number)
        raise
    return file_number


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    file_number = _lock(folder)
    try:
        yield
    finally:
        os.close(file_number)
