"""The interface of scorers, and running several over the same clips.

In: clips. Out: for each clip the scores of every metric, a value or a reason each. A scorer that fails on one clip says
so in that clip's score; what it raises anyway marks its metrics of the whole batch, and the other scorers go on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from titan_speech.evaluate.clip import Clip, Score, Scores
from titan_speech.utils.printable import one_line

logger = logging.getLogger(__name__)


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
        for merged, scores in zip(found, _of_one(clips, scorer), strict=True):
            merged.update(scores)
    return list(found)


def _of_one(clips: Sequence[Clip], scorer: Scorer) -> list[dict[str, Score]]:
    try:
        return scorer.score(clips)
    except Exception as error:  # a scorer is third-party code at heart; the other scorers go on
        reason = f"{scorer.name} failed: {type(error).__name__}: {one_line(str(error))[:200]}"
        logger.warning(reason)
        return [{metric.name: Score.failure(reason) for metric in scorer.metrics} for _ in clips]


def versions_of(scorers: Sequence[Scorer]) -> Mapping[str, str]:
    """The version of each scorer by its name, for a result's key."""
    return {scorer.name: scorer.version for scorer in sorted(scorers, key=lambda one: one.name)}
