"""Which audio files an input has, and what is written about each.

In: a folder or a listing. Out: clips in a fixed order, each with its columns:

    metadata.csv, .tsv, .jsonl, or any   a listing of a known form (listing_formats.py): LJSpeech, Common Voice, Kaldi.
    file given as input; wav.scp         Paths are relative to it; audio may also be in wavs/ or clips/ there
    a folder without a listing           every audio file in it and below, with the .txt file of the same name as
                                         column `txt`; a .txt without audio is refused, as one of the two is misnamed

Every clip has the columns `@folder` and `@folder2`: the name of the folder of its file, and of the folder above. Audio
that cannot be read (.m4a) and listings that would not be read are refused, as a smaller corpus looks like a whole one.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from titan_speech.errors import DataError
from titan_speech.importers.columns import SAMPLE_KEY, missing_column
from titan_speech.importers.files import describe_not_utf8, find_files, format_hint
from titan_speech.importers.limits import ImportLimits
from titan_speech.importers.listing_formats import (
    ID_COLUMNS,
    KALDI,
    KALDI_FILES,
    LISTING_SUFFIXES,
    PATH_COLUMNS,
    lists_audio,
    read_rows,
)
from titan_speech.store.problems import Problem
from titan_speech.utils.safe_path import UnsafePathError, referenced_file

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif")
UNREADABLE = (".m4a", ".aac", ".wma", ".amr", ".mp4", ".webm", ".mka", ".3gp", ".ape", ".wv")
LISTINGS = ("metadata.csv", "metadata.tsv", "metadata.jsonl", KALDI)
AUDIO_FOLDERS = ("", "wavs", "clips")
"""Where a listing's audio may be, relative to it."""
_MAX_PROBED = 100
"""Files that are opened to see whether they are listings."""

_MAX_SHOWN = 400
"""Characters of a path that an error shows."""


@dataclass(frozen=True)
class AudioClip:
    """An audio file; `columns` hold what is known about it."""

    key: str
    path: Path
    columns: dict[str, object]
    listing: Path | None = None
    """The file in which the columns are written; None for a clip of a folder without a listing."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that the sample is made of, the audio first."""
        if self.listing is None:
            others = [self.path.with_suffix(".txt")]
        else:
            others = [
                self.listing,
                *(self.listing.with_name(name) for name in KALDI_FILES if self.listing.name == KALDI),
            ]
        return (self.path, *(path for path in others if path.is_file()))


def list_clips(
    root: Path,
    audio_column: str | None,
    limits: ImportLimits,
    files_from: tuple[Path, ...] = (),
    needs_text: bool = True,
) -> list[AudioClip]:
    """The clips of an input, in the order of its listing, or sorted by name.

    Args:
        root: a folder, a listing or an audio file.
        audio_column: column of the listing with the path of the audio; None tries the usual names.
        limits: the largest line and the largest transcript.
        files_from: folders in which the listing may name files, in addition to its own.
        needs_text: whether a folder is refused that has listings of other names and no text files.

    Raises:
        DataError: a listing cannot be read, names a file that does not exist or is in another folder, or would be
            passed over; or there is audio of a kind that is not read.
    """
    listing = _find_listing(root)
    if listing is None:
        return _found_clips(root, needs_text, limits, files_from)
    rows = read_rows(listing, audio_column)
    clips = [_listed_clip(listing, where, row, audio_column, files_from) for where, row in rows]
    if not clips:
        raise DataError(f"{listing} lists no audio{format_hint([root], 'audio')}")
    return clips


def _find_listing(root: Path) -> Path | None:
    if not root.exists():
        raise DataError(f"input {root} does not exist")
    if root.is_file():
        return root if root.suffix in LISTING_SUFFIXES else None
    found = [root / name for name in LISTINGS if (root / name).is_file()]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise DataError(f"{root} has both {names}: give the one to be read with --input")
    return found[0] if found else None


def _found_clips(root: Path, needs_text: bool, limits: ImportLimits, files_from: tuple[Path, ...]) -> list[AudioClip]:
    """The clips of a folder without a listing, or of a single file."""
    _refuse_unreadable(root)
    files = find_files([root], AUDIO_SUFFIXES, "audio")
    _refuse_lone_texts(root, {file.path.with_suffix("") for file in files})
    clips = [_found_clip(root, file.name, file.path, limits, files_from) for file in files]
    if needs_text and root.is_dir() and not all("txt" in clip.columns for clip in clips):
        _refuse_other_listings(root)
    return clips


def _refuse_unreadable(root: Path) -> None:
    paths = sorted(root.rglob("*")) if root.is_dir() else [root]
    found = [path for path in paths if path.suffix.lower() in UNREADABLE and path.is_file()]
    if found:
        more = f" (and {len(found) - 1:,} more)" if len(found) > 1 else ""
        raise DataError(
            f"{found[0]} is not of a kind that is read ({', '.join(AUDIO_SUFFIXES)}){more}: convert it, "
            f"ffmpeg -i {found[0].name} {found[0].stem}.flac, and move the original out of the folder"
        )


def _refuse_other_listings(root: Path) -> None:
    """A listing under a name of its own would be passed over, and its transcripts with it."""
    candidates = [path for path in sorted(root.rglob("*")) if path.suffix in (".csv", ".tsv", ".jsonl", ".scp")]
    found = [path for path in candidates[:_MAX_PROBED] if path.is_file() and lists_audio(path)]
    if found:
        names = ", ".join(path.relative_to(root).as_posix() for path in found[:5]) + (", ..." if found[5:] else "")
        raise DataError(
            f"{root} has recordings without a .txt of the same name, and {names} seems to list audio, but only "
            f"{', '.join(LISTINGS)} in the folder itself is read without being named: give it with --input "
            f"{found[0]}, or build speech without transcripts with --columns transcript_native=@none"
        )


def _refuse_lone_texts(root: Path, audio: Container[Path]) -> None:
    texts = sorted(root.rglob("*.txt")) if root.is_dir() else []
    lone = [path for path in texts if path.with_suffix("") not in audio]
    if lone:
        more = f" (and {len(lone) - 1:,} more)" if len(lone) > 1 else ""
        raise DataError(
            f"{lone[0]} has no audio file ({', '.join(AUDIO_SUFFIXES)}) of the same name next to it{more}: give a "
            "transcript the name of its recording, and move other notes out of the folder; a listing is given by "
            f"itself, with --input {lone[0]}"
        )


def _found_clip(root: Path, name: str, path: Path, limits: ImportLimits, files_from: tuple[Path, ...]) -> AudioClip:
    """A clip of a folder without a listing."""
    columns = _folder_columns(path)
    text = path.with_suffix(".txt")
    if text.is_file():
        folder = root if root.is_dir() else root.parent
        referenced_file(folder, str(text.absolute()), files_from)  # a link could bring any file into a store
        columns["txt"] = _transcript(text, limits)
    key = name.rpartition(".")[0]
    return AudioClip(key, path, columns | {SAMPLE_KEY: key})


def _transcript(path: Path, limits: ImportLimits) -> str | Problem:
    if path.stat().st_size > limits.max_line_bytes:
        found = f"{path} has {path.stat().st_size:,} bytes, more than {limits.max_line_bytes:,}"
        return Problem("text too long", f"{found}: is it a transcript? Allow it with --max-line-mb")
    try:
        return path.read_bytes().decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        return Problem("not UTF-8", f"{path} {describe_not_utf8(error)}")


def _folder_columns(path: Path) -> dict[str, object]:
    folder = path.absolute().parent
    return {"@folder": folder.name, "@folder2": folder.parent.name}


def _listed_clip(
    listing: Path, where: str, row: dict[str, object], audio_column: str | None, files_from: tuple[Path, ...]
) -> AudioClip:
    has_id = audio_column is None and set(row) <= set(ID_COLUMNS)
    path = _audio_by_id(listing, where, row) if has_id else _audio_by_path(listing, where, row, audio_column)
    try:
        referenced_file(listing.parent, str(path.absolute()), files_from)
    except UnsafePathError as error:
        raise DataError(f"{where}: {error}") from error
    if has_id:
        key = str(row["id"])
    else:
        inside = path.relative_to(listing.parent) if path.is_relative_to(listing.parent) else path
        key = inside.with_suffix("").as_posix()
    return AudioClip(key, path, {**_folder_columns(path), **row, SAMPLE_KEY: key}, listing)


def _is_file(path: Path) -> bool:
    """False also for a name that no file can have."""
    try:
        return path.is_file()
    except OSError:
        return False


def _audio_by_id(listing: Path, where: str, row: dict[str, object]) -> Path:
    name = row.get("id")
    if not name:
        raise DataError(f"{where} has no id before the first bar")
    suffixes = ("", *AUDIO_SUFFIXES) if Path(str(name)).suffix in AUDIO_SUFFIXES else AUDIO_SUFFIXES
    tried = [listing.parent / folder / f"{name}{suffix}" for folder in AUDIO_FOLDERS for suffix in suffixes]
    for path in tried:
        if _is_file(path):
            return path
    places = " or ".join(str(listing.parent / folder / f"{name}{suffixes[0]}") for folder in AUDIO_FOLDERS)
    header = "; if this line is a header, remove it" if where.endswith(":1") else ""
    raise DataError(f"{where}: no audio of {name!r}; expected {places} ({', '.join(AUDIO_SUFFIXES)}){header}")


def _audio_by_path(listing: Path, where: str, row: dict[str, object], audio_column: str | None) -> Path:
    names = (audio_column,) if audio_column else PATH_COLUMNS
    column = next((name for name in names if name in row), None)
    if column is None:
        hint = missing_column("audio", " or ".join(names), row)
        raise DataError(f"{where} {hint}. Name it with --columns audio=COLUMN")
    tried = [listing.parent / folder / str(row[column]) for folder in AUDIO_FOLDERS]
    for path in tried:
        if _is_file(path):
            return path
    shown = str(tried[0]) if len(str(tried[0])) <= _MAX_SHOWN else f"{str(tried[0])[:_MAX_SHOWN]}..."
    raise DataError(
        f"{where}: {shown} does not exist; paths are relative to {listing.parent}, or to "
        f"{' or '.join(AUDIO_FOLDERS[1:])} in it"
    )
