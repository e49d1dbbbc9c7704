"""Parquet tables of codes, one row per sample.

In: parquet files, or folders of them in the Hugging Face manner (`data/train-00000-of-00012.parquet`).
Out: samples of speech. Columns are the table's. Codes are lists of integers, or bytes if `codes_dtype` states their
type. Unit: a file, or row groups of a large file.

benchmarks/results/build.json compares the rate with that at which pyarrow returns the batches without reading rows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from titan_speech.errors import DataError
from titan_speech.importers.base import ImportOptions, Sample, Unit
from titan_speech.importers.columns import CODES, PROBED, Columns, required_fields, speech_columns
from titan_speech.importers.files import InputFile, find_files, format_hint, warn_absent_parts
from titan_speech.importers.limits import ImportLimits
from titan_speech.importers.records import CODE_DTYPES, Record, check_codes_dtype, speech_samples
from titan_speech.store.problems import Problem
from titan_speech.utils.text_table import counted

UNIT_BYTES = 256 << 20
MAX_GROUP_CODES = 1 << 30
"""Of one row group: 6,000 h of speech."""
_ROWS_PER_BATCH = 1024
_SPLIT_FILE = re.compile(r"(?P<split>[A-Za-z0-9_.]+)-(?P<number>\d{5})-of-(?P<count>\d{5})")


class ParquetImporter:
    """`--from parquet`."""

    def __init__(self, options: ImportOptions) -> None:
        check_codes_dtype(options)
        self._options = options
        self._columns = speech_columns(options)
        self._files = _files_of_split(find_files(options.inputs, (".parquet",), "parquet"), options.split)
        _warn_absent_files(self._files)
        self._check(self._files[0].path, open_parquet(self._files[0].path))

    def units(self) -> list[Unit]:
        return [unit for file in self._files for unit in _file_units(file)]

    def samples(self, unit: Unit) -> Iterator[Sample]:
        file = open_parquet(unit.path)
        self._check(unit.path, file)
        _refuse_too_many_codes(file, unit, self._columns, self._options.limits)
        return speech_samples(_records(file, unit, self._columns), self._columns, self._options, unit)

    def _check(self, path: Path, file: pq.ParquetFile) -> None:
        schema = file.schema_arrow
        _refuse_repeated_columns(schema.names, path)
        self._columns.check_all(schema.names, required_fields(self._options), str(path))
        texts = [each.name for each in schema if _is_text(each.type)]
        self._columns.check_transcripts(texts, str(path), lambda name: _first_values(path, file, name))
        column = self._columns.of(CODES, schema.names)
        assert column is not None, "codes are a required field"
        _check_codes(schema.field(column), path, self._options.codes_dtype)


def _files_of_split(files: list[InputFile], split: str | None) -> list[InputFile]:
    """The files of one split; several splits without a choice are refused, so that nobody trains on test data by
    accident."""
    by_split: dict[str | None, list[InputFile]] = {}
    for file in files:
        by_split.setdefault(_split_of(file.name), []).append(file)
    known = ", ".join(sorted(name for name in by_split if name is not None))
    if split is not None:
        if split not in by_split:
            raise DataError(f"no parquet file of split {split!r}; found {known or 'no splits: leave out --split'}")
        return by_split[split]
    if len(by_split) > 1:
        rest = f" and {counted(len(by_split[None]), 'file')} of no split" if None in by_split else ""
        raise DataError(f"the input has several splits ({known}{rest}): choose one with --split")
    return files


def _warn_absent_files(files: list[InputFile]) -> None:
    sets: dict[tuple[Path, str, int], list[int]] = {}
    for path in (file.path for file in files):
        if match := _SPLIT_FILE.fullmatch(path.stem):
            sets.setdefault((path.parent, match["split"], int(match["count"])), []).append(int(match["number"]))
    for (folder, split, count), numbers in sets.items():
        warn_absent_parts(str(folder), f"files of {split}", numbers, count)


def _split_of(name: str) -> str | None:
    """From a name such as `train-00000-of-00012.parquet`, or a folder named `train`, `validation`, `test`."""
    match = _SPLIT_FILE.fullmatch(Path(name).stem)
    if match:
        return match["split"]
    folder = Path(name).parent.name
    return folder if folder in ("train", "validation", "valid", "dev", "test") else None


def open_parquet(path: Path, format_name: str = "parquet") -> pq.ParquetFile:
    """A parquet file whose page checksums are verified as it is read.

    Raises:
        DataError: it is not a parquet file, or is truncated.
    """
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        _ = file.schema_arrow.names, _leaf_paths(file)  # names are decoded when they are asked for
        return file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a whole parquet file ({error}){format_hint([path], format_name)}") from error


def _leaf_paths(file: pq.ParquetFile) -> list[str]:
    """`codes.list.element` for the values of a list."""
    return [file.schema.column(number).path for number in range(len(file.schema.names))]


def _file_units(file: InputFile) -> list[Unit]:
    if file.num_bytes <= UNIT_BYTES:
        return [Unit(file.name, file.path, file.num_bytes)]
    metadata = open_parquet(file.path).metadata
    group_bytes = [
        sum(metadata.row_group(group).column(column).total_compressed_size for column in range(metadata.num_columns))
        for group in range(metadata.num_row_groups)
    ]
    return [
        Unit(f"{file.name}:{start}-{stop}", file.path, num_bytes, start, stop)
        for start, stop, num_bytes in row_group_ranges(metadata, group_bytes, UNIT_BYTES)
    ]


def row_group_ranges(
    metadata: pq.FileMetaData, group_bytes: Sequence[int], unit_bytes: int
) -> Iterator[tuple[int, int, int]]:
    """Rows [start, stop) and bytes of consecutive row groups that have at least `unit_bytes` together.

    A row group is read whole, so units begin and end between row groups.
    """
    start = stop = num_bytes = 0
    for group in range(metadata.num_row_groups):
        stop += metadata.row_group(group).num_rows
        num_bytes += group_bytes[group]
        if num_bytes >= unit_bytes or group == metadata.num_row_groups - 1:
            yield start, stop, num_bytes
            start, num_bytes = stop, 0


def row_groups_of(file: pq.ParquetFile, unit: Unit) -> list[int]:
    """The row groups of a unit, which begins and ends between row groups."""
    counts_G = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    ends_G = np.cumsum([0, *counts_G])
    stop = ends_G[-1] if unit.stop is None else unit.stop
    return [group for group in range(len(counts_G)) if unit.start <= ends_G[group] and ends_G[group + 1] <= stop]


def _refuse_too_many_codes(file: pq.ParquetFile, unit: Unit, columns: Columns, limits: ImportLimits) -> None:
    """A page of a few bytes can stand for 2 billion equal codes; their number is in the footer."""
    column = columns.of(CODES, file.schema_arrow.names)
    leaves = [number for number, path in enumerate(_leaf_paths(file)) if path.split(".")[0] == column]
    for group in row_groups_of(file, unit):
        metadata = file.metadata.row_group(group)
        most = min(metadata.num_rows * limits.max_codes, MAX_GROUP_CODES)
        for num_values in (metadata.column(leaf).num_values for leaf in leaves):
            if num_values > max(most, metadata.num_rows):
                raise DataError(
                    f"{unit.path}: row group {group} has {num_values:,} codes in {metadata.num_rows:,} rows, "
                    f"more than {most:,}: write smaller row groups of samples of at most {limits.max_sample_sec:g} s"
                )


def _refuse_repeated_columns(names: list[str], path: Path) -> None:
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
        raise DataError(f"{path}: codes in {field.name!r} are {kind}: leave out --codes-dtype, it is for bytes")


def _first_values(path: Path, file: pq.ParquetFile, column: str) -> list[object]:
    try:
        batch = next(file.iter_batches(PROBED, columns=[column]), None)
        return [] if batch is None else batch.column(0).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is damaged: {error}. Fetch or write it again") from error


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _records(file: pq.ParquetFile, unit: Unit, columns: Columns) -> Iterator[tuple[str, Record]]:
    names = file.schema_arrow.names
    wanted = sorted(columns.used(names))
    codes = columns.of(CODES, names)
    row = unit.start
    try:
        for batch in file.iter_batches(_ROWS_PER_BATCH, row_groups_of(file, unit), wanted):
            values = {name: _values(batch.column(name), is_codes=name == codes) for name in wanted}
            for in_batch in range(batch.num_rows):
                yield f"row {row}", {name: column[in_batch] for name, column in values.items()}
                row += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{unit.path} is damaged near row {row}: {error}. Fetch or write it again") from error


def _values(array: pa.Array, is_codes: bool) -> Sequence[object]:
    """One value per row; lists of codes are arrays, not lists of Python integers."""
    return _code_lists(array) if is_codes and _is_list(array.type) else array.to_pylist()


def _code_lists(array: pa.Array) -> list[NDArray | Problem | None]:
    """One array per row, views of the values of the whole batch."""
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
    """Row and frame of the first null in each list that contains one."""
    if flat.null_count:
        places = np.flatnonzero(flat.is_null().to_numpy(zero_copy_only=False))
        rows, firsts = np.unique(np.searchsorted(ends_N, places, side="right"), return_index=True)
        for row, place in zip(rows.tolist(), places[firsts].tolist(), strict=True):
            yield row, place - (int(ends_N[row - 1]) if row else 0)
