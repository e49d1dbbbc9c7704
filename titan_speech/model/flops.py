"""Parameters and training FLOPs in closed form.

In: sizes of a backbone, vocabulary rows, how many tokens a token attends to. Out: parameters by part, and FLOPs per
token. A matrix of P parameters costs 6 P per token (2 forward, 4 backward); attention scores and weighted values of a
layer cost 12 * heads * head_dim * attended tokens. Norms, rotations, softmax and the embedding's lookup are not
counted: below 0.1 %.
"""

from __future__ import annotations

from dataclasses import dataclass

from titan_speech.model.backbones import BackboneShape
from titan_speech.tokenization.vocabulary import Vocabulary


@dataclass(frozen=True)
class Parameters:
    """Parameters by part; with tied weights the head has none of its own."""

    total: int
    embedding: int
    head: int
    backbone: int
    new_rows: int
    """Parameters in rows the text backbone did not have: codes, special tokens, padding; part of embedding and head."""
    num_rows: int
    num_new_rows: int
    is_tied: bool


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


def count_parameters(shape: BackboneShape, vocabulary: Vocabulary) -> Parameters:
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
    )


def count_flops(shape: BackboneShape, num_rows: int) -> FlopsPerToken:
    """FLOPs of a backbone whose head has `num_rows` rows; 0 for a part of the model without the head."""
    queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    layer = shape.dim * (2 * queries + 2 * keys) + 3 * shape.dim * shape.hidden_dim
    matrices = shape.num_layers * layer + num_rows * shape.dim
    return FlopsPerToken(matrices=6.0 * matrices, per_attended_token=12.0 * shape.num_layers * queries)


def traced_flops(shape: BackboneShape, num_rows: int, seq_len: int) -> float:
    """What a trace counts per token without activation checkpointing.

    The backward pass of fused attention computes the scores again, five products instead of four, and all products are
    counted at full length.
    """
    flops = count_flops(shape, num_rows)
    return flops.matrices + flops.attention(seq_len) * 14 / 12


def counted_twice(shape: BackboneShape, seq_len: int) -> float:
    """The part of `traced_flops` that is neither the model's work nor activation checkpointing: the repeated scores."""
    return count_flops(shape, 0).attention(seq_len) * 2 / 12
