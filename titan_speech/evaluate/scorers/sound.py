"""How a clip sounds without any model: duration, rate, pauses, pitch range, silence.

In: clips with audio; for the duration ratio the recording of the same text. Out: numbers by the definitions of
generate/sound_measures.py. They have no right value of their own: a model is compared with the recordings of its pack,
which are scored once as any other clips.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

import numpy as np

from titan_speech.evaluate.clip import SAMPLE_RATE, Clip, Score, Sound
from titan_speech.evaluate.scorers.base import Metric, unusable
from titan_speech.generate.sound_measures import measure_sound, pauses_sec
from titan_speech.tokenization.vocabulary import CODES_PER_SEC

RULES = 2
"""Increased whenever a definition changes."""
METRICS = (
    Metric("duration_ratio", "", "seconds per second of the recording of the same text"),
    Metric("chars_per_sec", "", "letters, marks and digits of the text per second that is not silent"),
    Metric("syllables_per_sec", "", "syllables heard per second that is not silent"),
    Metric("pause_share", "", "share of the time in pauses of 0.25 s or more between sounds"),
    Metric("longest_pause_sec", "", "longest pause between sounds"),
    Metric("f0_range_semitones", "", "from the 10th to the 90th percentile of pitch; small is monotonous"),
    Metric("silence", "", "share of silent frames, at the ends too"),
)


class SoundScorer:
    """Measures of the waveform."""

    name = "sound"
    metrics = METRICS
    version = f"rules {RULES}"

    def score(self, clips: Sequence[Clip]) -> list[dict[str, Score]]:
        """Scores of each clip."""
        return [_scores(clip) for clip in clips]

    def close(self) -> None:
        """Nothing to end."""


def _scores(clip: Clip) -> dict[str, Score]:
    reason = unusable(clip.sound)
    if reason and reason != "silent":
        return {metric.name: Score.failure(reason) for metric in METRICS}
    wav_T = clip.sound.wav_T
    assert wav_T is not None
    found, pauses, duration_sec = (
        measure_sound(wav_T, SAMPLE_RATE),
        pauses_sec(wav_T, SAMPLE_RATE),
        _seconds(clip.sound),
    )
    assert duration_sec is not None
    sounding_sec = duration_sec * (1 - found.silence)
    num_letters = sum(unicodedata.category(letter)[0] in "LMN" for letter in clip.text)
    recorded_sec = _seconds(clip.recording)
    return {
        "duration_ratio": Score(duration_sec / recorded_sec) if recorded_sec else _without_recording(clip),
        "chars_per_sec": _or_reason(
            num_letters / sounding_sec if num_letters and sounding_sec > 0 else math.nan, "no text, or silent"
        ),
        "syllables_per_sec": _or_reason(found.syllables_per_sec, "too little voice"),
        "pause_share": Score(sum(pauses) / duration_sec),
        "longest_pause_sec": Score(max(pauses, default=0.0)),
        "f0_range_semitones": _or_reason(found.f0_range_semitones, "too little voice"),
        "silence": Score(found.silence),
    }


def _seconds(sound: Sound | None) -> float | None:
    """Of the waveform, or else of the codes."""
    if sound is None or (sound.wav_T is None and sound.codes_F is None):
        return None
    return sound.duration_sec if sound.codes_F is None else len(np.asarray(sound.codes_F)) / CODES_PER_SEC


def _without_recording(clip: Clip) -> Score:
    if clip.recording is not None and clip.recording.problem:
        return Score.failure(f"the recording: {unusable(clip.recording)}")
    return Score.missing("no recording")


def _or_reason(value: float, reason: str) -> Score:
    return Score.missing(reason) if math.isnan(value) else Score(value)
