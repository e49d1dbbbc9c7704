"""Parameters and FLOPs in closed form.

In: sizes of a backbone, vocabulary rows, the number of tokens a token attends to. Out: parameters by part, and training
FLOPs per token. A matrix of P parameters costs 6 P per token (2 forward, 4 backward); scores and weighted values of a
layer cost 12 * heads * head_dim * attended. Norms, rotations, softmax and the embedding lookup are left out: below
0.1 %.
"""

from __future__ import annotations

from dataclasses import dataclass

from titan_speech.model.backbones import BackboneShape
from titan_speech.tokenization.vocabulary import Vocabulary


@dataclass(frozen=True)
class Parameters:
    """Parameters by part; with tied weights the head has none."""

    total: int
    embedding: int
    head: int
    backbone: int
    new_rows: int
    """Parameters of rows that the text backbone does not have (codes, specials, padding), in embedding and head."""
    num_rows: int
    num_new_rows: int
    is_tied: bool


@dataclass(frozen=True)
class FlopsPerToken:
    """Training FLOPs of one token, forward and backward, without recomputation."""

    matrices: float
    attention_full: float
    """Each token attends to seq_len tokens, as MFU is usually computed, also by TorchTitan."""
    attention_causal: float
    """Each token attends to those before it in a pack of one document, (seq_len + 1) / 2 on average."""
    attention_packed: float | None
    """Each token attends to those before it in its own document; None without the stores."""

    @property
    def full(self) -> float:
        """All FLOPs with attention at full length."""
        return self.matrices + self.attention_full


def count_parameters(shape: BackboneShape, vocabulary: Vocabulary) -> Parameters:
    """Parameters of a backbone with an extended vocabulary, by part."""
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


def matrix_parameters(shape: BackboneShape, num_rows: int) -> int:
    """Parameters that every token is multiplied with: all matrices of the layers and the head."""
    queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    layer = shape.dim * (2 * queries + 2 * keys) + 3 * shape.dim * shape.hidden_dim
    return shape.num_layers * layer + num_rows * shape.dim


def attention_flops(shape: BackboneShape, attended: float) -> float:
    """Training FLOPs per token of scores and weighted values, for a token that attends to `attended` tokens."""
    return 12.0 * shape.num_layers * shape.num_heads * shape.head_dim * attended


def count_flops(shape: BackboneShape, num_rows: int, seq_len: int, attended: float | None) -> FlopsPerToken:
    """Training FLOPs per token.

    Args:
        shape: sizes of the backbone.
        num_rows: vocabulary rows.
        seq_len: tokens per pack.
        attended: tokens of its own document that a token attends to on average, itself included, if known.
    """
    return FlopsPerToken(
        matrices=6.0 * matrix_parameters(shape, num_rows),
        attention_full=attention_flops(shape, seq_len),
        attention_causal=attention_flops(shape, (seq_len + 1) / 2),
        attention_packed=None if attended is None else attention_flops(shape, attended),
    )


def counted_twice(shape: BackboneShape, seq_len: int) -> float:
    """FLOPs per token that a trace counts and `count_flops` does not: fused attention recomputes its scores."""
    return traced_flops(shape, 0, seq_len) - count_flops(shape, 0, seq_len, None).full


def traced_flops(shape: BackboneShape, num_rows: int, seq_len: int) -> float:
    """FLOPs per token that a trace counts without activation checkpointing.

    The backward pass of fused attention recomputes the scores, so it has five products instead of four, and all
    products are counted at full length.
    """
    return 6.0 * matrix_parameters(shape, num_rows) + attention_flops(shape, seq_len) * 14 / 12
