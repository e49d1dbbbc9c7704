"""Which rows of the vocabulary matrices are new, on this rank, and how they are told from those of the backbone.

In: the model's parts and the number of rows the backbone came with. Out: for the embedding, and for the head where it
is a matrix of its own, the split of this rank's rows into old and new ones. Shards are runs of rows: under FSDP, under
tensor parallel, which cuts the vocabulary, and under both.

Shapes: V rows of the vocabulary, D width; v rows of this rank.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

MATRICES = ("tok_embeddings.weight", "lm_head.weight")


@dataclass(frozen=True)
class VocabularyMatrix:
    """One matrix [V, D]; this rank's first `num_old` rows are the backbone's."""

    parameter: nn.Parameter
    num_old: int

    def old(self, tensor: torch.Tensor) -> torch.Tensor:
        """The backbone's rows of the parameter or of its gradient, on this rank, in place."""
        return local_part(tensor)[: self.num_old]

    def new(self, tensor: torch.Tensor) -> torch.Tensor:
        return local_part(tensor)[self.num_old :]


def vocabulary_matrices(model_parts: Iterable[nn.Module], num_old_rows: int) -> list[VocabularyMatrix]:
    """Each matrix once: one that is tied has one name."""
    named = [pair for part in model_parts for pair in part.named_parameters()]
    return [
        VocabularyMatrix(parameter, _num_old_here(parameter, num_old_rows))
        for name, parameter in named
        if name.endswith(MATRICES)
    ]


def _num_old_here(parameter: nn.Parameter, num_old_rows: int) -> int:
    first, num_rows = 0, parameter.shape[0]
    if isinstance(parameter, DTensor):
        shape, offset = compute_local_shape_and_global_offset(
            parameter.shape, parameter.device_mesh, parameter.placements
        )
        first, num_rows = offset[0], shape[0]
    return min(max(num_old_rows - first, 0), num_rows)


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
