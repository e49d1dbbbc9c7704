"""Intervals cover what they promise, equal models raise no alarm, and what is detectable is detected."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from titan_speech.errors import DataError
from titan_speech.evaluate import confidence
from titan_speech.evaluate.best_checkpoint import BestRule, best
from titan_speech.evaluate.clip import Score
from titan_speech.evaluate.confidence import detectable_difference, holm
from titan_speech.evaluate.result import Result, ResultKey, ScoredClip, read_result
from titan_speech.evaluate.statistics import MIN_PROMPTS, compare, intervals

KEY = ResultKey("model", "pack", {"temperature": 0.8}, {"words": "1"})


def result(values: dict[str, list[float]], weights: list[float] | None = None, language: str = "en") -> Result:
    """One prompt per place of the lists, one metric per entry."""
    names = list(values)
    clips = [
        ScoredClip(
            f"p{i}",
            language,
            "",
            0,
            {name: Score(values[name][i], weights[i] if weights else 1.0) for name in names},
        )
        for i in range(len(values[names[0]]))
    ]
    return Result(KEY, tuple(clips))


def error_rates(random: np.random.Generator, count: int, rate: float) -> tuple[list[float], list[float]]:
    """Errors per word of `count` prompts of 3 to 20 words; skewed, as error rates are."""
    words = random.integers(3, 20, count)
    difficulty = random.gamma(1.0, rate, count).clip(0, 1)
    errors = random.binomial(words, difficulty)
    return (errors / words).tolist(), words.astype(float).tolist()


@pytest.mark.parametrize("count", [20, 60, 200])
def test_the_interval_covers_the_true_value_as_often_as_it_says(count: int) -> None:
    truth = float(np.random.default_rng(1).gamma(1.0, 0.1, 1_000_000).clip(0, 1).mean())
    covered, trials = 0, 80
    for trial in range(trials):
        values, weights = error_rates(np.random.default_rng(100 + trial), count, 0.1)
        found = intervals(result({"wer": values}, weights), seed=trial)[0]
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= truth <= found.high
    assert 0.85 <= covered / trials < 1


@pytest.mark.parametrize(("count", "share"), [(12, 0.02), (12, 0.1), (40, 0.05)])
def test_shares_of_clips_that_fail_and_their_differences_are_covered(count: int, share: float) -> None:
    covered, trials = np.zeros(2), 80
    for trial in range(trials):
        random = np.random.default_rng(trial)
        first, second = (result({"stop_failure": (random.random(count) < share).astype(float).tolist()}) for _ in "ab")
        one, pair = intervals(first)[0], compare(first, second)[0]
        assert one.low is not None
        assert one.high is not None
        assert pair.low is not None
        assert pair.high is not None
        covered += [one.low <= share <= one.high, pair.low <= 0 <= pair.high]
    assert (covered / trials >= 0.9).all()


def test_no_failure_of_few_clips_does_not_say_that_none_can_happen() -> None:
    none = result({"loop": [0.0] * 12})
    one, pair = intervals(none)[0], compare(none, none)[0]
    assert one.mean == one.low == 0
    assert one.high == pytest.approx(0.2425, abs=1e-4), "Wilson's for 0 of 12"
    assert pair.difference == 0
    assert pair.high == pytest.approx(-(pair.low or 0))
    assert pair.high is not None
    assert pair.high > 0.1
    assert pair.detectable is not None
    assert pair.detectable > 0.1


def test_the_interval_of_a_rate_does_not_go_below_zero_and_that_of_others_does() -> None:
    rare = [0.0] * 18 + [0.1, 0.3]
    low, centred = (intervals(result({"x": values}))[0].low for values in (rare, [value - 0.02 for value in rare]))
    assert low == 0
    assert centred is not None
    assert centred < -0.02


@pytest.mark.parametrize("rate", [0.02, 0.1])
def test_a_difference_of_one_prompt_has_an_interval_of_its_size(rate: float) -> None:
    values, weights = error_rates(np.random.default_rng(0), 32, rate)
    other = [*values[:-1], values[-1] + 1 / weights[-1]]
    pair = compare(result({"wer": values}, weights), result({"wer": other}, weights))[0]
    assert pair.difference == pytest.approx(1 / sum(weights))
    assert pair.difference is not None
    assert pair.low is not None
    assert pair.high is not None
    assert pair.low <= pair.difference <= pair.high < 2 * pair.difference


def test_equal_models_are_told_apart_no_more_often_than_the_level() -> None:
    alarms, trials = 0, 60
    for trial in range(trials):
        random = np.random.default_rng(trial)
        words = random.integers(3, 20, 40)
        difficulty = random.gamma(1.0, 0.1, 40).clip(0, 1)
        sides = [result({"wer": (random.binomial(words, difficulty) / words).tolist()}, words.tolist()) for _ in "ab"]
        alarms += compare(sides[0], sides[1], seed=trial)[0].is_significant
    assert alarms / trials <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)


def test_a_difference_of_the_detectable_size_is_found_in_four_cases_of_five() -> None:
    size, found, trials = detectable_difference(1.0, 50), 0, 60
    for trial in range(trials):
        random = np.random.default_rng(trial)
        difficulty = random.normal(0, 3, 50)
        first = result({"mos": difficulty.tolist()})
        second = result({"mos": (difficulty + random.normal(size, 1.0, 50)).tolist()})
        found += compare(first, second, seed=trial)[0].is_significant
    assert 0.64 <= found / trials <= 0.95


def test_pairing_finds_what_unpaired_means_would_not() -> None:
    random = np.random.default_rng(0)
    difficulty = random.normal(3, 1.0, 40)
    first, second = result({"mos": difficulty.tolist()}), result({"mos": (difficulty + 0.05).tolist()})
    one = intervals(first)[0]
    pair = compare(first, second)[0]
    assert one.detectable is not None
    assert pair.difference == pytest.approx(0.05)
    assert one.detectable > 0.3
    assert pair.is_significant


def test_many_metrics_of_equal_models_raise_hardly_any_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confidence, "NUM_PERMUTATIONS", 1999)
    monkeypatch.setattr(confidence, "NUM_RESAMPLINGS", 50)
    alarms, trials = 0, 200
    for trial in range(trials):
        random = np.random.default_rng(trial)
        metrics = [f"m{i}" for i in range(8)]
        sides = [result({name: random.normal(size=30).tolist() for name in metrics}) for _ in "ab"]
        alarms += any(one.is_significant for one in compare(sides[0], sides[1], seed=trial))
    assert alarms / trials <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)


def test_a_pack_of_one_language_compares_each_metric_once() -> None:
    sides = [result({"m": [float(i + shift) for i in range(8)]}) for shift in (0, 1)]
    (only,) = compare(sides[0], sides[1])
    assert (only.language, only.subset, only.p_corrected) == ("", "*", only.p)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_correction_only_raises_p_values_and_keeps_their_order(p_values: list[float]) -> None:
    corrected = holm(list(p_values))
    for p, q in zip(p_values, corrected, strict=True):
        assert q is not None
        assert p <= q <= 1
    by_p = sorted(range(len(p_values)), key=lambda i: p_values[i])
    ordered = [corrected[i] or 0.0 for i in by_p]
    assert ordered == sorted(ordered)
    assert ordered[0] == pytest.approx(min(1.0, min(p_values) * len(p_values)))


def test_correction_of_a_known_example() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_a_result_compared_with_itself_is_equal(seed: int) -> None:
    values = np.random.default_rng(seed).random(12).tolist()
    pair = compare(result({"cer": values}), result({"cer": values}), seed=seed)[0]
    assert (pair.difference, pair.low, pair.high, pair.p) == (0.0, 0.0, 0.0, 1.0)


def test_seeds_of_one_prompt_are_not_counted_as_prompts() -> None:
    clips = [ScoredClip(f"p{i}", "en", "", seed, {"mos": Score(float(i))}) for i in range(6) for seed in range(50)]
    found = intervals(Result(KEY, tuple(clips)))[0]
    assert found.num_prompts == 6
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low > 1.0


def test_clips_without_a_value_are_counted_and_never_zero() -> None:
    clips = [ScoredClip(f"p{i}", "ta", "", 0, {"cer": Score(0.2)}) for i in range(6)]
    clips.append(ScoredClip("p9", "ta", "", 0, {"cer": Score.missing("not measured")}))
    found = Result(KEY, tuple(clips))
    first = intervals(found)[0]
    assert (first.num_prompts, first.num_missing) == (6, 1)
    assert first.mean == pytest.approx(0.2)
    assert found.missing() == {"cer": {"not measured": 1}}
    assert compare(found, result({"cer": [0.2] * 6}))[0].num_unpaired == 0


def test_results_of_other_settings_are_not_compared() -> None:
    other = Result(ResultKey("model", "pack", {"temperature": 0.7}, {"words": "1"}), result({"cer": [0.1]}).clips)
    with pytest.raises(DataError, match="decoding"):
        compare(result({"cer": [0.1]}), other)


def test_the_best_checkpoint_is_the_more_similar_one_of_those_that_are_equally_intelligible() -> None:
    random = np.random.default_rng(0)
    base = random.gamma(1.0, 0.1, 60)
    steps = [
        result({"cer": (base + 0.2).tolist(), "similarity": [0.9] * 60}),
        result({"cer": (base + random.normal(0, 0.02, 60)).tolist(), "similarity": [0.7] * 60}),
        result({"cer": (base + random.normal(0, 0.02, 60)).tolist(), "similarity": [0.8] * 60}),
    ]
    chosen, why = best(steps)
    assert chosen is steps[2]
    assert "2 of 3 not significantly different" in why
    with pytest.raises(DataError, match="mos"):
        best(steps, BestRule(metric="mos"))


def test_a_model_that_was_not_measured_where_it_is_bad_is_not_the_best() -> None:
    random = np.random.default_rng(0)
    easy, hard = random.gamma(1.0, 0.05, 30), 0.5 + random.gamma(1.0, 0.1, 30)
    lost = result({"cer": (easy + 0.05).tolist() + hard.tolist()})
    lost = Result(KEY, tuple(replace(clip, scores={"cer": Score.failure("hangs")}) if i >= 30 else clip
                             for i, clip in enumerate(lost.clips)))  # fmt: skip
    whole = result({"cer": easy.tolist() + hard.tolist()})
    chosen, why = best([lost, whole])
    assert chosen is whole
    assert "on 30 clips of 60" in why
    none = Result(KEY, tuple(clip for clip in whole.clips[30:]))
    with pytest.raises(DataError, match="no clip has a value of cer in each of 2 results"):
        best([lost, none])


def test_a_result_is_read_back_as_written_and_damage_is_refused(tmp_path: Path) -> None:
    written = Result(KEY, result({"cer": [0.1, 0.2]}).clips, 500, "demo", ({"language": "en"},), {"seconds": 1.5})
    written.write(tmp_path / "r.json")
    assert read_result(tmp_path / "r.json") == written
    text = (tmp_path / "r.json").read_text()
    (tmp_path / "r.json").write_text(text.replace('"temperature": 0.8', '"temperature": 0.9'))
    with pytest.raises(DataError, match="damaged"):
        read_result(tmp_path / "r.json")
    (tmp_path / "r.json").write_text(text.replace('"value": 0.1', '"value": "0.1"'))
    with pytest.raises(DataError, match="damaged"):
        read_result(tmp_path / "r.json")


def test_too_few_prompts_have_a_mean_and_nothing_else() -> None:
    found = intervals(result({"cer": [0.1] * (MIN_PROMPTS - 1)}))[0]
    assert (found.mean, found.low, found.detectable) == (pytest.approx(0.1), None, None)
