"""Codes with a constant added are named with it, in stores and in batches; other samples and languages pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.runs import ROOT
from titan_speech.config.schema_data import StorageConfig
from titan_speech.data.code_shift import (
    MIN_CODES,
    SHIFTS,
    SMOOTHING,
    Counts,
    HeldOutCodes,
    count_codes,
    count_stored_codes,
    open_code_shift_check,
    shift_found,
)
from titan_speech.data.plan import DataPlan
from titan_speech.preflight.config_checks import load_config
from titan_speech.store.reader import open_store

SMALL = ["--job.config_file", str(ROOT / "tests" / "assets" / "small.toml")]
NUM_PACKS = 128


@pytest.fixture(scope="module")
def held_out(gold: Path) -> HeldOutCodes:
    return HeldOutCodes.read([str(gold)], StorageConfig())


@pytest.fixture(scope="module")
def held_out_K(held_out: HeldOutCodes) -> Counts:  # noqa: N802
    return sum(held_out.by_dataset.values(), count_codes([]))


def codes_of(language: str) -> Counts:
    return count_stored_codes(part for part in open_store(ROOT / "demo_data").parts if part.language == language)


def test_sound_codes_pass_and_shifted_ones_are_named_with_their_shift(held_out_K: Counts) -> None:
    counts_K = count_stored_codes(open_store(ROOT / "demo_data").parts, samples_per_part=20)
    assert shift_found(counts_K, held_out_K) == ""
    for shift in (-8, -1, 1, 3):
        assert shift_found(np.roll(counts_K, shift), held_out_K).startswith(f"they are shifted by {shift:+} against")


@pytest.mark.parametrize("language", ["hi", "ta", "fr"])
def test_another_language_is_no_shift_and_does_not_hide_one(language: str) -> None:
    counts_K, english_K = codes_of(language), codes_of("en")
    assert shift_found(counts_K, english_K) == ""
    assert shift_found(np.roll(counts_K, 1), english_K).startswith("they are shifted by +1")


def test_a_hum_that_held_out_samples_lack_is_no_shift(held_out_K: Counts) -> None:
    counts_K = count_stored_codes(open_store(ROOT / "demo_data").parts, samples_per_part=20)
    is_free_K = held_out_K == 0
    hum, shift = max(
        ((int(code), shift) for shift in SHIFTS for code in np.flatnonzero(is_free_K[8:-8]) + 8),
        key=lambda one: held_out_K[one[0] - one[1]],
    )
    counts_K[hum] += 2 * counts_K.sum()
    log_p_K = np.log(held_out_K + SMOOTHING)
    assert log_p_K[hum - shift] > log_p_K[hum] + 3, "two thirds of all codes fit far better when they are shifted"
    assert shift_found(counts_K, held_out_K) == ""


def test_too_few_codes_say_nothing(held_out_K: Counts) -> None:
    few_K = np.roll(held_out_K, 1) * (MIN_CODES - 1) // held_out_K.sum()
    assert 0 < few_K.sum() < MIN_CODES
    assert shift_found(few_K, held_out_K) == ""
    assert shift_found(held_out_K, few_K) == ""


def batches(plan: DataPlan) -> tuple[torch.Tensor, torch.Tensor]:
    packed = plan.build_batch([plan.pack_plan(slot) for slot in range(NUM_PACKS)])
    return torch.from_numpy(packed.ids_BS), torch.from_numpy(packed.labels_BS)


def test_each_dataset_of_a_run_is_judged_once_by_what_its_batches_have(gold: Path) -> None:
    config = load_config([*SMALL, "--data.held_out", str(gold)]).config
    plan = DataPlan.load(config)
    ids_BL, labels_BL = batches(plan)
    sound = open_code_shift_check(config, plan)
    assert sound is not None
    assert list(sound.findings(ids_BL, labels_BL)) == []
    is_code_BL = torch.from_numpy(plan.vocabulary.is_code(ids_BL.numpy()))
    shifted = open_code_shift_check(config, plan)
    assert shifted is not None
    found = dict(one for _ in range(2) for one in shifted.findings(ids_BL + is_code_BL, labels_BL))
    assert sorted(found) == ["asterisk", "asterisk, asterisk-speech", "espeak", "espeak, espeak-speech"]
    assert {text.partition(" against")[0] for text in found.values()} == {"they are shifted by +1"}
    assert open_code_shift_check(load_config(SMALL).config, plan) is None, "nothing to compare with"


def test_a_shifted_dataset_is_named_though_its_held_out_samples_have_the_same_shift(held_out: HeldOutCodes) -> None:
    asterisk = frozenset(("asterisk", "asterisk-speech"))
    parts = [part for part in open_store(ROOT / "demo_data").parts if part.dataset_source in asterisk]
    counts_K = count_stored_codes(parts, samples_per_part=20)
    assert held_out.compare(counts_K, asterisk) == ""
    moved = {name: np.roll(one_K, name in asterisk) for name, one_K in held_out.by_dataset.items()}
    found = HeldOutCodes(moved).compare(np.roll(counts_K, 1), asterisk)
    assert found.startswith("they are shifted by +1 against held-out ones")
