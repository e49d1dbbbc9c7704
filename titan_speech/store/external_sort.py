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

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import accumulate, pairwise, repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import ArrayLike, NDArray

from titan_speech.store.files import TEXT_DTYPE, TOKEN_DTYPES, TOKENS, PartKey, flush_to_disk, mapped_array, suffix_of
from titan_speech.store.manifest import CodecInfo, Kind
from titan_speech.store.sample import (
    ROW_SCHEMA,
    TEXT_VARIANTS,
    VARIANTS,
    Problem,
    SampleInfo,
    code_problems,
    duration_excess,
    duration_of,
    info_problems,
    stated_duration_problem,
    text_problems,
    transcript_problems,
)
from titan_speech.tokenization.text_tokenizer import TextTokenizer


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
class Run:
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
) -> Run:
    """Sorts the samples by key and writes them; `data` holds the tokens and each variant that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    order_N = np.argsort(keys_N, kind="stable")
    rows = rows.combine_chunks().take(pa.array(order_N))
    variants = tuple(
        VariantCount(variant, int(np.count_nonzero(ragged.lengths_N)), len(ragged.data_T))
        for variant, ragged in data.items()
        if variant != TOKENS
    )
    run = Run(folder, name, key, len(order_N), len(data[TOKENS].data_T), variants)
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


BATCH_SAMPLES = 1024
BATCH_TOKENS = 4 << 20
RUN_BYTES = 64 << 20
RUN_SAMPLES = 1 << 18
_TEXT = "text"
_INFO_FIELDS = [field.name for field in fields(SampleInfo)]


@dataclass(frozen=True)
class Recipe:
    """What makes rows and tokens of samples; under one recipe the same samples give the same bytes."""

    tokenizer: TextTokenizer
    codec: CodecInfo | None
    normalization_version: str
    seed: int = 0
    required_transcripts: tuple[str, ...] = ()
    """Variants every sample of speech must have."""


class _Entry(NamedTuple):
    """A sample that passed its checks."""

    info: SampleInfo
    codes_T: NDArray | None
    texts: Mapping[str, str]
    source_row: int


@dataclass
class _Buffer:
    """Tokenized samples of one part, waiting for their run."""

    rows: list[pa.RecordBatch] = field(default_factory=list)
    keys: list[NDArray[np.uint64]] = field(default_factory=list)
    data: list[dict[str, Ragged]] = field(default_factory=list)
    source_rows: list[int] = field(default_factory=list)


class Spill:
    """Takes samples until `seal`, which gives the runs."""

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        refuse: Callable[[str, Problem], None],
        doubt: Callable[[str, Problem], None],
        on_batch: Callable[[int, int], None] = lambda num_samples, num_tokens: None,
        unit: str | None = None,
        file: str | None = None,
    ) -> None:
        self._folder, self._recipe, self._on_batch = folder, recipe, on_batch
        self._refuse, self._doubt = refuse, doubt
        self._codes_per_sec = recipe.codec.codes_per_sec if recipe.codec is not None else 1.0
        self._unit, self._file = unit, file
        self._entries: dict[tuple[str, str, bool], list[_Entry]] = {}
        """By source, language and whether it is speech: a `PartKey` is hashed in Python."""
        self._buffers: dict[PartKey, _Buffer] = {}
        self._batch_samples = self._batch_tokens = self._run_samples = self._run_bytes = 0
        self._runs: list[Run] = []

    def add_speech(
        self,
        info: SampleInfo,
        codes: ArrayLike,
        transcripts: Mapping[str, str] | None = None,
        source_row: int | None = None,
    ) -> None:
        """`source_row` of the input's file, where it has rows: problems of several samples are told by it."""
        codes_T, texts = np.asarray(codes), transcripts or {}
        problems = info_problems(info) + code_problems(codes_T) + transcript_problems(texts)
        if self._recipe.codec is None:
            problems.append(Problem("codec", "speech in a store without a codec: name the codec of the codes"))
        problems += [
            Problem("no transcript", f"no {variant} transcript, which every sample must have")
            for variant in self._recipe.required_transcripts
            if variant not in texts
        ]
        if not self._refused(info, problems):
            self._judge_times(info, len(codes_T))
            self._add(_Entry(info, codes_T, texts, _known(source_row)), len(codes_T))

    def _judge_times(self, info: SampleInfo, num_codes: int) -> None:
        duration_sec = duration_of(info)
        if duration_sec is not None and duration_excess(num_codes, duration_sec, self._codes_per_sec) > 1:
            self._doubt(
                info.sample_id,
                Problem("duration", stated_duration_problem(num_codes, duration_sec, self._codes_per_sec)),
            )

    def add_text(self, info: SampleInfo, text: str, user: str | None = None, source_row: int | None = None) -> None:
        texts = {_TEXT: text} if user is None else {_TEXT: text, "user": user}
        if not self._refused(info, info_problems(info) + text_problems(texts)):
            self._add(_Entry(info, None, texts, _known(source_row)), len(text))

    def _refused(self, info: SampleInfo, problems: list[Problem]) -> bool:
        for problem in problems:
            self._refuse(info.sample_id, problem)
        return bool(problems)

    def _add(self, entry: _Entry, num_tokens: int) -> None:
        key = (entry.info.dataset_source, entry.info.language, entry.codes_T is not None)
        self._entries.setdefault(key, []).append(entry)
        self._batch_samples += 1
        self._batch_tokens += num_tokens
        if self._batch_samples >= BATCH_SAMPLES or self._batch_tokens >= BATCH_TOKENS:
            self._flush_batch()

    def _flush_batch(self) -> None:
        num_tokens = 0
        for (source, language, is_speech), entries in self._entries.items():
            key = PartKey(source, language, Kind.SPEECH if is_speech else Kind.TEXT)
            num_tokens += self._flush_part(key, entries)
        self._on_batch(self._batch_samples, num_tokens)
        self._entries.clear()
        self._batch_samples = self._batch_tokens = 0
        if self._run_bytes >= RUN_BYTES or self._run_samples >= RUN_SAMPLES:
            self._write_runs()

    def _flush_part(self, key: PartKey, entries: list[_Entry]) -> int:
        data = self._tokens(key.kind, entries)
        buffer = self._buffers.setdefault(key, _Buffer())
        buffer.rows.append(self._rows(key.kind, entries, data))
        keys = [order_key(entry.info.sample_id, self._recipe.seed) for entry in entries]
        buffer.keys.append(np.array(keys, np.uint64))
        buffer.data.append(data)
        buffer.source_rows += [entry.source_row for entry in entries]
        self._run_samples += len(entries)
        self._run_bytes += sum(ragged.data_T.nbytes for ragged in data.values())
        return len(data[TOKENS].data_T)

    def _tokens(self, kind: Kind, entries: list[_Entry]) -> dict[str, Ragged]:
        """Tokens, and ids of each variant any of the samples has."""
        names = {name for entry in entries for name in entry.texts}
        data = {name: self._encoded(name, entries) for name in (_TEXT, *VARIANTS) if name in names}
        if kind is Kind.TEXT:
            return {TOKENS: data.pop(_TEXT), **data}
        codes = [entry.codes_T for entry in entries if entry.codes_T is not None]
        lengths_N = np.fromiter(map(len, codes), np.int32, len(codes))
        return {
            TOKENS: Ragged(np.concatenate(codes, dtype=dtype_of(TOKENS, kind), casting="unsafe"), lengths_N),
            **data,
        }

    def _encoded(self, name: str, entries: list[_Entry]) -> Ragged:
        """Ids of one text of each sample; none where a sample lacks it."""
        having_N = np.fromiter((name in entry.texts for entry in entries), bool, len(entries))
        ids = self._recipe.tokenizer.encode_bytes([entry.texts[name] for entry in entries if name in entry.texts])
        lengths_N = np.zeros(len(entries), np.int32)
        lengths_N[having_N] = np.fromiter(map(len, ids), np.int32, len(ids)) // TEXT_DTYPE.itemsize
        return Ragged(np.frombuffer(b"".join(ids), TEXT_DTYPE), lengths_N)

    def _rows(self, kind: Kind, entries: list[_Entry], data: Mapping[str, Ragged]) -> pa.RecordBatch:
        num_rows, infos = len(entries), [entry.info for entry in entries]
        tokens = data[TOKENS]
        columns: dict[str, object] = {name: [getattr(info, name) for info in infos] for name in _INFO_FIELDS}
        columns["code_len"] = tokens.lengths_N
        columns["checksum"] = checksums(tokens.data_T, np.array([0, *accumulate(tokens.lengths_N.tolist())]))
        columns["tokenizer_version"] = [self._recipe.tokenizer.fingerprint] * num_rows
        columns["normalization_version"] = [self._recipe.normalization_version] * num_rows
        if kind is Kind.SPEECH:
            columns |= self._speech_columns(entries)
        columns |= {f"text_len_{name}": ragged.lengths_N for name, ragged in data.items() if name != TOKENS}
        return pa.RecordBatch.from_arrays(
            [_column(columns.get(field.name), field, num_rows) for field in ROW_SCHEMA], schema=ROW_SCHEMA
        )

    def _speech_columns(self, entries: list[_Entry]) -> dict[str, object]:
        codec, texts = self._recipe.codec, [entry.texts for entry in entries]
        names = {name for some in texts for name in some} - set(TEXT_VARIANTS)
        natives = [some.get("native") for some in texts]
        return {
            "codec_ckpt_hash": [codec.hash if codec is not None else None] * len(entries),
            "transcript_hash": [
                None if text is None else hashlib.sha256(text.encode()).hexdigest()[:16] for text in natives
            ],
            **{f"transcript_{name}": [some.get(name) for some in texts] for name in names},
        }

    def _write_runs(self) -> None:
        for key, buffer in self._buffers.items():
            names = {name for data in buffer.data for name in data}
            joined = {name: _join(name, key.kind, buffer.data) for name in (TOKENS, *VARIANTS) if name in names}
            name = f"{sum(run.key == key for run in self._runs):05d}"
            rows = pa.Table.from_batches(buffer.rows)
            keys_N, source_rows_N = np.concatenate(buffer.keys), np.array(buffer.source_rows, SOURCE_ROW_DTYPE)
            run = write_run(self._folder / key.folder, name, key, rows, keys_N, joined, source_rows_N)
            self._runs.append(replace(run, unit=self._unit, file=self._file))
        self._buffers.clear()
        self._run_samples = self._run_bytes = 0

    def seal(self) -> tuple[Run, ...]:
        """Writes what is left; the runs of all parts."""
        self._flush_batch()
        self._write_runs()
        return tuple(self._runs)


def _known(source_row: int | None) -> int:
    return -1 if source_row is None else source_row


def _column(values: object, field: pa.Field, num_rows: int) -> pa.Array:
    """Absent columns are 0 where they count tokens and null elsewhere."""
    if values is not None:
        return pa.array(values, field.type)
    if field.name.startswith("text_len_"):
        return pa.array(np.zeros(num_rows, np.int32))
    return pa.nulls(num_rows, field.type)


def _join(name: str, kind: Kind, batches: list[dict[str, Ragged]]) -> Ragged:
    """One stream of all batches; a batch without it has lengths of 0."""
    return Ragged.join(
        [
            batch.get(name) or Ragged(np.empty(0, dtype_of(name, kind)), np.zeros_like(batch[TOKENS].lengths_N))
            for batch in batches
        ]
    )
