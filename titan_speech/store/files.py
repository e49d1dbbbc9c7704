"""Files of a store: their names, how arrays are written and mapped, and where a reader gets them from.

In: arrays and rows in stored order, or a place where they were stored. Out: files with size and checksums, flushed to
disk (layout in writer.py); verified arrays and sidecars. Readers of a store know files by their `FileInfo` only, so a
folder (`LocalFiles`) and object storage (`RemoteFiles`, remote_files.py) are read by the same code.
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
from titan_speech.store.manifest import FileInfo, Kind, Manifest
from titan_speech.store.manifest_reader import read_manifest
from titan_speech.store.mapped_files import FileState, mapped_files
from titan_speech.utils.checksum import is_intact, sha256_of
from titan_speech.utils.json_text import read_small_file

TOKEN_DTYPES = {Kind.SPEECH: np.dtype("<u2"), Kind.TEXT: np.dtype("<u4")}
TEXT_DTYPE = np.dtype("<u4")
ROWS_PER_GROUP = 8192
REPAIR = "copy the file again from where the store came from, or rebuild the store"
TOKENS = "tokens"
"""Names a sample's codes, or the ids of a text sample, where variants name its transcripts."""


def suffix_of(name: str) -> str:
    """Suffix of the shard file that holds TOKENS or the ids of a variant."""
    return TOKENS if name == TOKENS else f"text.{name}"


def length_column(name: str) -> str:
    """Sidecar column with the lengths of TOKENS or of a variant."""
    return "code_len" if name == TOKENS else f"text_len_{name}"


def dtype_of(name: str, kind: Kind) -> np.dtype:
    """How TOKENS or the ids of a variant are stored in a part of this kind."""
    return TOKEN_DTYPES[kind] if name == TOKENS else TEXT_DTYPE


def write_array(store: Path, path: str, chunks: Iterable[NDArray]) -> FileInfo:
    """Writes arrays back to back and flushes them to disk."""
    sha256, xxh3_128, num_bytes = hashlib.sha256(), xxhash.xxh3_128(), 0
    with open(store / path, "wb") as file:
        for chunk in chunks:
            data = np.ascontiguousarray(chunk).data
            sha256.update(data)
            xxh3_128.update(data)
            num_bytes += file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return FileInfo(path, num_bytes, sha256.hexdigest(), xxh3_128.hexdigest())


def write_sidecar(store: Path, path: str, rows: pa.Table) -> FileInfo:
    """Writes rows as parquet: small row groups so that one row can be read alone, and a checksum per page, which covers
    reads of one column."""
    pq.write_table(rows, store / path, row_group_size=ROWS_PER_GROUP, compression="zstd", write_page_checksum=True)
    with open(store / path, "rb") as file:
        os.fsync(file.fileno())
        content = file.read()
    return FileInfo(path, len(content), hashlib.sha256(content).hexdigest(), xxhash.xxh3_128_hexdigest(content))


def mapped_array(path: Path, dtype: np.dtype) -> NDArray:
    """The file as an array; the file is not kept open, so the number of shards meets no limit on open files."""
    num_bytes = path.stat().st_size
    if num_bytes == 0:
        return np.empty(0, dtype)
    if num_bytes % dtype.itemsize:
        raise DataError(
            f"{path} has {num_bytes:,} bytes, not a multiple of {dtype.itemsize}: damaged, fetch it or build it again"
        )
    with pa.memory_map(str(path)) as file:
        return np.frombuffer(file.read_buffer(), dtype)


@dataclass(frozen=True)
class LookAhead:
    """How far before their use shards are fetched, by one process."""

    num_packs: int
    num_bytes: int


class StoreFiles(Protocol):
    """The files of one store; its text is the folder or address, and it pickles to that."""

    @property
    def look_ahead(self) -> LookAhead | None:
        """None where files need not be fetched."""
        ...

    def manifest(self) -> Manifest:
        """The manifest, checked against its fingerprint."""
        ...

    def read(self, name: str) -> bytes | None:
        """A file next to the manifest, or the manifest itself; None if there is no such file."""
        ...

    def list_paths(self) -> list[str]:
        """Every file of the store's folder, relative to it, whether the manifest lists it or not."""
        ...

    def sizes_of(self, files: Iterable[FileInfo]) -> dict[str, int]:
        """Size in bytes of those of the files that exist, by path."""
        ...

    def array(self, file: FileInfo, dtype: np.dtype) -> NDArray:
        """The verified contents."""
        ...

    def unverified_array(self, file: FileInfo, dtype: np.dtype) -> NDArray | None:
        """The contents of a file that may be damaged; None if it cannot be read at its full size."""
        ...

    def sidecar(self, file: FileInfo, verify: bool = False) -> Path | pa.NativeFile:
        """The file as pyarrow opens it; `verify` checks all of it, which reads of one column do page by page."""
        ...

    def sha256(self, file: FileInfo) -> str:
        """Computed from the contents."""
        ...

    def has(self, file: FileInfo) -> bool:
        """Whether the file can be read without fetching it."""
        ...

    def fetch(self, files: Iterable[FileInfo]) -> None:
        """Fetches files that will be read soon."""
        ...

    def track_open_array(self, num_bytes: int, close: Callable[[], object]) -> None:
        """Registers an array that a reader keeps open; `close` is called when too much is open."""
        ...


class LocalFiles:
    """A store in a folder."""

    look_ahead = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def manifest(self) -> Manifest:
        return read_manifest(self.folder)

    def read(self, name: str) -> bytes | None:
        path = self.folder / name
        try:
            return read_small_file(path) if path.is_file() else None
        except ValueError as error:
            raise DataError(f"{path} has {error}; {REPAIR}") from error

    def list_paths(self) -> list[str]:
        return [path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if not path.is_dir()]

    def sizes_of(self, files: Iterable[FileInfo]) -> dict[str, int]:
        sizes = {}
        for file in files:
            try:
                sizes[file.path] = (self.folder / file.path).stat().st_size
            except OSError:
                continue  # missing, or in a folder that cannot be read
        return sizes

    def array(self, file: FileInfo, dtype: np.dtype) -> NDArray:
        path = self.folder / file.path
        state = FileState.of(os.stat(path)) if path.is_file() else None
        array = mapped_array(self._verified_path(file), dtype)
        if state is not None:
            mapped_files.add(path, state, file)
        return array

    def unverified_array(self, file: FileInfo, dtype: np.dtype) -> NDArray | None:
        path = self.folder / file.path
        has_size = path.is_file() and path.stat().st_size == file.num_bytes
        return mapped_array(path, dtype) if has_size else None

    def sidecar(self, file: FileInfo, verify: bool = False) -> Path:
        return self._verified_path(file) if verify else self._path_of(file)

    def sha256(self, file: FileInfo) -> str:
        with open(self._path_of(file), "rb") as opened:
            return sha256_of(opened)

    def has(self, file: FileInfo) -> bool:
        return True

    def fetch(self, files: Iterable[FileInfo]) -> None:
        """Nothing to do: they are in the folder."""

    def track_open_array(self, num_bytes: int, close: Callable[[], object]) -> None:
        """Nothing to do: mappings of a folder cost nothing to keep."""

    def _path_of(self, file: FileInfo) -> Path:
        """The path, also of a missing file; a named pipe is refused, since opening it would wait without end."""
        path = self.folder / file.path
        if path.exists() and not path.is_file():
            raise DataError(f"{path} is no regular file; {REPAIR}")
        return path

    def _verified_path(self, file: FileInfo) -> Path:
        path = self._path_of(file)
        try:
            with open(path, "rb") as opened:
                found = file.sha256 if is_intact(opened, file) else sha256_of(opened)
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error}); {REPAIR}") from error
        if found != file.sha256:
            raise DataError(f"{path} is damaged: sha256 {found[:16]}..., expected {file.sha256[:16]}...; {REPAIR}")
        return path


def size_problems(store: StoreFiles, manifest: Manifest) -> list[str]:
    """One line per file that is missing or whose size is not the one in the manifest."""
    sizes, problems = store.sizes_of(manifest.files), []
    for file in manifest.files:
        num_bytes = sizes.get(file.path)
        if num_bytes is None:
            problems.append(f"{file.path} is missing (expected {file.num_bytes} bytes)")
        elif num_bytes != file.num_bytes:
            what = "truncated" if num_bytes < file.num_bytes else "too long"
            problems.append(f"{file.path} is {what}: {num_bytes} bytes, expected {file.num_bytes}")
    return problems
