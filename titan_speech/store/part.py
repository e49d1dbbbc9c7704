"""Reading one part of a store: lengths of all samples, and any sample's tokens as a view of the file.

In: `PartInfo` and the store's files (files.py). Out: int32 length arrays, uint16 / uint32 views, sidecar rows.

Nothing is read before it is asked for. Lengths come from one parquet column (45 M samples/s) whose pages
carry checksums; a file's sha256 is checked when it is first opened (700 MB/s), so damage is named before its
data is used. A random sample then costs 1 us. Lengths of large parts are kept in files (derived.py) and mapped;
offsets (4 bytes a sample) exist for opened shards only.

Shapes: N samples of the part, T tokens of a sample.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from titan_speech.errors import DataError
from titan_speech.store.derived import MIN_ITEMS, derived_array, derived_folder, key_of
from titan_speech.store.files import REPAIR, StoreFiles, files_at
from titan_speech.store.manifest import FileInfo, Kind, PartInfo, ShardInfo
from titan_speech.store.samples import ROW_SCHEMA, SampleRow
from titan_speech.store.shards import TEXT_DTYPE, TOKEN_DTYPES


@dataclass(frozen=True)
class _Samples:
    """Data of one file and where its samples begin: sample j is data[offsets[j] : offsets[j + 1]]."""

    data: NDArray
    offsets: memoryview
    """uint32, whose items are plain integers and so cheaper to slice with than an array's."""

    def get(self, j: int) -> NDArray:
        return self.data[self.offsets[j] : self.offsets[j + 1]]


class ShardReader:
    """The files of one shard, each opened and checked when first used."""

    def __init__(self, store: Path | StoreFiles, part: PartInfo, info: ShardInfo, num_base: int) -> None:
        self._files, self._part, self._info, self._num_base = files_at(store), part, info, num_base
        self._opened: dict[str, _Samples] = {}
        self._sidecar_is_checked = False
        self._lock = Lock()

    def samples(self, suffix: str) -> _Samples:
        """`suffix` is "tokens" or "text.<variant>"."""
        opened = self._opened.get(suffix)
        if opened is None:
            with self._lock:
                opened = self._opened.get(suffix) or self._keep(suffix, self._open(suffix))
        return opened

    def _keep(self, suffix: str, opened: _Samples) -> _Samples:
        self._opened[suffix] = opened
        self._files.has_opened(opened.data.nbytes, partial(self._opened.pop, suffix, None))
        return opened

    def _open(self, suffix: str) -> _Samples:
        file = self._info.file(suffix)
        dtype = TOKEN_DTYPES[self._part.kind] if suffix == "tokens" else TEXT_DTYPE
        lengths = self.column("code_len" if suffix == "tokens" else f"text_len_{suffix.removeprefix('text.')}")
        offsets = np.zeros(self._info.num_samples + 1, np.uint32)
        np.cumsum(lengths.to_numpy(), out=offsets[1:])
        data, name = self._files.array(file, dtype), self._files.name(file)
        if int(offsets[-1]) != len(data):
            raise DataError(f"{name} has {len(data)} tokens, its sidecar says {offsets[-1]}; rebuild")
        if dtype == TEXT_DTYPE and len(data) and int(data.max()) >= self._num_base:
            raise DataError(
                f"{name} holds text id {data.max()}, expected less than {self._num_base}; "
                "rebuild the store with its tokenizer"
            )
        return _Samples(data, offsets.data)

    def column(self, name: str) -> pa.ChunkedArray:
        """One sidecar column, its pages checked against their checksums."""
        file = self._info.file("parquet")
        name_of_file = self._files.name(file)
        try:
            with pq.ParquetFile(self._files.sidecar(file), page_checksum_verification=True) as sidecar:
                column = sidecar.read(columns=[name], use_threads=False)[name]
        except (OSError, pa.ArrowException, KeyError, UnicodeDecodeError) as error:
            raise DataError(f"{name_of_file} is damaged ({error}); {REPAIR}") from error
        expected = ROW_SCHEMA.field(name).type
        if len(column) != self._info.num_samples or column.type != expected:
            found = f"{len(column)} rows of {name} as {column.type}"
            raise DataError(
                f"{name_of_file} is damaged: {found}, expected {self._info.num_samples} as {expected}; {REPAIR}"
            )
        return column

    def row(self, j: int) -> SampleRow:
        """Reads the one row group that holds the row."""
        file = self._info.file("parquet")
        if not self._sidecar_is_checked:
            self._files.check(file)
            self._sidecar_is_checked = True
        with pq.ParquetFile(self._files.sidecar(file), page_checksum_verification=True) as sidecar:
            group, first = 0, 0
            while j >= first + sidecar.metadata.row_group(group).num_rows:
                first += sidecar.metadata.row_group(group).num_rows
                group += 1
            return SampleRow(**sidecar.read_row_group(group).slice(j - first, 1).to_pylist()[0])


class Part:
    """All samples of one dataset source, language and kind, numbered 0..num_samples - 1 in stored order."""

    def __init__(self, store: Path | StoreFiles, info: PartInfo, num_base: int) -> None:
        self._store, self.info, self._num_base = files_at(store), info, num_base
        self.dataset_source, self.language, self.kind = info.dataset_source, info.language, info.kind
        self.num_samples, self.num_tokens = info.num_samples, info.num_tokens
        self.variants = tuple(variant.name for variant in info.variants)
        self._first_samples = [0, *accumulate(shard.num_samples for shard in info.shards)][:-1]
        self._lengths: dict[str, NDArray[np.int32]] = {}
        self._readers = [ShardReader(self._store, info, shard, num_base) for shard in info.shards]

    @property
    def name(self) -> str:
        return self.info.folder

    @property
    def place(self) -> str:
        """Folder or address of the store."""
        return str(self._store)

    @cached_property
    def key(self) -> str:
        """Changes with any byte of the part, and with the samples that may be read."""
        return self.info.fingerprint

    @property
    def code_len_N(self) -> NDArray[np.int32]:  # noqa: N802
        """Tokens of each sample in .tokens: codes, or text ids of a text part."""
        return self._length_N("code_len", self.num_tokens)

    def text_len_N(self, variant: str) -> NDArray[np.int32]:  # noqa: N802
        """Text tokens of each sample; 0 where a sample lacks the variant."""
        self._check_variant(variant)
        expected = next(v.num_tokens for v in self.info.variants if v.name == variant)
        return self._length_N(f"text_len_{variant}", expected)

    def codes(self, i: int) -> NDArray[np.uint16]:
        """A sample's codes: a read-only view of the file."""
        if self.kind is not Kind.SPEECH:
            raise DataError(f"part {self.name} of {self._store} holds text, not speech codes; read its tokens")
        return self._get(i, "tokens")

    def codes_range(self, i: int, start: int, stop: int) -> NDArray[np.uint16]:
        return self.codes(i)[start:stop]

    def tokens(self, i: int) -> NDArray[np.uint32]:
        """A text sample's ids: a read-only view of the file."""
        if self.kind is not Kind.TEXT:
            raise DataError(f"part {self.name} of {self._store} holds speech, not text; read its codes")
        return self._get(i, "tokens")

    def text(self, i: int, variant: str) -> NDArray[np.uint32]:
        """Ids of one transcript variant; of an instruction, the user's words are the variant `user`."""
        self._check_variant(variant)
        return self._get(i, f"text.{variant}")

    def row(self, i: int) -> SampleRow:
        shard, j = self._locate(i)
        return self._readers[shard].row(j)

    def column(self, name: str) -> pa.ChunkedArray:
        """A sidecar column of all samples, such as speaker_id; not cached."""
        if not self.num_samples:
            return pa.chunked_array([], pa.null())
        self._store.fetch(shard.file("parquet") for shard in self.info.shards)
        return pa.chunked_array([chunk for reader in self._readers for chunk in reader.column(name).chunks])

    def shard_column(self, shard: int, name: str) -> pa.ChunkedArray:
        """A sidecar column of the samples of one shard, for what need not read the whole part."""
        return self._readers[shard].column(name)

    def shard_number(self, i: int) -> int:
        """Which shard holds sample i."""
        return self._locate(i)[0]

    def shard_files(self, number: int, variants: Iterable[str]) -> list[FileInfo]:
        """What reading a shard takes: its sidecar, its tokens, and the ids of these variants."""
        suffixes = ("parquet", "tokens", *(f"text.{name}" for name in variants))
        return [self.info.shards[number].file(suffix) for suffix in suffixes]

    @property
    def files(self) -> StoreFiles:
        """Where the part lies."""
        return self._store

    def _get(self, i: int, suffix: str) -> NDArray:
        shard, j = self._locate(i)
        return self._readers[shard].samples(suffix).get(j)

    def _locate(self, i: int) -> tuple[int, int]:
        if not 0 <= i < self.num_samples:
            raise IndexError(f"part {self.name} has samples 0..{self.num_samples - 1}, asked for {i}")
        shard = bisect_right(self._first_samples, i) - 1
        return shard, i - self._first_samples[shard]

    def _check_variant(self, variant: str) -> None:
        if variant not in self.variants:
            known = ", ".join(self.variants) or "none"
            raise DataError(
                f"part {self.name} of {self._store} has no {variant} text (it has: {known}); "
                "choose another transcript or task for this source"
            )

    def _length_N(self, column: str, expected_total: int) -> NDArray[np.int32]:  # noqa: N802
        if column not in self._lengths:
            make = partial(self._read_lengths, column, expected_total)
            if self.num_samples < MIN_ITEMS:
                lengths_N = make()
            else:
                key = key_of("lengths", self.info.fingerprint, column)
                lengths_N = derived_array(derived_folder(self.place), key, make)
            lengths_N.flags.writeable = False
            self._lengths[column] = lengths_N
        return self._lengths[column]

    def _read_lengths(self, column: str, expected_total: int) -> NDArray[np.int32]:
        self._store.fetch(shard.file("parquet") for shard in self.info.shards)
        lengths_N = np.empty(self.num_samples, np.int32)
        for first, reader in zip(self._first_samples, self._readers, strict=True):
            values = reader.column(column).to_numpy()
            lengths_N[first : first + len(values)] = values
        if int(lengths_N.sum(dtype=np.int64)) != expected_total:
            raise DataError(
                f"sidecars of part {self.name} of {self._store} are damaged: {column} adds up to "
                f"{lengths_N.sum(dtype=np.int64)}, the manifest says {expected_total}; {REPAIR}"
            )
        return lengths_N

    def __reduce__(self) -> tuple[type[Part], tuple[StoreFiles, PartInfo, int]]:
        return Part, (self._store, self.info, self._num_base)
