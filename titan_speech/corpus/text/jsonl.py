"""`text-jsonl`: one JSON object a line, plain or compressed (.jsonl, .json, with .gz or .zst).

In: files; every file is a unit (compressed ones cannot be entered in the middle), so files of 100 MB to 1 GB spread
well over processes. Out: rows. Each object is looked up for itself: keys may differ from line to line. A line that
holds no such object is told with its number. Reads about 200 MB/s a process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from titan_speech.corpus.format import ImportOptions, Unit
from titan_speech.corpus.formats.lines import parsed
from titan_speech.corpus.text.columns import resolve_columns
from titan_speech.corpus.text.inputs import encoding_of, input_files, raw_lines
from titan_speech.corpus.text.source import TextFormat
from titan_speech.errors import DataError
from titan_speech.store.problems import Problem


class TextJsonl(TextFormat):
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
