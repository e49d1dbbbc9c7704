"""The rows of a listing of audio files, in the forms that data sets come with.

In: the file of a listing. Out: for each row its place, for messages, and its columns as text; an empty cell is no
column. The whole file is read at once, which a listing of a million recordings allows (200 MB).

    *.jsonl            one object per line
    wav.scp            Kaldi: id and path; `text` and `utt2spk` next to it give transcript and speaker
    a header           fields between tabs, bars, semicolons or commas; its first line names the column with the path
    bars, no header    LJSpeech: `id|text` or `id|text|normalized_text`

Quotes hold a field together between commas and semicolons only: Common Voice and LJSpeech write them as they are.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from titan_speech.errors import DataError
from titan_speech.importers.files import describe_not_utf8
from titan_speech.utils.json_text import read_small_file

Row = tuple[str, dict[str, object]]

PATH_COLUMNS = ("audio_filepath", "audio", "file_name", "path", "audio_file", "audio_path", "filename", "wav")
"""Usual names of the column with the path of the audio, in the order in which they are tried."""
ID_COLUMNS = ("id", "text", "normalized_text")
"""Of LJSpeech: rows with no other columns name their audio by id."""
LISTING_SUFFIXES = (".csv", ".tsv", ".jsonl", ".txt", ".lst", ".list", ".scp")
_DELIMITERS = "\t|;,"
KALDI, KALDI_FILES = "wav.scp", ("text", "utt2spk")
_HEAD_BYTES = 1 << 16


MAX_LISTING_BYTES = 1 << 30
"""It is read whole; 4 million clips."""


def read_rows(listing: Path, audio_column: str | None) -> Iterator[Row]:
    """The rows of a listing, in order.

    Args:
        listing: the file.
        audio_column: column with the path of the audio; None tries `PATH_COLUMNS`.

    Raises:
        DataError: a row cannot be read, or would be read wrongly.
    """
    if listing.suffix == ".scp":
        return _kaldi_rows(listing)
    text = read_text(listing)
    lines = text.split("\n")  # str.splitlines would also split inside texts, at U+2028 and others
    if listing.suffix == ".jsonl":
        return _json_rows(listing, lines)
    delimiter = _delimiter(lines[0], audio_column)
    return _id_rows(listing, lines) if delimiter is None else _header_rows(listing, text, delimiter)


def read_text(path: Path) -> str:
    """A text file without its byte order mark.

    Raises:
        DataError: it is not UTF-8.
    """
    try:
        data = read_small_file(path, MAX_LISTING_BYTES)
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} {describe_not_utf8(error)}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}; divide it") from error


def lists_audio(path: Path) -> bool:
    """Whether the beginning of a file looks like a listing, for a hint."""
    if path.name == KALDI:
        return True
    with open(path, "rb") as file:
        line = file.read(_HEAD_BYTES).partition(b"\n")[0].decode("utf-8", errors="replace")
    if path.suffix == ".jsonl":
        return any(f'"{name}"' in line for name in PATH_COLUMNS)
    return (delimiter := _delimiter(line, None)) is None or not _names(line, delimiter).isdisjoint(PATH_COLUMNS)


def _names(line: str, delimiter: str) -> set[str]:
    return {name.strip().strip('"') for name in line.removeprefix("\ufeff").split(delimiter)}


def _delimiter(line: str, audio_column: str | None) -> str | None:
    """What separates the fields under a header; None for bars without one."""
    wanted = {audio_column} if audio_column else set(PATH_COLUMNS)
    for delimiter in _DELIMITERS:
        if wanted & _names(line, delimiter):
            return delimiter
    return None if "|" in line else next((some for some in "\t;" if some in line and "," not in line), ",")


def _json_rows(listing: Path, lines: list[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{listing}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{where} holds a {type(row).__name__}: expected an object")
        yield where, row


def _id_rows(listing: Path, lines: list[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        values = line.rstrip("\r").split("|")
        if not 2 <= len(values) <= len(ID_COLUMNS):
            raise DataError(
                f"{listing}:{number} has {len(values)} fields between bars: expected id|text or id|text|text, or a "
                "first line that names the columns"
            )
        yield f"{listing}:{number}", {name: value for name, value in zip(ID_COLUMNS, values, strict=False) if value}


def _header_rows(listing: Path, text: str, delimiter: str) -> Iterator[Row]:
    quoting = csv.QUOTE_MINIMAL if delimiter in ",;" else csv.QUOTE_NONE
    # of the whole text: a quoted field may contain line ends
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting)
    try:
        names = reader.fieldnames or ()
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise DataError(f"{listing}:1 names the column {twice[0]!r} more than once: give each a name of its own")
        for row in reader:
            where = f"{listing}:{reader.line_num}"
            if None in row or None in row.values():
                raise DataError(
                    f"{where} has not the {len(names)} fields of the header: quote fields that hold {delimiter!r}"
                )
            yield where, {name: value for name, value in row.items() if value != ""}
    except csv.Error as error:
        raise DataError(f"{listing}:{reader.line_num} cannot be read: {error}") from error


def _kaldi_rows(listing: Path) -> Iterator[Row]:
    folder = listing.parent
    if (folder / "segments").exists():
        raise DataError(
            f"{folder} has segments: its utterances are parts of recordings, which are not cut here. Write one file "
            "per utterance, as with Kaldi's extract_segments, and list those"
        )
    texts, speakers = (dict(_kaldi_pairs(folder / name)) for name in KALDI_FILES)
    for number, (key, path) in enumerate(_kaldi_pairs(listing), 1):
        where = f"{listing}:{number}"
        if path.endswith("|"):
            raise DataError(f"{where}: {path[:80]!r} is a command, which is not run: write its audio to a file")
        row = {"sample_id": key, "path": path, "text": texts.get(key), "speaker_id": speakers.get(key)}
        yield where, {name: value for name, value in row.items() if value}


def _kaldi_pairs(path: Path) -> Iterator[tuple[str, str]]:
    """The first word of each line, and the rest of it; nothing if there is no such file."""
    lines = read_text(path).split("\n") if path.is_file() else []
    for line in lines:
        if key := line.strip():
            key, _, rest = key.replace("\t", " ", 1).partition(" ")
            yield key, rest.strip()
