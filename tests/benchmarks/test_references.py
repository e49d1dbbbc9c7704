"""Published rates: one source of truth, and the MFU they come to."""

from __future__ import annotations

import pytest

from benchmarks.references import aims, flops_per_token, mfu, published
from titan_speech.estimate.devices import PUBLISHED_RUNS


def test_the_plan_and_the_benchmarks_state_the_same_published_runs() -> None:
    of_plan = {(one.flavor, one.stage): one.tokens_per_sec_per_gpu for one in PUBLISHED_RUNS}
    stages = {"pt": "pretraining", "sft": "SFT"}
    of_files = {
        (one.flavor, stages[one.case.split("_")[0]]): one.rate for one in published() if one.name.startswith("TTS-1")
    }
    assert of_files == of_plan


@pytest.mark.parametrize(
    ("case", "expected"), [("pt_1b", 0.42), ("sft_1b", 0.16), ("pt_8b", 0.40), ("sft_8b", 0.24)], ids=str
)
def test_published_rates_come_to_their_published_mfu(case: str, expected: float) -> None:
    found = next(one for one in published() if one.case == case and one.name.startswith("TTS-1"))
    assert found.mfu == pytest.approx(expected, abs=0.005)
    assert 0.9 * found.mfu < found.mfu_of_documents < found.mfu


def test_torchtitans_rates_come_to_the_mfu_that_it_gives() -> None:
    found = [one.mfu for one in published() if one.name.startswith("TorchTitan") and one.precision == "bf16"]
    assert found == pytest.approx([0.33, 0.39], abs=0.01)


def test_flops_of_a_token_are_those_of_the_published_runs() -> None:
    assert flops_per_token("llama3", "1B", 193_856, 2048) / 1e9 == pytest.approx(9.03, abs=0.01)
    assert flops_per_token("llama3", "8B", 193_856, 2048) / 1e9 == pytest.approx(49.9, abs=0.1)


def test_the_goal_of_the_1b_is_the_mfu_it_names() -> None:
    goal = next(aim.goal.value for aim in aims() if aim.case == "pt_1b")
    assert mfu(goal, flops_per_token("llama3", "1B", 193_856, 2048), "h100") == pytest.approx(0.55, abs=0.005)


def test_float8_published_in_flops_is_read_as_a_rate() -> None:
    nvidia = next(one for one in published() if one.model_flops_per_sec_per_gpu)
    assert nvidia.mfu == pytest.approx(711 / 989, rel=1e-3)
