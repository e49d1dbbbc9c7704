"""Reading the files of one shard: its sidecar, and the samples of its token files as views.

In: a shard's entry in the manifest and the store's files (files.py). Out: `Samples`, any of which is a slice, and
sidecar columns and rows. Each file is opened and checked when it is first used (checksum.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from titan_speech.errors import DataError
from titan_speech.store.files import REPAIR, TEXT_DTYPE, TOKEN_DTYPES, StoreFiles, files_at
from titan_speech.store.manifest import PartInfo, ShardInfo
from titan_speech.store.sample import ROW_SCHEMA, SampleRow, stored_columns

CONSTANT_COLUMNS = ("dataset_source", "language", "codec_ckpt_hash", "tokenizer_version", "normalization_version")


class Samples(NamedTuple):
    """Data of one file and where its samples begin: sample j is data[offsets[j] : offsets[j + 1]].

    As views of arrays: slices cost less than those of arrays, and items are plain integers.
    """

    data: memoryview
    """uint16 or uint32, read-only."""
    offsets: memoryview
    """uint32."""


class ShardReader:
    """The files of one shard, each opened and checked when first used."""

    def __init__(self, store: Path | StoreFiles, part: PartInfo, info: ShardInfo, num_base: int) -> None:
        self._files, self._part, self._info, self._num_base = files_at(store), part, info, num_base
        self.opened: dict[str, Samples] = {}
        """What is open now, by suffix; a file may be closed again at any time."""
        self._sidecar_is_checked = False
        self._lock = Lock()

    def samples(self, suffix: str) -> Samples:
        """`suffix` is "tokens" or "text.<variant>"."""
        opened = self.opened.get(suffix)
        if opened is None:
            with self._lock:
                opened = self.opened.get(suffix) or self._keep(suffix, self._open(suffix))
        return opened

    def _keep(self, suffix: str, opened: Samples) -> Samples:
        self.opened[suffix] = opened
        self._files.has_opened(opened.data.nbytes, partial(self.opened.pop, suffix, None))
        return opened

    def _open(self, suffix: str) -> Samples:
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
        return Samples(data.data.toreadonly(), offsets.data)

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


def read_sidecar(store: Path | StoreFiles, part: PartInfo, shard: ShardInfo, columns: Sequence[str]) -> pa.Table:
    """Columns of a sidecar; those with one value for all rows stay one value in memory."""
    file = files_at(store).sidecar(shard.file("parquet"))
    with pq.ParquetFile(file, page_checksum_verification=True, read_dictionary=list(CONSTANT_COLUMNS)) as sidecar:
        missing = set(stored_columns(part.kind, tuple(v.name for v in part.variants))) - set(sidecar.schema_arrow.names)
        if missing & set(columns):
            raise KeyError(f"columns {', '.join(sorted(missing))} are missing")
        table = sidecar.read(columns=list(columns), use_threads=False)
    wrong = [
        name for name in columns if name not in CONSTANT_COLUMNS and table[name].type != ROW_SCHEMA.field(name).type
    ]
    if wrong:
        raise KeyError(f"column {wrong[0]} is {table[wrong[0]].type}, expected {ROW_SCHEMA.field(wrong[0]).type}")
    return table
