"""Backbones whose embedding and head stay one matrix when they are distributed.

In: TorchTitan's decoders. Out: the same, tied again after each parameter was made a DTensor. TorchTitan ties when a
model is built, makes two parameters of the one when it distributes them, and ties again when it draws the weights. FSDP
came in between and kept two shards of the same matrix. They share memory only where the rows divide by the number of
shards: on 3 ranks (6, 12, 24, ...) the rows of the last one were padded into copies, and the head, or the embedding,
was never updated there.
"""

from __future__ import annotations

from dataclasses import dataclass

from torchtitan.distributed import ParallelDims
from torchtitan.models.common.decoder import Decoder
from torchtitan.models.llama3 import Llama3Model
from torchtitan.models.qwen3 import Qwen3Model


class TiedLlama3(Llama3Model):
    """Llama 3, with one matrix for embedding and head if it is tied."""

    @dataclass(kw_only=True, slots=True)
    class Config(Llama3Model.Config):
        pass

    def parallelize(self, parallel_dims: ParallelDims) -> None:
        super().parallelize(parallel_dims)
        tie(self)


class TiedQwen3(Qwen3Model):
    """Qwen 3, with one matrix for embedding and head if it is tied."""

    @dataclass(kw_only=True, slots=True)
    class Config(Qwen3Model.Config):
        pass

    def parallelize(self, parallel_dims: ParallelDims) -> None:
        super().parallelize(parallel_dims)
        tie(self)


def tie(model: Decoder) -> None:
    """Make the embedding the head's matrix again, if it is meant to be."""
    if model.enable_weight_tying and model.tok_embeddings is not None and model.lm_head is not None:
        model.tok_embeddings.weight = model.lm_head.weight
