"""`text-parquet`: one row a document.

In: parquet files; a unit is some row groups of a file, about 256 MB of them, so a large file spreads over processes.
Out: rows, read a batch at a time. Only the columns that are used are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from titan_speech.corpus.format import ImportOptions, Unit
from titan_speech.corpus.text.columns import resolve_columns
from titan_speech.corpus.text.inputs import input_files
from titan_speech.corpus.text.source import TextFormat
from titan_speech.errors import DataError

UNIT_BYTES = 256 << 20
ROWS_PER_BATCH = 1024


class TextParquet(TextFormat):
    def __init__(self, options: ImportOptions) -> None:
        super().__init__(options)
        self._files = input_files(options.inputs, (".parquet",), "text-parquet")

    def units(self) -> list[Unit]:
        return [unit for name, path in self._files for unit in _units_of(name, path)]

    def rows(self, unit: Unit) -> Iterator[tuple[int, Mapping[str, object]]]:
        file = open_parquet(unit.path)
        said = {field: column for field, column in self.options.columns.items()}
        columns = resolve_columns(file.schema_arrow.names, said, self.preset, str(unit.path))
        position = unit.start
        try:
            for batch in file.iter_batches(ROWS_PER_BATCH, _groups(file, unit), sorted(set(columns.values()))):
                for row in batch.to_pylist():
                    yield position, {field: row[column] for field, column in columns.items()}
                    position += 1
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{unit.path} breaks off after row {position}: {error}; fetch it again") from error


def open_parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a parquet file: {error}") from error


def _units_of(name: str, path: Path) -> list[Unit]:
    metadata = open_parquet(path).metadata
    units: list[Unit] = []
    start = stop = num_bytes = 0
    for group in range(metadata.num_row_groups):
        stop += metadata.row_group(group).num_rows
        num_bytes += metadata.row_group(group).total_byte_size
        if num_bytes >= UNIT_BYTES or group == metadata.num_row_groups - 1:
            units.append(Unit(f"{name}:{start}-{stop}", path, num_bytes, start, stop))
            start, num_bytes = stop, 0
    return units


def _groups(file: pq.ParquetFile, unit: Unit) -> list[int]:
    """Row groups of the unit; borders of units are borders of groups."""
    groups, first = [], 0
    for group in range(file.metadata.num_row_groups):
        if unit.start <= first and (unit.stop is None or first < unit.stop):
            groups.append(group)
        first += file.metadata.row_group(group).num_rows
    return groups
