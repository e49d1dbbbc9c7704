"""Parameters and training FLOPs in closed form.

In: sizes of a backbone, vocabulary rows, LoRA's settings, how many tokens a token attends to. Out: parameters by part,
and FLOPs per token. A matrix of P parameters costs 6 P per token (2 forward, 4 backward), a frozen one 4 P, since it
needs no gradient of its own; attention scores and weighted values of a layer cost 12 * heads * head_dim * attended
tokens. Norms, rotations, softmax and the embedding's lookup are not counted: below 0.1 %.
"""

from __future__ import annotations

from dataclasses import dataclass

from titan_speech.config.schema_training import LoRAConfig
from titan_speech.model.backbones import BackboneShape
from titan_speech.tokenization.vocabulary import Vocabulary


@dataclass(frozen=True)
class Parameters:
    """Parameters by part; with tied weights the head has none of its own."""

    total: int
    """Parameters of the whole model, LoRA adapters left out."""
    embedding: int
    head: int
    backbone: int
    new_rows: int
    """Parameters in rows the text backbone did not have: codes, special tokens, padding; part of embedding and head."""
    num_rows: int
    num_new_rows: int
    is_tied: bool
    adapters: int
    """Parameters that LoRA adds; 0 without it."""
    trained: int
    """Parameters with gradients and optimizer state."""


@dataclass(frozen=True)
class FlopsPerToken:
    """Training FLOPs of one token, forward and backward, without recomputation; linear in the attended length."""

    matrices: float
    per_attended_token: float

    def attention(self, attended: float) -> float:
        """FLOPs of attention.

        Args:
            attended: tokens that a token attends to. MFU usually counts seq_len; the causal mean of a pack with one
                document is (seq_len + 1) / 2, with packed documents of mean length l it is (l + 1) / 2.
        """
        return self.per_attended_token * attended

    def at(self, attended: float) -> float:
        """All FLOPs, where a token attends to that many tokens."""
        return self.matrices + self.attention(attended)


def count_parameters(shape: BackboneShape, vocabulary: Vocabulary, lora: LoRAConfig | None = None) -> Parameters:
    rows, new = vocabulary.num_rows, vocabulary.num_rows - vocabulary.num_base
    tables = 1 if shape.is_tied else 2
    total = shape.num_parameters(rows)
    return Parameters(
        total=total,
        embedding=rows * shape.dim,
        head=0 if shape.is_tied else rows * shape.dim,
        backbone=total - tables * rows * shape.dim,
        new_rows=tables * new * shape.dim,
        num_rows=rows,
        num_new_rows=new,
        is_tied=shape.is_tied,
        adapters=shape.num_adapter_parameters(lora or LoRAConfig()),
        trained=shape.num_trained_parameters(rows, lora or LoRAConfig()),
    )


def count_flops(shape: BackboneShape, num_rows: int, lora: LoRAConfig | None = None) -> FlopsPerToken:
    """FLOPs of a backbone whose head has `num_rows` rows; 0 for a part of the model without the head."""
    lora = lora or LoRAConfig()
    layers = shape.num_layers * sum(inputs * outputs for inputs, outputs in shape.matrix_widths.values())
    head = num_rows * shape.dim
    backbone_cost, head_cost = 4 if lora.is_on else 6, 4 if lora.is_on and not lora.train_new_rows else 6
    matrices = backbone_cost * layers + head_cost * head + 6 * shape.num_adapter_parameters(lora)
    queries = shape.num_heads * shape.head_dim
    return FlopsPerToken(matrices=float(matrices), per_attended_token=12.0 * shape.num_layers * queries)


def traced_flops(shape: BackboneShape, num_rows: int, seq_len: int, lora: LoRAConfig | None = None) -> float:
    """What a trace counts per token without activation checkpointing.

    The backward pass of fused attention computes the scores again, five products instead of four, and all products are
    counted at full length.
    """
    flops = count_flops(shape, num_rows, lora)
    return flops.matrices + flops.attention(seq_len) * 14 / 12


def counted_twice(shape: BackboneShape, seq_len: int) -> float:
    """The part of `traced_flops` that is neither the model's work nor activation checkpointing: the repeated scores."""
    return count_flops(shape, 0).attention(seq_len) * 2 / 12
