"""Audio files with transcripts, encoded as they are imported.

In: folders or listings (audio_listing.py) and a codec. Out: samples of speech with the codec's codes; its name and hash
go into the manifest. Audio at another sampling rate is resampled with soxr, channels are averaged. Clips longer than
40 s are refused, or split into equal pieces without transcripts. Unit: about an hour of audio.

The embedded codec takes 0.01 s per second of audio on one core, everything else here is small compared with it. XCodec2
belongs on a GPU: each process loads it, so use one worker per GPU.

Shapes: T samples of audio.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from titan_speech.codec.base import FRAME_SAMPLES, Codec, check_wav
from titan_speech.codec.load import load_codec
from titan_speech.codec.wav import read_resampled
from titan_speech.errors import CodecError, DataError
from titan_speech.importers.audio_listing import KEY, Clip, list_clips
from titan_speech.importers.base import BadRecordError, BadSample, ImportOptions, Sample, SpeechSample, Unit
from titan_speech.importers.columns import CODES, required_fields, speech_columns
from titan_speech.importers.records import read_metadata
from titan_speech.store.manifest import CodecInfo
from titan_speech.store.sample import SampleInfo
from titan_speech.utils.progress import print_to_stderr

MAX_SEC = 40
UNIT_BYTES = 128 << 20
UNIT_CLIPS = 2048
BATCH_CLIPS = 32
DEFAULTS = {"sample_id": KEY, "transcript_native": "txt"}
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
        self._columns = speech_columns(replace(options, columns=named), DEFAULTS)
        _load_codec_once(options.codec)
        self._clips = {
            str(root): list_clips(root, options.columns.get(AUDIO), options.files_from) for root in options.inputs
        }
        for root, clips in self._clips.items():
            known = {column for clip in clips for column in clip.columns}
            self._columns.check_all(known, [field for field in required_fields(options) if field != CODES], root)
            _report_untranscribed(root, clips)

    def codec_info(self) -> CodecInfo:
        codec = _load_codec_once(self._options.codec)
        return CodecInfo(codec.name, codec.codec_hash, float(codec.frame_rate_hz))

    def units(self) -> list[Unit]:
        return [unit for root, clips in self._clips.items() for unit in _units(Path(root), clips)]

    def samples(self, unit: Unit) -> Iterator[Sample]:
        clips = self._clips[str(unit.path)][unit.start : unit.stop]
        codec = _load_codec_once(self._options.codec)
        for first in range(0, len(clips), BATCH_CLIPS):
            pieces = [piece for clip in clips[first : first + BATCH_CLIPS] for piece in self._pieces(clip, codec)]
            codes = iter(codec.encode_batch([piece.wav_T for piece in pieces if isinstance(piece, _Piece)]))
            for piece in pieces:
                if isinstance(piece, BadSample):
                    yield piece
                else:
                    yield SpeechSample(piece.info, next(codes), piece.transcripts)

    def _pieces(self, clip: Clip, codec: Codec) -> list[_Piece | BadSample]:
        """A clip, or the pieces of a long one."""
        try:
            info, transcripts = read_metadata(clip.columns, self._columns, self._options, clip.key)
            wav_T, rate = _read_audio(clip.path, codec)
            piece = _Piece(replace(info, sample_rate=info.sample_rate or rate), wav_T, transcripts)
            duration_sec = len(wav_T) / codec.sample_rate
            if duration_sec <= MAX_SEC:
                return [piece]
            if self._options.long_audio == "error":
                detail = f"{clip.path} is {duration_sec:.1f} s long, more than {MAX_SEC} s: cut it with its transcript"
                raise BadRecordError("long", f"{detail}, or cut it without one: --long-audio split")
            return [*_split(piece, clip.key, codec.sample_rate)]
        except BadRecordError as error:
            return [BadSample(clip.key, error.problem)]


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


def _report_untranscribed(root: str, clips: Sequence[Clip]) -> None:
    """In a folder without a listing, audio without a .txt file may be intended or a mistake."""
    num_without = sum(not clip.is_listed and "txt" not in clip.columns for clip in clips)
    if num_without:
        print_to_stderr(
            f"{root}: {num_without:,} of {len(clips):,} recordings have no .txt of the same name: speech without "
            "transcript"
        )


@lru_cache(maxsize=1)
def _load_codec_once(name: str | None) -> Codec:
    """The codec, loaded once per process."""
    assert name is not None, "_check_options refuses a missing codec"
    return load_codec(name)


def _units(root: Path, clips: Sequence[Clip]) -> Iterator[Unit]:
    start, num_bytes = 0, 0
    for stop, clip in enumerate(clips, 1):
        num_bytes += clip.path.stat().st_size
        if num_bytes >= UNIT_BYTES or stop - start == UNIT_CLIPS or stop == len(clips):
            paths = tuple(clip.path for clip in clips[start:stop])
            yield Unit(f"{root.name}:{start}-{stop}", root, num_bytes, start, stop, paths)
            start, num_bytes = stop, 0


def _read_audio(path: Path, codec: Codec) -> tuple[np.ndarray, int]:
    """The audio at the codec's rate, and the rate of the file in Hz."""
    try:
        wav_T, rate = read_resampled(path, codec.sample_rate)
        check_wav(wav_T)
    except CodecError as error:
        raise BadRecordError("audio", str(error) if str(path) in str(error) else f"{path}: {error}") from error
    return wav_T, rate


def _split(piece: _Piece, key: str, rate: int) -> Iterator[_Piece]:
    """Equal pieces of whole frames, without the transcript, which belongs to none of them.

    Times count from where the file began in its source; a file without a source becomes the source of its pieces.
    """
    num_frames = -(-len(piece.wav_T) // FRAME_SAMPLES)
    num_pieces = -(-len(piece.wav_T) // (MAX_SEC * rate))
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
