"""Prompts of the generation check: of each language those first that a sound model can end."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from tests.runs import ROOT
from titan_speech.data.generation_prompts import MAX_PART, generation_prompts
from titan_speech.data.plan import DataPlan
from titan_speech.preflight.config_checks import load_config
from titan_speech.store.held_out_choice import HeldOutOptions, make_held_out_set

MAX_CODES = 128


def words(*more: str) -> list[str]:
    return [
        "--job.config_file",
        str(ROOT / "tests" / "assets" / "small.toml"),
        "--generation_check.every_steps",
        "1",
        *more,
    ]


def test_recordings_that_end_within_the_limit_come_first_in_each_language(tmp_path: Path) -> None:
    options = HeldOutOptions(num_ce=51, num_decode=64, by="sample")
    make_held_out_set([ROOT / "demo_data"], tmp_path / "gold", options)
    more = ("--generation_check.num_prompts", "64", "--generation_check.max_codes", str(MAX_CODES))
    config = load_config(words("--data.held_out", str(tmp_path / "gold"), *more)).config
    is_long = defaultdict[str, list[bool]](list)
    for prompt in generation_prompts(config, DataPlan.load(config)):
        is_long[prompt.language].append(prompt.num_target_codes > MAX_PART * MAX_CODES)
    assert any({*some} == {False, True} for some in is_long.values()), is_long
    assert all(some == sorted(some) for some in is_long.values()), is_long


def test_without_a_held_out_set_nothing_is_generated() -> None:
    config = load_config(words()).config
    assert generation_prompts(config, DataPlan.load(config)) == ()
