"""Files of a shard: what they are called, how their numbers lie on disk, how they are written and mapped.

In: arrays and rows in stored order. Out: files with size and checksums, all flushed to disk; layout in builder.py.

Where the files of a store lie, and how their contents are had.

In: a folder, or any other place that offers `StoreFiles` (object storage: remote/files.py). Out: verified arrays and
sidecars. Readers of a store know files by their `FileInfo` only.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from titan_speech.errors import DataError
from titan_speech.store.manifest import MANIFEST_NAME, FileInfo, Kind, Manifest, ShardInfo, read_manifest
from titan_speech.utils.checksum import is_intact, sha256_of

TOKEN_DTYPES = {Kind.SPEECH: np.dtype("<u2"), Kind.TEXT: np.dtype("<u4")}
TEXT_DTYPE = np.dtype("<u4")
ROWS_PER_GROUP = 8192


TOKENS = "tokens"
"""Names a sample's codes, or the ids of a text sample, where variants name its transcripts."""


def suffix_of(name: str) -> str:
    """How a file of a shard ends that holds TOKENS or a variant's ids."""
    return TOKENS if name == TOKENS else f"text.{name}"


@dataclass(frozen=True, order=True)
class PartKey:
    """Names a part."""

    dataset_source: str
    language: str
    kind: Kind

    @property
    def folder(self) -> str:
        return f"{self.dataset_source}.{self.language}.{self.kind}"


def write_array(store: Path, path: str, chunks: Iterable[NDArray]) -> FileInfo:
    sha256, xxh3_128, num_bytes = hashlib.sha256(), xxhash.xxh3_128(), 0
    with open(store / path, "wb") as file:
        for chunk in chunks:
            data = np.ascontiguousarray(chunk).data
            sha256.update(data)
            xxh3_128.update(data)
            num_bytes += file.write(data)
        flush_to_disk(file.fileno())
    return FileInfo(path, num_bytes, sha256.hexdigest(), xxh3_128.hexdigest())


def write_sidecar(store: Path, path: str, rows: pa.Table) -> FileInfo:
    """Small row groups let one row be read alone; a checksum on each page covers reads of one column."""
    pq.write_table(rows, store / path, row_group_size=ROWS_PER_GROUP, compression="zstd", write_page_checksum=True)
    with open(store / path, "rb") as file:
        flush_to_disk(file.fileno())
        content = file.read()
    return FileInfo(path, len(content), hashlib.sha256(content).hexdigest(), xxhash.xxh3_128_hexdigest(content))


def flush_to_disk(file_number: int) -> None:
    """What is renamed into place must survive a power cut."""
    os.fsync(file_number)


def mapped_array(path: Path, dtype: np.dtype) -> NDArray:
    """The file as an array; it is not kept open, so the number of shards meets no limit on open files."""
    if path.stat().st_size == 0:
        return np.empty(0, dtype)
    with pa.memory_map(str(path)) as file:
        return np.frombuffer(file.read_buffer(), dtype)


REPAIR = "copy the file again from where the store came from, or rebuild the store"


@dataclass(frozen=True)
class LookAhead:
    """How far before their use shards are fetched, by one process."""

    num_packs: int
    num_bytes: int


class StoreFiles(Protocol):
    """The files of one store; pickles to where they are."""

    @property
    def look_ahead(self) -> LookAhead | None:
        """None where files are at hand anyway."""
        ...

    def name(self, file: FileInfo) -> str:
        """The file as messages name it."""
        ...

    def manifest_text(self) -> bytes: ...

    def manifest(self) -> Manifest: ...

    def note(self, name: str) -> bytes | None:
        """A file beside the manifest that it does not list (gold.json); None where there is none."""
        ...

    def paths(self) -> list[str]:
        """Every file there is, as seen from the store."""
        ...

    def size_problems(self, manifest: Manifest) -> list[str]:
        """One line for each file that is missing or has another size than the manifest says."""
        ...

    def array(self, file: FileInfo, dtype: np.dtype) -> NDArray:
        """The contents, once they were found to be what was written."""
        ...

    def check(self, file: FileInfo) -> None:
        """Raises unless the contents are what was written."""
        ...

    def unchecked_array(self, file: FileInfo, dtype: np.dtype) -> NDArray | None:
        """What can be had of a file that may be damaged; None if nothing of its size can."""
        ...

    def sha256(self, file: FileInfo) -> str:
        """Of the contents as they are."""
        ...

    def sidecar(self, file: FileInfo) -> Path | pa.NativeFile:
        """The file as pyarrow opens it."""
        ...

    def has(self, file: FileInfo) -> bool:
        """Whether the file can be read without waiting for it."""
        ...

    def fetch(self, files: Iterable[FileInfo]) -> None:
        """Brings files near that will soon be read."""
        ...

    def has_opened(self, num_bytes: int, close: Callable[[], object]) -> None:
        """An array is kept by its reader, which is asked to `close` it when too much is open."""
        ...


class LocalFiles:
    """A store in a folder."""

    look_ahead = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def name(self, file: FileInfo) -> str:
        return str(self.folder / file.path)

    def manifest_text(self) -> bytes:
        return (self.folder / MANIFEST_NAME).read_bytes()

    def manifest(self) -> Manifest:
        return read_manifest(self.folder)

    def note(self, name: str) -> bytes | None:
        path = self.folder / name
        return path.read_bytes() if path.is_file() else None

    def paths(self) -> list[str]:
        return [path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if not path.is_dir()]

    def size_problems(self, manifest: Manifest) -> list[str]:
        return size_problems(self.folder, manifest)

    def array(self, file: FileInfo, dtype: np.dtype) -> NDArray:
        return mapped_array(checked_path(self.folder, file), dtype)

    def check(self, file: FileInfo) -> None:
        checked_path(self.folder, file)

    def unchecked_array(self, file: FileInfo, dtype: np.dtype) -> NDArray | None:
        path = self.folder / file.path
        is_of_size = path.is_file() and path.stat().st_size == file.num_bytes
        return mapped_array(path, dtype) if is_of_size else None

    def sha256(self, file: FileInfo) -> str:
        with open(self.folder / file.path, "rb") as opened:
            return sha256_of(opened)

    def sidecar(self, file: FileInfo) -> Path:
        return self.folder / file.path

    def has(self, file: FileInfo) -> bool:
        return True

    def fetch(self, files: Iterable[FileInfo]) -> None:
        """They are here."""

    def has_opened(self, num_bytes: int, close: Callable[[], object]) -> None:
        """Mappings of a folder cost nothing to keep."""


def files_at(store: Path | StoreFiles) -> StoreFiles:
    return LocalFiles(store) if isinstance(store, Path) else store


def checked_path(store: Path, file: FileInfo) -> Path:
    """The file, once its bytes were found to be those of the manifest."""
    path = store / file.path
    try:
        with open(path, "rb") as opened:
            found = file.sha256 if is_intact(opened, file) else sha256_of(opened)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}); {REPAIR}") from error
    if found != file.sha256:
        raise DataError(f"{path} is damaged: sha256 {found[:16]}..., expected {file.sha256[:16]}...; {REPAIR}")
    return path


def size_problems(path: Path, manifest: Manifest) -> list[str]:
    """One line for each file that is missing or has another size than the manifest says."""
    shards = (shard for part in manifest.parts for shard in part.shards)
    return [problem for shard in shards for problem in shard_size_problems(path, shard)]


def shard_size_problems(path: Path, shard: ShardInfo) -> list[str]:
    problems = []
    for file in shard.files:
        try:
            num_bytes = (path / file.path).stat().st_size
        except OSError:
            num_bytes = None
        problems += size_problem(file, num_bytes)
    return problems


def size_problem(file: FileInfo, num_bytes: int | None) -> list[str]:
    """What is wrong with a file of that size; None is a file that is not there."""
    if num_bytes is None:
        return [f"{file.path} is missing (expected {file.num_bytes} bytes)"]
    if num_bytes == file.num_bytes:
        return []
    what = "truncated" if num_bytes < file.num_bytes else "too long"
    return [f"{file.path} is {what}: {num_bytes} bytes, expected {file.num_bytes}"]
