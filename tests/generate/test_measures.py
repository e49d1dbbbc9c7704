"""Measures of generated tokens: each planted collapse is seen by its measure, and recorded speech has none of them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.runs import ROOT
from titan_speech.generate.measures import MEASURE_NAMES, ends_in_a_loop, means, means_by_group, measure
from titan_speech.store.reader import open_store
from titan_speech.tokenization.vocabulary import Vocabulary

VOCABULARY = Vocabulary(400, bos_id=0, eos_id=1)
STOP = VOCABULARY.first_special_id + 1


def of(codes: list[int], *, stops: bool = True, extra: tuple[int, ...] = (), target: int = 100):
    ids = [*VOCABULARY.codes_to_ids(np.array(codes)).tolist(), *extra, *([STOP] if stops else [])]
    return measure(np.array(ids), stop_id=STOP, vocabulary=VOCABULARY, num_target_codes=target)


RANDOM = np.random.default_rng(0).integers(0, 65_536, 100).tolist()


def test_varied_codes_up_to_the_stop_token_have_no_collapse() -> None:
    found = of(RANDOM)
    assert found.stop_failure == found.invalid_tokens == found.special_tokens == found.repeats == found.loop == 0
    assert found.ngram_repeats == 0
    assert found.length_ratio == 1
    assert found.code_entropy_bits == pytest.approx(np.log2(100))


def test_each_collapse_is_seen_by_its_measure() -> None:
    assert of(RANDOM, stops=False).stop_failure == 1
    assert of(RANDOM[:20], target=80).length_ratio == 0.25
    text, special = 5, VOCABULARY.first_special_id + 3
    assert of(RANDOM[:98], extra=(text, special)).invalid_tokens == pytest.approx(0.02)
    assert of(RANDOM[:98], extra=(text, special)).special_tokens == pytest.approx(0.01)
    assert of([7] * 100).repeats == 0.99
    assert of([7] * 100).code_entropy_bits == 0
    assert of(RANDOM[:50] * 2).ngram_repeats == pytest.approx(1 - 50 / 97)


@pytest.mark.parametrize("period", [1, 2, 7, 25])
def test_a_cycle_at_the_end_is_a_loop_from_a_second_and_three_periods_on(period: int) -> None:
    cycle = list(range(period))
    long = RANDOM + (cycle * 200)[: max(3 * period, 50)]
    assert ends_in_a_loop(np.array(long))
    assert not ends_in_a_loop(np.array([*long, 60_000]))
    assert not ends_in_a_loop(np.array(RANDOM + (cycle * 200)[: max(3 * period, 50) - 1]))


def test_recorded_speech_is_no_loop_and_repeats_little() -> None:
    store = open_store(ROOT / "demo_data")
    part = next(part for part in store.parts if part.language == "en" and part.kind.value == "speech")
    codes = [np.array(codes_F) for codes_F in part.reader()(range(50))]
    assert not any(map(ends_in_a_loop, codes))


def test_nothing_generated_is_a_number_for_every_measure() -> None:
    for ids in ([], [STOP]):
        found = measure(np.array(ids, np.int64), stop_id=STOP, vocabulary=VOCABULARY, num_target_codes=10)
        assert all(np.isfinite(getattr(found, name)) for name in MEASURE_NAMES)
        assert found.length_ratio == 0
        assert found.stop_failure == (not ids)


def test_means_are_by_group() -> None:
    good, bad = of(RANDOM), of(RANDOM, stops=False)
    assert means([good, bad])["stop_failure"] == 0.5
    found = means_by_group([("hi", good), ("en", bad), ("hi", bad)])
    assert list(found) == ["en", "hi"]
    assert found["hi"]["stop_failure"] == 0.5
