"""Waveforms that a model can take, and reasons for those that it cannot.

In: sounds of clips. Out: the answers of a model to those that are there, not silent and not too long; a reason for
every other. Models answer something to anything: Whisper writes "Thank you." into silence.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from titan_speech.evaluate.clip import SAMPLE_RATE, Sound
from titan_speech.evaluate.models.base import Answer, Failure
from titan_speech.evaluate.models.isolation import RunningModel

MIN_SEC, MAX_SEC = 0.1, 120.0
SILENT_PEAK = 1e-3
"""-60 dBFS."""


def unusable(sound: Sound | None, max_sec: float = MAX_SEC) -> str:
    """Why a model cannot take a sound; "" if it can."""
    if sound is None or sound.wav_T is None:
        return "no audio"
    wav_T = sound.wav_T
    if not np.isfinite(wav_T).all():
        return "samples that are not finite"
    duration_sec = len(wav_T) / SAMPLE_RATE
    if not MIN_SEC <= duration_sec <= max_sec:
        return f"{duration_sec:.2f} s long, expected {MIN_SEC:g} to {max_sec:g} s"
    return "silent" if float(np.abs(wav_T).max()) < SILENT_PEAK else ""


def says_nothing(sound: Sound) -> bool:
    """Whether a sound that is there has no word in it: it is silent, or shorter than any model takes."""
    if sound.wav_T is None or not np.isfinite(sound.wav_T).all():
        return False
    return len(sound.wav_T) < MIN_SEC * SAMPLE_RATE or float(np.abs(sound.wav_T).max()) < SILENT_PEAK


def ask(model: RunningModel, sounds: Sequence[Sound | None], languages: Sequence[str]) -> list[Answer | Failure]:
    """The answer of a model to each sound, or why there is none."""
    reasons = [unusable(sound) for sound in sounds]
    asked = [
        (sound.wav_T, language)
        for sound, language, reason in zip(sounds, languages, reasons, strict=True)
        if not reason and sound is not None and sound.wav_T is not None
    ]
    answers = iter(model(asked))
    return [Failure(reason) if reason else next(answers) for reason in reasons]
