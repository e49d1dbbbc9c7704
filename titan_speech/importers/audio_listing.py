"""Which audio files an input has, and what is written about each.

In: a folder or a listing. Out: clips in a fixed order, each with its columns:

    metadata.csv, fields between bars    LJSpeech: no header; `id`, `text`, `normalized_text`; audio in wavs/ or next to
                                         the listing
    metadata.csv, fields between commas  a header, with the column `file_name` (Hugging Face) or one named by `audio=`
    *.jsonl                              one object per line, with `audio_filepath`, `audio`, `file_name` or `path`
    a folder without a listing           every .wav and .flac in it and below, with the .txt file of the same name as
                                         column `txt`; a .txt without audio is refused, as one of the two is misnamed

Paths are relative to the listing. Every clip has the columns `@folder` and `@folder2`: the name of the folder of its
file, and of the folder above.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from titan_speech.errors import DataError
from titan_speech.importers.columns import missing_column
from titan_speech.importers.files import find_files, format_hint
from titan_speech.utils.safe_path import UnsafePathError, referenced_file

KEY = "__key__"
SUFFIXES = (".wav", ".flac")
LISTINGS = ("metadata.csv", "metadata.jsonl")
_PATH_COLUMNS = ("audio_filepath", "audio", "file_name", "path")
_BAR_COLUMNS = ("id", "text", "normalized_text")


@dataclass(frozen=True)
class Clip:
    """An audio file; `columns` hold what is known about it."""

    key: str
    path: Path
    columns: dict[str, object]
    is_listed: bool = False


def list_clips(root: Path, audio_column: str | None, files_from: tuple[Path, ...] = ()) -> list[Clip]:
    """The clips of an input, in the order of its listing, or sorted by name.

    Args:
        root: a folder, a listing or an audio file.
        audio_column: column of the listing with the path of the audio; None tries the usual names.
        files_from: folders in which the listing may name files, in addition to its own.

    Raises:
        DataError: a listing cannot be read, or names a file that does not exist or is in another folder.
    """
    listing = _find_listing(root)
    if listing is None:
        files = find_files([root], SUFFIXES, "audio")
        _refuse_lone_texts(root, {file.path.with_suffix("") for file in files})
        return [_found_clip(file.name, file.path) for file in files]
    clips = [_listed_clip(listing, where, row, audio_column, files_from) for where, row in _read_rows(listing)]
    if not clips:
        raise DataError(f"{listing} lists no audio{format_hint([root], 'audio')}")
    return clips


def _find_listing(root: Path) -> Path | None:
    if not root.exists():
        raise DataError(f"input {root} does not exist")
    if root.is_file():
        return root if root.suffix in (".csv", ".jsonl") else None
    found = [root / name for name in LISTINGS if (root / name).is_file()]
    if len(found) > 1:
        raise DataError(f"{root} has both {LISTINGS[0]} and {LISTINGS[1]}: give the one to be read with --input")
    return found[0] if found else None


def _refuse_lone_texts(root: Path, audio: Container[Path]) -> None:
    texts = sorted(root.rglob("*.txt")) if root.is_dir() else []
    lone = [path for path in texts if path.with_suffix("") not in audio]
    if lone:
        more = f" (and {len(lone) - 1:,} more)" if len(lone) > 1 else ""
        raise DataError(
            f"{lone[0]} has no {' or '.join(SUFFIXES)} of the same name next to it{more}: give a transcript the name "
            "of its recording, and move other notes out of the folder"
        )


def _found_clip(name: str, path: Path) -> Clip:
    """A clip of a folder without a listing."""
    columns = _folder_columns(path)
    text = path.with_suffix(".txt")
    if text.is_file():
        try:
            columns["txt"] = text.read_text(encoding="utf-8").strip()
        except UnicodeDecodeError as error:
            raise DataError(f"{text} is not UTF-8: {error}") from error
    key = name.rpartition(".")[0]
    return Clip(key, path, columns | {KEY: key})


def _folder_columns(path: Path) -> dict[str, object]:
    folder = path.absolute().parent
    return {"@folder": folder.name, "@folder2": folder.parent.name}


def _read_rows(listing: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """File and line of each row, and its columns."""
    try:
        text = listing.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{listing} is not UTF-8: {error}") from error
    lines = text.split("\n")  # str.splitlines would also split inside texts, at U+2028 and others
    if listing.suffix == ".jsonl":
        return _json_rows(listing, lines)
    if "|" in lines[0]:
        return _bar_rows(listing, lines)
    return _comma_rows(listing, text)


def _json_rows(listing: Path, lines: list[str]) -> Iterator[tuple[str, dict[str, object]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{listing}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{where} holds a {type(row).__name__}: expected an object")
        yield where, row


def _bar_rows(listing: Path, lines: list[str]) -> Iterator[tuple[str, dict[str, object]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        values = line.split("|")
        if not 2 <= len(values) <= len(_BAR_COLUMNS):
            raise DataError(
                f"{listing}:{number} has {len(values)} fields between bars: expected id|text or id|text|text"
            )
        yield f"{listing}:{number}", dict(zip(_BAR_COLUMNS, values, strict=False))


def _comma_rows(listing: Path, text: str) -> Iterator[tuple[str, dict[str, object]]]:
    reader = csv.DictReader(io.StringIO(text))  # of the whole text: a quoted field may contain line ends
    for row in reader:
        where = f"{listing}:{reader.line_num}"
        if None in row or None in row.values():
            expected = len(reader.fieldnames or ())
            raise DataError(f"{where} has not the {expected} fields of the header: quote fields that hold commas")
        yield where, {name: value for name, value in row.items() if value != ""}


def _listed_clip(
    listing: Path, where: str, row: dict[str, object], audio_column: str | None, files_from: tuple[Path, ...]
) -> Clip:
    has_id = audio_column is None and set(row) <= set(_BAR_COLUMNS)
    path = _audio_by_id(listing, where, str(row["id"])) if has_id else _audio_by_path(listing, where, row, audio_column)
    try:
        referenced_file(listing.parent, str(path.absolute()), files_from)
    except UnsafePathError as error:
        raise DataError(f"{where}: {error}") from error
    if has_id:
        key = str(row["id"])
    else:
        inside = path.relative_to(listing.parent) if path.is_relative_to(listing.parent) else path
        key = inside.with_suffix("").as_posix()
    return Clip(key, path, {**_folder_columns(path), **row, KEY: key}, is_listed=True)


def _audio_by_id(listing: Path, where: str, name: str) -> Path:
    folder = listing.parent
    tried = [place / f"{name}{suffix}" for place in (folder / "wavs", folder) for suffix in SUFFIXES]
    for path in tried:
        if path.is_file():
            return path
    raise DataError(f"{where}: no audio of {name!r}; expected {tried[0]} or {tried[-2]}")


def _audio_by_path(listing: Path, where: str, row: dict[str, object], audio_column: str | None) -> Path:
    names = (audio_column,) if audio_column else _PATH_COLUMNS
    column = next((name for name in names if name in row), None)
    if column is None:
        hint = missing_column("audio", " or ".join(names), row)
        raise DataError(f"{where} {hint}. Name it with --columns audio=COLUMN")
    path = listing.parent / str(row[column])
    if not path.is_file():
        raise DataError(f"{where}: {path} does not exist; paths are relative to {listing.parent}")
    return path
