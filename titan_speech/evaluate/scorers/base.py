"""The interface of scorers, and running several over the same clips.

In: clips. Out: for each clip the scores of every metric, a value or a reason each. A failure on one clip is recorded in
that clip's score. An exception marks the scorer's metrics of all clips of the batch; the other scorers continue. A
model is asked only about sounds that exist, are not silent and not too long: models answer something to anything, and
Whisper writes "Thank you." into silence.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from titan_speech.errors import ModelError
from titan_speech.evaluate.clip import SAMPLE_RATE, Clip, Score, Scores, Sound
from titan_speech.evaluate.models.base import Answer, Failure
from titan_speech.evaluate.models.isolation import RunningModel
from titan_speech.utils.printable import one_line

logger = logging.getLogger(__name__)

MIN_SEC, MAX_SEC = 0.1, 120.0
SILENT_PEAK = 1e-3
"""-60 dBFS."""


class ScorersFailedError(ModelError):
    """A scorer gave no value to any clip that it could have scored: the scorer is at fault, not the clips."""


@dataclass(frozen=True)
class Metric:
    """One number per clip that a scorer gives."""

    name: str
    better: str
    """lower, higher, or "" where neither end is good (speech rate)."""
    about: str
    """One line for reports."""


class Scorer(Protocol):
    """Gives one or several metrics of each clip; one pass of a model may give several."""

    name: str
    metrics: tuple[Metric, ...]

    @property
    def version(self) -> str:
        """Changes with everything that values depend on: weights, settings, rules. Part of a result's key."""
        ...

    def score(self, clips: Sequence[Clip]) -> list[dict[str, Score]]:
        """Scores of each clip, in the order of the clips.

        Args:
            clips: with a waveform, codes or both; a scorer that misses what it needs gives a reason.

        Returns:
            For each clip a score of every metric of this scorer.
        """
        ...

    def close(self) -> None:
        """End processes and free memory; a closed scorer is not used again."""
        ...


def score_clips(clips: Sequence[Clip], scorers: Sequence[Scorer]) -> list[Scores]:
    """Run every scorer over all clips.

    Args:
        clips: what is scored.
        scorers: with different metrics.

    Returns:
        For each clip the scores of all metrics of all scorers.
    """
    found: list[dict[str, Score]] = [{} for _ in clips]
    for scorer in scorers:
        for merged, scores in zip(found, _score_or_mark(clips, scorer), strict=True):
            merged.update(scores)
    return list(found)


def check_scorers(clips: Sequence[Clip], scores: Sequence[Scores], scorers: Sequence[Scorer]) -> None:
    """Raise a ScorersFailedError where a scorer failed on all clips: such scores are no result of a model.

    Clips that no scorer can take (silent, too short, a voice that is) say nothing of a scorer.

    Args:
        clips: that were scored.
        scores: of each.
        scorers: that scored them.
    """
    usable = [
        found
        for clip, found in zip(clips, scores, strict=True)
        if not unusable(clip.sound) and not (clip.voice is not None and unusable(clip.voice))
    ]
    problems = []
    for scorer in scorers:
        failed = [found[metric.name] for found in usable for metric in scorer.metrics if metric.name in found]
        if failed and all(score.failed for score in failed):
            ((reason, _),) = Counter(score.reason for score in failed).most_common(1)
            problems.append(f"{scorer.name}: {reason}")
    if problems:
        raise ScorersFailedError(
            f"no clip of {len(usable):,} could be scored by {'; '.join(problems)}. Nothing is published; the generated "
            "codes are kept, and scored when the command runs again"
        )


def _score_or_mark(clips: Sequence[Clip], scorer: Scorer) -> list[dict[str, Score]]:
    try:
        return scorer.score(clips)
    except Exception as error:  # a scorer may be third-party code; the other scorers continue
        reason = f"{scorer.name} failed: {type(error).__name__}: {one_line(str(error))[:200]}"
        logger.warning(reason)
        return [{metric.name: Score.failure(reason) for metric in scorer.metrics} for _ in clips]


def versions_of(scorers: Sequence[Scorer]) -> Mapping[str, str]:
    """The version of each scorer by its name, for a result's key."""
    return {scorer.name: scorer.version for scorer in sorted(scorers, key=lambda one: one.name)}


def unusable(sound: Sound | None, max_sec: float = MAX_SEC) -> str:
    """Why a model cannot take a sound; "" if it can."""
    if sound is None or sound.wav_T is None:
        return f"no audio: {sound.problem}" if sound is not None and sound.problem else "no audio"
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
    """The answer of a model to each sound, or the reason why it is missing."""
    reasons = [unusable(sound) for sound in sounds]
    asked = [
        (sound.wav_T, language)
        for sound, language, reason in zip(sounds, languages, reasons, strict=True)
        if not reason and sound is not None and sound.wav_T is not None
    ]
    answers = iter(model(asked))
    return [Failure(reason) if reason else next(answers) for reason in reasons]
