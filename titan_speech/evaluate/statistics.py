"""Whether one model is better than another: intervals, p-values and what a pack can tell apart at all.

In: results of one series (the same prompts, seeds, decoding and scorers). Out: means with intervals, and for a pair of
results the difference of each metric with its interval, p-value and size, corrected for the number of comparisons.

The prompt is the unit: clips of one prompt under several seeds are summed first, since they are not independent. Means
are ratios of sums (a word error rate is errors per words of all clips).

- Interval: bootstrap-t over prompts, which follows the skewness of error rates; in 400 simulated evaluations each of
  20, 60 and 200 prompts it covered the true rate in 94, 96 and 94 %, asked for 95. Where errors are rare it is too
  narrow: at 1 % of words, intervals of 20, 40 and 100 prompts covered it in 57, 79 and 94 % of 300 evaluations.
- Interval of what is 0 or 1 of each clip (`YES_OR_NO`): Wilson's, and of the difference of a pair Agresti and Min's
  (2005), by prompts. Bootstraps know nothing of failures that did not happen: at 10 % of 12 clips, bootstrap-t covered
  the true share in 34 % of cases, Wilson's in 97 %. Clips of one prompt under several seeds count as one, so the
  interval is rather too wide.
- p-value: permutation test that swaps the two models' clips of each prompt at random; exact if the models are equal.
- Effect: the difference over the standard deviation of the prompts' differences (Cohen's d for pairs).
- Detectable difference: what is found with the stated power in a test at the stated level; by the normal approximation.
- Several comparisons: Holm's correction, which keeps the chance of any false alarm at the level.

Shapes: N prompts, R resamplings.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from titan_speech.errors import DataError
from titan_speech.evaluate.result import Result, ScoredClip
from titan_speech.evaluate.scorers.codes import YES_OR_NO
from titan_speech.utils.text_table import counted

LEVEL, POWER = 0.05, 0.8
NUM_RESAMPLINGS, NUM_PERMUTATIONS = 2000, 9999
MIN_PROMPTS = 5
"""Fewer give neither an interval nor a p-value."""
_BLOCK = 1 << 22
_NORMAL = NormalDist()
_Z = _NORMAL.inv_cdf(1 - LEVEL / 2)


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
    mean: float | None
    low: float | None
    high: float | None
    detectable: float | None
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
    first: float | None
    second: float | None
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    p_corrected: float | None
    """By Holm, over all comparisons made together."""
    effect: float | None
    detectable: float | None
    """Smallest difference that this test finds with a power of 80 %."""

    @property
    def is_significant(self) -> bool:
        return self.p_corrected is not None and self.p_corrected < LEVEL


@dataclass(frozen=True)
class BestRule:
    """How the best of several checkpoints is chosen.

    The one with the best mean of `metric`, unless others cannot be told from it (corrected p-value not below
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
                _comparison(name, language, subset, clips, others.get((language, subset), []), seed) for name in names
            ]
    corrected = holm([one.p for one in found])
    return [replace(one, p_corrected=p) for one, p in zip(found, corrected, strict=True)]


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
    pairs = [_comparison(rule.metric, "", "*", clips[top], clips[i], seed) for i in others]
    corrected = holm([pair.p for pair in pairs])
    tied = sorted([top, *(i for i, p in zip(others, corrected, strict=True) if p is None or p >= LEVEL)])
    second = {i: _mean(some, rule.then) for i, some in _clips_of_all(results, tied, rule.then).items()}
    known = [i for i in second if second[i] is not None]
    sign = 1 if rule.then_lower_is_better else -1
    chosen = min(known, key=lambda i: (sign * (second[i] or 0.0), i)) if known else top
    why = (
        f"{rule}: {len(tied)} of {len(results)} not told apart from {rule.metric} = {means[top]:.4g} on "
        f"{counted(len(clips[top]), 'clip')} of {len(results[top].clips):,}"
    )
    if known:
        why += f", of these {rule.then} = {second[chosen]:.4g}"
    return results[chosen], why


def _clips_of_all(results: Sequence[Result], numbers: Iterable[int], metric: str) -> dict[int, list[ScoredClip]]:
    """By the number of each result that has the metric, its clips that all of these have a value of."""
    measured = {i: keys for i in numbers if (keys := {_place(clip) for clip in results[i].clips if _has(clip, metric)})}
    shared = set.intersection(*measured.values()) if measured else set()
    return {i: [clip for clip in results[i].clips if _place(clip) in shared] for i in measured}


def _place(clip: ScoredClip) -> tuple[str, int]:
    return clip.prompt_id, clip.seed


def _has(clip: ScoredClip, metric: str) -> bool:
    return metric in clip.scores and clip.scores[metric].value is not None


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


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's corrected p-values, in the order given; comparisons without one are not counted."""
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        corrected[i] = largest
    return corrected


def detectable_difference(deviation: float, num_prompts: int, level: float = LEVEL, power: float = POWER) -> float:
    """The smallest difference of means that a two-sided test finds with this power.

    Args:
        deviation: standard deviation of the prompts' differences.
        num_prompts: number of prompts.
        level: of the test.
        power: chance of finding the difference.
    """
    return (_NORMAL.inv_cdf(1 - level / 2) + _NORMAL.inv_cdf(power)) * deviation / math.sqrt(num_prompts)


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


Sums = NDArray[np.float64]
"""[N, 2]: sum of value times weight, and of weights, of each prompt."""


def _sums(clips: Iterable[ScoredClip], metric: str) -> dict[str, dict[int, tuple[float, float]]]:
    """Value times weight and weight of each clip that has one, by prompt and seed."""
    found: dict[str, dict[int, tuple[float, float]]] = defaultdict(dict)
    for clip in clips:
        score = clip.scores.get(metric)
        if score is not None and score.value is not None:
            found[clip.prompt_id][clip.seed] = (score.value * score.weight, score.weight)
    return found


def _mean(clips: Iterable[ScoredClip], metric: str) -> float | None:
    pairs = [pair for by_seed in _sums(clips, metric).values() for pair in by_seed.values()]
    weight = sum(pair[1] for pair in pairs)
    return sum(pair[0] for pair in pairs) / weight if weight else None


def _interval(metric: str, language: str, subset: str, clips: list[ScoredClip], seed: int) -> Interval:
    by_prompt = _sums(clips, metric)
    sums_N2 = np.array([np.sum(list(by_seed.values()), axis=0) for by_seed in by_prompt.values()]).reshape(-1, 2)
    num_values = sum(map(len, by_prompt.values()))
    mean = low = high = detectable = None
    if sums_N2[:, 1].sum() > 0:
        mean = float(sums_N2[:, 0].sum() / sums_N2[:, 1].sum())
    if mean is not None and len(sums_N2) >= MIN_PROMPTS:
        if metric in YES_OR_NO:
            low, high, deviation = _wilson(mean, len(sums_N2))
        else:
            low, high = _bootstrap_t(sums_N2, seed)
            if (sums_N2[:, 0] >= 0).all():
                low = max(low, 0.0)  # rates and shares; the method knows no bounds
            deviation = float(np.std(_influence(sums_N2), ddof=1))
        detectable = detectable_difference(math.sqrt(2) * deviation, len(sums_N2))
    return Interval(
        metric, language, subset, len(sums_N2), len(clips) - num_values, mean, low, high, detectable
    )  # fmt: skip


def _comparison(
    metric: str, language: str, subset: str, first: list[ScoredClip], second: list[ScoredClip], seed: int
) -> Comparison:
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
    means = low = high = p = effect = detectable = None
    if len(sums_N4) and sums_N4[:, 1].sum() > 0 and sums_N4[:, 3].sum() > 0:
        means = tuple(float(ratio) for ratio in (_ratios(sums_N4[:, :2].sum(0)), _ratios(sums_N4[:, 2:].sum(0))))
        if len(sums_N4) >= MIN_PROMPTS:
            p = _permutation_p(sums_N4, seed)
            if metric in YES_OR_NO:
                low, high, deviation = _agresti_min(_ratios(sums_N4[:, 2:]) - _ratios(sums_N4[:, :2]))
            else:
                low, high = _bootstrap_t(sums_N4, seed)
                deviation = float(np.std(_influence(sums_N4[:, 2:]) - _influence(sums_N4[:, :2]), ddof=1))
            effect = (means[1] - means[0]) / deviation if deviation > 0 else 0.0
            detectable = detectable_difference(deviation, len(sums_N4))
    one, two = means or (None, None)
    difference = None if one is None or two is None else two - one
    return Comparison(
        metric, language, subset, len(sums_N4), num_unpaired, one, two, difference, low, high, p, None, effect,
        detectable,
    )  # fmt: skip


def _ratios(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return sums[..., 0] / np.maximum(sums[..., 1], 1e-12)


def _influence(sums_N2: Sums) -> NDArray[np.float64]:
    """How far each prompt moves the mean, times the number of prompts; for equal weights its distance from the mean."""
    total = sums_N2.sum(0)
    return len(sums_N2) * (sums_N2[:, 0] - total[0] / total[1] * sums_N2[:, 1]) / total[1]


def _wilson(share: float, count: int) -> tuple[float, float, float]:
    """The ends of Wilson's interval of a share, and the standard deviation of a prompt at its middle."""
    middle = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    reach = _Z * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2)) / (1 + _Z**2 / count)
    return max(middle - reach, 0.0), min(middle + reach, 1.0), math.sqrt(middle * (1 - middle))


def _agresti_min(changes_N: NDArray[np.float64]) -> tuple[float, float, float]:
    """The same of the difference of two paired shares: half a prompt more for each of the four outcomes."""
    count = len(changes_N) + 2
    middle = float(changes_N.sum()) / count
    deviation = math.sqrt((float(np.abs(changes_N).sum()) + 1) / count - middle**2)
    reach = _Z * deviation / math.sqrt(count)
    return max(middle - reach, -1.0), min(middle + reach, 1.0), deviation


def _bootstrap_t(sums_NK: NDArray[np.float64], seed: int) -> tuple[float, float]:
    """The ends of the bootstrap-t interval of a ratio of sums (K = 2), or of the difference of two (K = 4)."""
    random = np.random.default_rng(seed)
    count = len(sums_NK)
    (estimate,), (error,) = _estimates_and_errors(sums_NK, np.ones((1, count)))
    if error <= 0:
        return float(estimate), float(estimate)
    studentized = []
    rows = max(1, _BLOCK // count)
    for start in range(0, NUM_RESAMPLINGS, rows):
        num_rows = min(rows, NUM_RESAMPLINGS - start)
        drawn = random.integers(0, count, (num_rows, count)) + count * np.arange(num_rows)[:, None]
        times_RN = np.bincount(drawn.ravel(), minlength=num_rows * count).reshape(num_rows, count)
        found_R, errors_R = _estimates_and_errors(sums_NK, times_RN.astype(np.float64))
        usable = errors_R > 1e-9 * error  # a resampling of equal prompts says nothing about its own error
        studentized.append((found_R[usable] - estimate) / errors_R[usable])
    low, high = np.quantile(np.concatenate(studentized), (1 - LEVEL / 2, LEVEL / 2))
    return float(estimate - low * error), float(estimate - high * error)


def _estimates_and_errors(
    sums_NK: NDArray[np.float64], times_RN: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The ratio, or the difference of two, where each prompt counts so many times; its standard error, linearized.

    What each prompt moves is squared by itself. From sums of products, prompts that are equal on both sides would have
    an error of rounding instead of none, which makes the ends of an interval huge.
    """
    totals_RK, estimates_R1, moved_RN = times_RN @ sums_NK, 0.0, 0.0
    for sign, side in [(1.0, 0)] if sums_NK.shape[1] == 2 else [(-1.0, 0), (1.0, 2)]:
        weights_R1 = np.maximum(totals_RK[:, side + 1 : side + 2], 1e-12)
        ratios_R1 = totals_RK[:, side : side + 1] / weights_R1
        estimates_R1 = estimates_R1 + sign * ratios_R1
        moved_RN = moved_RN + sign * (sums_NK[:, side] - ratios_R1 * sums_NK[:, side + 1]) / weights_R1
    return np.ravel(estimates_R1), np.sqrt(np.einsum("rn,rn,rn->r", times_RN, moved_RN, moved_RN))


def _permutation_p(sums_N4: NDArray[np.float64], seed: int) -> float:
    """Two-sided p-value of the difference of ratios, swapping the sides of each prompt at random."""
    random = np.random.default_rng(seed)
    observed = abs(float(_ratios(sums_N4[:, 2:].sum(0)) - _ratios(sums_N4[:, :2].sum(0))))
    change_N2, total_4 = sums_N4[:, 2:] - sums_N4[:, :2], sums_N4.sum(0)
    as_extreme, rows = 0, max(1, _BLOCK // len(sums_N4))
    for start in range(0, NUM_PERMUTATIONS, rows):
        swapped_RN = random.integers(0, 2, (min(rows, NUM_PERMUTATIONS - start), len(sums_N4)), np.int8)
        moved_R2 = swapped_RN.astype(np.float64) @ change_N2
        found_R = np.abs(_ratios(total_4[2:] - moved_R2) - _ratios(total_4[:2] + moved_R2))
        as_extreme += int((found_R >= observed - 1e-12).sum())
    return (1 + as_extreme) / (1 + NUM_PERMUTATIONS)
