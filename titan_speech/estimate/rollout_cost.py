"""Memory and time of reward training (`align grpo --estimate GPU`), in closed form.

In: sizes of a backbone, sizes of a step, a device. Out: `RolloutCost`: bytes by component on one GPU, and seconds of a
step by part. TRL trains in fp32: weights, gradients and two moments of AdamW are 16 bytes per parameter, a frozen
reference four more. Whole logits of the answers are the other large part, since TRL keeps them. Generation reads all
weights for every code of the longest answer, whatever the number of answers, which is why many of them are cheap.
Scoring is not counted: it is the models' that the user chooses.
"""

from __future__ import annotations

from dataclasses import dataclass

from titan_speech.estimate.devices import DEFAULT_ASSUMPTIONS, Device
from titan_speech.estimate.efficiencies import DEFAULT_EFFICIENCIES
from titan_speech.model.backbones import BackboneShape
from titan_speech.model.flops import count_flops
from titan_speech.utils.text_table import gigabytes, table_lines

FP32 = 4
LOGITS_COPIES = 3
"""Logits, their log-softmax and their gradient."""
FP32_SLOWDOWN = 2.0
"""TF32 products over bf16 ones, by the datasheets."""


@dataclass(frozen=True)
class RolloutSizes:
    """What a step generates and trains on."""

    num_answers: int
    """Of all its prompts."""
    answers_per_pass: int
    """Trained on at once: those of one prompt."""
    prompt_tokens: int
    """Of the longest prompt."""
    answer_tokens: int
    """Of the longest answer."""
    has_reference: bool


@dataclass(frozen=True)
class RolloutCost:
    """One step on one GPU."""

    memory: dict[str, int]
    """Bytes by component; logits and the cache of keys and values are not there at the same time."""
    seconds: dict[str, float]
    """By part; empty for a device without a peak."""
    device: Device

    @property
    def peak_bytes(self) -> int:
        """The cache of generation and the logits of training follow each other."""
        passing = ("keys and values", "logits")
        kept = sum(size for name, size in self.memory.items() if name not in passing)
        return kept + max(self.memory[name] for name in passing)

    def lines(self) -> list[str]:
        """For the console."""
        rows = [(name, gigabytes(size)) for name, size in self.memory.items()]
        needed = DEFAULT_ASSUMPTIONS.needed_bytes(self.peak_bytes)
        verdict = "fits" if needed <= self.device.memory_bytes else "does NOT fit"
        known = f"{verdict}: " if self.device.memory_bytes else ""
        times = [(name, f"{seconds:.2f} s") for name, seconds in self.seconds.items()]
        return [
            f"one step on one {self.device.title}, in fp32; computed, not measured; scoring is not counted",
            *(f"  {line}" for line in table_lines([*rows, *times], "<>")),
            f"  {known}{gigabytes(needed)} of {gigabytes(self.device.memory_bytes)}; attention and activations of the "
            "layers come on top",
        ]


def rollout_cost(shape: BackboneShape, num_rows: int, sizes: RolloutSizes, device: Device) -> RolloutCost:
    """The cost of a step.

    Args:
        shape: of the backbone.
        num_rows: of its vocabulary.
        sizes: of the step.
        device: one of it.
    """
    parameters = shape.num_parameters(num_rows)
    length = sizes.prompt_tokens + sizes.answer_tokens
    memory = {
        "weights": FP32 * parameters,
        "gradients": FP32 * parameters,
        "optimizer state": 2 * FP32 * parameters,
        "reference": FP32 * parameters if sizes.has_reference else 0,
        "keys and values": FP32
        * (2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * sizes.num_answers * length),
        "logits": FP32 * LOGITS_COPIES * sizes.answers_per_pass * sizes.answer_tokens * num_rows,
    }
    if not device.bf16_flops:
        return RolloutCost(memory, {}, device)
    bandwidth = device.memory_bytes_per_sec * DEFAULT_EFFICIENCIES.memory
    rate = device.bf16_flops * DEFAULT_ASSUMPTIONS.efficiency / FP32_SLOWDOWN
    forward = count_flops(shape, num_rows).at(length / 2) / 3
    one_code = max(memory["weights"] / bandwidth, sizes.num_answers * forward / rate)
    forwards = 3 + sizes.has_reference
    seconds = {
        "generation": sizes.answer_tokens * one_code,
        "training": forwards * forward * sizes.num_answers * length / rate,
    }
    return RolloutCost(memory, seconds, device)
