"""The key that orders the samples of a part, and other hashes of many samples at once.

In: a column of sample ids, or the bytes of a file and where its samples begin. Out: one 64-bit hash a sample. xxhash
has no call for many inputs, so these are C-level maps over views of the Arrow and file buffers: 0.3 us a sample on an
idle core, where a Python loop over array slices takes 1.2.

Shapes: N samples.

Runs: samples of one part in the order of their keys, on disk, as they wait to be cut into shards.

In: rows, tokens and transcript ids of some thousand samples. Out: files that are read by key range:

    FOLDER/<part>/00000.keys             uint64 order keys, ascending
    FOLDER/<part>/00000.rows             one row a sample (Arrow IPC), in the order of the keys
    FOLDER/<part>/00000.tokens           their tokens back to back
    FOLDER/<part>/00000.text.<variant>   ids of one transcript variant back to back
    FOLDER/<part>/00000.segments         what is needed to check segment order, by recording
    FOLDER/<part>/00000.source_rows      int64 row of the input file, -1 where it has none; only in a build

A sample's key is xxh3_64(sample_id, seed): a uniform shuffle that depends on the ids alone. As every run is sorted, a
shard (a range of keys) is one short slice of each run: 80 M samples of 500 codes are 80 GB in 1,250 runs of 64 MB, and
a shard of 128 MB reads 100 kB of each, where shuffling one big file would need a seek a sample.

Shapes: N samples of a run, T tokens of all of them.

Spilling samples: each is checked, texts are tokenized in batches, and sorted runs are written.

In: samples with codes and transcripts, or with text, in any order and of any part. Out: runs (runs.py); bad samples are
told to `refuse` and left out, samples whose times are not the length of their codes are told to `doubt` and kept.

Memory: a batch of 1,024 samples as they came, then compact rows and arrays until `RUN_BYTES` of tokens (64 MB) or
`RUN_SAMPLES` samples of all parts together are there and each part writes its run: 310 MB of process with transcripts,
and up to 50 MB for words that were met before (word_ids.py). Rates are in benchmarks/results/build.json.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, repeat
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from titan_speech.store.files import TEXT_DTYPE, TOKEN_DTYPES, TOKENS, PartKey, flush_to_disk, mapped_array, suffix_of
from titan_speech.store.manifest import Kind
from titan_speech.store.sample import (
    ROW_SCHEMA,
)


def order_keys(sample_ids: pa.ChunkedArray, seed: int) -> NDArray[np.uint64]:
    """xxh3_64(sample_id, seed): samples of a part are stored in ascending order of it."""
    keys = [_hashes(_views(chunk), len(chunk), seed) for chunk in sample_ids.chunks if len(chunk)]
    return np.concatenate([*keys, np.empty(0, np.uint64)])


def checksums(data: NDArray, offset_N1: NDArray) -> NDArray[np.uint64]:
    """xxh3_64 of the bytes of each sample data[offset[j] : offset[j + 1]]."""
    view, byte_N1 = data.data.cast("B"), (offset_N1.astype(np.int64) * data.itemsize).tolist()
    views = map(view.__getitem__, map(slice, byte_N1[:-1], byte_N1[1:]))
    return _hashes(views, len(offset_N1) - 1, 0)


def _views(ids: pa.StringArray):
    _, offsets, values = ids.buffers()
    offset_N1 = np.frombuffer(offsets, np.int32)[ids.offset : ids.offset + len(ids) + 1].tolist()
    view = memoryview(values if values is not None else b"")
    return map(view.__getitem__, map(slice, offset_N1[:-1], offset_N1[1:]))


def _hashes(views, count: int, seed: int) -> NDArray[np.uint64]:
    return np.fromiter(map(xxhash.xxh3_64_intdigest, views, repeat(seed)), np.uint64, count)


SEGMENT_DTYPE = np.dtype([("recording", "<u8"), ("order", "<i4"), ("start", "<f8"), ("row", "<u4")])
SOURCE_ROW_DTYPE = np.dtype("<i8")


@dataclass(frozen=True)
class Ragged:
    """Sequences back to back: `lengths_N` says where they end."""

    data_T: NDArray
    lengths_N: NDArray[np.int32]

    @classmethod
    def join(cls, parts: Sequence[Ragged]) -> Ragged:
        return cls(np.concatenate([part.data_T for part in parts]), np.concatenate([part.lengths_N for part in parts]))

    def take(self, order_N: NDArray) -> Ragged:
        pieces = list(self.chunks(order_N, max(len(order_N), 1)))
        return Ragged(pieces[0] if pieces else self.data_T[:0], self.lengths_N[order_N])

    def chunks(self, order_N: NDArray, num_sequences: int) -> Iterator[NDArray]:
        """The data in another order, some sequences at a time."""
        stops_N = np.cumsum(self.lengths_N, dtype=np.int64)
        starts_N = stops_N - self.lengths_N
        view = np.ascontiguousarray(self.data_T).data
        for first in range(0, len(order_N), num_sequences):
            some_N = order_N[first : first + num_sequences]
            slices = map(slice, starts_N[some_N].tolist(), stops_N[some_N].tolist())
            yield np.frombuffer(b"".join(map(view.__getitem__, slices)), self.data_T.dtype)

    def split(self) -> list[NDArray]:
        borders = [0, *np.cumsum(self.lengths_N, dtype=np.int64).tolist()]
        return [self.data_T[start:stop] for start, stop in pairwise(borders)]


@dataclass(frozen=True)
class VariantCount:
    """How much of one transcript variant a run holds."""

    name: str
    num_samples: int
    num_tokens: int


@dataclass(frozen=True)
class SortedRun:
    """A run on disk; `unit` names the input it came from and `file` the file its rows count in, for messages."""

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
        """Where in the input the sample at `row` of this run lies, as far as that is known."""
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
        return self.rows()["code_len" if name == TOKENS else f"text_len_{name}"].to_numpy()

    def slice(self, name: str, start: int, stop: int, rows: pa.Table) -> Ragged:
        """Data of samples [start, stop); `rows` are the run's."""
        lengths_N = rows["code_len" if name == TOKENS else f"text_len_{name}"].to_numpy()
        if name != TOKENS and all(name != variant.name for variant in self.variants):
            return Ragged(np.empty(0, TEXT_DTYPE), lengths_N[start:stop])
        first = int(lengths_N[:start].sum(dtype=np.int64))
        last = first + int(lengths_N[start:stop].sum(dtype=np.int64))
        return Ragged(
            mapped_array(self.path(suffix_of(name)), dtype_of(name, self.key.kind))[first:last], lengths_N[start:stop]
        )


def dtype_of(name: str, kind: Kind) -> np.dtype:
    return TOKEN_DTYPES[kind] if name == TOKENS else TEXT_DTYPE


def order_key(sample_id: str, seed: int) -> int:
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
    """Sorts the samples by key and writes them; `data` holds the tokens and each variant that is there."""
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
        flush_to_disk(file.fileno())
    return run


def _write_array(path: Path, array: NDArray) -> None:
    with open(path, "wb") as file:
        file.write(np.ascontiguousarray(array).data)
        flush_to_disk(file.fileno())


def _segments(rows: pa.Table, dataset_source: str) -> NDArray:
    """Samples that say where in a recording they lie, sorted by recording (a hash of source and recording)."""
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
