"""The budget in tokens, the optimizer and its schedule, the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class TrainingTable:
    """Budget in tokens; steps and accumulation are derived."""

    seq_len: int = 2048
    """Tokens in one pack."""

    global_batch_tokens: int = 524_288
    """Tokens in one optimizer step over all ranks; a multiple of seq_len."""

    target_tokens: int = 1_000_000_000
    """Tokens of the whole stage; steps = ceil(target_tokens / global_batch_tokens)."""

    local_batch_packs: int = 8
    """Packs one data-parallel rank computes at once; accumulation follows from it."""

    max_norm: float = 1.0
    """Gradient norm clip."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of parameters, gradients and optimizer state."""

    mixed_precision_param: Literal["float32", "bfloat16"] = "bfloat16"
    """Compute type of the parameters; the fp32 master weights stay."""

    cuda_graphs: bool = False
    """Capture the forward and backward pass in a CUDA graph (CUDA only; elsewhere nothing is captured)."""


@dataclass(frozen=True, kw_only=True)
class OptimizerTable:
    """AdamW; no decay on norms and biases."""

    lr: float = 1.2e-4
    """Peak learning rate."""

    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW betas."""

    eps: float = 1e-8
    """AdamW eps."""

    weight_decay: float = 0.1
    """Decoupled weight decay of matrices."""

    new_rows_lr_factor: float = 1.0
    """Learning rate of the vocabulary rows that are not the backbone's (codes, specials), as a multiple of lr."""

    frozen_backbone_ratio: float = 0.0
    """Part of the steps, at the beginning, in which only these new rows learn and the backbone stays as it is."""

    implementation: Literal["fused", "foreach", "for-loop"] = "fused"
    """Optimizer kernel."""


@dataclass(frozen=True, kw_only=True)
class LRSchedulerTable:
    """Linear warmup, then decay from optimizer.lr to end_lr over the rest of the stage."""

    warmup_ratio: float = 0.1
    """Part of the steps spent in warmup."""

    end_lr: float = 3e-5
    """Learning rate of the last step."""

    decay: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the decay."""


@dataclass(frozen=True, kw_only=True)
class LossTable:
    """Cross entropy over the grown vocabulary."""

    num_chunks: int = 8
    """Chunks of the sequence for which logits exist at once; 1 computes them whole."""
