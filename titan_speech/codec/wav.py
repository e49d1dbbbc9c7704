"""Audio files: 16-bit PCM wav in and out, other formats in, resampled if asked.

In: a sound file. Out: float32 samples at the codec's rate, or a wav file of them. Headers are read first: 200 kB of
FLAC can announce hours, so what is longer than `max_sec` is refused before it is decoded, and channels are averaged
block by block. Wav needs the standard library only; other formats (flac, ogg, opus, mp3, aiff) need soundfile and
another rate needs soxr, both of the `codec` extra. `read_audio` does not resample: a file at another rate is refused
with the command that converts it.

Shapes: wav_T samples, block_TC samples by channel.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from titan_speech.errors import CodecError

MAX_SEC = 3600.0
MAX_RATE_HZ = 768_000
MAX_FRAMES, ORDINARY_RATE_HZ = 3600 * 96_000, 48_000
"""1.4 GB of samples; more only where so many seconds at an ordinary rate were allowed."""
BLOCK_SAMPLES = 1 << 20
UNKNOWN_FRAMES = (1 << 63) - 1
"""What libsndfile says of a FLAC whose header leaves the number open."""


class TooLongError(CodecError):
    """Audio that is longer than what was asked for, by its header."""


def wav_bytes(wav_T: np.ndarray, sample_rate: int = 16_000) -> bytes:
    """A wav file, 16-bit mono; samples beyond [-1, 1] are clipped."""
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setparams((1, 2, sample_rate, 0, "NONE", ""))
        file.writeframes((np.clip(wav_T, -1.0, 1.0) * 32767).round().astype("<i2").tobytes())
    return content.getvalue()


def write_wav(path: Path | str, wav_T: np.ndarray, sample_rate: int = 16_000) -> None:
    """Write a wav file, 16-bit mono.

    Args:
        path: file to write; an existing one is replaced.
        wav_T: float32 samples; those beyond [-1, 1] are clipped.
        sample_rate: in Hz.
    """
    Path(path).write_bytes(wav_bytes(wav_T, sample_rate))


def read_audio(path: Path | str, sample_rate: int = 16_000, max_sec: float = MAX_SEC) -> np.ndarray:
    """Read an audio file that is at the wanted rate.

    Args:
        path: file to read.
        sample_rate: in Hz; a file at another rate is refused, not resampled.
        max_sec: longest audio by the header; of a longer file nothing is decoded.

    Returns:
        T samples, float32 in [-1, 1], channels averaged.

    Raises:
        CodecError: the file cannot be read, is longer than `max_sec`, or is at another rate.
    """
    wav_T, found = _read(Path(path), max_sec)
    if found != sample_rate:
        raise CodecError(
            f"{path} is at {found} Hz, expected {sample_rate} Hz. "
            f"Convert it: ffmpeg -i {Path(path).name} -ar {sample_rate} -ac 1 out.wav"
        )
    return wav_T


def read_resampled(path: Path | str, sample_rate: int = 16_000, max_sec: float = MAX_SEC) -> tuple[np.ndarray, int]:
    """The samples of a file, float32, channels averaged, resampled to `sample_rate`; and the file's own rate.

    Raises:
        TooLongError: its header announces more than `max_sec`; nothing was decoded.
        CodecError: the file cannot be read, or needs a library that is not installed.
    """
    wav_T, found = _read(Path(path), max_sec)
    if found == sample_rate or not len(wav_T):
        return wav_T, found
    try:
        import soxr
    except ImportError as error:
        raise CodecError(
            f"{path} is at {found} Hz; resampling needs soxr: pip install 'titan-speech[codec]'"
        ) from error
    return soxr.resample(wav_T, found, sample_rate, quality="VHQ").astype(np.float32), found


def _read(path: Path, max_sec: float) -> tuple[np.ndarray, int]:
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise CodecError(f"{path} is not a regular file; expected a recording")
    return _read_wav(path, max_sec) if path.suffix == ".wav" else _read_soundfile(path, max_sec)


def _read_wav(path: Path, max_sec: float) -> tuple[np.ndarray, int]:
    try:
        with wave.open(str(path), "rb") as file:
            if file.getsampwidth() == 2:
                return _read_pcm16(path, file, max_sec)
    except wave.Error as error:
        if "unknown format" not in str(error):  # float samples, which the standard library cannot read
            raise CodecError(f"cannot read {path} as wav: {error}") from error
    except (OSError, EOFError, RuntimeError) as error:  # RuntimeError: a chunk that ends beyond the file
        raise CodecError(f"cannot read {path} as wav: {str(error) or 'it ends too early'}") from error
    return _read_soundfile(path, max_sec)


def _read_pcm16(path: Path, file: wave.Wave_read, max_sec: float) -> tuple[np.ndarray, int]:
    channels, rate, num_frames = file.getnchannels(), file.getframerate(), file.getnframes()
    _check_header(path, num_frames, rate, max_sec)

    def read(count: int) -> np.ndarray:
        data = file.readframes(count)
        values = np.frombuffer(data, "<i2", len(data) // (2 * channels) * channels)  # a cut file may end in a frame
        return values.reshape(-1, channels).astype(np.float32) / 32768.0

    wav_T = _average_channels(read, num_frames, channels)
    if len(wav_T) != num_frames:
        raise CodecError(
            f"{path} ends too early: its header announces {num_frames / rate:.2f} s, it holds {len(wav_T) / rate:.2f} "
            "s; copy it again"
        )
    return wav_T, rate


def _read_soundfile(path: Path, max_sec: float) -> tuple[np.ndarray, int]:
    try:
        import soundfile
    except ImportError as error:
        raise CodecError(f"{path.suffix} files need soundfile: pip install 'titan-speech[codec]'") from error
    try:
        with soundfile.SoundFile(path) as file:
            rate, num_frames = int(file.samplerate), int(file.frames)
            if num_frames == UNKNOWN_FRAMES:
                raise CodecError(
                    f"{path} does not say in its header how long it is, as one that was written to a pipe; write it "
                    f"again: ffmpeg -i {path.name} {path.stem}.wav"
                )
            _check_header(path, num_frames, rate, max_sec)
            read = partial(file.read, dtype="float32", always_2d=True)
            return _average_channels(read, num_frames, file.channels), rate
    except (OSError, soundfile.LibsndfileError) as error:
        raise CodecError(
            f"cannot read {path}: {error} If it plays elsewhere, convert it: ffmpeg -i {path.name} {path.stem}.flac"
        ) from error


def _check_header(path: Path, num_frames: int, rate: int, max_sec: float) -> None:
    if not 0 < rate <= MAX_RATE_HZ:
        raise CodecError(f"{path} is at {rate} Hz, expected 1 to {MAX_RATE_HZ} Hz")
    if num_frames > max_sec * rate:
        raise TooLongError(f"{path} is {num_frames / rate:.1f} s long, more than {max_sec:g} s")
    if num_frames > max(MAX_FRAMES, max_sec * ORDINARY_RATE_HZ):
        raise CodecError(
            f"{path} is {num_frames / rate:.1f} s long at {rate:,} Hz: {num_frames:,} samples, more than "
            f"{MAX_FRAMES:,}; resample it: ffmpeg -i {path.name} -ar {ORDINARY_RATE_HZ} {path.stem}.flac"
        )


def _average_channels(read: Callable[[int], np.ndarray], num_frames: int, channels: int) -> np.ndarray:
    """The mean of the channels of up to `num_frames` frames; `read` returns the next block_TC."""
    wav_T, done = np.empty(num_frames, np.float32), 0
    while done < num_frames:
        block_TC = read(min(num_frames - done, max(1, BLOCK_SAMPLES // channels)))
        if not len(block_TC):
            break
        wav_T[done : done + len(block_TC)] = block_TC.mean(axis=1, dtype=np.float32)
        done += len(block_TC)
    return wav_T[:done]
