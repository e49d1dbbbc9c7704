"""Files by which a job of alignment that was cut continues: its settings, and lines of JSON of what is done.

In: a folder whose lock the caller holds. Out: the settings, compared with those the job was begun with; the values of
the whole lines, one at a time, so that a journal may be larger than memory. A last line without its end was being
written when the job was cut, and is removed.

Folders are copied between machines, so their files are read as those of others: never through a symbolic link or from a
pipe, a line has at most `MAX_LINE_BYTES`, and what is no JSON is an error with the number of its line.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from titan_speech.errors import DataError
from titan_speech.utils.files import write_atomically
from titan_speech.utils.json_text import parse_json, read_json_file
from titan_speech.utils.safe_path import open_without_link

MAX_LINE_BYTES = 64 << 20
"""Ten million codes."""
DAMAGED = (ValueError, KeyError, TypeError, AttributeError, OverflowError)
"""What reading something that is not such a record may raise."""


def check_settings(place: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings of a job that begins, or compare them with those of the job that is continued.

    Raises:
        DataError: it was begun with others, or the file is damaged.
    """
    text = json.dumps(settings, sort_keys=True, indent=1)
    if not place.exists():
        write_atomically(place, text)
        return
    found, now = _settings(place), json.loads(text)
    changed = [name for name in sorted({*found, *now}) if found.get(name) != now.get(name)]
    if changed:
        differ = "; ".join(f"{name} was {found.get(name)!r:.200} and is {now.get(name)!r:.200}" for name in changed)
        raise DataError(
            f"{place.parent} holds answers of another job: {differ:.2000}. Give the same settings to continue it, "
            "another --output, or delete the folder"
        )


def _settings(place: Path) -> dict[str, Any]:
    try:
        found = read_json_file(place)
        if not isinstance(found, dict):
            raise ValueError(f"found {type(found).__name__}, expected an object")
    except (OSError, ValueError) as error:
        raise DataError(f"{place} is damaged ({error}); give another --output, or delete the folder") from error
    return found


def open_lines(path: Path) -> IO[bytes]:
    """The file of lines, to read and to append to; made if it is not there.

    Raises:
        DataError: a link, a pipe or a folder stands at its path, or it cannot be opened.
    """
    try:
        descriptor = open_without_link(path, os.O_APPEND | os.O_NONBLOCK)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return open(descriptor, "r+b", buffering=1 << 16)
        os.close(descriptor)
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error}") from error
    raise DataError(f"{path} is no file; remove it")


def read_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """The number and value of each whole line; a last line that was not finished is removed from the file.

    Raises:
        DataError: a line is no JSON, or too long.
    """
    if not os.path.lexists(path):
        return
    whole, number = 0, 0
    with open_lines(path) as file:
        while (line := file.readline(MAX_LINE_BYTES)).endswith(b"\n"):
            whole, number = whole + len(line), number + 1
            try:
                yield number, parse_json(line)
            except ValueError as error:
                raise damaged(path, number, error) from None
        if len(line) == MAX_LINE_BYTES:
            raise damaged(path, number + 1, f"it has more than {MAX_LINE_BYTES >> 20} MB")
        if line:
            file.truncate(whole)


def damaged(path: Path, number: int, why: object) -> DataError:
    """The error of a line."""
    return DataError(f"{path}, line {number} is damaged ({why!s:.500}); delete the line to do its part again")
