"""Sorted runs: samples of one part in the order of their keys, on disk, until they are merged to shards.

In: rows, tokens and transcript ids of some thousand samples (sample_sorter.py). Out: files that are read by key range:

    FOLDER/<part>/00000.keys             uint64 order keys, ascending
    FOLDER/<part>/00000.rows             one row per sample (Arrow IPC), in the order of the keys
    FOLDER/<part>/00000.tokens           their tokens back to back
    FOLDER/<part>/00000.text.<variant>   ids of one transcript variant back to back
    FOLDER/<part>/00000.segments         what is needed to check segment order, by recording
    FOLDER/<part>/00000.source_rows      int64 row of the input file, -1 where there is no such row; only in a build

A sample's key is xxh3_64(sample_id, seed): a uniform shuffle that depends on the ids alone. As every run is sorted, a
shard (a range of keys) is one short slice of each run: 80 M samples of 500 codes are 80 GB in 1,250 runs of 64 MB, and
a shard of 128 MB reads 100 kB of each, where shuffling one big file would need a seek per sample.

xxhash has no call for many inputs, so hashes of many samples are C-level maps over views of the Arrow and file buffers:
0.3 us per sample on an idle core, where a Python loop over array slices takes 1.2.

Shapes: N samples of a run, T tokens of all of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, repeat
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from titan_speech.store.files import TEXT_DTYPE, TOKENS, dtype_of, length_column, mapped_array, suffix_of
from titan_speech.store.manifest import PartKey
from titan_speech.store.sample import ROW_SCHEMA

SEGMENT_DTYPE = np.dtype([("recording", "<u8"), ("order", "<i4"), ("start", "<f8"), ("row", "<u4")])
SOURCE_ROW_DTYPE = np.dtype("<i8")


def order_keys(sample_ids: pa.ChunkedArray, seed: int) -> NDArray[np.uint64]:
    """xxh3_64(sample_id, seed) of each id: samples of a part are stored in ascending order of it."""
    keys = []
    for chunk in sample_ids.chunks:
        if len(chunk):
            _, offsets, values = chunk.buffers()
            offset_N1 = np.frombuffer(offsets, np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
            keys.append(_hashes(memoryview(values if values is not None else b""), offset_N1.tolist(), seed))
    return np.concatenate([*keys, np.empty(0, np.uint64)])


def checksums(data: NDArray, offset_N1: NDArray) -> NDArray[np.uint64]:
    """xxh3_64 of the bytes of each sample data[offset[j] : offset[j + 1]]."""
    return _hashes(data.data.cast("B"), (offset_N1.astype(np.int64) * data.itemsize).tolist(), 0)


def _hashes(data: memoryview, offset_N1: list[int], seed: int) -> NDArray[np.uint64]:
    """Of the bytes data[offset[j] : offset[j + 1]] for each j."""
    views = map(data.__getitem__, map(slice, offset_N1[:-1], offset_N1[1:]))
    return np.fromiter(map(xxhash.xxh3_64_intdigest, views, repeat(seed)), np.uint64, len(offset_N1) - 1)


@dataclass(frozen=True)
class Ragged:
    """Sequences of different lengths, back to back."""

    data_T: NDArray
    lengths_N: NDArray[np.int32]

    @classmethod
    def join(cls, parts: Sequence[Ragged]) -> Ragged:
        return cls(np.concatenate([part.data_T for part in parts]), np.concatenate([part.lengths_N for part in parts]))

    def take(self, order_N: NDArray) -> Ragged:
        """The sequences at these indexes, in this order."""
        pieces = list(self.chunks(order_N, max(len(order_N), 1)))
        return Ragged(pieces[0] if pieces else self.data_T[:0], self.lengths_N[order_N])

    def chunks(self, order_N: NDArray, num_sequences: int) -> Iterator[NDArray]:
        """The data of the sequences at these indexes, `num_sequences` at a time."""
        stops_N = np.cumsum(self.lengths_N, dtype=np.int64)
        starts_N = stops_N - self.lengths_N
        view = np.ascontiguousarray(self.data_T).data
        for first in range(0, len(order_N), num_sequences):
            some_N = order_N[first : first + num_sequences]
            slices = map(slice, starts_N[some_N].tolist(), stops_N[some_N].tolist())
            yield np.frombuffer(b"".join(map(view.__getitem__, slices)), self.data_T.dtype)

    def split(self) -> list[NDArray]:
        """A view of each sequence."""
        borders = [0, *np.cumsum(self.lengths_N, dtype=np.int64).tolist()]
        return [self.data_T[start:stop] for start, stop in pairwise(borders)]


@dataclass(frozen=True)
class VariantCount:
    """How much a run holds of one transcript variant."""

    name: str
    num_samples: int
    num_tokens: int


@dataclass(frozen=True)
class SortedRun:
    """A run on disk; for messages, `unit` names the input it came from and `file` the file that its rows are of."""

    folder: Path
    name: str
    key: PartKey
    num_samples: int
    num_tokens: int
    variants: tuple[VariantCount, ...]
    unit: str | None = None
    file: str | None = None

    def path(self, suffix: str) -> Path:
        return self.folder / f"{self.name}.{suffix}"

    def keys_N(self) -> NDArray[np.uint64]:  # noqa: N802
        return mapped_array(self.path("keys"), np.dtype("<u8"))

    def place(self, row: int) -> str | None:
        """Where in the input the sample at `row` of this run is, as far as that is known."""
        path = self.path("source_rows")
        source_row = int(mapped_array(path, SOURCE_ROW_DTYPE)[row]) if self.file and path.exists() else -1
        return self.unit if source_row < 0 else f"{self.file}, row {source_row}"

    def segments(self) -> NDArray:
        return mapped_array(self.path("segments"), SEGMENT_DTYPE)

    def rows(self) -> pa.Table:
        """Memory-mapped."""
        return pa.ipc.open_file(pa.memory_map(str(self.path("rows")))).read_all()

    def lengths_N(self, name: str) -> NDArray[np.int32]:  # noqa: N802
        """Tokens of each sample, or ids of one variant."""
        return self.rows()[length_column(name)].to_numpy()

    def slice(self, name: str, start: int, stop: int, rows: pa.Table) -> Ragged:
        """TOKENS or ids of a variant of samples [start, stop); `rows` are the run's."""
        lengths_N = rows[length_column(name)].to_numpy()
        if name != TOKENS and all(name != variant.name for variant in self.variants):
            return Ragged(np.empty(0, TEXT_DTYPE), lengths_N[start:stop])
        first = int(lengths_N[:start].sum(dtype=np.int64))
        last = first + int(lengths_N[start:stop].sum(dtype=np.int64))
        data = mapped_array(self.path(suffix_of(name)), dtype_of(name, self.key.kind))
        return Ragged(data[first:last], lengths_N[start:stop])


def order_key(sample_id: str, seed: int) -> int:
    """As `order_keys`, of one id."""
    return xxhash.xxh3_64_intdigest(sample_id.encode(), seed)


def write_run(
    folder: Path,
    name: str,
    key: PartKey,
    rows: pa.Table,
    keys_N: NDArray,
    data: Mapping[str, Ragged],
    source_rows_N: NDArray[np.int64] | None = None,
) -> SortedRun:
    """Sorts samples by key and writes them as run `name` in `folder`, flushed to disk.

    Args:
        rows: with all columns of `ROW_SCHEMA`.
        keys_N: order keys of the samples.
        data: TOKENS, and the ids of each variant that any of the samples has.
        source_rows_N: rows of the input file, where it has rows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    order_N = np.argsort(keys_N, kind="stable")
    rows = rows.combine_chunks().take(pa.array(order_N))
    variants = tuple(
        VariantCount(variant, int(np.count_nonzero(ragged.lengths_N)), len(ragged.data_T))
        for variant, ragged in data.items()
        if variant != TOKENS
    )
    run = SortedRun(folder, name, key, len(order_N), len(data[TOKENS].data_T), variants)
    _write_array(run.path("keys"), keys_N[order_N])
    _write_array(run.path("segments"), _segments(rows, key.dataset_source))
    if source_rows_N is not None:
        _write_array(run.path("source_rows"), source_rows_N[order_N])
    for stream, ragged in data.items():
        _write_array(run.path(suffix_of(stream)), ragged.take(order_N).data_T)
    with pa.OSFile(str(run.path("rows")), "wb") as file, pa.ipc.new_file(file, ROW_SCHEMA) as writer:
        writer.write_table(rows)
    with open(run.path("rows"), "rb") as file:
        os.fsync(file.fileno())
    return run


def _write_array(path: Path, array: NDArray) -> None:
    with open(path, "wb") as file:
        file.write(np.ascontiguousarray(array).data)
        file.flush()
        os.fsync(file.fileno())


def _segments(rows: pa.Table, dataset_source: str) -> NDArray:
    """Samples with recording, segment order and start time, sorted by recording (a hash of source and recording)."""
    known = rows.select(["source_video_id", "segment_order", "start_time"])
    is_valid = np.logical_and.reduce([column.is_valid().to_numpy() for column in known.columns])
    row_N = np.flatnonzero(is_valid)
    segments = np.empty(len(row_N), SEGMENT_DTYPE)
    chosen = known.take(pa.array(row_N))
    prefix = f"{dataset_source}\0"
    recordings = [xxhash.xxh3_64_intdigest((prefix + video).encode()) for video in chosen[0].to_pylist()]
    segments["recording"] = np.array(recordings, np.uint64)
    segments["order"], segments["start"], segments["row"] = chosen[1].to_numpy(), chosen[2].to_numpy(), row_N
    return np.sort(segments, order=["recording", "order", "start"], kind="stable") if len(segments) else segments
