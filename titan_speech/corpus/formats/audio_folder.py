"""Audio files with transcripts, encoded on the way in.

In: folders or listings (audio_listing.py) and a codec. Out: samples of speech with the codec's codes; its name and hash
go into the manifest. Audio at another rate is resampled with soxr, channels are averaged. Clips longer than 40 s are
refused, or cut into equal pieces without transcripts. Unit: about an hour of audio.

The embedded codec takes 0.01 s a second of audio on one core; everything else here is small beside it. XCodec2 belongs
on a GPU: each process loads it, so use one worker a GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from titan_speech.codec import Codec, load_codec
from titan_speech.codec.checks import FRAME_SAMPLES, check_wav
from titan_speech.codec.wav import read_resampled
from titan_speech.corpus.format import ImportOptions, Unit
from titan_speech.corpus.formats.audio_listing import KEY, Clip, list_clips
from titan_speech.corpus.formats.columns import CODES, required_fields, speech_columns
from titan_speech.corpus.formats.records import UnfitError, describe
from titan_speech.corpus.samples import BadSample, Sample, SpeechSample
from titan_speech.errors import CodecError, DataError
from titan_speech.store.manifest import CodecInfo
from titan_speech.store.samples import SampleInfo

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


class AudioFolder:
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
