"""Lines of a large text file by number: where ranges of them begin, and reading one range.

In: a file of lines, such as JSONL. Out: byte offsets of chosen lines, found in one pass, so that ranges of
lines are read by several processes; the object of each line, or the `Problem` that it has none.

JSONL with codes in `.npy` files.

In: `.jsonl` files, one object a sample. `codes` is a list of codes, or the path of a `.npy` file, taken from the folder
of the JSONL if it is relative. Without it the codes lie in the `.npy` beside the JSONL that has its name (a.jsonl,
a.npy). An array of more than one sample is read by one of

    codes_row                  a row of an array [N, T]
    codes_start                where the sample begins in an array [all codes]

and `code_len`, how many codes there are (a padded row, or from codes_start on). Out: samples of speech. A line that is
not JSON, or whose array cannot be read, is a bad sample. A unit is 65,536 lines.

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
from titan_speech.importers.columns import CODE_LEN, CODES, Record, speech_columns, speech_samples
from titan_speech.importers.files import InputFile, find_files, suggest_format
from titan_speech.store.sample import Problem
from titan_speech.utils.safe_path import referenced_file

CHUNK_BYTES = 16 << 20
_NEWLINE = 10
_JSON_SPACE = " \t\r\n"
_scan = json.JSONDecoder().raw_decode


@dataclass(frozen=True)
class LineIndex:
    """`offsets` of the lines that were asked for and exist, by number."""

    num_lines: int
    offsets: dict[int, int]


def index_lines(path: Path, wanted: Sequence[int] = ()) -> LineIndex:
    """Counts the lines and finds where each wanted one begins (ascending); a last line without its end counts."""
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


def parsed_lines(
    path: Path, offset: int, first: int, stop: int | None
) -> Iterator[tuple[str, dict[str, object] | Problem]]:
    """JSON objects of lines [first, stop), with their names; line `first` begins at `offset`."""
    file_name = path.name  # 1 us each time it is asked for
    with open(path, "rb") as file:
        file.seek(offset)
        for number, line in enumerate(islice(file, None if stop is None else stop - first), first):
            yield f"{file_name}:{number}", parsed(line)


def parsed(line: bytes, encoding: str = "utf-8") -> dict[str, object] | Problem:
    """The JSON object of a line."""
    try:
        content = _json(str(line, encoding).strip(_JSON_SPACE))
    except UnicodeDecodeError as error:
        detail = f"byte {error.object[error.start]:#04x} at column {error.start}"
        return Problem("not UTF-8", f"not UTF-8 ({detail}); convert the file, as with iconv -t UTF-8")
    except (ValueError, RecursionError) as error:
        return Problem("not JSON", f"not JSON ({error}); found {_begin(line)}")
    if not isinstance(content, dict):
        return Problem("no JSON object", f"no JSON object; found {_begin(line)}")
    return content


def _json(text: str) -> object:
    """As `json.loads`, but an object is not looked at before and after."""
    if text.startswith("{"):
        content, end = _scan(text)
        if end == len(text):
            return content
    return json.loads(text)


def _begin(line: bytes) -> str:
    return repr(line[:60].decode(errors="replace").rstrip("\r\n"))


ROW, START = "codes_row", "codes_start"
LINES_PER_UNIT = 65_536
OPEN_ARRAYS = 64


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
            return  # a shard that nothing was left for
        firsts = sorted(lines.offsets)
        for first, stop in zip(firsts, [*firsts[1:], lines.num_lines], strict=True):
            name = f"{file.name}:{first}"
            self._line_offsets[name] = lines.offsets[first]
            num_bytes = file.num_bytes * (stop - first) // lines.num_lines
            beside = file.path.with_suffix(".npy")
            yield Unit(name, file.path, num_bytes, first, stop, (beside,) if beside.is_file() else ())

    def samples(self, unit: Unit) -> Iterator[Sample]:
        return speech_samples(self._records(unit), self._columns, self._options, unit)

    def _records(self, unit: Unit) -> Iterator[tuple[str, Record | Problem]]:
        column, beside = self._options.columns.get(CODES, CODES), unit.path.with_suffix(".npy")
        is_beside, folder = beside.is_file(), unit.path.parent
        for name, record in parsed_lines(unit.path, self._line_offsets[unit.name], unit.start, unit.stop):
            if not isinstance(record, Problem):
                value = record.get(column)
                if isinstance(value, str) or (value is None and is_beside):
                    record[column] = self._codes(folder, value if isinstance(value, str) else beside.name, record)
            yield name, record

    def _codes(self, folder: Path, name: str, record: Mapping[str, object]) -> NDArray | Problem:
        try:
            path = _referenced(folder, name, self._options.files_from)
            return _codes(path, record, self._columns.of(CODE_LEN, record) or CODE_LEN)
        except DataError as error:
            return Problem("array", str(error))


def _check_json(path: Path) -> None:
    with open(path, "rb") as file:
        head = file.read(64).lstrip()
    if head and not head.startswith(b"{"):
        raise DataError(
            f"{path} does not begin with a JSON object, expected for --from jsonl{suggest_format([path], 'jsonl')}"
        )


def _codes(path: Path, record: Mapping[str, object], code_len: str) -> NDArray:
    """The sample's own part of the array; `code_len` is the column that says how many codes it has."""
    array = _array(str(path))
    row, start, length = _natural(record, ROW), _natural(record, START), _natural(record, code_len)
    if row is not None:
        if start is not None or array.ndim != 2 or row >= len(array):
            detail = f"{ROW} is {row} in {_named(path)}: expected a row of an array [N, T], and no {START}"
            raise DataError(detail)
        array = array[row]
    elif start is not None:
        if length is None or array.ndim != 1:
            detail = f"{START} is {start} in {_named(path)}: expected an array [all codes], and a {code_len}"
            raise DataError(detail)
        array = array[start:]
    if length is None or (row is None and start is None):
        return array
    if length > len(array):
        raise DataError(f"{code_len} is {length}, but {_named(path)} has only {len(array)} codes there")
    return array[:length]


def _named(path: Path) -> str:
    return f"{path} of shape {_array(str(path)).shape}"


def _natural(record: Mapping[str, object], name: str) -> int | None:
    value = record.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise DataError(f"{name} is {value!r}: expected a whole number from 0")
    return value


@lru_cache(OPEN_ARRAYS)
def _referenced(folder: Path, name: str, allowed: tuple[Path, ...]) -> Path:
    return referenced_file(folder, name, allowed)


@lru_cache(OPEN_ARRAYS)
def _array(path: str) -> NDArray:
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is not a .npy array that can be read ({error})") from error
