"""Which audio files an input holds, and what is written about each.

In: a folder or a listing. Out: clips in a fixed order, each with its columns:

    metadata.csv, fields between bars    LJSpeech: no header; `id`, `text`, `normalized_text`; audio in wavs/ or beside
    metadata.csv, fields between commas  a header, with the column `file_name` (Hugging Face) or one named by `audio=`
    *.jsonl                              one object a line, with `audio_filepath`, `audio`, `file_name` or `path`
    a folder without a listing           every .wav and .flac below it, and as column `txt` the .txt file beside each;
                                         a .txt without audio is refused, as one of the two is misnamed

Paths are relative to the listing. `@folder` and `@folder2` are columns everywhere: the name of the folder of the file,
and of the one above.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from titan_speech.corpus.formats.columns import missing
from titan_speech.corpus.formats.files import find_files, instead
from titan_speech.errors import DataError
from titan_speech.utils.safe_path import UnsafePathError, referenced_file

KEY = "__key__"
SUFFIXES = (".wav", ".flac")
LISTINGS = ("metadata.csv", "metadata.jsonl")
_PATH_COLUMNS = ("audio_filepath", "audio", "file_name", "path")
_BARS = ("id", "text", "normalized_text")


@dataclass(frozen=True)
class Clip:
    """An audio file; `columns` are what is known about it."""

    key: str
    path: Path
    columns: dict[str, object]
    is_listed: bool = False


def list_clips(root: Path, audio_column: str | None, files_from: tuple[Path, ...] = ()) -> list[Clip]:
    """In the order of the listing, or by name; a listing names files in its own folder or in `files_from`."""
    listing = _listing(root)
    if listing is None:
        files = find_files([root], SUFFIXES, "audio")
        _refuse_lone_texts(root, {file.path.with_suffix("") for file in files})
        return [_found(file.name, file.path) for file in files]
    clips = [_listed(listing, where, row, audio_column, files_from) for where, row in _rows(listing)]
    if not clips:
        raise DataError(f"{listing} lists no audio{instead([root], 'audio')}")
    return clips


def _listing(root: Path) -> Path | None:
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
            f"{lone[0]} is beside no {' or '.join(SUFFIXES)} of its name{more}: give a transcript the name of its "
            "recording, and take other notes out of the folder"
        )


def _found(name: str, path: Path) -> Clip:
    columns = _places(path)
    text = path.with_suffix(".txt")
    if text.is_file():
        columns["txt"] = _text(text)
    key = name.rpartition(".")[0]
    return Clip(key, path, columns | {KEY: key})


def _places(path: Path) -> dict[str, object]:
    folder = path.absolute().parent
    return {"@folder": folder.name, "@folder2": folder.parent.name}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}") from error


def _rows(listing: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Where each row stands, and its columns."""
    try:
        text = listing.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{listing} is not UTF-8: {error}") from error
    lines = text.split("\n")  # str.splitlines would also cut inside texts, at U+2028 and the like
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
        if not 2 <= len(values) <= len(_BARS):
            raise DataError(
                f"{listing}:{number} has {len(values)} fields between bars: expected id|text or id|text|text"
            )
        yield f"{listing}:{number}", dict(zip(_BARS, values, strict=False))


def _comma_rows(listing: Path, text: str) -> Iterator[tuple[str, dict[str, object]]]:
    reader = csv.DictReader(io.StringIO(text))  # of whole text: a quoted field may run over lines
    for row in reader:
        where = f"{listing}:{reader.line_num}"
        if None in row or None in row.values():
            expected = len(reader.fieldnames or ())
            raise DataError(f"{where} has not the {expected} fields of the header: quote fields that hold commas")
        yield where, {name: value for name, value in row.items() if value != ""}


def _listed(
    listing: Path, where: str, row: dict[str, object], audio_column: str | None, files_from: tuple[Path, ...]
) -> Clip:
    bars = audio_column is None and set(row) <= set(_BARS)
    path = _by_id(listing, where, str(row["id"])) if bars else _by_path(listing, where, row, audio_column)
    try:
        referenced_file(listing.parent, str(path.absolute()), files_from)
    except UnsafePathError as error:
        raise DataError(f"{where}: {error}") from error
    key = str(row["id"]) if bars else _key(listing, path)
    return Clip(key, path, {**_places(path), **row, KEY: key}, is_listed=True)


def _by_id(listing: Path, where: str, name: str) -> Path:
    folder = listing.parent
    tried = [place / f"{name}{suffix}" for place in (folder / "wavs", folder) for suffix in SUFFIXES]
    for path in tried:
        if path.is_file():
            return path
    raise DataError(f"{where}: no audio of {name!r}; expected {tried[0]} or {tried[-2]}")


def _by_path(listing: Path, where: str, row: dict[str, object], audio_column: str | None) -> Path:
    names = (audio_column,) if audio_column else _PATH_COLUMNS
    column = next((name for name in names if name in row), None)
    if column is None:
        raise DataError(f"{where} {missing('audio', ' or '.join(names), row)}. Name it with --columns audio=COLUMN")
    path = listing.parent / str(row[column])
    if not path.is_file():
        raise DataError(f"{where}: {path} does not exist; paths are relative to {listing.parent}")
    return path


def _key(listing: Path, path: Path) -> str:
    inside = path.relative_to(listing.parent) if path.is_relative_to(listing.parent) else path
    return inside.with_suffix("").as_posix()
