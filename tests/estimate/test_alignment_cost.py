"""What alignment costs: the head once more, the reference's passes, memory and time of reward training."""

from __future__ import annotations

from dataclasses import replace

import pytest

from titan_speech.config.schema import SpeechConfig
from titan_speech.config.schema_training import PreferenceConfig
from titan_speech.estimate.data_usage import DataUsage, StreamUsage
from titan_speech.estimate.devices import DEVICES
from titan_speech.estimate.efficiencies import DEFAULT_EFFICIENCIES
from titan_speech.estimate.preference_cost import extra_flops, forward_flops, reference_pass
from titan_speech.estimate.rollout_cost import RolloutSizes, rollout_cost
from titan_speech.estimate.speed_by_parts import Pass, parts_of_pass
from titan_speech.model.backbones import published_shape

SHAPE, ROWS, H100 = published_shape("qwen3", "1.7B"), 217_600, DEVICES["h100"]


def configured(**preference: object) -> SpeechConfig:
    return replace(SpeechConfig(), preference=PreferenceConfig(**preference))  # pyright: ignore[reportArgumentType]


def read(epochs: float | None) -> DataUsage:
    stream = StreamUsage("pairs", "en", "preference", 1.0, 12e6, 0.1, epochs, None, None)
    return DataUsage((stream,), epochs is not None, "", None)


def test_a_preference_loss_adds_the_head_once_and_a_live_reference_a_forward_pass() -> None:
    head, seq_len = 2 * ROWS * SHAPE.dim, SpeechConfig().training.seq_len
    assert extra_flops(SpeechConfig(), SHAPE, ROWS) == 0
    assert extra_flops(configured(loss="simpo"), SHAPE, ROWS) == head
    assert extra_flops(configured(loss="dpo"), SHAPE, ROWS) == head
    live = configured(loss="dpo", reference="adapters_off")
    assert extra_flops(live, SHAPE, ROWS) == head + forward_flops(SHAPE, ROWS, seq_len)
    parts = [
        parts_of_pass(SHAPE, ROWS, Pass.of(config, 200.0, 8, 1, 0.0), H100, DEFAULT_EFFICIENCIES)
        for config in (SpeechConfig(), configured(loss="dpo"), live)
    ]
    plain, dpo, with_live = (one["products of the head"] for one in parts)
    assert dpo == pytest.approx(plain * 4 / 3)
    assert with_live == pytest.approx(plain * 5 / 3)
    assert parts[0]["products of the layers"] == parts[1]["products of the layers"]
    assert parts[2]["attention"] > parts[1]["attention"]


def test_every_pair_is_read_once_by_the_reference_before_the_first_step() -> None:
    found = reference_pass(configured(loss="dpo"), SHAPE, ROWS, read(2.0), 1e5, 3 * forward_flops(SHAPE, ROWS, 2048))
    assert found is not None
    assert found.num_tokens == 6e6
    seq_len = SpeechConfig().training.seq_len
    expected = 6e6 / (1e5 * 3 * forward_flops(SHAPE, ROWS, 2048) / forward_flops(SHAPE, ROWS, seq_len)) / 3600
    assert found.hours == pytest.approx(expected)
    unknown = reference_pass(configured(loss="dpo"), SHAPE, ROWS, read(None), 1e5, 1e10)
    assert unknown is not None
    assert (unknown.num_tokens, unknown.hours) == (None, None)
    for config in (SpeechConfig(), configured(loss="simpo"), configured(loss="dpo", reference="adapters_off")):
        assert reference_pass(config, SHAPE, ROWS, read(2.0), 1e5, 1e10) is None


def test_reward_training_holds_policy_reference_and_logits() -> None:
    sizes = RolloutSizes(num_answers=32, answers_per_pass=8, prompt_tokens=100, answer_tokens=1000, has_reference=True)
    cost = rollout_cost(SHAPE, ROWS, sizes, H100)
    parameters = SHAPE.num_parameters(ROWS)
    without = rollout_cost(SHAPE, ROWS, replace(sizes, has_reference=False), H100)
    assert cost.peak_bytes - without.peak_bytes == 4 * parameters
    assert cost.memory["logits"] == 3 * 4 * 8 * 1000 * ROWS
    assert without.peak_bytes == 16 * parameters + cost.memory["logits"]
    assert cost.seconds["training"] / without.seconds["training"] == pytest.approx(4 / 3)
    assert "fits" in cost.lines()[-1]
    assert "does NOT fit" in rollout_cost(SHAPE, ROWS, replace(sizes, answers_per_pass=32), H100).lines()[-1]
    few = rollout_cost(SHAPE, ROWS, replace(sizes, num_answers=1, answers_per_pass=1), H100)
    assert few.seconds["generation"] == pytest.approx(1000 * 4 * parameters / (H100.memory_bytes_per_sec * 0.85))
    assert rollout_cost(SHAPE, ROWS, sizes, DEVICES["cpu"]).seconds == {}
