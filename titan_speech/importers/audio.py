"""Which audio files an input holds, and what is written about each.

In: a folder or a listing. Out: clips in a fixed order, each with its columns:

    metadata.csv, fields between bars    LJSpeech: no header; `id`, `text`, `normalized_text`; audio in wavs/ or beside
    metadata.csv, fields between commas  a header, with the column `file_name` (Hugging Face) or one named by `audio=`
    *.jsonl                              one object a line, with `audio_filepath`, `audio`, `file_name` or `path`
    a folder without a listing           every .wav and .flac below it, and as column `txt` the .txt file beside each;
                                         a .txt without audio is refused, as one of the two is misnamed

Paths are relative to the listing. `@folder` and `@folder2` are columns everywhere: the name of the folder of the file,
and of the one above.

Audio files with transcripts, encoded on the way in.

In: folders or listings (audio_listing.py) and a codec. Out: samples of speech with the codec's codes; its name and hash
go into the manifest. Audio at another rate is resampled with soxr, channels are averaged. Clips longer than 40 s are
refused, or cut into equal pieces without transcripts. Unit: about an hour of audio.

The embedded codec takes 0.01 s a second of audio on one core; everything else here is small beside it. XCodec2 belongs
on a GPU: each process loads it, so use one worker a GPU.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from titan_speech.codec.base import FRAME_SAMPLES, Codec, check_wav
from titan_speech.codec.load import load_codec
from titan_speech.codec.wav import read_resampled
from titan_speech.errors import CodecError, DataError
from titan_speech.importers.base import BadSample, ImportOptions, Sample, SpeechSample, Unit
from titan_speech.importers.columns import CODES, UnfitError, describe, missing, required_fields, speech_columns
from titan_speech.importers.files import find_files, suggest_format
from titan_speech.store.manifest import CodecInfo
from titan_speech.store.sample import SampleInfo
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
        raise DataError(f"{listing} lists no audio{suggest_format([root], 'audio')}")
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


MAX_SEC = 40
UNIT_BYTES = 128 << 20
UNIT_CLIPS = 2048
BATCH_CLIPS = 32
DEFAULTS = {"sample_id": KEY, "transcript_native": "txt"}
AUDIO = "audio"


@dataclass(frozen=True)
class _Piece:
    """What one sample is made of."""

    info: SampleInfo
    wav_T: np.ndarray
    transcripts: dict[str, str]


class AudioImporter:
    """`--from audio`."""

    def __init__(self, options: ImportOptions) -> None:
        _check(options)
        self._options = options
        named = {field: column for field, column in options.columns.items() if field != AUDIO}
        self._columns = speech_columns(replace(options, columns=named), DEFAULTS)
        _codec(options.codec)
        self._clips = {
            str(root): list_clips(root, options.columns.get(AUDIO), options.files_from) for root in options.inputs
        }
        for root, clips in self._clips.items():
            known = {column for clip in clips for column in clip.columns}
            self._columns.check_all(known, [field for field in required_fields(options) if field != CODES], root)
            _tell_untranscribed(root, clips)

    def codec_info(self) -> CodecInfo:
        codec = _codec(self._options.codec)
        return CodecInfo(codec.name, codec.codec_hash, float(codec.frame_rate_hz))

    def units(self) -> list[Unit]:
        return [unit for root, clips in self._clips.items() for unit in _units(Path(root), clips)]

    def samples(self, unit: Unit) -> Iterator[Sample]:
        clips = self._clips[str(unit.path)][unit.start : unit.stop]
        codec = _codec(self._options.codec)
        for first in range(0, len(clips), BATCH_CLIPS):
            found = [piece for clip in clips[first : first + BATCH_CLIPS] for piece in self._pieces(clip, codec)]
            yield from _encoded(found, codec)

    def _pieces(self, clip: Clip, codec: Codec) -> list[_Piece | BadSample]:
        try:
            info, transcripts = describe(clip.columns, self._columns, self._options, clip.key)
            wav_T, rate = _read(clip.path, codec)
            piece = _Piece(replace(info, sample_rate=info.sample_rate or rate), wav_T, transcripts)
            return [*self._cut(piece, clip, codec.sample_rate)]
        except UnfitError as error:
            return [BadSample(clip.key, error.problem)]

    def _cut(self, piece: _Piece, clip: Clip, rate: int) -> list[_Piece]:
        duration_sec = len(piece.wav_T) / rate
        if duration_sec <= MAX_SEC:
            return [piece]
        if self._options.long_audio == "error":
            detail = f"{clip.path} is {duration_sec:.1f} s long, more than {MAX_SEC} s: cut it with its transcript"
            raise UnfitError("long", f"{detail}, or cut it without one: --long-audio split")
        return _split(piece, clip.key, rate)


def _check(options: ImportOptions) -> None:
    if options.codec is None:
        choices = "'embedded', a folder of XCodec2, or its name on the Hugging Face Hub"
        raise DataError(f"--from audio needs the codec that encodes: --codec with {choices}")
    if options.long_audio not in ("error", "split"):
        raise DataError(f"--long-audio {options.long_audio!r}: expected 'error' or 'split'")
    if CODES in options.columns:
        raise DataError(
            "--columns codes: audio has no codes yet; the column of the file's path is named by audio=COLUMN"
        )


def _tell_untranscribed(root: str, clips: Sequence[Clip]) -> None:
    """Of a folder without a listing: no text beside the audio may be meant, or not."""
    num_without = sum(not clip.is_listed and "txt" not in clip.columns for clip in clips)
    if num_without:
        print(
            f"{root}: {num_without:,} of {len(clips):,} recordings have no .txt beside them: speech without transcript",
            file=sys.stderr,
        )


@lru_cache(maxsize=1)
def _codec(name: str | None) -> Codec:
    """Once a process; `_check` has seen to the name."""
    assert name is not None, "checked when the format was opened"
    return load_codec(name)


def _units(root: Path, clips: Sequence[Clip]) -> Iterator[Unit]:
    start, num_bytes = 0, 0
    for stop, clip in enumerate(clips, 1):
        num_bytes += clip.path.stat().st_size
        if num_bytes >= UNIT_BYTES or stop - start == UNIT_CLIPS or stop == len(clips):
            paths = tuple(clip.path for clip in clips[start:stop])
            yield Unit(f"{root.name}:{start}-{stop}", root, num_bytes, start, stop, paths)
            start, num_bytes = stop, 0


def _read(path: Path, codec: Codec) -> tuple[np.ndarray, int]:
    try:
        wav_T, rate = read_resampled(path, codec.sample_rate)
        check_wav(wav_T)
    except CodecError as error:
        raise UnfitError("audio", str(error) if str(path) in str(error) else f"{path}: {error}") from error
    return wav_T, rate


def _split(piece: _Piece, key: str, rate: int) -> list[_Piece]:
    """Equal pieces of whole frames; a transcript of the whole belongs to none of them."""
    num_frames = -(-len(piece.wav_T) // FRAME_SAMPLES)
    num_pieces = -(-len(piece.wav_T) // (MAX_SEC * rate))
    borders = [FRAME_SAMPLES * (num_frames * number // num_pieces) for number in range(num_pieces)]
    cuts = zip(borders, [*borders[1:], len(piece.wav_T)], strict=True)
    return [_piece_of(piece, key, number, start, stop, rate) for number, (start, stop) in enumerate(cuts)]


def _piece_of(piece: _Piece, key: str, number: int, start: int, stop: int, rate: int) -> _Piece:
    """Times count from where the file began in its source; a file without a source is the source of its pieces."""
    began = piece.info.start_time or 0.0
    own = piece.info.source_video_id is None
    info = replace(
        piece.info,
        sample_id=f"{piece.info.sample_id}#{number}",
        source_video_id=key if own else piece.info.source_video_id,
        segment_order=number if own else None,
        start_time=began + start / rate,
        end_time=began + stop / rate,
    )
    return _Piece(info, piece.wav_T[start:stop], {})


def _encoded(found: Sequence[_Piece | BadSample], codec: Codec) -> Iterator[Sample]:
    codes = iter(codec.encode_batch([piece.wav_T for piece in found if isinstance(piece, _Piece)]))
    for piece in found:
        yield piece if isinstance(piece, BadSample) else SpeechSample(piece.info, next(codes), piece.transcripts)
