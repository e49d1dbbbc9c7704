"""Predicted opinion scores, from 1 to 5: DNSMOS, or another predictor that the user names.

In: clips and a predictor (models/opinions.py). Out: its overall number under its name, and its other numbers under
names of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from titan_speech.evaluate.clip import Clip, Score
from titan_speech.evaluate.models.base import Answer, Failure
from titan_speech.evaluate.models.isolation import RunningModel
from titan_speech.evaluate.models.opinions import DNSMOS
from titan_speech.evaluate.scorers.base import Metric, ask

_PARTS = {"_signal": "distortion of the speech", "_noise": "background noise"}


class OpinionScorer:
    """One predictor."""

    def __init__(self, predictor: RunningModel) -> None:
        self.predictor, self.name = predictor, predictor.model.name
        parts = _PARTS if self.name == DNSMOS else {}
        self.metrics = (
            Metric(self.name, "higher", "predicted opinion score, 1 to 5"),
            *(Metric(self.name + part, "higher", about) for part, about in parts.items()),
        )

    @property
    def version(self) -> str:
        return self.predictor.model.version

    def score(self, clips: Sequence[Clip]) -> list[dict[str, Score]]:
        """Scores of each clip."""
        answers = ask(self.predictor, [clip.sound for clip in clips], [clip.language for clip in clips])
        return [{metric.name: self._score(answer, metric.name) for metric in self.metrics} for answer in answers]

    def _score(self, answer: Answer | Failure, metric: str) -> Score:
        if isinstance(answer, Failure):
            return Score.failure(answer.reason)
        value = answer.get(metric.removeprefix(self.name), math.nan)
        return Score(value) if math.isfinite(value) else Score.failure("the predictor gave no number")

    def close(self) -> None:
        """End the predictor's process."""
        self.predictor.close()
