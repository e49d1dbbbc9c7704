"""The formats of text: `text-plain`, `text-jsonl` and `text-parquet`.

In: files and folders of

    text-plain     .txt, with .gz or .zst: one document per file. With the preset `paragraphs` (or that of a source laid
                   out so, such as indiccorp-v2), one per run of lines between blank lines; with `lines`, one per line
    text-jsonl     .jsonl or .json, with .gz or .zst: one JSON object per line; keys may differ from line to line
    text-parquet   one row per document; only the columns that are used are read

Out: the rows of each unit, for text_documents.py. A unit is a file (compressed files cannot be entered in the middle,
so files of 100 MB to 1 GB spread well over processes), up to 1,000 small plain files, or row groups of about 256 MB of
a parquet file. One plain document above 64 M characters is a bad one: then the blank lines that separate documents are
missing. JSONL is read at about 200 MB/s per process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from titan_speech.errors import DataError
from titan_speech.importers.base import ImportOptions, Unit
from titan_speech.importers.jsonl import parse_object
from titan_speech.importers.limits import check_document_length
from titan_speech.importers.parquet import open_parquet, row_group_ranges, row_groups_of
from titan_speech.importers.registry import TEXT_LAYOUTS
from titan_speech.importers.text_documents import TextImporter, resolve_columns
from titan_speech.importers.text_lines import input_files, line_encoding, raw_lines, text_lines
from titan_speech.store.problems import Problem

FILES_PER_UNIT = 1000
UNIT_BYTES = 256 << 20
ROWS_PER_BATCH = 1024


class TextPlainImporter(TextImporter):
    """`--from text-plain`."""

    def __init__(self, options: ImportOptions) -> None:
        super().__init__(options)
        if options.columns:
            raise DataError(f"text-plain has no columns; found --columns for {', '.join(options.columns)}")
        in_paragraphs = self.preset is not None and self.preset.paragraphs
        self.layout = options.preset if options.preset in TEXT_LAYOUTS else "paragraphs" if in_paragraphs else "file"
        self._files = input_files(options.inputs, (".txt",), "text-plain")

    def units(self) -> list[Unit]:
        if self.layout != "file":
            return [Unit(name, path, path.stat().st_size) for name, path in self._files]
        units = []
        for first in range(0, len(self._files), FILES_PER_UNIT):
            some = self._files[first : first + FILES_PER_UNIT]
            stop, num_bytes = first + len(some), sum(path.stat().st_size for _, path in some)
            units.append(Unit(f"files {first}-{stop}", some[0][1].parent, num_bytes, first, stop))
        return units

    def rows(self, unit: Unit) -> Iterator[tuple[int, Mapping[str, object] | Problem]]:
        limits = self.options.limits
        if self.layout == "file":
            for number in range(unit.start, unit.stop or 0):
                name, path = self._files[number]
                text = _whole(text_lines(path, limits))
                sample_id = f"{self._source_name(path)}/{name}"
                yield number, text if isinstance(text, Problem) else {"text": text, "sample_id": sample_id}
            return
        lines = text_lines(unit.path, limits)
        for number, text in lines if self.layout == "lines" else _paragraphs(lines):
            if isinstance(text, Problem):
                yield number, text
            elif text.strip():
                yield number, {"text": text}

    def where(self, unit: Unit, position: int) -> str:
        return str(self._files[position][1]) if self.layout == "file" else f"{unit.path}, line {position}"

    def row_of(self, position: int) -> int | None:
        return None if self.layout == "file" else position - 1

    def _source_name(self, path: Path) -> str:
        if self.options.dataset_source:
            return self.options.dataset_source
        return self.preset.source if self.preset else path.parent.name


def _whole(lines: Iterable[tuple[int, str | Problem]]) -> str | Problem:
    """All lines as one document."""
    kept: list[str] = []
    num_chars = 0
    for _, line in lines:
        if isinstance(line, Problem):
            return line
        num_chars += len(line) + 1
        if problem := check_document_length(num_chars):
            return problem
        kept.append(line)
    return "\n".join(kept)


def _paragraphs(lines: Iterable[tuple[int, str | Problem]]) -> Iterator[tuple[int, str | Problem]]:
    """Number of the first line, and the lines up to the next blank one."""
    first, num_chars = 0, 0
    paragraph: list[str] = []
    problem: Problem | None = None
    for number, line in lines:
        if isinstance(line, str) and not line.strip():
            if paragraph or problem:
                yield first, problem or "\n".join(paragraph)
            paragraph, problem, num_chars = [], None, 0
            continue
        if not (paragraph or problem):
            first = number
        if problem is None:
            num_chars += len(line) if isinstance(line, str) else 0
            problem = line if isinstance(line, Problem) else check_document_length(num_chars)
        if problem is None and isinstance(line, str):
            paragraph.append(line)
        else:
            paragraph = []
    if paragraph or problem:
        yield first, problem or "\n".join(paragraph)


class TextJsonlImporter(TextImporter):
    """`--from text-jsonl`."""

    def __init__(self, options: ImportOptions) -> None:
        super().__init__(options)
        self._files = input_files(options.inputs, (".jsonl", ".json"), "text-jsonl")

    def units(self) -> list[Unit]:
        return [Unit(name, path, path.stat().st_size) for name, path in self._files]

    def rows(self, unit: Unit) -> Iterator[tuple[int, Mapping[str, object] | Problem]]:
        keys: tuple[str, ...] | None = None
        columns: dict[str, str] | Problem = {}
        for number, line in raw_lines(unit.path, self.options.limits):
            if isinstance(line, bytes) and not line.strip():
                continue
            content = line if isinstance(line, Problem) else parse_object(line, line_encoding(number))
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


class TextParquetImporter(TextImporter):
    """`--from text-parquet`."""

    def __init__(self, options: ImportOptions) -> None:
        super().__init__(options)
        self._files = input_files(options.inputs, (".parquet",), "text-parquet")

    def units(self) -> list[Unit]:
        units = []
        for name, path in self._files:
            metadata = open_parquet(path, "text-parquet").metadata
            group_bytes = [metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)]
            for start, stop, num_bytes in row_group_ranges(metadata, group_bytes, UNIT_BYTES):
                units.append(Unit(f"{name}:{start}-{stop}", path, num_bytes, start, stop))
        return units

    def rows(self, unit: Unit) -> Iterator[tuple[int, Mapping[str, object]]]:
        file = open_parquet(unit.path, "text-parquet")
        columns = resolve_columns(file.schema_arrow.names, self.options.columns, self.preset, str(unit.path))
        position = unit.start
        try:
            for batch in file.iter_batches(ROWS_PER_BATCH, row_groups_of(file, unit), sorted(set(columns.values()))):
                for row in batch.to_pylist():
                    yield position, {field: row[column] for field, column in columns.items()}
                    position += 1
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataError(f"{unit.path} breaks off after row {position}: {error}; fetch it again") from error
