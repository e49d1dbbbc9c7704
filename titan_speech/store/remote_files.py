"""A store in object storage, read through the node's cache.

In: the store's address and the `[storage]` settings. Out: arrays and sidecars as from a folder (files.py). Only address
and settings are pickled; every process has its own client, all processes of a node share the cache.

The manifest is fetched again by every process that opens the store: it is small (2 MB at 1,250 shards) and the one
object whose sha256 nothing else states; its own fingerprint guards it. Sizes are compared by one listing (a request per
1,000 objects).

An open array pins its file, so a process that never closed one would in time pin everything, and the cap would have no
effect. Readers therefore register what they keep open; above a share of the cap (half of it, divided by the node's
processes) or 256 files, what was opened first is closed. Opening it again costs one sidecar column and no hash.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from functools import lru_cache
from threading import Lock

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from titan_speech.config.schema_data import StorageConfig
from titan_speech.errors import DataError
from titan_speech.storage.cache import ObjectCache, object_cache
from titan_speech.storage.download import RemoteFile
from titan_speech.storage.retry import MissingObjectError
from titan_speech.storage.s3 import Client
from titan_speech.storage.s3_url import S3Url
from titan_speech.store.files import LookAhead
from titan_speech.store.manifest import MANIFEST_NAME, FileInfo, Manifest
from titan_speech.store.manifest_reader import manifest_of_text

MAX_OPEN_FILES = 256


def read_remote_manifest(client: Client, url: S3Url) -> Manifest:
    """
    Raises:
        DataError: there is no store at the address (caused by a `MissingObjectError`), or its manifest is damaged.
    """
    place = url.child(MANIFEST_NAME)
    try:
        return client.read(place, lambda content: manifest_of_text(content, str(place)))
    except MissingObjectError as error:
        raise DataError(f"no token store at {url}: {MANIFEST_NAME} is missing; {_hint(client, url)}") from error


def _hint(client: Client, url: S3Url) -> str:
    """What is at the address instead of a store."""
    found = client.list_sizes(url)
    if not found:
        return "there are no objects below this prefix"
    stores = sorted(path.removesuffix(f"/{MANIFEST_NAME}") for path in found if path.endswith(f"/{MANIFEST_NAME}"))
    if stores:
        return f"stores below it: {', '.join(stores[:8])}"
    return f"{len(found)} other objects are there: its push was cut short, push it again"


def remote_file(url: S3Url, file: FileInfo) -> RemoteFile:
    """The object of a file of the store at `url`."""
    return RemoteFile(url.child(file.path), file.num_bytes, file.sha256, file.xxh3_128)


class RemoteFiles:
    """A store at s3://bucket/prefix; implements `StoreFiles`."""

    def __init__(self, url: S3Url, settings: StorageConfig) -> None:
        self.url, self.settings = url, settings

    def __str__(self) -> str:
        return str(self.url)

    @property
    def _cache(self) -> ObjectCache:
        return object_cache(self.settings)

    @property
    def look_ahead(self) -> LookAhead | None:
        """A quarter of the cache's cap for all processes of the node."""
        num_bytes = int(self.settings.cache_gb * 1e9 / 4 / node_processes())
        return LookAhead(self.settings.prefetch_packs, num_bytes) if self.settings.prefetch_packs else None

    def manifest(self) -> Manifest:
        return read_remote_manifest(self._cache.client, self.url)

    def read(self, name: str) -> bytes | None:
        try:
            return self._cache.client.read(self.url.child(name))
        except MissingObjectError:
            return None

    def list_paths(self) -> list[str]:
        return list(self._cache.client.list_sizes(self.url))

    def sizes_of(self, files: Iterable[FileInfo]) -> dict[str, int]:
        return self._cache.client.list_sizes(self.url)

    def array(self, file: FileInfo, dtype: np.dtype) -> NDArray:
        return np.frombuffer(self._cache.open(remote_file(self.url, file)), dtype)

    def unverified_array(self, file: FileInfo, dtype: np.dtype) -> NDArray | None:
        """The array if it is cached: nothing that is damaged is kept."""
        return self.array(file, dtype) if self.has(file) else None

    def sidecar(self, file: FileInfo, verify: bool = False) -> pa.NativeFile:
        return pa.BufferReader(pa.py_buffer(self._cache.open(remote_file(self.url, file))))

    def sha256(self, file: FileInfo) -> str:
        try:
            self._cache.open(remote_file(self.url, file))
        except MissingObjectError as error:
            raise FileNotFoundError(str(error)) from error
        return file.sha256

    def has(self, file: FileInfo) -> bool:
        return self._cache.has(remote_file(self.url, file))

    def fetch(self, files: Iterable[FileInfo]) -> None:
        self._cache.fetch_all(remote_file(self.url, file) for file in files)

    def track_open_array(self, num_bytes: int, close: Callable[[], object]) -> None:
        _open_arrays(self.settings, os.getpid()).add(num_bytes, close)


class OpenArrays:
    """Arrays that readers of this process keep open, the oldest first."""

    def __init__(self, max_bytes: int, max_files: int = MAX_OPEN_FILES) -> None:
        self.max_bytes, self.max_files = max_bytes, max_files
        self.num_bytes = 0
        self._arrays: deque[tuple[int, Callable[[], object]]] = deque()
        self._lock = Lock()

    def add(self, num_bytes: int, close: Callable[[], object]) -> None:
        """Closes the oldest arrays until the new one is within the limits."""
        with self._lock:
            self._arrays.append((num_bytes, close))
            self.num_bytes += num_bytes
            while len(self._arrays) > 1 and (self.num_bytes > self.max_bytes or len(self._arrays) > self.max_files):
                oldest_bytes, close_oldest = self._arrays.popleft()
                self.num_bytes -= oldest_bytes
                close_oldest()


@lru_cache(maxsize=16)
def _open_arrays(settings: StorageConfig, _process_id: int) -> OpenArrays:
    return OpenArrays(int(settings.cache_gb * 1e9 / 2 / node_processes()))


def node_processes() -> int:
    """Ranks of this node, as torchrun says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
