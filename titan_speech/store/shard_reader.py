"""Reads the files of one shard: columns and rows of its sidecar, and the samples of its token files as views.

In: a shard's entry in the manifest and the store's files (files.py). Out: `Samples`, any of which is a slice; sidecar
columns and rows. Each file is opened and verified when it is first used (utils/checksum.py).
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
from titan_speech.store.files import REPAIR, TOKENS, StoreFiles, dtype_of, length_column, suffix_of
from titan_speech.store.manifest import Kind, PartInfo, ShardInfo
from titan_speech.store.sample import ROW_SCHEMA, SampleRow, stored_columns
from titan_speech.tokenization.vocabulary import bad_text_id
from titan_speech.utils.text_table import counted

CONSTANT_COLUMNS = ("dataset_source", "language", "codec_ckpt_hash", "tokenizer_version", "normalization_version")
"""Columns with one value, or a few, for all rows of a shard."""


class Samples(NamedTuple):
    """Data of one file and where its samples begin: sample j is data[offsets[j] : offsets[j + 1]].

    Memoryviews instead of arrays: their slices cost less, and their items are plain integers.
    """

    data: memoryview
    """uint16 or uint32, read-only."""
    offsets: memoryview
    """uint32."""


class ShardReader:
    """The files of one shard, each opened and verified when it is first used."""

    def __init__(self, files: StoreFiles, part: PartInfo, info: ShardInfo, num_base: int) -> None:
        """`num_base` is the number of ids of the tokenizer."""
        self._files, self._part, self._info, self._num_base = files, part, info, num_base
        self.opened: dict[str, Samples] = {}
        """What is open now, by TOKENS or variant; a file may be closed again at any time."""
        self._is_sidecar_verified = False
        self._lock = Lock()

    def samples(self, name: str) -> Samples:
        """The samples of one file; `name` is TOKENS or a variant."""
        opened = self.opened.get(name)
        if opened is None:
            with self._lock:
                opened = self.opened.get(name) or self._open(name)
        return opened

    def _open(self, name: str) -> Samples:
        file, dtype = self._info.file(suffix_of(name)), dtype_of(name, self._part.kind)
        lengths_N = self.column(length_column(name)).to_numpy()  # has as many rows as the manifest says
        offsets = np.zeros(len(lengths_N) + 1, np.uint32)
        np.cumsum(lengths_N, out=offsets[1:])
        data, path = self._files.array(file, dtype), f"{self._files}/{file.path}"
        if int(offsets[-1]) != len(data):
            raise DataError(
                f"{path} has {counted(len(data), 'token')}, its sidecar says {offsets[-1]}; rebuild the store"
            )
        is_text = name != TOKENS or self._part.kind is Kind.TEXT
        if is_text and (bad := bad_text_id(data, self._num_base)) is not None:
            raise DataError(
                f"{path} holds text id {bad}, expected less than {self._num_base}; rebuild the store with its tokenizer"
            )
        opened = self.opened[name] = Samples(data.data.toreadonly(), offsets.data)
        self._files.track_open_array(opened.data.nbytes, partial(self.opened.pop, name, None))
        return opened

    def column(self, name: str) -> pa.ChunkedArray:
        """One sidecar column, its pages checked against their checksums."""
        file = self._info.file("parquet")
        path = f"{self._files}/{file.path}"
        try:
            with pq.ParquetFile(self._files.sidecar(file), page_checksum_verification=True) as sidecar:
                if sidecar.metadata.num_rows != self._info.num_samples:
                    found = f"{counted(sidecar.metadata.num_rows, 'row')}, expected {self._info.num_samples}"
                    raise DataError(f"{path} is damaged: {found}; {REPAIR}")
                column = sidecar.read(columns=[name], use_threads=False)[name]
        except (OSError, pa.ArrowException, KeyError, UnicodeDecodeError) as error:
            raise DataError(f"{path} is damaged ({error}); {REPAIR}") from error
        expected = ROW_SCHEMA.field(name).type
        if len(column) != self._info.num_samples or column.type != expected:
            found = f"{counted(len(column), 'row')} of {name} as {column.type}"
            raise DataError(f"{path} is damaged: {found}, expected {self._info.num_samples} as {expected}; {REPAIR}")
        return column

    def row(self, j: int) -> SampleRow:
        """The sidecar's row of sample j of the shard; reads the one row group that holds it."""
        path = self._files.sidecar(self._info.file("parquet"), verify=not self._is_sidecar_verified)
        self._is_sidecar_verified = True
        with pq.ParquetFile(path, page_checksum_verification=True) as sidecar:
            group, first = 0, 0
            while j >= first + sidecar.metadata.row_group(group).num_rows:
                first += sidecar.metadata.row_group(group).num_rows
                group += 1
            return SampleRow(**sidecar.read_row_group(group).slice(j - first, 1).to_pylist()[0])


def read_sidecar(files: StoreFiles, part: PartInfo, shard: ShardInfo, columns: Sequence[str]) -> pa.Table:
    """Columns of a sidecar; columns with one value for all rows take one value in memory.

    Raises:
        DataError: the file cannot be read, or a column is missing or has another type.
        FileNotFoundError: the file is missing.
    """
    file = shard.file("parquet")
    try:
        return _read_columns(files.sidecar(file), part, columns)
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException, UnicodeDecodeError, KeyError) as error:
        raise DataError(f"{files}/{file.path} cannot be read as a sidecar: {error}; {REPAIR}") from error


def _read_columns(file: Path | pa.NativeFile, part: PartInfo, columns: Sequence[str]) -> pa.Table:
    with pq.ParquetFile(file, page_checksum_verification=True, read_dictionary=list(CONSTANT_COLUMNS)) as sidecar:
        missing = set(stored_columns(part.kind, tuple(v.name for v in part.variants))) - set(sidecar.schema_arrow.names)
        if missing & set(columns):
            raise KeyError(f"columns {', '.join(sorted(missing))} are missing")
        table = sidecar.read(columns=list(columns), use_threads=False)
    for name in columns:
        found, expected = table[name].type, ROW_SCHEMA.field(name).type
        if name not in CONSTANT_COLUMNS and found != expected:
            raise KeyError(f"column {name} is {found}, expected {expected}")
    return table
