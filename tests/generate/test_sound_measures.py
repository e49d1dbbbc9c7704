"""Measures of sound on signals whose pitch, syllables and silence are known, and on the bundled voices."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.support.runs import ROOT
from titan_speech.codec.load import load_codec
from titan_speech.generate.sound_measures import SoundMeasures, measure_sound, sound_means
from titan_speech.store.reader import open_store

RATE = 16_000
TIME_T = np.arange(4 * RATE) / RATE


def voice(f0_hz: np.ndarray | float) -> np.ndarray:
    """A buzz with falling harmonics at a pitch that may glide."""
    phase_T = 2 * np.pi * np.cumsum(np.broadcast_to(f0_hz, TIME_T.shape)) / RATE
    return np.sum([np.sin(k * phase_T) / k for k in range(1, 12)], axis=0) * 0.1


@pytest.mark.parametrize("f0_hz", [80.0, 120.0, 210.0, 350.0])
def test_a_steady_voice_has_its_pitch_and_no_range(f0_hz: float) -> None:
    found = measure_sound(voice(f0_hz), RATE)
    assert found.f0_median_hz == pytest.approx(f0_hz, rel=0.03)
    assert found.f0_range_semitones < 0.6
    assert found.silence == 0.0


def test_a_glide_over_an_octave_has_the_range_between_its_percentiles() -> None:
    found = measure_sound(voice(100.0 * 2 ** (TIME_T / 4)), RATE)
    assert found.f0_range_semitones == pytest.approx(0.8 * 12, abs=0.6)


@pytest.mark.parametrize("rate", [2.0, 4.0, 6.0])
def test_syllables_are_counted(rate: float) -> None:
    wav_T = voice(130.0) * (0.55 - 0.45 * np.cos(2 * np.pi * rate * TIME_T))
    assert measure_sound(wav_T, RATE).syllables_per_sec == pytest.approx(rate, rel=0.15)


def test_silence_and_noise_have_no_pitch() -> None:
    silent = measure_sound(np.zeros(RATE), RATE)
    assert silent.silence == 1.0
    assert math.isnan(silent.f0_range_semitones)
    noise = measure_sound(np.random.default_rng(0).normal(0, 0.1, RATE), RATE)
    assert math.isnan(noise.f0_range_semitones)
    assert measure_sound(np.zeros(3), RATE).silence == 1.0, "shorter than a frame"
    half = np.concatenate((voice(120.0), np.zeros_like(TIME_T)))
    assert measure_sound(half, RATE).silence == pytest.approx(0.5, abs=0.02)


def test_a_recorded_voice_is_within_what_speech_can_be() -> None:
    part = next(p for p in open_store(ROOT / "demo_data").parts if p.language == "en" and p.kind == "speech")
    number = int(np.argmax((part.code_len_N > 100) & (part.code_len_N < 250)))
    codec = load_codec("embedded")
    found = measure_sound(codec.decode(np.array(part.codes(number))), codec.sample_rate)
    assert 60 < found.f0_median_hz < 350
    assert 2 < found.f0_range_semitones < 24
    assert 1 < found.syllables_per_sec < 9


def test_means_leave_out_what_was_not_measured() -> None:
    nan = math.nan
    sounds = [SoundMeasures(0.0, 100.0, nan, 4.0), SoundMeasures(1.0, nan, nan, nan)]
    assert sound_means(sounds) == {"silence": 0.5, "f0_median_hz": 100.0, "syllables_per_sec": 4.0}
