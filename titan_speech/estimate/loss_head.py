"""Which head of the loss a run should use, and in how many chunks: the rule, in one place.

In: tokens of a pass, rows of the vocabulary, width. Out: `LossHead`. A head must give the loss of each token in the
pass that gives the gradients, since groups are summed from it, and must not make Python wait for the device, which
would end a CUDA graph. That leaves TorchTitan's chunked loss and full logits. torch's `linear_cross_entropy` and
Liger's fused head give losses of tokens only with a second pass over the head; at 8,192 tokens of 193,920 rows they
move 8 and 5 times the bytes of 8 chunks, and Liger's Python waits (benchmarks/results/loss_heads_193920.json).

Among numbers of chunks the fewest are best whose logits fit a limit: each further chunk adds its gradient of the head
to the others' in fp32, 10 bytes per weight of the head, while logits shrink by a half with each doubling. A frozen head
(LoRA) has no gradient: its chunks cost nothing, and the rule does not apply.
"""

from __future__ import annotations

from dataclasses import dataclass

LOGITS_LIMIT_BYTES = 2e9
"""Of the logits of a chunk and their gradient, in bf16: a fortieth of an 80 GB device."""
SUM_BYTES = 10
"""Per weight of the head and further chunk: FSDP reads a bf16 gradient, reads and writes the fp32 sum."""


@dataclass(frozen=True)
class LossHead:
    """A head of the loss."""

    num_chunks: int
    """1: full logits at once."""
    logits_bytes: float
    """Of a chunk, with their gradient."""
    sum_bytes: float
    """Moved to add the head's gradients of the chunks, per pass."""

    @property
    def name(self) -> str:
        return "full logits" if self.num_chunks == 1 else f"{self.num_chunks} chunks"


def loss_head(num_chunks: int, num_tokens: int, num_rows: int, dim: int) -> LossHead:
    """The head with so many chunks, of the rows and tokens of one rank."""
    return LossHead(num_chunks, 4.0 * num_tokens * num_rows / num_chunks, SUM_BYTES * (num_chunks - 1) * num_rows * dim)


def choose_loss_head(num_tokens: int, seq_len: int, num_rows: int, dim: int) -> LossHead:
    """The fewest chunks, a power of two, whose logits are within the limit.

    Args:
        num_tokens: of a pass of one rank.
        seq_len: of a pack of one rank, which the chunks divide.
        num_rows: of the vocabulary, of one rank.
        dim: width of the model.
    """
    chosen = loss_head(1, num_tokens, num_rows, dim)
    while chosen.logits_bytes > LOGITS_LIMIT_BYTES and seq_len % (2 * chosen.num_chunks) == 0:
        chosen = loss_head(2 * chosen.num_chunks, num_tokens, num_rows, dim)
    return chosen
