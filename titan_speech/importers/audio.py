"""Audio files with transcripts, encoded as they are imported.

In: folders or listings (audio_listing.py) and a codec. Out: samples of speech with the codec's codes; its name and hash
go into the manifest. Audio at another sampling rate is resampled with soxr, channels are averaged. Clips longer than
40 s are refused, or split into equal pieces without transcripts, up to `--max-sample-sec`; both by their headers,
before they are decoded. Silent ones are doubtful. A clip is a recording of its own, from 0 s to its end, unless the
listing names its source or times. Unit: about an hour of audio.

The embedded codec takes 0.01 s per second of audio on one core, everything else here is small compared with it. XCodec2
belongs on a GPU: each process loads it, so use one worker per GPU.

Shapes: T samples of audio.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from titan_speech.codec.base import FRAME_SAMPLES, Codec, check_wav
from titan_speech.codec.load import load_codec
from titan_speech.codec.wav import TooLongError, read_resampled
from titan_speech.errors import CodecError, DataError
from titan_speech.importers.audio_listing import AUDIO_SUFFIXES, AudioClip, list_clips
from titan_speech.importers.base import BadRecordError, BadSample, ImportOptions, Sample, SpeechSample, Unit
from titan_speech.importers.columns import (
    CODES,
    NO_COLUMN,
    SAMPLE_KEY,
    TEXT_COLUMNS,
    Columns,
    required_fields,
    speech_columns,
)
from titan_speech.importers.listing_formats import ID_COLUMNS, PATH_COLUMNS
from titan_speech.importers.records import read_metadata
from titan_speech.store.manifest import CodecInfo
from titan_speech.store.problems import Problem
from titan_speech.store.sample import TRANSCRIPT_VARIANTS, SampleInfo
from titan_speech.utils.progress import print_to_stderr
from titan_speech.utils.text_table import counted

MAX_CLIP_SEC = 40
UNIT_BYTES = 128 << 20
UNIT_CLIPS = 2048
BATCH_CLIPS = 32
SILENCE_DBFS = -60.0
"""Of the loudest 20 ms: quiet speech peaks some 20 dB above, the noise of a good room below."""
_DEFAULT_COLUMNS = {"sample_id": SAMPLE_KEY, "transcript_native": "txt"}
AUDIO = "audio"


@dataclass(frozen=True)
class _Piece:
    """What becomes one sample."""

    info: SampleInfo
    wav_T: np.ndarray
    transcripts: dict[str, str]


class AudioImporter:
    """`--from audio`."""

    def __init__(self, options: ImportOptions) -> None:
        _check_options(options)
        self._options = options
        named = {field: column for field, column in options.columns.items() if field != AUDIO}
        self._columns = speech_columns(replace(options, columns=named), _DEFAULT_COLUMNS)
        _load_codec_once(options.codec)
        needs_text = options.columns.get("transcript_native") != NO_COLUMN
        self._clips = {
            str(root): list_clips(root, options.columns.get(AUDIO), options.limits, options.files_from, needs_text)
            for root in options.inputs
        }
        for root, clips in self._clips.items():
            self._check_columns(root, clips)

    def _check_columns(self, root: str, clips: Sequence[AudioClip]) -> None:
        """Refuse columns that are missing or passed over, and report what the listing is read as."""
        known = list(dict.fromkeys(column for clip in clips for column in clip.columns))
        required = [field for field in required_fields(self._options) if field != CODES]
        self._columns.check_all(known, required, root)
        if clips[0].listing is None:
            _report_untranscribed(root, clips)
            return
        where = str(clips[0].listing)
        self._columns.check_transcripts(known, where, lambda name: [clip.columns.get(name) for clip in clips])
        text = _describe_listing(clips, known, self._columns, self._options.columns)
        num_unlisted = 0 if self._options.files_from else _num_unlisted(clips)
        if num_unlisted:
            text += f"; {num_unlisted:,} more in the same folders are not in it, and not read"
        print_to_stderr(f"{where}: {text}")

    def codec_info(self) -> CodecInfo:
        codec = _load_codec_once(self._options.codec)
        return CodecInfo(codec.name, codec.codec_hash, float(codec.frame_rate_hz))

    def units(self) -> list[Unit]:
        return [unit for root, clips in self._clips.items() for unit in _units(Path(root), clips)]

    def samples(self, unit: Unit) -> Iterator[Sample]:
        clips = self._clips[str(unit.path)][unit.start : unit.stop]
        codec = _load_codec_once(self._options.codec)
        for pieces in self._batches(clips, codec):
            codes = iter(codec.encode_batch([piece.wav_T for piece in pieces if isinstance(piece, _Piece)]))
            for piece in pieces:
                if isinstance(piece, BadSample):
                    yield piece
                else:
                    doubt = describe_silence(piece.wav_T)
                    yield SpeechSample(piece.info, next(codes), piece.transcripts, doubt=doubt)

    def _batches(self, clips: Sequence[AudioClip], codec: Codec) -> Iterator[list[_Piece | BadSample]]:
        """The pieces of up to `BATCH_CLIPS` clips, or of fewer long ones."""
        pieces: list[_Piece | BadSample] = []
        num_clips = num_samples = 0
        for clip in clips:
            added = self._pieces(clip, codec)
            pieces += added
            num_clips += 1
            num_samples += sum(len(piece.wav_T) for piece in added if isinstance(piece, _Piece))
            if num_clips == BATCH_CLIPS or num_samples >= BATCH_CLIPS * MAX_CLIP_SEC * codec.sample_rate:
                yield pieces
                pieces, num_clips, num_samples = [], 0, 0
        if pieces:
            yield pieces

    def _pieces(self, clip: AudioClip, codec: Codec) -> list[_Piece | BadSample]:
        """A clip, or the pieces of a long one."""
        try:
            info, transcripts = read_metadata(clip.columns, self._columns, self._options, clip.key)
            wav_T, rate = self._read_audio(clip.path, codec)
            piece = _Piece(replace(info, sample_rate=info.sample_rate or rate), wav_T, transcripts)
            duration_sec = len(wav_T) / codec.sample_rate
            if duration_sec <= MAX_CLIP_SEC:
                return [_with_times(piece, duration_sec)]
            return [*_split(piece, clip.key, codec.sample_rate)]
        except BadRecordError as error:
            return [BadSample(clip.key, error.problem)]

    def _read_audio(self, path: Path, codec: Codec) -> tuple[np.ndarray, int]:
        """The audio at the codec's rate, and the rate of the file in Hz."""
        is_split, max_sec = self._options.long_audio == "split", self._options.limits.max_sample_sec
        try:
            wav_T, rate = read_resampled(path, codec.sample_rate, max_sec if is_split else min(MAX_CLIP_SEC, max_sec))
            check_wav(wav_T)
        except TooLongError as error:
            hint = "allow it with --max-sample-sec" if is_split else "cut it without one: --long-audio split"
            raise BadRecordError("long", f"{error}: cut it with its transcript, or {hint}") from error
        except CodecError as error:
            raise BadRecordError("audio", str(error) if str(path) in str(error) else f"{path}: {error}") from error
        return wav_T, rate


def _check_options(options: ImportOptions) -> None:
    if options.codec is None:
        choices = "'embedded', a folder of XCodec2, or its name on the Hugging Face Hub"
        raise DataError(f"--from audio needs the codec that encodes: --codec with {choices}")
    if options.long_audio not in ("error", "split"):
        raise DataError(f"--long-audio {options.long_audio!r}: expected 'error' or 'split'")
    if CODES in options.columns:
        raise DataError(
            "--columns codes: audio has no codes yet; the column of the file's path is named by audio=COLUMN"
        )


def _report_untranscribed(root: str, clips: Sequence[AudioClip]) -> None:
    """In a folder without a listing, audio without a .txt file may be intended or a mistake."""
    num_without = sum("txt" not in clip.columns for clip in clips)
    if num_without:
        print_to_stderr(
            f"{root}: {num_without:,} of {len(clips):,} recordings have no .txt of the same name: speech without "
            "transcript"
        )


def _describe_listing(
    clips: Sequence[AudioClip], known: Sequence[str], columns: Columns, asked: Mapping[str, str]
) -> str:
    """How many recordings have transcripts, from which column, and which columns are not read."""
    native = {found for clip in clips if (found := columns.of("transcript_native", clip.columns))}
    spoken = [f"transcript_{variant}" for variant in TRANSCRIPT_VARIANTS]
    num_with = sum(any(columns.of(field, clip.columns) for field in spoken) for clip in clips)
    chosen = f" (column {', '.join(sorted(native))})" if native else ""
    text = f"{counted(len(clips), 'recording')}, {num_with:,} with a transcript{chosen}"
    other = [name for name in known if name in TEXT_COLUMNS and name not in columns.used(known)]
    if other and "transcript_native" not in asked:
        text += f"; also found: {', '.join(other)}, which --columns transcript_native={other[0]} would read instead"
    internal = {SAMPLE_KEY, "@folder", "@folder2", asked.get(AUDIO, ""), *PATH_COLUMNS, *ID_COLUMNS, *other}
    unread = [name for name in known if name not in columns.used(known) and name not in internal]
    return text + (f"; not read: {', '.join(unread)} (--columns FIELD=COLUMN)" if unread else "")


def _num_unlisted(clips: Sequence[AudioClip]) -> int:
    """How many recordings are in the folders of the listed ones, and are not listed."""
    listed = {os.path.normpath(clip.path) for clip in clips}
    found = set[str]()
    for folder in {os.path.dirname(path) for path in listed}:
        with suppress(OSError):  # a folder that may be read by name alone
            found |= {os.path.normpath(entry.path) for entry in os.scandir(folder or ".")}
    return sum(path.lower().endswith(AUDIO_SUFFIXES) for path in found - listed)


def describe_silence(wav_T: np.ndarray) -> Problem | None:
    """Why audio holds no speech; None for audio that may hold some."""
    frames_FT = wav_T[: len(wav_T) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
    loudest = float(np.sqrt(np.square(frames_FT, dtype=np.float64).mean(axis=1)).max())
    dbfs = 20 * math.log10(loudest) if loudest > 0 else -math.inf
    if dbfs >= SILENCE_DBFS:
        return None
    return Problem("silent", f"silent: its loudest 20 ms are at {dbfs:.0f} dBFS, expected {SILENCE_DBFS:g} or more")


def _with_times(piece: _Piece, duration_sec: float) -> _Piece:
    """A file without a known source is a recording of its own: its codes are checked against its duration."""
    info = piece.info
    if (info.source_video_id, info.start_time, info.end_time) != (None, None, None):
        return piece
    return replace(piece, info=replace(info, start_time=0.0, end_time=duration_sec))


@lru_cache(maxsize=1)
def _load_codec_once(name: str | None) -> Codec:
    """The codec, loaded once per process."""
    assert name is not None, "_check_options refuses a missing codec"
    return load_codec(name)


def _units(root: Path, clips: Sequence[AudioClip]) -> Iterator[Unit]:
    start, num_bytes = 0, 0
    for stop, clip in enumerate(clips, 1):
        num_bytes += clip.path.stat().st_size
        if num_bytes >= UNIT_BYTES or stop - start == UNIT_CLIPS or stop == len(clips):
            paths = tuple(dict.fromkeys(path for clip in clips[start:stop] for path in clip.files))
            yield Unit(f"{root.name}:{start}-{stop}", root, num_bytes, start, stop, paths)
            start, num_bytes = stop, 0


def _split(piece: _Piece, key: str, rate: int) -> Iterator[_Piece]:
    """Equal pieces of whole frames, without the transcript, which belongs to none of them.

    Times count from where the file began in its source; a file without a source becomes the source of its pieces.
    """
    num_frames = -(-len(piece.wav_T) // FRAME_SAMPLES)
    num_pieces = -(-len(piece.wav_T) // (MAX_CLIP_SEC * rate))
    borders = [FRAME_SAMPLES * (num_frames * number // num_pieces) for number in range(num_pieces)]
    begin_sec = piece.info.start_time or 0.0
    is_source = piece.info.source_video_id is None
    for number, (start, stop) in enumerate(zip(borders, [*borders[1:], len(piece.wav_T)], strict=True)):
        info = replace(
            piece.info,
            sample_id=f"{piece.info.sample_id}#{number}",
            source_video_id=key if is_source else piece.info.source_video_id,
            segment_order=number if is_source else None,
            start_time=begin_sec + start / rate,
            end_time=begin_sec + stop / rate,
        )
        yield _Piece(info, piece.wav_T[start:stop], {})
