"""In: a g722 file, or the wav bytes of a synthesiser. Out: 16 kHz mono float samples, silence at both ends
trimmed.

Shape: samples_T, float32 in [-1, 1].

The trim keeps 0.1 s of what lies before and after the first and last 10 ms frame within 45 dB of the
loudest one: soft onsets (f, h, s) survive, and 4 % of the human audio (pure silence, which a language model
would learn as a way to end) is removed.
"""

from __future__ import annotations

import subprocess
import wave
from pathlib import Path

import numpy as np

from titan_speech.errors import DataError

SAMPLE_RATE = 16_000
FRAME = SAMPLE_RATE // 100
THRESHOLD_DB = -45.0
MARGIN_FRAMES = 10


def decode_g722(path: Path) -> np.ndarray:
    return _ffmpeg(["-f", "g722", "-i", str(path)], b"", str(path))


def decode_wav_bytes(wav: bytes, what: str) -> np.ndarray:
    return _ffmpeg(["-f", "wav", "-i", "pipe:0"], wav, what)


def _ffmpeg(source: list[str], stdin: bytes, what: str) -> np.ndarray:
    output = ["-ar", str(SAMPLE_RATE), "-ac", "1", "-f", "s16le", "pipe:1"]
    command = ["ffmpeg", "-v", "error", "-threads", "1", *source, *output]
    result = subprocess.run(command, input=stdin, capture_output=True)
    if result.returncode != 0 or not result.stdout:
        raise DataError(f"ffmpeg gave no audio for {what}: {result.stderr.decode(errors='replace').strip()}")
    return np.frombuffer(result.stdout, dtype="<i2").astype(np.float32) / 32768.0


def trim_silence(samples_T: np.ndarray) -> np.ndarray:
    """Cut both ends to MARGIN_FRAMES around the part that is loud enough; silence alone gives an empty array."""
    frames = len(samples_T) // FRAME
    power = np.square(samples_T[: frames * FRAME].reshape(frames, FRAME)).mean(axis=1)
    if not frames or power.max() < 1e-7:
        return samples_T[:0]
    loud = np.flatnonzero(power > power.max() * 10 ** (THRESHOLD_DB / 10))
    start, stop = max(0, loud[0] - MARGIN_FRAMES), loud[-1] + 1 + MARGIN_FRAMES
    return samples_T[start * FRAME : stop * FRAME]


def wav_seconds(path: Path) -> float:
    with wave.open(str(path), "rb") as file:
        return file.getnframes() / file.getframerate()


def write_wav(path: Path, samples_T: np.ndarray) -> None:
    """Write through a temporary name: a wav that exists is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    with wave.open(str(temporary), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes((np.clip(samples_T, -1, 1) * 32767).round().astype("<i2").tobytes())
    temporary.replace(path)
