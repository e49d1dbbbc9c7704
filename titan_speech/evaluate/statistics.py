"""Means of a result with intervals, and whether one model is better than another.

In: results of one series (the same prompts, seeds, decoding and scorers). Out: means with intervals, and for a pair of
results the difference of each metric with its interval, p-value and size, corrected for the number of comparisons.

The prompt is the unit: clips of one prompt under several seeds are summed first. Means are ratios of sums (a word error
rate is errors per words of all clips); confidence.py has the methods. The effect is the difference over the standard
deviation of the prompts' differences (Cohen's d for pairs).

Shapes: N prompts; 2 columns for one model, 4 for two (confidence.py).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from titan_speech.errors import DataError
from titan_speech.evaluate.confidence import (
    LEVEL,
    detectable_difference,
    holm,
    permutation_p,
    ratios,
    spread_of_difference,
    spread_of_mean,
)
from titan_speech.evaluate.result import Result, ScoredClip
from titan_speech.evaluate.scorers.measures import YES_OR_NO

MIN_PROMPTS = 5
"""Fewer give neither an interval nor a p-value."""


@dataclass(frozen=True)
class Interval:
    """The mean of a metric over the prompts of a group."""

    metric: str
    language: str
    """"" is all languages together."""
    subset: str
    """"*" is all subsets together."""
    num_prompts: int
    num_missing: int
    """Clips without a value."""
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    detectable: float | None = None
    """Smallest difference to another model that a test on these prompts finds with a power of 80 %, if the two models'
    errors on a prompt were independent; related errors make it smaller."""


@dataclass(frozen=True)
class Comparison:
    """One metric of two results of one series: second minus first."""

    metric: str
    language: str
    subset: str
    num_prompts: int
    num_unpaired: int
    """Clips that only one of the results has a value of; they are left out."""
    first: float | None = None
    second: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_corrected: float | None = None
    """By Holm, over all comparisons made together."""
    effect: float | None = None
    detectable: float | None = None
    """Smallest difference that this test finds with a power of 80 %."""

    @property
    def is_significant(self) -> bool:
        return self.p_corrected is not None and self.p_corrected < LEVEL


def intervals(result: Result, metrics: Sequence[str] = (), seed: int = 0) -> list[Interval]:
    """Means of a result: of every metric over all clips, by language, and by language and subset.

    Args:
        result: of one evaluation.
        metrics: which; all by default.
        seed: of the bootstrap.
    """
    found = []
    for metric in metrics or result.metrics:
        for language, subset, clips in _groups(result.clips):
            found.append(_interval(metric, language, subset, clips, seed))
    return found


def compare(
    first: Result, second: Result, metrics: Sequence[str] = (), seed: int = 0, *, by_subset: bool = False
) -> list[Comparison]:
    """Compare two results, paired by prompt and seed.

    Args:
        first, second: results of one series.
        metrics: which; those of both by default.
        seed: of bootstrap and permutations.
        by_subset: also by language and subset; more comparisons make each harder to win.

    Raises:
        DataError: the results are of different series.
    """
    check_series([first, second])
    names = metrics or [name for name in first.metrics if name in second.metrics]
    found = []
    others = {(language, subset): clips for language, subset, clips in _groups(second.clips)}
    for language, subset, clips in _groups(first.clips):
        if language and subset == "*" and len(clips) == len(first.clips):
            continue  # the one language is all languages; to test both would count each difference twice
        if by_subset or subset == "*":
            found += [
                compare_clips(name, language, subset, clips, others.get((language, subset), []), seed) for name in names
            ]
    corrected = holm([one.p for one in found])
    return [replace(one, p_corrected=p) for one, p in zip(found, corrected, strict=True)]


def check_series(results: Sequence[Result]) -> None:
    """Raise a DataError where results cannot be compared, with what differs."""
    keys = [result.key for result in results]
    for key in keys[1:]:
        if key.series != keys[0].series:
            differing = [
                f"{name} ({getattr(keys[0], name)!r} and {getattr(key, name)!r})"
                for name in ("pack", "decoding", "scorers")
                if getattr(keys[0], name) != getattr(key, name)
            ]
            raise DataError(
                f"the results are of different series and cannot be compared: they differ in {'; '.join(differing)}. "
                "Evaluate both with the same pack, decoding and scorers"
            )


def _groups(clips: Iterable[ScoredClip]) -> list[tuple[str, str, list[ScoredClip]]]:
    """All clips ("", "*"), those of each language (hi, "*") and of each subset of it; a group equal to the one above
    it is left out."""
    every = list(clips)
    groups = [("", "*", every)]
    by_language = defaultdict(list)
    for clip in every:
        by_language[clip.language].append(clip)
    for language, some in sorted(by_language.items()):
        groups.append((language, "*", some))
        subsets = sorted({clip.subset for clip in some})
        if len(subsets) > 1:
            groups += [(language, subset, [clip for clip in some if clip.subset == subset]) for subset in subsets]
    return groups


def _sums(clips: Iterable[ScoredClip], metric: str) -> dict[str, dict[int, tuple[float, float]]]:
    """Value times weight and weight of each clip that has one, by prompt and seed."""
    found: dict[str, dict[int, tuple[float, float]]] = defaultdict(dict)
    for clip in clips:
        score = clip.scores.get(metric)
        if score is not None and score.value is not None:
            found[clip.prompt_id][clip.seed] = (score.value * score.weight, score.weight)
    return found


def _interval(metric: str, language: str, subset: str, clips: list[ScoredClip], seed: int) -> Interval:
    by_prompt = _sums(clips, metric)
    sums_N2 = np.array([np.sum(list(by_seed.values()), axis=0) for by_seed in by_prompt.values()]).reshape(-1, 2)
    num_missing = len(clips) - sum(map(len, by_prompt.values()))
    found = Interval(metric, language, subset, len(sums_N2), num_missing)
    if sums_N2[:, 1].sum() <= 0:
        return found
    found = replace(found, mean=float(ratios(sums_N2.sum(0))))
    if len(sums_N2) < MIN_PROMPTS:
        return found
    low, high, deviation = spread_of_mean(sums_N2, seed, is_yes_or_no=metric in YES_OR_NO)
    detectable = detectable_difference(math.sqrt(2) * deviation, len(sums_N2))
    return replace(found, low=low, high=high, detectable=detectable)


def compare_clips(
    metric: str, language: str, subset: str, first: list[ScoredClip], second: list[ScoredClip], seed: int
) -> Comparison:
    """Compare two groups of clips in one metric, paired by prompt and seed; the p-value is not corrected.

    Args:
        metric, language, subset: of the comparison.
        first, second: clips of the two results.
        seed: of bootstrap and permutations.
    """
    before, after = _sums(first, metric), _sums(second, metric)
    rows, num_paired = [], 0
    for prompt in before:
        seeds = before[prompt].keys() & after.get(prompt, {}).keys()
        if seeds:
            num_paired += len(seeds)
            sides = (np.sum([side[prompt][one] for one in seeds], axis=0) for side in (before, after))
            rows.append(np.concatenate(list(sides)))
    sums_N4 = np.array(rows).reshape(-1, 4)
    num_unpaired = sum(map(len, before.values())) + sum(map(len, after.values())) - 2 * num_paired
    found = Comparison(metric, language, subset, len(sums_N4), num_unpaired)
    if sums_N4[:, 1].sum() <= 0 or sums_N4[:, 3].sum() <= 0:
        return found
    one, two = float(ratios(sums_N4[:, :2].sum(0))), float(ratios(sums_N4[:, 2:].sum(0)))
    found = replace(found, first=one, second=two, difference=two - one)
    if len(sums_N4) < MIN_PROMPTS:
        return found
    low, high, deviation = spread_of_difference(sums_N4, seed, is_yes_or_no=metric in YES_OR_NO)
    return replace(
        found,
        low=low,
        high=high,
        p=permutation_p(sums_N4, seed),
        effect=(two - one) / deviation if deviation > 0 else 0.0,
        detectable=detectable_difference(deviation, len(sums_N4)),
    )
