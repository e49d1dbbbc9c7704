"""Local copies of objects: one client and one cache a process.

In: the `[storage]` settings. Out: `Copies.open(file)`: the object's content as a mapping of a cached file. The mapping
holds a copy of the file number, and so the file's pin: it ends with the last array that looks at it, or with the
process.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

from titan_speech.config.tables import StorageTable
from titan_speech.remote.cache import Cache
from titan_speech.remote.client import Client, client_of
from titan_speech.remote.download import RemoteFile, fill

CACHE_VARIABLE = "TITAN_SPEECH_CACHE"


class Copies:
    """What one process has fetched, and fetches."""

    def __init__(self, client: Client, settings: StorageTable) -> None:
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


def cache_folder(settings: StorageTable) -> Path:
    named = settings.cache_dir or os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "titan_speech"


def copies_of(settings: StorageTable) -> Copies:
    """This process's copies for these settings; a forked process has its own client."""
    return _copies_of_client(client_of(settings), replace(settings, cache_dir=str(cache_folder(settings))))


@lru_cache(maxsize=16)
def _copies_of_client(client: Client, settings: StorageTable) -> Copies:
    return Copies(client, settings)
