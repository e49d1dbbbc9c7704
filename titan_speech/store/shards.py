"""Files of a shard: what they are called, how their numbers lie on disk, how they are written and mapped.

In: arrays and rows in stored order. Out: files with size and checksums, all flushed to disk; layout in builder.py.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from titan_speech.store.manifest import FileInfo, Kind

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
