"""Audio files: 16-bit PCM wav in and out, other formats in, resampled if asked.

In: a sound file. Out: float32 samples at the codec's rate, or a wav file of them. Wav needs the standard library only;
other formats (flac, ogg, opus, mp3, aiff) need soundfile and another rate needs soxr, both of the `codec` extra.
`read_audio` does not resample: a file at another rate is refused with the command that converts it.

Shapes: wav_T samples, samples_TC samples by channel.
"""

from __future__ import annotations

import io
import wave
from pathlib import Path

import numpy as np

from titan_speech.errors import CodecError


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


def read_audio(path: Path | str, sample_rate: int = 16_000) -> np.ndarray:
    """Read an audio file that is at the wanted rate.

    Args:
        path: file to read.
        sample_rate: in Hz; a file at another rate is refused, not resampled.

    Returns:
        T samples, float32 in [-1, 1], channels averaged.

    Raises:
        CodecError: the file cannot be read, or is at another rate.
    """
    samples_TC, found = _read(Path(path))
    if found != sample_rate:
        raise CodecError(
            f"{path} is at {found} Hz, expected {sample_rate} Hz. "
            f"Convert it: ffmpeg -i {Path(path).name} -ar {sample_rate} -ac 1 out.wav"
        )
    return samples_TC.mean(axis=1, dtype=np.float32)


def read_resampled(path: Path | str, sample_rate: int = 16_000) -> tuple[np.ndarray, int]:
    """The samples of a file, float32, channels averaged, resampled to `sample_rate`; and the file's own rate.

    Raises:
        CodecError: the file cannot be read, or needs a library that is not installed.
    """
    samples_TC, found = _read(Path(path))
    wav_T = samples_TC.mean(axis=1, dtype=np.float32)
    if found == sample_rate or not len(wav_T):
        return wav_T, found
    try:
        import soxr
    except ImportError as error:
        raise CodecError(
            f"{path} is at {found} Hz; resampling needs soxr: pip install 'titan-speech[codec]'"
        ) from error
    return soxr.resample(wav_T, found, sample_rate, quality="VHQ").astype(np.float32), found


def _read(path: Path) -> tuple[np.ndarray, int]:
    return _read_pcm16(path) if path.suffix == ".wav" else _read_soundfile(path)


def _read_pcm16(path: Path) -> tuple[np.ndarray, int]:
    try:
        with wave.open(str(path), "rb") as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            num_frames, data = file.getnframes(), file.readframes(file.getnframes())
    except wave.Error as error:
        if "unknown format" in str(error):  # float samples, which the standard library cannot read
            return _read_soundfile(path)
        raise CodecError(f"cannot read {path} as wav: {error}") from error
    except (OSError, EOFError, RuntimeError) as error:  # RuntimeError: a chunk that ends after its file
        raise CodecError(f"cannot read {path} as wav: {str(error) or 'it ends too early'}") from error
    if len(data) != num_frames * channels * width:
        raise CodecError(
            f"{path} ends too early: its header announces {num_frames / rate:.2f} s, it holds "
            f"{len(data) / (channels * width * rate):.2f} s; copy it again"
        )
    if width != 2:
        return _read_soundfile(path)
    return np.frombuffer(data, dtype="<i2").reshape(-1, channels).astype(np.float32) / 32768.0, rate


def _read_soundfile(path: Path) -> tuple[np.ndarray, int]:
    try:
        import soundfile
    except ImportError as error:
        raise CodecError(f"{path.suffix} files need soundfile: pip install 'titan-speech[codec]'") from error
    try:
        samples_TC, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.LibsndfileError) as error:
        raise CodecError(
            f"cannot read {path}: {error} If it plays elsewhere, convert it: ffmpeg -i {path.name} {path.stem}.flac"
        ) from error
    return samples_TC, int(rate)
