"""What preference training computes besides the passes of a cross-entropy.

In: configuration, shape, what the run reads. Out: FLOPs that each token of a pass adds, and the tokens of the reference
pass before the first step.

    head        once more per pass, without gradients: log-probabilities first, then the weighted cross-entropy
    reference   precomputed: one forward pass over every pair, before the first step; one number per answer is kept.
                adapters_off: a forward pass in every pass of a step. Neither has a second model in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from titan_speech.config.schema import SpeechConfig
from titan_speech.estimate.data_usage import DataUsage
from titan_speech.model.backbones import BackboneShape
from titan_speech.model.flops import count_flops


@dataclass(frozen=True)
class ReferencePassCost:
    """The reference's log-probabilities of every pair."""

    num_tokens: float | None
    """Padding included; None: not known without the stores."""
    hours: float | None
    """None: not known, or a device without a peak."""


def forward_flops(shape: BackboneShape, num_rows: int, seq_len: int) -> float:
    """FLOPs of a forward pass per token, attention at full length: a third of those of training."""
    return count_flops(shape, num_rows).at(seq_len) / 3


def extra_flops(config: SpeechConfig, shape: BackboneShape, num_rows: int) -> float:
    """FLOPs per token of a pass that a preference loss adds; 0 without one."""
    preference = config.preference
    if not preference.is_on:
        return 0.0
    head = 2.0 * num_rows * shape.dim
    is_live = preference.has_reference and preference.reference == "adapters_off"
    return head + (forward_flops(shape, num_rows, config.training.seq_len) if is_live else 0.0)


def reference_pass(
    config: SpeechConfig,
    shape: BackboneShape,
    num_rows: int,
    data: DataUsage,
    tokens_per_sec: float | None,
    pass_flops_per_token: float,
) -> ReferencePassCost | None:
    """The pass before the first step.

    Args:
        config: of the run.
        shape: of its backbone.
        num_rows: of its vocabulary.
        data: what it reads.
        tokens_per_sec: of the run on all GPUs, padding included; None: not predicted.
        pass_flops_per_token: that it has at this speed.

    Returns:
        None where nothing is precomputed.
    """
    preference = config.preference
    if not preference.has_reference or preference.reference != "precomputed" or config.stage.num_done:
        return None
    epochs = [(one.num_tokens, one.epochs) for one in data.streams]
    if any(not once for _, once in epochs):
        return ReferencePassCost(None, None)
    num_tokens = sum(tokens / once for tokens, once in epochs if once)
    if tokens_per_sec is None:
        return ReferencePassCost(num_tokens, None)
    rate = tokens_per_sec * pass_flops_per_token / forward_flops(shape, num_rows, config.training.seq_len)
    return ReferencePassCost(num_tokens, num_tokens / rate / 3600)
