"""Prompts of the generation check: of each language those first that a sound model can end, each with its voice."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from tests.support.runs import ROOT
from titan_speech.data.generation_prompts import MAX_PART, GenerationPrompt, generation_prompts
from titan_speech.data.plan import DataPlan
from titan_speech.preflight.config_checks import load_config
from titan_speech.store.held_out_choice import HeldOutOptions, make_held_out_set
from titan_speech.store.reader import open_store

MAX_CODES = 128


@pytest.fixture(scope="module")
def gold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "gold"
    make_held_out_set([ROOT / "demo_data"], folder, HeldOutOptions(num_ce=51, num_decode=64, by="sample"))
    return folder


def words(*more: str) -> list[str]:
    return [
        "--job.config_file",
        str(ROOT / "tests" / "assets" / "small.toml"),
        "--generation_check.every_steps",
        "1",
        *more,
    ]


def prompts_of(gold: Path, *more: str) -> tuple[tuple[GenerationPrompt, ...], DataPlan]:
    config = load_config(
        words("--data.held_out", str(gold), "--generation_check.max_codes", str(MAX_CODES), *more)
    ).config
    plan = DataPlan.load(config)
    return generation_prompts(config, plan), plan


def test_recordings_that_end_within_the_limit_come_first_in_each_language(gold: Path) -> None:
    is_long = defaultdict[str, list[bool]](list)
    for prompt in prompts_of(gold, "--generation_check.num_prompts", "64")[0]:
        is_long[prompt.language].append(prompt.num_target_codes > MAX_PART * MAX_CODES)
    assert any({*some} == {False, True} for some in is_long.values()), is_long
    assert all(some == sorted(some) for some in is_long.values()), is_long


@pytest.mark.parametrize("task", ["tts", "clone"])
def test_the_voice_of_a_clone_prompt_is_its_reference_and_of_another_the_recording(gold: Path, task: str) -> None:
    of_task = ("--data.source.tts.task", task, "--data.source.tts.languages", '["en"]', "--training.seq_len", "1024")
    prompts, plan = prompts_of(gold, *of_task, "--generation_check.num_prompts", "4")
    assert [prompt.task for prompt in prompts] == [task] * len(prompts)
    assert len(prompts) > 1
    recorded = {
        sample_id: part.codes(i)
        for part in open_store(ROOT / "demo_data").parts
        if part.name.endswith(".en.speech")
        for i, sample_id in enumerate(part.column("sample_id").to_pylist())
    }
    for prompt in prompts:
        in_prompt_F = plan.vocabulary.ids_to_codes(prompt.ids_T[plan.vocabulary.is_code(prompt.ids_T)])
        expected_F = in_prompt_F if task == "clone" else recorded[prompt.sample_id]
        assert np.array_equal(prompt.voice_codes_F, expected_F), prompt.sample_id
        assert len(expected_F)
        assert np.array_equal(prompt.voice_codes_F, recorded[prompt.sample_id]) == (task == "tts")


def test_without_a_held_out_set_nothing_is_generated() -> None:
    config = load_config(words()).config
    assert generation_prompts(config, DataPlan.load(config)) == ()
