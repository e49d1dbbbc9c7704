"""Parquet tables of codes, one row a sample.

In: parquet files, or folders of them in the Hugging Face manner (`data/train-00000-of-00012.parquet`).
Out: samples of speech. Columns are the table's. Codes are lists of integers, or bytes if `codes_dtype` says of what
width. Unit: a file, or row groups of a large one.

benchmarks/results/build.json has the rate beside that at which pyarrow gives the same batches without looking at a row.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from titan_speech.errors import DataError
from titan_speech.importers.base import ImportOptions, Sample, Unit
from titan_speech.importers.columns import (
    CODE_DTYPES,
    CODES,
    SPEECH_FIELDS,
    Columns,
    Record,
    check_codes_dtype,
    required_fields,
    speech_columns,
    speech_samples,
)
from titan_speech.importers.files import InputFile, find_files, suggest_format, warn_absent_splits
from titan_speech.store.sample import Problem

UNIT_BYTES = 256 << 20
_ROWS_PER_BATCH = 1024
_SPLIT_FILE = re.compile(r"(?P<split>[A-Za-z0-9_.]+)-(?P<number>\d{5})-of-(?P<count>\d{5})")


class ParquetImporter:
    """`--from parquet`."""

    def __init__(self, options: ImportOptions) -> None:
        check_codes_dtype(options)
        self._options = options
        self._columns = speech_columns(options)
        self._files = choose_split(find_files(options.inputs, (".parquet",), "parquet"), options.split)
        _tell_absent(self._files)
        self._check(self._files[0].path, _open(self._files[0].path))

    def units(self) -> list[Unit]:
        return [unit for file in self._files for unit in _file_units(file)]

    def samples(self, unit: Unit) -> Iterator[Sample]:
        file = _open(unit.path)
        self._check(unit.path, file)
        return speech_samples(_records(file, unit, self._columns), self._columns, self._options, unit)

    def _check(self, path: Path, file: pq.ParquetFile) -> None:
        schema = file.schema_arrow
        _refuse_twice(schema.names, path)
        self._columns.check_all(schema.names, required_fields(self._options), str(path))
        column = self._columns.of(CODES, schema.names)
        assert column is not None, "codes are a required field"
        _check_codes(schema.field(column), path, self._options.codes_dtype)


def choose_split(files: list[InputFile], split: str | None) -> list[InputFile]:
    """Files of one split; several without a choice are refused, so that no test data is trained on by accident."""
    by_split: dict[str | None, list[InputFile]] = {}
    for file in files:
        by_split.setdefault(_split_of(file.name), []).append(file)
    known = ", ".join(sorted(name for name in by_split if name is not None))
    if split is not None:
        if split not in by_split:
            raise DataError(f"no parquet file of split {split!r}; found {known or 'no splits: leave --split away'}")
        return by_split[split]
    if len(by_split) > 1:
        rest = f" and {len(by_split[None])} files of none" if None in by_split else ""
        raise DataError(f"the input has several splits ({known}{rest}): choose one with --split")
    return files


def _tell_absent(files: list[InputFile]) -> None:
    sets: dict[tuple[Path, str, int], list[int]] = {}
    for path in (file.path for file in files):
        if match := _SPLIT_FILE.fullmatch(path.stem):
            sets.setdefault((path.parent, match["split"], int(match["count"])), []).append(int(match["number"]))
    for (folder, split, count), numbers in sets.items():
        warn_absent_splits(str(folder), f"files of {split}", numbers, count)


def _split_of(name: str) -> str | None:
    """`train-00000-of-00012.parquet` or a file in a folder `train`, `validation`, `test`."""
    match = _SPLIT_FILE.fullmatch(Path(name).stem)
    if match:
        return match["split"]
    folder = Path(name).parent.name
    return folder if folder in ("train", "validation", "valid", "dev", "test") else None


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a whole parquet file ({error}){suggest_format([path], 'parquet')}") from error


def _file_units(file: InputFile) -> list[Unit]:
    """Borders lie between row groups, which are read whole."""
    if file.num_bytes <= UNIT_BYTES:
        return [Unit(file.name, file.path, file.num_bytes)]
    metadata = _open(file.path).metadata
    units, start, row, num_bytes = [], 0, 0, 0
    for group in range(metadata.num_row_groups):
        row += metadata.row_group(group).num_rows
        num_bytes += sum(
            metadata.row_group(group).column(column).total_compressed_size for column in range(metadata.num_columns)
        )
        if num_bytes >= UNIT_BYTES or group == metadata.num_row_groups - 1:
            units.append(Unit(f"{file.name}:{start}-{row}", file.path, num_bytes, start, row))
            start, num_bytes = row, 0
    return units


def _refuse_twice(names: list[str], path: Path) -> None:
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise DataError(f"{path} has the column {twice[0]!r} more than once: write it again with names of their own")


def _check_codes(field: pa.Field, path: Path, codes_dtype: str | None) -> None:
    kind = field.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        if codes_dtype is None:
            known = ", ".join(CODE_DTYPES)
            raise DataError(f"{path}: codes in {field.name!r} are bytes; say of what with --codes-dtype ({known})")
        return
    if not _is_list(kind) or not pa.types.is_integer(kind.value_type):
        raise DataError(f"{path}: codes in {field.name!r} are {kind}: expected lists of integers, or bytes")
    if codes_dtype is not None:
        raise DataError(f"{path}: codes in {field.name!r} are {kind}: leave --codes-dtype away, it is for bytes")


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _groups(file: pq.ParquetFile, unit: Unit) -> list[int]:
    counts_G = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    ends_G = np.cumsum([0, *counts_G])
    stop = ends_G[-1] if unit.stop is None else unit.stop
    return [group for group in range(len(counts_G)) if unit.start <= ends_G[group] and ends_G[group + 1] <= stop]


def _records(file: pq.ParquetFile, unit: Unit, columns: Columns) -> Iterator[tuple[str, Record]]:
    names = file.schema_arrow.names
    wanted = sorted({column for field in SPEECH_FIELDS if (column := columns.of(field, names)) is not None})
    codes = columns.of(CODES, names)
    row = unit.start
    try:
        batches = file.iter_batches(_ROWS_PER_BATCH, _groups(file, unit), wanted)
        for batch in batches:
            values = {name: _column(batch.column(name), name == codes) for name in wanted}
            for in_batch in range(batch.num_rows):
                yield f"row {row}", {name: column[in_batch] for name, column in values.items()}
                row += 1
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{unit.path} is damaged near row {row}: {error}. Fetch or write it again") from error


def _column(array: pa.Array, codes: bool) -> list:
    if not codes or not _is_list(array.type):
        return array.to_pylist()
    return _lists(array)


def _lists(array: pa.Array) -> list[NDArray | Problem | None]:
    """Views of one array of values, not Python integers."""
    lengths_N = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    flat = array.flatten()
    ends_N = np.cumsum(lengths_N)
    values = (flat.fill_null(0) if flat.null_count else flat).to_numpy()
    parts = np.split(values, ends_N[:-1])
    valid_N = array.is_valid().to_numpy(zero_copy_only=False)
    lists: list[NDArray | Problem | None] = [
        part if valid else None for part, valid in zip(parts, valid_N, strict=True)
    ]
    for row, frame in _first_nulls(flat, ends_N):
        lists[row] = Problem("null code", f"the code at frame {frame} is null: expected whole numbers from 0")
    return lists


def _first_nulls(flat: pa.Array, ends_N: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Row and frame of the first null of each list that has one."""
    if flat.null_count:
        places = np.flatnonzero(flat.is_null().to_numpy(zero_copy_only=False))
        rows, firsts = np.unique(np.searchsorted(ends_N, places, side="right"), return_index=True)
        for row, place in zip(rows.tolist(), places[firsts].tolist(), strict=True):
            yield row, place - (int(ends_N[row - 1]) if row else 0)
