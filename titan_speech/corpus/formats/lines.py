"""Lines of a large text file by number: where ranges of them begin, and reading one range.

In: a file of lines, such as JSONL. Out: byte offsets of chosen lines, found in one pass, so that ranges of
lines are read by several processes; the object of each line, or the `Problem` that it has none.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from titan_speech.store.problems import Problem

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
