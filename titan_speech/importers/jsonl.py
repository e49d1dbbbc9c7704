"""JSONL with codes in the lines or in `.npy` files; and reading ranges of lines of any JSONL.

In: `.jsonl` files, one object per sample. `codes` is a list of codes, or the path of a `.npy` file, relative to the
folder of the JSONL. Without it, the codes are in the `.npy` with the name of the JSONL (a.jsonl, a.npy). From an array
with more than one sample, a sample is selected by one of

    codes_row                  its row in an array [N, T]
    codes_start                where it begins in an array [all codes]

and `code_len`, its number of codes (of a padded row, or from codes_start on). Out: samples of speech. A line that is
not JSON, or whose array cannot be read, is a bad sample. A unit is 65,536 lines; the byte offsets of units are found in
one pass, so that several processes read one file.

Shapes: T codes of a sample.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from titan_speech.errors import DataError
from titan_speech.importers.base import ImportOptions, Sample, Unit
from titan_speech.importers.columns import CODE_LEN, CODES, speech_columns
from titan_speech.importers.files import InputFile, find_files, format_hint
from titan_speech.importers.limits import ImportLimits, lines_within
from titan_speech.importers.npy import mapped_npy
from titan_speech.importers.records import Record, speech_samples
from titan_speech.store.problems import Problem
from titan_speech.utils.safe_path import referenced_file
from titan_speech.utils.text_table import counted

CODES_ROW, CODES_START = "codes_row", "codes_start"
LINES_PER_UNIT = 65_536
OPEN_ARRAYS = 64
_referenced_file = lru_cache(OPEN_ARRAYS)(referenced_file)
CHUNK_BYTES = 16 << 20
_NEWLINE = 10
_JSON_SPACE = " \t\r\n"
_scan = json.JSONDecoder().raw_decode


@dataclass(frozen=True)
class LineIndex:
    """`offsets` has the byte offset of each requested line that exists, by line number."""

    num_lines: int
    offsets: dict[int, int]


def index_lines(path: Path, wanted: Sequence[int] = ()) -> LineIndex:
    """Count the lines of a file, and find where some of them begin.

    Args:
        wanted: line numbers, ascending.

    Returns:
        The count, which includes a last line without a line end, and the offsets.
    """
    offsets = {0: 0} if len(wanted) and wanted[0] == 0 else {}
    num_lines, position, last = 0, 0, b"\n"
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            ends = np.flatnonzero(np.frombuffer(chunk, np.uint8) == _NEWLINE)
            here = wanted[bisect_right(wanted, num_lines) : bisect_right(wanted, num_lines + len(ends))]
            offsets |= {line: position + int(ends[line - num_lines - 1]) + 1 for line in here}
            num_lines, position, last = num_lines + len(ends), position + len(chunk), chunk[-1:]
    num_lines += last != b"\n"
    return LineIndex(num_lines, {line: offset for line, offset in offsets.items() if line < num_lines})


def parse_lines(
    path: Path, offset: int, first: int, stop: int | None, limits: ImportLimits
) -> Iterator[tuple[str, dict[str, object] | Problem]]:
    """Names and JSON objects of lines [first, stop); line `first` begins at byte `offset`."""
    file_name = path.name  # computing it takes 1 us
    with open(path, "rb") as file:
        file.seek(offset)
        lines = lines_within(file, limits)
        for number, line in enumerate(islice(lines, None if stop is None else stop - first), first):
            yield f"{file_name}:{number}", line if isinstance(line, Problem) else parse_object(line)


def parse_object(line: bytes, encoding: str = "utf-8") -> dict[str, object] | Problem:
    """The JSON object of a line, or why the line has no object."""
    try:
        content = _json(str(line, encoding).strip(_JSON_SPACE))
    except UnicodeDecodeError as error:
        detail = f"byte {error.object[error.start]:#04x} at column {error.start}"
        return Problem("not UTF-8", f"not UTF-8 ({detail}); convert the file, as with iconv -t UTF-8")
    except (ValueError, RecursionError) as error:
        return Problem("not JSON", f"not JSON ({error}); found {_beginning(line)}")
    if not isinstance(content, dict):
        return Problem("no JSON object", f"no JSON object; found {_beginning(line)}")
    return content


def _json(text: str) -> object:
    """As `json.loads`, without its searches for white space around an object."""
    if text.startswith("{"):
        content, end = _scan(text)
        if end == len(text):
            return content
    return json.loads(text)


def _beginning(line: bytes) -> str:
    return repr(line[:60].decode(errors="replace").rstrip("\r\n"))


class JsonlImporter:
    """`--from jsonl`."""

    def __init__(self, options: ImportOptions) -> None:
        self._options = options
        self._columns = speech_columns(options)
        self._files = find_files(options.inputs, (".jsonl",), "jsonl")
        self._line_offsets: dict[str, int] = {}
        _check_json(self._files[0].path)

    def units(self) -> list[Unit]:
        return [unit for file in self._files for unit in self._units(file)]

    def _units(self, file: InputFile) -> Iterator[Unit]:
        lines = index_lines(file.path, range(0, file.num_bytes + 1, LINES_PER_UNIT))
        if lines.num_lines == 0:
            return  # an empty shard
        firsts = sorted(lines.offsets)
        for first, stop in zip(firsts, [*firsts[1:], lines.num_lines], strict=True):
            name = f"{file.name}:{first}"
            self._line_offsets[name] = lines.offsets[first]
            num_bytes = file.num_bytes * (stop - first) // lines.num_lines
            array = file.path.with_suffix(".npy")
            yield Unit(name, file.path, num_bytes, first, stop, (array,) if array.is_file() else ())

    def samples(self, unit: Unit) -> Iterator[Sample]:
        return speech_samples(self._records(unit), self._columns, self._options, unit)

    def _records(self, unit: Unit) -> Iterator[tuple[str, Record | Problem]]:
        column, default = self._options.columns.get(CODES, CODES), unit.path.with_suffix(".npy")
        has_default, folder = default.is_file(), unit.path.parent
        offset = self._line_offsets[unit.name]
        for name, record in parse_lines(unit.path, offset, unit.start, unit.stop, self._options.limits):
            if not isinstance(record, Problem):
                value = record.get(column)
                if isinstance(value, str) or (value is None and has_default):
                    record[column] = self._codes(folder, value if isinstance(value, str) else default.name, record)
            yield name, record

    def _codes(self, folder: Path, name: str, record: Mapping[str, object]) -> NDArray | Problem:
        try:
            path = _referenced_file(folder, name, self._options.files_from)
            return _codes(path, record, self._columns.of(CODE_LEN, record) or CODE_LEN)
        except DataError as error:
            return Problem("array", str(error))


def _check_json(path: Path) -> None:
    with open(path, "rb") as file:
        head = file.read(64).lstrip()
    if head and not head.startswith(b"{"):
        raise DataError(
            f"{path} does not begin with a JSON object, expected for --from jsonl{format_hint([path], 'jsonl')}"
        )


def _codes(path: Path, record: Mapping[str, object], code_len: str) -> NDArray:
    """The part of the array that belongs to the sample; `code_len` is the column with its number of codes."""
    array = _array(str(path))
    row, start, length = (_natural_number(record, name) for name in (CODES_ROW, CODES_START, code_len))
    if row is not None:
        if start is not None or array.ndim != 2 or row >= len(array):
            raise DataError(
                f"{CODES_ROW} is {row} in {_described(path)}: expected a row of an array [N, T], and no {CODES_START}"
            )
        array = array[row]
    elif start is not None:
        if length is None or array.ndim != 1:
            raise DataError(
                f"{CODES_START} is {start} in {_described(path)}: expected an array [all codes], and a {code_len}"
            )
        array = array[start:]
    if length is None or (row is None and start is None):
        return array
    if length > len(array):
        raise DataError(f"{code_len} is {length}, but {_described(path)} has only {counted(len(array), 'code')} there")
    return array[:length]


def _described(path: Path) -> str:
    return f"{path} of shape {_array(str(path)).shape}"


def _natural_number(record: Mapping[str, object], name: str) -> int | None:
    value = record.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise DataError(f"{name} is {value!r}: expected a whole number from 0")
    return value


@lru_cache(OPEN_ARRAYS)
def _array(path: str) -> NDArray:
    try:
        return mapped_npy(Path(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not a .npy array that can be read ({error})") from error
