"""What is measured of a clip without any model: its codes and its waveform.

In: clips with codes, with audio or both; whether the stop token came; for the duration ratio the recording of the same
text. Out: numbers by the definitions of generate/measures.py, the same as in the generation check of training, and of
generate/sound_measures.py. Those of the waveform have no right value of their own: a model is compared with the
recordings of its pack, which are scored once as any other clips.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict

from titan_speech.evaluate.clip import SAMPLE_RATE, Clip, Score, Sound
from titan_speech.evaluate.scorers.base import Metric, unusable
from titan_speech.generate.measures import measure_codes
from titan_speech.generate.sound_measures import measure_sound, pauses_sec
from titan_speech.tokenization.vocabulary import CODES_PER_SEC

CODE_RULES, SOUND_RULES = 1, 2
"""Increased whenever a definition changes."""
CODE_METRICS = (
    Metric("stop_failure", "lower", "the limit came before the stop token"),
    Metric("repeats", "lower", "share of codes that equal the code before"),
    Metric("ngram_repeats", "lower", "share of 4-grams of codes that came before in the clip"),
    Metric("loop", "lower", "the clip ends in a cycle of at least a second"),
    Metric("code_entropy_bits", "", "entropy of the codes used"),
)
YES_OR_NO = frozenset({"stop_failure", "loop"})
"""Metrics that are 0 or 1 of each clip."""
SOUND_METRICS = (
    Metric("duration_ratio", "", "seconds per second of the recording of the same text"),
    Metric("chars_per_sec", "", "letters, marks and digits of the text per second that is not silent"),
    Metric("syllables_per_sec", "", "syllables heard per second that is not silent"),
    Metric("pause_share", "", "share of the time in pauses of 0.25 s or more between sounds"),
    Metric("longest_pause_sec", "", "longest pause between sounds"),
    Metric("f0_range_semitones", "", "from the 10th to the 90th percentile of pitch; small is monotonous"),
    Metric("silence", "", "share of silent frames, at the ends too"),
)


class CodeScorer:
    """What shows in the codes before they are decoded: repeats, loops, and whether the model stopped."""

    name = "codes"
    metrics = CODE_METRICS
    version = f"rules {CODE_RULES}"

    def score(self, clips: Sequence[Clip]) -> list[dict[str, Score]]:
        """Scores of each clip."""
        return [_code_scores(clip) for clip in clips]

    def close(self) -> None:
        """Nothing to end."""


class SoundScorer:
    """How a clip sounds: duration, rate, pauses, pitch range, silence."""

    name = "sound"
    metrics = SOUND_METRICS
    version = f"rules {SOUND_RULES}"

    def score(self, clips: Sequence[Clip]) -> list[dict[str, Score]]:
        """Scores of each clip."""
        return [_sound_scores(clip) for clip in clips]

    def close(self) -> None:
        """Nothing to end."""


def _code_scores(clip: Clip) -> dict[str, Score]:
    stop = Score.missing("no model made it") if clip.stopped is None else Score(float(not clip.stopped))
    codes_F = clip.sound.codes_F
    if codes_F is None or not len(codes_F):
        found = {metric.name: Score.missing("no codes") for metric in CODE_METRICS}
    else:
        found = {name: Score(value) for name, value in asdict(measure_codes(codes_F)).items()}
    return found | {"stop_failure": stop}


def _sound_scores(clip: Clip) -> dict[str, Score]:
    reason = unusable(clip.sound)
    if reason and reason != "silent":
        return {metric.name: Score.failure(reason) for metric in SOUND_METRICS}
    wav_T, duration_sec = clip.sound.wav_T, _seconds(clip.sound)
    assert wav_T is not None
    assert duration_sec is not None
    found, pauses = measure_sound(wav_T, SAMPLE_RATE), pauses_sec(wav_T, SAMPLE_RATE)
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
    return sound.duration_sec if sound.codes_F is None else len(sound.codes_F) / CODES_PER_SEC


def _without_recording(clip: Clip) -> Score:
    if clip.recording is not None and clip.recording.problem:
        return Score.failure(f"the recording: {unusable(clip.recording)}")
    return Score.missing("no recording")


def _or_reason(value: float, reason: str) -> Score:
    return Score.missing(reason) if math.isnan(value) else Score(value)
