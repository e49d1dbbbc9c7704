"""Which of several checkpoints is the best.

In: results of one series and a rule. Out: one of the results, and why. A checkpoint that a test cannot tell from the
one with the best mean of the first metric is as good as it, and the second metric decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from titan_speech.errors import DataError
from titan_speech.evaluate.clip import mean
from titan_speech.evaluate.confidence import LEVEL, holm
from titan_speech.evaluate.result import Result, ScoredClip
from titan_speech.evaluate.statistics import check_series, compare_clips
from titan_speech.utils.text_table import counted


@dataclass(frozen=True)
class BestRule:
    """How the best of several checkpoints is chosen.

    The one with the best mean of `metric`, unless others cannot be distinguished from it (corrected p-value not below
    `LEVEL`): then the one of these with the best mean of `then`; of equal ones the first. Means are of the clips that
    all of them have a value of: a model that was not measured where it is bad is not the best for it.
    """

    metric: str = "cer"
    lower_is_better: bool = True
    then: str = "similarity"
    then_lower_is_better: bool = False

    def __str__(self) -> str:
        ends = {True: "lowest", False: "highest"}
        return (
            f"{ends[self.lower_is_better]} {self.metric}; among those that a paired test cannot tell from it at "
            f"p < {LEVEL:g} (Holm), {ends[self.then_lower_is_better]} {self.then}"
        )


def best(results: Sequence[Result], rule: BestRule = BestRule(), seed: int = 0) -> tuple[Result, str]:
    """The best of several results of one series, and why it was chosen.

    Raises:
        DataError: the results are of different series, none has the metric, or those that have it share no clip.
    """
    check_series(results)
    clips = _clips_of_all(results, range(len(results)), rule.metric)
    means = {i: _mean(some, rule.metric) for i, some in clips.items()}
    if not means:
        raise DataError(f"none of {len(results)} results has a value of {rule.metric}; choose another metric")
    if None in means.values():
        raise DataError(
            f"no clip has a value of {rule.metric} in each of {len(means)} results; leave out those with many failures"
        )
    sign = 1 if rule.lower_is_better else -1
    top = min(means, key=lambda i: (sign * (means[i] or 0.0), i))
    others = [i for i in means if i != top]
    pairs = [compare_clips(rule.metric, "", "*", clips[top], clips[i], seed) for i in others]
    corrected = holm([pair.p for pair in pairs])
    tied = sorted([top, *(i for i, p in zip(others, corrected, strict=True) if p is None or p >= LEVEL)])
    second = {i: _mean(some, rule.then) for i, some in _clips_of_all(results, tied, rule.then).items()}
    known = [i for i in second if second[i] is not None]
    sign = 1 if rule.then_lower_is_better else -1
    chosen = min(known, key=lambda i: (sign * (second[i] or 0.0), i)) if known else top
    why = (
        f"{rule}: {len(tied)} of {len(results)} not significantly different from {rule.metric} = {means[top]:.4g} on "
        f"{counted(len(clips[top]), 'clip')} of {len(results[top].clips):,}"
    )
    if known:
        why += f", of these {rule.then} = {second[chosen]:.4g}"
    return results[chosen], why


def _clips_of_all(results: Sequence[Result], numbers: Iterable[int], metric: str) -> dict[int, list[ScoredClip]]:
    """By the number of each result that has the metric, its clips that all of these have a value of."""
    measured = {}
    for i in numbers:
        clips = {(clip.prompt_id, clip.seed): clip for clip in results[i].clips if clip.value(metric) is not None}
        if clips:
            measured[i] = clips
    shared = set.intersection(*map(set, measured.values())) if measured else set()
    return {i: [clip for place, clip in clips.items() if place in shared] for i, clips in measured.items()}


def _mean(clips: Iterable[ScoredClip], metric: str) -> float | None:
    return mean([clip.scores[metric] for clip in clips])
