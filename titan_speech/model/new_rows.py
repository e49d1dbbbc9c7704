"""New and old rows of the vocabulary matrices on this rank.

In: the model's parts and the number of rows that the backbone came with. Out: for the embedding, and for the head if it
is a matrix of its own, this rank's rows split into those of the backbone and those of new tokens. Shards are contiguous
rows under FSDP, under tensor parallelism, which splits the vocabulary, and under both.

Shapes: V rows of the vocabulary, D width; v rows of this rank.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

VOCABULARY_MATRICES = ("tok_embeddings.weight", "lm_head.weight")


@dataclass(frozen=True)
class VocabularyMatrix:
    """One matrix [V, D]; the first `num_old` rows on this rank are the backbone's."""

    parameter: nn.Parameter
    num_old: int

    @classmethod
    def of(cls, parameter: nn.Parameter, num_old_rows: int) -> VocabularyMatrix:
        """A matrix of which the first `num_old_rows`, over all ranks, are the backbone's."""
        first, num_rows = 0, parameter.shape[0]
        if isinstance(parameter, DTensor):
            shape, offset = compute_local_shape_and_global_offset(
                parameter.shape, parameter.device_mesh, parameter.placements
            )
            first, num_rows = offset[0], shape[0]
        return cls(parameter, min(max(num_old_rows - first, 0), num_rows))

    def old(self, tensor: torch.Tensor) -> torch.Tensor:
        """The backbone's rows of the parameter or its gradient on this rank, as a view."""
        return local_part(tensor)[: self.num_old]

    def new(self, tensor: torch.Tensor) -> torch.Tensor:
        """The rows of new tokens on this rank, as a view."""
        return local_part(tensor)[self.num_old :]


def vocabulary_matrices(model_parts: Iterable[nn.Module], num_old_rows: int) -> list[VocabularyMatrix]:
    """Embedding and head of the model parts, if they are trained; a tied matrix appears once."""
    named = [pair for part in model_parts for pair in part.named_parameters()]
    return [
        VocabularyMatrix.of(parameter, num_old_rows)
        for name, parameter in named
        if name.endswith(VOCABULARY_MATRICES) and parameter.requires_grad
    ]


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's shard of a DTensor; other tensors unchanged."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
