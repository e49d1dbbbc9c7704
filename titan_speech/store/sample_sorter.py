"""Samples into sorted runs: each is checked, texts are tokenized in batches, rows and tokens are written in key order.

In: samples with codes and transcripts, or with text, in any order and of any part. Out: sorted runs (external_sort.py).
Bad samples are reported to `on_problem` and left out; samples whose times do not match the length of their codes are
reported to `on_duration_mismatch` and kept.

Memory: a batch of 1,024 samples as they came, then compact rows and arrays until `RUN_BYTES` of tokens (64 MB) or
`RUN_SAMPLES` samples of all parts together are there and each part writes its run: 310 MB of process with transcripts,
and up to 50 MB for words that were tokenized before (tokenization/word_ids.py). Rates are in
benchmarks/results/build.json.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from titan_speech.store.external_sort import (
    SOURCE_ROW_DTYPE,
    Ragged,
    SortedRun,
    checksums,
    order_key,
    write_run,
)
from titan_speech.store.files import TEXT_DTYPE, TOKENS, dtype_of, length_column
from titan_speech.store.manifest import CodecInfo, Kind, PartKey, codes_per_sec
from titan_speech.store.problems import Problem
from titan_speech.store.sample import (
    ROW_SCHEMA,
    TEXT_VARIANTS,
    VARIANTS,
    SampleInfo,
    absent_column,
    code_problems,
    describe_duration_mismatch,
    duration_mismatch,
    duration_of,
    info_problems,
    text_problems,
    transcript_hashes,
    transcript_problems,
)
from titan_speech.tokenization.text_tokenizer import TextTokenizer

BATCH_SAMPLES = 1024
BATCH_TOKENS = 4 << 20
COUNT_SEC = 0.2
RUN_BYTES = 64 << 20
RUN_SAMPLES = 1 << 18
_TEXT = "text"
_INFO_FIELDS = [field.name for field in fields(SampleInfo)]


@dataclass(frozen=True)
class StoreSettings:
    """How samples become rows and tokens; under the same settings the same samples give the same bytes."""

    tokenizer: TextTokenizer
    codec: CodecInfo | None
    normalization_version: str
    seed: int = 0
    required_transcripts: tuple[str, ...] = ()
    """Variants that every sample of speech must have."""


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


class SampleSorter:
    """Takes samples until `finish`, which returns the runs."""

    def __init__(
        self,
        folder: Path,
        settings: StoreSettings,
        on_problem: Callable[[str, Problem], None],
        on_duration_mismatch: Callable[[str, Problem], None],
        on_batch: Callable[[int, int], None] = lambda num_samples, num_tokens: None,
        unit: str | None = None,
        file: str | None = None,
    ) -> None:
        """
        Args:
            folder: where runs are written.
            on_problem: called with id and problem of a sample that is left out.
            on_duration_mismatch: called for a sample that is kept.
            on_batch: called with numbers of new samples and tokens, for progress; tokens only when a batch is full.
            unit: name of the input, for messages.
            file: the file of the input that `source_row` counts in.
        """
        self._folder, self._settings, self._on_batch = folder, settings, on_batch
        self._on_problem, self._on_duration_mismatch = on_problem, on_duration_mismatch
        self._codes_per_sec = codes_per_sec(settings.codec)
        self._unit, self._file = unit, file
        self._entries: dict[tuple[str, str, bool], list[_Entry]] = {}
        """By source, language and whether it is speech: a `PartKey` is hashed in Python."""
        self._buffers: dict[PartKey, _Buffer] = {}
        self._batch_samples = self._batch_tokens = self._run_samples = self._run_bytes = 0
        self._num_counted, self._counted_sec = 0, time.monotonic()
        """Samples of the batch that `on_batch` knows of, and when it was last called."""
        self._runs: list[SortedRun] = []

    def add_speech(
        self,
        info: SampleInfo,
        codes: ArrayLike,
        transcripts: Mapping[str, str] | None = None,
        source_row: int | None = None,
    ) -> None:
        """Adds a sample of speech.

        Args:
            codes: integers of shape (num_codes,).
            transcripts: by variant.
            source_row: row of the input's file, where it has rows, for problems found later.
        """
        codes_T, texts = np.asarray(codes), transcripts or {}
        problems = info_problems(info) + code_problems(codes_T) + transcript_problems(texts)
        if self._settings.codec is None:
            problems.append(Problem("codec", "speech in a store without a codec: name the codec of the codes"))
        problems += [
            Problem("no transcript", f"no {variant} transcript, which every sample must have")
            for variant in self._settings.required_transcripts
            if variant not in texts
        ]
        if self._report(info, problems):
            return
        num_codes, duration_sec, rate = len(codes_T), duration_of(info), self._codes_per_sec
        if duration_sec is not None and duration_mismatch(num_codes, duration_sec, rate) > 1:
            detail = describe_duration_mismatch(num_codes, duration_sec, rate)
            self._on_duration_mismatch(info.sample_id, Problem("duration", detail))
        self._add(_Entry(info, codes_T, texts, -1 if source_row is None else source_row), len(codes_T))

    def add_text(self, info: SampleInfo, text: str, user: str | None = None, source_row: int | None = None) -> None:
        """Adds a document; with `user` an instruction, whose answer is `text`."""
        texts = {_TEXT: text} if user is None else {_TEXT: text, "user": user}
        if not self._report(info, info_problems(info) + text_problems(texts)):
            self._add(_Entry(info, None, texts, -1 if source_row is None else source_row), len(text))

    def _report(self, info: SampleInfo, problems: list[Problem]) -> bool:
        """Whether there are any problems."""
        for problem in problems:
            self._on_problem(info.sample_id, problem)
        return bool(problems)

    def _add(self, entry: _Entry, num_tokens: int) -> None:
        key = (entry.info.dataset_source, entry.info.language, entry.codes_T is not None)
        self._entries.setdefault(key, []).append(entry)
        self._batch_samples += 1
        self._batch_tokens += num_tokens
        if self._batch_samples >= BATCH_SAMPLES or self._batch_tokens >= BATCH_TOKENS:
            self._flush_batch()
        elif time.monotonic() - self._counted_sec > COUNT_SEC:
            self._count(0)

    def _count(self, num_tokens: int) -> None:
        """Tell what is new since the last call, so that a slow batch, as of audio that is encoded, shows progress."""
        self._on_batch(self._batch_samples - self._num_counted, num_tokens)
        self._num_counted, self._counted_sec = self._batch_samples, time.monotonic()

    def _flush_batch(self) -> None:
        num_tokens = 0
        for (source, language, is_speech), entries in self._entries.items():
            key = PartKey(source, language, Kind.SPEECH if is_speech else Kind.TEXT)
            num_tokens += self._flush_part(key, entries)
        self._count(num_tokens)
        self._entries.clear()
        self._batch_samples = self._batch_tokens = self._num_counted = 0
        if self._run_bytes >= RUN_BYTES or self._run_samples >= RUN_SAMPLES:
            self._write_runs()

    def _flush_part(self, key: PartKey, entries: list[_Entry]) -> int:
        data = self._tokens(key.kind, entries)
        buffer = self._buffers.setdefault(key, _Buffer())
        buffer.rows.append(self._rows(key.kind, entries, data))
        keys = [order_key(entry.info.sample_id, self._settings.seed) for entry in entries]
        buffer.keys.append(np.array(keys, np.uint64))
        buffer.data.append(data)
        buffer.source_rows += [entry.source_row for entry in entries]
        self._run_samples += len(entries)
        self._run_bytes += sum(ragged.data_T.nbytes for ragged in data.values())
        return len(data[TOKENS].data_T)

    def _tokens(self, kind: Kind, entries: list[_Entry]) -> dict[str, Ragged]:
        """TOKENS, and the ids of each variant that any of the samples has."""
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
        """Ids of one text of each sample; length 0 where a sample lacks it."""
        having_N = np.fromiter((name in entry.texts for entry in entries), bool, len(entries))
        ids = self._settings.tokenizer.encode_bytes([entry.texts[name] for entry in entries if name in entry.texts])
        lengths_N = np.zeros(len(entries), np.int32)
        lengths_N[having_N] = np.fromiter(map(len, ids), np.int32, len(ids)) // TEXT_DTYPE.itemsize
        return Ragged(np.frombuffer(b"".join(ids), TEXT_DTYPE), lengths_N)

    def _rows(self, kind: Kind, entries: list[_Entry], data: Mapping[str, Ragged]) -> pa.RecordBatch:
        num_rows, infos = len(entries), [entry.info for entry in entries]
        tokens = data[TOKENS]
        columns: dict[str, object] = {name: [getattr(info, name) for info in infos] for name in _INFO_FIELDS}
        columns |= {length_column(name): ragged.lengths_N for name, ragged in data.items()}
        columns["checksum"] = checksums(tokens.data_T, np.array([0, *accumulate(tokens.lengths_N.tolist())]))
        columns["tokenizer_version"] = [self._settings.tokenizer.fingerprint] * num_rows
        columns["normalization_version"] = [self._settings.normalization_version] * num_rows
        if kind is Kind.SPEECH:
            columns |= self._speech_columns(entries)
        return pa.RecordBatch.from_arrays(
            [
                pa.array(columns[field.name], field.type) if field.name in columns else absent_column(field, num_rows)
                for field in ROW_SCHEMA
            ],
            schema=ROW_SCHEMA,
        )

    def _speech_columns(self, entries: list[_Entry]) -> dict[str, object]:
        codec, texts = self._settings.codec, [entry.texts for entry in entries]
        names = {name for some in texts for name in some} - set(TEXT_VARIANTS)
        return {
            "codec_ckpt_hash": [codec.hash if codec is not None else None] * len(entries),
            "transcript_hash": transcript_hashes(some.get("native") for some in texts),
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

    def finish(self) -> tuple[SortedRun, ...]:
        """Writes the samples still in memory and returns the runs of all parts."""
        self._flush_batch()
        self._write_runs()
        return tuple(self._runs)


def _join(name: str, kind: Kind, batches: list[dict[str, Ragged]]) -> Ragged:
    """TOKENS or a variant of all batches; a batch without it has lengths of 0."""
    return Ragged.join(
        [
            batch.get(name) or Ragged(np.empty(0, dtype_of(name, kind)), np.zeros_like(batch[TOKENS].lengths_N))
            for batch in batches
        ]
    )
