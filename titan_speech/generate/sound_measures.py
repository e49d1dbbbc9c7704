"""Measures of decoded speech that codes alone do not show: silence, range of pitch, rate of syllables.

In: a waveform. Out: one `SoundMeasures`, and means over several. Defined here once, for checks while training,
evaluation and rewards. They are made for comparison over the steps of one run and with its recordings, not for
phonetics: a flat voice has a small range of pitch, a model that rushes or mumbles another rate than its recordings.

Pitch is the highest peak of the normalized autocorrelation between 60 and 400 Hz in frames of 40 ms; a frame without a
peak above 0.5 is unvoiced. Syllables are peaks of the voiced intensity that stand 2 dB above the dips next to them.
Plain numpy; 5 s of sound take 8 ms of one core.

Shapes: T samples, F frames, W samples of a frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

FRAME_SEC, HOP_SEC = 0.04, 0.02
LOWEST_HZ, HIGHEST_HZ = 60.0, 400.0
MIN_PEAK = 0.5
"""Of the autocorrelation of a voiced frame."""
SILENT_RMS, SILENT_SHARE = 1e-3, 10 ** (-40 / 20)
"""-60 dBFS, or 40 dB below the loudest frame: whichever is higher."""
MIN_VOICED = 5
"""Frames for a range of pitch."""
DIP_DB = 2.0
MIN_PAUSE_SEC = 0.25
SMOOTHED_FRAMES = 5


@dataclass(frozen=True)
class SoundMeasures:
    """What one waveform is like; NaN where it has too little voice for a measure."""

    silence: float
    """Share of frames that are silent; 1 if all are."""
    f0_median_hz: float
    f0_range_semitones: float
    """From the 10th to the 90th percentile of voiced frames."""
    syllables_per_sec: float
    """Per second that is not silent."""


SOUND_NAMES = tuple(field.name for field in fields(SoundMeasures))


@dataclass(frozen=True)
class HeardMeasures(SoundMeasures):
    """What one waveform is like, and how like the voice that it ought to have."""

    similarity: float = math.nan
    """Cosine of speaker embeddings; NaN without an encoder, or where it finds no voice."""


SIMILARITY = "similarity"
HEARD_NAMES = (*SOUND_NAMES, SIMILARITY)


def measure_sound(wav_T: NDArray[np.floating], sample_rate: int) -> SoundMeasures:
    """Measures of one waveform.

    Args:
        wav_T: samples in [-1, 1].
        sample_rate: in Hz.
    """
    frame_FW = _frames(wav_T, sample_rate)
    rms_F, sounds_F = _loudness(frame_FW)
    f0_F = _pitch(frame_FW, sample_rate)
    f0_F[~sounds_F] = 0.0
    voiced = f0_F[f0_F > 0]
    is_enough = len(voiced) >= MIN_VOICED
    low, middle, high = np.percentile(voiced, (10, 50, 90)) if is_enough else (math.nan,) * 3
    sounding_sec = float(sounds_F.sum()) * HOP_SEC
    return SoundMeasures(
        silence=1.0 - float(sounds_F.mean()),
        f0_median_hz=float(middle),
        f0_range_semitones=float(12 * np.log2(high / low)) if is_enough else math.nan,
        syllables_per_sec=_num_syllables(rms_F, f0_F > 0) / sounding_sec if is_enough else math.nan,
    )


def pauses_sec(wav_T: NDArray[np.floating], sample_rate: int) -> list[float]:
    """How long each pause is: silence of `MIN_PAUSE_SEC` or more between sounds, not before or after all of them.

    Args:
        wav_T: samples in [-1, 1].
        sample_rate: in Hz.
    """
    _, sounds_F = _loudness(_frames(wav_T, sample_rate))
    at = np.flatnonzero(sounds_F)
    gaps = (np.diff(at) - 1) * HOP_SEC
    return [float(gap) for gap in gaps[gaps >= MIN_PAUSE_SEC]]


def _frames(wav_T: NDArray[np.floating], sample_rate: int) -> NDArray[np.float64]:
    size, hop = round(FRAME_SEC * sample_rate), round(HOP_SEC * sample_rate)
    if len(wav_T) < size:
        wav_T = np.pad(wav_T, (0, size - len(wav_T)))
    return np.lib.stride_tricks.sliding_window_view(np.asarray(wav_T, np.float64), size)[::hop]


def _loudness(frame_FW: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The rms of each frame, and whether it is more than silence."""
    rms_F = np.sqrt(np.mean(frame_FW**2, axis=1))
    return rms_F, rms_F > max(SILENT_RMS, SILENT_SHARE * float(rms_F.max()))


def _pitch(frame_FW: NDArray[np.float64], sample_rate: int) -> NDArray[np.float64]:
    """Pitch of each frame in Hz; 0 where it has none."""
    centred_FW = frame_FW - frame_FW.mean(axis=1, keepdims=True)
    size = centred_FW.shape[1]
    shortest, longest = int(sample_rate / HIGHEST_HZ), min(int(sample_rate / LOWEST_HZ), size - 2)
    power_FW = np.abs(np.fft.rfft(centred_FW, 2 * size)) ** 2
    sums_FW = np.fft.irfft(power_FW)[:, : longest + 2]
    # energies of the two halves that a lag compares, so that the peak of a periodic frame is 1 at any lag
    energy_FW = np.cumsum(centred_FW**2, axis=1)
    total_F = energy_FW[:, -1:]
    lags = np.arange(longest + 2)
    head_FW = energy_FW[:, size - 1 - lags]
    tail_FW = total_F - np.where(lags > 0, energy_FW[:, np.maximum(lags - 1, 0)], 0.0)
    likeness_FW = sums_FW / np.maximum(np.sqrt(head_FW * tail_FW), 1e-12)
    searched_FW = likeness_FW[:, shortest : longest + 1]
    is_peak_FW = (searched_FW >= likeness_FW[:, shortest - 1 : longest]) & (
        searched_FW >= likeness_FW[:, shortest + 1 : longest + 2]
    )
    peaks_FW = np.where(is_peak_FW, searched_FW, 0.0)
    best_F = peaks_FW.max(axis=1)
    # the shortest lag that is nearly as good: a multiple of the period is as good as the period
    lag_F = shortest + np.argmax(peaks_FW >= 0.9 * best_F[:, None], axis=1)
    return np.where(best_F > MIN_PEAK, sample_rate / lag_F, 0.0)


def _num_syllables(rms_F: NDArray[np.float64], is_voiced_F: NDArray[np.bool_]) -> int:
    """Voiced peaks of the smoothed intensity that stand `DIP_DB` above the dip before them and the one after."""
    level_F = 20 * np.log10(np.maximum(rms_F, 1e-6))
    padded_F = np.pad(level_F, SMOOTHED_FRAMES // 2, "edge")
    level_F = np.convolve(padded_F, np.ones(SMOOTHED_FRAMES) / SMOOTHED_FRAMES, "valid")
    count, dip, peak, peak_at = 0, level_F[0], -math.inf, 0
    for at, level in enumerate(level_F):
        if level > peak:
            peak, peak_at = level, at
        if level < peak - DIP_DB:
            if peak > dip + DIP_DB and is_voiced_F[peak_at]:
                count += 1
            dip, peak = level, level
        dip = min(dip, level)
    return count + int(peak > dip + DIP_DB and is_voiced_F[peak_at])


def sound_means(sounds: Sequence[SoundMeasures]) -> dict[str, float]:
    """The mean of each measure over those that have it; a measure that none has is absent."""
    found = {}
    for name in [field.name for field in fields(sounds[0])] if sounds else ():
        values = [value for sound in sounds if not math.isnan(value := getattr(sound, name))]
        if values:
            found[name] = float(np.mean(values))
    return found
