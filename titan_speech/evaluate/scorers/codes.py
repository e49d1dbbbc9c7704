"""What shows in the codes of a clip before it is decoded: repeats, loops, and whether the model stopped.

In: clips with codes, and whether the stop token came. Out: the measures of generate/measures.py, the same as in the
generation check of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from titan_speech.evaluate.clip import Clip, Score
from titan_speech.evaluate.scorers.base import Metric
from titan_speech.generate.measures import measure_codes

RULES = 1
METRICS = (
    Metric("stop_failure", "lower", "the limit came before the stop token"),
    Metric("repeats", "lower", "share of codes that equal the code before"),
    Metric("ngram_repeats", "lower", "share of 4-grams of codes that came before in the clip"),
    Metric("loop", "lower", "the clip ends in a cycle of at least a second"),
    Metric("code_entropy_bits", "", "entropy of the codes used"),
)
YES_OR_NO = frozenset({"stop_failure", "loop"})
"""Metrics that are 0 or 1 of each clip."""


class CodeScorer:
    """Measures of the codes."""

    name = "codes"
    metrics = METRICS
    version = f"rules {RULES}"

    def score(self, clips: Sequence[Clip]) -> list[dict[str, Score]]:
        """Scores of each clip."""
        return [_scores(clip) for clip in clips]

    def close(self) -> None:
        """Nothing to end."""


def _scores(clip: Clip) -> dict[str, Score]:
    stop = Score.missing("no model made it") if clip.stopped is None else Score(float(not clip.stopped))
    codes_F = clip.sound.codes_F
    if codes_F is None or not len(codes_F):
        found = {metric.name: Score.missing("no codes") for metric in METRICS}
    else:
        found = {name: Score(value) for name, value in asdict(measure_codes(codes_F)).items()}
    return found | {"stop_failure": stop}
