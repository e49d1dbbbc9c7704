"""The manifest of a store in object storage, and whether the objects it names are there.

In: an address. Out: the `Manifest` from one request, and from one listing (a request per 1,000 objects) the lines of
what is missing or has another size. The manifest is read anew each time: it is small (2 MB at 1,250 shards) and the one
object whose sha256 nothing else states; its own fingerprint guards it.

The files of a store in object storage: what the token store reads through the node's cache.

In: the store's address and the `[storage]` settings. Out: arrays and sidecars as from a folder (store/files.py). Only
address and settings are pickled; every process has its own client, all of a node share the cache.

An open array pins its file, so a process that never closed one would in time pin everything and leave the cap without
meaning. Readers therefore tell what they keep open; above a share of the cap (half of it, divided by the node's
processes) or 256 files, what was opened first is closed. Opening it again costs one sidecar column, no hash.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
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
from titan_speech.store.files import LookAhead, size_problem
from titan_speech.store.manifest import MANIFEST_NAME, FileInfo, Manifest, manifest_of_text


def read_remote_manifest(client: Client, url: S3Url) -> Manifest:
    try:
        data = client.read(url.child(MANIFEST_NAME))
    except MissingObjectError as error:
        raise DataError(f"no token store at {url}: {MANIFEST_NAME} is missing; {_hint(client, url)}") from error
    return manifest_of_text(data, str(url.child(MANIFEST_NAME)))


def _hint(client: Client, url: S3Url) -> str:
    found = client.list_sizes(url)
    if not found:
        return "there are no objects below this prefix"
    stores = sorted(path.removesuffix(f"/{MANIFEST_NAME}") for path in found if path.endswith(f"/{MANIFEST_NAME}"))
    if stores:
        return f"stores below it: {', '.join(stores[:8])}"
    return f"{len(found)} other objects are there: its push was cut short, push it again"


def remote_size_problems(client: Client, url: S3Url, manifest: Manifest) -> list[str]:
    """One line for each object that is missing or has another size than the manifest says."""
    found = client.list_sizes(url)
    files = (file for part in manifest.parts for shard in part.shards for file in shard.files)
    return [problem for file in files for problem in size_problem(file, found.get(file.path))]


MAX_OPEN_FILES = 256


class RemoteFiles:
    """A store at s3://bucket/prefix."""

    def __init__(self, url: S3Url, settings: StorageConfig) -> None:
        self.url, self.settings = url, settings

    def __str__(self) -> str:
        return str(self.url)

    @property
    def copies(self) -> ObjectCache:
        return object_cache(self.settings)

    def name(self, file: FileInfo) -> str:
        return str(self.url.child(file.path))

    def remote(self, file: FileInfo) -> RemoteFile:
        return RemoteFile(self.url.child(file.path), file.num_bytes, file.sha256, file.xxh3_128)

    def manifest_text(self) -> bytes:
        return self.copies.client.read(self.url.child(MANIFEST_NAME))

    def manifest(self) -> Manifest:
        return read_remote_manifest(self.copies.client, self.url)

    def size_problems(self, manifest: Manifest) -> list[str]:
        return remote_size_problems(self.copies.client, self.url, manifest)

    def note(self, name: str) -> bytes | None:
        try:
            return self.copies.client.read(self.url.child(name))
        except MissingObjectError:
            return None

    def paths(self) -> list[str]:
        return list(self.copies.client.list_sizes(self.url))

    def array(self, file: FileInfo, dtype: np.dtype) -> NDArray:
        return np.frombuffer(self.copies.open(self.remote(file)), dtype)

    def check(self, file: FileInfo) -> None:
        self.copies.open(self.remote(file))

    def unchecked_array(self, file: FileInfo, dtype: np.dtype) -> NDArray | None:
        """Nothing that is damaged is kept, so there is none."""
        return self.array(file, dtype) if self.copies.has(self.remote(file)) else None

    def sha256(self, file: FileInfo) -> str:
        try:
            self.copies.open(self.remote(file))
        except MissingObjectError as error:
            raise FileNotFoundError(str(error)) from error
        return file.sha256

    def sidecar(self, file: FileInfo) -> pa.NativeFile:
        return pa.BufferReader(pa.py_buffer(self.copies.open(self.remote(file))))

    @property
    def look_ahead(self) -> LookAhead | None:
        """A quarter of the cache's cap for all processes of the node."""
        num_bytes = int(self.settings.cache_gb * 1e9 / 4 / node_processes())
        return LookAhead(self.settings.prefetch_packs, num_bytes) if self.settings.prefetch_packs else None

    def has(self, file: FileInfo) -> bool:
        return self.copies.has(self.remote(file))

    def fetch(self, files: Iterable[FileInfo]) -> None:
        self.copies.fetch_all(self.remote(file) for file in files)

    def has_opened(self, num_bytes: int, close: Callable[[], object]) -> None:
        open_arrays_of(self.settings).add(num_bytes, close)


class OpenArrays:
    """Arrays that readers of this process keep open, the oldest first."""

    def __init__(self, max_bytes: int, max_files: int = MAX_OPEN_FILES) -> None:
        self.max_bytes, self.max_files = max_bytes, max_files
        self.num_bytes = 0
        self._arrays: deque[tuple[int, Callable[[], object]]] = deque()
        self._lock = Lock()

    def add(self, num_bytes: int, close: Callable[[], object]) -> None:
        with self._lock:
            self._arrays.append((num_bytes, close))
            self.num_bytes += num_bytes
            while len(self._arrays) > 1 and (self.num_bytes > self.max_bytes or len(self._arrays) > self.max_files):
                oldest_bytes, close_oldest = self._arrays.popleft()
                self.num_bytes -= oldest_bytes
                close_oldest()


def open_arrays_of(settings: StorageConfig) -> OpenArrays:
    return _open_arrays_of_process(settings, os.getpid())


@lru_cache(maxsize=16)
def _open_arrays_of_process(settings: StorageConfig, _process_id: int) -> OpenArrays:
    return OpenArrays(int(settings.cache_gb * 1e9 / 2 / node_processes()))


def node_processes() -> int:
    """Ranks of this node, as torchrun says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def remote_files(path: str | Path, settings: StorageConfig | None) -> RemoteFiles:
    return RemoteFiles(S3Url.parse(path), settings or StorageConfig())
