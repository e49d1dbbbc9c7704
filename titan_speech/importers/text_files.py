"""`text-plain`: text files (.txt, with .gz or .zst).

In: files. Out: one document a file; with the preset `paragraphs` (or one of a source that is laid out so, as
indiccorp-v2) one a run of lines between blank lines; with `lines` one a line. Many small files share a unit; otherwise
a file is one. A single document above 64 MB is an error: then blank lines were expected where there are none.

`text-jsonl`: one JSON object a line, plain or compressed (.jsonl, .json, with .gz or .zst).

In: files; every file is a unit (compressed ones cannot be entered in the middle), so files of 100 MB to 1 GB spread
well over processes. Out: rows. Each object is looked up for itself: keys may differ from line to line. A line that
holds no such object is told with its number. Reads about 200 MB/s a process.

`text-parquet`: one row a document.

In: parquet files; a unit is some row groups of a file, about 256 MB of them, so a large file spreads over processes.
Out: rows, read a batch at a time. Only the columns that are used are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from titan_speech.errors import DataError
from titan_speech.importers.base import ImportOptions, Unit
from titan_speech.importers.jsonl import parsed
from titan_speech.importers.registry import LAYOUTS
from titan_speech.importers.text import encoding_of, input_files, lines_of, raw_lines, resolve_columns
from titan_speech.importers.text_rows import TextImporter
from titan_speech.store.sample import Problem

FILES_PER_UNIT = 1000
MAX_DOCUMENT_CHARS = 64 << 20


class TextPlainImporter(TextImporter):
    def __init__(self, options: ImportOptions) -> None:
        super().__init__(options)
        if options.columns:
            raise DataError(f"text-plain has no columns; found --columns for {', '.join(options.columns)}")
        in_paragraphs = self.preset is not None and self.preset.paragraphs
        self.layout = options.preset if options.preset in LAYOUTS else "paragraphs" if in_paragraphs else "file"
        self._files = input_files(options.inputs, (".txt",), "text-plain")

    def units(self) -> list[Unit]:
        if self.layout != "file":
            return [Unit(name, path, path.stat().st_size) for name, path in self._files]
        return [self._unit_of_files(first) for first in range(0, len(self._files), FILES_PER_UNIT)]

    def _unit_of_files(self, first: int) -> Unit:
        some = self._files[first : first + FILES_PER_UNIT]
        num_bytes = sum(path.stat().st_size for _, path in some)
        return Unit(f"files {first}-{first + len(some)}", some[0][1].parent, num_bytes, first, first + len(some))

    def rows(self, unit: Unit) -> Iterator[tuple[int, Mapping[str, object]]]:
        if self.layout == "file":
            for number in range(unit.start, unit.stop or 0):
                name, path = self._files[number]
                text = _checked("\n".join(line for _, line in lines_of(path)), path)
                yield number, {"text": text, "sample_id": f"{self._source_name(path)}/{name}"}
        elif self.layout == "lines":
            yield from ((number, {"text": line}) for number, line in lines_of(unit.path) if line.strip())
        else:
            yield from ((number, {"text": text}) for number, text in _paragraphs(lines_of(unit.path), unit.path))

    def where(self, unit: Unit, position: int) -> str:
        return str(self._files[position][1]) if self.layout == "file" else f"{unit.path}, line {position}"

    def row_of(self, position: int) -> int | None:
        return None if self.layout == "file" else position - 1

    def _source_name(self, path: Path) -> str:
        if self.options.dataset_source:
            return self.options.dataset_source
        return self.preset.source if self.preset else path.parent.name


def _paragraphs(lines: Iterable[tuple[int, str]], path: Path) -> Iterator[tuple[int, str]]:
    """Line number of the first line, and the lines up to the next blank one."""
    first, held, num_chars = 0, [], 0
    for number, line in lines:
        if line.strip():
            first = first if held else number
            num_chars += len(line)
            held.append(line)
            if num_chars > MAX_DOCUMENT_CHARS:
                _checked("\n".join(held), path)
        elif held:
            yield first, "\n".join(held)
            held, num_chars = [], 0
    if held:
        yield first, "\n".join(held)


def _checked(text: str, path: Path) -> str:
    if len(text) > MAX_DOCUMENT_CHARS:
        raise DataError(
            f"{path} has a document of more than {MAX_DOCUMENT_CHARS >> 20} M characters; if blank lines or lines end "
            "its documents, say --preset paragraphs or --preset lines"
        )
    return text


class TextJsonlImporter(TextImporter):
    def __init__(self, options: ImportOptions) -> None:
        super().__init__(options)
        self._files = input_files(options.inputs, (".jsonl", ".json"), "text-jsonl")

    def units(self) -> list[Unit]:
        return [Unit(name, path, path.stat().st_size) for name, path in self._files]

    def rows(self, unit: Unit) -> Iterator[tuple[int, Mapping[str, object] | Problem]]:
        keys: tuple[str, ...] | None = None
        columns: dict[str, str] | Problem = {}
        for number, line in raw_lines(unit.path):
            if not line.strip():
                continue
            content = parsed(line, encoding_of(number))
            if isinstance(content, Problem):
                yield number, content
                continue
            if tuple(content) != keys:
                keys = tuple(content)
                columns = self._columns(keys)
            if isinstance(columns, Problem):
                yield number, columns
            else:
                yield number, {field: content[column] for field, column in columns.items()}

    def _columns(self, keys: tuple[str, ...]) -> dict[str, str] | Problem:
        try:
            return resolve_columns(keys, self.options.columns, self.preset, "the object")
        except DataError as error:
            return Problem("columns", str(error))

    def where(self, unit: Unit, position: int) -> str:
        return f"{unit.path}, line {position}"

    def row_of(self, position: int) -> int | None:
        return position - 1


UNIT_BYTES = 256 << 20
ROWS_PER_BATCH = 1024


class TextParquetImporter(TextImporter):
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
