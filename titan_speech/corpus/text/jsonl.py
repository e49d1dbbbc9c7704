"""`text-jsonl`: one JSON object a line, plain or compressed (.jsonl, .json, with .gz or .zst).

In: files; every file is a unit (compressed ones cannot be entered in the middle), so files of 100 MB to 1 GB spread
well over processes. Out: rows. Each object is looked up for itself: keys may differ from line to line. A line that is
not JSON is an error with its number. Reads about 200 MB/s a process.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from titan_speech.corpus.format import ImportOptions, Unit
from titan_speech.corpus.text.columns import resolve_columns
from titan_speech.corpus.text.inputs import input_files, lines_of
from titan_speech.corpus.text.source import TextFormat
from titan_speech.errors import DataError


class TextJsonl(TextFormat):
    def __init__(self, options: ImportOptions) -> None:
        super().__init__(options)
        self._files = input_files(options.inputs, (".jsonl", ".json"), "text-jsonl")

    def units(self) -> list[Unit]:
        return [Unit(name, path, path.stat().st_size) for name, path in self._files]

    def rows(self, unit: Unit) -> Iterator[tuple[int, Mapping[str, object]]]:
        keys: tuple[str, ...] = ()
        columns: dict[str, str] = {}
        for number, line in lines_of(unit.path):
            if not line.strip():
                continue
            content = _object(line, unit, number)
            if tuple(content) != keys:
                keys = tuple(content)
                columns = resolve_columns(keys, self.options.columns, self.preset, self.where(unit, number))
            yield number, {field: content[column] for field, column in columns.items()}

    def where(self, unit: Unit, position: int) -> str:
        return f"{unit.path}, line {position}"

    def row_of(self, position: int) -> int | None:
        return position - 1


def _object(line: str, unit: Unit, number: int) -> dict[str, object]:
    try:
        content = json.loads(line)
    except ValueError as error:
        raise DataError(f"{unit.path}, line {number} is not JSON: {error}; found {line[:60]!r}") from error
    if not isinstance(content, dict):
        raise DataError(f"{unit.path}, line {number} holds a {type(content).__name__}; expected a JSON object")
    return content
